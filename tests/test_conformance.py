from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
from pydicom import DataElement, Dataset, dcmread
from pydicom.config import IGNORE
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from node import conformance
from node.errors import ConformanceError, DatasetError
from node.samples.dicom import write_dx
from node.samples.thorax import thorax_radiograph
from tests.results import SCORES, encode_case, save

Mutation = Callable[[Dataset], object]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dx(thorax_radiograph(6, size=256), tmp_path_factory.mktemp("source") / "dx.dcm")


@pytest.fixture(scope="module")
def results(source: Path) -> dict[str, dict[str, Dataset]]:
    return {case: encode_case(case, source) for case in SCORES}


def find(dataset: Dataset, name: Code) -> Dataset:
    """The first content item of that name."""
    for child in dataset.get("ContentSequence", ()):
        concept = child.ConceptNameCodeSequence[0]
        if (concept.CodeValue, concept.CodingSchemeDesignator) == (name.value, name.scheme_designator):
            return child
        try:
            return find(child, name)
        except LookupError:
            continue
    raise LookupError(name)


def drop(dataset: Dataset, parent: Code, name: Code) -> None:
    """Take the items of one name out of the first item of another."""
    container = find(dataset, parent)
    container.ContentSequence = [
        child
        for child in container.ContentSequence
        if child.ConceptNameCodeSequence[0].CodeValue != name.value
    ]


def assign(keyword: str, value: object) -> Mutation:
    return lambda dataset: setattr(dataset, keyword, value)


def assign_uid(keyword: str, value: str) -> Mutation:
    """As `assign`, for what pydicom would warn of."""
    element = DataElement(keyword, "UI", value, validation_mode=IGNORE)
    return lambda dataset: dataset.add(element)


def remove(keyword: str) -> Mutation:
    return lambda dataset: delattr(dataset, keyword)


def equipment(dataset: Dataset) -> Dataset:
    return next(item for item in dataset.ContributingEquipmentSequence if "DeviceUID" in item)


def rename_source(dataset: Dataset) -> None:
    reference = dataset.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    reference.ReferencedSOPSequence[0].ReferencedSOPInstanceUID = "1.2.3"


def take_series(dataset: Dataset) -> None:
    evidence = dataset.CurrentRequestedProcedureEvidenceSequence[0]
    dataset.SeriesInstanceUID = evidence.ReferencedSeriesSequence[0].SeriesInstanceUID


def take_instance(dataset: Dataset) -> None:
    uid = dataset.SourceImageSequence[0].ReferencedSOPInstanceUID
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid


def change_class(dataset: Dataset) -> None:
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.104.1"


def blacken(dataset: Dataset) -> None:
    caption = dataset.PixelData[-dataset.Columns * 300 :]
    dataset.PixelData = bytes(len(dataset.PixelData) - len(caption)) + caption


def name_absent_finding(dataset: Dataset) -> None:
    find(dataset, Code("233604007", "SCT", "")).ConceptCodeSequence[0].CodeValue = codes.SCT.Absent.value


def claim_no_result(dataset: Dataset) -> None:
    summary = find(dataset, codes.DCM.SummaryOfAnalyses).ConceptCodeSequence[0]
    summary.CodeValue = codes.DCM.NoAlgorithmsSucceededWithoutFindings.value


def continue_container(dataset: Dataset) -> None:
    find(dataset, codes.DCM.MeasurementGroup).ContinuityOfContent = "CONTINUOUS"


