"""Synthetic radiographs: their truth holds, and their files are valid DICOM."""

import shutil
import subprocess
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.pixels import apply_voi_lut
from pydicom.uid import ExplicitVRLittleEndian, JPEGLSLossless, RLELossless

from node.samples.anatomy import Lesion, Thorax, thorax_body
from node.samples.demo import RADIOGRAPHS, SLIDES, demo_samples
from node.samples.dicom import DxOptions, fresh_uid, write_dx
from node.samples.projection import integrate
from node.samples.shapes import is_lung
from node.samples.thorax import Radiograph, draw_exposure, project, projection_grid, thorax_radiograph

SEEDS = (0, 1, 2, 3, 17)
FINDINGS = ("consolidation", "nodule")
SIZE = 128

OPTIONS = {
    "default": DxOptions(),
    "MONOCHROME1": DxOptions(photometric_interpretation="MONOCHROME1"),
    "8 bit": DxOptions(bits_stored=8),
    "10 bit CR, MONOCHROME1": DxOptions(
        modality="CR", photometric_interpretation="MONOCHROME1", bits_stored=10
    ),
    "16 bit PA": DxOptions(bits_stored=16, view_position="PA"),
    "lateral": DxOptions(view_position="LL"),
    "hand": DxOptions(body_part_examined="HAND"),
    "RLE": DxOptions(transfer_syntax_uid=RLELossless),
    "JPEG-LS": DxOptions(transfer_syntax_uid=JPEGLSLossless),
}


@cache
def picture(seed: int, *, finding: str | None = None, size: int = SIZE) -> Radiograph:
    """Return a radiograph, drawn once for all tests: nothing changes it."""
    return thorax_radiograph(seed, finding=finding, size=size)


def brightness_where(radiograph: Radiograph, mask: np.ndarray) -> float:
    return float(radiograph.pixels[mask].mean())


def lung_and_heart_masks(body: Thorax) -> tuple[np.ndarray, np.ndarray]:
    x, z = projection_grid(draw_exposure(body), SIZE)
    lung_mm = integrate(body, x, z).lung_mm
    heart_x, _, heart_z = body.lungs.organs[0].center_xyz_mm
    heart = np.hypot(x - heart_x, z - heart_z) < 0.15 * body.scale_mm
    return lung_mm > 0.9 * body.scale_mm, heart


def lesion_of(body: Thorax) -> Lesion:
    assert body.lesion is not None
    return body.lesion


def as_displayed(path: Path) -> np.ndarray:
    """Return the picture 0–1 as a viewer shows it: windowed, dense tissue bright."""
    dataset = dcmread(path)
    shown = apply_voi_lut(dataset.pixel_array, dataset) / (2**dataset.BitsStored - 1)
    return 1 - shown if dataset.PhotometricInterpretation == "MONOCHROME1" else shown


@pytest.mark.parametrize("finding", [None, *FINDINGS])
def test_same_seed_gives_the_same_picture(finding: str | None) -> None:
    first = thorax_radiograph(5, finding=finding, size=SIZE)

    again = thorax_radiograph(5, finding=finding, size=SIZE)

    assert np.array_equal(first.pixels, again.pixels)
    assert first.truth == again.truth
    assert first.spacing_yx_mm == again.spacing_yx_mm


def test_another_seed_gives_another_picture() -> None:
    first, second = (thorax_radiograph(seed, size=SIZE) for seed in (5, 6))

    assert not np.array_equal(first.pixels, second.pixels)


def test_pixels_are_float32_between_zero_and_one() -> None:
    pixels = picture(4, size=SIZE).pixels

    assert pixels.shape == (SIZE, SIZE)
    assert pixels.dtype == np.float32
    assert pixels.min() >= 0
    assert pixels.max() <= 1


def test_unknown_finding_is_refused() -> None:
    with pytest.raises(ValueError, match="expected one of"):
        thorax_body(0, finding="pneumothorax")


@pytest.mark.parametrize("seed", SEEDS)
def test_lungs_are_darker_than_the_heart(seed: int) -> None:
    body = thorax_body(seed)
    lung, heart = lung_and_heart_masks(body)

    radiograph = project(body, size=SIZE)

    assert brightness_where(radiograph, lung) < brightness_where(radiograph, heart) - 0.1


