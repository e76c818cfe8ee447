"""A box of voxels that solids are drawn on, one over the other."""

from dataclasses import dataclass

import numpy as np

from node.samples.sections import Box, Outline, Size, Window, coverage, ellipsoid_outline, superellipse
from node.samples.shapes import Ellipsoid, Floats


@dataclass(frozen=True, slots=True, eq=False)
class Canvas:
    """Hounsfield units of a box (z, y, x) and how much of each voxel is lung, 0–1; both are drawn on."""

    box: Box
    hounsfield: Floats
    lung: Floats

    def crop(self, window: Window) -> "Canvas":
        """Return a part that shares its voxels with the whole."""
        return Canvas(self.box.crop(window), self.hounsfield[window], self.lung[window])

    def fill(self, cover: Floats, value: Floats | float) -> None:
        """Put a value over what is there, as far as each voxel is covered, and take it from the lung."""
        step = np.asarray(value, dtype=np.float32) - self.hounsfield
        step *= cover
        self.hounsfield[...] += step
        self.lung[...] -= self.lung * cover

    def put(self, outline: Outline, value: Floats | float) -> None:
        """Draw a solid of one value, or of one for each voxel."""
        side = outline.side(self.box.edge_mm)
        if side >= 0:
            self.fill(coverage(outline, self.box.edge_mm), value)

    def put_ellipsoid(self, solid: Ellipsoid, value: float) -> None:
        """Draw an ellipsoid of one value."""
        (x, y, z), (a, b, c) = solid.center_xyz_mm, solid.radii_xyz_mm
        if solid.tilt_rad:
            a = c = max(a, c)
        window = self.box.window((z - c, y - b, x - a), (z + c, y + b, x + a))
        if window is not None:
            part = self.crop(window)
            part.put(ellipsoid_outline(solid, part.box), value)

    def put_column(
        self,
        center_xy_mm: tuple[Size, Size],
        radii_xy_mm: tuple[float, float],
        value: Size,
        *,
        between_z_mm: tuple[float, float] = (-1e4, 1e4),
    ) -> None:
        """Draw an elliptic column; its center and its value are one number or one for each height (z,)."""
        (x, y), (a, b) = (np.asarray(part, dtype=np.float32) for part in center_xy_mm), radii_xy_mm
        low = (between_z_mm[0], float(y.min()) - b, float(x.min()) - a)
        high = (between_z_mm[1], float(y.max()) + b, float(x.max()) + a)
        window = self.box.window(low, high)
        if window is None:
            return
        part = self.crop(window)
        center = tuple(axis[window[0]] if axis.ndim else float(axis) for axis in (x, y))
        values = np.asarray(value, dtype=np.float32)
        if values.ndim:
            values = values[window[0], np.newaxis, np.newaxis]
        part.put(superellipse(part.box, (center[0], center[1]), radii_xy_mm), values)
