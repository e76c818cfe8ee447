"""What leaves over DICOM: the file's own bytes, and what each answer of a peer means for the sender."""

import hashlib
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from socketserver import BaseServer
from subprocess import Popen
from typing import Any

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import JPEGLosslessSV1
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]
from pynetdicom.transport import ThreadedAssociationServer
from structlog.testing import capture_logs

from node.deliver.association import Peer, echo
from node.deliver.dimse import DimseDestination, send_files
from node.deliver.summary import Answer, SentFile, answer_to
from node.domain.delivery import Receipt, Reception
from node.errors import DestinationUnreachableError
from node.header import read_file_meta
from tests.instances import CT, EXPLICIT, IMPLICIT, MR, encode_dataset, write_instance
from tests.peers import LOOPBACK, end_process, free_ports, need_program, wait_until
from tests.peers.archive import Recorder

# pynetdicom drops a socket that could not connect without closing it.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

TITLE = "ARCHIVE"
STORAGE_CLASSES = [str(context.abstract_syntax) for context in AllStoragePresentationContexts]


class Archive:
    """A storage SCP that answers as it is told; `answers` is asked with the number of the arrival."""

    def __init__(self) -> None:
        self.port = 0
        self.syntaxes: list[str] = []
        self.associations = 0
        self.answer: Callable[[evt.Event, int], Dataset | int] = lambda _event, _number: 0x0000
        self.arrived: list[Path] = []

    def destination(self, **changes: Any) -> DimseDestination:
        fields: dict[str, Any] = {"name": "pacs", "host": LOOPBACK, "port": self.port, "ae_title": TITLE}
        return DimseDestination(**fields | {"timeout_s": 5} | changes)

    @property
    def peer(self) -> Peer:
        return self.destination().peer

    def note_association(self, _event: evt.Event) -> None:
        self.associations += 1

    def store(self, event: evt.Event) -> Dataset | int:
        self.syntaxes.append(str(event.context.transfer_syntax))
        return self.answer(event, len(self.syntaxes))


@contextmanager
def run_archive(classes: list[str], syntaxes: list[str]) -> Iterator[Archive]:
    archive = Archive()
    entity = AE(TITLE)
    entity.require_called_aet = True
    entity.add_supported_context(Verification)
    for sop_class in classes:
        entity.add_supported_context(sop_class, syntaxes)
    handlers: list[Any] = [(evt.EVT_C_STORE, archive.store), (evt.EVT_ACCEPTED, archive.note_association)]
    server = entity.make_server((LOOPBACK, 0), evt_handlers=handlers, server_class=ThreadedAssociationServer)
    archive.port = server.server_address[1]
    threading.Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
    try:
        yield archive
    finally:
        BaseServer.shutdown(server)
        server.server_close()


@pytest.fixture
def archive() -> Iterator[Archive]:
    with run_archive([CT, MR], [EXPLICIT, IMPLICIT]) as running:
        yield running


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return [
        write_instance(
            tmp_path / f"{number}.dcm", encode_dataset(f"1.2.{number}"), sop_instance_uid=f"1.2.{number}"
        )
        for number in range(3)
    ]


def with_comment(status: int) -> Dataset:
    answer = Dataset()
    answer.Status, answer.ErrorComment = status, "because"
    return answer


# --- what is sent


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_a_peer_gets_the_bytes_of_the_file(recorder: Recorder, zoo: list[Path]) -> None:
    sent = [path for path in zoo if path.name.startswith(("ts_", "sr_", "seg_", "mf_", "pr_"))]
    peer = Peer(recorder.host, recorder.port, recorder.ae_title)

    summary = send_files(sent, peer)

    assert len(sent) > 30
    assert [file.reason for file in summary.failures] == []
    digests = {digest for each in recorder.digests_by_uid.values() for digest in each}
    assert digests == {dataset_sha256(path) for path in sent}


def dataset_sha256(path: Path) -> str:
    with path.open("rb") as file:
        read_file_meta(file)
        return hashlib.sha256(file.read()).hexdigest()


def test_a_batch_goes_over_one_association(archive: Archive, files: list[Path]) -> None:
    archive.destination().deliver(files)

    assert archive.syntaxes == [EXPLICIT] * 3
    assert archive.associations == 1


def test_a_peer_that_takes_implicit_vr_only_gets_it(files: list[Path]) -> None:
    with run_archive([CT], [IMPLICIT]) as archive:
        archive.destination().deliver(files)

    assert archive.syntaxes == [IMPLICIT] * 3


