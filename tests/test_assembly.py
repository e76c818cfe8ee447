"""When a study is complete, and on what evidence."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from node.assembly import ASKED_FOR, COUNT, FULL, QUIET, RELEASED, Assembler, Evidence, Patience
from node.assembly.evidence import Answer, Look, find_evidence
from node.domain.study import Instance
from node.errors import DestinationUnreachableError
from node.index import Index, OpenStudy, sqlite_url
from node.receive.folder import store_file
from node.storage import Storage, Watermark
from tests.peers import wait_until
from tests.sources import write_ct_series
from tests.test_index import STUDY, instance, objects, run

PATIENCE = Patience(settle_s=1.0, quiet_s=10.0, longest_s=120.0)
FOR_EVER = Patience(settle_s=0.0, quiet_s=3600.0, longest_s=3600.0)
RECEIVED_AT = 1000.0


def study(*modalities: str, is_retry: bool = False) -> OpenStudy:
    return OpenStudy(STUDY, RECEIVED_AT, 0, is_retry, frozenset(modalities))


def look(*modalities: str, quiet_s: float = 0.0, is_released: bool = False, **archive: object) -> Look:
    return Look(study(*modalities), quiet_s, is_released, **archive)  # type: ignore[arg-type]


def evidence(look: Look, here: int = 80, full: str | None = None) -> Evidence | None:
    return find_evidence(look, PATIENCE, count_here=lambda: here, find_full=lambda: full)


def said(
    count: int | None, *, asked_at: float = RECEIVED_AT + 1, is_steady: bool = False
) -> dict[str, object]:
    return {"has_archive": True, "answer": Answer("pacs", count, asked_at, is_steady)}


@pytest.mark.parametrize(
    ("modalities", "is_released", "quiet_s", "kind"),
    [
        (["DX"], True, 0.0, RELEASED),
        (["CR", "DX"], True, 0.0, RELEASED),
        (["DX"], False, 9.9, None),
        (["DX"], False, 10.0, QUIET),
        (["CT"], True, 0.0, None),
        (["CT"], True, 10.0, QUIET),
        (["DX", "CT"], True, 0.0, None),
    ],
)
def test_evidence_by_modality_release_and_quiet(
    modalities: list[str], is_released: bool, quiet_s: float, kind: str | None
) -> None:
    found = evidence(look(*modalities, quiet_s=quiet_s, is_released=is_released))

    assert (found.kind if found else None) == kind


def test_a_retry_waits_for_nothing() -> None:
    asked_for = Look(study("CT", is_retry=True), 0.0, is_released=False, has_archive=True)

    assert evidence(asked_for) == Evidence(ASKED_FOR)


def test_a_full_series_is_complete_soon_after_its_release_alone() -> None:
    assert evidence(look("CT", quiet_s=1.0, is_released=True), full="1–80") == Evidence(FULL, "1–80")
    assert evidence(look("CT", quiet_s=0.9, is_released=True), full="1–80") is None
    assert evidence(look("CT", quiet_s=1.0), full="1–80") is None


def test_a_radiograph_does_not_wait_for_the_archive() -> None:
    assert evidence(look("DX", is_released=True, has_archive=True)) == Evidence(RELEASED)


def test_all_that_the_archive_has_is_complete_at_once() -> None:
    found = evidence(look("CT", is_released=True, **said(80)))

    assert found == Evidence(COUNT, "80/80 from pacs")
    assert str(found) == "expected_count 80/80 from pacs"


def test_without_a_release_the_archive_must_have_said_so_twice() -> None:
    assert evidence(look("CT", **said(80))) is None
    assert evidence(look("CT", **said(80, is_steady=True))) == Evidence(COUNT, "80/80 from pacs")


def test_what_the_archive_said_before_the_last_instance_is_asked_again() -> None:
    assert evidence(look("CT", is_released=True, **said(80, asked_at=RECEIVED_AT - 1))) is None


def test_more_in_the_archive_is_waited_for_to_a_bound_and_beats_other_evidence() -> None:
    waiting = evidence(look("CT", quiet_s=119.0, is_released=True, **said(120)), full="1–80")
    given_up = evidence(look("CT", quiet_s=120.0, is_released=True, **said(120)), full="1–80")

    assert waiting is None
    assert given_up == Evidence(QUIET, "120 s with 80/120 from pacs")


@pytest.mark.parametrize("count", [None, 3], ids=["silent", "behind"])
def test_an_archive_that_knows_less_leaves_it_to_the_next_evidence(count: int | None) -> None:
    assert evidence(look("CT", quiet_s=1.0, is_released=True, **said(count)), full="1–80") == Evidence(
        FULL, "1–80"
    )
    assert evidence(look("CT", quiet_s=10.0, **said(count))) == Evidence(QUIET, "10 s")


def test_the_first_answer_is_waited_for_but_not_for_ever() -> None:
    asking = {"is_released": True, "has_archive": True}

    assert evidence(look("CT", quiet_s=2.0, **asking), full="1–80") is None
    assert evidence(look("CT", quiet_s=10.0, **asking), full="1–80") == Evidence(FULL, "1–80")


# --- the watch over the index


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    index = Index(sqlite_url(tmp_path / "index.sqlite"))
    yield index
    index.close()


class Told:
    """What an assembler told of, and an end to each study like the workflow's."""

    def __init__(self, index: Index) -> None:
        self.evidence: list[tuple[str, Evidence]] = []
        self._index = index

    def __call__(self, study: OpenStudy, evidence: Evidence) -> None:
        self.evidence.append((study.study_instance_uid, evidence))
        self._index.queue_study(study, "job", str(evidence))


