import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from highdicom.ann import AnnotationGroup, MicroscopyBulkSimpleAnnotations

from node.domain.code import ATTENTION_WEIGHT, Code
from node.domain.findings import Findings
from node.domain.location import Frame, Marks, Shape
from node.encode.annotations import encode_annotations
from node.encode.identity import Result
from node.encode.source import read_sources
from tests.located import NO_UNITS, located_findings
from tests.peers.validators import dciodvfy_errors
from tests.results import ALGORITHM, make_context, save
from tests.shapes import IN_PATIENT, WRITERS, foreign
from tests.sources import Written, write_slide

CELL = Code("4421005", "SCT", "Cell")
POINTS = {Shape.POINT: 1, Shape.RECTANGLE: 4, Shape.POLYGON: 7}


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return write_slide(tmp_path_factory.mktemp("slide"))


def result_of(findings: Findings, written: Written) -> Result:
    return Result(findings, read_sources(written.paths, findings), make_context("marks"))


def annotations_of(
    findings: Findings, written: Written, folder: Path
) -> list[MicroscopyBulkSimpleAnnotations]:
    """The objects, as they are read back."""
    return [
        hd.ann.annread(save(one, folder / f"marks-{number}.dcm"))
        for number, one in enumerate(encode_annotations(result_of(findings, written)))
    ]


def marks_of(shape: Shape, number: int, frame: Frame, *, has_values: bool = True) -> Marks:
    """Marks all over the slide; of polygons each third one has a point more than the others."""
    rng = np.random.default_rng(number)
    points = list(rng.uniform(0, 500, (number, POINTS[shape], 2)).astype(np.float32))
    if shape is Shape.POLYGON:
        points[::3] = [np.vstack([one, one[:1] + np.float32(0.5)]) for one in points[::3]]
    if not has_values:
        return Marks(f"{shape} marks", CELL, frame, shape, points)
    values = rng.uniform(0, 1, number).astype(np.float32)
    return Marks(f"{shape} marks", CELL, frame, shape, points, ATTENTION_WEIGHT, NO_UNITS, values)


def assert_equal(group: AnnotationGroup, marks: Marks) -> None:
    found = group.get_graphic_data(coordinate_type="2D")
    assert group.graphic_type.value == marks.shape.upper()
    assert len(found) == len(marks.points_xy)
    assert all(
        one.dtype == np.float32 and one.tobytes() == points.tobytes()
        for one, points in zip(found, marks.points_xy, strict=True)
    )
    names, values, units = group.get_measurements()
    if marks.values is None:
        assert names == []
        return
    assert values[:, 0].tobytes() == marks.values.tobytes()
    assert [(name.value, name.scheme_designator) for name in names] == [("XAI-ATTN", "99SIGHTLINE")]
    assert [unit.value for unit in units] == ["1"]


@pytest.mark.parametrize("has_values", [True, False])
@pytest.mark.parametrize("shape", Shape)
def test_points_and_values_come_back_bit_by_bit(
    shape: Shape, has_values: bool, slide: Written, tmp_path: Path
) -> None:
    findings = located_findings(slide)
    marks = marks_of(shape, 50, findings.marks[0].frame, has_values=has_values)

    (annotations,) = annotations_of(replace(findings, marks=(marks,)), slide, tmp_path)

    (group,) = annotations.get_annotation_groups()
    assert_equal(group, marks)


def test_each_kind_of_marks_is_a_group_that_names_its_maker(slide: Written, tmp_path: Path) -> None:
    findings = located_findings(slide)
    frame = findings.marks[0].frame
    marks = tuple(marks_of(shape, 5, frame) for shape in Shape)

    (annotations,) = annotations_of(replace(findings, marks=marks), slide, tmp_path)

    groups = annotations.get_annotation_groups()
    assert [(group.number, group.label) for group in groups] == [
        (1, "point marks"),
        (2, "rectangle marks"),
        (3, "polygon marks"),
    ]
    assert len({group.uid for group in groups}) == 3
    for group, one in zip(groups, marks, strict=True):
        assert_equal(group, one)
        assert (group.annotated_property_type.value, group.annotated_property_type.meaning) == (
            CELL.value,
            CELL.meaning,
        )
        assert group.algorithm_type.value == "AUTOMATIC"
        (algorithm,) = group.algorithm_identification
        (maker,) = (one for one in annotations.ContributingEquipmentSequence if "DeviceUID" in one)
        assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == (ALGORITHM.name, ALGORITHM.version)
        assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion, algorithm.AlgorithmSource) == (
            maker.ManufacturerModelName,
            maker.SoftwareVersions,
            maker.Manufacturer,
        )


