"""A real PACS: Orthanc forwards a study to the node and gets the results into the same study."""

import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from node.samples.demo import Sample
from node.samples.dicom import fresh_uid
from tests.peers import dcmtk, wait_until
from tests.peers.node import Node, make_node
from tests.peers.orthanc import Orthanc, run_orthanc

QUIET_PERIOD_S = 0.5
SETTLED_S = 5 * QUIET_PERIOD_S


class Hospital(NamedTuple):
    """A PACS, and the node beside it."""

    orthanc: Orthanc
    node: Node


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    folder = tmp_path_factory.mktemp("hospital")
    with (
        make_node(folder / "node", {"assembly": {"quiet_period_s": QUIET_PERIOD_S}}) as node,
        run_orthanc(folder / "orthanc", {"node": (node.ae_title, node.host, node.port)}) as orthanc,
    ):
        pacs = {"host": orthanc.host, "port": orthanc.port, "ae_title": orthanc.ae_title}
        asks = {orthanc.ae_title: {"host": orthanc.host, "port": orthanc.port}}
        node.configure({"destinations": {"pacs": pacs}, "receive": {"commitment_peers": asks}})
        node.start()
        yield Hospital(orthanc, node)


@pytest.fixture
def source(hospital: Hospital, samples: dict[str, Sample], tmp_path: Path) -> Dataset:
    """The image of a study with a finding, in the PACS and not yet at the node."""
    (path,) = samples["findings"].write(tmp_path, study_instance_uid=fresh_uid())
    hospital.orthanc.upload(path)
    return pydicom.dcmread(path)


def test_results_come_back_into_the_study_and_read_the_same_there(
    hospital: Hospital, source: Dataset
) -> None:
    study = forward(hospital, source)

    written = written_by_uid(study)
    returned = results_in(hospital, source)
    assert returned.keys() == written.keys()
    for uid, dataset in returned.items():
        assert dataset == written[uid], f"{uid} is another one in the archive"
        assert dataset.StudyInstanceUID == source.StudyInstanceUID


def test_every_kind_of_result_names_the_image_it_is_about(hospital: Hospital, source: Dataset) -> None:
    forward(hospital, source)

    returned = list(results_in(hospital, source).values())
    assert sorted(dataset.SOPClassUID.keyword for dataset in returned) == [
        # The findings, and the lesions.
        "Comprehensive3DSRStorage",
        "Comprehensive3DSRStorage",
        "EnhancedSRStorage",
        "SecondaryCaptureImageStorage",
    ]
    for dataset in returned:
        assert source.SOPInstanceUID in str(dataset)
        assert dataset.PatientID == source.PatientID
        assert dataset.SeriesInstanceUID != source.SeriesInstanceUID


def test_reports_in_the_archive_name_finding_and_lesion(hospital: Hospital, source: Dataset) -> None:
    forward(hospital, source)

    reports = [
        each
        for each in results_in(hospital, source).values()
        if is_coded(each, codes.DCM.ImagingMeasurementReport)
    ]
    items = [item for report in reports for item in content_items(report)]
    findings = [item for item in items if is_coded(item, codes.DCM.Finding)]
    named = {item.ConceptCodeSequence[0].CodeMeaning for item in findings}
    assert {"Pneumonia", "Lung consolidation"} <= named


def test_the_same_study_again_makes_no_second_copy(hospital: Hospital, source: Dataset) -> None:
    before = forward(hospital, source)
    arrivals = hospital.orthanc.arrivals()

    hospital.orthanc.forward(source.StudyInstanceUID)

    hospital.node.wait_for_record(
        event="instance_stored", study_instance_uid=source.StudyInstanceUID, is_new=False
    )
    time.sleep(SETTLED_S)
    after = study_of(hospital, source)
    assert written_by_uid(after) == written_by_uid(before)
    assert hospital.orthanc.arrivals() == arrivals


