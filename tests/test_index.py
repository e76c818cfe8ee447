from pathlib import Path

import pytest

from node.domain.study import Instance
from node.index import ANALYZED, DELIVERED, PENDING, QUEUED, RECEIVING, RETRYING, Index, sqlite_url

STUDY, SERIES = "1.2.3", "1.2.3.4"


@pytest.fixture
def index(tmp_path):
    index = Index(sqlite_url(tmp_path / "index.sqlite"))
    yield index
    index.close()


def instance(uid="1.2.3.4.5", sha256="a" * 64, called="SIGHTLINE", modality="DX", study=STUDY):
    path = Path(f"/spool/{uid}_{sha256[:4]}_{called}.dcm")
    return Instance(study, SERIES, uid, "1.2.840.1", "1.2.840.2", modality, path, sha256, called, "PACS")


def only_open_study(index):
    (study,) = index.open_studies()
    return study


def run(run_id="r1", job_id="job", **columns):
    row = {"run_id": run_id, "job_id": job_id, "study_instance_uid": STUDY, "series_instance_uid": SERIES}
    return row | {"pipeline": "chest_xray"} | columns


def objects(*uids, kind="findings_sr"):
    return [{"sop_instance_uid": uid, "kind": kind, "sop_class_uid": "1", "path": f"/{uid}"} for uid in uids]


def test_a_stored_instance_comes_back_as_it_was(index):
    index.record_instance(instance())

    assert index.instances(STUDY) == [instance()]
    assert index.holds(instance())
    assert not index.holds(instance(sha256="b" * 64))
    assert index.paths() == {instance().path}


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


def test_objects_wait_only_for_destinations_that_want_their_kind(index):
    index.record_run(run())

    index.record_objects("r1", objects("5.1"), {"pacs": ["findings_sr"], "viewer": ["secondary_capture"]})

    (item,) = index.objects("r1")
    assert [(one["destination"], one["state"]) for one in item["deliveries"]] == [("pacs", PENDING)]


def test_recording_the_same_objects_again_keeps_what_was_delivered(index):
    index.record_run(run())
    index.record_objects("r1", objects("5.1"), {"pacs": ["findings_sr"]})
    index.record_delivery(["5.1"], "pacs", DELIVERED, "")

    index.record_objects("r1", objects("5.1"), {"pacs": ["findings_sr"]})

    assert index.objects("r1")[0]["deliveries"][0]["state"] == DELIVERED


def test_objects_of_an_earlier_try_are_replaced_with_their_deliveries(index):
    index.record_run(run())
    index.record_objects("r1", objects("5.1"), {"pacs": ["findings_sr"]})

    index.record_objects("r1", objects("5.2"), {"pacs": ["findings_sr"]})

    assert [item["sop_instance_uid"] for item in index.objects("r1")] == ["5.2"]
    assert index.counts()[PENDING] == 1


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
