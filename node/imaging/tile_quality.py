"""Whether one tile of a slide is fit for a network: enough tissue, no ink, nothing lost in focus."""

from __future__ import annotations

from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from node.imaging.tissue import find_ink, optical_density, saturations

Colors = NDArray[np.uint8]

LEAST_TISSUE, MOST_PEN = 0.10, 0.10
"""Which part of a tile has to be tissue, and may be ink."""

TISSUE_SATURATION, TISSUE_DENSITY = 18.0, 0.05
"""A pixel of tissue is more colorful (0–255) and absorbs more (in powers of ten) than glass and its dust."""

DARK_DENSITY, MOST_DARK = 1.0, 0.6
"""Where nearly all is this dark, light was missing or the tissue lies several times over itself."""

LEAST_DETAIL = 3e-4
"""Mean square of the second differences of the density of sharp tissue; a blurred tile has less."""


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
    if tile_rgb.ndim != 3 or tile_rgb.shape[2] != 3 or min(tile_rgb.shape[:2]) < 8:
        raise ValueError(f"an array of shape {tile_rgb.shape}, expected (rows, columns, 3)")
    smooth = np.asarray(ndimage.uniform_filter(tile_rgb, (5, 5, 1)), np.uint8)
    density = optical_density(smooth)
    mean = density.mean(axis=2)
    pen = find_ink(density)
    tissue = (saturations(smooth) > TISSUE_SATURATION) & (mean > TISSUE_DENSITY) & ~pen
    if pen.mean() > MOST_PEN:
        return Quality.PEN
    if tissue.mean() < LEAST_TISSUE:
        return Quality.BLANK
    if (mean > DARK_DENSITY).mean() > MOST_DARK:
        return Quality.DARK
    return Quality.TISSUE if _detail(tile_rgb, tissue) >= LEAST_DETAIL else Quality.BLURRED


def _detail(tile: Colors, tissue: NDArray[np.bool_]) -> float:
    """Return how much neighboring pixels of the tissue differ in density, beyond a slope."""
    second = ndimage.laplace(optical_density(tile).mean(axis=2))
    return float(np.square(second[tissue]).mean())