def test_retry_gives_the_same_objects_and_no_second_copy(hospital: Hospital, source: Dataset) -> None:
    before = forward(hospital, source)
    arrivals = hospital.orthanc.arrivals()
    configuration = ("-c", str(hospital.node.configuration_path))

    retried = hospital.node.sightline("studies", "retry", source.StudyInstanceUID, *configuration)

    assert retried.returncode == 0, retried.stderr
    hospital.node.wait_for_record(
        event="study_assembled", evidence="retry_requested", study_instance_uid=source.StudyInstanceUID
    )
    after = study_of(hospital, source)
    assert written_by_uid(after) == written_by_uid(before)
    assert hospital.orthanc.arrivals() == arrivals


def test_the_archive_commits_to_what_it_was_sent(hospital: Hospital, source: Dataset) -> None:
    forward(hospital, source)

    wait_until(lambda: study_of(hospital, source)["state"] == "done", "all is confirmed", 30)

    study = study_of(hospital, source)
    (run,) = study["runs"]
    assert [item["confirmed_by"] for item in run["objects"]] == [["pacs"]] * 4
    asked = hospital.node.log_records(event="commitment_asked")
    told = {record["transaction_uid"] for record in hospital.node.log_records(event="commitment_reported")}
    assert {record["transaction_uid"] for record in asked} == told, "it was not by its report"


def test_the_node_commits_to_what_the_archive_sent(hospital: Hospital, source: Dataset) -> None:
    forward(hospital, source)
    own, unknown = (source.SOPClassUID, source.SOPInstanceUID), (source.SOPClassUID, fresh_uid())

    kept, failed = (hospital.orthanc.ask_commitment(these) for these in ([own], [own, unknown]))

    reports = [report_on(hospital, identifier) for identifier in (kept, failed)]
    assert [report["Status"] for report in reports] == ["Success", "Failure"]
    assert [one["SOPInstanceUID"] for one in reports[1]["Success"]] == [source.SOPInstanceUID]
    assert [one["SOPInstanceUID"] for one in reports[1]["Failures"]] == [unknown[1]]


def report_on(hospital: Hospital, identifier: str) -> dict[str, Any]:
    """What the archive was told."""
    wait_until(lambda: hospital.orthanc.commitment(identifier)["Status"] != "Pending", "a report", 30)
    return hospital.orthanc.commitment(identifier)


def test_both_answer_an_echo(hospital: Hospital) -> None:
    assert dcmtk.echo(hospital.node.port, called=hospital.node.ae_title)
    assert dcmtk.echo(hospital.orthanc.port, called=hospital.orthanc.ae_title)


def forward(hospital: Hospital, source: Dataset) -> dict[str, Any]:
    """Have the PACS send the study to the node, and return the node's account once all is delivered."""
    hospital.orthanc.forward(source.StudyInstanceUID)
    hospital.node.wait_for_record(event="instance_stored", study_instance_uid=source.StudyInstanceUID)
    return study_of(hospital, source)


def study_of(hospital: Hospital, source: Dataset) -> dict[str, Any]:
    studies = hospital.node.wait_for_studies(1)
    (study,) = (each for each in studies if each["study_instance_uid"] == source.StudyInstanceUID)
    return study


def written_by_uid(study: dict[str, Any]) -> dict[str, Dataset]:
    """The result objects on the node's disk."""
    paths = [item["path"] for run in study["runs"] for item in run["objects"]]
    datasets = [pydicom.dcmread(path) for path in paths]
    return {dataset.SOPInstanceUID: dataset for dataset in datasets}


def results_in(hospital: Hospital, source: Dataset) -> dict[str, Dataset]:
    """What the archive holds in the study besides the image it was given."""
    identifier_by_uid = hospital.orthanc.instances(source.StudyInstanceUID)
    del identifier_by_uid[source.SOPInstanceUID]
    return {
        uid: pydicom.dcmread(BytesIO(hospital.orthanc.download(identifier)))
        for uid, identifier in identifier_by_uid.items()
    }


def is_coded(item: Dataset, concept: Any) -> bool:
    name = item.get("ConceptNameCodeSequence")
    return bool(name) and (name[0].CodeValue, name[0].CodingSchemeDesignator) == (
        concept.value,
        concept.scheme_designator,
    )


def content_items(item: Dataset) -> Iterator[Dataset]:
    for child in item.get("ContentSequence", []):
        yield child
        yield from content_items(child)
