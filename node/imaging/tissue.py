"""Where a slide has tissue that can be judged: on a picture of the whole slide, at low magnification."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Colors = NDArray[np.uint8]
Floats = NDArray[np.float32]
Field = NDArray[np.bool_]

SATURATION = (14.0, 30.0)
"""Of 255: paler is glass and more colorful is tissue, whatever Otsu's threshold says between them.

A slide without tissue gives it the noise of the glass to divide, one full of tissue two kinds of tissue.
"""

GLASS_PERCENTILE, GLASS_LEAST = 98.0, 190.0
"""The light that passes glass; where a picture shows none, it is measured against the second."""

PALE_DENSITY = 0.04
"""Mean optical density of what absorbs as little as glass with dust on it, whatever its color."""

INK_DENSITY, GREEN_LEAD = 0.12, 1.15
"""Hematoxylin and eosin absorb green most; what absorbs red by so much more is ink."""

BLUE_LEAD, BLUE_REST = 0.98, 0.55
"""Blue ink absorbs red and green alike and blue by much less; hematoxylin alone is not far from that."""

THIN_LEAD, THIN_REST, THIN_UM = 0.78, 0.62, 100.0
"""Up to so far from ink, what has about its color is ink mixed with the stain under it."""

RED_DENSITY, RED_BALANCE, RED_DEPTH = 0.75, 0.8, 0.45
"""Red ink absorbs green and blue alike, hardly red; eosin absorbs much less blue."""

BLACK_DENSITY, BLACK_SPREAD = 0.45, 0.25
"""Black ink absorbs all colors nearly alike; a stain that absorbs so much blue absorbs more green."""

FOLD_RATIO, FOLD_EXCESS, FOLD_PERCENTILE, FOLD_SHAPE = 1.6, 1.1, 90.0, 4.0
"""A fold is nearly twice as dense as the middle of the tissue, denser than its densest parts, and a strip.

