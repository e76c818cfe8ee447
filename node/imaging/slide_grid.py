"""Which tiles of a slide a network is shown: the level that fits its magnification, and where tissue is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from node.domain.slide import SlideLevel
from node.shrink import shrink

# Levels are seldom of exactly the magnification that they claim: a little coarser is still the same one.
SLACK = 1.1

# By so much a tile may be smaller or larger than asked for: far less than cells differ among themselves.
NEAR = 0.04


@dataclass(frozen=True, slots=True, eq=False)
class TilePlan:
    """Where the tiles of a slide are: the number of the level, their side and corners in its pixels.

    Corners (n, 2) are left and top, row by row; no two tiles overlap. `tissue_shares` (tiles down, tiles
    across) is which part of each tile of the level is tissue, read or not.
    """

    level: int
    side: int
    corners: NDArray[np.int64]
    tissue_shares: NDArray[np.float64]

    def __len__(self) -> int:
        """Return the number of tiles."""
        return len(self.corners)


def plan_tiles(
    levels: Sequence[SlideLevel],
    tissue: NDArray[np.bool_],
    *,
    micrometers_per_pixel: float,
    side_um: float,
    wanted_micrometers_per_pixel: float,
    least_tissue: float = 0.25,
) -> TilePlan:
    """Return the tiles of a side whose square holds at least that part of tissue.

    `levels` finest first, whose pixels are of `micrometers_per_pixel`; `tissue` (rows, columns) is a mask of
    the whole slide in any size. Read from the coarsest level that is not coarser than wanted.
    """
    number = fitting_level(levels, wanted_micrometers_per_pixel / micrometers_per_pixel)
    level = levels[number]
    side = _side(side_um / (micrometers_per_pixel * level.downsample), side_um / wanted_micrometers_per_pixel)
    share = share_of_tiles(tissue, columns=level.columns / side, rows=level.rows / side)
    rows, columns = np.nonzero(share >= least_tissue)
    return TilePlan(number, side, np.stack([columns, rows], axis=1) * side, share)


def _side(wanted: float, size: float) -> int:
    """Return the side of a tile in whole pixels: a multiple of what the network takes, where that is near.

    Such a tile is shrunk by a whole number, and often is one that is stored.
    """
    multiple = round(wanted / size) * round(size)
    return multiple if abs(multiple / wanted - 1) <= NEAR else max(round(wanted), 1)


def fitting_level(levels: Sequence[SlideLevel], downsample: float) -> int:
    """Return the number of the coarsest level that is hardly coarser than asked for; of none, the finest."""
    fit = (index for index, level in enumerate(levels) if level.downsample <= downsample * SLACK)
    return max(fit, default=0)


def share_of_tiles(mask: NDArray[np.bool_], *, columns: float, rows: float) -> NDArray[np.float64]:
    """Return which part of each tile a mask covers (tiles down, tiles across).

    So many tiles lie along the mask's sides; a last one that ends beyond the mask counts as empty there.
    """
    covered = np.asarray(mask, dtype=np.float64)
    for axis, count in enumerate((rows, columns)):
        covered = np.moveaxis(_averaged(np.moveaxis(covered, axis, 0), count), 0, axis)
    return covered


def _averaged(values: NDArray[np.float64], count: float) -> NDArray[np.float64]:
    """Return means along the first axis over so many equal parts of it."""
    total = np.concatenate([np.zeros_like(values[:1]), np.cumsum(values, axis=0)])
    length = len(values) / count
    ends = np.minimum(np.arange(int(np.ceil(count - 1e-9)) + 1) * length, len(values))
    whole = np.minimum(ends.astype(np.int64), len(values) - 1)
    part = (ends - whole).reshape(-1, *[1] * (values.ndim - 1))
    sums = total[whole] * (1 - part) + total[whole + 1] * part
    return np.asarray(np.diff(sums, axis=0) / length)


def shrink_tile(tile: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Return a square tile (s, s, 3) with `size` pixels along a side, each the mean of what it covers."""
    if tile.shape[0] == size:
        return tile
    factor, rest = divmod(tile.shape[0], size)
    if rest or not factor:
        lines = _averaged(tile.astype(np.float64), size).swapaxes(0, 1)
        return np.rint(_averaged(lines, size).swapaxes(0, 1)).astype(np.uint8)
    return shrink(tile, factor)
