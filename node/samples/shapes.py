"""Solids in patient millimeters, each known by the interval that a front-to-back line spends inside it.

Axes are those of DICOM: x to the patient's left, y to the back, z to the head. An interval is the pair
(front, back) of y at each (x, z); front > back means that the line misses the solid. The same interval gives
the radiograph (its length, times attenuation) and the CT voxel (y lies in it).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Reals = NDArray[np.floating[Any]]
Interval = tuple[Floats, Floats]
Point = tuple[float, float, float]

MISSED_MM = np.float32(1e4)
"""The front of an interval that does not exist, and minus its back."""


@dataclass(frozen=True, slots=True)
class Ellipsoid:
    """An ellipsoid whose x-z section is turned by `tilt_rad` from +x towards +z."""

    center_xyz_mm: Point
    radii_xyz_mm: Point
    tilt_rad: float = 0.0


@dataclass(frozen=True, slots=True)
class Tube:
    """A straight round tube with hemispherical ends, tapering from the first radius to the second."""

    start_xyz_mm: Point
    end_xyz_mm: Point
    radii_mm: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Cage:
    """The inside of the rib cage: superelliptic sections that close in a dome at the top."""

    half_width_mm: float
    half_depth_mm: float
    flare_z_mm: float
    apex_z_mm: float
    dome_exponent: float
    section_exponent: float
    lean: float


@dataclass(frozen=True, slots=True)
class Dome:
    """One half of the diaphragm: everything below a paraboloid."""

    top_xyz_mm: Point
    radii_xy_mm: tuple[float, float]
    height_mm: float


@dataclass(frozen=True, slots=True)
class Column:
    """What stands between the lungs, spine to sternum: it widens in an arc to close the lungs' tops."""

    center_xy_mm: tuple[float, float]
    half_width_mm: float
    half_depth_mm: float
    arc_z_mm: tuple[float, float]
    widening_mm: float


@dataclass(frozen=True, slots=True)
class Lungs:
    """Both lungs: the cage without the mediastinal organs and without what lies under the diaphragm."""

    cage: Cage
    column: Column
    organs: tuple[Ellipsoid, ...]
    domes: tuple[Dome, ...]


def length_mm(interval: Interval) -> Floats:
    """Return the length of each interval in mm, 0 where it is missed."""
    front, back = interval
    return np.asarray(np.maximum(back - front, np.float32(0)))


def overlap(first: Interval, second: Interval) -> Interval:
    """Return the part common to both intervals."""
    return np.maximum(first[0], second[0]), np.minimum(first[1], second[1])


def hull(first: Interval, second: Interval) -> Interval:
    """Return the smallest interval that holds both; a missed one holds nothing."""
    return np.minimum(first[0], second[0]), np.maximum(first[1], second[1])


def around(center_mm: Reals | float, half_mm: Reals, is_hit: NDArray[np.bool_]) -> Interval:
    """Return center ± half where the line hits, a missed interval elsewhere."""
    front = np.where(is_hit, center_mm - half_mm, MISSED_MM)
    back = np.where(is_hit, center_mm + half_mm, -MISSED_MM)
    return front.astype(np.float32), back.astype(np.float32)


def cross_ellipsoid(solid: Ellipsoid, x: Floats, z: Floats) -> Interval:
    """Return the interval of an ellipsoid."""
    center_x, center_y, center_z = solid.center_xyz_mm
    radius_x, radius_y, radius_z = solid.radii_xyz_mm
    cosine, sine = np.float32(np.cos(solid.tilt_rad)), np.float32(np.sin(solid.tilt_rad))
    across, along = x - np.float32(center_x), z - np.float32(center_z)
    u = (across * cosine + along * sine) / np.float32(radius_x)
    w = (along * cosine - across * sine) / np.float32(radius_z)
    rest = 1 - u * u - w * w
    return around(center_y, radius_y * np.sqrt(np.maximum(rest, 0)), rest > 0)


def cage_scale(cage: Cage, z: Floats) -> Floats:
    """Return the width of the cage at each height relative to its greatest, 0 above the apex."""
    rise = np.clip((z - cage.flare_z_mm) / (cage.apex_z_mm - cage.flare_z_mm), 0, 1)
    heights = np.linspace(0, 1, 512)
    scales = (1 - heights**cage.dome_exponent) ** (1 / cage.dome_exponent)
    return np.asarray(np.interp(rise, heights, scales), dtype=np.float32)


def section_profile(relative: Reals, exponent: float) -> Floats:
    """Return the half depth of a superellipse at each relative distance from its middle, 0–1."""
    distances = np.linspace(0, 1, 1024) ** 0.25
    depths = (1 - distances**exponent) ** (1 / exponent)
    return np.asarray(np.interp(np.abs(relative), distances, depths), dtype=np.float32)


def cross_cage(cage: Cage, x: Floats, z: Floats, *, margin_mm: float = 0.0) -> Interval:
    """Return the interval of the cage, its walls moved outwards by the margin."""
    scale = cage_scale(cage, z)
    half_width = cage.half_width_mm * scale + np.float32(margin_mm)
    half_depth = cage.half_depth_mm * scale ** np.float32(0.8) + np.float32(margin_mm)
    relative = x / np.maximum(half_width, np.float32(1e-3))
    is_hit = (np.abs(relative) < 1) & (z < cage.apex_z_mm + margin_mm)
    half = half_depth * section_profile(relative, cage.section_exponent)
    return around((cage.lean * z).astype(np.float32), half, is_hit)


