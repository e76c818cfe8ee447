"""What waits for each destination: its order, its tries, its dead letters; and none waits for another."""

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from node.backoff import FIRST_RETRY_S, LONGEST_RETRY_S, retry_delay_s
from node.deliver import outbox
from node.deliver.outbox import Outlet
from node.domain.delivery import Receipt, Reception
from node.index import DELIVERED, UNDELIVERABLE, WITHDRAWN, Index, sqlite_url
from tests.destinations import FakeDestination
from tests.peers import wait_until
from tests.posts import STUDY, Post, only

LOST = Receipt(Reception.POSTPONED, "cannot connect")


@pytest.fixture
def post(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Post]:
    monkeypatch.setattr(outbox, "retry_delay_s", lambda attempt: 0.02 * attempt)
    post = Post(tmp_path)
    yield post
    post.close()
    post.index.close()


# --- sending


def test_what_waits_goes_out_stat_first_and_then_by_age(post: Post) -> None:
    destination = FakeDestination()
    post.add("r1", "1.1", priority="routine")
    post.add("r2", "1.2", priority="urgent")
    post.add("r3", "1.3", priority="stat")
    post.add("r4", "1.4", priority="stat")
    post.add("r0", "1.0", priority="routine")

    post.open(only(destination))

    post.wait_for(dict.fromkeys(["1.1", "1.2", "1.3", "1.4", "1.0"], DELIVERED))
    assert [path.stem for path in destination.taken] == ["1.3", "1.4", "1.2", "1.1", "1.0"]
    assert destination.calls == 1, "what waits goes over one association"


def test_an_archive_that_is_away_gets_everything_in_order_once_it_is_back(post: Post) -> None:
    destination = FakeDestination(receipts=[LOST, LOST])
    post.add("r1", "1.1", "1.2")

    post.open(only(destination))

    post.wait_for({"1.1": DELIVERED, "1.2": DELIVERED})
    assert destination.calls == 3
    assert [path.stem for path in destination.taken] == ["1.1", "1.2"]
    wait_until(lambda: post.index.line("pacs")["failures"] == 0, "all is well again", 5, 0.01)
    assert post.index.line("pacs")["last_error"] == ""


def test_what_is_new_does_not_overtake_what_waits_for_an_archive_that_is_away(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "retry_delay_s", lambda _attempt: 0.3)
    destination = FakeDestination(receipts=[LOST])
    post.add("r1", "1.1")
    post.open(only(destination))
    wait_until(lambda: destination.calls == 1, "the first try", 5, 0.01)

    post.add("r2", "1.2")
    post.outbox.wake()
    time.sleep(0.1)
    calls = destination.calls

    post.wait_for({"1.1": DELIVERED, "1.2": DELIVERED})
    assert calls == 1, "an archive that is away is left alone for a while"
    assert [path.stem for path in destination.taken] == ["1.1", "1.2"]


def test_after_the_last_try_an_object_is_a_dead_letter_with_the_reason(post: Post) -> None:
    post.add("r1", "1.1")

    post.open(only(FakeDestination(receipts=[LOST] * 3)))

    post.wait_for({"1.1": UNDELIVERABLE})
    (row,) = post.rows()
    assert row["detail"] == "gave up after 3 attempts: cannot connect"


def test_one_refused_object_holds_no_other_up(post: Post) -> None:
    class Choosy(FakeDestination):
        def deliver(self, paths: Sequence[Path]) -> list[Receipt]:
            super().deliver(paths)
            refused, accepted = Receipt(Reception.REFUSED, "no such class"), Receipt(Reception.ACCEPTED)
            return [refused if path.stem == "1.2" else accepted for path in paths]

    post.add("r1", "1.1", "1.2", "1.3")

    post.open(only(Choosy()))

    post.wait_for({"1.1": DELIVERED, "1.2": UNDELIVERABLE, "1.3": DELIVERED})
    assert [row["detail"] for row in post.rows()] == ["", "no such class", ""]
    story = {event["event"]: event["fields"] for event in post.index.events(STUDY)}
    assert story["objects_delivered"] == {"destination": "pacs", "objects": 2}
    assert story["objects_undeliverable"] == {"destination": "pacs", "objects": 1}


