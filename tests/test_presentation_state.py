import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from highdicom.color import CIELabColor
from pydicom import dcmread
from pydicom.uid import (
    ColorSoftcopyPresentationStateStorage,
    GrayscaleSoftcopyPresentationStateStorage,
)

from node.domain.findings import Findings, Presence
from node.encode.identity import Result
from node.encode.markings import PRESENT, REVIEW
from node.encode.source import read_sources
from tests.located import located_findings
from tests.marked import (
    Case,
    doubtful_second,
    lines_of,
    objects_of,
    points_of,
    states_of,
    with_outline,
    words_of,
)
from tests.peers import need_program
from tests.peers.validators import dciodvfy_errors
from tests.results import make_context, save, score
from tests.shapes import WRITERS, foreign
from tests.sources import Written, real_ct_series, real_radiographs

WARNING = "AI result - not for primary diagnosis - unverified"


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    written = {shape: write(tmp_path_factory.mktemp(shape)) for shape, write in WRITERS.items()}
    return {shape: Case(one, doubtful_second(located_findings(one))) for shape, one in written.items()}


@pytest.mark.parametrize("shape", WRITERS)
def test_each_region_is_a_closed_line_where_it_was_found(
    shape: str, cases: dict[str, Case], tmp_path: Path
) -> None:
    case = cases[shape]

    (state,) = states_of(case.findings, case.written.paths, tmp_path)

    lines = lines_of(state)
    assert set(lines) == {region.identifier for region in case.findings.regions}
    for region in case.findings.regions:
        layer, image, line = lines[region.identifier]
        points = points_of(line)
        assert np.array_equal(points[:-1], region.outline.points_xy)
        assert np.array_equal(points[-1], points[0])
        assert line.NumberOfGraphicPoints == len(points)
        assert (line.GraphicType, line.GraphicFilled) == ("POLYLINE", "N")
        assert line.GraphicAnnotationUnits == ("MATRIX" if shape == "slide" else "PIXEL")
        assert image.ReferencedSOPInstanceUID == region.outline.frame.sop_instance_uid
        assert image.get("ReferencedFrameNumber") == region.outline.frame.frame_number
        assert layer == (
            "AI_FINDINGS" if case.findings.presence_of(region) is Presence.PRESENT else "AI_REVIEW"
        )


@pytest.mark.parametrize("shape", WRITERS)
def test_words_say_what_it_is_and_how_sure(shape: str, cases: dict[str, Case], tmp_path: Path) -> None:
    case = cases[shape]

    (state,) = states_of(case.findings, case.written.paths, tmp_path)

    words = words_of(state)
    figure = (
        "Normalized attention weight 0.125"
        if shape == "slide"
        else "probability 91 % (95 % interval 85-95 %)"
    )
    assert words["Lesion 1"][2].UnformattedTextValue == f"1 Nodule\r\n{figure}"
    assert words["Lesion 2"][2].UnformattedTextValue == (
        "2 Nodule - needs review\r\nprobability 58 % (95 % interval 42-70 %)"
    )
    for identifier, (layer, image, text) in words.items():
        line_layer, line_image, line = lines_of(state)[identifier]
        assert (layer, image) == (line_layer, line_image)
        assert text.TrackingUID == line.TrackingUID
        assert text.AnchorPointAnnotationUnits == line.GraphicAnnotationUnits
        assert list(text.AnchorPoint) in points_of(line).tolist()
    assert words["Lesion 1"][2].AnchorPoint != words["Lesion 2"][2].AnchorPoint


def test_words_of_regions_at_one_place_stand_apart(cases: dict[str, Case], tmp_path: Path) -> None:
    case = cases["series"]
    region = case.findings.regions[0]
    regions = tuple(replace(region, identifier=f"Lesion {number}") for number in range(4))

    (state,) = states_of(replace(case.findings, regions=regions), case.written.paths, tmp_path)

    assert len({tuple(text.AnchorPoint) for _, _, text in words_of(state).values()}) == 4


@pytest.mark.parametrize("shape", WRITERS)
def test_the_tracking_uid_is_that_of_every_other_object(
    shape: str, cases: dict[str, Case], tmp_path: Path
) -> None:
    case = cases[shape]
    result = Result(case.findings, read_sources(case.written.paths, case.findings), make_context("states"))

    (state,) = states_of(case.findings, case.written.paths, tmp_path)

    for region in case.findings.regions:
        assert lines_of(state)[region.identifier][2].TrackingUID == result.tracking_uid(region.identifier)


def test_each_meaning_has_its_layer_and_color(cases: dict[str, Case], tmp_path: Path) -> None:
    case = cases["series"]

    (state,) = states_of(case.findings, case.written.paths, tmp_path)

    layers = {layer.GraphicLayer: layer for layer in state.GraphicLayerSequence}
    assert [(name, layer.GraphicLayerOrder) for name, layer in layers.items()] == [
        ("AI_NOTICE", 1),
        ("AI_REVIEW", 2),
        ("AI_FINDINGS", 3),
    ]
    grays = [layer.GraphicLayerRecommendedDisplayGrayscaleValue for layer in layers.values()]
    assert grays == sorted(grays)
    assert grays[-1] == 0xFFFF
    for name, color in (("AI_REVIEW", REVIEW), ("AI_FINDINGS", PRESENT)):
        lab = CIELabColor.from_dicom_value(layers[name].GraphicLayerRecommendedDisplayCIELabValue)
        assert np.abs(np.subtract(lab.to_rgb(), color)).max() <= 1


