"""A slide is read tile by tile, and what is said of it lies where it is."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread

from node.domain.code import AREA, ATTENTION_WEIGHT
from node.domain.findings import Findings, Outcome, Presence
from node.domain.location import Frame, Shape
from node.domain.progress import listening
from node.domain.study import Series
from node.errors import ModelError, PixelError
from node.pipelines.slide_tumor import SlideTumor, looking
from node.pipelines.slide_tumor.looking import NO_SCALE, NO_TISSUE, OVERVIEW_UM, read_overview
from node.read.slide import open_slide
from tests.received import changed, received
from tests.slide_engine import TILE_PX, TUMOR, SlideEngine
from tests.slides import compress, cut, made_of, series_of
from tests.sources import Written, write_slide
from tests.synthetic.slide import DISC, GLASS, LEVELS, RADIUS_MM, TISSUE_RADII_XY_MM, slide_masks

ROWS, COLUMNS, SPACING_MM = LEVELS[0]
DISC_MM2 = math.pi * RADIUS_MM**2
ABSENT = SlideEngine(probability=0.03, interval=(0.01, 0.1))
UNDECIDED = SlideEngine(probability=0.6, interval=(0.4, 0.8))


@pytest.fixture(scope="module", params=["TILED_FULL", "TILED_SPARSE"])
def slide(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Written:
    return write_slide(tmp_path_factory.mktemp(request.param), organization=request.param)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return write_slide(tmp_path_factory.mktemp("full"))


def probabilities_beyond(engine: SlideEngine) -> np.ndarray:
    """As many as the engine has seen tiles, one of them above 1."""
    values = np.zeros((1, sum(engine.batches)), np.float32)
    values[0, 0] = 1.5
    return values


def analyze(series: Series, engine: SlideEngine | None = None, **options: int) -> Findings:
    return SlideTumor(**options).analyze(series, engine or SlideEngine())


def levels_changed(full: Written, folder: Path, change: Callable[[Dataset], object]) -> Series:
    return made_of(*(changed(path, folder, change) for path in full.paths))


def disc_center_xy() -> np.ndarray:
    rows, columns = np.nonzero(slide_masks()[0][0])
    return np.array([columns.mean() + 0.5, rows.mean() + 0.5])


# --- what is found, and where


def test_area_of_the_tumor_is_that_of_what_was_drawn(slide: Written) -> None:
    findings = analyze(series_of(slide.paths))

    (score,) = findings.scores
    (area,) = score.measurements
    assert findings.outcome is Outcome.FINDINGS
    assert (score.code, score.presence, area.quantity) == (TUMOR, Presence.PRESENT, AREA)
    # Whole tiles of 32 µm approximate a disc of 160 µm.
    assert area.value == pytest.approx(DISC_MM2, rel=0.15)


def test_tumor_is_outlined_where_it_was_drawn(slide: Written) -> None:
    findings = analyze(series_of(slide.paths))

    (region,) = [one for one in findings.regions if one.identifier.startswith("Tumor")]
    points = region.outline.points_xy
    middle = (points.min(axis=0) + points.max(axis=0)) / 2
    assert region.outline.frame == Frame(str(dcmread(slide.paths[0]).SOPInstanceUID))
    assert middle == pytest.approx(disc_center_xy(), abs=TILE_PX / 2)
    assert shoelace(points) * SPACING_MM**2 == pytest.approx(DISC_MM2, rel=0.15)


def test_top_tiles_lie_on_the_tumor_the_most_attended_first(slide: Written) -> None:
    findings = analyze(series_of(slide.paths), top_tiles=3)

    tiles = [one for one in findings.regions if one.identifier.startswith("Tile")]
    weights = [one.measurements[0].value for one in tiles]
    mask = slide_masks()[0][0]
    assert [one.identifier for one in tiles] == ["Tile 1", "Tile 2", "Tile 3"]
    assert {one.measurements[0].quantity for one in tiles} == {ATTENTION_WEIGHT}
    assert weights == sorted(weights, reverse=True)
    assert weights[0] == 1
    for tile in tiles:
        (left, top), (right, bottom) = (
            pick(tile.outline.points_xy, axis=0).astype(int) for pick in (np.min, np.max)
        )
        assert (right - left, bottom - top) == (TILE_PX, TILE_PX)
        assert mask[top:bottom, left:right].mean() > 0.9


def test_map_of_attention_lies_over_the_whole_level(slide: Written) -> None:
    (attention,) = analyze(series_of(slide.paths)).maps

    row, column = np.unravel_index(int(attention.values[0].argmax()), attention.values[0].shape)
    assert attention.values.shape == (1, ROWS // TILE_PX, COLUMNS // TILE_PX)
    assert attention.stride_px == TILE_PX
    assert attention.values.max() == 1
    center = (np.array([column, row]) + 0.5) * TILE_PX
    assert np.hypot(*(center - disc_center_xy())) < RADIUS_MM / SPACING_MM
    # Glass was not read.
    assert attention.values[0, 0, 0] == 0


def test_marks_are_the_outlines_and_the_tiles_that_carry_the_attention(slide: Written) -> None:
    outlines, attended = analyze(series_of(slide.paths)).marks

    assert (outlines.shape, attended.shape) == (Shape.POLYGON, Shape.RECTANGLE)
    assert outlines.quantity == AREA
    assert float(outlines.values[0]) == pytest.approx(DISC_MM2, rel=0.15)
    assert list(attended.values) == sorted(attended.values, reverse=True)
    disc_tiles = DISC_MM2 / (TILE_PX * SPACING_MM) ** 2
    assert disc_tiles < len(attended.points_xy) < 3 * disc_tiles


def test_absent_tumor_has_no_place(full: Written) -> None:
    findings = analyze(series_of(full.paths), ABSENT)

    assert findings.outcome is Outcome.NO_FINDINGS
    assert not findings.regions
    assert not findings.marks
    assert not findings.scores[0].measurements


def test_undecided_tumor_is_outlined_for_review_and_never_marked(full: Written) -> None:
    findings = analyze(series_of(full.paths), UNDECIDED)

    assert findings.outcome is Outcome.FINDINGS
    assert {findings.presence_of(one) for one in findings.regions} == {Presence.UNDETERMINED}
    assert not findings.marks


def with_nuclei(dataset: Dataset, *dark: tuple[int, int]) -> None:
    """Put nuclei into the tissue, so that all of it counts as such; squares of a tile at corners are dark."""
    tiles = np.frombuffer(dataset.PixelData, np.uint8).reshape(-1, 64, 64, 3).copy()
    nuclei = np.random.default_rng(1).random((len(tiles), 16, 16)) < 0.2
    nuclei = nuclei.repeat(4, axis=1).repeat(4, axis=2)
    tiles[nuclei & (tiles[..., 1] < 200)] = DISC
    for left, top in dark:
        rows, columns = slice(top % 64, top % 64 + TILE_PX), slice(left % 64, left % 64 + TILE_PX)
        tiles[top // 64 * (COLUMNS // 64) + left // 64, rows, columns, 2] = 100
    dataset.PixelData = tiles.tobytes()


def test_area_is_that_of_the_tissue_in_the_tiles(full: Written, tmp_path: Path) -> None:
    tissue_mm2 = math.pi * math.prod(TISSUE_RADII_XY_MM)
    series = made_of(changed(full.paths[0], tmp_path, with_nuclei), received(full.paths[1]))

    findings = analyze(series, SlideEngine(dark=256))

    (area,) = findings.scores[0].measurements
    tiles_mm2 = float((findings.maps[0].values > 0).sum()) * (TILE_PX * SPACING_MM) ** 2
    # Tiles with less than a quarter of tissue are not read.
    assert area.value == pytest.approx(tissue_mm2, rel=0.03)
    assert tiles_mm2 > 1.05 * tissue_mm2


def test_outline_ends_where_the_level_does(full: Written, tmp_path: Path) -> None:
    def cut_off(dataset: Dataset) -> None:
        with_nuclei(dataset)
        dataset.TotalPixelMatrixRows = 250

    findings = analyze(
        made_of(changed(full.paths[0], tmp_path, cut_off)), SlideEngine(dark=256), top_tiles=99
    )

    assert findings.regions[0].outline.points_xy[:, 1].max() == 250
    assert max(one.outline.points_xy[:, 1].max() for one in findings.regions[1:]) == 250


def test_single_tile_that_looks_like_tumor_is_no_region(full: Written, tmp_path: Path) -> None:
    center = (disc_center_xy() // TILE_PX * TILE_PX).astype(int).tolist()
    apart, neighbor = (center[0] - 5 * TILE_PX, center[1]), (center[0] - 5 * TILE_PX, center[1] + TILE_PX)

    regions = []
    for number, dark in enumerate([(), (apart,), (apart, neighbor)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        level = changed(full.paths[0], folder, lambda dataset, dark=dark: with_nuclei(dataset, *dark))
        findings = analyze(made_of(level, received(full.paths[1])), top_tiles=0)
        regions.append(len(findings.regions))

    assert regions == [1, 1, 2]


def test_only_the_largest_regions_are_listed_and_the_report_says_so(full: Written, tmp_path: Path) -> None:
    def spotted(dataset: Dataset) -> None:
        tiles = np.frombuffer(dataset.PixelData, np.uint8).reshape(-1, 64, 64, 3).copy()
        tiles[::3, :TILE_PX, :, 2] = 100
        dataset.PixelData = tiles.tobytes()

    series = made_of(changed(full.paths[0], tmp_path, spotted), received(full.paths[1]))

    findings = analyze(series, most_regions=2, top_tiles=0)

    assert [one.identifier for one in findings.regions] == ["Tumor region 1", "Tumor region 2"]
    areas = [one.measurements[0].value for one in findings.regions]
    assert areas == sorted(areas, reverse=True)
    assert any("the 2 largest are listed" in remark for remark in findings.remarks)
    assert len(findings.marks[0].points_xy) > 2


# --- how it is read


def test_tiles_go_to_the_engine_in_batches_and_progress_is_told(full: Written) -> None:
    engine, told = SlideEngine(), []

    with listening(lambda done, total, what: told.append((done, total, what))):
        analyze(series_of(full.paths), engine, tiles_at_once=10)

    total = told[0][1]
    assert told == [(number, total, "tiles") for number in range(1, total + 1)]
    assert set(engine.batches[:-1]) == {10}
    assert 0 < engine.batches[-1] <= 10
    assert sum(engine.batches) <= total


def test_coarser_tiles_are_those_of_a_coarser_level(full: Written) -> None:
    findings = analyze(series_of(full.paths), SlideEngine(micrometers_per_pixel=4.0))

    assert findings.maps[0].frames == (Frame(str(dcmread(full.paths[1]).SOPInstanceUID)),)


@pytest.mark.parametrize("numbers", [[0, 1], [0]])
def test_overview_is_the_same_with_and_without_coarse_levels(full: Written, numbers: list[int]) -> None:
    with open_slide(series_of([full.paths[number] for number in numbers])) as opened:
        picture, pixel_um = read_overview(opened, 1000 * SPACING_MM)

    assert pixel_um == OVERVIEW_UM
    assert picture.shape == (ROWS // 8, COLUMNS // 8, 3)
    assert np.abs(picture[0, 0].astype(int) - GLASS).max() <= 1
    column, row = (disc_center_xy() / 8).astype(int)
    assert picture[row, column, 2] < 120


def test_overview_of_a_very_large_slide_is_coarser(full: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looking, "MOST_OVERVIEW_PIXELS", ROWS * COLUMNS // 16**2)

    with open_slide(series_of(full.paths)) as opened:
        picture, pixel_um = read_overview(opened, 1000 * SPACING_MM)

    assert (picture.shape, pixel_um) == ((ROWS // 16, COLUMNS // 16, 3), 16)


# --- what is not read, and why


def without_scale(dataset: Dataset) -> None:
    del dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    del dataset.ImagedVolumeWidth, dataset.ImagedVolumeHeight


def without_scale_and_power(dataset: Dataset) -> None:
    without_scale(dataset)
    del dataset.OpticalPathSequence[0].ObjectiveLensPower


def blank(dataset: Dataset) -> None:
    pixels = np.broadcast_to(np.array(GLASS, np.uint8), (len(dataset.PixelData) // 3, 3))
    dataset.PixelData = pixels.tobytes()


def test_scale_is_estimated_by_the_power_of_the_objective_and_the_report_says_so(
    full: Written, tmp_path: Path
) -> None:
    findings = analyze(levels_changed(full, tmp_path, without_scale))

    assert findings.outcome is Outcome.FINDINGS
    assert any("taken to be 1 µm" in remark for remark in findings.remarks)


def test_scale_is_the_one_of_the_configuration_where_the_slide_tells_nothing(
    full: Written, tmp_path: Path
) -> None:
    series = levels_changed(full, tmp_path, without_scale_and_power)

    findings = SlideTumor(assumed_micrometers_per_pixel=2.0).analyze(
        series, SlideEngine(micrometers_per_pixel=2.0)
    )

    # Lengths are twice those that were drawn.
    assert findings.scores[0].measurements[0].value == pytest.approx(4 * DISC_MM2, rel=0.15)
    assert any("as the configuration of this node says" in remark for remark in findings.remarks)


@pytest.mark.parametrize(
    ("change", "engine", "reason"),
    [
        (without_scale_and_power, SlideEngine(), NO_SCALE),
        (blank, SlideEngine(), NO_TISSUE),
        (
            lambda _: None,
            SlideEngine(micrometers_per_pixel=0.5),
            "the finest level has 1 µm per pixel; the model reads 0.5 µm",
        ),
    ],
)
def test_slide_that_cannot_be_read_as_the_model_needs_is_not_eligible(
    full: Written, tmp_path: Path, change: Callable[[Dataset], object], engine: SlideEngine, reason: str
) -> None:
    findings = analyze(levels_changed(full, tmp_path, change), engine)

    assert (findings.outcome, findings.reason) == (Outcome.NOT_ELIGIBLE, reason)
    assert not engine.batches


def test_slide_out_of_focus_is_not_eligible(full: Written, tmp_path: Path) -> None:
    def blurred(dataset: Dataset) -> None:
        tiles = np.frombuffer(dataset.PixelData, np.uint8).reshape(-1, 64 * 64, 3)
        dataset.PixelData = np.repeat(tiles.mean(axis=1).astype(np.uint8)[:, None], 64 * 64, 1).tobytes()

    findings = analyze(made_of(changed(full.paths[0], tmp_path, blurred), received(full.paths[1])))

    assert findings.outcome is Outcome.NOT_ELIGIBLE
    assert "out of focus" in findings.reason


def test_tile_of_tissue_that_does_not_decode_is_told_by_its_place(full: Written, tmp_path: Path) -> None:
    row, column = (int(at // 64) for at in disc_center_xy()[::-1])
    number = row * (COLUMNS // 64) + column

    def damage(streams: list[bytes]) -> list[bytes]:
        streams[number] = streams[number][:2] + bytes(len(streams[number]) - 2)
        return streams

    broken = changed(full.paths[0], tmp_path, lambda dataset: compress(dataset, change=damage))

    with pytest.raises(PixelError, match=f"column {64 * column} and row {64 * row}"):
        analyze(made_of(broken, received(full.paths[1])))


def test_slide_that_ends_too_early_is_told_by_its_place(full: Written, tmp_path: Path) -> None:
    half = full.paths[0].stat().st_size // 2

    with pytest.raises(PixelError, match="frame"):
        analyze(made_of(cut(full.paths[0], tmp_path, bytes_left=half), received(full.paths[1])))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("embeddings", np.full((1, 1), np.nan, np.float32)),
        ("attention", np.zeros((1, 3), np.float32)),
        ("tile_probability", np.zeros((2, 3), np.float32)),
        ("probability", np.array([[np.nan]], np.float32)),
    ],
)
def test_answer_that_is_none_is_an_error_of_the_model(full: Written, name: str, values: np.ndarray) -> None:
    with pytest.raises(ModelError, match=name):
        analyze(series_of(full.paths), SlideEngine(changed={name: values}))


def test_probability_of_a_tile_above_1_is_an_error_of_the_model(full: Written) -> None:
    seen = SlideEngine()
    analyze(series_of(full.paths), seen)

    with pytest.raises(ModelError, match="outside 0–1"):
        analyze(series_of(full.paths), SlideEngine(changed={"tile_probability": probabilities_beyond(seen)}))


@pytest.mark.parametrize(
    ("engine", "missing"),
    [
        (SlideEngine(micrometers_per_pixel=None), "micrometers_per_pixel"),
        (SlideEngine(tile_threshold=None), "tile_threshold"),
    ],
)
def test_card_that_lacks_a_number_is_an_error_of_the_model(
    full: Written, engine: SlideEngine, missing: str
) -> None:
    with pytest.raises(ModelError, match=missing):
        analyze(series_of(full.paths), engine)


def shoelace(points_xy: np.ndarray) -> float:
    x, y = points_xy.astype(np.float64).T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