def test_a_file_without_meta_and_one_with_wrong_meta_are_sent_as_what_they_are(
    archive: Archive, tmp_path: Path
) -> None:
    uids = []
    archive.answer = lambda event, _number: uids.append(event.request.AffectedSOPInstanceUID) or 0x0000
    bare, wrong = tmp_path / "bare.dcm", tmp_path / "wrong.dcm"
    bare.write_bytes(encode_dataset("1.2.1"))
    write_instance(wrong, encode_dataset("1.2.2"), sop_instance_uid="9.9.9")

    archive.destination().deliver([bare, wrong])

    assert uids == ["1.2.1", "1.2.2"]


def test_more_contexts_than_one_association_holds_go_over_several(tmp_path: Path) -> None:
    paths = [
        write_instance(
            tmp_path / f"{number}.dcm", encode_dataset("1.2.3", sop_class_uid=uid), sop_class_uid=uid
        )
        for number, uid in enumerate(STORAGE_CLASSES[:100])
    ]
    with run_archive(STORAGE_CLASSES, [EXPLICIT, IMPLICIT]) as archive:
        summary = send_files(paths, archive.peer)

    assert summary.count_by_answer == {Answer.ACCEPTED: 100}
    assert archive.associations == 2


def test_no_answer_is_lost_to_the_reactor_of_pynetdicom(
    archive: Archive, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    get = DIMSEServiceProvider.get_msg

    def get_late(self: DIMSEServiceProvider, block: bool = False) -> Any:
        if block:
            # What a busy machine does now and then: the reactor looks before who waits for the answer.
            wait_until(lambda: not self.msg_queue.empty(), "answer")
            self.get_msg()
        return get(self, block)

    monkeypatch.setattr(DIMSEServiceProvider, "get_msg", get_late)

    archive.destination(timeout_s=1).deliver(files)

    assert archive.associations == 1
    assert len(archive.syntaxes) == 3


def test_dcmtk_storescp_takes_what_is_sent(files: list[Path], tmp_path: Path) -> None:
    program = need_program("storescp", "dcmtk")
    (port,) = free_ports(1)
    folder = tmp_path / "received"
    folder.mkdir()
    process: Popen[bytes]
    with ExitStack() as stack:
        process = stack.enter_context(Popen([program, "-od", str(folder), "-aet", TITLE, str(port)]))
        stack.callback(end_process, process)
        destination = DimseDestination(name="pacs", host=LOOPBACK, port=port, ae_title=TITLE, timeout_s=5)
        wait_until(lambda: answers(destination), "storescp")
        destination.deliver(files)

    received = {dcmread(path).SOPInstanceUID for path in folder.iterdir()}
    assert received == {"1.2.0", "1.2.1", "1.2.2"}


def answers(destination: DimseDestination) -> bool:
    try:
        destination.check()
    except DestinationUnreachableError:
        return False
    return True


# --- what the answer means


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (0x0000, Answer.ACCEPTED),
        (0x0001, Answer.WARNING),
        (0x0107, Answer.WARNING),
        (0x0110, Answer.BUSY),
        (0x0111, Answer.WARNING),
        (0x0122, Answer.REFUSED),
        (0x0124, Answer.REFUSED),
        (0xA6FF, Answer.REFUSED),
        (0xA700, Answer.BUSY),
        (0xA7FF, Answer.BUSY),
        (0xA900, Answer.REFUSED),
        (0xB000, Answer.WARNING),
        (0xB006, Answer.WARNING),
        (0xBFFF, Answer.WARNING),
        (0xC000, Answer.REFUSED),
        (0xCFFF, Answer.REFUSED),
        (0xFE00, Answer.REFUSED),
    ],
)
def test_each_status_has_its_meaning(status: int, answer: Answer) -> None:
    assert answer_to(status) is answer


def test_a_warning_is_an_acceptance_and_is_logged(archive: Archive, files: list[Path]) -> None:
    archive.answer = lambda _event, _number: with_comment(0xB006)

    with capture_logs() as logs:
        archive.destination().deliver(files[:1])

    assert [entry["event"] for entry in logs] == ["delivery_warned"]
    assert logs[0]["status"] == "0xB006"
    assert "because" not in str(logs), "the peer's words may be about a patient"