def test_a_layer_without_marks_is_not_declared(cases: dict[str, Case], tmp_path: Path) -> None:
    case = cases["series"]
    findings = replace(case.findings, regions=case.findings.regions[:1])

    (state,) = states_of(findings, case.written.paths, tmp_path)

    assert [layer.GraphicLayer for layer in state.GraphicLayerSequence] == ["AI_NOTICE", "AI_FINDINGS"]


@pytest.mark.parametrize("shape", WRITERS)
def test_every_picture_warns_that_nobody_has_checked_it(
    shape: str, cases: dict[str, Case], tmp_path: Path
) -> None:
    case = cases[shape]

    (state,) = states_of(case.findings, case.written.paths, tmp_path)

    notices = [item for layer, _, item in objects_of(state) if layer == "AI_NOTICE"]
    assert [item.UnformattedTextValue for item in notices] == [WARNING]
    assert state.ContentDescription == WARNING
    assert notices[0].BoundingBoxAnnotationUnits == "DISPLAY"


@pytest.mark.parametrize("shape", WRITERS)
def test_what_is_absent_or_foreign_is_not_drawn(shape: str, cases: dict[str, Case], tmp_path: Path) -> None:
    case = cases[shape]
    first, second = case.findings.regions
    absent = score(first.code, 0.12, (0.05, 0.2), Presence.ABSENT)
    hidden = replace(case.findings, regions=(replace(first, score=absent), second))

    (state,) = states_of(hidden, case.written.paths, tmp_path)

    assert set(lines_of(state)) == {"Lesion 2"}
    none_left = replace(hidden, regions=hidden.regions[:1])
    for findings in (none_left, foreign(case.findings), replace(case.findings, regions=())):
        assert states_of(findings, case.written.paths, tmp_path) == []


def test_an_outline_that_leaves_the_picture_stays_at_its_edge(cases: dict[str, Case], tmp_path: Path) -> None:
    case = cases["series"]
    findings = with_outline(case.findings, np.array([(-3, -2), (60, -2), (60, 80), (-3, 80)]))

    (state,) = states_of(findings, case.written.paths, tmp_path)

    points = points_of(lines_of(state)["Lesion 1"][2])
    assert points.tolist() == [[0, 0], [48, 0], [48, 64], [0, 64], [0, 0]]


def test_a_line_of_too_many_points_keeps_its_course(cases: dict[str, Case], tmp_path: Path) -> None:
    case = cases["series"]
    angle = np.linspace(0, 2 * np.pi, 50_000, endpoint=False)
    findings = with_outline(
        case.findings, np.stack([24 + 9 * np.cos(angle), 30 + 9 * np.sin(angle)], axis=-1)
    )

    (state,) = states_of(findings, case.written.paths, tmp_path)

    points = points_of(lines_of(state)["Lesion 1"][2])
    assert 4 * points.size < 1 << 16
    assert np.abs(np.hypot(*(points - (24, 30)).T) - 9).max() < 1e-4
    assert np.hypot(*np.diff(points, axis=0).T).max() < 0.02


# --- conformance


@pytest.mark.parametrize("shape", WRITERS)
def test_validators_find_nothing_wrong(shape: str, cases: dict[str, Case], tmp_path: Path) -> None:
    checker = need_program("dcmpschk", "dcmtk")
    case = cases[shape]
    (state,) = states_of(case.findings, case.written.paths, tmp_path)
    path = tmp_path / "state-0.dcm"

    done = subprocess.run([checker, path], capture_output=True, timeout=60, check=False)

    expected = (
        ColorSoftcopyPresentationStateStorage
        if shape == "slide"
        else GrayscaleSoftcopyPresentationStateStorage
    )
    assert state.SOPClassUID == expected
    assert dciodvfy_errors([path]) == []
    assert complaints(done.stderr) == []


def complaints(output: bytes) -> list[str]:
    """What dcmpschk objects to, but for the patient's name: it cannot read names in UTF-8."""
    parts = output.decode("utf-8", "replace").split("E: Error: ")
    if len(parts) == 1:
        assert "Test passed" in parts[0]
    return [part for part in parts[1:] if "Affected attribute: PatientName (0010,0010)" not in part]


def test_encoding_twice_gives_the_same_bytes(cases: dict[str, Case], tmp_path: Path) -> None:
    for case in cases.values():
        first, second = (
            (states_of(case.findings, case.written.paths, tmp_path), (tmp_path / "state-0.dcm").read_bytes())[
                1
            ]
            for _ in range(2)
        )

        assert first == second


def test_real_images_are_marked_without_a_complaint(tmp_path: Path) -> None:
    checker = need_program("dcmpschk", "dcmtk")
    for path in (*real_radiographs(), real_ct_series()[100]):
        header = dcmread(path, stop_before_pixels=True, force=True)
        mask = np.zeros((1, header.Rows, header.Columns), bool)
        mask[:, 100:200, 120:180] = True
        findings = forced_findings(path, mask, tmp_path)

        (state,) = states_of(findings, [path], tmp_path)

        is_inverse = header.PhotometricInterpretation == "MONOCHROME1"
        assert state.PresentationLUTShape == ("INVERSE" if is_inverse else "IDENTITY")
        assert dciodvfy_errors([tmp_path / "state-0.dcm"]) == []
        done = subprocess.run(
            [checker, tmp_path / "state-0.dcm"], capture_output=True, timeout=60, check=False
        )
        assert complaints(done.stderr) == []


def forced_findings(path: Path, mask: np.ndarray, folder: Path) -> Findings:
    """Findings on a source that may lack its file meta information."""
    header = dcmread(path, stop_before_pixels=True, force=True)
    header.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    return located_findings(Written([save(header, folder / "header.dcm")], (mask,), None))
