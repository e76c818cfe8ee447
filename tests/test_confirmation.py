"""Delivered is not confirmed: by a report that comes at once, late, partly or never, or by looking."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from node.account import describe_study
from node.deliver import confirmation, outbox
from node.deliver.confirmation import note_report
from node.domain.delivery import CommitmentReport, Reference
from node.errors import DestinationUnreachableError, UnconfirmableError
from node.index import CONFIRMED, DELIVERED, PENDING, UNDELIVERABLE, Index, sqlite_url
from tests.destinations import FakeDestination
from tests.peers import wait_until
from tests.posts import STUDY, Post, only


@pytest.fixture
def post(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Post]:
    monkeypatch.setattr(outbox, "retry_delay_s", lambda attempt: 0.02 * attempt)
    monkeypatch.setattr(confirmation, "retry_delay_s", lambda attempt: 0.02 * attempt)
    monkeypatch.setattr(confirmation, "QUESTIONS_AFTER_S", (0.01, 0.02, 0.03))
    post = Post(tmp_path)
    yield post
    post.close()
    post.index.close()


class Committing(FakeDestination):
    """Takes requests for storage commitment, and remembers them."""

    def __init__(self, **fields: object) -> None:
        super().__init__(**fields)
        self.asked: list[tuple[str, list[str]]] = []
        self.answer: Callable[[str, list[str]], CommitmentReport | None] = lambda _uid, _uids: None
        self.fault: Exception | None = None

    def ask_commitment(
        self, objects: Sequence[Reference], transaction_uid: str, *, on_report, has_answered
    ) -> None:
        uids = [one.sop_instance_uid for one in objects]
        self.asked.append((transaction_uid, uids))
        if self.fault:
            raise self.fault
        if report := self.answer(transaction_uid, uids):
            assert on_report(report)
            assert has_answered()


def kept(transaction_uid: str, uids: list[str]) -> CommitmentReport:
    return CommitmentReport(transaction_uid, frozenset(uids), {})


def test_a_report_on_the_same_association_confirms(post: Post) -> None:
    destination = Committing()
    destination.answer = kept
    post.add("r1", "1.1", "1.2")

    post.open(only(destination, "commitment"))

    post.wait_for({"1.1": CONFIRMED, "1.2": CONFIRMED})
    assert [uids for _, uids in destination.asked] == [["1.1", "1.2"]]
    story = [event["event"] for event in post.index.events(STUDY)]
    assert story == ["objects_delivered", "objects_confirmed"]


def test_a_report_that_comes_late_and_after_a_restart_confirms(post: Post) -> None:
    destination = Committing()
    post.add("r1", "1.1")
    post.open(only(destination, "commitment"))
    wait_until(lambda: bool(destination.asked), "it was asked", 5, 0.01)
    ((transaction_uid, uids),) = destination.asked
    wait_until(lambda: post.index.transaction(transaction_uid)["is_accepted"], "noted", 5, 0.01)
    post.close()
    post.index.close()

    post.index = Index(sqlite_url(post.folder / "index.sqlite"))
    post.open(only(destination, "commitment"))

    assert post.states() == {"1.1": DELIVERED}
    assert note_report(post.index, kept(transaction_uid, uids))
    assert post.states() == {"1.1": CONFIRMED}
    assert len(destination.asked) == 1


def test_a_report_of_an_unknown_transaction_changes_nothing(post: Post) -> None:
    post.add("r1", "1.1")

    assert not note_report(post.index, kept("9.9.9", ["1.1"]))
    assert post.states() == {"1.1": PENDING}


@pytest.mark.parametrize(
    ("reason", "state", "times"), [(0x0112, CONFIRMED, 2), (0x0110, CONFIRMED, 2), (0x0122, UNDELIVERABLE, 1)]
)
def test_what_a_report_names_as_failed_is_sent_again_or_given_up(
    post: Post, reason: int, state: str, times: int
) -> None:
    destination = Committing()
    reports: list[CommitmentReport] = []

    def fail_once(transaction_uid: str, uids: list[str]) -> CommitmentReport:
        failed = {"1.2": reason} if not reports else {}
        reports.append(CommitmentReport(transaction_uid, frozenset(set(uids) - failed.keys()), failed))
        return reports[-1]

    destination.answer = fail_once
    post.add("r1", "1.1", "1.2")

    post.open(only(destination, "commitment"))

    post.wait_for({"1.1": CONFIRMED, "1.2": state})
    assert [path.stem for path in destination.taken].count("1.2") == times
    assert [path.stem for path in destination.taken].count("1.1") == 1
    assert state == CONFIRMED or "0x0122" in post.rows()[1]["detail"]


def test_where_no_report_comes_in_time_the_archive_is_asked_what_it_holds(post: Post) -> None:
    destination = Committing()
    post.add("r1", "1.1")

    post.open(only(destination, "commitment", timeout_s=0.1))

    post.wait_for({"1.1": CONFIRMED})
    assert post.rows()[0]["detail"] == "found"
    assert destination.calls == 1


def test_a_late_report_still_counts_when_the_archive_was_asked_meanwhile(post: Post) -> None:
    destination = Committing(is_searchable=False)
    post.add("r1", "1.1")
    post.open(only(destination, "commitment", timeout_s=0.05))
    wait_until(lambda: "cannot be confirmed" in post.rows()[0]["detail"], "it was asked", 5, 0.01)
    ((transaction_uid, uids),) = destination.asked

    assert note_report(post.index, kept(transaction_uid, uids))

    assert post.states() == {"1.1": CONFIRMED}


@pytest.mark.parametrize(
    "fault", [UnconfirmableError("pacs", "none"), DestinationUnreachableError("pacs", "association lost")]
)
def test_an_archive_without_storage_commitment_is_asked_what_it_holds(post: Post, fault: Exception) -> None:
    destination = Committing()
    destination.fault = fault
    post.add("r1", "1.1")

    post.open(only(destination, "commitment"))

    post.wait_for({"1.1": CONFIRMED})
    assert post.rows()[0]["detail"] == "found"


def test_what_the_archive_does_not_find_is_sent_again(post: Post) -> None:
    class Forgetful(FakeDestination):
        def confirm(self, objects: Sequence[Reference]) -> frozenset[str]:
            self.lost = {"1.2"} if self.calls == 1 else set()
            return super().confirm(objects)

    destination = Forgetful()
    post.add("r1", "1.1", "1.2")

    post.open(only(destination, "query"))

    post.wait_for({"1.1": CONFIRMED, "1.2": CONFIRMED})
    assert [path.stem for path in destination.taken] == ["1.1", "1.2", "1.2"]


def test_what_is_never_found_is_a_dead_letter_in_the_end(post: Post) -> None:
    post.add("r1", "1.1")

    post.open(only(FakeDestination(lost={"1.1"}), "query"))

    post.wait_for({"1.1": UNDELIVERABLE})
    assert "not found in the archive" in post.rows()[0]["detail"]


def test_an_archive_that_can_say_nothing_leaves_the_object_delivered_and_not_confirmed(post: Post) -> None:
    post.add("r1", "1.1")

    post.open(only(FakeDestination(is_searchable=False), "query"))

    wait_until(lambda: post.rows()[0]["detail"] != "", "it was asked", 5, 0.01)
    (row,) = post.rows()
    assert (row["state"], row["due_at"]) == (DELIVERED, None)
    assert row["detail"] == "cannot be confirmed: pacs: takes no C-FIND"


def test_the_account_tells_delivered_from_confirmed(post: Post) -> None:
    post.receive()
    post.add("r1", "1.1", "1.2")
    post.index.record_delivery(["1.1"], "pacs", DELIVERED, due_at=1.0, confirm_by="commitment")
    post.index.record_delivery(["1.2"], "pacs", CONFIRMED, "committed")

    study = describe_study(post.index, STUDY)

    (run,) = study["runs"]
    assert study["state"] == "confirming"
    assert study["unconfirmed"] == [{"destination": "pacs", "detail": "no word of it yet"}]
    objects = {item["sop_instance_uid"]: item for item in run["objects"]}
    assert [objects[uid]["delivered_to"] for uid in ("1.1", "1.2")] == [["pacs"], ["pacs"]]
    assert [objects[uid]["confirmed_by"] for uid in ("1.1", "1.2")] == [[], ["pacs"]]
