"""Synthetic slides as files: valid DICOM and pyramidal TIFF that show what was drawn."""

from pathlib import Path

import numpy as np
import pytest
from openslide import OpenSlide
from pydicom import dcmread
from pydicom.dataset import FileDataset
from pydicom.encaps import generate_fragments, parse_basic_offsets
from pydicom.uid import ExplicitVRLittleEndian

from node.samples import slide_tiff
from node.samples.slide import SlideSample, slide_sample
from node.samples.slide_pyramid import pyramid_tiles
from node.samples.slide_series import SlideOptions, write_slide
from node.samples.slide_tiff import write_slide_tiff
from node.slide_objects import frames
from tests.peers.validators import dciodvfy_errors

COLUMNS, ROWS = 1300, 1100
PLAIN = ExplicitVRLittleEndian
# It counts the tiles of the whole matrix, though a sparse one stores only some (PS3.3 C.7.6.17.3).
DEFECT_OF_DCIODVFY = "NumberOfFrames does not match expected value for tiled total pixel matrix"


@pytest.fixture(scope="module")
def sample() -> SlideSample:
    return slide_sample(8, columns=COLUMNS, rows=ROWS, is_tumor=True, micrometers_per_pixel=0.46)


@pytest.fixture(scope="module")
def files(sample: SlideSample, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_slide(sample, tmp_path_factory.mktemp("full"))


@pytest.fixture(scope="module")
def sparse(sample: SlideSample, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    options = SlideOptions("TILED_SPARSE", transfer_syntax_uid=PLAIN)
    return write_slide(sample, tmp_path_factory.mktemp("sparse"), options=options)


def whole(sample: SlideSample, level: int) -> np.ndarray:
    return sample.region(level, 0, 0, *sample.size(level)).astype(int)


def put_together(dataset: FileDataset, places: list[tuple[int, int]]) -> np.ndarray:
    size = dataset.Rows
    picture = np.full((dataset.TotalPixelMatrixRows, dataset.TotalPixelMatrixColumns, 3), 255)
    frames = dataset.pixel_array.reshape(-1, size, dataset.Columns, 3)
    for frame, (row, column) in zip(frames, places, strict=True):
        part = picture[row : row + size, column : column + size]
        part[...] = frame[: part.shape[0], : part.shape[1]]
    return picture


def test_a_slide_is_its_levels_a_label_and_an_overview(sample: SlideSample, files: list[Path]) -> None:
    datasets = [dcmread(file, stop_before_pixels=True) for file in files]

    assert [one.ImageType[2] for one in datasets] == ["VOLUME"] * 3 + ["LABEL", "OVERVIEW"]
    assert [one.InstanceNumber for one in datasets] == [1, 2, 3, 4, 5]
    for name in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "PyramidUID"):
        assert len({one[name].value for one in datasets}) == 1
    assert len({one.SOPInstanceUID for one in datasets}) == 5
    for level, one in enumerate(datasets[:3]):
        assert (one.TotalPixelMatrixColumns, one.TotalPixelMatrixRows) == sample.size(level)
        spacing = one.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing
        assert [float(step) for step in spacing] == pytest.approx([0.00046 * sample.levels[level]] * 2)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_level_shows_what_was_drawn(sample: SlideSample, files: list[Path], level: int) -> None:
    dataset = dcmread(files[level])
    columns, rows = sample.size(level)
    places = [(row, column) for row in range(0, rows, 256) for column in range(0, columns, 256)]

    picture = put_together(dataset, places)

    difference = picture - whole(sample, level)
    # JPEG of quality 85, and coarser levels averaged instead of drawn.
    assert np.abs(difference).mean() < (5, 6, 8)[level]
    assert np.abs(difference.mean(axis=(0, 1))).max() < 3


def test_uncompressed_tiles_lie_where_a_sparse_slide_says(sample: SlideSample, sparse: list[Path]) -> None:
    dataset = dcmread(sparse[0])
    groups = dataset.PerFrameFunctionalGroupsSequence
    positions = [group.PlanePositionSlideSequence[0] for group in groups]
    places = [
        (int(one.RowPositionInTotalImagePixelMatrix) - 1, int(one.ColumnPositionInTotalImagePixelMatrix) - 1)
        for one in positions
    ]

    picture = put_together(dataset, places)

    assert 0 < len(places) < 30
    stored = (picture != 255).any(axis=2)
    assert np.array_equal(picture[stored], whole(sample, 0)[stored])
    assert not sample.tissue(0, 0, 0, COLUMNS, ROWS)[~stored].any()


def test_the_offset_table_leads_to_each_tile(files: list[Path]) -> None:
    dataset = dcmread(files[0])

    offsets = parse_basic_offsets(dataset.PixelData)
    fragments = list(generate_fragments(dataset.PixelData))[1:]

    # Items have an even length (PS3.5 A.4).
    assert {len(fragment) % 2 for fragment in fragments} == {0}
    starts = np.concatenate([[0], np.cumsum([len(fragment) + 8 for fragment in fragments])[:-1]])
    assert offsets == starts.tolist()
    assert len(fragments) == dataset.NumberOfFrames == 30


def test_the_files_are_valid(files: list[Path], sparse: list[Path]) -> None:
    assert dciodvfy_errors(files) == []
    assert [line for line in dciodvfy_errors(sparse) if DEFECT_OF_DCIODVFY not in line] == []


def test_openslide_reads_the_series_and_its_pixel_size(sample: SlideSample, files: list[Path]) -> None:
    with OpenSlide(str(files[0])) as slide:
        part = np.asarray(slide.read_region((400, 300), 0, (300, 200)).convert("RGB")).astype(int)
        names = sorted(slide.associated_images)

        assert slide.level_dimensions == tuple(sample.size(level) for level in range(3))
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.46)
        assert float(slide.properties["openslide.objective-power"]) == pytest.approx(21.74)
        assert names == ["label", "macro"]
    assert np.abs(part - sample.region(0, 400, 300, 300, 200).astype(int)).mean() < 5


