"""A storage SCP that remembers every object it was sent, byte by byte, and can be told to stall."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pydicom.uid import UID
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from tests.peers import LOOPBACK, free_ports

AE_TITLE = "RECORDER"
SUCCESS = 0x0000


class Recorder:
    """What arrived: for each SOP Instance UID the digest of the data set, once per arrival."""

    def __init__(self, port: int) -> None:
        self.ae_title = AE_TITLE
        self.host = LOOPBACK
        self.port = port
        self.digests_by_uid: dict[str, list[str]] = {}
        self.sop_class_by_uid: dict[str, str] = {}
        self.stalls_after: int | None = None
        self.is_stalled = threading.Event()
        self._go_on = threading.Event()
        self._lock = threading.Lock()

    @property
    def arrivals(self) -> int:
        """How many objects were sent to it, repetitions included."""
        return sum(map(len, self.digests_by_uid.values()))

    def release(self) -> None:
        """Answer what it was stalling on."""
        self.stalls_after = None
        self._go_on.set()

    def store(self, event: evt.Event) -> int:
        """Take one C-STORE; the object counts as arrived even where the answer never gets out."""
        digest = hashlib.sha256(event.request.DataSet.getvalue()).hexdigest()
        uid: UID = event.request.AffectedSOPInstanceUID
        with self._lock:
            self.digests_by_uid.setdefault(uid, []).append(digest)
            self.sop_class_by_uid[uid] = event.request.AffectedSOPClassUID
            stalls = self.stalls_after is not None and self.arrivals > self.stalls_after
        if stalls:
            self.is_stalled.set()
            self._go_on.wait(120)
        return SUCCESS


@contextmanager
def run_recorder() -> Iterator[Recorder]:
    """Listen on loopback until the end of the block."""
    (port,) = free_ports(1)
    recorder = Recorder(port)
    ae = AE(AE_TITLE)
    ae.add_supported_context(Verification)
    for context in AllStoragePresentationContexts:
        ae.add_supported_context(context.abstract_syntax, ALL_TRANSFER_SYNTAXES)
    server = ae.start_server((LOOPBACK, port), block=False, evt_handlers=[(evt.EVT_C_STORE, recorder.store)])
    try:
        yield recorder
    finally:
        recorder.release()
        server.shutdown()
