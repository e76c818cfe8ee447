"""The synthetic slide: seamless, the same at every visit, and tumor told by nothing but its cells."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from node.samples.histology import Histology
from node.samples.slide import SlideSample, slide_sample
from node.samples.slide_plan import draw_plan
from node.samples.stain import MACENKO, RUIFROK_JOHNSTON, Stain, draw_stain

COLUMNS, ROWS = 2200, 1700
FAR_UM = 130.0
"""No gland or nest whose center lies in a tumor reaches this far out of it."""


@pytest.fixture(scope="module")
def tumor() -> SlideSample:
    return slide_sample(4, columns=COLUMNS, rows=ROWS, is_tumor=True)


@pytest.fixture(scope="module")
def normal() -> SlideSample:
    return slide_sample(4, columns=COLUMNS, rows=ROWS, is_tumor=False)


def whole(sample: SlideSample, level: int) -> np.ndarray:
    return sample.region(level, 0, 0, *sample.size(level))


def test_the_same_seed_gives_the_same_pixels(tumor: SlideSample) -> None:
    again = slide_sample(4, columns=COLUMNS, rows=ROWS, is_tumor=True)
    other = slide_sample(5, columns=COLUMNS, rows=ROWS, is_tumor=True)

    assert np.array_equal(again.region(0, 900, 700, 200, 150), tumor.region(0, 900, 700, 200, 150))
    assert not np.array_equal(other.region(0, 900, 700, 200, 150), tumor.region(0, 900, 700, 200, 150))


@pytest.mark.parametrize(
    ("level", "left", "top", "columns", "rows"),
    [(0, 493, 401, 70, 131), (0, 1000, 640, 37, 300), (1, 101, 77, 211, 90), (2, 13, 21, 40, 50)],
)
def test_a_region_is_what_a_larger_one_shows_there(
    tumor: SlideSample, level: int, left: int, top: int, columns: int, rows: int
) -> None:
    larger = tumor.region(level, left - 60, top - 50, columns + 140, rows + 90)

    part = tumor.region(level, left, top, columns, rows)

    # Read in another order and by another sample, so that nothing rests on what was drawn before.
    fresh = slide_sample(4, columns=COLUMNS, rows=ROWS, is_tumor=True).region(level, left, top, columns, rows)
    assert np.array_equal(part, larger[50 : 50 + rows, 60 : 60 + columns])
    assert np.array_equal(part, fresh)


def test_small_tiles_make_the_same_picture_as_the_whole(tumor: SlideSample) -> None:
    tiles = slide_sample(4, columns=COLUMNS, rows=ROWS, is_tumor=True)
    columns, rows = tiles.size(1)
    picture = np.zeros((rows, columns, 3), np.uint8)

    for top in range(0, rows, 45):
        for left in range(0, columns, 45):
            place = picture[top : top + 45, left : left + 45]
            place[...] = tiles.region(1, left, top, place.shape[1], place.shape[0])

    assert np.array_equal(picture, whole(tumor, 1))


def test_outside_of_the_slide_is_white(tumor: SlideSample) -> None:
    corner = tumor.region(0, COLUMNS - 20, -10, 50, 40)

    assert (corner[:10] == 255).all()
    assert (corner[:, 20:] == 255).all()
    assert (corner[10:, :20] < 255).all()
    assert (tumor.region(1, 10_000, 0, 8, 8) == 255).all()


@pytest.mark.parametrize("level", [1, 2])
def test_a_coarser_level_shows_what_the_finest_one_averages_to(tumor: SlideSample, level: int) -> None:
    factor = tumor.levels[level]
    columns, rows = 1024 // factor, 768 // factor
    fine = tumor.region(0, 512, 384, 1024, 768).reshape(rows, factor, columns, factor, 3).mean(axis=(1, 3))

    coarse = tumor.region(level, 512 // factor, 384 // factor, columns, rows).astype(float)

    # Drawn anew, not averaged: single edges differ, the whole must not be lighter or of another color.
    assert np.abs(fine - coarse).mean() < 9
    assert np.abs((fine - coarse).mean(axis=(0, 1))).max() < 3
    assert np.corrcoef(fine.ravel(), coarse.ravel())[0, 1] > 0.9


def test_a_tumor_changes_nothing_but_where_it_is(tumor: SlideSample, normal: SlideSample) -> None:
    assert tumor.stain == normal.stain
    assert (tumor.plan.folds, tumor.plan.marks) == (normal.plan.folds, normal.plan.marks)
    assert np.array_equal(tumor.tissue(1, 0, 0, 550, 425), normal.tissue(1, 0, 0, 550, 425))

    differs = (whole(tumor, 0) != whole(normal, 0)).any(axis=2)
    y, x = ((np.arange(size) + 0.5) * 0.5 for size in (ROWS, COLUMNS))
    far = np.ones((ROWS, COLUMNS), bool)
    for region in tumor.plan.tumor:
        far &= region.depth_um(y[:, None], x[None, :]) < -FAR_UM
    inside = tumor.tumor(0, 0, 0, COLUMNS, ROWS)
    assert far.mean() > 0.2
    assert not differs[far].any()
    assert differs[inside].mean() > 0.35


def test_the_truth_is_the_area_of_its_outline(tumor: SlideSample, normal: SlideSample) -> None:
    mask = tumor.tumor(0, 0, 0, COLUMNS, ROWS)
    drawn = Image.new("1", (COLUMNS, ROWS))
    for outline in tumor.outlines:
        ImageDraw.Draw(drawn).polygon([tuple(point - 0.5) for point in outline], fill=1)

    assert tumor.tumor_area_mm2 == pytest.approx(mask.sum() * 0.0005**2, rel=0.005)
    # Pillow also fills the pixels that the outline runs through.
    assert (np.asarray(drawn) != mask).sum() < 2 * sum(len(outline) for outline in tumor.outlines)
    assert tumor.tissue(0, 0, 0, COLUMNS, ROWS)[mask].mean() > 0.98
    assert (normal.outlines, normal.tumor_area_mm2) == ((), 0)
    assert not normal.tumor(0, 0, 0, COLUMNS, ROWS).any()


def test_nuclei_of_a_tumor_are_larger_denser_and_more_unlike() -> None:
    for seed in range(3):
        places = []
        for is_tumor in (True, False):
            plan = draw_plan(seed, (1200.0, 1200.0), is_tumor=is_tumor)
            nuclei = Histology(seed, plan).nuclei_in((0, 0, 1200, 1200))
            region = draw_plan(seed, (1200.0, 1200.0), is_tumor=True).tumor[0]
            places.append(nuclei[region.depth_um(nuclei["y_um"], nuclei["x_um"]) > 0])
        areas = [found["long_um"] * found["short_um"] for found in places]

        assert len(places[0]) > 1.2 * len(places[1])
        assert areas[0].mean() > 1.4 * areas[1].mean()
        assert areas[0].std() > 2 * areas[1].std()


def test_artifacts_and_stains_tell_nothing_of_the_tumor() -> None:
    size = (5000.0, 5000.0)
    pairs = [[draw_plan(seed, size, is_tumor=is_tumor) for is_tumor in (True, False)] for seed in range(40)]

    assert all(with_tumor.marks == without.marks for with_tumor, without in pairs)
    assert all(with_tumor.folds == without.folds for with_tumor, without in pairs)
    # Nor is one kind of slide without them.
    assert 8 < sum(bool(plan.marks) for plan, _ in pairs) < 28
    assert 10 < sum(bool(plan.folds) for plan, _ in pairs) < 34
    assert len({draw_stain(seed) for seed in range(40)}) == 40


def test_a_stain_takes_light_as_its_vector_says() -> None:
    stain = Stain(RUIFROK_JOHNSTON[0], MACENKO[1], (1.0, 1.0), (240.0, 241.0, 242.0))
    bare, blue, pink = (
        stain.colors(np.full((1, 1), h, np.float32), np.full((1, 1), e, np.float32))[0, 0]
        for h, e in ((0, 0), (0.5, 0), (0, 0.5))
    )

    assert tuple(bare) == (240, 241, 242)
    # One of 255 shades of a stain is 2 % of its light.
    assert -np.log10(blue / bare) == pytest.approx(0.5 * np.array(RUIFROK_JOHNSTON[0]), abs=0.01)
    assert -np.log10(pink / bare) == pytest.approx(0.5 * np.array(MACENKO[1]), abs=0.01)


def test_a_pen_mark_hides_the_glass_and_a_fold_darkens_the_tissue() -> None:
    samples = [slide_sample(seed, columns=3000, rows=3000, is_tumor=False) for seed in range(12)]
    marked = next(sample for sample in samples if sample.plan.marks)
    folded = next(sample for sample in samples if sample.plan.folds and not sample.plan.marks)

    picture, pen = whole(marked, 1), marked.pen(1, 0, 0, 750, 750)
    glass = ~marked.tissue(1, 0, 0, 750, 750)
    assert pen.any()
    assert picture[pen & glass].min(axis=1).mean() < 150 < picture[~pen & glass].min(axis=1).mean()

    brightness = whole(folded, 1).mean(axis=2)
    tissue, fold = folded.tissue(1, 0, 0, 750, 750), folded.fold(1, 0, 0, 750, 750)
    assert (fold & tissue).any()
    assert brightness[tissue & fold].mean() < brightness[tissue & ~fold].mean() - 20


def test_one_tile_of_a_huge_slide_is_drawn_by_itself() -> None:
    sample = slide_sample(1, columns=200_000, rows=150_000, is_tumor=True)
    left, top = sample.outlines[0].mean(axis=0).astype(int)

    tile = sample.region(0, int(left), int(top), 64, 64)

    assert tile.std() > 5
    assert sample.tumor(0, int(left), int(top), 64, 64).all()
