"""What leaves, and when: finished studies by age, outcome and a full disk, and never one that is needed."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from node.index import CONFIRMED, DELIVERED, PENDING, UNDELIVERABLE, FinishedStudy
from node.index.states import PURGING
from node.reindex import add_unknown
from node.retention import Caretaker, Retention
from node.settings import RetentionSettings
from node.storage import Storage, Watermark
from node.telemetry import Metrics
from tests.doors import ANY_DISK
from tests.finished import Archive, open_archive
from tests.peers import wait_until

STUDY, OTHER = "1.2.3", "1.2.4"


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    archive = open_archive(tmp_path / "data")
    with closing(archive.index):
        yield archive


def purge(archive: Archive, **rules: Any) -> list[str]:
    """The studies that leave by these rules."""
    retention = Retention(archive.index, archive.storage, RetentionSettings(**rules))
    return [one.study.study_instance_uid for one in retention.purge()]


def test_an_old_study_leaves_with_all_that_belongs_to_it_and_a_young_one_stays(archive: Archive) -> None:
    archive.finish(STUDY, days_ago=31)
    archive.finish(OTHER, days_ago=29)
    archive.index.record_event(STUDY, "study_assembled", {})

    with capture_logs() as logs:
        assert purge(archive, days=30) == [STUDY]

    assert not [path for path in archive.files() if STUDY in path.name or "1-2-3" in path.name]
    assert len([path for path in archive.files() if path.is_file()]) == 2
    assert archive.index.study(STUDY) is None
    assert archive.index.runs(f"job-{STUDY}") == []
    assert archive.index.events(STUDY) == []
    assert archive.index.study_uids() == [OTHER]
    assert {path.parts[-3] for path in archive.index.paths()} == {OTHER}
    (told,) = (one for one in logs if one["event"] == "study_purged")
    assert (told["study_instance_uid"], told["reason"], told["outcome"]) == (STUDY, "age", "findings")
    assert add_unknown(archive.index, archive.storage).added == 0


def leave_open(archive: Archive) -> None:
    archive.store(STUDY, days_ago=99)


def ask_again(archive: Archive) -> None:
    archive.finish(STUDY, days_ago=99)
    archive.index.reopen_study(STUDY)


def leave_under_way(archive: Archive) -> None:
    archive.store(STUDY, days_ago=99)
    archive.read(STUDY, is_finished=False)


def delivered_as(state: str, **columns: Any) -> Callable[[Archive], None]:
    def prepare(archive: Archive) -> None:
        archive.finish(STUDY, days_ago=99)
        archive.deliver(STUDY, state, days_ago=99, **columns)

    return prepare


def delivered_lately(archive: Archive) -> None:
    archive.finish(STUDY, days_ago=99)
    archive.deliver(STUDY, days_ago=1)


@pytest.mark.parametrize(
    "prepare",
    [
        leave_open,
        ask_again,
        leave_under_way,
        delivered_as(PENDING, due_at=0.0),
        delivered_as(DELIVERED, due_at=0.0),
        delivered_as(UNDELIVERABLE),
        delivered_lately,
    ],
    ids=["open", "asked for", "under way", "pending", "unconfirmed", "undeliverable", "lately"],
)
def test_a_study_that_is_needed_stays_however_old(
    archive: Archive, prepare: Callable[[Archive], None]
) -> None:
    prepare(archive)
    before = archive.files()

    assert purge(archive, days=30) == []

    assert archive.files() == before


def test_a_study_that_was_confirmed_or_cancelled_leaves(archive: Archive) -> None:
    archive.finish(STUDY, days_ago=31)
    archive.deliver(STUDY, CONFIRMED, days_ago=31)
    archive.store(OTHER, days_ago=32)
    archive.index.cancel_study(OTHER)

    assert purge(archive, days=30) == [OTHER, STUDY]


def test_each_outcome_may_have_its_own_days_and_none_is_for_ever(archive: Archive) -> None:
    for number, outcome in enumerate(["findings", "no_findings", "failed", "not_eligible"], start=1):
        archive.finish(f"1.2.{number}", days_ago=40 + number, outcome=outcome)

    assert purge(archive) == []
    assert purge(archive, days=0, days_by_outcome={"no_findings": 30.0, "failed": 365.0}) == ["1.2.2"]
    assert purge(archive, days=10, days_by_outcome={"failed": 0.0}) == ["1.2.4", "1.2.1"]
    assert archive.index.study_uids() == ["1.2.3"]


def interrupted(folder: Path, what: Callable[[int], None]) -> Storage:
    """A spool that does something the first time it is synced."""
    calls: list[int] = []

    def sync(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 1:
            what(descriptor)

    return Storage(folder, ANY_DISK, sync=sync)


def test_what_is_cut_off_in_the_middle_goes_on(archive: Archive) -> None:
    def die(_descriptor: int) -> None:
        raise KeyboardInterrupt

    archive.finish(STUDY, days_ago=31)
    dying = Archive(interrupted(archive.storage.root, die), archive.index)
    with pytest.raises(KeyboardInterrupt):
        purge(dying, days=30)
    study = archive.index.study(STUDY)
    assert study is not None
    assert study["state"] == PURGING
    assert add_unknown(archive.index, archive.storage).added == 0

    assert purge(archive) == [STUDY]

    assert archive.files() == []
    assert archive.index.study(STUDY) is None


def test_an_instance_that_comes_meanwhile_stays_and_is_read(archive: Archive) -> None:
    archive.finish(STUDY, days_ago=31)

    def receive(_descriptor: int) -> None:
        archive.store(STUDY, number=2)

    purge(Archive(interrupted(archive.storage.root, receive), archive.index), days=30)

    (late,) = archive.index.instances(STUDY)
    assert late.path.exists()
    assert [one.study_instance_uid for one in archive.index.open_studies()] == [STUDY]
    assert archive.index.paths() == archive.storage.instance_paths()


def test_an_instance_that_comes_just_before_anything_is_removed_stays(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.finish(STUDY, days_ago=31)
    begin = archive.index.begin_purge

    def begin_and_receive(study: FinishedStudy) -> bool:
        return begin(study) and archive.store(STUDY, number=2).path.exists()

    monkeypatch.setattr(archive.index, "begin_purge", begin_and_receive)
    assert purge(archive, days=30) == []

    assert [one.sop_instance_uid for one in archive.index.instances(STUDY)] == [
        f"{STUDY}.1.1",
        f"{STUDY}.1.2",
    ]
    assert archive.index.paths() == archive.storage.instance_paths()
    assert [one.study_instance_uid for one in archive.index.open_studies()] == [STUDY]


def test_a_result_that_comes_back_meanwhile_leaves_too(archive: Archive) -> None:
    archive.finish(STUDY, days_ago=31)

    def return_result(_descriptor: int) -> None:
        archive.store(STUDY, number=2)
        with archive.index.connection() as connection:
            connection.exec_driver_sql("UPDATE studies SET state = 'purging'")

    assert purge(Archive(interrupted(archive.storage.root, return_result), archive.index), days=30) == [STUDY]

    assert archive.files() == []
    assert archive.index.paths() == set()


def test_near_the_watermark_the_longest_finished_leave_that_have_reached_an_archive(tmp_path: Path) -> None:
    archive = open_archive(tmp_path / "data")
    archive.finish(STUDY, days_ago=1)
    archive.finish(OTHER, days_ago=2)
    archive.store("1.2.5", days_ago=3)
    archive.read("1.2.5")
    with archive.index.connection() as connection:
        connection.exec_driver_sql("DELETE FROM deliveries WHERE sop_instance_uid = '1.2.5.9'")
    full = Archive(Storage(tmp_path / "data", Watermark(used_percent=0, free_bytes=0)), archive.index)

    with closing(archive.index):
        assert purge(archive, frees_disk=True) == []
        assert purge(full, days=0) == []
        assert purge(full, frees_disk=True) == [OTHER, STUDY]
        assert archive.index.study_uids() == ["1.2.5"]


def test_what_a_sender_was_told_is_kept_stays_unless_the_rules_say_otherwise(archive: Archive) -> None:
    archive.finish(STUDY, days_ago=31)
    archive.finish(OTHER, days_ago=32)
    kept = archive.index.promise([f"{STUDY}.1.1", "1.2.99"])
    retention = Retention(archive.index, archive.storage, RetentionSettings(days=30))
    full = Archive(Storage(archive.storage.root, Watermark(used_percent=0, free_bytes=0)), archive.index)

    assert kept == {f"{STUDY}.1.1"}
    assert [one.study.study_instance_uid for one in retention.kept()] == [STUDY]
    assert purge(archive, days=30) == [OTHER]
    assert purge(full, frees_disk=True) == []
    assert purge(archive, days=30, keeps_committed=False) == [STUDY]
    assert retention.kept() == []


def test_of_what_archives_were_asked_nothing_is_left_but_what_others_are_in(archive: Archive) -> None:
    for study in (STUDY, OTHER):
        archive.finish(study, days_ago=31 if study == STUDY else 1)
    archive.index.begin_transaction("1.2.8", "pacs", [f"{STUDY}.9"])
    archive.index.begin_transaction("1.2.9", "pacs", [f"{OTHER}.9"])

    assert purge(archive, days=30) == [STUDY]

    assert archive.index.transaction("1.2.8") is None
    assert archive.index.transaction("1.2.9") is not None


def test_a_promise_and_a_removal_at_the_same_time_are_one_or_the_other(archive: Archive) -> None:
    archive.finish(STUDY, days_ago=31)
    archive.finish(OTHER, days_ago=31)
    first, second = archive.index.finished_studies()

    archive.index.promise([f"{first.study_instance_uid}.1.1"])
    assert not archive.index.begin_purge(first)

    assert archive.index.begin_purge(second)
    assert archive.index.promise([f"{second.study_instance_uid}.1.1"]) == set()


def test_a_link_in_place_of_a_run_folder_is_not_followed(archive: Archive, tmp_path: Path) -> None:
    archive.finish(STUDY, days_ago=31)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").touch()
    run = archive.storage.run_folder(f"run-{STUDY}".replace(".", "-"))
    (run / "result.dcm").unlink()
    run.rmdir()
    run.symlink_to(outside)

    assert purge(archive, days=30) == [STUDY]

    assert (outside / "precious").exists()


def test_the_caretaker_removes_and_counts(archive: Archive) -> None:
    archive.finish(STUDY, days_ago=31)
    metrics = Metrics()
    retention = Retention(archive.index, archive.storage, RetentionSettings(days=30), metrics)
    caretaker = Caretaker(retention, interval_s=60)

    caretaker.start()
    wait_until(lambda: archive.index.study(STUDY) is None, "the study is gone", 5)
    begun = time.monotonic()
    caretaker.stop()

    assert time.monotonic() - begun < 2
    assert b'sightline_studies_purged_total{reason="age"} 1.0' in metrics.exposition()
