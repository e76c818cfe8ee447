"""A chest CT of a synthetic thorax, the same body as its radiograph's, with its truth."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from node.samples.ct_body import MAP_MM, CtBody, ct_body
from node.samples.nodules import Nodule, depth_at
from node.samples.placement import draw_nodules
from node.samples.scanner import HIGHEST_HU, LOWEST_HU, Scan, add_noise, pad_outside
from node.samples.sections import Box, Window
from node.samples.shapes import Point
from node.samples.stack import CtGeometry
from node.samples.tissue import draw_sections
from node.samples.voxels import hounsfield_of, resampled

__all__ = [
    "CtBody",
    "CtGeometry",
    "CtSample",
    "Nodule",
    "NoduleTruth",
    "Scan",
    "axial",
    "ct_body",
    "draw_nodules",
    "scan_box",
    "thorax_ct",
]

CT_NOISE = 6
"""Random stream of a seed, apart from those of the body."""
FINE_STEPS = 40
"""Voxels along each side of the grid on which a nodule's volume is counted."""
LUNG_STEP_MM = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class NoduleTruth:
    """One nodule of a CT: center of mass, volume and the diameter of a ball of that volume.

    `mask` (z, y, x) fills the box `box_zyx` of the stack; both are empty where the stack does not show it.
    """

    center_xyz_mm: Point
    diameter_mm: float
    volume_mm3: float
    kind: str
    attachment: str | None
    box_zyx: Window
    mask: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class CtSample:
    """A stack of slices (z, y, x) of int16 HU, where they lie, where lung is, and the nodules in it."""

    hounsfield: NDArray[np.int16]
    lung: NDArray[np.bool_]
    geometry: CtGeometry
    nodules: tuple[NoduleTruth, ...]
    scan: Scan
    seed: int


def thorax_ct(
    seed: int,
    *,
    spacing_zyx_mm: tuple[float, float, float] = (1.25, 0.75, 0.75),
    shape_zyx: tuple[int, int, int] | None = None,
    nodules: int | Sequence[Nodule] = 0,
    scan: Scan | None = None,
) -> CtSample:
    """Return an axial CT of the body of a seed, of its whole chest unless `shape_zyx` says how much.

    `nodules` are so many drawn ones, or those given.
    """
    body = ct_body(seed)
    own = draw_nodules(body, nodules) if isinstance(nodules, int) else tuple(nodules)
    return scan_box(body, axial(body, spacing_zyx_mm, shape_zyx), nodules=own, scan=scan)


def axial(
    body: CtBody,
    spacing_zyx_mm: tuple[float, float, float],
    shape_zyx: tuple[int, int, int] | None = None,
    *,
    center_xyz_mm: Point | None = None,
) -> CtGeometry:
    """Return the geometry of an axial stack around a point, without them around and over the whole chest."""
    is_level = np.flatnonzero(body.lung_map.any(axis=(1, 2)))
    origin = body.map_origin_xyz_mm
    low, high = (origin[2] + MAP_MM * float(is_level[k]) for k in (0, -1))
    thorax = body.thorax
    cage = thorax.lungs.cage
    margin = thorax.wall.thickness_mm + thorax.ribs.thickness_mm + 12
    middle = (0.0, 0.5 * cage.lean * cage.apex_z_mm, (low + high) / 2)
    size = (high - low + 24, 2 * (cage.half_depth_mm + margin) + 12, 2 * (cage.half_width_mm + margin))
    shape = shape_zyx or tuple(
        int(np.ceil(one / step)) for one, step in zip(size, spacing_zyx_mm, strict=True)
    )
    first = [
        center - (count - 1) / 2 * step
        for center, count, step in zip(
            center_xyz_mm or middle, reversed(shape), reversed(spacing_zyx_mm), strict=True
        )
    ]
    return CtGeometry((first[0], first[1], first[2]), spacing_zyx_mm, (shape[0], shape[1], shape[2]))


