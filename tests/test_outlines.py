"""The line around a part of a mask encloses just that part, holes included."""

import numpy as np
import pytest
from scipy import ndimage

from node.imaging.outlines import find_islands


def shoelace(points_xy: np.ndarray) -> float:
    x, y = points_xy.T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def test_islands_come_by_size_with_lines_along_their_edges() -> None:
    mask = np.zeros((5, 6), bool)
    mask[1:4, 1:4] = True
    mask[2, 2] = False
    mask[4, 4] = mask[0, 5] = True

    islands = find_islands(mask)

    assert [one.size for one in islands] == [8, 1, 1]
    assert [one.outline.tolist() for one in islands] == [
        [[1, 1], [4, 1], [4, 4], [1, 4]],
        [[4, 4], [5, 4], [5, 5], [4, 5]],
        [[5, 0], [6, 0], [6, 1], [5, 1]],
    ]


@pytest.mark.parametrize("seed", range(8))
def test_line_runs_clockwise_and_encloses_the_island_with_its_holes(seed: int) -> None:
    mask = np.random.default_rng(seed).random((14, 17)) < 0.55

    islands = find_islands(mask)

    assert np.array_equal(np.sum([one.mask for one in islands], axis=0), mask)
    for island in islands:
        assert shoelace(island.outline) == ndimage.binary_fill_holes(island.mask).sum()


def test_parts_that_are_too_small_are_left_out() -> None:
    mask = np.zeros((4, 6), bool)
    mask[0, 0] = mask[2, 2:4] = mask[0:2, 5] = True

    assert [one.size for one in find_islands(mask, 2)] == [2, 2]


def test_empty_mask_has_no_islands() -> None:
    assert find_islands(np.zeros((3, 4), bool)) == []
