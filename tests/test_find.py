"""What an archive is asked of a study, and what is made of each way to answer, or not to."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from socketserver import BaseServer
from typing import Any

import pytest
from pydicom import Dataset
from pynetdicom import AE, evt
from pynetdicom.dimse_primitives import C_FIND
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelFind as StudyRootFind,
)
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]
from pynetdicom.transport import ThreadedAssociationServer

from node.deliver.association import Peer
from node.deliver.find import count_by_series, count_instances, find_instances
from node.errors import DestinationUnreachableError, UnconfirmableError
from tests.instances import encode_dataset, write_instance
from tests.peers import LOOPBACK, free_ports
from tests.peers.orthanc import Orthanc, run_orthanc

# pynetdicom drops a socket that could not connect without closing it.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

STUDY = "1.2.3"
PENDING, CANNOT_PROCESS, NOT_NOW = 0xFF00, 0xC000, 0xA700
COUNT_BY_LEVEL = {"STUDY": "NumberOfStudyRelatedInstances", "SERIES": "NumberOfSeriesRelatedInstances"}

Answers = Iterator[tuple[int, Dataset | bytes | None]]
Handler = Callable[[evt.Event], Answers]


@contextmanager
def run_archive(handler: Handler, model: str = StudyRootFind, timeout_s: float = 5) -> Iterator[Peer]:
    """A query SCP whose every answer is the handler's."""
    entity = AE("PACS")
    entity.add_supported_context(model)
    (port,) = free_ports(1)
    handlers: list[Any] = [(evt.EVT_C_FIND, handler)]
    server = entity.make_server(
        (LOOPBACK, port), evt_handlers=handlers, server_class=ThreadedAssociationServer
    )
    threading.Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
    try:
        yield Peer(LOOPBACK, port, "PACS", timeout_s=timeout_s)
    finally:
        BaseServer.shutdown(server)
        server.server_close()


def match(**values: Any) -> Dataset:
    dataset = Dataset()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


def saying(*matches: Dataset) -> Handler:
    def answer(_event: evt.Event) -> Answers:
        yield from ((PENDING, one) for one in matches)

    return answer


def ending_with(status: int) -> Handler:
    def answer(_event: evt.Event) -> Answers:
        yield status, None

    return answer


# --- a real archive


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """An archive with a study of two series: of three instances, and of one."""
    folder = tmp_path_factory.mktemp("archive")
    with run_orthanc(folder / "orthanc", {}) as archive:
        for series, number in (("1.2.3.4", 1), ("1.2.3.4", 2), ("1.2.3.4", 3), ("1.2.3.5", 1)):
            uid = f"{series}.{number}"
            dataset = encode_dataset(uid, series_instance_uid=series)
            archive.upload(write_instance(folder / f"{uid}.dcm", dataset, sop_instance_uid=uid))
        yield archive


def peer_of(orthanc: Orthanc) -> Peer:
    return Peer(orthanc.host, orthanc.port, orthanc.ae_title, timeout_s=5)


def test_orthanc_tells_what_it_has_of_a_study(orthanc: Orthanc) -> None:
    peer = peer_of(orthanc)

    assert count_instances(peer, STUDY) == 4
    assert count_by_series(peer, STUDY) == {"1.2.3.4": 3, "1.2.3.5": 1}
    assert find_instances(peer, STUDY, "1.2.3.4") == {"1.2.3.4.1", "1.2.3.4.2", "1.2.3.4.3"}


def test_orthanc_says_nothing_of_a_study_that_it_has_not(orthanc: Orthanc) -> None:
    peer = peer_of(orthanc)

    assert count_instances(peer, "9.9") is None
    assert count_by_series(peer, "9.9") == {}
    assert find_instances(peer, "9.9", "9.9.1") == set()


# --- archives of every other kind


def test_each_question_is_asked_at_its_level_of_this_study_alone() -> None:
    asked: list[Dataset] = []

    def answer(event: evt.Event) -> Answers:
        asked.append(event.identifier)
        yield from ()

    with run_archive(answer) as peer:
        count_instances(peer, STUDY)
        count_by_series(peer, STUDY)
        find_instances(peer, STUDY, "1.2.3.4")

    assert [one.QueryRetrieveLevel for one in asked] == ["STUDY", "SERIES", "IMAGE"]
    assert {one.StudyInstanceUID for one in asked} == {STUDY}
    assert all(keyword in asked[number] for number, keyword in enumerate(COUNT_BY_LEVEL.values()))
    assert asked[2].SeriesInstanceUID == "1.2.3.4"


@pytest.mark.parametrize(
    "values", [{}, {"NumberOfStudyRelatedInstances": None}, {"NumberOfStudyRelatedInstances": -1}]
)
def test_an_archive_that_states_no_count_says_nothing(values: dict[str, Any]) -> None:
    with run_archive(saying(match(StudyInstanceUID=STUDY, **values))) as peer:
        assert count_instances(peer, STUDY) is None


