"""Bring intensities to the range that a network was trained on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from node.imaging.resample import FloatArray, resize

LOW_PERCENT = 0.5
HIGH_PERCENT = 99.5


def stretch(pixels: NDArray[np.generic], low_percent: float, high_percent: float) -> FloatArray:
    """Return the array as float32 in 0–1, the two percentiles at 0 and 1, values beyond them clipped.

    Percentiles in place of minimum and maximum: one burned-in marker or one dead pixel would otherwise set
    the contrast of the whole image. A constant array gives zeros. Raises ValueError for an empty array, for
    values that are not finite and for percentiles that are not 0 ≤ low < high ≤ 100.
    """
    if not 0 <= low_percent < high_percent <= 100:
        raise ValueError(f"percentiles {low_percent} and {high_percent}, expected 0 <= low < high <= 100")
    if pixels.size == 0:
        raise ValueError(f"array of shape {pixels.shape} is empty")
    values = np.asarray(pixels, dtype=np.float32)
    if not np.isfinite(values).all():
        raise ValueError("array holds values that are not finite")
    low, high = (float(value) for value in np.percentile(values, [low_percent, high_percent]))
    if high <= low:
        return np.zeros(values.shape, dtype=np.float32)
    stretched: FloatArray = np.clip((values - low) / (high - low), 0.0, 1.0).astype(np.float32)
    return stretched


def prepare_radiograph(pixels: NDArray[np.generic], size: int) -> FloatArray:
    """Return one radiograph as the networks take it: (size, size) float32 in 0–1.

    Takes (y, x) pixels in the MONOCHROME2 sense (bright = dense), any number type and range. The whole image
    is squeezed into the square without keeping the aspect ratio, as the training images were; boxes go there
    and back by `node.imaging.boxes.Squeeze`. Training and serving both call this, so that a network sees the
    same pixels in both.
    """
    # Resize first: the percentiles then depend neither on the detector's noise nor on its resolution.
    return stretch(resize(np.asarray(pixels, dtype=np.float32), (size, size)), LOW_PERCENT, HIGH_PERCENT)