@pytest.mark.parametrize(
    ("status", "reception"),
    [
        (0xA700, Reception.POSTPONED),
        (0x0110, Reception.POSTPONED),
        (0xA900, Reception.REFUSED),
        (0xC123, Reception.REFUSED),
        (0x0122, Reception.REFUSED),
    ],
)
def test_each_object_has_its_own_receipt(
    archive: Archive, files: list[Path], status: int, reception: Reception
) -> None:
    archive.answer = lambda _event, number: with_comment(status) if number == 2 else 0x0000

    first, second, third = archive.destination().deliver(files)

    assert first == third == Receipt(Reception.ACCEPTED)
    assert second.reception is reception
    assert f"0x{status:04X}, because" in second.reason


def test_an_object_of_a_class_that_the_peer_does_not_take_is_refused(files: list[Path]) -> None:
    with run_archive([MR], [EXPLICIT]) as archive:
        receipts = archive.destination().deliver(files)

    assert not archive.syntaxes
    assert {receipt.reception for receipt in receipts} == {Reception.REFUSED}
    assert "CT Image Storage" in receipts[0].reason


def test_a_compressed_object_is_not_sent_to_who_cannot_read_it(archive: Archive, tmp_path: Path) -> None:
    path = write_instance(tmp_path / "a.dcm", encode_dataset(), transfer_syntax_uid=JPEGLosslessSV1)

    (receipt,) = archive.destination().deliver([path])

    assert receipt.reception is Reception.REFUSED
    assert "no presentation context" in receipt.reason


def test_what_is_no_dicom_file_is_refused_and_the_rest_is_sent(
    archive: Archive, files: list[Path], tmp_path: Path
) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not an image")
    told: list[SentFile] = []

    summary = send_files([text, *files], archive.peer, told.append)

    assert summary.count_by_answer == {Answer.UNREADABLE: 1, Answer.ACCEPTED: 3}
    assert [file.path for file in told] == [text, *files]
    assert [file.path for file in summary.failures] == [text]
    receptions = [receipt.reception for receipt in archive.destination().deliver([files[0], text, files[1]])]
    assert receptions == [Reception.ACCEPTED, Reception.REFUSED, Reception.ACCEPTED]


def test_nothing_is_delivered_without_an_association(archive: Archive) -> None:
    archive.destination().deliver([])

    assert archive.associations == 0


# --- when the line fails


def test_a_lost_answer_is_asked_for_once_more_on_a_new_association(
    archive: Archive, files: list[Path]
) -> None:
    def break_off_once(event: evt.Event, number: int) -> int:
        if number == 2:
            event.assoc.abort()
        return 0x0000

    archive.answer = break_off_once

    archive.destination().deliver(files)

    assert archive.associations == 2
    assert len(archive.syntaxes) == 4


def test_a_peer_that_breaks_off_each_time_is_not_asked_for_ever(archive: Archive, files: list[Path]) -> None:
    def break_off(event: evt.Event, _number: int) -> int:
        event.assoc.abort()
        return 0x0000

    archive.answer = break_off

    receipts = archive.destination().deliver(files)

    assert receipts == [Receipt(Reception.POSTPONED, "not answered, association lost")] * 3
    assert archive.associations == 4
    assert send_files(files, archive.peer).count_by_answer == {Answer.UNANSWERED: 3}


def test_a_peer_that_never_answers_is_left_after_the_time_allowed(
    archive: Archive, files: list[Path]
) -> None:
    go_on = threading.Event()

    def hang(_event: evt.Event, _number: int) -> int:
        go_on.wait(20)
        return 0x0000

    archive.answer = hang

    try:
        (receipt,) = archive.destination(timeout_s=0.3).deliver(files[:1])
    finally:
        go_on.set()

    assert receipt == Receipt(Reception.POSTPONED, "not answered, association lost")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"port": 1}, "cannot connect"),
        ({"ae_title": "NOBODY"}, "rejected: Called AE title not recogni[sz]ed"),
        ({"host": "no-such-host.invalid"}, "no-such-host"),
    ],
    ids=["port", "title", "host"],
)
def test_a_peer_that_is_not_there_is_told_in_words(
    archive: Archive, files: list[Path], changes: dict[str, Any], words: str
) -> None:
    destination = archive.destination(**changes)

    receipts = destination.deliver(files)
    with pytest.raises(DestinationUnreachableError, match=words) as failure:
        destination.check()

    assert failure.value.destination == "pacs"
    assert [receipt.reception for receipt in receipts] == [Reception.POSTPONED] * 3
    assert re.search(words, receipts[0].reason)


def test_a_peer_that_is_there_passes_the_check(archive: Archive) -> None:
    archive.destination().check()
    echo(archive.peer)
