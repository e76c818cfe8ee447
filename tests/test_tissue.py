"""Tissue is found on a slide, and told from ink and folds; tiles are judged as by who labeled them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from node.imaging.tile_quality import Quality, judge_tile
from node.imaging.tissue import TissueField, find_tissue
from node.read.slide import open_slide, open_slide_file
from tests.conftest import SHARED_DATA
from tests.slides import series_of
from tests.sources import real_slide

GLASS, PINK, PURPLE = (243, 242, 244), (214, 140, 180), (120, 80, 160)
INKS = {"green": (40, 150, 110), "blue": (40, 50, 170), "red": (205, 25, 35), "black": (35, 33, 36)}
UM = 8.0


def slide_with(*shapes: tuple[tuple[slice, slice], tuple[int, int, int]]) -> np.ndarray:
    """A pale slide (240 × 320) with rectangles of colors, and noise."""
    picture = np.empty((240, 320, 3), int)
    picture[:] = GLASS
    for place, color in shapes:
        picture[place] = color
    return np.clip(picture + np.random.default_rng(7).integers(-4, 5, picture.shape), 0, 255).astype(np.uint8)


TISSUE = (slice(40, 200), slice(60, 260))


def test_tissue_is_found_and_glass_is_not() -> None:
    field = find_tissue(slide_with((TISSUE, PINK)), UM)

    assert inside(field.mask, TISSUE) > 0.99
    assert outside(field.mask, TISSUE) < 0.02
    assert field.pen_share == field.fold_share == 0
    assert field.blank_share == pytest.approx(1 - 160 * 200 / (240 * 320), abs=0.02)


def test_a_slide_without_tissue_has_none() -> None:
    field = find_tissue(slide_with(), UM)

    assert field.tissue_share == 0
    assert field.blank_share == 1


def test_a_slide_full_of_tissue_is_tissue_wholly() -> None:
    whole = (slice(None), slice(None))
    dark = (slice(0, 240), slice(0, 160))

    field = find_tissue(slide_with((whole, PINK), (dark, PURPLE)), UM)

    assert field.tissue_share > 0.99


def test_pale_tissue_beside_strong_tissue_is_kept() -> None:
    pale = (slice(40, 200), slice(60, 140))

    field = find_tissue(slide_with((TISSUE, (190, 60, 130)), (pale, (232, 196, 218))), UM)

    assert inside(field.mask, pale) > 0.95


@pytest.mark.parametrize("ink", INKS)
@pytest.mark.parametrize("place", ["on glass", "on tissue"])
def test_ink_is_no_tissue(ink: str, place: str) -> None:
    line = (slice(60, 180), slice(280, 300) if place == "on glass" else slice(100, 120))

    field = find_tissue(slide_with((TISSUE, PINK), (line, INKS[ink])), UM)

    assert inside(field.pen, line) > 0.95
    assert inside(field.mask, line) < 0.05
    assert outside(field.pen, line) < 0.01


def test_dense_nuclei_are_neither_ink_nor_fold() -> None:
    nest = (slice(80, 140), slice(100, 180))

    field = find_tissue(slide_with((TISSUE, PINK), (nest, PURPLE)), UM)

    assert inside(field.mask, nest) > 0.99


def test_a_fold_is_no_tissue_to_judge() -> None:
    fold = (slice(60, 180), slice(150, 158))
    double = tuple(int(244 * (channel / 244) ** 2) for channel in PINK)

    field = find_tissue(slide_with((TISSUE, PINK), (fold, double)), UM)

    assert inside(field.folds, fold) > 0.7
    assert field.mask[120, 200]
    assert not (field.mask & field.folds).any()


def test_dust_is_blank() -> None:
    specks = [((slice(y, y + 3), slice(x, x + 3)), PURPLE) for y, x in [(10, 10), (30, 200), (220, 300)]]

    field = find_tissue(slide_with((TISSUE, PINK), *specks), UM)

    assert outside(field.mask, TISSUE) < 0.02
    assert not field.mask[11, 11]


def test_a_picture_of_unknown_size_is_judged_all_the_same() -> None:
    field = find_tissue(slide_with((TISSUE, PINK)), None)

    assert inside(field.mask, TISSUE) > 0.99


@pytest.mark.parametrize("shape", [(20, 20), (20, 20, 4), (0, 20, 3)])
def test_what_is_no_color_picture_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected"):
        find_tissue(np.zeros(shape, np.uint8), UM)
    with pytest.raises(ValueError, match="expected"):
        judge_tile(np.zeros(shape, np.uint8))


# --- real slides: shares as they were when the masks were looked at


def test_the_tissue_of_the_real_prostate_is_found_beside_its_ink() -> None:
    with open_slide(series_of([real_slide()])) as opened:
        picture = shrink(opened.region(0, 0, 0, 3236, 2638), 4)

    field = find_tissue(picture, opened.micrometers_per_pixel)

    assert_shares(field, tissue=0.41, pen=0.09, folds=0.002)
    # In the middle of the tissue, in the hole of it, under the green line, and on its arrow at the left.
    assert field.mask[440, 340]
    assert not field.mask[430, 450]
    assert field.pen[30, 200]
    assert field.pen[115, 20]
    # Blue ink on tissue.
    assert field.pen[142, 235]


def test_the_tissue_of_the_real_skin_is_found_with_its_dense_epidermis() -> None:
    with open_slide_file(shared("CMU-1-Small-Region.svs")) as opened:
        picture = shrink(opened.region(0, 0, 0, 2220, 2967), 4)

    field = find_tissue(picture, 4 * 0.499)

    assert_shares(field, tissue=0.36, pen=0.0, folds=0.01)
    assert field.mask[400, 255]
    assert field.mask[480, 310]
    assert not field.mask[300, 60]


def assert_shares(field: TissueField, *, tissue: float, pen: float, folds: float) -> None:
    assert field.tissue_share == pytest.approx(tissue, abs=0.03)
    assert field.pen_share == pytest.approx(pen, abs=0.02)
    assert field.fold_share == pytest.approx(folds, abs=0.01)


# --- tiles


LABELED = {
    "almost-white": Quality.BLANK,
    "no-tissue": Quality.BLANK,
    "no-tissue_line": Quality.BLANK,
    "no-tissue_red-pen": Quality.PEN,
    "nuclei_high": Quality.TISSUE,
    "nuclei_low": Quality.TISSUE,
    "nuclei_medium_green-pen": Quality.PEN,
    "tissue_a": Quality.TISSUE,
    "tissue_b": Quality.TISSUE,
}


@pytest.mark.parametrize("name", LABELED)
def test_a_labeled_tile_is_judged_by_its_label(name: str) -> None:
    assert judge_tile(labeled(name)) is LABELED[name]


@pytest.mark.parametrize("name", ["tissue_a", "tissue_b", "nuclei_low"])
def test_a_blurred_tile_is_out_of_focus(name: str) -> None:
    blurred = ndimage.gaussian_filter(labeled(name), (4, 4, 0))

    assert judge_tile(blurred) is Quality.BLURRED


def test_a_tile_without_light_is_dark() -> None:
    dark = (labeled("tissue_a") * 0.06).astype(np.uint8)

    assert judge_tile(dark) in (Quality.DARK, Quality.PEN)
    assert not judge_tile(dark).is_usable


def test_only_tissue_is_usable() -> None:
    assert [quality for quality in Quality if quality.is_usable] == [Quality.TISSUE]


def labeled(name: str) -> np.ndarray:
    return np.asarray(Image.open(shared(f"tiles/tile_{name}.png")).convert("RGB"))


def shared(name: str) -> Path:
    path = SHARED_DATA / "wsi" / name
    if not path.exists():
        pytest.skip(f"needs ../shared/data/wsi/{name}")
    return path


def shrink(picture: np.ndarray, by: int) -> np.ndarray:
    rows, columns = (side // by * by for side in picture.shape[:2])
    blocks = picture[:rows, :columns].reshape(rows // by, by, columns // by, by, 3)
    return blocks.mean(axis=(1, 3)).astype(np.uint8)


def inside(field: np.ndarray, place: tuple[slice, slice]) -> float:
    return float(field[place].mean())


def outside(field: np.ndarray, place: tuple[slice, slice]) -> float:
    rest = np.ones(field.shape, bool)
    rest[place] = False
    return float(field[rest].mean())
