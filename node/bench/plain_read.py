"""The peers of the reader: SimpleITK's series reader, and pydicom's data sets stacked by numpy.

Both are told the files in their right order: neither looks for missing slices, kernels or padding.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom import dcmread

Voxels = npt.NDArray[np.generic]


def read_with_simpleitk(paths: Sequence[Path]) -> Voxels:
    """Return the voxels (z, y, x) in Hounsfield units without copying them."""
    import SimpleITK

    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames([str(path) for path in paths])
    image = reader.Execute()
    view = SimpleITK.GetArrayViewFromImage(image)
    # The view dies with its image.
    _KEPT[:] = [image]
    return np.asarray(view)


_KEPT: list[object] = []


def read_with_pydicom(paths: Sequence[Path]) -> Voxels:
    """Return the voxels (z, y, x) in Hounsfield units, int16."""
    slices = [dcmread(path) for path in paths]
    first = slices[0]
    stack = np.stack([one.pixel_array for one in slices])
    return (stack * np.int16(first.RescaleSlope) + np.int16(first.RescaleIntercept)).astype(np.int16)
