"""The tiles of all levels of a synthetic slide, coarser ones averaged from finer ones as these go by."""

from collections.abc import Iterator

from node.samples.slide import SlideSample
from node.samples.stain import Colors
from node.slide_objects.pyramid import Tile, averaged_pyramid


def pyramid_tiles(sample: SlideSample, tile_px: int) -> Iterator[Tile]:
    """Return every tile, those of one level row by row; one row of tiles of each level is in memory.

    Raises ValueError where a tile is no whole number of coarser pixels.
    """
    factors = [coarse // fine for fine, coarse in zip(sample.levels, sample.levels[1:], strict=False)]
    sizes = [sample.size(level) for level in range(len(sample.levels))]
    return averaged_pyramid(_drawn(sample, tile_px), sizes, factors=factors, tile_px=tile_px)


def _drawn(sample: SlideSample, tile_px: int) -> Iterator[Colors]:
    """Return the tiles of the finest level as they are drawn, row by row."""
    columns, rows = sample.size(0)
    for top in range(0, rows, tile_px):
        for left in range(0, columns, tile_px):
            yield sample.region(0, left, top, tile_px, tile_px)
