"""Planes of a volume in the patient, with a lesion at a known place."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Point = tuple[float, float, float]

VOLUME_CENTER_XYZ_MM = np.array([12.5, -30.25, 140.0])
ROW_SPACING_MM, COLUMN_SPACING_MM, STEP_MM = 0.7, 0.8, 2.5
AIR_HU, TISSUE_HU, LESION_HU, NOISE_HU = -1000, 40, 400, 10
INTERCEPT_HU = -1024
ROTATION_RAD = (0.35, -0.25)
TILT_RAD = 0.26


@dataclass(frozen=True, slots=True, eq=False)
class Stack:
    """Where each voxel lies, from numbers as the headers state them, and what is there."""

    rows: int
    columns: int
    row_xyz: Floats
    column_xyz: Floats
    positions_xyz_mm: Floats
    """Centers of the first voxel of each plane, (planes, 3)."""
    centroid_xyz_mm: Point
    radii_xyz_mm: Point

    @property
    def planes(self) -> int:
        return len(self.positions_xyz_mm)

    @property
    def tilt_degrees(self) -> float:
        """The angle between the planes' normal and the line through their first voxels."""
        step = self.positions_xyz_mm[-1] - self.positions_xyz_mm[0]
        along_mm = abs(np.cross(self.row_xyz, self.column_xyz) @ step)
        across_mm = np.sqrt(max(step @ step - along_mm**2, 0))
        return round(float(np.degrees(np.arctan2(across_mm, along_mm))), 3)

    def points(self, plane: int) -> Floats:
        """The centers of a plane's voxels, (rows, columns, 3)."""
        down = np.arange(self.rows)[:, None, None] * ROW_SPACING_MM * self.column_xyz
        across = np.arange(self.columns)[None, :, None] * COLUMN_SPACING_MM * self.row_xyz
        return np.asarray(self.positions_xyz_mm[plane] + down + across)

    def is_lesion(self, plane: int) -> Mask:
        """Where the lesion is in a plane, (rows, columns)."""
        offsets = (self.points(plane) - self.centroid_xyz_mm) / self.radii_xyz_mm
        return np.asarray((offsets**2).sum(axis=-1) <= 1)

    def mask(self) -> Mask:
        """The lesion, (planes, rows, columns)."""
        return np.stack([self.is_lesion(plane) for plane in range(self.planes)])

    def stored(self, plane: int) -> NDArray[np.int16]:
        """The stored values of a plane: tissue in air, the lesion brighter than both, and noise."""
        radius_mm = 0.45 * min(self.rows * ROW_SPACING_MM, self.columns * COLUMN_SPACING_MM)
        distance_mm = np.linalg.norm(self.points(plane) - VOLUME_CENTER_XYZ_MM, axis=-1)
        value_hu = np.where(distance_mm < radius_mm, TISSUE_HU, AIR_HU)
        value_hu = np.where(self.is_lesion(plane), LESION_HU, value_hu)
        noise_hu = np.random.default_rng(plane).normal(0, NOISE_HU, value_hu.shape)
        stored = np.maximum(value_hu + noise_hu, INTERCEPT_HU) - INTERCEPT_HU
        return np.asarray(np.rint(stored), np.int16)


def _rotated(axis_xyz: Floats) -> Floats:
    """The direction turned about x and then about y."""
    (sx, sy), (cx, cy) = np.sin(ROTATION_RAD), np.cos(ROTATION_RAD)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    return np.asarray(about_y @ about_x @ axis_xyz)


X, Y, Z = np.eye(3)
LEANING = np.array([0, np.cos(TILT_RAD), np.sin(TILT_RAD)])
ARRANGEMENTS: dict[str, tuple[Floats, Floats, Floats]] = {
    "axial": (X, Y, Z),
    "reversed": (X, Y, -Z),
    "oblique": (_rotated(X), _rotated(Y), _rotated(Z)),
    "sagittal": (Y, -Z, -X),
    "tilted": (X, LEANING, Z),
    "single": (X, Y, Z),
}
"""Directions of a row, of a column, and of the step from one instance number to the next.

"reversed" steps against the normal, "tilted" steps along the table under a leaning gantry.
"""


def make_stack(arrangement: str, planes: int, rows: int, columns: int) -> Stack:
    """Return the stack of that arrangement around VOLUME_CENTER_XYZ_MM, with the lesion off its center."""
    # Rounded as the headers are, so that the truth belongs to what was written.
    row, column, step = (np.round(axis, 10) for axis in ARRANGEMENTS[arrangement])
    planes = 1 if arrangement == "single" else planes
    across = (columns - 1) / 2 * COLUMN_SPACING_MM * row + (rows - 1) / 2 * ROW_SPACING_MM * column
    along = (np.arange(planes) - (planes - 1) / 2)[:, None] * STEP_MM * step
    positions = np.round(VOLUME_CENTER_XYZ_MM - across + along, 6)
    extents = [rows * ROW_SPACING_MM, columns * COLUMN_SPACING_MM, planes * STEP_MM]
    size_mm = min(extents[:2] if planes == 1 else extents)
    offset = size_mm * np.array([0.13, -0.17, 0.1])
    if planes == 1:
        offset -= (offset @ step) * step
    radii = size_mm * np.array([0.2, 0.16, 0.18])
    return Stack(rows, columns, row, column, positions, _point(VOLUME_CENTER_XYZ_MM + offset), _point(radii))


def _point(values: Floats) -> Point:
    x, y, z = (float(value) for value in values)
    return x, y, z