GROUP, REPORT, SUMMARY, CAPTURE = codes.DCM.MeasurementGroup, "findings_sr", "summary_sr", "secondary_capture"
MUTATIONS: list[tuple[str, str, str, Mutation]] = [
    ("known_class", CAPTURE, "another class", change_class),
    ("required_attributes", REPORT, "no completion flag", remove("CompletionFlag")),
    ("required_attributes", SUMMARY, "no content", assign("ContentSequence", [])),
    ("required_attributes", CAPTURE, "no rows", remove("Rows")),
    ("required_attributes", CAPTURE, "no patient name", remove("PatientName")),
    ("required_attributes", SUMMARY, "no description", assign("SeriesDescription", "")),
    ("well_formed_uids", REPORT, "leading zero", assign_uid("SeriesInstanceUID", "2.25.0123")),
    ("well_formed_uids", REPORT, "too long", assign_uid("SeriesInstanceUID", "2.25." + "1" * 60)),
    ("well_formed_uids", SUMMARY, "meta disagrees", assign("SOPInstanceUID", "2.25.123")),
    ("same_study", REPORT, "other study", assign("StudyInstanceUID", "1.2.3")),
    ("same_study", CAPTURE, "other study", assign("StudyInstanceUID", "1.2.3")),
    ("same_patient", REPORT, "other patient", assign("PatientID", "4711")),
    ("same_patient", CAPTURE, "other name", assign("PatientName", "Somebody^Else")),
    ("same_patient", SUMMARY, "other accession", assign("AccessionNumber", "4711")),
    ("same_patient", SUMMARY, "other characters", assign("SpecificCharacterSet", "ISO_IR 101")),
    ("new_identifiers", REPORT, "the source's series", take_series),
    ("new_identifiers", CAPTURE, "the source's instance", take_instance),
    ("references_exist", REPORT, "unknown instance", rename_source),
    (
        "references_exist",
        CAPTURE,
        "other class",
        lambda ds: setattr(ds.SourceImageSequence[0], "ReferencedSOPClassUID", "1.2.840.10008.5.1.4.1.1.2"),
    ),
    ("device_identified", CAPTURE, "no equipment", remove("ContributingEquipmentSequence")),
    ("device_identified", REPORT, "no device", lambda ds: delattr(equipment(ds), "DeviceUID")),
    ("device_identified", SUMMARY, "other device", lambda ds: setattr(equipment(ds), "DeviceUID", "1.2.3")),
    ("device_identified", CAPTURE, "no version", lambda ds: delattr(equipment(ds), "SoftwareVersions")),
    ("schemes_declared", REPORT, "undeclared", remove("CodingSchemeIdentificationSequence")),
    ("evidence_complete", REPORT, "none", remove("CurrentRequestedProcedureEvidenceSequence")),
    ("evidence_complete", REPORT, "incomplete", rename_source),
    ("separate_containers", REPORT, "continuous", continue_container),
    (
        "measured_values",
        REPORT,
        "no value",
        lambda ds: setattr(find(ds, codes.DCM.Probability), "MeasuredValueSequence", []),
    ),
    (
        "measured_values",
        REPORT,
        "no unit",
        lambda ds: delattr(
            find(ds, codes.DCM.Probability).MeasuredValueSequence[0], "MeasurementUnitsCodeSequence"
        ),
    ),
    ("unverified", REPORT, "verified", assign("VerificationFlag", "VERIFIED")),
    ("unverified", SUMMARY, "final", assign("PreliminaryFlag", "FINAL")),
    ("tracked_groups", REPORT, "no words", lambda ds: drop(ds, GROUP, codes.DCM.TrackingIdentifier)),
    ("tracked_groups", REPORT, "no UID", lambda ds: drop(ds, GROUP, codes.DCM.TrackingUniqueIdentifier)),
    (
        "outcome_stated",
        REPORT,
        "silent",
        lambda ds: drop(ds, Code("C0034375", "UMLS", ""), codes.DCM.SummaryOfAnalyses),
    ),
    ("outcome_stated", REPORT, "denied", claim_no_result),
    ("absent_is_no_finding", REPORT, "absent finding", name_absent_finding),
    ("algorithm_identified", REPORT, "no name", lambda ds: drop(ds, GROUP, codes.DCM.AlgorithmName)),
    (
        "algorithm_identified",
        REPORT,
        "other version",
        lambda ds: setattr(find(ds, codes.DCM.AlgorithmVersion), "TextValue", "2"),
    ),
    ("marked_picture", CAPTURE, "unmarked", assign("BurnedInAnnotation", "NO")),
    ("marked_picture", CAPTURE, "original", assign("ImageType", ["ORIGINAL", "PRIMARY"])),
    ("source_image_named", CAPTURE, "no source", remove("SourceImageSequence")),
    ("visible_picture", CAPTURE, "blank above the caption", blacken),
    ("visible_picture", CAPTURE, "cut off", lambda ds: setattr(ds, "PixelData", ds.PixelData[:1000])),
]


