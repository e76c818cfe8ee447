"""The lines around the parts of a mask, along the edges of its elements."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Field = NDArray[np.bool_]
Point = tuple[int, int]

# Clockwise on a picture whose rows run down: along the top to the right, then down, left and up.
RIGHT, DOWN, LEFT, UP = (1, 0), (0, 1), (-1, 0), (0, -1)
BEFORE_BY_SIDE = {RIGHT: (-1, 0), DOWN: (0, 1), LEFT: (1, 0), UP: (0, -1)}
"""For the side of an element that is walked in a direction: its neighbor (row, column) beyond that side."""

START_BY_SIDE = {RIGHT: (0, 0), DOWN: (1, 0), LEFT: (1, 1), UP: (0, 1)}
"""And the corner (x, y) of the element where the walk along it begins."""

LEAST_TILES = 2
"""Of a slide: a tile that looks like tumor and touches no other one is more often a mistake."""


@dataclass(frozen=True, slots=True, eq=False)
class Island:
    """One part of a mask whose elements touch by their sides: which they are, and its outer line.

    `mask` has the shape of the whole; `outline` (points, 2) are corners of elements as (x, y), clockwise, the
    first one not repeated.
    """

    mask: Field
    outline: NDArray[np.int64]

    @property
    def size(self) -> int:
        """How many elements it has."""
        return int(self.mask.sum())


def find_islands(mask: Field, least: int = 1) -> list[Island]:
    """Return the parts of a mask (rows, columns) of so many elements at least, the largest first.

    Holes have no line of their own.
    """
    labels, _ = ndimage.label(mask)
    sizes = np.bincount(labels.ravel())
    numbers = [number for number in range(1, len(sizes)) if sizes[number] >= least]
    parts = [labels == number for number in numbers]
    islands = [Island(part, _outline(part)) for part in parts]
    return sorted(islands, key=lambda one: (-one.size, tuple(one.outline[0].tolist())))


def _outline(mask: Field) -> NDArray[np.int64]:
    """Return the outer line of a mask of one part: that around its first element in reading order."""
    steps: dict[Point, list[Point]] = {}
    for start, side in _sides(mask):
        steps.setdefault(start, []).append(side)
    row, column = (int(one) for one in np.argwhere(mask)[0])
    here, side = (column, row), RIGHT
    first, points = here, []
    while True:
        points.append(here)
        while True:
            here = here[0] + side[0], here[1] + side[1]
            if here == first or side not in steps[here] or len(steps[here]) > 1:
                break
        if here == first:
            return np.array(points)
        # To the left first: where two elements touch by a corner the right turn would lead into a hole.
        turned = (_left_of(side), _right_of(side))
        side = next(one for one in turned if one in steps[here])


def _right_of(side: Point) -> Point:
    return -side[1], side[0]


def _left_of(side: Point) -> Point:
    return side[1], -side[0]


def _sides(mask: Field) -> Iterator[tuple[Point, Point]]:
    """Yield where each side of an element that has no neighbor there begins (x, y), and its direction."""
    padded = np.pad(mask, 1)
    rows, columns = mask.shape
    for side, (down, across) in BEFORE_BY_SIDE.items():
        neighbor = padded[1 + down : 1 + down + rows, 1 + across : 1 + across + columns]
        x, y = START_BY_SIDE[side]
        for row, column in np.argwhere(mask & ~neighbor).tolist():
            yield (column + x, row + y), side
