"""Where the voxels of a stack of slices lie in the patient."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from node.samples.sections import Window
from node.samples.shapes import Point

AXIAL = np.asarray([[0, 0, 1], [0, 1, 0], [1, 0, 0]], dtype=np.float64)
"""The directions of an axial stack: slices rise to the head, rows to the back, columns to the left."""


@dataclass(frozen=True, slots=True, eq=False)
class CtGeometry:
    """Where the voxels (z, y, x) of a stack lie: the first one's center, three unit directions, the steps.

    `directions` (3, 3) are those in which slices, rows and columns rise, in patient axes (x, y, z). In a
    stack taken with a tilted gantry the first is not at right angles to the others; its step lies along it.
    """

    origin_xyz_mm: Point
    spacing_zyx_mm: tuple[float, float, float]
    shape_zyx: tuple[int, int, int]
    directions: NDArray[np.float64] = field(default_factory=AXIAL.copy)

    @property
    def is_axial(self) -> bool:
        """Whether the stack's axes are the patient's."""
        return bool(np.array_equal(self.directions, AXIAL))

    @property
    def slice_mm(self) -> float:
        """The distance of neighboring slices along their normal: less than the step of a tilted stack."""
        return float(abs(np.cross(*self.directions[1:]) @ self.directions[0]) * self.spacing_zyx_mm[0])

    def to_patient(self, points_zyx: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the patient coordinates (n, 3) in mm of voxel coordinates (n, 3)."""
        steps = self.directions * np.asarray(self.spacing_zyx_mm)[:, np.newaxis]
        return np.asarray(np.asarray(self.origin_xyz_mm) + np.asarray(points_zyx) @ steps)

    def to_voxels(self, points_xyz_mm: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the voxel coordinates (n, 3) of patient coordinates (n, 3) in mm."""
        steps = self.directions * np.asarray(self.spacing_zyx_mm)[:, np.newaxis]
        return np.asarray((np.asarray(points_xyz_mm) - np.asarray(self.origin_xyz_mm)) @ np.linalg.inv(steps))

    def points(self, window: Window) -> NDArray[np.float64]:
        """Return the patient coordinates (z, y, x, 3) in mm of the voxels of a window."""
        axes = [np.arange(span.start, span.stop, dtype=np.float64) for span in window]
        steps = self.directions * np.asarray(self.spacing_zyx_mm)[:, np.newaxis]
        parts = [axis[:, np.newaxis] * step for axis, step in zip(axes, steps, strict=True)]
        origin = np.asarray(self.origin_xyz_mm)
        return np.asarray(parts[0][:, np.newaxis, np.newaxis] + parts[1][:, np.newaxis] + parts[2] + origin)

    def window_around(self, center_xyz_mm: Point, reach_mm: float) -> Window:
        """Return the voxels of the box around a ball, cut to the stack; empty where it misses the ball."""
        corners = np.stack(np.meshgrid(*[[-reach_mm, reach_mm]] * 3), axis=-1).reshape(-1, 3)
        voxels = self.to_voxels(np.asarray(center_xyz_mm) + corners)
        low, high = np.floor(voxels.min(axis=0)), np.ceil(voxels.max(axis=0)) + 1
        first, last = (np.clip(end, 0, self.shape_zyx).astype(int) for end in (low, high))
        return (slice(first[0], last[0]), slice(first[1], last[1]), slice(first[2], last[2]))
