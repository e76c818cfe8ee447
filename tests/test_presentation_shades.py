import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms
from pydicom import dcmread
from pydicom.uid import (
    ColorSoftcopyPresentationStateStorage,
)

from node.domain.image import Window
from node.read.picture import read_picture
from tests import datasets
from tests.located import located_findings
from tests.marked import (
    Case,
    doubtful_second,
    lines_of,
    on_pictures,
    states_of,
)
from tests.peers import need_program
from tests.results import save
from tests.shapes import WRITERS
from tests.sources import Written, write_ct_series


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    written = {shape: write(tmp_path_factory.mktemp(shape)) for shape, write in WRITERS.items()}
    return {shape: Case(one, doubtful_second(located_findings(one))) for shape, one in written.items()}


# --- which pictures


def test_slices_that_are_shown_alike_share_a_state(cases: dict[str, Case], tmp_path: Path) -> None:
    case = cases["series"]
    findings = on_pictures(case.findings, 2, 9)

    (state,) = states_of(findings, case.written.paths, tmp_path)

    (series,) = state.ReferencedSeriesSequence
    uids = [region.outline.frame.sop_instance_uid for region in findings.regions]
    assert series.SeriesInstanceUID == findings.series_instance_uid
    assert [image.ReferencedSOPInstanceUID for image in series.ReferencedImageSequence] == uids
    (window,) = state.SoftcopyVOILUTSequence
    assert (window.WindowCenter, window.WindowWidth) == (40, 400)
    assert len(window.ReferencedImageSequence) == 2
    assert [lines_of(state)[name][1].ReferencedSOPInstanceUID for name in ("Lesion 1", "Lesion 2")] == uids


def test_the_window_of_the_findings_stands_in_place_of_that_of_the_slices(
    cases: dict[str, Case], tmp_path: Path
) -> None:
    case = cases["series"]
    findings = replace(on_pictures(case.findings, 2, 9), window=Window(-600, 1500))

    (state,) = states_of(findings, case.written.paths, tmp_path)

    (window,) = state.SoftcopyVOILUTSequence
    assert (window.WindowCenter, window.WindowWidth) == (-600, 1500)


def test_frames_are_referred_to_by_their_numbers(cases: dict[str, Case], tmp_path: Path) -> None:
    case = cases["enhanced"]
    findings = on_pictures(case.findings, 2, 9)

    (state,) = states_of(findings, case.written.paths, tmp_path)

    (image,) = state.ReferencedSeriesSequence[0].ReferencedImageSequence
    assert image.ReferencedFrameNumber == [3, 10]
    assert [lines_of(state)[name][1].ReferencedFrameNumber for name in ("Lesion 1", "Lesion 2")] == [3, 10]
    (window,) = state.SoftcopyVOILUTSequence
    assert [one.ReferencedFrameNumber for one in window.ReferencedImageSequence] == [3, 10]


@pytest.mark.parametrize(
    ("change", "states", "windows"),
    [
        ({"RescaleSlope": 2}, [1, 1], [[40], [40]]),
        ({"WindowCenter": -600}, [2], [[40, -600]]),
        ({"PhotometricInterpretation": "MONOCHROME1"}, [1, 1], [[40], [40]]),
        ({"PixelSpacing": [0.7, 0.9]}, [1, 1], [[40], [40]]),
    ],
)
def test_slices_that_are_shown_differently_do_not_share_one(
    change: dict[str, object], states: list[int], windows: list[list[int]], tmp_path: Path
) -> None:
    written = write_ct_series(tmp_path / "ct")
    findings = on_pictures(doubtful_second(located_findings(written)), 2, 9)
    dataset = dcmread(written.paths[9])
    for keyword, value in change.items():
        setattr(dataset, keyword, value)
    dataset.save_as(written.paths[9])

    found = states_of(findings, written.paths, tmp_path)

    assert [len(one.ReferencedSeriesSequence[0].ReferencedImageSequence) for one in found] == states
    assert [[int(item.WindowCenter) for item in one.SoftcopyVOILUTSequence] for one in found] == windows
    assert len({one.SOPInstanceUID for one in found}) == len(found)
    assert len({one.SeriesInstanceUID for one in found}) == 1


# --- how they are shown


