"""How much of each voxel of a stack of axial sections a solid covers, with edges as soft as a scanner's.

Every solid of the body is, at one height, a sum of a function of x and a function of y, so that a section
costs two short lines and one addition per pixel. An outline is drawn where the sum is 1; the distance from it
is the sum less 1, divided by its slope.
"""

from dataclasses import dataclass

import numpy as np

from node.samples.shapes import Cage, Column, Dome, Ellipsoid, Floats, cage_scale

LEAST_SLOPE_2 = np.float32(1e-6)
"""Added to squared slopes: the middle of a solid has none."""

Window = tuple[slice, slice, slice]
Size = Floats | float


@dataclass(frozen=True, slots=True, eq=False)
class Box:
    """The voxels of some axial sections: their z, y and x in patient mm, rising, and an edge's width."""

    z: Floats
    y: Floats
    x: Floats
    edge_mm: float

    @property
    def shape(self) -> tuple[int, int, int]:
        """The number of voxels along z, y and x."""
        return (len(self.z), len(self.y), len(self.x))

    def crop(self, window: Window) -> "Box":
        """Return the part of the box in a window of (z, y, x)."""
        return Box(self.z[window[0]], self.y[window[1]], self.x[window[2]], self.edge_mm)

    def window(self, low_zyx: tuple[float, ...], high_zyx: tuple[float, ...]) -> Window | None:
        """Return the voxels between two corners and an edge around them, None if there are none."""
        spans = []
        for axis, low, high in zip((self.z, self.y, self.x), low_zyx, high_zyx, strict=True):
            first, last = np.searchsorted(axis, [low - self.edge_mm, high + self.edge_mm])
            if first >= last:
                return None
            spans.append(slice(int(first), int(last)))
        return (spans[0], spans[1], spans[2])


@dataclass(frozen=True, slots=True, eq=False)
class Outline:
    """A solid's sum and the square of its slope per mm, in parts along x (z, x) and along y (z, y)."""

    of_x: Floats
    of_y: Floats
    slope_of_x: Floats
    slope_of_y: Floats

    def distance_mm(self) -> Floats:
        """Return the distance of each voxel (z, y, x) from the surface, negative inside."""
        value = (self.of_y - np.float32(1))[:, :, np.newaxis] + self.of_x[:, np.newaxis]
        slope = (self.slope_of_y + LEAST_SLOPE_2)[:, :, np.newaxis] + self.slope_of_x[:, np.newaxis]
        np.sqrt(slope, out=slope)
        value /= slope
        return value

    def side(self, edge_mm: float) -> int:
        """Return 1 when the whole box surely lies inside, −1 when outside, 0 when that is not sure."""
        reach = edge_mm * float(self.slope_of_x.max() + self.slope_of_y.max()) ** 0.5
        if float((self.of_x.max(axis=1) + self.of_y.max(axis=1)).max()) < 1 - reach:
            return 1
        return -1 if float((self.of_x.min(axis=1) + self.of_y.min(axis=1)).min()) > 1 + reach else 0


def coverage(outline: Outline, edge_mm: float) -> Floats:
    """Return how much of each voxel (z, y, x) lies inside, 0–1."""
    shape = (*outline.of_y.shape, outline.of_x.shape[1])
    if side := outline.side(edge_mm):
        return np.full(shape, max(side, 0), dtype=np.float32)
    cover = outline.distance_mm()
    cover *= np.float32(-1 / edge_mm)
    cover += np.float32(0.5)
    return np.asarray(np.clip(cover, 0, 1, out=cover))


def superellipse(
    box: Box, center_xy_mm: tuple[Size, Size], radii_xy_mm: tuple[Size, Size], exponent: float = 2.0
) -> Outline:
    """Return a superellipse, its center and radii one number or one for each height (z,)."""
    (x, slope_x), (y, slope_y) = (
        _power(axis - _upright(center), _upright(radius), exponent)
        for axis, center, radius in zip((box.x, box.y), center_xy_mm, radii_xy_mm, strict=True)
    )
    depth = len(box.z)
    parts = [np.broadcast_to(part, (depth, part.shape[1])) for part in (x, y, slope_x, slope_y)]
    return Outline(*parts)


def _upright(size: Size) -> Floats:
    return np.atleast_1d(np.asarray(size, dtype=np.float32))[:, np.newaxis]


