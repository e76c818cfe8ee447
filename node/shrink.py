"""Pictures made smaller by a whole number: for tiles as networks see them, overviews and pyramids."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

# The sum of so many pixels in a square still fits into 16 bits, and half as many more.
SMALL_FACTOR = 16


def shrink(colors: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """Return colors (rows, columns, 3) whose pixels are the rounded mean of `factor` × `factor`."""
    if factor == 1:
        return colors
    rows, columns = colors.shape[0] // factor, colors.shape[1] // factor
    # Lines of single values: loops over the three colors of each pixel would take most of the time.
    values = colors.reshape(len(colors), -1)
    lines: NDArray[Any] = values[::factor].astype(np.uint16 if factor <= SMALL_FACTOR else np.uint32)
    for row in range(1, factor):
        lines += values[row::factor]
    width = lines.shape[1] - 3 * (factor - 1)
    total = lines[:, :width] + factor * factor // 2
    for column in range(1, factor):
        total += lines[:, 3 * column : 3 * column + width]
    means = (total // (factor * factor)).astype(np.uint8)
    small = np.empty((rows, columns, 3), dtype=np.uint8)
    for channel in range(3):
        small[..., channel] = means[:, channel :: 3 * factor]
    return small
