"""The gate: every valid object passes, and whatever it is shown, it answers."""

import random
from copy import deepcopy
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.sr.codedict import codes

from node import conformance
from node.domain.profile import Kind, ReportClass, SegmentationType
from node.encode import Predecessor
from node.errors import ConformanceError, DatasetError
from node.read.dataset import dataset_faults
from node.samples.dicom import write_dx
from node.samples.thorax import thorax_radiograph
from tests.mutations.ways import assign, find, find_type, rename
from tests.results import SCORES, encode_case, save
from tests.runs import CAPTURE, FINDINGS, LESIONS, SEGMENTATION, SUMMARY, WRITERS, Run, make_run
from tests.sources import Written, write_ct_series

REPORT = "findings_sr"
MARKS = Kind.ANNOTATIONS
ABSENT = {"dx": {MARKS, Kind.PARAMETRIC_MAP}, "cr": {MARKS, Kind.PARAMETRIC_MAP}, "slide": set[Kind]()}
"""Kinds that a source has none of: marks are of slides, and a map needs a frame of reference."""

NEEDS_SOURCES = {
    *("same_study", "same_patient", "new_identifiers", "references_exist", "frame_numbers"),
    *("outlines_inside", "same_frame_of_reference", "frames_on_sources", "matrix_on_source"),
    *("graphics_inside", "annotations_inside"),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dx(thorax_radiograph(6, size=256), tmp_path_factory.mktemp("source") / "dx.dcm")


@pytest.fixture(scope="module")
def results(source: Path) -> dict[str, dict[str, Dataset]]:
    return {case: encode_case(case, source) for case in SCORES}


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return write_ct_series(tmp_path_factory.mktemp("series"))


@pytest.fixture(scope="module")
def run(series: Written) -> Run:
    return make_run(series)


def complaints(run: Run) -> dict[str, list[str]]:
    found = {name: [str(one) for one in run.check(name, run.fresh(name))] for name in run.files}
    return {name: messages for name, messages in found.items() if messages}


def uid_of(run: Run, name: str) -> str:
    return str(run.fresh(name).SOPInstanceUID)


# --- what is valid passes


@pytest.mark.parametrize(
    ("shape", "form"),
    [
        *((shape, form) for shape in ("dx", "ct", "enhanced", "slide") for form in SegmentationType),
        *((shape, SegmentationType.BINARY) for shape in WRITERS if " " in shape or shape == "cr"),
    ],
)
def test_every_kind_of_object_over_every_source_passes(
    shape: str, form: SegmentationType, tmp_path: Path
) -> None:
    run = make_run(WRITERS[shape](tmp_path), segmentation_type=form)

    assert set(Kind) - {name.split()[0] for name in run.files} == ABSENT.get(shape.split()[0], {MARKS})
    assert complaints(run) == {}


@pytest.mark.parametrize(
    "form",
    [
        {"report_class": ReportClass.COMPREHENSIVE},
        {"report_class": ReportClass.ENHANCED},
        {"omit_empty_frames": False},
        {"max_frames": 3},
        {"max_frames": 3, "segmentation_type": SegmentationType.LABELMAP},
    ],
    ids=str,
)
def test_objects_in_other_forms_pass(form: dict[str, object], series: Written) -> None:
    assert complaints(make_run(series, **form)) == {}


@pytest.mark.parametrize("case", SCORES)
def test_results_of_every_outcome_pass(
    case: str, source: Path, results: dict[str, dict[str, Dataset]], tmp_path: Path
) -> None:
    for kind, dataset in results[case].items():
        path = save(deepcopy(dataset), tmp_path / f"{kind}.dcm")

        conformance.verify(dataset, [source])
        assert conformance.check_file(path, [source]) == []
        assert conformance.check_file(path) == []


def test_a_report_that_supersedes_an_earlier_one_passes(source: Path) -> None:
    study = str(dcmread(source, stop_before_pixels=True).StudyInstanceUID)
    earlier = Predecessor(Kind.FINDINGS_SR, study, "1.2.3", "1.2.840.10008.5.1.4.1.1.88.34", "1.2.4")

    report = encode_case("findings", source, predecessors=(earlier,))[REPORT]

    assert report.PredecessorDocumentsSequence
    conformance.verify(report, [source])


def test_objects_in_the_forms_of_several_destinations_pass_together(series: Written, run: Run) -> None:
    further = make_run(series, segmentation_type=SegmentationType.LABELMAP, report_class=ReportClass.ENHANCED)
    known = {one.SOPInstanceUID for one in run.others("")}
    added = {
        f"{name} too": further.files[name] for name in further.files if uid_of(further, name) not in known
    }

    assert {name.split()[0] for name in added} == {REPORT, "lesions_sr", "segmentation"}
    assert complaints(Run(run.sources, {**run.files, **added})) == {}


def test_headers_read_once_do_for_all_objects(series: Written, run: Run) -> None:
    headers = conformance.read_headers(series.paths)

    assert len(headers) == len(series.paths)
    assert all(conformance.check(run.fresh(name), headers, run.others(name)) == [] for name in run.files)


# --- what is not, does not


def test_the_gate_names_the_rule(source: Path, results: dict[str, dict[str, Dataset]]) -> None:
    broken = deepcopy(results["findings"][REPORT])
    broken.VerificationFlag = "VERIFIED"

    with pytest.raises(ConformanceError) as raised:
        conformance.verify(broken, [source])

    assert raised.value.message == "unverified: claims to be verified"
    assert raised.value.uid == broken.SOPInstanceUID


def test_whose_it_is_comes_before_what_is_wrong_with_it(run: Run) -> None:
    broken = run.fresh(SEGMENTATION)
    broken.PatientID = "4711"
    broken.SegmentSequence = []
    del broken.PixelData

    rules = [violation.rule for violation in run.check(SEGMENTATION, broken)]

    assert rules[0] == "same_patient"
    assert "required_attributes" in rules


def test_a_fault_of_every_frame_is_said_once(run: Run) -> None:
    broken = run.fresh(SEGMENTATION)
    broken.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [1, 1]

    messages = [one.message for one in run.check(SEGMENTATION, broken) if one.rule == "frames_on_sources"]

    assert len(messages) == 4
    assert messages[-1].startswith("and ")


def test_a_segment_is_looked_for_among_the_objects_of_the_run(run: Run) -> None:
    alone = conformance.check(run.fresh(LESIONS), run.sources)

    assert alone[0].rule == "references_exist"


def test_an_object_is_compared_with_all_of_its_run(run: Run) -> None:
    twin = run.fresh(CAPTURE)
    rename(str(run.other(SUMMARY).SOPInstanceUID))(twin, run)

    assert [one.rule for one in run.check(CAPTURE, twin)] == ["unique_in_run"]


def test_rules_about_sources_are_skipped_without_them(source: Path) -> None:
    assert set(conformance.skipped_rules()) == NEEDS_SOURCES
    assert conformance.skipped_rules([source]) == []


def test_a_picture_that_came_in_is_no_result(source: Path) -> None:
    assert conformance.check_file(source)[0].rule == "known_class"


@pytest.mark.parametrize(("offset_mm", "is_inside"), [(0, True), (-5, False), (100, False)])
def test_an_outline_in_space_stays_between_the_slices(offset_mm: float, is_inside: bool, run: Run) -> None:
    report = run.fresh(LESIONS)
    (x, y, z), *_ = (header.ImagePositionPatient for header in run.sources)
    outline = find_type(report, "SCOORD")
    outline.ValueType, outline.GraphicType = "SCOORD3D", "POLYGON"
    outline.ReferencedFrameOfReferenceUID = next(iter(run.sources)).FrameOfReferenceUID
    corners = [(1, 1), (9, 1), (9, 9), (1, 9), (1, 1)]
    outline.GraphicData = [
        value for right, down in corners for value in (x + right, y + down, z + 3 + offset_mm)
    ]

    assert ("outlines_inside" not in {one.rule for one in run.check(LESIONS, report)}) == is_inside


# --- whatever it is shown


def test_a_file_that_is_no_dicom_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "note.txt"
    path.write_text("not DICOM")

    with pytest.raises(DatasetError):
        conformance.check_file(path)
    with pytest.raises(DatasetError):
        conformance.read_headers([path])


def test_what_cannot_be_judged_does_not_pass(run: Run) -> None:
    broken = run.fresh(FINDINGS)
    find(broken, codes.DCM.Probability).MeasuredValueSequence[0].NumericValue = None
    broken.ContentSequence[-1].ConceptNameCodeSequence = []

    assert "measured_values" in {violation.rule for violation in run.check(FINDINGS, broken)}


@pytest.mark.parametrize("seed", range(40))
def test_no_damage_keeps_the_gate_from_an_answer(seed: int, run: Run) -> None:
    chance = random.Random(seed)  # noqa: S311 - damages files, guards nothing
    name = chance.choice(list(run.files))
    damaged = bytearray(run.files[name])
    for _ in range(3):
        damaged[chance.randrange(140, min(len(damaged), 20_000))] = chance.randrange(256)

    try:
        with dataset_faults(name):
            dataset = dcmread(BytesIO(damaged))
    except DatasetError:
        return

    assert all(violation.rule for violation in run.check(name, dataset))


@pytest.mark.parametrize("keyword", ["Rows", "NumberOfFrames", "SegmentSequence", "SOPClassUID", "PixelData"])
def test_an_object_without_what_rules_count_on_is_refused(keyword: str, run: Run) -> None:
    broken = run.fresh(SEGMENTATION)
    del broken[keyword]

    assert run.check(SEGMENTATION, broken)


def test_an_object_of_two_classes_is_refused(run: Run) -> None:
    broken = run.fresh(SEGMENTATION)
    assign("SOPClassUID", [broken.SOPClassUID, "1.2.3"])(broken, run)

    assert run.check(SEGMENTATION, broken)


def test_the_gate_leaves_the_object_as_it_is(source: Path, tmp_path: Path) -> None:
    (dataset,) = (one for kind, one in encode_case("findings", source).items() if kind == "summary_sr")
    before = save(deepcopy(dataset), tmp_path / "before.dcm").read_bytes()

    conformance.verify(dataset, [source])

    assert save(dataset, tmp_path / "after.dcm").read_bytes() == before
    assert dcmread(tmp_path / "after.dcm").PatientName == dcmread(source).PatientName