def cross_dome(dome: Dome, x: Floats, z: Floats) -> Interval:
    """Return the interval under one diaphragm dome."""
    top_x, top_y, top_z = dome.top_xyz_mm
    radius_x, radius_y = dome.radii_xy_mm
    rest = (top_z - z) / np.float32(dome.height_mm) - ((x - top_x) / np.float32(radius_x)) ** 2
    return around(top_y, radius_y * np.sqrt(np.maximum(rest, 0)), rest > 0)


def cross_column(column: Column, x: Floats, z: Floats) -> Interval:
    """Return the interval of the upper mediastinum."""
    center_x, center_y = column.center_xy_mm
    low_z, high_z = column.arc_z_mm
    rise = np.clip((z - low_z) / np.float32(high_z - low_z), 0, 1)
    half_width = column.half_width_mm + column.widening_mm * (1 - np.sqrt(1 - rise * rise))
    half_depth = column.half_depth_mm * (1 + np.float32(0.8) * rise)
    # Above the arc nothing is lung any more.
    half_width = np.where(z < high_z, half_width, MISSED_MM)
    relative = (x - center_x) / half_width
    half = half_depth * section_profile(relative, 2.4)
    return around(center_y, half, np.abs(relative) < 1)


def cross_organs(lungs: Lungs, x: Floats, z: Floats) -> Interval:
    """Return the interval of heart, great vessels and mediastinum taken together."""
    interval = cross_column(lungs.column, x, z)
    for organ in lungs.organs:
        interval = hull(interval, cross_ellipsoid(organ, x, z))
    return interval


def cross_domes(lungs: Lungs, x: Floats, z: Floats) -> Interval:
    """Return the interval under the diaphragm."""
    interval = cross_dome(lungs.domes[0], x, z)
    for dome in lungs.domes[1:]:
        interval = hull(interval, cross_dome(dome, x, z))
    return interval


def lung_depth_mm(lungs: Lungs, x: Floats, z: Floats) -> Floats:
    """Return how much lung a front-to-back line crosses, in mm."""
    cavity = cross_cage(lungs.cage, x, z)
    organs = overlap(cavity, cross_organs(lungs, x, z))
    below = overlap(cavity, cross_domes(lungs, x, z))
    return length_mm(cavity) - length_mm(organs) - length_mm(below) + length_mm(overlap(organs, below))


def is_lung(lungs: Lungs, x: Floats, y: Floats, z: Floats) -> NDArray[np.bool_]:
    """Return whether each point lies in a lung."""

    def holds(interval: Interval) -> NDArray[np.bool_]:
        return np.asarray((interval[0] <= y) & (y <= interval[1]))

    inside = holds(cross_cage(lungs.cage, x, z))
    return np.asarray(inside & ~holds(cross_organs(lungs, x, z)) & ~holds(cross_domes(lungs, x, z)))


def tube_depth_mm(tube: Tube, x: Floats, z: Floats) -> Floats:
    """Return the length inside a tube in mm; one that runs front to back counts as a ball."""
    start, end = np.asarray(tube.start_xyz_mm), np.asarray(tube.end_xyz_mm)
    run_x, run_y, run_z = (float(step) for step in end - start)
    run = run_x * run_x + run_z * run_z + 1e-6
    across, along = x - np.float32(start[0]), z - np.float32(start[2])
    share = np.clip((across * np.float32(run_x) + along * np.float32(run_z)) / np.float32(run), 0, 1)
    radius = tube.radii_mm[0] + (tube.radii_mm[1] - tube.radii_mm[0]) * share
    distance_2 = (across - share * np.float32(run_x)) ** 2 + (along - share * np.float32(run_z)) ** 2
    # A slanted tube is crossed obliquely; the cap keeps one seen end-on from growing without bound.
    slant = min(float(np.sqrt(1 + run_y * run_y / run)), 2.0)
    return np.asarray(2 * slant * np.sqrt(np.maximum(radius * radius - distance_2, 0)), dtype=np.float32)


def add_tubes(depth_mm: Floats, tubes: tuple[Tube, ...], x: Floats, z: Floats) -> None:
    """Raise `depth_mm` (rows, columns) to each tube's length where that is greater.

    The grid may be turned by a few degrees but must be regular, x rising with the columns and z falling with
    the rows.
    """
    step = float(np.hypot(x[0, 1] - x[0, 0], z[0, 1] - z[0, 0]))
    cosine, sine = (x[0, 1] - x[0, 0]) / step, (z[0, 1] - z[0, 0]) / step
    for tube in tubes:
        ends = np.asarray([tube.start_xyz_mm, tube.end_xyz_mm])
        across, along = ends[:, 0] - x[0, 0], ends[:, 2] - z[0, 0]
        columns = (across * cosine + along * sine) / step
        rows = (across * sine - along * cosine) / step
        margin = max(tube.radii_mm) / step + 1
        window = (_span(rows, margin, depth_mm.shape[0]), _span(columns, margin, depth_mm.shape[1]))
        if depth_mm[window].size:
            np.maximum(depth_mm[window], tube_depth_mm(tube, x[window], z[window]), out=depth_mm[window])


def _span(ends: NDArray[np.float64], margin: float, size: int) -> slice:
    low, high = int(np.floor(ends.min() - margin)), int(np.ceil(ends.max() + margin)) + 1
    return slice(min(max(low, 0), size), min(max(high, 0), size))
