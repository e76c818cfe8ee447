"""Sending and taking objects as pynetdicom's guide shows it: the peer's way out, and where both ways end."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydicom.dataset import Dataset
from pynetdicom import AE, StoragePresentationContexts, build_context, evt

AE_TITLE = "BENCH"
SUCCESS = 0x0000


@contextmanager
def running_store(folder: Path) -> Iterator[int]:
    """Yield the port of an archive that keeps what it is sent in a folder; it ends with the block."""
    taken = 0

    def keep(event: evt.Event) -> int:
        nonlocal taken
        taken += 1
        (folder / f"{taken}.dcm").write_bytes(event.encoded_dataset())
        return SUCCESS

    entity = AE(AE_TITLE)
    entity.supported_contexts = StoragePresentationContexts
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, keep)])
    if server is None or server.socket is None:
        raise RuntimeError("no port to listen at")
    try:
        yield server.socket.getsockname()[1]
    finally:
        server.shutdown()


def send_plainly(datasets: Sequence[Dataset], port: int) -> None:
    """Send data sets over one association; raises RuntimeError where one was not taken."""
    entity = AE("PEER")
    for dataset in datasets:
        syntax = dataset.file_meta.TransferSyntaxUID
        entity.requested_contexts = [*entity.requested_contexts, build_context(dataset.SOPClassUID, syntax)]
    association = entity.associate("127.0.0.1", port, ae_title=AE_TITLE)
    for dataset in datasets:
        if association.send_c_store(dataset).get("Status") != SUCCESS:
            raise RuntimeError("an object was not taken")
    association.release()
