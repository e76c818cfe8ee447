"""Storage commitment over the wire: archives that keep our results, and senders whose images we keep."""

import random
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from subprocess import PIPE, Popen

import pytest
import sqlalchemy as sa
from pydicom import Dataset
from pynetdicom import AE, build_context, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
)
from structlog.testing import capture_logs

from node.deliver import confirmation, outbox
from node.deliver.association import Peer
from node.deliver.commitment import ReportSender
from node.deliver.confirmation import Confirmation, note_report
from node.deliver.dimse import DimseDestination
from node.deliver.outbox import Outlet
from node.errors import DestinationUnreachableError
from node.index import CONFIRMED, DELIVERED, PENDING, UNDELIVERABLE, Json
from node.index.tables import COMMITMENTS, PROMISES
from node.receive import commitment
from node.receive.commitment import CommitmentDesk, CommitmentReporter
from node.receive.dimse import DimseListener, Extras
from node.receive.folder import store_file
from node.receive.settings import DimseListenerSettings
from node.storage import Storage
from tests.doors import ANY_DISK
from tests.instances import CT, encode_dataset, write_instance
from tests.peers import LOOPBACK, REPOSITORY, wait_until
from tests.peers.committing import TITLE, Keeper, run_keeper
from tests.peers.orthanc import run_orthanc
from tests.posts import Post

# pynetdicom drops a socket that could not connect without closing it.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

MODALITY = "CT_ROOM_1"