def release(assembler: Assembler, *uids: str) -> None:
    assembler.note_end(frozenset(uids), is_released=True)


def test_a_released_radiograph_is_told_of_and_a_growing_stack_is_not(index: Index) -> None:
    index.record_instance(instance("1.1", modality="DX"))
    index.record_instance(instance("2.1", modality="CT", study="9.9"))
    told = Told(index)
    assembler = Assembler(index, PATIENCE, told)

    release(assembler, STUDY, "9.9")
    assembler.assemble()

    assert told.evidence == [(STUDY, Evidence(RELEASED))]


def test_a_release_before_the_last_instance_is_none(index: Index) -> None:
    told = Told(index)
    assembler = Assembler(index, PATIENCE, told)
    index.record_instance(instance("1.1", modality="DX"))
    release(assembler, STUDY)
    index.record_instance(instance("1.2", modality="DX"))

    assembler.assemble()

    assert told.evidence == []


def test_a_radiograph_starts_within_a_second_of_its_release(index: Index) -> None:
    told = Told(index)
    assembler = Assembler(index, PATIENCE, told)
    assembler.start()
    index.record_instance(instance("1.1", modality="DX"))

    released_at = time.monotonic()
    release(assembler, STUDY)
    wait_until(lambda: told.evidence, "the study is told of", 5, 0.005)
    waited_s = time.monotonic() - released_at
    assembler.stop()

    assert waited_s < 1.0


def test_the_watch_survives_a_round_that_fails(index: Index) -> None:
    index.record_instance(instance("1.1", modality="DX"))
    told: list[str] = []

    def fail_once(study: OpenStudy, evidence: Evidence) -> None:
        told.append(evidence.kind)
        if len(told) == 1:
            raise RuntimeError("first round")
        index.queue_study(study, "job", str(evidence))

    assembler = Assembler(index, Patience(0, 0, 0), fail_once)
    assembler.start()
    release(assembler, STUDY)
    wait_until(lambda: len(told) > 1, "the second round", 5)
    assembler.stop()

    # The first round may come before the release, in it, or after it.
    assert told in ([RELEASED, RELEASED], [QUIET, QUIET], [QUIET, RELEASED])


class Periods:
    shortest_s = 0.0

    def period_s(self, study_instance_uid: str) -> float:
        return {STUDY: 3600.0}.get(study_instance_uid, 0.0)


def test_a_route_has_a_quiet_period_of_its_own(index: Index) -> None:
    index.record_instance(instance("1.1", modality="CT"))
    index.record_instance(instance("2.1", modality="CT", study="9.9"))
    told = Told(index)

    Assembler(index, PATIENCE, told, quiet=Periods()).assemble()

    assert told.evidence == [("9.9", Evidence(QUIET, "0 s"))]


# --- stacks on disk


@pytest.fixture
def stack(tmp_path: Path) -> list[Instance]:
    storage = Storage(tmp_path / "data", Watermark(100, 0))
    written = write_ct_series(tmp_path)
    return [store_file(path, storage).instance for path in written.paths]


def at_once(index: Index, told: Told, **options: object) -> Assembler:
    return Assembler(index, FOR_EVER, told, **options)  # type: ignore[arg-type]


def test_a_released_stack_without_a_gap_is_complete_before_its_quiet_time(
    index: Index, stack: list[Instance]
) -> None:
    told = Told(index)
    assembler = at_once(index, told)
    for one in stack:
        index.record_instance(one)

    release(assembler, stack[0].study_instance_uid)
    assembler.assemble()

    assert [found for _, found in told.evidence] == [Evidence(FULL, f"1–{len(stack)}")]


def test_a_stack_that_lacks_a_slice_in_between_waits_and_is_complete_with_it(
    index: Index, stack: list[Instance]
) -> None:
    told = Told(index)
    assembler = at_once(index, told)
    *rest, last = [stack[0], *stack[2:], stack[1]]
    for one in rest:
        index.record_instance(one)
    release(assembler, last.study_instance_uid)
    assembler.assemble()
    assert told.evidence == []

    index.record_instance(last)
    release(assembler, last.study_instance_uid)
    assembler.assemble()

    assert [found.kind for _, found in told.evidence] == [FULL]


