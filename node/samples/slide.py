"""A synthetic slide stained with hematoxylin and eosin, drawn where it is looked at, with its truth."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from node.samples.histology import Histology
from node.samples.shapes import Reals
from node.samples.slide_drawing import Brush, Window
from node.samples.slide_plan import Plan, Stroke, depth_in, draw_plan
from node.samples.stain import Colors, Stain, draw_stain

Mask = NDArray[np.bool_]
Piece = tuple[Window, tuple[slice, slice]]

PIECE = 512
"""Larger regions are drawn in pieces of so many pixels a side, which bounds the memory."""
GLASS = 255
"""What lies outside of the slide."""


@dataclass(frozen=True, slots=True, eq=False)
class SlideSample:
    """A slide that is nowhere held as a whole; with and without tumor the same seed is the same elsewhere.

    `levels` says by how much each magnification is coarser than the finest, which is the first.
    """

    seed: int
    columns: int
    rows: int
    is_tumor: bool
    micrometers_per_pixel: float
    levels: tuple[int, ...]
    brush: Brush

    def __post_init__(self) -> None:
        """Raise ValueError for sizes and levels that no slide has."""
        steps = pairwise(self.levels)
        if self.levels[:1] != (1,) or any(coarse <= fine or coarse % fine for fine, coarse in steps):
            raise ValueError(f"levels {self.levels}, expected 1 and then multiples of the one before")
        if min(self.columns, self.rows) < 1 or not self.micrometers_per_pixel > 0:
            raise ValueError(
                f"{self.columns} × {self.rows} of {self.micrometers_per_pixel} µm, expected more"
            )

    @property
    def plan(self) -> Plan:
        """What is larger than a gland: tissue, tumor, folds and pen marks, in µm from the slide's corner."""
        return self.brush.plan

    @property
    def stain(self) -> Stain:
        """The colors of this slide's stains."""
        return self.brush.stain

    @property
    def tumor_area_mm2(self) -> float:
        """The area inside the outlines."""
        return sum(_area(outline) for outline in self.outlines) * (self.micrometers_per_pixel / 1000) ** 2

    @property
    def outlines(self) -> tuple[NDArray[np.float64], ...]:
        """The outline (n, 2) of each tumor region as column and row in pixels of the finest level.

        Whole numbers are corners of pixels: the first pixel reaches from 0 to 1.
        """
        return tuple(region.outline() / self.micrometers_per_pixel for region in self.plan.tumor)

    def size(self, level: int) -> tuple[int, int]:
        """Return the columns and rows of a level: whole pixels only."""
        return max(1, self.columns // self.levels[level]), max(1, self.rows // self.levels[level])

    def region(self, level: int, left: int, top: int, columns: int, rows: int) -> Colors:
        """Return the colors (rows, columns, 3) of a region in pixels of its level, white off the slide."""
        colors = np.full((rows, columns, 3), GLASS, dtype=np.uint8)
        for window, place in self._pieces(level, left, top, columns, rows):
            colors[place] = self.brush.draw(window)
        return colors

    def tumor(self, level: int, left: int, top: int, columns: int, rows: int) -> Mask:
        """Return which pixels (rows, columns) of a region have their centers in a tumor region."""
        mask = np.zeros((rows, columns), dtype=bool)
        for window, place in self._pieces(level, left, top, columns, rows):
            y, x = window.centers_um()
            mask[place] = depth_in(self.plan.tumor, y[:, np.newaxis], x[np.newaxis, :]) > 0
        return mask

    def tissue(self, level: int, left: int, top: int, columns: int, rows: int) -> Mask:
        """Return which pixels of a region lie inside the edge of the tissue, gaps and lumens included."""
        mask = np.zeros((rows, columns), dtype=bool)
        for window, place in self._pieces(level, left, top, columns, rows):
            mask[place] = window.spread(self.brush.tissue_depth(*window.nodes_um())) > 0
        return mask

    def pen(self, level: int, left: int, top: int, columns: int, rows: int) -> Mask:
        """Return which pixels of a region lie under a pen's line."""
        return self._under(self.plan.marks, self._pieces(level, left, top, columns, rows), (rows, columns))

    def fold(self, level: int, left: int, top: int, columns: int, rows: int) -> Mask:
        """Return which pixels of a region lie where the tissue, if there is any, is folded."""
        return self._under(self.plan.folds, self._pieces(level, left, top, columns, rows), (rows, columns))

    def _under(self, strokes: tuple[Stroke, ...], pieces: list[Piece], shape: tuple[int, int]) -> Mask:
        mask = np.zeros(shape, dtype=bool)
        for window, place in pieces:
            y, x = window.centers_um()
            for stroke in strokes:
                if stroke.touches(y, x):
                    mask[place] |= stroke.depth_um(y[:, np.newaxis], x[np.newaxis, :]) > 0
        return mask

    def _pieces(self, level: int, left: int, top: int, columns: int, rows: int) -> list[Piece]:
        """Return the windows of a region that lie on the slide, and where each belongs in the region."""
        pixel_um = self.micrometers_per_pixel * self.levels[level]
        width, height = self.size(level)
        pieces = []
        for first_row, last_row in _cuts(max(0, top), min(height, top + rows)):
            for first, last in _cuts(max(0, left), min(width, left + columns)):
                window = Window(first_row, first, last_row - first_row, last - first, pixel_um)
                pieces.append(
                    (window, (slice(first_row - top, last_row - top), slice(first - left, last - left)))
                )
        return pieces


def slide_sample(
    seed: int,
    *,
    columns: int = 10_000,
    rows: int = 10_000,
    is_tumor: bool,
    micrometers_per_pixel: float = 0.5,
    levels: tuple[int, ...] = (1, 4, 16),
) -> SlideSample:
    """Return the slide of a seed; it is drawn region by region when it is asked for them."""
    size_um = (columns * micrometers_per_pixel, rows * micrometers_per_pixel)
    plan = draw_plan(seed, size_um, is_tumor=is_tumor)
    brush = Brush(seed, plan, Histology(seed, plan), draw_stain(seed))
    return SlideSample(seed, columns, rows, is_tumor, micrometers_per_pixel, levels, brush)


def _cuts(first: int, last: int) -> list[tuple[int, int]]:
    """Return the parts of a stretch of pixels, cut at multiples of PIECE."""
    edges = [first, *range((first // PIECE + 1) * PIECE, last, PIECE), last]
    return list(pairwise(edges)) if first < last else []


def _area(outline: Reals) -> float:
    """Return the area inside a polygon (n, 2)."""
    x, y = outline.T
    return abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))) / 2