@pytest.mark.parametrize("case", SCORES)
def test_valid_results_pass(case: str, source: Path, results: dict[str, dict[str, Dataset]]) -> None:
    for dataset in results[case].values():
        conformance.verify(dataset, [source])


@pytest.mark.parametrize("case", SCORES)
def test_valid_files_pass(
    case: str, source: Path, results: dict[str, dict[str, Dataset]], tmp_path: Path
) -> None:
    for kind, dataset in results[case].items():
        path = save(deepcopy(dataset), tmp_path / f"{kind}.dcm")

        assert conformance.check_file(path, [source]) == []
        assert conformance.check_file(path) == []


@pytest.mark.parametrize(
    ("rule", "kind", "mutate"),
    [pytest.param(rule, kind, mutate, id=f"{rule}-{kind}-{what}") for rule, kind, what, mutate in MUTATIONS],
)
def test_each_rule_catches_what_it_is_for(
    rule: str, kind: str, mutate: Mutation, source: Path, results: dict[str, dict[str, Dataset]]
) -> None:
    broken = deepcopy(results["findings"][kind])
    mutate(broken)

    violations = conformance.check(broken, [source])

    assert rule in {violation.rule for violation in violations}
    assert not any("cannot be judged" in violation.message for violation in violations)


def test_every_rule_has_a_mutation() -> None:
    assert {rule for rule, *_ in MUTATIONS} == {rule.name for rule in conformance.RULES}


def test_the_gate_names_the_rule(source: Path, results: dict[str, dict[str, Dataset]]) -> None:
    broken = deepcopy(results["findings"][REPORT])
    broken.VerificationFlag = "VERIFIED"

    with pytest.raises(ConformanceError) as raised:
        conformance.verify(broken, [source])

    assert raised.value.message == "unverified: claims to be verified"
    assert raised.value.uid == broken.SOPInstanceUID


def test_no_message_holds_a_patient(source: Path, results: dict[str, dict[str, Dataset]]) -> None:
    for kind, mutate in ((kind, mutate) for _, kind, _, mutate in MUTATIONS):
        broken = deepcopy(results["findings"][kind])
        mutate(broken)

        messages = " ".join(violation.message for violation in conformance.check(broken, [source]))

        assert not any(word in messages for word in ("SYNTH", "Somebody", "4711"))


def test_rules_about_sources_are_skipped_without_them(source: Path) -> None:
    assert set(conformance.skipped_rules()) == {
        "same_study",
        "same_patient",
        "new_identifiers",
        "references_exist",
    }
    assert conformance.skipped_rules([source]) == []


def test_what_cannot_be_judged_does_not_pass(source: Path, results: dict[str, dict[str, Dataset]]) -> None:
    broken = deepcopy(results["findings"][REPORT])
    find(broken, codes.DCM.Probability).MeasuredValueSequence[0].NumericValue = None
    broken.ContentSequence[-1].ConceptNameCodeSequence = []

    assert "measured_values" in {violation.rule for violation in conformance.check(broken, [source])}


def test_a_picture_that_came_in_is_no_result(source: Path) -> None:
    assert "known_class" in {violation.rule for violation in conformance.check_file(source)}


def test_a_file_that_is_no_dicom_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "note.txt"
    path.write_text("not DICOM")

    with pytest.raises(DatasetError):
        conformance.check_file(path)


def test_the_gate_leaves_the_object_as_it_is(source: Path, tmp_path: Path) -> None:
    (dataset,) = (one for kind, one in encode_case("findings", source).items() if kind == SUMMARY)
    before = save(deepcopy(dataset), tmp_path / "before.dcm").read_bytes()

    conformance.verify(dataset, [source])

    assert save(dataset, tmp_path / "after.dcm").read_bytes() == before
    assert dcmread(tmp_path / "after.dcm").PatientName == dcmread(source).PatientName
