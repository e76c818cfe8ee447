"""A CT study from end to end: what each preset names reaches its archive, and a second reading supersedes."""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid

from node.domain.profile import PRESETS
from tests import models
from tests.peers import dcmtk, wait_until
from tests.peers.hospital import Hospital, run_hospital
from tests.peers.node import Node
from tests.peers.orthanc import Orthanc
from tests.sources import Written, write_ct_series

CT_ONLY = [{"name": "modality", "when": {"modality": ["CT"]}, "reason": "is no CT"}]
REPORTS = {"findings_sr", "lesions_sr", "summary_sr"}


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    folder = tmp_path_factory.mktemp("hospital")
    weights = models.arithmetic("Add", 1.0)
    card = models.card("lesion", {"lesion": weights}, eligibility={"requirements": CT_ONLY})
    models.write_model(folder / "repository", models.config("lesion"), weights=weights, document=card)
    changes = {
        "pipelines": {"lesion": {"use": "tests.peers.pipelines:BrightLesion", "when": {"modality": ["CT"]}}},
        "triage": [{"finding": "Nodule", "priority": "urgent"}],
    }
    with run_hospital(folder, folder / "repository", changes) as hospital:
        yield hospital


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return write_ct_series(tmp_path_factory.mktemp("ct"))


@pytest.fixture(scope="module")
def first(hospital: Hospital, written: Written) -> dict[str, Any]:
    """The node's account once the series was read and delivered."""
    return send(hospital, written.paths)


@pytest.fixture(scope="module")
def second(
    hospital: Hospital, written: Written, first: dict[str, Any], tmp_path_factory: Any
) -> dict[str, Any]:
    """The node's account after one more slice came late."""
    late = dcmread(written.paths[-1])
    late.SOPInstanceUID = late.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    late.InstanceNumber = len(written.paths) + 1
    *position, height = late.ImagePositionPatient
    late.ImagePositionPatient = [*position, float(height) + 2.5]
    path = tmp_path_factory.mktemp("late") / "late.dcm"
    late.save_as(path)
    return send(hospital, [path])


def send(hospital: Hospital, paths: list[Path]) -> dict[str, Any]:
    node = hospital.node
    ended = len(node.log_records(event="step_finished", step="finish"))
    assert len(dcmtk.send(paths, node.port, called=node.ae_title).stored) == len(paths)
    wait_for_another(node, ended)
    (study,) = node.wait_for_studies(1)
    return node.wait_for_confirmation(study["study_instance_uid"])


def wait_for_another(node: Node, ended: int) -> None:
    wait_until(
        lambda: len(node.log_records(event="step_finished", step="finish")) > ended,
        "another run ended",
        60,
        0.05,
    )


def test_the_study_ends_with_the_region_and_its_priority(first: dict[str, Any]) -> None:
    (run,) = first["runs"]

    assert (first["outcome"], first["priority"], first["state"]) == ("findings", "urgent", "done")
    assert [(region["name"], region["presence"]) for region in run["regions"]] == [("Nodule", "present")]
    assert run["regions"][0]["measurements"][0]["name"] == "Volume"
    assert run["quarantined"] == []


@pytest.mark.parametrize("name", ["classic", "air"])
def test_an_archive_gets_what_its_preset_names_and_nothing_else(first: dict[str, Any], name: str) -> None:
    (run,) = first["runs"]

    delivered = {item["kind"] for item in run["objects"] if name in item["delivered_to"]}

    assert delivered == set(PRESETS[name])


def test_each_archive_gets_masks_in_the_form_it_asked_for(hospital: Hospital, first: dict[str, Any]) -> None:
    types = {
        name: {one.SegmentationType for one in in_archive(archive, first).values() if one.Modality == "SEG"}
        for name, archive in (("classic", hospital.classic), ("air", hospital.air))
    }

    assert types == {"classic": {"BINARY"}, "air": {"FRACTIONAL"}}


def test_the_report_of_lesions_refers_to_the_segmentation_of_its_own_archive(
    hospital: Hospital, first: dict[str, Any]
) -> None:
    for archive in (hospital.classic, hospital.air):
        held = in_archive(archive, first)
        (mask,) = (one for one in held.values() if one.Modality == "SEG")
        (lesions,) = (one for one in held.values() if "lesions" in one.SeriesDescription)

        assert mask.SOPInstanceUID in str(lesions)


def test_a_second_reading_names_the_reports_it_supersedes(
    first: dict[str, Any], second: dict[str, Any]
) -> None:
    before, after = (objects_by_path(study) for study in (first, second))

    for path, item in after.items():
        if item["kind"] not in REPORTS:
            continue
        named = [
            reference.ReferencedSOPInstanceUID
            for study in dcmread(path).PredecessorDocumentsSequence
            for series in study.ReferencedSeriesSequence
            for reference in series.ReferencedSOPSequence
        ]
        earlier = {one["sop_instance_uid"] for one in before.values() if one["kind"] == item["kind"]}
        assert named
        assert set(named) <= earlier
    (run,) = second["runs"]
    assert set(run["supersedes"]) == {one["sop_instance_uid"] for one in before.values()}


def test_a_second_reading_replaces_nothing(
    hospital: Hospital, first: dict[str, Any], second: dict[str, Any]
) -> None:
    before, after = (objects_by_path(study) for study in (first, second))
    held = in_archive(hospital.classic, second) | in_archive(hospital.air, second)

    assert {one["sop_instance_uid"] for one in (*before.values(), *after.values())} == held.keys()
    series_before, series_after = (
        {dcmread(path, stop_before_pixels=True).SeriesInstanceUID for path in objects}
        for objects in (before, after)
    )
    assert not series_before & series_after


def objects_by_path(study: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {item["path"]: item for run in study["runs"] for item in run["objects"]}


def in_archive(archive: Orthanc, study: dict[str, Any]) -> dict[str, Dataset]:
    identifiers = archive.instances(study["study_instance_uid"])
    return {uid: dcmread(BytesIO(archive.download(one))) for uid, one in identifiers.items()}