def scan_box(
    body: CtBody,
    geometry: CtGeometry,
    *,
    nodules: Sequence[Nodule] = (),
    scan: Scan | None = None,
    noise_seed: int = 0,
) -> CtSample:
    """Return the CT of a box of a body: only what lies in the box is drawn, however small it is.

    An axial box is drawn as it is; one with other directions is interpolated linearly from a finer axial one.
    """
    scan = scan or Scan()
    draw = hounsfield_of if geometry.is_axial else resampled
    hounsfield, lung = draw(body, geometry, nodules, scan)
    random = np.random.default_rng([body.seed, CT_NOISE, noise_seed])
    values = np.empty(geometry.shape_zyx, dtype=np.int16)
    for z in range(geometry.shape_zyx[0]):
        plane = hounsfield[z : z + 1]
        add_noise(plane, scan, geometry.spacing_zyx_mm, random)
        np.clip(plane, LOWEST_HU, HIGHEST_HU, out=plane)
        pad_outside(plane, scan)
        values[z] = np.rint(plane[0])
    truths = tuple(_truth(body, nodule, geometry) for nodule in nodules)
    return CtSample(values, lung, geometry, truths, scan, body.seed)


def _truth(body: CtBody, nodule: Nodule, geometry: CtGeometry) -> NoduleTruth:
    """Return a nodule as it counts: the part of its body that lies in the lung."""
    center, volume = _extent(body, nodule)
    window = geometry.window_around(nodule.center_xyz_mm, nodule.reach_mm)
    return NoduleTruth(
        center,
        2 * (volume * 3 / 4 / float(np.pi)) ** (1 / 3),
        volume,
        nodule.kind,
        nodule.attachment,
        window,
        _is_inside(body, nodule, geometry.points(window)),
    )


@lru_cache(maxsize=1024)
def _extent(body: CtBody, nodule: Nodule) -> tuple[Point, float]:
    """Return the center of mass and the volume in mm³ of the part of a nodule that lies in the lung."""
    reach = nodule.diameter_mm / 2 * 1.5
    step = 2 * reach / (FINE_STEPS - 1)
    low = [center - reach for center in nodule.center_xyz_mm]
    fine = CtGeometry((low[0], low[1], low[2]), (step, step, step), (FINE_STEPS, FINE_STEPS, FINE_STEPS))
    points = fine.points((slice(0, FINE_STEPS), slice(0, FINE_STEPS), slice(0, FINE_STEPS)))
    inside = _is_inside(body, nodule, points)
    if not inside.any():
        return nodule.center_xyz_mm, 0.0
    x, y, z = points[inside].mean(axis=0)
    return (float(x), float(y), float(z)), step**3 * int(inside.sum())


def _is_inside(body: CtBody, nodule: Nodule, points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return whether each point (z, y, x, 3) in patient mm belongs to the nodule."""
    if not points.size:
        return np.zeros(points.shape[:-1], dtype=bool)
    relative = ((points - np.asarray(nodule.center_xyz_mm)) / np.asarray(nodule.ratios)).astype(np.float32)
    inside = depth_at(nodule, *np.moveaxis(relative, -1, 0)) > 0
    if nodule.attachment == "wall" and inside.any():
        inside[inside] = _is_lung(body, points[inside])
    return np.asarray(inside)


def _is_lung(body: CtBody, points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return whether each point (n, 3) lies in a lung, from a fine map of the box around all of them."""
    low = points.min(axis=0) - LUNG_STEP_MM
    counts = np.ceil((points.max(axis=0) - low) / LUNG_STEP_MM).astype(int) + 1
    x, y, z = (
        (start + LUNG_STEP_MM * np.arange(count)).astype(np.float32)
        for start, count in zip(low, counts, strict=True)
    )
    lung = draw_sections(body.thorax, body.contents, Box(z, y, x, 0.7)).lung > 0.5
    index = np.rint((points - low) / LUNG_STEP_MM).astype(np.intp)
    return np.asarray(lung[index[:, 2], index[:, 1], index[:, 0]])