def test_openslide_reads_the_tiff_and_its_pixel_size(sample: SlideSample, tmp_path: Path) -> None:
    path = write_slide_tiff(sample, tmp_path / "slide.tif")

    with OpenSlide(str(path)) as slide:
        pictures = [
            np.asarray(slide.read_region((0, 0), level, sample.size(level)).convert("RGB")).astype(int)
            for level in range(3)
        ]

        assert slide.level_dimensions == tuple(sample.size(level) for level in range(3))
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.46)
    for level, picture in enumerate(pictures):
        assert np.abs(picture - whole(sample, level)).mean() < (5, 6, 8)[level]


def test_a_tiff_that_no_offset_reaches_through_is_refused(
    sample: SlideSample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = write_slide_tiff(sample, tmp_path / "whole.tif").stat().st_size

    # Too small for the tiles; for the last directory; for the values behind it.
    for largest in (10_000, whole - 400, whole - 60):
        monkeypatch.setattr(slide_tiff, "LARGEST_OFFSET", largest)
        with pytest.raises(ValueError, match="more than 4 GiB"):
            write_slide_tiff(sample, tmp_path / "slide.tif")

    assert [path.name for path in tmp_path.iterdir()] == ["whole.tif"]


def test_a_level_that_one_element_cannot_hold_is_refused(
    sample: SlideSample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames, "UNDEFINED_LENGTH", 100_000)

    with pytest.raises(ValueError, match=r"slide-level-0\.dcm would have 5898240 bytes"):
        write_slide(sample, tmp_path, options=SlideOptions(transfer_syntax_uid=PLAIN))


def test_a_slide_of_one_tile_has_a_pyramid_too(tmp_path: Path) -> None:
    small = slide_sample(2, columns=200, rows=90, is_tumor=False)

    paths = [*write_slide(small, tmp_path)[:3]]

    assert [dcmread(path).pixel_array.shape for path in paths] == [(256, 256, 3)] * 3


def test_the_same_slide_is_the_same_files(sample: SlideSample, files: list[Path], tmp_path: Path) -> None:
    again = write_slide(sample, tmp_path)
    normal = slide_sample(8, columns=COLUMNS, rows=ROWS, is_tumor=False, micrometers_per_pixel=0.46)

    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in files]
    uids = {str(dcmread(path, stop_before_pixels=True).StudyInstanceUID) for path in files}
    assert uids.isdisjoint(
        str(dcmread(path, stop_before_pixels=True).StudyInstanceUID)
        for path in write_slide(normal, tmp_path / "normal")
    )


def test_each_tile_of_the_pyramid_comes_once(sample: SlideSample) -> None:
    tiles = list(pyramid_tiles(sample, 128))

    for level in range(3):
        columns, rows = (-(-size // 128) for size in sample.size(level))
        places = [(tile.row, tile.column) for tile in tiles if tile.level == level]
        assert places == [(row, column) for row in range(rows) for column in range(columns)]


def test_options_that_no_file_can_have_are_refused(sample: SlideSample, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="TILED_BADLY"):
        SlideOptions("TILED_BADLY")
    with pytest.raises(ValueError, match=r"\(1, 4, 6\)"):
        slide_sample(1, is_tumor=True, levels=(1, 4, 6))
    with pytest.raises(ValueError, match="multiple"):
        write_slide(sample, tmp_path, options=SlideOptions(tile_px=250))