def test_an_association_that_was_aborted_is_no_evidence(index: Index, stack: list[Instance]) -> None:
    told = Told(index)
    assembler = at_once(index, told)
    for one in stack:
        index.record_instance(one)

    release(assembler, stack[0].study_instance_uid)
    assembler.note_end(frozenset({stack[0].study_instance_uid}), is_released=False)
    assembler.assemble()

    assert told.evidence == []


# --- an archive that is asked


class FakeArchive:
    """Says what it is told to; an error is raised."""

    name = "pacs"

    def __init__(self, *counts: dict[str, int] | Exception | None, total: int | None = None) -> None:
        self.counts = list(counts)
        self.total = total
        self.asked = 0

    def count_by_series(self, study_instance_uid: str) -> dict[str, int]:
        self.asked += 1
        answer = self.counts[min(self.asked, len(self.counts)) - 1]
        if isinstance(answer, Exception):
            raise answer
        return answer or {}

    def count_instances(self, study_instance_uid: str) -> int | None:
        return self.total


Ask = Callable[..., Told]


@pytest.fixture
def ask(index: Index) -> Iterator[Ask]:
    """Watches a released CT of two instances beside an archive."""
    running: list[Assembler] = []

    def start(archive: FakeArchive, patience: Patience = FOR_EVER) -> Told:
        told = Told(index)
        assembler = Assembler(index, patience, told, archive=archive)
        running.append(assembler)
        for uid in ("1.1", "1.2"):
            index.record_instance(instance(uid, modality="CT"))
        release(assembler, STUDY)
        assembler.start()
        return told

    yield start
    for one in running:
        one.stop()


def test_all_instances_of_the_archive_are_complete_at_once(ask: Ask, index: Index) -> None:
    told = ask(FakeArchive({"s": 2}))

    wait_until(lambda: told.evidence, "the study is told of", 2, 0.01)

    assert told.evidence == [(STUDY, Evidence(COUNT, "2/2 from pacs"))]
    (event,) = index.events(STUDY)
    assert (event["event"], event["fields"]) == ("count_answered", {"count": 2, "archive": "pacs"})


def test_an_archive_that_still_grows_is_waited_for(ask: Ask, index: Index) -> None:
    told = ask(FakeArchive({"s": 3}, {"s": 4}))
    wait_until(lambda: len(index.events(STUDY)) == 2, "it was asked twice", 5)
    assert told.evidence == []

    for uid in ("1.3", "1.4"):
        index.record_instance(instance(uid, modality="CT"))

    wait_until(lambda: told.evidence, "the study is told of", 5)
    assert told.evidence == [(STUDY, Evidence(COUNT, "4/4 from pacs"))]


def test_our_results_in_the_archive_are_not_waited_for(ask: Ask, index: Index) -> None:
    index.record_run(run())
    index.record_objects("r1", objects("5.1"))

    told = ask(FakeArchive({"s": 2, "5": 1}))

    wait_until(lambda: told.evidence, "the study is told of", 2, 0.01)
    assert told.evidence == [(STUDY, Evidence(COUNT, "2/2 from pacs"))]


def test_an_archive_that_knows_the_study_alone_is_believed_until_results_of_ours_are_in_it(
    ask: Ask, index: Index
) -> None:
    told = ask(FakeArchive(None, total=2))
    wait_until(lambda: told.evidence, "the study is told of", 2, 0.01)
    assert told.evidence == [(STUDY, Evidence(COUNT, "2/2 from pacs"))]

    index.record_run(run())
    index.record_objects("r1", objects("5.1"))
    index.record_instance(instance("1.3", modality="CT"))

    wait_until(lambda: index.events(STUDY)[-1]["fields"]["count"] is None, "it is not believed", 5)


def test_an_archive_that_fails_is_left_in_peace_and_not_waited_for(ask: Ask) -> None:
    archive = FakeArchive(DestinationUnreachableError("pacs", "no answer"))
    told = ask(archive, Patience(0.0, 0.5, 3600.0))

    wait_until(lambda: told.evidence, "the study is told of", 5, 0.01)

    assert told.evidence == [(STUDY, Evidence(QUIET, "0.5 s"))]
    assert archive.asked == 1


def test_many_open_studies_do_not_overrun_the_archive(ask: Ask, index: Index) -> None:
    for number in range(40):
        index.record_instance(instance(f"8.{number}", modality="CT", study=f"8.{number}"), time.time() - 1)
    archive = FakeArchive({"s": 9})

    ask(archive)
    time.sleep(1.0)

    assert 3 < archive.asked <= 21


def test_an_archive_that_hangs_does_not_hold_up_others(ask: Ask, index: Index) -> None:
    class Hanging(FakeArchive):
        def count_by_series(self, study_instance_uid: str) -> dict[str, int]:
            time.sleep(2)
            return {}

    told = ask(Hanging())
    index.record_instance(instance("7.1", modality="CT", study="9.9"))
    index.reopen_study("9.9")

    wait_until(lambda: told.evidence, "the other study is told of", 1.5, 0.01)
    assert told.evidence == [("9.9", Evidence(ASKED_FOR))]
