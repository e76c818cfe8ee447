"""Which tiles of a slide are read, and how they come to the network's magnification."""

import numpy as np
import pytest

from node.domain.slide import SlideLevel
from node.imaging.slide_grid import plan_tiles, share_of_tiles, shrink_tile


def level(columns: int, rows: int, downsample: float) -> SlideLevel:
    return SlideLevel("", columns, rows, downsample, 256, 256)


LEVELS = [level(2048, 1024, 1), level(512, 256, 4), level(128, 64, 16)]


@pytest.mark.parametrize(
    ("micrometers_per_pixel", "number", "side"),
    [
        (0.5, 0, 256),
        (0.499, 0, 256),
        (0.53, 0, 242),
        (0.25, 1, 128),
        (0.2425, 1, 128),
        (0.27, 1, 119),
        (2.0, 0, 64),
    ],
)
def test_tiles_are_read_from_the_coarsest_level_that_is_fine_enough(
    micrometers_per_pixel: float, number: int, side: int
) -> None:
    plan = plan_tiles(
        LEVELS,
        np.ones((16, 32), dtype=np.bool_),
        micrometers_per_pixel=micrometers_per_pixel,
        side_um=128,
        wanted_micrometers_per_pixel=1.0,
    )

    assert (plan.level, plan.side) == (number, side)
    assert (plan.corners % plan.side == 0).all()
    assert (plan.corners < [LEVELS[number].columns, LEVELS[number].rows]).all()


def test_only_tiles_with_enough_tissue_are_read() -> None:
    tissue = np.zeros((64, 128), dtype=np.bool_)
    tissue[16:32, 48:80] = True
    tissue[32:36, 0:16] = True

    plan = plan_tiles(
        LEVELS, tissue, micrometers_per_pixel=0.5, side_um=128, wanted_micrometers_per_pixel=1.0
    )

    # Tiles of 16 pixels of the mask: two are full, one has 64 of 256.
    assert plan.corners.tolist() == [[768, 256], [1024, 256], [0, 512]]


@pytest.mark.parametrize(("columns", "rows"), [(4, 2), (3.2, 1.7), (8, 4)])
def test_the_parts_of_all_tiles_are_the_whole_mask(columns: float, rows: float) -> None:
    mask = np.random.default_rng(1).random((37, 61)) < 0.3

    shares = share_of_tiles(mask, columns=columns, rows=rows)

    assert shares.shape == (np.ceil(rows), np.ceil(columns))
    assert shares.sum() / (rows * columns) == pytest.approx(mask.mean())
    assert shares.max() <= 1


def test_a_tile_beyond_the_edge_counts_the_glass_there() -> None:
    shares = share_of_tiles(np.ones((4, 4), dtype=np.bool_), columns=1.5, rows=1)

    np.testing.assert_allclose(shares, [[1, 0.5]])


@pytest.mark.parametrize("size", [8, 4, 3, 1])
def test_a_shrunk_tile_has_the_same_mean(size: int) -> None:
    tile = np.random.default_rng(2).integers(0, 256, (8, 8, 3), dtype=np.uint8)

    small = shrink_tile(tile, size)

    assert small.shape == (size, size, 3)
    assert small.dtype == np.uint8
    # Each pixel is rounded once.
    assert np.abs(small.mean(axis=(0, 1)) - tile.mean(axis=(0, 1))).max() < 0.6