class Desk(Post):
    """An outbox, and beside it the listener where reports and requests come in."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.storage = Storage(folder / "data", ANY_DISK)
        self.addresses: dict[str, int] = {}
        desk = CommitmentDesk(self.index, [MODALITY], partial(note_report, self.index))
        self.listener = DimseListener(
            DimseListenerSettings(port=0, drain_timeout_s=5, read_timeout_s=5),
            self.storage,
            on_stored=lambda stored: self.index.record_instance(stored.instance),
            on_refused=lambda _title, _status: None,
            on_release=lambda _studies, *, ended: None,
            extras=Extras(commitment=desk),
        )
        self.listener.start()
        self.reporter: CommitmentReporter | None = None

    def report_owed(self, grace_s: float = 0.1) -> None:
        """Begin to work off what is owed, as a node does at its start."""
        peers = {title: Peer(LOOPBACK, port, title, timeout_s=2) for title, port in self.addresses.items()}
        self.reporter = CommitmentReporter(self.index, [MODALITY], ReportSender(peers), grace_s)
        self.reporter.start()

    def send_to(self, keeper: Keeper, method: str = "commitment", timeout_s: float = 30.0) -> None:
        self.open({"pacs": outlet("pacs", keeper, method, timeout_s)})

    def close(self) -> None:
        super().close()
        if self.reporter:
            self.reporter.end()
        self.listener.stop()


def outlet(
    name: str, keeper: Keeper, method: str = "none", timeout_s: float = 30.0, answer_s: float = 3.0
) -> Outlet:
    destination = DimseDestination(
        name=name, host=LOOPBACK, port=keeper.port, ae_title=TITLE, timeout_s=answer_s
    )
    return Outlet(destination, 300, Confirmation(method, timeout_s))


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    for module in (outbox, confirmation, commitment):
        monkeypatch.setattr(module, "retry_delay_s", lambda attempt: 0.02 * attempt)
    monkeypatch.setattr(confirmation, "QUESTIONS_AFTER_S", (0.01, 0.02, 0.03))
    monkeypatch.setattr(commitment, "POLL_S", 0.02)
    desk = Desk(tmp_path)
    yield desk
    desk.close()
    desk.index.close()


@pytest.fixture
def keeper() -> Iterator[Keeper]:
    with run_keeper() as running:
        yield running


# --- archives that keep our results


def test_an_archive_that_reports_on_the_same_association(desk: Desk, keeper: Keeper) -> None:
    desk.add("r1", "1.1", "1.2")

    desk.send_to(keeper)

    desk.wait_for({"1.1": CONFIRMED, "1.2": CONFIRMED})
    wait_until(lambda: keeper.statuses == [0x0000], "its report is answered")
    assert len(keeper.requests) == 1


def test_an_archive_that_reports_on_an_association_of_its_own(desk: Desk, keeper: Keeper) -> None:
    keeper.reports_to = desk.listener.port
    desk.add("r1", "1.1", "1.2")

    desk.send_to(keeper)

    desk.wait_for({"1.1": CONFIRMED, "1.2": CONFIRMED})
    wait_until(lambda: keeper.statuses == [0x0000], "its report is answered")


def test_an_archive_that_reports_late(desk: Desk, keeper: Keeper) -> None:
    keeper.reports_to = None
    desk.add("r1", "1.1")
    desk.send_to(keeper)
    wait_until(lambda: bool(keeper.requests), "it was asked")
    before = desk.states()

    keeper.report(desk.listener.port)

    desk.wait_for({"1.1": CONFIRMED})
    assert before == {"1.1": DELIVERED}
    assert keeper.statuses == [0x0000]


def test_an_archive_that_kept_a_part(desk: Desk, keeper: Keeper) -> None:
    keeper.failed = {"1.2": 0x0112, "1.3": 0x0122}
    desk.add("r1", "1.1", "1.2", "1.3")
    desk.send_to(keeper)
    wait_until(lambda: keeper.statuses == [0x0000], "its report is answered")

    keeper.failed = {}

    desk.wait_for({"1.1": CONFIRMED, "1.2": CONFIRMED, "1.3": UNDELIVERABLE})
    assert keeper.stored.count("1.2") >= 2
    assert (keeper.stored.count("1.1"), keeper.stored.count("1.3")) == (1, 1)


def test_a_report_that_nobody_asked_for_is_refused(desk: Desk, keeper: Keeper) -> None:
    keeper.reports_to = None
    desk.add("r1", "1.1")
    desk.send_to(keeper)
    wait_until(lambda: bool(keeper.requests), "it was asked")

    keeper.report(desk.listener.port, transaction_uid="1.2.3.4.5")

    assert keeper.statuses == [0x0115]
    assert desk.states() == {"1.1": DELIVERED}


def test_an_archive_that_hangs_when_it_is_asked_delays_what_is_new_by_its_timeout_only(
    desk: Desk, keeper: Keeper
) -> None:
    keeper.answers_after_s, keeper.reports_to = 2.0, None
    desk.add("r1", "1.1")
    desk.open({"pacs": outlet("pacs", keeper, "commitment", answer_s=0.5)})
    wait_until(lambda: bool(keeper.requests), "it was asked")

    desk.add("r2", "1.2")

    wait_until(lambda: keeper.stored == ["1.1", "1.2"], "the new one", 5, 0.01)
    wait_until(lambda: "cannot be confirmed" in desk.rows()[0]["detail"], "all was tried", 30, 0.01)


def test_an_archive_without_storage_commitment_is_asked_what_it_holds(desk: Desk, tmp_path: Path) -> None:
    with run_orthanc(tmp_path / "orthanc", {}) as orthanc:
        # It takes the request and refuses it: it has no address of the node.
        archive = DimseDestination(
            name="pacs", host=LOOPBACK, port=orthanc.port, ae_title=orthanc.ae_title, timeout_s=20
        )
        desk.add("r1", "1.1", "1.2")

        desk.open({"pacs": Outlet(archive, 300, Confirmation("commitment", 30))})

        wait_until(lambda: set(desk.states().values()) == {CONFIRMED}, "found", 30)
        assert {row["detail"] for row in desk.rows()} == {"found"}
        assert orthanc.arrivals() == 2


@pytest.mark.parametrize("way", ["unable", "refuses"])
def test_an_archive_that_can_tell_nothing_leaves_it_delivered_and_not_confirmed(desk: Desk, way: str) -> None:
    with run_keeper(is_able=way != "unable") as keeper:
        keeper.request_status = 0x0122
        desk.add("r1", "1.1")

        desk.send_to(keeper)

        wait_until(lambda: "cannot be confirmed" in desk.rows()[0]["detail"], "all was tried", 10, 0.01)
    assert desk.states() == {"1.1": DELIVERED}


def test_four_archives_that_fail_each_in_its_way_delay_no_fifth(desk: Desk) -> None:
    names = ("hangs", "refuses", "warns", "drops", "good")
    with ExitStack() as stack:
        keepers = {name: stack.enter_context(run_keeper()) for name in names}
        keepers["hangs"].holds.clear()
        keepers["refuses"].store_status = 0xA900
        keepers["warns"].store_status = 0xB000
        keepers["drops"].breaks_off = True
        desk.open({name: outlet(name, keeper) for name, keeper in keepers.items()})

        for number in range(5):
            desk.add(f"r{number}", f"1.{number}", to=names)
            desk.outbox.wake()
            wait_until(lambda: len(keepers["good"].stored) == number + 1, "the good one", 2, 0.005)  # noqa: B023

        assert set(desk.states("good").values()) <= {DELIVERED, PENDING}
        assert set(desk.states("hangs").values()) == {PENDING}
        assert set(desk.states("drops").values()) == {PENDING}
        everywhere = [f"1.{number}" for number in range(5)]
        desk.wait_for(dict.fromkeys(everywhere, UNDELIVERABLE), "refuses")
        desk.wait_for(dict.fromkeys(everywhere, DELIVERED), "warns")
        keepers["drops"].breaks_off = False
        keepers["hangs"].holds.set()
        desk.wait_for(dict.fromkeys(everywhere, DELIVERED), "drops")


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 12))])
def test_an_outbox_that_is_killed_at_any_moment_loses_nothing(desk: Desk, keeper: Keeper, seed: int) -> None:
    moments = random.Random(seed)  # noqa: S311 - a failing seed can be run again
    uids = [f"1.{number}" for number in range(40)]
    for number in range(10):
        desk.add(f"r{number}", *uids[4 * number : 4 * number + 4])

    for _ in range(3):
        with postman(desk, keeper) as process:
            time.sleep(moments.uniform(0, 0.5))
            process.kill()
    with postman(desk, keeper):
        wait_until(lambda: set(desk.states().values()) == {CONFIRMED}, "all is confirmed", 30, 0.05)

    assert set(keeper.stored) == set(uids)


@contextmanager
def postman(desk: Desk, keeper: Keeper) -> Iterator[Popen[str]]:
    program = [
        sys.executable,
        "-m",
        "tests.peers.postman",
        str(desk.folder / "index.sqlite"),
        str(keeper.port),
        TITLE,
    ]
    with Popen(program, stdout=PIPE, text=True, cwd=REPOSITORY) as process:
        try:
            assert process.stdout.readline() == "open\n"
            yield process
        finally:
            process.kill()


# --- senders whose images we keep


class Modality:
    """A sender that asks, and hears the report on a port of its own."""

    def __init__(self) -> None:
        self.port = 0
        self.reports: list[tuple[int, Dataset]] = []
        self.status = 0x0000

    def hear(self, event: evt.Event) -> tuple[int, None]:
        self.reports.append((event.event_type, event.event_information))
        return self.status, None

    def ask(
        self, port: int, *instances: tuple[str, str], transaction_uid: str = "1.2.9", title: str = MODALITY
    ) -> int:
        request = Dataset()
        request.TransactionUID = transaction_uid
        request.ReferencedSOPSequence = [_item(*one) for one in instances]
        association = AE(title).associate(
            LOOPBACK, port, [build_context(StorageCommitmentPushModel)], "SIGHTLINE"
        )
        assert association.is_established
        model, instance = StorageCommitmentPushModel, StorageCommitmentPushModelInstance
        status, _ = association.send_n_action(request, 1, model, instance)
        association.release()
        return int(status.Status)


def _item(sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class_uid
    item.ReferencedSOPInstanceUID = sop_instance_uid
    return item


@contextmanager
def run_modality(port: int = 0) -> Iterator[Modality]:
    modality = Modality()
    entity = AE(MODALITY)
    entity.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)
    server = entity.start_server(
        (LOOPBACK, port), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, modality.hear)]
    )
    modality.port = server.socket.getsockname()[1]
    try:
        yield modality
    finally:
        server.shutdown()


@pytest.fixture
def modality(desk: Desk) -> Iterator[Modality]:
    with run_modality() as running:
        desk.addresses[MODALITY] = running.port
        yield running


def keep(desk: Desk, uid: str) -> Path:
    path = write_instance(desk.folder / f"{uid}.dcm", encode_dataset(uid), sop_instance_uid=uid)
    instance = store_file(path, desk.storage).instance
    desk.index.record_instance(instance)
    return instance.path


def told(modality: Modality) -> tuple[set[str], dict[str, int]]:
    """What the only report says: kept, and failed with the reason."""
    wait_until(lambda: bool(modality.reports), "the report")
    ((kind, report),) = modality.reports
    failed = {
        str(one.ReferencedSOPInstanceUID): int(one.FailureReason)
        for one in report.get("FailedSOPSequence", [])
    }
    assert kind == (2 if failed else 1)
    return {str(one.ReferencedSOPInstanceUID) for one in report.get("ReferencedSOPSequence", [])}, failed


def test_who_sent_images_is_told_that_they_are_kept(desk: Desk, modality: Modality) -> None:
    desk.report_owed()
    keep(desk, "1.5.1")
    keep(desk, "1.5.2")

    assert modality.ask(desk.listener.port, (CT, "1.5.1"), (CT, "1.5.2")) == 0x0000

    assert told(modality) == ({"1.5.1", "1.5.2"}, {})
    assert str(modality.reports[0][1].TransactionUID) == "1.2.9"


def test_what_a_sender_is_told_of_counts_as_promised_before(desk: Desk) -> None:
    promised: list[set[str]] = []
    keep(desk, "1.5.1")
    keep(desk, "1.5.2").unlink()

    def send(_request: Json, _instances: object, reasons: dict[str, int]) -> None:
        with desk.index.connection() as connection:
            promised.append(set(connection.execute(sa.select(PROMISES.c.study_instance_uid)).scalars()))
        assert reasons == {"1.5.2": 0x0112}

    desk.index.record_commitment("1.2.9", MODALITY, "SIGHTLINE", [(CT, "1.5.1"), (CT, "1.5.2")])
    reporter = CommitmentReporter(desk.index, [MODALITY], send, grace_s=0)
    reporter.start()
    wait_until(lambda: desk.index.owed_commitments() == 0, "it is told", 5, 0.01)
    reporter.end()

    assert promised == [{"1.2.3"}]


def test_what_is_not_kept_as_it_was_named_is_told_one_by_one(desk: Desk, modality: Modality) -> None:
    desk.report_owed()
    keep(desk, "1.5.1")
    keep(desk, "1.5.2").unlink()
    keep(desk, "1.5.3")

    instances = [(CT, "1.5.1"), (CT, "1.5.2"), ("1.2.840.10008.5.1.4.1.1.4", "1.5.3"), (CT, "1.5.4")]
    assert modality.ask(desk.listener.port, *instances) == 0x0000

    assert told(modality) == ({"1.5.1"}, {"1.5.2": 0x0112, "1.5.3": 0x0119, "1.5.4": 0x0112})


def test_an_image_that_comes_a_moment_after_the_request_counts(desk: Desk, modality: Modality) -> None:
    desk.report_owed(grace_s=5)
    assert modality.ask(desk.listener.port, (CT, "1.5.1")) == 0x0000
    assert not modality.reports

    keep(desk, "1.5.1")

    assert told(modality) == ({"1.5.1"}, {})


def test_a_report_is_owed_until_it_is_heard_even_after_a_restart(desk: Desk) -> None:
    keep(desk, "1.5.1")
    with run_modality() as modality:
        assert modality.ask(desk.listener.port, (CT, "1.5.1")) == 0x0000
        port = desk.addresses[MODALITY] = modality.port
    desk.report_owed()
    wait_until(lambda: _attempts(desk) > 1, "some tries", 10, 0.01)
    desk.reporter.end()
    desk.reporter.join()
    # A try that was under way finds nobody either.
    time.sleep(0.2)

    desk.report_owed()
    with run_modality(port) as modality:
        assert told(modality) == ({"1.5.1"}, {})
    wait_until(lambda: desk.index.owed_commitments() == 0, "nothing is owed", 5, 0.01)


def _attempts(desk: Desk) -> int:
    with desk.index.connection() as connection:
        return connection.execute(sa.select(COMMITMENTS.c.attempts)).scalar_one()


def test_who_cannot_be_told_is_refused_at_once(desk: Desk, modality: Modality) -> None:
    assert modality.ask(desk.listener.port, (CT, "1.5.1"), title="STRANGER") == 0x0124
    assert desk.index.owed_commitments() == 0


def test_a_transaction_stands_for_one_request(desk: Desk, modality: Modality) -> None:
    asked = [
        modality.ask(desk.listener.port, (CT, "1.5.1")),
        modality.ask(desk.listener.port, (CT, "1.5.1")),
        modality.ask(desk.listener.port, (CT, "1.5.2")),
        modality.ask(desk.listener.port),
    ]

    assert asked == [0x0000, 0x0000, 0x0115, 0x0115]
    assert desk.index.owed_commitments() == 1


def test_a_peer_that_does_not_answer_keeps_no_other_waiting_however_much_it_is_owed(desk: Desk) -> None:
    told: list[str] = []
    is_over = threading.Event()

    def send(request: Json, _instances: object, _reasons: object) -> None:
        if request["ae_title"] == "DEAD":
            is_over.wait(10)
            raise DestinationUnreachableError("DEAD", "cannot connect")
        told.append(request["transaction_uid"])

    for number in range(101):
        desk.index.record_commitment(f"1.2.{number}", "DEAD", "SIGHTLINE", [(CT, "1.5.1")])
    reporter = CommitmentReporter(desk.index, ["DEAD", MODALITY], send, grace_s=0)
    reporter.start()
    time.sleep(0.1)

    desk.index.record_commitment("1.2.9", MODALITY, "SIGHTLINE", [(CT, "1.5.1")])

    wait_until(lambda: told == ["1.2.9"], "the other is told", 5, 0.01)
    reporter.end()
    is_over.set()


def test_of_a_request_that_is_done_with_nothing_is_left(desk: Desk, modality: Modality) -> None:
    asked = [modality.ask(desk.listener.port, (CT, "1.5.1"))]
    desk.index.record_commitment("1.2.10", "GONE", "SIGHTLINE", [(CT, "1.5.1")])

    with capture_logs() as logs:
        desk.report_owed()
        wait_until(lambda: desk.index.owed_commitments() == 0, "nothing is owed", 5, 0.01)

    (given_up,) = (one for one in logs if one["event"] == "commitment_report_given_up")
    assert (given_up["ae_title"], given_up["reason"]) == ("GONE", "no address of this peer")
    asked.append(modality.ask(desk.listener.port, (CT, "1.5.2")))
    wait_until(lambda: len(modality.reports) == 2, "both are told", 5, 0.01)
    assert asked == [0x0000, 0x0000]


def test_several_peers_ask_at_once(desk: Desk, modality: Modality) -> None:
    desk.report_owed()
    keep(desk, "1.5.1")
    uids = [f"1.2.{number}" for number in range(1, 6)]
    ask = partial(modality.ask, desk.listener.port, (CT, "1.5.1"))
    asks = [threading.Thread(target=ask, kwargs={"transaction_uid": uid}) for uid in uids]

    for one in asks:
        one.start()
    for one in asks:
        one.join()

    wait_until(lambda: len(modality.reports) == 5, "all reports")
    assert {str(report.TransactionUID) for _, report in modality.reports} == set(uids)
