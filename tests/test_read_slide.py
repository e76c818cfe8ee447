"""Whole slides are read as they lie, whatever their tiles' order and form; damage is told by its place."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from node.domain.slide import SlideLevel
from node.errors import DatasetError, PixelError
from node.read import slide as slides
from node.read.slide import open_slide, open_slide_file, step_notes
from node.samples.slide import slide_sample
from node.samples.slide_series import SlideOptions
from node.samples.slide_series import write_slide as write_sample
from tests.conftest import SHARED_DATA
from tests.received import changed, colors, received, tiles, without_jfif
from tests.slides import compress, concatenated, cut, made_of, pixel_start, series_of
from tests.sources import Written, real_slide, write_slide
from tests.synthetic.slide import LEVELS
from tests.synthetic.slide import TILE as TILE_PX

ROWS, COLUMNS, _ = LEVELS[0]
FRAME_BYTES = 3 * TILE_PX**2
REAL_SHA256 = "7572f170b8ecb4e667611f26f94f595520ae837e803f878c9b686d3d717eabbf"


@pytest.fixture(scope="module", params=["TILED_FULL", "TILED_SPARSE"])
def slide(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Written:
    return write_slide(tmp_path_factory.mktemp(request.param), organization=request.param)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return write_slide(tmp_path_factory.mktemp("full"))


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return write_slide(tmp_path_factory.mktemp("sparse"), organization="TILED_SPARSE")


def whole(series: object, level: int = 0) -> np.ndarray:
    with open_slide(series) as opened:
        size = opened.levels[level]
        return opened.region(level, 0, 0, size.columns, size.rows)


def changes(full: Written, folder: Path, change: Callable[[Dataset], object], number: int = 0):
    return made_of(changed(full.paths[number], folder, change))


# --- levels and regions


def test_every_level_of_an_instance_has_its_picture(slide: Written) -> None:
    with open_slide(series_of(reversed(slide.paths))) as opened:
        for number, (rows, columns, spacing_mm) in enumerate(LEVELS):
            uid = str(dcmread(slide.paths[number]).SOPInstanceUID)
            downsample = spacing_mm / LEVELS[0][2]
            assert opened.levels[number] == SlideLevel(uid, columns, rows, downsample, TILE_PX, TILE_PX)
            assert np.array_equal(opened.region(number, 0, 0, columns, rows), colors(number))
        assert opened.micrometers_per_pixel == pytest.approx(1.0)
        assert opened.objective_power == 10
        assert opened.notes == ()


@pytest.mark.parametrize(
    ("left", "top", "columns", "rows"),
    [
        (0, 0, TILE_PX, TILE_PX),
        (TILE_PX, 0, TILE_PX, TILE_PX),
        (30, 50, 200, 90),
        (-20, -30, 50, 60),
        (COLUMNS - 10, ROWS - 5, 40, 30),
        (COLUMNS + 5, 0, 8, 8),
    ],
)
def test_a_region_is_a_part_of_the_level_and_white_beyond(
    left: int, top: int, columns: int, rows: int, slide: Written
) -> None:
    padded = np.pad(colors(), [(100, 100), (100, 100), (0, 0)], constant_values=255)

    with open_slide(series_of(slide.paths)) as opened:
        region = opened.region(0, left, top, columns, rows)

    assert region.dtype == np.uint8
    assert np.array_equal(region, padded[top + 100 : top + 100 + rows, left + 100 : left + 100 + columns])


def test_regions_of_a_batch_are_those_of_single_calls(full: Written) -> None:
    corners = [(0, 0), (64, 128), (10, 20), (700, 500), (64, 128)]

    with open_slide(series_of(full.paths)) as opened:
        batch = opened.regions(0, corners, TILE_PX, TILE_PX)
        single = [opened.region(0, *corner, TILE_PX, TILE_PX) for corner in corners]

    for one, other in zip(batch, single, strict=True):
        assert np.array_equal(one, other)


def test_where_a_sparse_slide_stores_nothing_it_is_white(sparse: Written, tmp_path: Path) -> None:
    def drop(dataset: Dataset) -> None:
        dataset.NumberOfFrames -= 1
        del dataset.PerFrameFunctionalGroupsSequence[0]
        dataset.PixelData = dataset.PixelData[FRAME_BYTES:]

    expected = colors()
    expected[:TILE_PX, :TILE_PX] = 255

    assert np.array_equal(whole(changes(sparse, tmp_path, drop)), expected)


def test_tiles_may_lie_off_the_grid_and_the_first_lies_on_top(sparse: Written, tmp_path: Path) -> None:
    # Column by column: in the middle of the tissue, where the later tiles beside and below look otherwise.
    frame, left, top = 5 * (ROWS // TILE_PX) + 4, 5 * TILE_PX, 4 * TILE_PX

    def shift(dataset: Dataset) -> None:
        position = dataset.PerFrameFunctionalGroupsSequence[frame].PlanePositionSlideSequence[0]
        position.ColumnPositionInTotalImagePixelMatrix += 10
        position.RowPositionInTotalImagePixelMatrix += 5

    picture = whole(changes(sparse, tmp_path, shift))

    expected = colors()
    shifted = expected[top : top + TILE_PX, left : left + TILE_PX].copy()
    expected[top : top + TILE_PX, left : left + TILE_PX] = 255
    expected[top + 5 : top + 5 + TILE_PX, left + 10 : left + 10 + TILE_PX] = shifted
    assert np.array_equal(picture, expected)


def test_what_tiles_have_beyond_the_matrix_is_padding(full: Written, tmp_path: Path) -> None:
    def narrow(dataset: Dataset) -> None:
        dataset.TotalPixelMatrixRows, dataset.TotalPixelMatrixColumns = ROWS - 12, COLUMNS - 20

    with open_slide(changes(full, tmp_path, narrow)) as opened:
        corner = opened.region(0, COLUMNS - TILE_PX, ROWS - TILE_PX, TILE_PX, TILE_PX)

    expected = colors()[-TILE_PX:, -TILE_PX:].copy()
    expected[-12:] = expected[:, -20:] = 255
    assert np.array_equal(corner, expected)


def test_label_and_overview_are_no_levels(full: Written, tmp_path: Path) -> None:
    def named(kind: str) -> Callable[[Dataset], None]:
        def change(dataset: Dataset) -> None:
            dataset.ImageType = ["ORIGINAL", "PRIMARY", kind, "NONE"]
            dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.{len(kind)}"

        return change

    apart = [changed(full.paths[1], tmp_path, named(kind)) for kind in ("LABEL", "OVERVIEW")]

    with open_slide(made_of(*apart, *map(received, full.paths))) as opened:
        assert [level.columns for level in opened.levels] == [size[1] for size in LEVELS]
    with pytest.raises(DatasetError, match="none of its instances is a level"):
        open_slide(made_of(*apart))


def test_a_level_of_another_shape_or_seen_before_is_left_out_and_told(full: Written, tmp_path: Path) -> None:
    def crop(dataset: Dataset) -> None:
        dataset.SOPInstanceUID = "1.2.3"
        dataset.TotalPixelMatrixColumns, dataset.NumberOfFrames = 64, 2

    def again(dataset: Dataset) -> None:
        dataset.SOPInstanceUID = "9.8.7"

    others = [changed(full.paths[1], tmp_path, change) for change in (crop, again)]

    with open_slide(made_of(*map(received, full.paths), *others)) as opened:
        assert len(opened.levels) == 2
        assert sorted(opened.notes) == [
            "Left out as a level of a size that is there already: 1.",
            "Left out as a level of another shape: 1.",
        ]


def test_a_slide_without_its_finest_level_says_so(full: Written) -> None:
    with open_slide(series_of(full.paths[1:])) as opened:
        assert opened.levels[0].downsample == 1
        assert opened.micrometers_per_pixel == pytest.approx(4)
        assert "the finest that is here was resampled" in opened.notes[0]


@pytest.mark.parametrize(
    ("full_size", "size", "downsample"),
    [
        ((1000, 1000), (250, 250), 4),
        ((1001, 999), (251, 250), 4),
        ((1001, 999), (250, 249), 4),
        ((1000, 1000), (300, 300), 10 / 3),
    ],
)
def test_a_rounded_size_has_a_whole_downsample(
    full_size: tuple[int, int], size: tuple[int, int], downsample: float
) -> None:
    assert slides._downsample(full_size, size) == pytest.approx(downsample)


# --- the order of tiles


@pytest.mark.parametrize(
    "downsamples",
    [
        [1],
        [1, 16],
        [1, 4, 16],
        [1, 4, 16, 64],
        [1, 4, 16, 32],
        [1, 4, 16, 32.02],
        [1, 2, 4, 8, 16, 32],
        [1, 2, 8, 16],
        [1, 8, 64],
        [1, 8, 64, 128],
        [1, 4, 16, 150],
        [1, 2.0005, 4.003, 8.1],
    ],
    ids=str,
)
def test_a_regular_pyramid_lacks_nothing(downsamples: list[float]) -> None:
    assert step_notes(downsamples) == []


@pytest.mark.parametrize(
    ("downsamples", "fine", "coarse"),
    [
        ([1, 16, 64], 1, 16),
        ([1, 4, 64], 4, 64),
        ([1, 4, 16.02, 257, 1030], 16.02, 257),
        ([1, 2, 4, 32, 64], 4, 32),
        ([1, 16, 64, 128], 1, 16),
    ],
    ids=str,
)
def test_a_level_that_seems_to_be_missing_is_told(
    downsamples: list[float], fine: float, coarse: float
) -> None:
    (note,) = step_notes(downsamples)

    assert f"from {fine:g} to {coarse:g} times coarser" in note


def test_a_series_without_its_middle_level_says_so(tmp_path: Path) -> None:
    sample = slide_sample(2, columns=2048, rows=2048, is_tumor=False, levels=(1, 4, 16, 64))
    levels = write_sample(sample, tmp_path, options=SlideOptions(tile_px=1024))[:4]

    with open_slide(series_of(levels)) as opened:
        assert opened.notes == ()
    with open_slide(series_of([levels[0], levels[2], levels[3]])) as opened:
        assert any("A level seems to be missing: from 1 to 16" in note for note in opened.notes)


@pytest.mark.parametrize("by_column", [False, True])
def test_tiles_without_positions_are_laid_as_their_edges_fit(
    by_column: bool, full: Written, tmp_path: Path
) -> None:
    def unstate(dataset: Dataset) -> None:
        del dataset.DimensionOrganizationType
        dataset.PixelData = b"".join(tile.tobytes() for tile in tiles(by_column=by_column))

    series = changes(full, tmp_path, unstate)

    assert np.array_equal(whole(series), colors())
    with open_slide(series) as opened:
        order = "column by column" if by_column else "row by row"
        assert opened.notes == (
            f"The tiles have no positions; their edges fit {order}, and so they were laid.",
        )


def test_tiles_in_an_order_that_nothing_tells_are_refused(full: Written, tmp_path: Path) -> None:
    def shuffle(dataset: Dataset) -> None:
        del dataset.DimensionOrganizationType
        order = np.random.default_rng(3).permutation(int(dataset.NumberOfFrames))
        every = list(tiles())
        dataset.PixelData = b"".join(every[number].tobytes() for number in order)

    with pytest.raises(PixelError, match="their pixels do not tell the order"):
        open_slide(changes(full, tmp_path, shuffle))


def test_tiles_that_fit_no_order_clearly_better_are_refused(full: Written, tmp_path: Path) -> None:
    def speckle(dataset: Dataset) -> None:
        del dataset.DimensionOrganizationType
        random = np.random.default_rng(5)
        shape = int(dataset.NumberOfFrames), TILE_PX, TILE_PX, 3
        # Of about the same brightness in each tile, and of as much another one in any neighbor.
        values = random.normal(150, 4, shape) + random.normal(0, 6, (shape[0], 1, 1, 1))
        dataset.PixelData = values.astype(np.uint8).tobytes()

    with pytest.raises(PixelError, match="their pixels do not tell the order"):
        open_slide(changes(full, tmp_path, speckle))


def test_blank_tiles_without_positions_are_taken_row_by_row(full: Written, tmp_path: Path) -> None:
    def blank(dataset: Dataset) -> None:
        del dataset.DimensionOrganizationType
        dataset.PixelData = bytes([240]) * len(dataset.PixelData)

    with open_slide(changes(full, tmp_path, blank)) as opened:
        assert opened.notes == (
            "The tiles have no positions and look alike in any order; they were taken row by row.",
        )


# --- concatenations


@pytest.mark.parametrize("organization", ["TILED_FULL", "TILED_SPARSE"])
def test_parts_of_a_concatenation_are_one_level(organization: str, tmp_path: Path) -> None:
    path = write_slide(tmp_path / "slide", organization=organization).paths[0]
    parts = concatenated(path, tmp_path, [40, 30, 26])

    picture = whole(made_of(*reversed(parts)))

    assert np.array_equal(picture, colors())
    with open_slide(made_of(*parts)) as opened:
        assert [level.sop_instance_uid for level in opened.levels] == [parts[0].sop_instance_uid]


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_missing_part_of_a_concatenation_is_named(missing: int, full: Written, tmp_path: Path) -> None:
    parts = concatenated(full.paths[0], tmp_path, [40, 30, 26])
    del parts[missing]

    with pytest.raises(DatasetError, match="concatenation"):
        open_slide(made_of(*parts))


# --- compressed tiles


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_compressed_tiles_are_the_same(syntax: str, full: Written, tmp_path: Path) -> None:
    series = changes(full, tmp_path, lambda one: one.compress(syntax, generate_instance_uid=False), number=1)

    assert np.array_equal(whole(series), colors(1))


@pytest.mark.parametrize("label", ["RGB", "YBR_FULL_422"])
@pytest.mark.parametrize("options", [{}, {"keep_rgb": True}, {"subsampling": 0}], ids=str)
def test_jpeg_tiles_have_the_colors_of_their_stream(
    options: dict[str, object], label: str, full: Written, tmp_path: Path
) -> None:
    def change(dataset: Dataset) -> None:
        compress(dataset, options=options)
        dataset.PhotometricInterpretation = label

    series = changes(full, tmp_path, change)

    assert np.abs(whole(series).astype(int) - colors()).mean() < 2
    with open_slide(series) as opened:
        is_rgb = "keep_rgb" in options
        assert bool(opened.notes) == (is_rgb != (label == "RGB"))


def test_streams_without_markers_have_the_colors_of_the_label(full: Written, tmp_path: Path) -> None:
    def change(dataset: Dataset) -> None:
        compress(
            dataset,
            options={"subsampling": 0},
            change=lambda streams: [without_jfif(one) for one in streams],
        )
        dataset.PhotometricInterpretation = label

    pictures = {}
    for label in ("YBR_FULL", "RGB"):
        pictures[label] = whole(changes(full, tmp_path, change)).astype(int)

    assert np.abs(pictures["YBR_FULL"] - colors()).mean() < 2
    assert np.abs(pictures["RGB"] - colors()).mean() > 50


@pytest.mark.parametrize(
    "encapsulation",
    [{}, {"has_table": False}, {"is_extended": True}, {"fragments": 3}, {"fragments": 3, "has_table": False}],
    ids=str,
)
def test_frames_are_found_however_they_are_encapsulated(
    encapsulation: dict[str, object], full: Written, tmp_path: Path
) -> None:
    series = changes(full, tmp_path, lambda dataset: compress(dataset, **encapsulation))

    assert np.abs(whole(series).astype(int) - colors()).mean() < 2


# --- how large a pixel is


def test_a_slide_without_pixel_size_has_none_and_says_so(full: Written, tmp_path: Path) -> None:
    def forget(dataset: Dataset) -> None:
        del dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
        del dataset.ImagedVolumeWidth

    with open_slide(changes(full, tmp_path, forget)) as opened:
        assert opened.micrometers_per_pixel is None
        assert opened.notes == ("The size of a pixel is not known; the objective magnified 10 times.",)


def test_the_size_that_was_imaged_tells_that_of_a_pixel(full: Written, tmp_path: Path) -> None:
    def forget(dataset: Dataset) -> None:
        del dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence

    with open_slide(changes(full, tmp_path, forget)) as opened:
        assert opened.micrometers_per_pixel == pytest.approx(1.0)
        assert opened.notes == ("The pixel size was taken from the size that was imaged.",)


@pytest.mark.parametrize("spacing_mm", [0, 5.0, 1e-7])
def test_a_pixel_size_that_cannot_be_is_not_used(spacing_mm: float, full: Written, tmp_path: Path) -> None:
    def change(dataset: Dataset) -> None:
        measures = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        measures.PixelSpacing = [spacing_mm, spacing_mm]
        del dataset.ImagedVolumeWidth

    with open_slide(changes(full, tmp_path, change)) as opened:
        assert opened.micrometers_per_pixel is None
        assert opened.notes


# --- damage


DAMAGE = {
    "no rows in a tile": (lambda one: setattr(one, "Rows", 0), "tiles of 0 × 64 pixels"),
    "no columns in the matrix": (
        lambda one: setattr(one, "TotalPixelMatrixColumns", 0),
        "a level of 512 × 0 pixels",
    ),
    "a matrix beyond belief": (
        lambda one: setattr(one, "TotalPixelMatrixRows", 4_000_000_000),
        "a level of 4000000000 × 768 pixels",
    ),
    "frames without end": (
        lambda one: setattr(one, "NumberOfFrames", 2_000_000_000),
        "2000000000 frames",
    ),
    "gray that says it is color": (
        lambda one: setattr(one, "PhotometricInterpretation", "MONOCHROME2"),
        "3 samples per pixel in MONOCHROME2",
    ),
    "a color that is none": (
        lambda one: setattr(one, "PhotometricInterpretation", "YBR_PINK"),
        "3 samples per pixel in YBR_PINK",
    ),
    "too few frames": (
        lambda one: setattr(one, "NumberOfFrames", 50),
        "50 tiles, expected 8 × 12: the first that is missing is at column 128 and row 256",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_header_is_refused_with_what_it_says(name: str, full: Written, tmp_path: Path) -> None:
    change, reason = DAMAGE[name]

    with pytest.raises(PixelError, match=reason):
        open_slide(changes(full, tmp_path, change))


def test_gray_pixels_are_no_bright_field(full: Written, tmp_path: Path) -> None:
    def gray(dataset: Dataset) -> None:
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        del dataset.PlanarConfiguration
        dataset.PixelData = dataset.PixelData[::3]

    with pytest.raises(PixelError, match="no colors, as bright field has them"):
        open_slide(changes(full, tmp_path, gray))


@pytest.mark.parametrize("is_compressed", [False, True])
def test_a_file_that_ends_too_early_is_refused_at_the_place(
    is_compressed: bool, full: Written, tmp_path: Path
) -> None:
    path = full.paths[0]
    if is_compressed:
        path = changed(path, tmp_path, compress).path
    # In the file's third quarter; uncompressed that is a frame whose number is known.
    start = pixel_start(path)
    frame = 70 if not is_compressed else None
    left = start + 70 * FRAME_BYTES + 100 if frame else (start + 3 * path.stat().st_size) // 4

    with pytest.raises(PixelError, match="the file ends after") as caught:
        open_slide(made_of(cut(path, tmp_path, bytes_left=left)))

    if frame:
        assert "frame 71 of 96, the tile at column 640 and row 320" in str(caught.value)


def test_a_file_that_ends_before_its_pixels_is_refused(full: Written, tmp_path: Path) -> None:
    short = cut(full.paths[0], tmp_path, bytes_left=pixel_start(full.paths[0]) - 12)

    with pytest.raises(PixelError, match="the file ends before its Pixel Data"):
        open_slide(made_of(short))


def test_a_frame_without_bytes_is_refused_at_its_place(full: Written, tmp_path: Path) -> None:
    series = changes(
        full,
        tmp_path,
        lambda one: compress(one, change=lambda streams: [*streams[:13], b"", *streams[14:]]),
    )

    with pytest.raises(
        PixelError, match="frame 14 of 96, the tile at column 64 and row 64: the frame has no"
    ):
        open_slide(series)


BROKEN = {
    "cut off": lambda stream: stream[: len(stream) // 2 * 2 - 200],
    "cut off, with an end": lambda stream: stream[:-200] + b"\xff\xd9",
    "of another size": lambda stream: resized(stream),
    "noise": lambda stream: np.random.default_rng(1).bytes(len(stream)),
}


def resized(stream: bytes) -> bytes:
    place = stream.index(b"\xff\xc0") + 5
    return stream[:place] + b"\x00\x80\x00\x80" + stream[place + 4 :]


@pytest.mark.parametrize("name", BROKEN)
def test_a_tile_that_does_not_decode_is_never_white(name: str, full: Written, tmp_path: Path) -> None:
    number = 4 * 12 + 5
    series = changes(
        full,
        tmp_path,
        lambda one: compress(
            one,
            change=lambda streams: [
                BROKEN[name](stream) if index == number else stream for index, stream in enumerate(streams)
            ],
        ),
    )

    with open_slide(series) as opened:
        good = opened.region(0, 0, 0, COLUMNS, TILE_PX)
        with pytest.raises(PixelError, match="frame 54 of 96, the tile at column 320 and row 256"):
            opened.region(0, 300, 200, 100, 100)

    assert np.abs(good.astype(int) - colors()[:TILE_PX]).mean() < 2


def test_a_position_outside_of_the_matrix_is_refused(sparse: Written, tmp_path: Path) -> None:
    def move(dataset: Dataset) -> None:
        position = dataset.PerFrameFunctionalGroupsSequence[3].PlanePositionSlideSequence[0]
        position.ColumnPositionInTotalImagePixelMatrix = 5000

    with pytest.raises(PixelError, match="frame 4 of 96 lies at column 4999"):
        open_slide(changes(sparse, tmp_path, move))


# --- real slides


def test_the_real_slide_in_columns_is_whole() -> None:
    series = series_of([real_slide()])

    with open_slide(series) as opened:
        picture = opened.region(0, 0, 0, 3236, 2638)
        notes = opened.notes
        assert opened.micrometers_per_pixel is None

    assert "The tiles have no positions; their edges fit column by column, and so they were laid." in notes
    assert "The tiles are said to be RGB, but their JPEG streams are YCbCr." in notes
    # Looked at once, and then kept: the prostate in one piece, pink, with green and blue pen.
    assert hashlib.sha256(picture.tobytes()).hexdigest() == REAL_SHA256


def test_a_scanner_file_is_read_by_openslide() -> None:
    path = shared("CMU-1-Small-Region.svs")

    with open_slide_file(path) as opened:
        assert opened.levels == (SlideLevel("", 2220, 2967, 1.0, 240, 240),)
        assert opened.micrometers_per_pixel == pytest.approx(0.499)
        assert opened.objective_power == 20
        assert opened.notes == ()
        tissue = opened.region(0, 1000, 1200, 64, 48)
        outside = opened.region(0, 2200, 2950, 64, 48)

    red, green, blue = tissue.reshape(-1, 3).mean(axis=0)
    assert red > green < blue
    assert tissue.shape == outside.shape == (48, 64, 3)
    assert (outside[17:] == 255).all()
    assert (outside[:, 20:] == 255).all()
    assert not (outside[:17, :20] == 255).all()


def test_a_scanner_file_that_ends_too_early_is_refused(tmp_path: Path) -> None:
    path = shared("CMU-1-Small-Region.svs")
    short = tmp_path / "short.svs"
    short.write_bytes(path.read_bytes()[:1_000_000])

    with pytest.raises((DatasetError, PixelError), match=r"short\.svs"), open_slide_file(short) as opened:
        opened.region(0, 0, 0, 2220, 2967)


def wipe(content: bytearray, start: int, stop: int) -> None:
    content[start:stop] = bytes(stop - start)


# Tile 75 of the real file (column 1200, row 1680): where its bytes lie, and where their number is written.
SVS_TILE, SVS_TILE_BYTES, SVS_COUNT = 640_781, 21_255, 1277596


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda content: wipe(content, SVS_TILE, SVS_TILE + SVS_TILE_BYTES), "cannot be read: Not a JPEG"),
        (
            lambda content: wipe(content, SVS_TILE + 300, SVS_TILE + SVS_TILE_BYTES - 2),
            "cannot be read: Corrupt",
        ),
        (lambda content: wipe(content, SVS_COUNT, SVS_COUNT + 4), "lacks a tile"),
    ],
    ids=["no JPEG", "half a JPEG", "no bytes"],
)
def test_a_tile_of_a_scanner_file_that_is_damaged_is_never_white(
    damage: Callable[[bytearray], None], reason: str, tmp_path: Path
) -> None:
    content = bytearray(shared("CMU-1-Small-Region.svs").read_bytes())
    damage(content)
    path = tmp_path / "damaged.svs"
    path.write_bytes(content)

    place = r"damaged\.svs: the part at column 1200 and row 1680.*"
    with open_slide_file(path) as opened, pytest.raises(PixelError, match=place + reason):
        opened.region(0, 1200, 1680, 240, 240)


def test_a_damaged_tile_of_a_scanner_file_damages_no_other(tmp_path: Path) -> None:
    content = bytearray(shared("CMU-1-Small-Region.svs").read_bytes())
    wipe(content, SVS_TILE, SVS_TILE + SVS_TILE_BYTES)
    path = tmp_path / "damaged.svs"
    path.write_bytes(content)

    with open_slide_file(path) as opened, open_slide_file(shared("CMU-1-Small-Region.svs")) as whole:
        with pytest.raises(PixelError, match="column 1200 and row 1680"):
            opened.region(0, 1200, 1680, 240, 240)

        # OpenSlide itself would go on to say that nothing can be read.
        assert np.array_equal(opened.region(0, 960, 1680, 240, 240), whole.region(0, 960, 1680, 240, 240))


def test_what_openslide_does_not_know_is_refused() -> None:
    with pytest.raises(DatasetError, match="no slide in a format that OpenSlide reads"):
        open_slide_file(shared("vectra-polaris_small.qptiff"))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"nothing\.svs"):
        open_slide_file(tmp_path / "nothing.svs")


def shared(name: str) -> Path:
    path = SHARED_DATA / "wsi" / name
    if not path.exists():
        pytest.skip(f"needs ../shared/data/wsi/{name}")
    return path