def test_each_marked_level_has_an_object_of_its_own(slide: Written, tmp_path: Path) -> None:
    findings = located_findings(slide)
    frames = [Frame(uid) for uid in findings.sop_instance_uids]
    marks = tuple(
        replace(marks_of(shape, 5, frame), identifier=f"{shape} on {number}")
        for number, frame in enumerate(frames)
        for shape in (Shape.POINT, Shape.RECTANGLE)
    )

    found = annotations_of(replace(findings, marks=marks), slide, tmp_path)

    assert [one.ReferencedImageSequence[0].ReferencedSOPInstanceUID for one in found] == list(
        findings.sop_instance_uids
    )
    assert [[group.label for group in one.get_annotation_groups()] for one in found] == [
        ["point on 0", "rectangle on 0"],
        ["point on 1", "rectangle on 1"],
    ]
    assert len({one.SOPInstanceUID for one in found}) == 2
    assert len({one.SeriesInstanceUID for one in found}) == 1
    for one in found:
        assert (one.AnnotationCoordinateType, one.PixelOriginInterpretation) == ("2D", "VOLUME")


def test_our_own_codes_are_declared(slide: Written, tmp_path: Path) -> None:
    findings = located_findings(slide)
    frame = findings.marks[0].frame

    declared = {
        has_values: [
            item.CodingSchemeDesignator
            for one in annotations_of(
                replace(findings, marks=(marks_of(Shape.POINT, 5, frame, has_values=has_values),)),
                slide,
                tmp_path,
            )
            for item in one.get("CodingSchemeIdentificationSequence", ())
        ]
        for has_values in (True, False)
    }

    assert declared == {True: ["99SIGHTLINE"], False: []}


@pytest.mark.parametrize("shape", IN_PATIENT)
def test_only_slides_have_annotations(shape: str, slide: Written, tmp_path: Path) -> None:
    written = WRITERS[shape](tmp_path / "source")
    findings = located_findings(written)
    frame = findings.masks[0].frames[0]
    marked = replace(findings, marks=(marks_of(Shape.POINT, 5, frame),))

    assert annotations_of(findings, written, tmp_path) == []
    assert annotations_of(marked, written, tmp_path) == []


def test_a_foreign_slide_keeps_none(slide: Written, tmp_path: Path) -> None:
    findings = located_findings(slide)

    assert annotations_of(foreign(findings), slide, tmp_path) == []
    assert annotations_of(replace(findings, marks=()), slide, tmp_path) == []


@pytest.mark.parametrize("shape", Shape)
def test_a_hundred_thousand_marks_take_little_time(shape: Shape, slide: Written) -> None:
    findings = located_findings(slide)
    marks = marks_of(shape, 100_000, findings.marks[0].frame)
    result = result_of(replace(findings, marks=(marks,)), slide)

    started = time.process_time()
    (annotations,) = encode_annotations(result)
    seconds = time.process_time() - started

    assert annotations.AnnotationGroupSequence[0].NumberOfAnnotations == 100_000
    assert seconds < 2


@pytest.mark.parametrize("shape", Shape)
def test_marks_take_little_more_memory_than_their_points(shape: Shape, slide: Written) -> None:
    number = 10_000
    findings = located_findings(slide)
    marks = marks_of(shape, number, findings.marks[0].frame)
    result = result_of(replace(findings, marks=(marks,)), slide)

    tracemalloc.start()
    list(encode_annotations(result))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    # The points as one array and as bytes, the values, a pointer to each mark, and a little for the header.
    assert peak_bytes < 4 * sum(points.nbytes for points in marks.points_xy) + 64 * number + 500_000


def test_dciodvfy_finds_no_error(slide: Written, tmp_path: Path) -> None:
    findings = located_findings(slide)
    marks = tuple(marks_of(shape, 5, findings.marks[0].frame) for shape in Shape)

    annotations_of(replace(findings, marks=marks), slide, tmp_path)

    assert dciodvfy_errors([tmp_path / "marks-0.dcm"]) == []


def test_encoding_twice_gives_the_same_bytes(slide: Written, tmp_path: Path) -> None:
    findings = located_findings(slide)

    first, second = (
        (annotations_of(findings, slide, tmp_path), (tmp_path / "marks-0.dcm").read_bytes())[1]
        for _ in range(2)
    )

    assert first == second