def test_the_area_shown_is_the_whole_picture(cases: dict[str, Case], tmp_path: Path) -> None:
    corners = {"radiograph": [256, 256], "series": [48, 64], "enhanced": [48, 64], "slide": [768, 512]}

    for shape, case in cases.items():
        (state,) = states_of(case.findings, case.written.paths, tmp_path)

        (area,) = state.DisplayedAreaSelectionSequence
        assert list(area.DisplayedAreaTopLeftHandCorner) == [1, 1]
        assert list(area.DisplayedAreaBottomRightHandCorner) == corners[shape]
        assert area.get("PixelOriginInterpretation") == ("VOLUME" if shape == "slide" else None)
        if shape in ("series", "enhanced"):
            assert list(area.PresentationPixelSpacing) == [0.7, 0.8]


def test_values_become_gray_as_in_the_source(cases: dict[str, Case], tmp_path: Path) -> None:
    for shape in ("series", "enhanced"):
        case = cases[shape]

        (state,) = states_of(case.findings, case.written.paths, tmp_path)

        assert (state.RescaleIntercept, state.RescaleSlope, state.RescaleType) == (-1024, 1, "HU")
        assert state.PresentationLUTShape == "IDENTITY"


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("has_table", [False, True])
def test_a_renderer_shows_it_as_the_reader_saw_it(photometric: str, has_table: bool, tmp_path: Path) -> None:
    renderer = need_program("dcmp2pgm", "dcmtk")
    pixels = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
    dataset = datasets.radiograph(pixels, PhotometricInterpretation=photometric, BitsStored=12, HighBit=11)
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.1", "1.2.2"
    # The renderer wants one.
    dataset.PatientName = "Nobody"
    if has_table:
        curve = (np.linspace(0, 1, 4096) ** 2 * 4095).astype(int).tolist()
        dataset.VOILUTSequence = [datasets.lut(curve, 0, 12)]
    else:
        dataset.WindowCenter, dataset.WindowWidth = 1500, 2000
    path = save(dataset, tmp_path / "cr.dcm")
    mask = np.zeros((1, 64, 64), bool)
    mask[:, 20:40, 8:16] = True
    findings = located_findings(Written([path], (mask,), None))
    states_of(findings, [path], tmp_path)

    subprocess.run(
        [renderer, "-p", tmp_path / "state-0.dcm", path, tmp_path / "shown.pgm"], check=True, timeout=60
    )

    shown = np.asarray(Image.open(tmp_path / "shown.pgm"), np.float32) / 255
    # The renderer rounds to 8 bits, and spreads its values by the rules for displays.
    assert (
        np.abs(shown - read_picture(replace(datasets.instance(path), sop_instance_uid="1.2.3")).pixels).max()
        < 0.02
    )


def test_a_damaged_window_is_left_out(tmp_path: Path) -> None:
    written = write_ct_series(tmp_path / "ct")
    findings = located_findings(written)
    frame = findings.regions[0].outline.frame
    path = next(one for one in written.paths if dcmread(one).SOPInstanceUID == frame.sop_instance_uid)
    data = path.read_bytes()
    assert data.count(b"DS\x06\x00400.0 ") == 1
    path.write_bytes(data.replace(b"DS\x06\x00400.0 ", b"DS\x06\x00wide  "))

    (state,) = states_of(findings, written.paths, tmp_path)

    assert "SoftcopyVOILUTSequence" not in state
    assert set(lines_of(state)) == {"Lesion 1", "Lesion 2"}


def test_a_slide_is_shown_in_its_own_colors(cases: dict[str, Case], tmp_path: Path) -> None:
    case = cases["slide"]

    (state,) = states_of(case.findings, case.written.paths, tmp_path)

    stated = dcmread(case.written.paths[0]).OpticalPathSequence[0].ICCProfile
    assert state.SOPClassUID == ColorSoftcopyPresentationStateStorage
    # A display's profile: the class alone is another, as the standard wants that of an input device.
    assert state.ICCProfile[:12] + b"mntr" + state.ICCProfile[16:] == stated
    assert state.ICCProfile[12:16] == b"scnr"


@pytest.mark.parametrize("profile", [None, b"no profile at all"])
def test_a_slide_without_a_usable_profile_is_taken_for_srgb(
    profile: bytes | None, cases: dict[str, Case], tmp_path: Path
) -> None:
    case = cases["slide"]
    dataset = dcmread(case.written.paths[0])
    dataset.OpticalPathSequence[0].ICCProfile = profile
    path = save(dataset, tmp_path / "slide.dcm")

    (state,) = states_of(case.findings, [path, case.written.paths[1]], tmp_path)

    (tmp_path / "found.icc").write_bytes(state.ICCProfile)
    described = ImageCms.getProfileDescription(ImageCms.getOpenProfile(str(tmp_path / "found.icc")))
    assert "sRGB" in described
