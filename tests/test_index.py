from pathlib import Path

import pytest

from node.domain.delivery import CommitmentReport
from node.domain.study import Instance
from node.index import ANALYZED, CONFIRMED, DELIVERED, PENDING, QUEUED, RECEIVING, RETRYING, Index, sqlite_url
from tests.safety import safety_of

STUDY, SERIES = "1.2.3", "1.2.3.4"


@pytest.fixture
def index(tmp_path):
    index = Index(sqlite_url(tmp_path / "index.sqlite"))
    yield index
    index.close()


def instance(uid="1.2.3.4.5", digest="a" * 32, called="SIGHTLINE", modality="DX", study=STUDY):
    path = Path(f"/spool/{uid}_{digest[:4]}_{called}.dcm")
    return Instance(study, SERIES, uid, "1.2.840.1", "1.2.840.2", modality, path, digest, called, "PACS")


def only_open_study(index):
    (study,) = index.open_studies()
    return study


def run(run_id="r1", job_id="job", **columns):
    row = {"run_id": run_id, "job_id": job_id, "study_instance_uid": STUDY, "series_instance_uid": SERIES}
    return row | {"pipeline": "chest_xray"} | columns


def objects(*uids, kind="findings_sr", destinations=("pacs",)):
    columns = {"kind": kind, "series_instance_uid": "5", "sop_class_uid": "1", "destinations": destinations}
    return [{"sop_instance_uid": uid, "path": f"/{uid}"} | columns for uid in uids]


def test_a_stored_instance_comes_back_as_it_was(index):
    index.record_instance(instance())

    assert index.instances(STUDY) == [instance()]
    assert index.holds(instance())
    assert not index.holds(instance(digest="b" * 32))
    assert index.paths() == {instance().path}


def test_an_instance_that_comes_again_in_another_study_opens_that_study_alone(index: Index) -> None:
    index.record_instance(instance(), 1.0)
    index.record_instances([instance(digest="b" * 32, study="1.9"), instance(uid="1.2.9", study="1.9")], 2.0)

    opened = {study.study_instance_uid: study.last_received_at for study in index.open_studies()}
    assert opened[STUDY] == 1.0
    assert opened["1.9"] == pytest.approx(2.0, abs=1e-3)


def test_an_open_study_tells_all_its_modalities(index):
    index.record_instance(instance("1.1", modality="CT"), received_at=10.0)
    index.record_instance(instance("1.2", modality="SR"), received_at=12.0)

    study = only_open_study(index)

    assert study.modalities == {"CT", "SR"}
    assert study.last_received_at == 12.0
    assert not study.is_retry


def test_a_queued_study_is_no_longer_open(index):
    index.record_instance(instance())

    assert index.queue_study(only_open_study(index), "job", "quiet_period")
    assert index.open_studies() == []
    assert index.study(STUDY)["state"] == QUEUED


def test_a_study_that_grew_since_it_was_looked_at_is_not_queued(index):
    index.record_instance(instance("1.1"), received_at=10.0)
    seen = only_open_study(index)
    index.record_instance(instance("1.2"), received_at=11.0)

    assert not index.queue_study(seen, "job", "quiet_period")
    assert index.study(STUDY)["state"] == RECEIVING


def test_a_late_instance_opens_its_study_again(index):
    index.record_instance(instance("1.1"), received_at=10.0)
    index.queue_study(only_open_study(index), "job", "quiet_period")
    index.record_run(run())

    index.record_instance(instance("1.2"), received_at=20.0)
    index.finish_run("r1", STUDY, "job")

    assert index.study(STUDY)["state"] == RECEIVING, (
        "the end of the old job must not close the re-opened study"
    )


def test_the_study_is_analyzed_with_the_last_run_of_its_job(index):
    index.record_instance(instance())
    index.queue_study(only_open_study(index), "job", "quiet_period")
    index.record_run(run("r1"))
    index.record_run(run("r2"))

    index.finish_run("r1", STUDY, "job")
    after_one = index.study(STUDY)["state"]
    index.finish_run("r2", STUDY, "job")

    assert (after_one, index.study(STUDY)["state"]) == (QUEUED, ANALYZED)


def test_a_retry_is_open_at_once_and_counted(index):
    index.record_instance(instance())
    index.queue_study(only_open_study(index), "job", "quiet_period")

    assert index.reopen_study(STUDY)
    study = only_open_study(index)
    assert study.is_retry
    assert study.retries == 1
    assert index.study(STUDY)["state"] == RETRYING
    assert not index.reopen_study("9.9.9")


def test_objects_wait_only_for_destinations_that_want_them(index):
    index.record_run(run())

    index.record_objects("r1", objects("5.1"))

    (item,) = index.objects("r1")
    assert [(one["destination"], one["state"]) for one in item["deliveries"]] == [("pacs", PENDING)]


def test_recording_the_same_objects_again_keeps_what_was_delivered(index):
    index.record_run(run())
    index.record_objects("r1", objects("5.1"))
    index.record_delivery(["5.1"], "pacs", DELIVERED, "")

    index.record_objects("r1", objects("5.1"))

    assert index.objects("r1")[0]["deliveries"][0]["state"] == DELIVERED


def test_objects_of_an_earlier_try_are_replaced_with_their_deliveries(index):
    index.record_run(run())
    index.record_objects("r1", objects("5.1"))

    index.record_objects("r1", objects("5.2"))

    assert [item["sop_instance_uid"] for item in index.objects("r1")] == ["5.2"]
    assert index.counts()[PENDING] == 1


