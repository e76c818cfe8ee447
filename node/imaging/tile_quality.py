"""Whether one tile of a slide is fit for a network: enough tissue, no ink, nothing lost in focus."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from node.imaging.tissue import GLASS_PERCENTILE, density_tables, find_ink, saturations
from node.shrink import shrink

Colors = NDArray[np.uint8]
Floats = NDArray[np.float32]
Field = NDArray[np.bool_]

LEAST_TISSUE, MOST_PEN = 0.10, 0.10
"""Which part of a tile has to be tissue, and may be ink."""

TISSUE_SATURATION, TISSUE_DENSITY = 18.0, 0.05
"""A pixel of tissue is more colorful (0–255) and absorbs more (in powers of ten) than glass and its dust."""

DARK_DENSITY, MOST_DARK = 1.0, 0.6
"""Where nearly all is this dark, light was missing or the tissue lies several times over itself."""

LEAST_DETAIL = 3e-4
"""Mean square of the second differences of the density of sharp tissue; a blurred tile has less."""

COARSE = 4
"""Colors are judged on means of so many pixels down and across: without their noise, and much faster."""

FEW_ROWS = 16


class Quality(StrEnum):
    """What a tile is fit for; all but one are reasons to leave it out."""

    TISSUE = "tissue"
    BLANK = "too little tissue"
    PEN = "ink of a pen"
    DARK = "too dark"
    BLURRED = "out of focus"

    @property
    def is_usable(self) -> bool:
        """May a network see it?"""
        return self is Quality.TISSUE


def judge_tile(tile_rgb: Colors) -> Quality:
    """Return that a tile (rows, columns, 3) shows tissue, or why it is unfit: ink, then blank, dark, blurred.

    Made for hematoxylin and eosin at 0.25 to 2 µm per pixel. Raises ValueError for what is no picture.
    """
    return judge_tiles([tile_rgb])[0]


def judge_tiles(tiles_rgb: Sequence[Colors]) -> list[Quality]:
    """Return what `judge_tile` does of each of several tiles of one size; faster than one by one."""
    for tile in tiles_rgb:
        if tile.ndim != 3 or tile.shape[2] != 3 or min(tile.shape[:2]) < 2 * COARSE:
            raise ValueError(f"an array of shape {tile.shape}, expected (rows, columns, 3)")
    coarse = _coarse(tiles_rgb)
    tables = _tables(coarse)
    planes = _planes(coarse)
    density = _densities(planes, tables)
    mean, pen = density.mean(axis=0), find_ink(_pixels(density)).reshape(coarse.shape[:3])
    colorful = saturations(_pixels(planes)).reshape(coarse.shape[:3]) > TISSUE_SATURATION
    tissue = colorful & (mean > TISSUE_DENSITY) & ~pen
    shares = np.stack([field.mean(axis=(1, 2)) for field in (pen, tissue, mean > DARK_DENSITY)], axis=1)
    found = [_judge_shares(*one) for one in shares.tolist()]
    usable = [number for number, quality in enumerate(found) if quality.is_usable]
    for number in _blurred(usable, tiles_rgb, tables, tissue):
        found[number] = Quality.BLURRED
    return found


def _judge_shares(pen: float, tissue: float, dark: float) -> Quality:
    if pen > MOST_PEN:
        return Quality.PEN
    if tissue < LEAST_TISSUE:
        return Quality.BLANK
    return Quality.DARK if dark > MOST_DARK else Quality.TISSUE


def _blurred(numbers: list[int], tiles: Sequence[Colors], tables: Floats, tissue: Field) -> list[int]:
    """Return which of these tiles have neighboring pixels of tissue that hardly differ, beyond a slope."""
    missing = LEAST_DETAIL * COARSE**2 * tissue.sum(axis=(1, 2))
    middle = tissue.shape[1] // 2
    # In the middle of most tiles a few rows show as much detail as all have to.
    for first, last in ((middle, min(middle + FEW_ROWS // COARSE, tissue.shape[1])), (0, tissue.shape[1])):
        if numbers:
            details = _details([tiles[one] for one in numbers], tables[numbers], tissue[numbers], first, last)
            numbers = [one for one, detail in zip(numbers, details, strict=True) if detail < missing[one]]
    return numbers


def _details(tiles: Sequence[Colors], tables: Floats, tissue: Field, first: int, last: int) -> list[float]:
    """Return the sum of squares of second differences in tissue, over some coarse rows of each tile."""
    width = tissue.shape[2] * COARSE
    rows = np.stack([tile[first * COARSE : last * COARSE, :width] for tile in tiles])
    second = _second_differences(_densities(_planes(rows), tables).mean(axis=0))
    second *= tissue[:, first:last].repeat(COARSE, axis=1).repeat(COARSE, axis=2)[:, 1:-1, 1:-1]
    flat = second.reshape(len(second), -1)
    return [float(np.vdot(one, one)) for one in flat]


def _second_differences(values: Floats) -> Floats:
    """Return by how much the four neighbors of each value exceed it together, but for the outermost."""
    second = values[:, :-2, 1:-1] + values[:, 2:, 1:-1]
    second += values[:, 1:-1, :-2]
    second += values[:, 1:-1, 2:]
    second -= 4 * values[:, 1:-1, 1:-1]
    return second


def _coarse(tiles: Sequence[Colors]) -> Colors:
    """Return the means of COARSE × COARSE pixels of tiles of one size (n, rows, columns, 3)."""
    rows, columns = (side // COARSE * COARSE for side in tiles[0].shape[:2])
    # One below the other: to shrink each by itself takes twice as long.
    small = shrink(np.concatenate([tile[:rows, :columns] for tile in tiles]), COARSE)
    return small.reshape(len(tiles), rows // COARSE, columns // COARSE, 3)


def _tables(tiles: Colors) -> Floats:
    """Return the optical density of each value of each color of each tile (n, 3, 256)."""
    glass = np.percentile(tiles.reshape(len(tiles), -1, 3), GLASS_PERCENTILE, axis=1)
    return density_tables(glass.ravel()).reshape(-1, 3, 256)


def _planes(tiles: Colors) -> Colors:
    """Return a plane of each color (3, n, rows, columns): what is computed then lies side by side."""
    return np.ascontiguousarray(tiles.transpose(3, 0, 1, 2))


def _pixels(planes: NDArray[Any]) -> NDArray[Any]:
    """Return planes as one picture (rows, columns, 3)."""
    return np.moveaxis(planes.reshape(3, -1, planes.shape[-1]), 0, 2)


def _densities(planes: Colors, tables: Floats) -> Floats:
    """Return the optical density of each color (3, n, rows, columns) by the table (3, 256) of each tile."""
    density = np.empty(planes.shape, np.float32)
    for number, table in enumerate(tables):
        for channel, values in enumerate(table):
            # Every value of 8 bits has an entry; to raise for others takes a second pass.
            values.take(planes[channel, number], out=density[channel, number], mode="clip")
    return density
