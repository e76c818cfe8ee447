"""The tiles of a level, and of coarser ones that are averaged from it as they go by."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from node.shrink import shrink

Colors = NDArray[np.uint8]

BLANK_ABOVE = 200
"""A tile all of whose values lie above it shows bare glass and a camera's noise."""
GLASS = 255
"""What lies outside of the slide."""


@dataclass(frozen=True, slots=True, eq=False)
class Tile:
    """One tile of a level, by its place among the level's tiles; white where the level has ended."""

    level: int
    row: int
    column: int
    colors: Colors

    @property
    def is_blank(self) -> bool:
        """Whether there is nothing to see in it."""
        return bool(self.colors.min() > BLANK_ABOVE)


def averaged_pyramid(
    tiles: Iterable[Colors], sizes: Sequence[tuple[int, int]], *, factors: Sequence[int], tile_px: int
) -> Iterator[Tile]:
    """Return every tile of all levels, those of one level row by row; of each a row of them is in memory.

    `tiles` (tile_px, tile_px, 3) are the first level's, row by row; `sizes` are columns and rows of each
    level, `factors` by how much each is coarser than the one before. Raises ValueError where a tile is no
    whole number of coarser pixels.
    """
    if any(tile_px % factor for factor in factors):
        raise ValueError(f"tiles of {tile_px} pixels, expected a multiple of each of {list(factors)}")
    strips = [_Strip(level, size, tile_px) for level, size in enumerate(sizes)]
    rest = iter(tiles)
    for row in range(strips[0].tile_rows):
        strips[0].fill(rest)
        yield from _passed_on(strips, factors, is_last=row == strips[0].tile_rows - 1)


class _Strip:
    """One row of tiles of one level, filled from the top."""

    def __init__(self, level: int, size: tuple[int, int], tile_px: int) -> None:
        self.level, self.tile_px = level, tile_px
        self.columns, self.rows = size
        self.tile_columns, self.tile_rows = (-(-side // tile_px) for side in size)
        self.colors = np.full((tile_px, self.tile_columns * tile_px, 3), GLASS, dtype=np.uint8)
        self.filled = 0
        self.done = 0

    def fill(self, tiles: Iterator[Colors]) -> None:
        """Take a whole row of tiles."""
        for column in range(self.tile_columns):
            self.colors[:, column * self.tile_px : (column + 1) * self.tile_px] = next(tiles)
        self.filled = self.tile_px

    def add(self, colors: Colors) -> None:
        """Put some more rows below the others, as far as the level reaches."""
        rows = min(len(colors), self.rows - self.done * self.tile_px - self.filled)
        if rows > 0:
            self.colors[self.filled : self.filled + rows, : self.columns] = colors[:rows, : self.columns]
            self.filled += rows

    def tiles(self) -> Iterator[Tile]:
        """Return the tiles."""
        for column in range(self.tile_columns):
            part = self.colors[:, column * self.tile_px : (column + 1) * self.tile_px]
            yield Tile(self.level, self.done, column, part)

    def empty(self) -> None:
        """Begin the next row of tiles."""
        self.colors[...] = GLASS
        self.filled = 0
        self.done += 1


def _passed_on(strips: list[_Strip], factors: Sequence[int], *, is_last: bool) -> Iterator[Tile]:
    """Return the tiles of the first strip and of all coarser ones that it completes."""
    strip, coarser = strips[0], strips[1:]
    yield from strip.tiles()
    if coarser:
        rows, columns = (side // factors[0] * factors[0] for side in strip.colors.shape[:2])
        coarser[0].add(shrink(strip.colors[:rows, :columns], factors[0]))
        is_end = is_last and coarser[0].done < coarser[0].tile_rows
        if coarser[0].filled == coarser[0].tile_px or is_end:
            yield from _passed_on(coarser, factors[1:], is_last=is_last)
    strip.empty()
