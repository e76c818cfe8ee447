"""A DIMSE listener on a free port, and a peer for it that sends what it is told to."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from pydicom import Dataset
from pynetdicom import AE, build_context
from pynetdicom.association import Association
from xxhash import xxh3_128

from node.deliver.association import Peer
from node.header import read_file_meta
from node.receive.dimse import DimseListener, Extras
from node.receive.settings import DimseListenerSettings
from node.storage import Storage, Stored, Watermark
from tests.instances import CT, EXPLICIT
from tests.peers import LOOPBACK, wait_until

ANY_DISK = Watermark(used_percent=100, free_bytes=0)
SIGHTLINE = "SIGHTLINE"


class Door:
    """A listener on a free port, and all that it told."""

    def __init__(self, storage: Storage, settings: dict[str, Any]) -> None:
        self.storage = storage
        self.stored: list[Stored] = []
        self.refused: list[tuple[str, int]] = []
        self.released: list[tuple[frozenset[str], str]] = []
        self.refuses_to_note = False
        extras: Extras | None = settings.pop("extras", None)
        limits: dict[str, Any] = {"port": 0, "drain_timeout_s": 5, "read_timeout_s": 5}
        self.listener = DimseListener(
            DimseListenerSettings(**limits | settings),
            storage,
            on_stored=self._note,
            on_refused=lambda called, status: self.refused.append((called, status)),
            on_release=lambda studies, *, ended: self.released.append((studies, ended)),
            extras=extras,
        )
        self.listener.start()

    @property
    def port(self) -> int:
        return self.listener.port

    def peer(self, called: str = SIGHTLINE, calling: str = "MODALITY") -> Peer:
        return Peer(LOOPBACK, self.port, called, calling, timeout_s=10)

    def ended(self) -> str:
        """How the association that comes to its end first came to it."""
        return wait_until(lambda: self.released, "end of association")[0][1]

    def _note(self, stored: Stored) -> None:
        if self.refuses_to_note:
            raise KeyError(stored.instance.digest)
        self.stored.append(stored)


OpenDoor = Callable[..., Door]


@contextmanager
def opening(folder: Path) -> Iterator[OpenDoor]:
    """Opens doors over a spool in this folder; all are closed at the end of the block."""
    with ExitStack() as stack:

        def open_one(storage: Storage | None = None, **settings: Any) -> Door:
            door = Door(storage or Storage(folder / "data", ANY_DISK), settings)
            stack.callback(door.listener.stop)
            return door

        yield open_one


@contextmanager
def associated(
    door: Door, contexts: Sequence[tuple[str, list[str]]], called: str = SIGHTLINE
) -> Iterator[Association]:
    """An association of stock pynetdicom, which sends what it is told to."""
    entity = AE("MODALITY")
    entity.acse_timeout = entity.dimse_timeout = 10
    wanted = [build_context(uid, syntaxes) for uid, syntaxes in contexts]
    association = entity.associate(LOOPBACK, door.port, wanted, called)
    try:
        yield association
    finally:
        if association.is_established:
            association.release()


def store_raw(door: Door, path: Path, sop_class: str = CT, called: str = SIGHTLINE) -> Dataset:
    """C-STORE a file under the UIDs of its file meta, true or not; the answer."""
    with associated(door, [(sop_class, [EXPLICIT])], called) as association:
        assert association.is_established
        return association.send_c_store(path)


def dataset_digest(path: Path) -> str:
    with path.open("rb") as file:
        read_file_meta(file)
        return xxh3_128(file.read()).hexdigest()