Its length is so many times its width, in standard deviations. Less would take an epithelium or a tumor, dense
with nuclei, for folded: a fold that is missed does less harm.
"""

LEAST_TISSUE_MM2, LEAST_MARK_MM2, HOLE_MM2 = 0.05, 0.01, 0.03
"""Smaller crumbs are no tissue, smaller specks no mark, and smaller holes are the tissue around them."""

ASSUMED_UM = 16.0
"""Pixel of a picture that does not say; a slide of 15 mm is then about a thousand wide."""


@dataclass(frozen=True, slots=True, eq=False)
class TissueField:
    """The parts of a slide on a picture of it, each (rows, columns); none of them overlap.

    `mask` is tissue that can be judged, `pen` ink, `folds` tissue that lies double; the rest is blank.
    `threshold` is the saturation (0–255) from which on a pixel counted as tissue.
    """

    mask: Field
    pen: Field
    folds: Field
    threshold: float

    @property
    def tissue_share(self) -> float:
        """Which part of the picture is tissue that can be judged."""
        return float(self.mask.mean())

    @property
    def pen_share(self) -> float:
        """Which part of the picture is under ink."""
        return float(self.pen.mean())

    @property
    def fold_share(self) -> float:
        """Which part of the picture is folded tissue."""
        return float(self.folds.mean())

    @property
    def blank_share(self) -> float:
        """Which part of the picture is bare glass, dust included."""
        return 1 - self.tissue_share - self.pen_share - self.fold_share


def find_tissue(picture_rgb: Colors, micrometers_per_pixel: float | None) -> TissueField:
    """Return what lies where on a picture (rows, columns, 3) of a whole slide.

    Tissue is what is more colorful than glass by Otsu's threshold on saturation, and neither ink nor folded.
    Made for hematoxylin and eosin at 4 to 32 µm per pixel; where the size of a pixel is None, areas are
    those of a picture of 16 µm. Raises ValueError for an array that is no picture in color.
    """
    if picture_rgb.ndim != 3 or picture_rgb.shape[2] != 3 or not picture_rgb.size:
        raise ValueError(f"an array of shape {picture_rgb.shape}, expected (rows, columns, 3)")
    pixel_mm2 = ((micrometers_per_pixel or ASSUMED_UM) / 1000) ** 2
    smooth = np.asarray(ndimage.uniform_filter(picture_rgb, (3, 3, 1)), np.uint8)
    density = optical_density(smooth)
    pen = _with_thin_ink(density, _large(find_ink(density), LEAST_MARK_MM2 / pixel_mm2), pixel_mm2)
    saturation = saturations(smooth)
    threshold = _threshold(saturation[~pen])
    tissue = (saturation > threshold) & (density.mean(axis=2) > PALE_DENSITY) & ~pen
    tissue = _filled(_large(tissue, LEAST_TISSUE_MM2 / pixel_mm2), HOLE_MM2 / pixel_mm2) & ~pen
    folds = _folds(density.mean(axis=2), tissue, LEAST_MARK_MM2 / pixel_mm2)
    return TissueField(tissue & ~folds, pen, folds, threshold)


def saturations(colors: Colors) -> Floats:
    """Return how colorful each pixel is (rows, columns), 0–255: the spread of its colors by the largest."""
    most = colors.max(axis=2).astype(np.float32)
    return np.asarray(255 * (most - colors.min(axis=2)) / np.maximum(most, 1), np.float32)


def optical_density(colors: Colors) -> Floats:
    """Return how much red, green and blue is absorbed (rows, columns, 3), in powers of ten; 0 for glass."""
    table = density_tables(np.percentile(colors.reshape(-1, 3), GLASS_PERCENTILE, axis=0))
    return np.stack([table[channel][colors[..., channel]] for channel in range(3)], axis=2)


def density_tables(glass: NDArray[np.float64]) -> Floats:
    """Return the density of each value (3, 256), by the value (3,) below which nearly all of a color lies."""
    light = np.maximum(glass, GLASS_LEAST) + 1
    return np.asarray(np.log10(light[:, None] / (np.arange(256) + 1)).clip(0), np.float32)


def find_ink(density: Floats) -> Field:
    """Return which pixels of an optical density (rows, columns, 3) have a color that no stain gives."""
    red, green, blue = density[..., 0], density[..., 1], density[..., 2]
    is_green = (red > GREEN_LEAD * green) & (red > blue)
    is_blue = (red > BLUE_LEAD * green) & (blue < BLUE_REST * red)
    is_red = (green > RED_DENSITY) & (blue > RED_BALANCE * green) & (red < RED_DEPTH * green)
    is_black = (density.min(axis=2) > BLACK_DENSITY) & (np.ptp(density, axis=2) < BLACK_SPREAD)
    return np.asarray(((red > INK_DENSITY) & (is_green | is_blue)) | is_red | is_black)


def _with_thin_ink(density: Floats, ink: Field, pixel_mm2: float) -> Field:
    """Return ink and its rim, where it is thin and mixed with what lies under it."""
    red, green, blue = density[..., 0], density[..., 1], density[..., 2]
    is_thin = (red > THIN_LEAD * green) & (blue < THIN_REST * red) & (red > PALE_DENSITY)
    steps = max(2, round(THIN_UM / 1000 / math.sqrt(pixel_mm2)))
    grown = ndimage.binary_dilation(ink, iterations=steps, mask=is_thin | ink) if ink.any() else ink
    return np.asarray(ndimage.binary_dilation(grown, iterations=2) & (density.mean(axis=2) > PALE_DENSITY))


def _threshold(values: Floats) -> float:
    """Return Otsu's threshold of saturations, within what can be one between glass and tissue."""
    counts = np.bincount(values.astype(np.uint8), minlength=256).astype(np.float64)
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * np.arange(256))
    with np.errstate(invalid="ignore", divide="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    low, high = SATURATION
    best = float(np.nan_to_num(between).argmax()) if len(values) else low
    return min(max(best, low), high)


def _folds(density: Floats, tissue: Field, least: float) -> Field:
    """Return the long parts of the tissue that are much denser than the middle of it."""
    if not tissue.any():
        return np.zeros_like(tissue)
    middle, high = np.percentile(density[tissue], [50, FOLD_PERCENTILE]).tolist()
    dense = tissue & (density > max(FOLD_RATIO * middle, FOLD_EXCESS * high))
    labels, count = ndimage.label(_large(dense, least), _TOUCHING)
    is_fold = np.append(False, [_elongation(part, number) >= FOLD_SHAPE for number, part in _parts(labels)])
    folds: Field = np.asarray(ndimage.binary_dilation(is_fold[labels]) & tissue) if count else dense & False
    return folds


def _parts(labels: NDArray[np.int32]) -> list[tuple[int, NDArray[np.int32]]]:
    """Return each label and the box around it."""
    return [(number, labels[box]) for number, box in enumerate(ndimage.find_objects(labels), 1)]


def _elongation(labels: NDArray[np.int32], number: int) -> float:
    """Return by how much the places of a label spread more along than across."""
    places = np.stack(np.nonzero(labels == number)).astype(np.float64)
    if places.shape[1] < 3:
        return 1.0
    # A pixel is a square: by itself it spreads by a twelfth.
    least, most = np.linalg.eigvalsh(np.cov(places) + np.eye(2) / 12)
    return math.sqrt(most / least)


def _large(field: Field, least: float) -> Field:
    """Return the parts of a field that have so many pixels at least."""
    labels, count = ndimage.label(field, _TOUCHING)
    is_large = np.bincount(labels.ravel(), minlength=count + 1) >= math.ceil(least)
    is_large[0] = False
    return np.asarray(is_large[labels])


def _filled(field: Field, most: float) -> Field:
    """Return a field without holes of so many pixels at most."""
    return np.asarray(~_large(~field, most + 1))


_TOUCHING = np.ones((3, 3), bool)
