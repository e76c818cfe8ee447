"""Which levels a slide in a scanner's file gets as DICOM, and where on the glass they are said to lie."""

from collections.abc import Sequence

import numpy as np

from node.domain.slide import SlideLevel
from node.slide_objects.header import GRAY, Picture

TILE_PX = 256
TILES_PX = range(128, 513, 8)
"""A tile of the file's own size, where it is one of these, has its blocks of 8 × 8 where they were."""

OVERVIEW_PX = 2048
"""A pyramid goes on until the longer side of a level has no more; the last that is made has 1024 to this."""
SMALLEST_PX = 256
"""Coarser levels of a file are left out: one tile would show all, and their sizes are rounded too much."""
MICROMETERS = (0.02, 200.0)
"""What can be the pixel of a light microscope and its coarse levels."""

AS_SCANNED = ("DERIVED", "PRIMARY", "VOLUME", "NONE")
"""Its pixels were coded anew, and so are derived from those of the file (PS3.3 C.8.12.4.1.1)."""
RESAMPLED = ("DERIVED", "PRIMARY", "VOLUME", "RESAMPLED")

Spacing = tuple[float, float] | None
"""Distance of rows and of columns; None where nobody knows."""


def level_pictures(levels: Sequence[SlideLevel], micrometers_yx: Spacing) -> list[list[Picture]]:
    """Return for each level of a file that is written that one, and behind the coarsest those made of it."""
    written = [one for one in levels if one is levels[0] or _long_side(one) >= SMALLEST_PX]
    pictures = []
    for number, level in enumerate(written):
        factors = step_factors(_long_side(level)) if level is written[-1] else []
        steps = enumerate(np.cumprod([1, *factors]).tolist(), number)
        pictures.append([_picture(levels[0], level, one, times, micrometers_yx) for one, times in steps])
    return pictures


def gray_picture(columns: int, rows: int, micrometers_yx: Spacing) -> Picture:
    """Return the one level of a gray page."""
    spacing_mm = _spacing_mm(micrometers_yx, 1)
    return Picture(
        0,
        AS_SCANNED,
        columns,
        rows,
        tile_size=(TILE_PX, TILE_PX),
        spacing_yx_mm=spacing_mm,
        corner_xy_mm=_corner(columns, rows, spacing_mm),
        photometric_interpretation=GRAY,
        is_lossy=True,
    )


def step_factors(long_side: int) -> list[int]:
    """Return by how much each level that is to be made is coarser than the one before."""
    factors = []
    while long_side > OVERVIEW_PX:
        factors.append(4 if long_side >= 2 * OVERVIEW_PX else 2)
        long_side //= factors[-1]
    return factors


def _picture(
    finest: SlideLevel, level: SlideLevel, number: int, times: int, micrometers_yx: Spacing
) -> Picture:
    """Return a level of the file, or one that is made so many times coarser than it."""
    is_square = level.tile_columns == level.tile_rows
    tile = level.tile_columns if is_square and level.tile_columns in TILES_PX else TILE_PX
    return Picture(
        number,
        RESAMPLED if number else AS_SCANNED,
        max(1, level.columns // times),
        max(1, level.rows // times),
        tile_size=(tile, tile),
        spacing_yx_mm=_spacing_mm(micrometers_yx, level.downsample * times),
        corner_xy_mm=_corner(finest.columns, finest.rows, _spacing_mm(micrometers_yx, 1)),
        photometric_interpretation="YBR_FULL_422",
        is_lossy=True,
    )


def _spacing_mm(micrometers_yx: Spacing, downsample: float) -> Spacing:
    """Return the spacing of a level in mm as a decimal string can hold it; None where it cannot be true."""
    low, high = MICROMETERS
    if micrometers_yx is None or not all(low <= one <= high for one in micrometers_yx):
        return None
    down, across = (float(f"{one * downsample / 1000:.8g}") for one in micrometers_yx)
    return down, across


def _corner(columns: int, rows: int, spacing_mm: Spacing) -> tuple[float, float]:
    """Return where the first pixel has its outer corner: the last one's is taken to lie at the slide's.

    Where on the glass the scanner looked is in no agreed place of any file, and the standard wants a place.
    """
    down, across = spacing_mm or (0.0, 0.0)
    return rows * down, columns * across


def _long_side(level: SlideLevel) -> int:
    return max(level.columns, level.rows)
