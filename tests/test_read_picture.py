from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from node.domain.image import Window
from node.domain.location import Frame
from node.errors import DatasetError, PixelError
from node.read.picture import MAX_PICTURES, read_picture, read_pictures
from node.read.projection import read_projection
from tests import datasets
from tests.received import assert_shows, changed, colors, received
from tests.results import save
from tests.sources import (
    Written,
    real_ct_series,
    write_ct_series,
    write_enhanced_ct,
    write_radiograph,
    write_slide,
)
from tests.synthetic.headers import item

LOSSLESS = [RLELossless, JPEGLSLossless, JPEG2000Lossless]


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return write_ct_series(tmp_path_factory.mktemp("series"))


@pytest.fixture(scope="module")
def enhanced(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return write_enhanced_ct(tmp_path_factory.mktemp("enhanced"))


@pytest.fixture(scope="module", params=["TILED_FULL", "TILED_SPARSE"])
def slide(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Written:
    return write_slide(tmp_path_factory.mktemp(request.param), organization=request.param)


@pytest.fixture(scope="module")
def full_slide(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return write_slide(tmp_path_factory.mktemp("full"))


def test_a_slice_is_shown_through_its_window(series: Written) -> None:
    dataset = dcmread(series.paths[5])
    hu = dataset.pixel_array * dataset.RescaleSlope + dataset.RescaleIntercept

    image = read_picture(received(series.paths[5]))

    # Center 40, width 400, by PS3.3 C.11.2.1.2.1.
    assert np.abs(image.pixels - np.clip((hu - 39.5) / 399 + 0.5, 0, 1)).max() < 1e-6
    assert (image.spacing_yx_mm, image.spacing_attribute) == ((0.7, 0.8), "PixelSpacing")
    assert image.frame == Frame(dataset.SOPInstanceUID)


def test_a_window_that_is_given_stands_in_place_of_that_of_the_slice(series: Written) -> None:
    dataset = dcmread(series.paths[5])
    hu = dataset.pixel_array * dataset.RescaleSlope + dataset.RescaleIntercept

    (image,) = read_pictures([received(series.paths[5])], [Frame(dataset.SOPInstanceUID)], Window(-600, 1500))

    assert np.abs(image.pixels - np.clip((hu + 600.5) / 1499 + 0.5, 0, 1)).max() < 1e-6


@pytest.mark.parametrize(("center", "width"), [(40, 0), (40, -1), (float("nan"), 400), (40, float("inf"))])
def test_a_window_that_shows_nothing_is_none(center: float, width: float) -> None:
    with pytest.raises(ValueError, match="expected a width of 1 or more"):
        Window(center, width)


def test_a_frame_is_shown_as_the_slice_that_it_is(series: Written, enhanced: Written) -> None:
    (path,) = enhanced.paths

    for number, slice_path in enumerate(series.paths, 1):
        frame, single = read_picture(received(path), number), read_picture(received(slice_path))

        assert np.array_equal(frame.pixels, single.pixels)
        assert frame.spacing_yx_mm == single.spacing_yx_mm
        assert frame.frame == Frame(dcmread(path).SOPInstanceUID, number)


def test_a_frame_has_its_own_window(enhanced: Written, tmp_path: Path) -> None:
    def narrow(dataset: Dataset) -> None:
        group = dataset.PerFrameFunctionalGroupsSequence[6]
        group.FrameVOILUTSequence = [item(WindowCenter=400, WindowWidth=2, VOILUTFunction="LINEAR_EXACT")]

    instance = changed(enhanced.paths[0], tmp_path, narrow)

    own, shared = (read_picture(instance, number) for number in (7, 6))

    lesion = enhanced.mask[6]
    assert 0.3 < own.pixels[lesion].mean() < 0.7
    assert own.pixels[~lesion].max() == 0
    assert np.array_equal(shared.pixels, read_picture(received(enhanced.paths[0]), 6).pixels)


@pytest.mark.parametrize("syntax", LOSSLESS)
def test_compressed_frames_are_the_same(syntax: str, enhanced: Written, tmp_path: Path) -> None:
    instance = changed(
        enhanced.paths[0], tmp_path, lambda one: one.compress(syntax, generate_instance_uid=False)
    )

    for number in (1, 7, 12):
        packed, native = (read_picture(one, number) for one in (instance, received(enhanced.paths[0])))

        assert np.array_equal(packed.pixels, native.pixels)


def test_frames_in_other_byte_orders_are_the_same(enhanced: Written, tmp_path: Path) -> None:
    big, deflated = dcmread(enhanced.paths[0]), dcmread(enhanced.paths[0])
    big.PixelData = np.frombuffer(big.PixelData, "<u2").astype(">u2").tobytes()
    big.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    deflated.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    expected = read_picture(received(enhanced.paths[0]), 7).pixels

    for number, dataset in enumerate((big, deflated)):
        path = tmp_path / f"{number}.dcm"
        dcmwrite(path, dataset, implicit_vr=False, little_endian=number == 1, enforce_file_format=True)

        assert np.array_equal(read_picture(received(path), 7).pixels, expected)


@pytest.mark.parametrize("group", ["classic", "enhanced"])
def test_a_ct_without_a_window_shows_soft_tissue(
    group: str, series: Written, enhanced: Written, tmp_path: Path
) -> None:
    def strip(dataset: Dataset) -> None:
        shared = dataset.get("SharedFunctionalGroupsSequence", [dataset])[0]
        for keyword in ("WindowCenter", "WindowWidth", "FrameVOILUTSequence"):
            shared.pop(keyword, None)

    path, number = (series.paths[4], None) if group == "classic" else (enhanced.paths[0], 5)

    bare = read_picture(changed(path, tmp_path, strip), number)

    assert np.array_equal(bare.pixels, read_picture(received(path), number).pixels)


def test_another_modality_without_a_window_shows_its_range(tmp_path: Path) -> None:
    pixels = np.linspace(100, 3000, 64 * 64).astype(np.uint16).reshape(64, 64)
    dataset = datasets.radiograph(pixels, Modality="MR", SOPInstanceUID="1.2.3", StudyInstanceUID="1.2")
    dataset.SeriesInstanceUID = "1.2.2"

    image = read_picture(received(save(dataset, tmp_path / "mr.dcm")))

    assert image.pixels.min() == 0
    assert image.pixels.max() == 1
    assert np.all(np.diff(image.pixels.reshape(-1)) >= 0)


def test_a_picture_of_one_shade_is_no_error(series: Written, tmp_path: Path) -> None:
    def blank(dataset: Dataset) -> None:
        dataset.PixelData = bytes(len(dataset.PixelData))

    image = read_picture(changed(series.paths[0], tmp_path, blank))

    assert image.pixels.max() == 0


def test_a_radiograph_is_read_as_it_always_was(tmp_path: Path) -> None:
    instance = received(write_radiograph(tmp_path / "dx").paths[0])

    image, expected = read_picture(instance), read_projection(instance)

    assert np.array_equal(image.pixels, expected.pixels)
    assert replace(image, pixels=expected.pixels) == expected


def test_a_color_image_is_shown_in_its_colors(tmp_path: Path) -> None:
    picture = colors(1)
    dataset = datasets.radiograph(
        picture[..., 0], Modality="US", StudyInstanceUID="1.2", SeriesInstanceUID="1.3"
    )
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 1
    dataset.PixelData = np.moveaxis(picture, -1, 0).tobytes()

    image = read_picture(received(save(dataset, tmp_path / "us.dcm")))

    assert_shows(image.pixels, picture)


# --- which pictures


def test_pictures_are_given_once_and_in_order(series: Written) -> None:
    instances = [received(path) for path in series.paths]
    frames = [Frame(instances[number].sop_instance_uid) for number in (7, 2, 7)]

    images = read_pictures(instances, frames)

    assert [image.frame for image in images] == frames[:2]


def test_only_the_most_telling_pictures_are_read(enhanced: Written, tmp_path: Path) -> None:
    instances = [received(path) for path in write_ct_series(tmp_path, planes=MAX_PICTURES + 3).paths]
    frames = [Frame(one.sop_instance_uid) for one in instances]

    images = read_pictures(instances, frames)

    assert [image.frame for image in images] == frames[:MAX_PICTURES]
    assert read_pictures([received(enhanced.paths[0])], []) == ()


def test_a_slide_is_shown_at_the_smallest_level_that_is_large_enough(full_slide: Written) -> None:
    instances = [received(path) for path in full_slide.paths]
    frames = [Frame(one.sop_instance_uid) for one in instances]

    (image,) = read_pictures(instances, frames)

    assert image.frame == frames[0]
    (small,) = read_pictures(instances[1:], frames[1:])
    assert small.frame == frames[1]


@pytest.mark.parametrize(
    "change",
    [
        {"ImageType": ["ORIGINAL", "PRIMARY", "LABEL", "NONE"]},
        {"ImageType": ["ORIGINAL", "PRIMARY", "OVERVIEW", "NONE"]},
        {"SeriesInstanceUID": "1.2.3"},
        {"TotalPixelMatrixRows": 768, "TotalPixelMatrixColumns": 512},
        {"TotalPixelMatrixRows": 512_000, "TotalPixelMatrixColumns": 768_000},
        {"SamplesPerPixel": 1},
    ],
    ids=str,
)
def test_only_a_fit_level_of_the_same_slide_stands_for_it(
    change: dict[str, object], full_slide: Written, tmp_path: Path
) -> None:
    def spoil(dataset: Dataset) -> None:
        for keyword, value in change.items():
            setattr(dataset, keyword, value)

    instances = [changed(full_slide.paths[0], tmp_path, spoil), received(full_slide.paths[1])]

    images = read_pictures(instances, [Frame(instances[1].sop_instance_uid)])

    assert [image.sop_instance_uid for image in images] == [instances[1].sop_instance_uid]


def test_a_slide_too_large_to_show_has_no_picture(full_slide: Written, tmp_path: Path) -> None:
    def grow(dataset: Dataset) -> None:
        dataset.TotalPixelMatrixRows, dataset.TotalPixelMatrixColumns = 512_000, 768_000

    instance = changed(full_slide.paths[0], tmp_path, grow)

    assert read_pictures([instance], [Frame(instance.sop_instance_uid)]) == ()
    with pytest.raises(PixelError, match="512000 × 768000 pixels, expected 1 to 64000000"):
        read_picture(instance)


def test_a_frame_of_a_stranger_is_refused(series: Written) -> None:
    with pytest.raises(DatasetError, match=r"1\.2\.3: is not among the instances"):
        read_pictures([received(series.paths[0])], [Frame("1.2.3")])


def test_real_slices_are_read() -> None:
    paths = real_ct_series()[96:100]
    instances = [received(path) for path in paths]

    images = read_pictures(instances, [Frame(one.sop_instance_uid) for one in instances])

    assert {image.pixels.shape for image in images} == {(512, 512)}
    assert all(0.05 < image.pixels.mean() < 0.5 for image in images)