@pytest.mark.parametrize("seed", SEEDS)
def test_heart_lies_to_the_patients_left_which_is_the_right_of_the_picture(seed: int) -> None:
    body = thorax_body(seed)
    x, z = projection_grid(draw_exposure(body), SIZE)

    heart_x, _, heart_z = body.lungs.organs[0].center_xyz_mm
    column = int(np.argmin(np.hypot(x - heart_x, z - heart_z))) % SIZE
    middle = int(np.argmin(np.hypot(x, z - heart_z))) % SIZE

    assert column > middle


@pytest.mark.parametrize("finding", FINDINGS)
@pytest.mark.parametrize("seed", SEEDS)
def test_finding_changes_nothing_in_the_anatomy(seed: int, finding: str) -> None:
    healthy, ill = thorax_body(seed), thorax_body(seed, finding=finding)

    assert healthy.lesion is None
    assert lesion_of(ill).finding == finding
    assert (healthy.lungs, healthy.ribs, healthy.vessels) == (ill.lungs, ill.ribs, ill.vessels)


@pytest.mark.parametrize("finding", FINDINGS)
@pytest.mark.parametrize("seed", SEEDS)
def test_finding_brightens_its_box(seed: int, finding: str) -> None:
    healthy, ill = picture(seed, size=SIZE), picture(seed, finding=finding, size=SIZE)
    assert ill.truth.box_xyxy_px is not None
    x0, y0, x1, y1 = ill.truth.box_xyxy_px

    gain = ill.pixels[y0:y1, x0:x1].mean() - healthy.pixels[y0:y1, x0:x1].mean()

    # A nodule of 5 mm over a rib is as faint as in life; a consolidation never is.
    assert gain > (0.04 if finding == "consolidation" else 0.005)


@pytest.mark.parametrize("finding", FINDINGS)
@pytest.mark.parametrize("seed", SEEDS)
def test_box_lies_in_the_picture_and_over_its_lung(seed: int, finding: str) -> None:
    body = thorax_body(seed, finding=finding)
    x, z = projection_grid(draw_exposure(body), SIZE)
    truth = project(body, size=SIZE).truth
    assert truth.box_xyxy_px is not None
    x0, y0, x1, y1 = truth.box_xyxy_px
    lung_mm = integrate(body, x, z).lung_mm[y0:y1, x0:x1]

    middle_x_mm = float(x[y0:y1, x0:x1].mean())

    assert 0 <= x0 < x1 <= SIZE
    assert 0 <= y0 < y1 <= SIZE
    assert (lung_mm > 0).mean() > 0.5
    assert ("R" if middle_x_mm < 0 else "L") == truth.laterality


@pytest.mark.parametrize("seed", SEEDS)
def test_nodule_is_5_to_30_mm_wide_and_inside_a_lung(seed: int) -> None:
    body = thorax_body(seed, finding="nodule")

    truth = project(body, size=SIZE).truth

    assert truth.diameter_mm is not None
    # Its three axes differ from the drawn diameter by up to a tenth.
    assert 4.5 <= truth.diameter_mm <= 33
    assert truth.center_xyz_mm is not None
    x, y, z = (np.asarray([value], dtype=np.float32) for value in truth.center_xyz_mm)
    assert is_lung(body.lungs, x, y, z).all()


def test_no_finding_has_no_box() -> None:
    truth = picture(0, size=SIZE).truth

    assert (truth.finding, truth.box_xyxy_px, truth.center_xyz_mm, truth.laterality) == (None,) * 4


def test_resolution_changes_the_spacing_and_not_the_body() -> None:
    coarse, fine = (picture(3, finding="nodule", size=size) for size in (SIZE, 2 * SIZE))

    assert coarse.spacing_yx_mm[0] == pytest.approx(2 * fine.spacing_yx_mm[0])
    assert coarse.truth.center_xyz_mm == fine.truth.center_xyz_mm


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="dciodvfy is missing: apt-get install dicom3tools")
@pytest.mark.parametrize("name", OPTIONS)
def test_written_file_has_no_error_for_dciodvfy(tmp_path: Path, name: str) -> None:
    path = write_dx(picture(1, size=SIZE), tmp_path, options=OPTIONS[name])

    result = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True, check=False)

    assert [line for line in (result.stdout + result.stderr).splitlines() if "Error" in line] == []