def _power(offset_mm: Floats, radius_mm: Floats, exponent: float) -> tuple[Floats, Floats]:
    """Return a superellipse's part along one axis, and its slope squared."""
    radius = np.maximum(radius_mm, np.float32(0.1))
    relative = np.abs(offset_mm) / radius
    lower = relative if exponent == 2 else relative ** np.float32(exponent - 1)
    slope = np.float32(exponent) / radius * lower
    return (lower * relative).astype(np.float32), (slope * slope).astype(np.float32)


def cage_outline(cage: Cage, box: Box, *, margin_mm: float = 0.0) -> Outline:
    """Return the cage's outline moved outwards by the margin; nothing is inside above its apex."""
    apex = cage.apex_z_mm + margin_mm
    # The walls close over the lungs' tops at the margin's distance, too.
    heights = np.minimum(box.z, box.z * np.float32(cage.apex_z_mm / apex))
    scale = cage_scale(cage, heights)
    is_below = np.where(box.z < apex, np.float32(1), np.float32(0))
    radii = (
        (np.float32(cage.half_width_mm) * scale + np.float32(margin_mm)) * is_below,
        (np.float32(cage.half_depth_mm) * scale ** np.float32(0.8) + np.float32(margin_mm)) * is_below,
    )
    return superellipse(box, (0.0, np.float32(cage.lean) * box.z), radii, cage.section_exponent)


def ellipsoid_outline(solid: Ellipsoid, box: Box) -> Outline:
    """Return the outline of an ellipsoid."""
    (center_x, center_y, center_z), (a, b, c) = solid.center_xyz_mm, solid.radii_xyz_mm
    cosine, sine = np.float32(np.cos(solid.tilt_rad)), np.float32(np.sin(solid.tilt_rad))
    across = (box.x - np.float32(center_x))[np.newaxis]
    along = (box.z - np.float32(center_z))[:, np.newaxis]
    u = (across * cosine + along * sine) / np.float32(a)
    w = (along * cosine - across * sine) / np.float32(c)
    slope_x = 2 * (u * cosine / np.float32(a) - w * sine / np.float32(c))
    slope_z = 2 * (u * sine / np.float32(a) + w * cosine / np.float32(c))
    v = np.broadcast_to((box.y - np.float32(center_y)) / np.float32(b), (len(box.z), len(box.y)))
    slope = np.asarray(slope_x**2 + slope_z**2, dtype=np.float32)
    return Outline(np.asarray(u * u + w * w), v * v, slope, (np.float32(2 / b) * v) ** 2)


def dome_outline(dome: Dome, box: Box) -> Outline:
    """Return the outline of what lies under one dome of the diaphragm."""
    top_x, top_y, top_z = dome.top_xyz_mm
    radius_x, radius_y = (np.float32(radius) for radius in dome.radii_xy_mm)
    u = ((box.x - np.float32(top_x)) / radius_x)[np.newaxis]
    v = np.broadcast_to((box.y - np.float32(top_y)) / radius_y, (len(box.z), len(box.y)))
    rise = (1 + (box.z - np.float32(top_z)) / np.float32(dome.height_mm))[:, np.newaxis]
    slope_x = (2 / radius_x * u) ** 2 + np.float32(1 / dome.height_mm) ** 2
    slope_x = np.broadcast_to(slope_x, (len(box.z), len(box.x)))
    return Outline(u * u + rise, v * v, slope_x, (2 / radius_y * v) ** 2)


def column_outline(column: Column, box: Box) -> Outline:
    """Return the outline of what stands between the lungs; above its arc it fills the whole cage."""
    low_z, high_z = column.arc_z_mm
    rise = np.clip((box.z - np.float32(low_z)) / np.float32(high_z - low_z), 0, 1)
    half_width = column.half_width_mm + column.widening_mm * (1 - np.sqrt(1 - rise * rise))
    half_depth = column.half_depth_mm * (1 + np.float32(0.8) * rise)
    # The arc closes the tops over a few millimeters, so that no section has an edge all over it.
    beyond = 1 + np.float32(0.15) * np.maximum(box.z - np.float32(high_z - 12), 0)
    return superellipse(box, column.center_xy_mm, (half_width * beyond, half_depth * beyond), 2.4)