def test_a_dead_letter_is_sent_when_asked_for(post: Post) -> None:
    destination = FakeDestination(receipts=[Receipt(Reception.REFUSED, "no such class")])
    post.add("r1", "1.1")
    post.open(only(destination))
    post.wait_for({"1.1": UNDELIVERABLE})

    assert post.index.retry_deliveries("pacs", ["9.9"]) == 0
    assert post.index.retry_deliveries("pacs", [STUDY]) == 1

    post.wait_for({"1.1": DELIVERED})


def test_a_paused_destination_gets_nothing_until_it_may(post: Post) -> None:
    destination = FakeDestination()
    post.index.record_line("pacs", is_paused=True)
    post.add("r1", "1.1")
    post.open(only(destination))
    time.sleep(0.2)
    before = destination.calls

    post.index.record_line("pacs", is_paused=False)

    post.wait_for({"1.1": DELIVERED})
    assert before == 0


def test_a_command_from_another_process_is_noticed_within_a_second(post: Post) -> None:
    post.add("r1", "1.1")
    post.index.record_line("pacs", blocked_until=time.time() + 3600)
    destination = FakeDestination()
    post.open(only(destination))
    time.sleep(0.2)
    assert destination.calls == 0

    other = Index(sqlite_url(post.folder / "index.sqlite"))
    other.retry_deliveries("pacs")
    other.close()

    wait_until(lambda: destination.calls == 1, "the node noticed", 1, 0.01)


def test_results_that_are_superseded_before_they_went_out_are_not_sent(post: Post) -> None:
    destination = FakeDestination()
    post.add("r1", "1.1", subject="image", planned_at="2026-01-01")
    post.add("r2", "1.2", subject="image", planned_at="2026-01-02")
    post.add("other", "1.3", subject="other image", planned_at="2026-01-01")

    post.open(only(destination))

    post.wait_for({"1.1": WITHDRAWN, "1.2": DELIVERED, "1.3": DELIVERED})
    assert [path.stem for path in destination.taken] == ["1.2", "1.3"]


def test_what_an_archive_has_is_not_withdrawn(post: Post) -> None:
    post.add("r1", "1.1", subject="image", planned_at="2026-01-01")
    post.open(only(FakeDestination()))
    post.wait_for({"1.1": DELIVERED})

    post.add("r2", "1.2", subject="image", planned_at="2026-01-02")

    post.wait_for({"1.1": DELIVERED, "1.2": DELIVERED})


def test_an_outbox_that_breaks_goes_on(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(FakeDestination):
        def deliver(self, paths: Sequence[Path]) -> list[Receipt]:
            if not self.calls:
                self.calls += 1
                raise ZeroDivisionError
            return super().deliver(paths)

    monkeypatch.setattr(outbox, "FIRST_RETRY_S", 0.02)
    post.add("r1", "1.1")

    post.open(only(Broken()))

    post.wait_for({"1.1": DELIVERED})


# --- none waits for another


class Hanging(FakeDestination):
    """Gives no answer until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = threading.Event()

    def deliver(self, paths: Sequence[Path]) -> list[Receipt]:
        self.go_on.wait(20)
        return super().deliver(paths)


def test_a_destination_that_hangs_delays_no_other(post: Post) -> None:
    hanging, good = Hanging(), FakeDestination()
    post.open({"slow": Outlet(hanging, 3), "pacs": Outlet(good, 3)})
    try:
        for number in range(5):
            post.add(f"r{number}", f"1.{number}", to=("slow", "pacs"))
            post.outbox.wake()
            wait_until(lambda: len(good.taken) == number + 1, "the good one", 1, 0.005)  # noqa: B023
        assert hanging.taken == []
    finally:
        hanging.go_on.set()

    post.wait_for({f"1.{number}": DELIVERED for number in range(5)}, "slow")


def test_waits_grow_are_bounded_and_differ() -> None:
    waits = [[retry_delay_s(attempt) for _ in range(50)] for attempt in (1, 4, 300)]

    for attempt, drawn in zip((1, 4, 300), waits, strict=True):
        longest = min(LONGEST_RETRY_S, FIRST_RETRY_S * 2.0 ** min(attempt - 1, 16))
        assert longest / 2 <= min(drawn) < max(drawn) <= longest