@pytest.mark.parametrize("name", OPTIONS)
def test_every_variant_shows_the_same_picture(tmp_path: Path, name: str) -> None:
    radiograph = picture(1, size=SIZE)

    path = write_dx(radiograph, tmp_path / "image.dcm", options=OPTIONS[name])

    # Half a gray level of the coarsest picture, 8 bit; the window's formula shifts by as much again.
    assert np.abs(as_displayed(path) - radiograph.pixels).max() <= 1 / 255


def test_odd_number_of_8_bit_pixels_is_padded(tmp_path: Path) -> None:
    radiograph = picture(1, size=65)

    path = write_dx(radiograph, tmp_path / "image.dcm", options=DxOptions(bits_stored=8))

    assert len(dcmread(path).PixelData) == 65 * 65 + 1
    assert as_displayed(path).shape == (65, 65)


def test_spacing_survives_the_file(tmp_path: Path) -> None:
    radiograph = picture(1, size=SIZE)

    dataset = dcmread(write_dx(radiograph, tmp_path))

    # The file keeps six decimals.
    assert [float(value) for value in dataset.PixelSpacing] == pytest.approx(
        radiograph.spacing_yx_mm, abs=1e-6
    )
    assert dataset.ImagerPixelSpacing == dataset.PixelSpacing


def test_file_in_a_folder_is_named_by_its_uid(tmp_path: Path) -> None:
    path = write_dx(picture(1, size=SIZE), tmp_path)

    dataset = dcmread(path)
    assert path == tmp_path / f"{dataset.SOPInstanceUID}.dcm"
    assert dataset.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian


def test_same_radiograph_is_the_same_instance(tmp_path: Path) -> None:
    first, again = (write_dx(picture(1, size=SIZE), tmp_path / name).read_bytes() for name in ("a", "b"))

    assert first == again


def test_no_two_studies_share_a_uid(tmp_path: Path) -> None:
    radiographs = [
        picture(seed, finding=finding, size=SIZE)
        for seed in (1, 2)
        for finding in (None, "nodule", "consolidation")
    ]
    given = DxOptions(study_instance_uid=fresh_uid())

    paths = [write_dx(radiograph, tmp_path) for radiograph in radiographs]
    paths += [write_dx(radiographs[0], tmp_path, options=options) for options in list(OPTIONS.values())[1:]]
    paths.append(write_dx(radiographs[0], tmp_path, options=given))

    datasets = [dcmread(path) for path in paths]
    keywords = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
    uids = [dataset[keyword].value for dataset in datasets for keyword in keywords]
    assert len(set(uids)) == len(uids)
    assert datasets[-1].StudyInstanceUID == given.study_instance_uid


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("modality", "MG"),
        ("photometric_interpretation", "RGB"),
        ("bits_stored", 7),
        ("view_position", "XX"),
        ("body_part_examined", "TAIL"),
    ],
)
def test_option_no_object_can_carry_is_refused(name: str, value: str | int) -> None:
    with pytest.raises(ValueError, match=name):
        DxOptions(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("pipeline", ["chest_xray", "slide_tumor"])
def test_demo_has_one_positive_and_one_negative_study_of_each_kind(pipeline: str) -> None:
    outcomes = [sample.expected_outcome for sample in demo_samples() if sample.pipeline == pipeline]

    assert sorted(outcomes) == ["findings", "no_findings"]


def test_expected_outcomes_of_the_demo_follow_from_what_is_drawn() -> None:
    for slide in SLIDES:
        assert (slide.slide().tumor_area_mm2 > 0) == (slide.expected_outcome == "findings")
    for sample in (replace(sample, size=SIZE) for sample in RADIOGRAPHS):
        assert (sample.truth.finding is not None) == (sample.expected_outcome == "findings")


def test_demo_study_is_the_same_until_it_is_given_a_fresh_uid(tmp_path: Path) -> None:
    sample = replace(RADIOGRAPHS[0], size=SIZE)

    first, again = (
        next(dcmread(path) for path in sample.write(tmp_path / name)) for name in ("first", "again")
    )
    fresh = dcmread(sample.write(tmp_path / "fresh", study_instance_uid=fresh_uid())[0])

    assert first == again
    assert fresh.StudyInstanceUID != first.StudyInstanceUID
    assert fresh.SOPInstanceUID != first.SOPInstanceUID
