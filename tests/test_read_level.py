from itertools import product
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from node.domain.location import Frame
from node.read.level import Canvas, Level
from node.read.picture import read_picture
from tests.received import assert_shows, changed, colors, jpeg, received, tiles, without_jfif
from tests.sources import (
    Written,
    real_slide,
    write_ct_series,
    write_enhanced_ct,
    write_slide,
)
from tests.synthetic.slide import LEVELS
from tests.synthetic.slide import TILE as TILE_PX

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


def test_tiles_are_laid_where_they_belong(slide: Written) -> None:
    for number, path in enumerate(slide.paths):
        image = read_picture(received(path))

        assert_shows(image.pixels, colors(number))
        assert image.spacing_yx_mm == (LEVELS[number][2],) * 2
        assert image.frame == Frame(dcmread(path).SOPInstanceUID)


@pytest.mark.parametrize("by_column", [False, True])
def test_tiles_of_unstated_order_are_laid_as_they_fit(
    by_column: bool, full_slide: Written, tmp_path: Path
) -> None:
    def unstate(dataset: Dataset) -> None:
        del dataset.DimensionOrganizationType
        dataset.PixelData = b"".join(tile.tobytes() for tile in tiles(by_column=by_column))

    image = read_picture(changed(full_slide.paths[0], tmp_path, unstate))

    assert_shows(image.pixels, colors())


def test_a_place_without_a_tile_is_white(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "slide", organization="TILED_SPARSE").paths[0]

    def drop(dataset: Dataset) -> None:
        dataset.NumberOfFrames -= 1
        del dataset.PerFrameFunctionalGroupsSequence[0]
        dataset.PixelData = dataset.PixelData[3 * TILE_PX**2 :]

    image = read_picture(changed(path, tmp_path, drop))

    expected = colors()
    expected[:TILE_PX, :TILE_PX] = 255
    assert_shows(image.pixels, expected)


@pytest.mark.parametrize("syntax", LOSSLESS)
def test_compressed_tiles_are_the_same(syntax: str, full_slide: Written, tmp_path: Path) -> None:
    instance = changed(
        full_slide.paths[1], tmp_path, lambda one: one.compress(syntax, generate_instance_uid=False)
    )

    assert_shows(read_picture(instance).pixels, colors(1))


@pytest.mark.parametrize("label", ["RGB", "YBR_FULL_422"])
@pytest.mark.parametrize("options", [{}, {"keep_rgb": True}, {"subsampling": 0}], ids=str)
def test_jpeg_tiles_have_the_colors_of_their_stream(
    options: dict[str, object], label: str, full_slide: Written, tmp_path: Path
) -> None:
    def compress(dataset: Dataset) -> None:
        dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
        dataset.PhotometricInterpretation = label
        dataset.PixelData = encapsulate([jpeg(tile, options) for tile in tiles()])
        dataset["PixelData"].is_undefined_length = True

    image = read_picture(changed(full_slide.paths[0], tmp_path, compress))

    assert np.abs(255 * image.pixels - colors()).mean() < 2


def test_a_stream_that_names_no_colors_is_judged_by_its_sampling(full_slide: Written, tmp_path: Path) -> None:
    def compress(dataset: Dataset) -> None:
        dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
        dataset.PixelData = encapsulate([without_jfif(jpeg(tile, {})) for tile in tiles()])
        dataset["PixelData"].is_undefined_length = True

    image = read_picture(changed(full_slide.paths[0], tmp_path, compress))

    assert np.abs(255 * image.pixels - colors()).mean() < 2


def test_a_large_level_is_reduced_by_averaging() -> None:
    level = Level("1.2.3", rows=2500, columns=1430, tile_rows=300, tile_columns=256)
    whole = np.random.default_rng(3).integers(0, 256, (2700, 1536, 3), dtype=np.uint8)
    canvas = Canvas(level)

    for row, column in product(range(0, 2700, 300), range(0, 1536, 256)):
        canvas.lay(whole[row : row + 300, column : column + 256], (row, column))

    means = whole[:2500, :1430].reshape(1250, 2, 715, 2, 3).mean(axis=(1, 3)) / 255
    assert level.reduction == 2
    assert np.abs(canvas.picture() - means).max() < 1e-6


def test_the_spacing_is_that_of_the_reduced_picture(
    full_slide: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.read.level.FULL_LONG_SIDE_PX", 256)

    image = read_picture(received(full_slide.paths[0]))

    assert image.pixels.shape == (171, 256, 3)
    assert image.spacing_yx_mm == (0.003, 0.003)


def test_the_real_slide_is_not_scrambled() -> None:
    image = read_picture(received(real_slide()))

    assert image.pixels.shape == (880, 1079, 3)
    assert image.spacing_yx_mm is None
    # A tile has 500 pixels, of which three become one: neighbors across its edges differ no more than others.
    across = np.abs(np.diff(image.pixels, axis=1)).mean(axis=(0, 2))
    down = np.abs(np.diff(image.pixels, axis=0)).mean(axis=(1, 2))
    for steps in (across, down):
        edges = [round(500 * number / 3) - 1 for number in range(1, len(steps) * 3 // 500 + 1)]
        assert steps[edges].mean() < 1.3 * np.median(steps)
    # Pink tissue on pale glass; YBR shown as RGB would be green.
    red, green, blue = image.pixels.reshape(-1, 3).mean(axis=0)
    assert red > blue > green > 0.6
