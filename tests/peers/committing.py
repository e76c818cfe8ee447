"""An archive with storage commitment that reports as it is told: at once, late, partly, elsewhere, never."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from socketserver import BaseServer
from typing import Any

from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, AllStoragePresentationContexts, build_context, build_role, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
    Verification,
)
from pynetdicom.transport import ThreadedAssociationServer

from tests.peers import LOOPBACK

TITLE = "KEEPER"
SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]


class Keeper:
    """What it was sent and asked, and how it answers."""

    def __init__(self) -> None:
        self.port = 0
        self.stored: list[str] = []
        self.requests: list[Dataset] = []
        self.statuses: list[int] = []
        # Where it reports: on the association it was asked on ("same"), or by its own to a port; None: never.
        self.reports_to: int | str | None = "same"
        self.failed: dict[str, int] = {}
        self.request_status = 0x0000
        self.store_status = 0x0000
        self.breaks_off = False
        self.answers_after_s = 0.0
        self.holds = threading.Event()
        self.holds.set()

    def store(self, event: evt.Event) -> int:
        """Take one C-STORE."""
        self.holds.wait(20)
        if self.breaks_off:
            event.assoc.abort()
            return 0x0000
        if self.store_status in (0x0000, 0xB000):
            self.stored.append(str(event.request.AffectedSOPInstanceUID))
        return self.store_status

    def ask(self, event: evt.Event) -> tuple[int, None]:
        """Take one N-ACTION."""
        self.requests.append(event.action_information)
        time.sleep(self.answers_after_s)
        if self.request_status == 0x0000 and self.reports_to == "same":
            threading.Thread(target=self._report_there, args=(event.assoc,), daemon=True).start()
        if self.request_status == 0x0000 and isinstance(self.reports_to, int):
            threading.Thread(target=self.report, args=(self.reports_to,), daemon=True).start()
        return self.request_status, None

    def report(self, port: int, transaction_uid: str = "") -> None:
        """Report on the last request by an association of its own, as provider."""
        entity = AE(TITLE)
        role = build_role(StorageCommitmentPushModel, scp_role=True)
        contexts = [build_context(StorageCommitmentPushModel)]
        association = entity.associate(LOOPBACK, port, contexts, "SIGHTLINE", ext_neg=[role])
        assert association.is_established, "the node takes no report"
        self._send(association, transaction_uid)
        association.release()

    def _report_there(self, association: Any) -> None:
        time.sleep(0.05)
        with suppress(RuntimeError, ValueError):  # who asked may be dead by now
            self._send(association)

    def _send(self, association: Any, transaction_uid: str = "") -> None:
        request = self.requests[-1]
        report = Dataset()
        report.TransactionUID = transaction_uid or request.TransactionUID
        items = list(request.ReferencedSOPSequence)
        report.ReferencedSOPSequence = [
            one for one in items if one.ReferencedSOPInstanceUID not in self.failed
        ]
        failed = [one for one in items if one.ReferencedSOPInstanceUID in self.failed]
        for item in failed:
            item.FailureReason = self.failed[item.ReferencedSOPInstanceUID]
        if failed:
            report.FailedSOPSequence = failed
        status, _ = association.send_n_event_report(
            report, 2 if failed else 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
        )
        self.statuses.append(int(status.get("Status", -1)))


@contextmanager
def run_keeper(*, is_able: bool = True) -> Iterator[Keeper]:
    """Listen on loopback until the end of the block; one that is not able has no storage commitment."""
    keeper = Keeper()
    entity = AE(TITLE)
    entity.add_supported_context(Verification)
    if is_able:
        entity.add_supported_context(StorageCommitmentPushModel)
    for context in AllStoragePresentationContexts:
        entity.add_supported_context(context.abstract_syntax, SYNTAXES)
    handlers: list[Any] = [(evt.EVT_C_STORE, keeper.store), (evt.EVT_N_ACTION, keeper.ask)]
    server = entity.make_server((LOOPBACK, 0), evt_handlers=handlers, server_class=ThreadedAssociationServer)
    keeper.port = server.server_address[1]
    threading.Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
    try:
        yield keeper
    finally:
        keeper.holds.set()
        BaseServer.shutdown(server)
        server.server_close()
