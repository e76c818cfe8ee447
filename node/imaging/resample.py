"""Change the sampling of arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FloatArray = NDArray[np.float32]


def resize(pixels: FloatArray, shape_yx: tuple[int, int]) -> FloatArray:
    """Return the (y, x) array at a new shape, float32, linear and antialiased.

    Shrinking averages over the area that each new pixel covers, so no structure is skipped or aliased;
    the range of values is kept. The aspect ratio follows the wanted shape. Raises ValueError for an array
    that is not two-dimensional, is empty, or for a shape below one pixel.
    """
    if pixels.ndim != 2 or pixels.size == 0:
        raise ValueError(f"array of shape {pixels.shape}, expected two dimensions (y, x), not empty")
    rows, columns = shape_yx
    if rows < 1 or columns < 1:
        raise ValueError(f"wanted shape {shape_yx}, expected at least (1, 1)")
    source = np.ascontiguousarray(pixels, dtype=np.float32)
    if source.shape == (rows, columns):
        return source.copy()
    # Pillow widens the triangle filter by the shrink factor: bilinear enlarging, area-weighted shrinking.
    resized = Image.fromarray(source).resize((columns, rows), resample=Image.Resampling.BILINEAR)
    return np.asarray(resized, dtype=np.float32).copy()