def test_a_count_of_some_series_only_is_no_count() -> None:
    told = match(SeriesInstanceUID="1.2.3.4", NumberOfSeriesRelatedInstances=3)
    with run_archive(saying(told, match(SeriesInstanceUID="1.2.3.5"))) as peer:
        assert count_by_series(peer, STUDY) == {}


def test_what_is_told_of_other_studies_and_series_does_not_count() -> None:
    others = [
        match(StudyInstanceUID="9.9", NumberOfStudyRelatedInstances=900),
        match(StudyInstanceUID=STUDY, NumberOfStudyRelatedInstances=4),
    ]
    with run_archive(saying(*others)) as peer:
        assert count_instances(peer, STUDY) == 4
    others = [match(SeriesInstanceUID=uid, SOPInstanceUID=f"{uid}.1") for uid in ("1.2.3.4", "1.2.3.5")]
    with run_archive(saying(*others)) as peer:
        assert find_instances(peer, STUDY, "1.2.3.4") == {"1.2.3.4.1"}


def test_a_count_that_is_no_number_says_nothing() -> None:
    # NumberOfStudyRelatedInstances (0020,1208), IS in Implicit VR: what pydicom would not write.
    def answer(event: evt.Event) -> Answers:
        event.assoc.dimse.send_msg(
            broken(event, b"\x20\x00\x08\x12\x04\x00\x00\x00many"), event.context.context_id
        )
        yield from ()

    with run_archive(answer) as peer:
        assert count_instances(peer, STUDY) is None


@pytest.mark.parametrize("garbage", [b"\xff" * 40, b"\0"])
def test_a_match_that_is_no_data_set_says_nothing(garbage: bytes) -> None:
    def answer(event: evt.Event) -> Answers:
        event.assoc.dimse.send_msg(broken(event, garbage), event.context.context_id)
        yield from ()

    with run_archive(answer) as peer:
        assert count_instances(peer, STUDY) is None


def broken(event: evt.Event, identifier: bytes) -> Any:
    """A pending response with these bytes as its identifier."""
    response = C_FIND()
    response.MessageIDBeingRespondedTo = event.request.MessageID
    response.AffectedSOPClassUID = event.request.AffectedSOPClassUID
    response.Status = PENDING
    response.Identifier = BytesIO(identifier)
    return response


def test_an_archive_without_query_refuses_it() -> None:
    with run_archive(saying(), model=Verification) as peer, pytest.raises(UnconfirmableError):
        count_instances(peer, STUDY)


def test_an_archive_that_cannot_process_refuses_and_one_that_is_short_may_answer_later() -> None:
    with run_archive(ending_with(CANNOT_PROCESS)) as peer, pytest.raises(UnconfirmableError, match="0xC000"):
        count_instances(peer, STUDY)
    with (
        run_archive(ending_with(NOT_NOW)) as peer,
        pytest.raises(DestinationUnreachableError, match="0xA700"),
    ):
        count_instances(peer, STUDY)


def test_nobody_there_is_unreachable() -> None:
    (port,) = free_ports(1)

    with pytest.raises(DestinationUnreachableError):
        count_instances(Peer(LOOPBACK, port, "PACS", timeout_s=1), STUDY)


def test_an_archive_that_hangs_is_given_up_in_time() -> None:
    def hang(_event: evt.Event) -> Answers:
        time.sleep(1)
        yield PENDING, match(StudyInstanceUID=STUDY, NumberOfStudyRelatedInstances=4)

    with run_archive(hang, timeout_s=0.3) as peer:
        began = time.monotonic()
        with pytest.raises(DestinationUnreachableError, match="no answer"):
            count_instances(peer, STUDY)

    assert time.monotonic() - began < 3


def test_an_archive_that_never_comes_to_an_end_is_given_up() -> None:
    def trickle(event: evt.Event) -> Answers:
        while not event.assoc.is_aborted:
            time.sleep(0.1)
            yield PENDING, match(StudyInstanceUID=STUDY, NumberOfStudyRelatedInstances=4)

    with (
        run_archive(trickle, timeout_s=0.3) as peer,
        pytest.raises(DestinationUnreachableError, match="no end"),
    ):
        count_instances(peer, STUDY)


def test_an_archive_that_drops_the_line_has_not_answered(tmp_path: Path) -> None:
    def drop(event: evt.Event) -> Answers:
        yield PENDING, match(StudyInstanceUID=STUDY, NumberOfStudyRelatedInstances=4)
        event.assoc.abort()

    with run_archive(drop) as peer, pytest.raises(DestinationUnreachableError):
        count_instances(peer, STUDY)
