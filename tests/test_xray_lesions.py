"""A planted lesion from the pixels of a radiograph to its box in every object, whatever the shape."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.sr.codedict import codes

from node import conformance
from node.domain.code import PNEUMONIA
from node.domain.findings import Doubt, Findings, Presence
from node.domain.image import Image
from node.domain.profile import Kind, Profile
from node.encode import codes as used
from node.encode import encode
from node.encode.markings import PRESENT, REVIEW
from node.encode.overlay import draw_overlay
from node.read.projection import read_projection
from tests.detecting import A_LEFT_LUNG, SeeingEngine, bright_box
from tests.displayed import is_color
from tests.marked import lines_of, points_of
from tests.peers.validators import dciodvfy_errors
from tests.rectangles import Shape, analyze, write
from tests.results import make_context, save
from tests.trees import code_of, named, number_of, texts_of

KINDS = (
    Kind.FINDINGS_SR,
    Kind.LESIONS_SR,
    Kind.SUMMARY_SR,
    Kind.PRESENTATION_STATE,
    Kind.SECONDARY_CAPTURE,
)
TOLERANCE_PX = 2
"""In pixels of the source, whatever its size: what was asked for."""

AT_DETECTOR = "size at the detector, larger than in the patient (Imager Pixel Spacing)"
AT_PATIENT = "size at the patient (Pixel Spacing)"


SHAPES = {
    "monochrome1": Shape(
        700, 600, (80, 330, 200, 430), "MONOCHROME1", pixel_spacing=(0.4, 0.4), imager_spacing=(0.5, 0.5)
    ),
    "spacing": Shape(640, 640, (400, 100, 520, 300), pixel_spacing=(0.2, 0.6)),
    "rotated spacing": Shape(640, 640, (400, 100, 520, 300), pixel_spacing=(0.6, 0.2)),
    "wide with non-square pixels": Shape(
        400, 1300, (150, 33, 390, 161), "MONOCHROME1", imager_spacing=(0.7, 0.25)
    ),
    "tall with non-square pixels": Shape(1500, 500, (333, 801, 444, 1111), imager_spacing=(0.2, 0.55)),
    "large": Shape(3000, 3000, (1811, 517, 2203, 949), imager_spacing=(0.14, 0.14)),
    "large monochrome1": Shape(
        3000, 3000, (401, 1717, 811, 2209), "MONOCHROME1", pixel_spacing=(0.139, 0.139)
    ),
    "at the edge": Shape(500, 700, (0, 400, 140, 500), imager_spacing=(0.4, 0.4)),
    "without spacing": Shape(450, 500, (300, 100, 390, 220), modality="CR"),
}
SPACING_WORDS = {
    "monochrome1": AT_PATIENT,
    "spacing": AT_PATIENT,
    "rotated spacing": AT_PATIENT,
    "large monochrome1": AT_PATIENT,
    "without spacing": "size unknown: the image does not state how large its pixels are",
}


class Case:
    """One radiograph, what is found on it, and the objects that are made of that."""

    def __init__(self, shape: Shape, folder: Path, engine: SeeingEngine | None = None) -> None:
        self.shape, self.folder = shape, folder
        self.instance = write(shape, folder)
        self.image = read_projection(self.instance)
        self.findings = analyze(self.instance, engine or SeeingEngine())
        self.paths = self.encoded(self.findings, self.image)

    def encoded(self, findings: Findings, image: Image, prefix: str = "") -> dict[Kind, Path]:
        context = make_context("lesions", image, profile=Profile(KINDS))
        objects = encode(findings, [self.instance.path], context)
        return {one.kind: save(one.dataset, self.folder / f"{prefix}{one.kind}.dcm") for one in objects}

    def read(self, kind: Kind) -> Dataset:
        return dcmread(self.paths[kind])


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    return {
        name: Case(shape, tmp_path_factory.mktemp(f"case-{number}"))
        for number, (name, shape) in enumerate(SHAPES.items())
    }


# --- the box


def error_px(points: np.ndarray, box: tuple[float, ...]) -> float:
    return float(np.abs(np.subtract([*points.min(axis=0), *points.max(axis=0)], box)).max())


@pytest.mark.parametrize("name", SHAPES)
def test_the_report_has_the_box_where_the_lesion_is(name: str, cases: dict[str, Case]) -> None:
    case = cases[name]

    (item,) = named(case.read(Kind.LESIONS_SR), used.IMAGE_REGION)

    points = np.reshape(item.GraphicData, (-1, 2))
    assert error_px(points, case.shape.box) <= TOLERANCE_PX
    assert (item.GraphicType, len(points)) == ("POLYLINE", 5)
    (source,) = item.ContentSequence
    assert source.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == case.instance.sop_instance_uid


@pytest.mark.parametrize("name", SHAPES)
def test_the_presentation_state_has_the_same_box(name: str, cases: dict[str, Case]) -> None:
    case = cases[name]

    lines = lines_of(case.read(Kind.PRESENTATION_STATE))

    assert list(lines) == ["Lesion 1"]
    layer, _, line = lines["Lesion 1"]
    assert error_px(points_of(line), case.shape.box) <= TOLERANCE_PX
    assert (layer, line.GraphicAnnotationUnits) == ("AI_FINDINGS", "PIXEL")
    (item,) = named(case.read(Kind.LESIONS_SR), used.IMAGE_REGION)
    assert np.array_equal(np.ravel(points_of(line)), np.float32(item.GraphicData))


@pytest.mark.parametrize("name", SHAPES)
def test_the_picture_shows_the_box_where_it_shows_the_lesion(name: str, cases: dict[str, Case]) -> None:
    case = cases[name]
    plain = case.encoded(replace(case.findings, regions=()), case.image, "plain-")

    drawn, empty = (pixels_of(dcmread(one[Kind.SECONDARY_CAPTURE])) for one in (case.paths, plain))

    # How large the picture's pixels are, and where it begins, is seen in it: no scale of the code is used.
    seen = bright_box(empty_body(empty))
    left, top, right, bottom = line_around(is_color(drawn, PRESENT), seen)
    across = (case.shape.box[2] - case.shape.box[0]) / (seen[2] - seen[0])
    down = (case.shape.box[3] - case.shape.box[1]) / (seen[3] - seen[1])
    errors_px = np.subtract((left, top, right, bottom), seen) * (across, down, across, down)
    assert np.abs(errors_px).max() <= TOLERANCE_PX


def pixels_of(capture: Dataset) -> np.ndarray:
    return np.frombuffer(capture.PixelData, np.uint8)[: capture.Rows * capture.Columns * 3].reshape(
        capture.Rows, capture.Columns, 3
    )


def empty_body(pixels: np.ndarray) -> np.ndarray:
    """The gray of the picture that has no line yet, without the caption, which is black behind its words."""
    gray = pixels.mean(axis=2).astype(np.float32)
    is_black = np.median(gray, axis=1) < 10
    return gray[: int(is_black.argmax())]


def line_around(line: np.ndarray, seen: tuple[float, float, float, float]) -> tuple[float, ...]:
    """The middles of the four lines, met from the middle of the box outwards: no label lies there."""
    row, column = round((seen[1] + seen[3]) / 2), round((seen[0] + seen[2]) / 2)
    across = middles(line[row - 3 : row + 4].all(axis=0), column)
    down = middles(line[:, column - 3 : column + 4].all(axis=1), row)
    return across[0], down[0], across[1], down[1]


def middles(is_line: np.ndarray, inside: int) -> tuple[float, float]:
    at = np.flatnonzero(is_line)
    before, after = at[at < inside], at[at > inside]
    first = after[after < after[0] + 8]
    last = before[before > before[-1] - 8]
    # A line on the edge of the picture is cut: there its middle is the edge.
    edge_before = 0.0 if last[0] == 0 else float(last.mean()) + 0.5
    edge_after = float(len(is_line)) if first[-1] == len(is_line) - 1 else float(first.mean()) + 0.5
    return edge_before, edge_after


# --- its size and its side


@pytest.mark.parametrize("name", SHAPES)
def test_its_size_is_that_of_the_pixels_and_it_says_which(name: str, cases: dict[str, Case]) -> None:
    case = cases[name]
    report = case.read(Kind.LESIONS_SR)

    sizes = [
        number_of(one)
        for quantity in (codes.SCT.LongAxis, codes.SCT.ShortAxis)
        for one in named(report, quantity)
    ]

    spacing = case.shape.pixel_spacing or case.shape.imager_spacing
    left, top, right, bottom = case.shape.box
    sides = sorted(((bottom - top) * spacing[0], (right - left) * spacing[1])) if spacing else []
    expected = [(pytest.approx(side, abs=2 * max(spacing or ())), "mm") for side in reversed(sides)]
    assert sizes == expected
    (comment,) = [one.TextValue for one in named(report, used.COMMENT)]
    assert comment == SPACING_WORDS.get(name, AT_DETECTOR)


def test_the_picture_warns_where_sizes_are_not_the_patients(cases: dict[str, Case]) -> None:
    case = cases["large"]
    unsized = replace(case.findings, regions=(replace(case.findings.regions[0], measurements=()),))

    pictures = (
        (case.image, case.findings),
        (replace(case.image, spacing_yx_mm=None), case.findings),
        (case.image, unsized),
    )
    sized, unknown, without = (draw_overlay(*one, "algorithm 1").pixels.shape[0] for one in pictures)

    # One line more, of at least the smallest letters.
    assert sized - unknown >= 14
    assert without <= unknown


@pytest.mark.parametrize(("name", "side"), [("monochrome1", "24028007"), ("large", "7771000")])
def test_its_side_is_the_patients(name: str, side: str, cases: dict[str, Case]) -> None:
    report = cases[name].read(Kind.LESIONS_SR)

    assert {code_of(one) for one in named(report, codes.SCT.Laterality)} == {side}
    assert {code_of(one) for one in named(report, codes.SCT.FindingSite)} == {codes.SCT.Lung.value}


# --- conformance


@pytest.mark.parametrize("name", SHAPES)
def test_every_object_leaves_through_the_gate(name: str, cases: dict[str, Case]) -> None:
    case = cases[name]
    objects = {kind: dcmread(path) for kind, path in case.paths.items()}

    assert set(objects) == set(KINDS)
    for kind, dataset in objects.items():
        siblings = [one for other, one in objects.items() if other is not kind]
        assert conformance.check(dataset, [case.instance.path], siblings) == []


def test_validators_find_nothing_wrong(cases: dict[str, Case]) -> None:
    paths = [path for case in cases.values() for path in case.paths.values()]

    assert dciodvfy_errors(paths) == []


# --- contradictions, and the map beside the box


def test_a_contradiction_is_told_in_every_object(tmp_path: Path) -> None:
    case = Case(SHAPES["spacing"], tmp_path, SeeingEngine(probability=(0.05, 0.05, 0.05)))

    assert [one.presence for one in case.findings.scores] == [
        Presence.UNDETERMINED,
        Presence.ABSENT,
        Presence.ABSENT,
    ]
    summary = texts_of(case.paths[Kind.SUMMARY_SR], used.FINDING)
    assert any(f"Pneumonia: UNCERTAIN - needs review ({Doubt.OUTLINED})" in one for one in summary)
    assert any(one.startswith("Lesion 1") and f"({Doubt.NOT_CLASSIFIED})" in one for one in summary)
    comments = texts_of(case.paths[Kind.LESIONS_SR], used.COMMENT)
    assert f"UNCERTAIN - needs review ({Doubt.NOT_CLASSIFIED})" in comments
    comments = texts_of(case.paths[Kind.FINDINGS_SR], used.COMMENT)
    assert comments == [f"UNCERTAIN - needs review ({Doubt.OUTLINED})"]
    assert lines_of(case.read(Kind.PRESENTATION_STATE))["Lesion 1"][0] == "AI_REVIEW"
    drawn = pixels_of(case.read(Kind.SECONDARY_CAPTURE))
    assert is_color(drawn, REVIEW).any()
    assert not is_color(drawn, PRESENT).any()
    assert dciodvfy_errors(case.paths.values()) == []


@pytest.mark.parametrize(("share", "is_contradicted"), [(0.97, True), (0.4, False)])
def test_what_is_not_outlined_means_as_much_as_the_card_says(
    share: float, is_contradicted: bool, tmp_path: Path
) -> None:
    engine = SeeingEngine(label=A_LEFT_LUNG, outlined_share={PNEUMONIA.value: share})

    findings = analyze(write(SHAPES["spacing"], tmp_path), engine)

    assert findings.regions == ()
    assert (findings.scores[0].contradiction is Doubt.NOT_OUTLINED) is is_contradicted
    told = [one for one in findings.remarks if "outline" in one]
    assert [f"on {share:.0%}" in one for one in told] == ([] if is_contradicted else [True])


def test_on_a_foreign_image_nothing_is_drawn_and_no_figure_is_told(tmp_path: Path) -> None:
    case = Case(SHAPES["spacing"], tmp_path, SeeingEngine(strangeness=2.0))

    assert Kind.PRESENTATION_STATE not in case.paths
    assert not is_color(pixels_of(case.read(Kind.SECONDARY_CAPTURE)), PRESENT).any()
    report = case.read(Kind.LESIONS_SR)
    assert named(report, used.FINDING) == named(report, used.CERTAINTY) == []
    assert len(named(report, used.IMAGE_REGION)) == 1


def test_the_map_of_the_classifier_lies_under_the_box_in_one_picture(tmp_path: Path) -> None:
    shape = SHAPES["wide with non-square pixels"]
    activation = np.zeros((50, 130), np.float32)
    activation[4:20, 15:39] = 1
    case = Case(shape, tmp_path, SeeingEngine(activation=activation))
    plain = case.encoded(replace(case.findings, scores=(), regions=()), case.image, "plain-")

    drawn = pixels_of(case.read(Kind.SECONDARY_CAPTURE))
    empty = empty_body(pixels_of(dcmread(plain[Kind.SECONDARY_CAPTURE])))

    seen = bright_box(empty)
    body = drawn[: len(empty)].astype(int)
    rows, columns = np.nonzero(body[..., 0] - body[..., 2] > 60)
    # The map ends within an eighth of the network's picture, and the line is drawn over it.
    slack = len(empty) / 50
    middle = (columns.mean(), rows.mean())
    assert np.abs(np.subtract(middle, ((seen[0] + seen[2]) / 2, (seen[1] + seen[3]) / 2))).max() < slack
    assert len(rows) > 0.5 * (seen[2] - seen[0]) * (seen[3] - seen[1])
