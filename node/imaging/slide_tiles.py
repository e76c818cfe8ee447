"""Tiles of a slide as a network is shown them: of its size, and judged whether they are fit for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from node.imaging.slide_grid import shrink_tile
from node.imaging.tile_quality import Quality, judge_tiles

Colors = NDArray[np.uint8]
Corner = tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class PreparedTile:
    """A tile (size, size, 3), and what it is fit for."""

    colors: Colors
    quality: Quality


class Regions(Protocol):
    """What gives parts of a slide, as `node.read.slide.Slide` does."""

    def regions(
        self, level: int, corners: list[Corner], columns: int, rows: int, *, factor: int = 1
    ) -> Sequence[Colors]:
        """Return the part (rows, columns, 3) at each corner, smaller by a factor."""
        ...


@dataclass(frozen=True, slots=True)
class PreparedSlide:
    """A slide whose square parts come with `size` pixels along a side, and judged.

    `node.read.tiles.stream_tiles` takes it for a slide: its threads then prepare what they have read.
    """

    slide: Regions
    size: int

    def regions(self, level: int, corners: list[Corner], columns: int, rows: int) -> list[PreparedTile]:
        """Return the tile at each corner; raises what reading raises."""
        # Where the size divides the side, whoever reads makes them smaller before it hands them over.
        factor = columns // self.size if columns % self.size == 0 else 1
        return prepare_tiles(self.slide.regions(level, corners, columns, rows, factor=factor), self.size)


def prepare_tiles(tiles: Sequence[Colors], size: int) -> list[PreparedTile]:
    """Return tiles (s, s, 3) as a network is shown them; they are judged as it sees them."""
    shrunk = [shrink_tile(tile, size) for tile in tiles]
    return [PreparedTile(*one) for one in zip(shrunk, judge_tiles(shrunk), strict=True)]