def test_objects_of_another_outcome_that_an_archive_has_are_superseded_and_not_forgotten(index):
    planned(index, "r1", 1)
    index.record_objects("r1", objects("5.1", "5.2"))
    index.record_delivery(["5.1"], "pacs", DELIVERED)
    new = [one | {"path": f"/new/{one['sop_instance_uid']}"} for one in objects("5.3")]

    told_while_made = [one["sop_instance_uid"] for one in index.superseded_objects("r1", Path("/new"))]
    index.record_objects("r1", new)

    assert told_while_made == superseded(index, "r1") == ["5.1"]
    assert [item["sop_instance_uid"] for item in index.objects("r1")] == ["5.3"]
    assert index.result_paths({"5.1", "5.2"}).keys() == {"5.1"}
    assert index.counts()[PENDING] == 1


def test_the_same_outcome_again_supersedes_nothing(index):
    planned(index, "r1", 1)
    same = [one | {"path": f"/same/{one['sop_instance_uid']}"} for one in objects("5.1")]
    index.record_objects("r1", same)
    index.record_delivery(["5.1"], "pacs", DELIVERED)

    assert index.superseded_objects("r1", Path("/same")) == []


def test_seconds_of_stages_add_up_to_one_record(index):
    index.record_run(run())

    index.record_seconds("r1", "analyze", 0.25)
    index.record_seconds("r1", "encode", 0.5)

    assert index.runs("job")[0]["seconds"] == {"analyze": 0.25, "encode": 0.5}


def test_the_story_of_a_study_is_told_in_order(index):
    for event in ("study_assembled", "plan_finished"):
        index.record_event(STUDY, event, {"seconds": 1})

    assert [event["event"] for event in index.events(STUDY)] == ["study_assembled", "plan_finished"]


def test_another_process_reads_while_the_node_writes(index, tmp_path):
    index.record_instance(instance())

    reader = Index(sqlite_url(tmp_path / "index.sqlite"))

    assert reader.study_uids() == [STUDY]
    reader.close()


def superseded(index, run_id):
    return [one["sop_instance_uid"] for one in index.superseded_objects(run_id)]


def planned(index, run_id, hour, **columns):
    index.record_run(run(run_id, subject=SERIES, planned_at=f"2026-01-01T{hour:02d}:00:00+00:00", **columns))


def test_a_run_supersedes_the_objects_of_the_last_one_before_it_over_the_same_subject(index):
    for run_id, hour in (("r1", 1), ("r2", 2), ("r3", 3)):
        planned(index, run_id, hour)
    index.record_objects("r1", objects("5.1"))
    index.record_objects("r2", objects("5.2", "5.3"))

    assert superseded(index, "r1") == []
    assert superseded(index, "r2") == ["5.1"]
    assert superseded(index, "r3") == ["5.2", "5.3"]


@pytest.mark.parametrize(
    "other", [{"pipeline": "chest_ct"}, {"subject": "another image"}, {"study_instance_uid": "9.9"}]
)
def test_a_run_over_something_else_is_not_superseded(index, other):
    index.record_run(run("r1", subject=SERIES, planned_at="2026-01-01T01:00:00+00:00") | other)
    index.record_objects("r1", objects("5.1"))
    planned(index, "r2", 2)

    assert superseded(index, "r2") == []


def test_a_run_that_left_no_object_is_passed_over(index):
    for run_id, hour in (("r1", 1), ("r2", 2), ("r3", 3)):
        planned(index, run_id, hour)
    index.record_objects("r1", objects("5.1"))

    assert superseded(index, "r3") == ["5.1"]


def test_what_broke_a_rule_is_told_beside_the_objects_of_its_run(index):
    index.record_run(run())
    (item,) = objects("5.1")
    del item["destinations"]

    index.record_quarantine("r1", [item | {"violations": ["same_study: is in study 9"]}])

    (told,) = index.runs("job")
    assert told["objects"] == []
    assert [(one["kind"], one["violations"]) for one in told["quarantined"]] == [
        ("findings_sr", ["same_study: is in study 9"])
    ]


@pytest.mark.parametrize(
    "change",
    [
        lambda index: index.record_commitment("1.2.9", "CT", "SIGHTLINE", [("1.2", "1.5")]),
        lambda index: index.record_report(CommitmentReport("1.2.8", frozenset({"1.5"}), {})),
    ],
    ids=["asked of us", "reported to us"],
)
def test_what_a_peer_is_answered_success_for_outlives_the_power(index, change):
    index.begin_transaction("1.2.8", "pacs", ["1.5"])

    assert safety_of(index, lambda: change(index)) == 2

    # All else is found again, and need not wait for the disk.
    assert safety_of(index, lambda: index.record_event(STUDY, "study_queued", {})) == 1


def test_a_durable_change_that_fails_is_undone_and_leaves_no_mark(index):
    with pytest.raises(ZeroDivisionError), index.durable() as connection:
        connection.exec_driver_sql("INSERT INTO lines VALUES ('pacs', 1, 0, 0, '', NULL)")
        raise ZeroDivisionError

    assert not index.line("pacs")["is_paused"]
    assert safety_of(index, lambda: index.record_event(STUDY, "study_queued", {})) == 1


@pytest.mark.parametrize(
    ("reason", "state"), [(0x0112, PENDING), (0x0122, CONFIRMED), (0x0110, CONFIRMED), (0x0131, CONFIRMED)]
)
def test_what_was_found_counts_as_lost_only_if_the_archive_says_later_that_it_has_it_not(
    index, reason, state
):
    index.record_run(run())
    index.record_objects("r1", objects("9.1"))
    index.record_delivery(["9.1"], "pacs", DELIVERED)
    index.begin_transaction("1.2.8", "pacs", ["9.1"])
    index.record_delivery(["9.1"], "pacs", CONFIRMED, "found")

    index.record_report(CommitmentReport("1.2.8", frozenset(), {"9.1": reason}))

    assert index.delivery_counts() == {"pacs": {state: 1}}
