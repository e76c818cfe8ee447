"""Nodules of known place, size and kind, put into the lungs of a synthetic thorax."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from node.samples.canvas import Canvas
from node.samples.sections import Box, Window
from node.samples.shapes import Floats, Point
from node.samples.tubes import Tubes, paint_tubes

Kind = Literal["solid", "part_solid", "ground_glass", "spiculated"]
Attachment = Literal["wall", "vessel"]

GLASS_HU, CORE_SHARE = -600.0, 0.55


@dataclass(frozen=True, slots=True)
class Lobe:
    """A wave on a nodule's surface: its direction and phase, its height relative to the radius."""

    direction: Point
    phase: float
    height: float


@dataclass(frozen=True, slots=True)
class Nodule:
    """A round opacity; `ratios` stretch it along x, y and z, `hounsfield` is its solid part's.

    `attachment` says what it was put on: only the part inside the lung counts as the nodule.
    """

    center_xyz_mm: Point
    diameter_mm: float
    kind: Kind = "solid"
    attachment: Attachment | None = None
    hounsfield: float = 40.0
    ratios: Point = (1.0, 1.0, 1.0)
    lobes: tuple[Lobe, ...] = ()
    spicules: tuple[tuple[Point, Point, float], ...] = ()

    @property
    def reach_mm(self) -> float:
        """The greatest distance of its surface from the center, spicules included."""
        body = self.diameter_mm / 2 * (1 + sum(lobe.height for lobe in self.lobes)) * max(self.ratios)
        ends = [float(np.linalg.norm(np.subtract(end, self.center_xyz_mm))) for _, end, _ in self.spicules]
        return max([body, *ends]) + 1.0


def draw_shape(
    random: np.random.Generator, center_xyz_mm: Point, diameter_mm: float, attachment: Attachment | None
) -> Nodule:
    """Return a nodule of drawn kind and shape at a place."""
    kinds: list[Kind] = ["solid", "spiculated", "part_solid", "ground_glass"]
    kind = kinds[int(random.choice(4, p=[0.55, 0.15, 0.15, 0.15]))]
    # Pure ground glass of a few millimeters is no finding that anyone reports.
    if diameter_mm < 6 and kind == "ground_glass":
        kind = "solid"
    ratios = random.uniform(0.85, 1.18, 3)
    ratios /= float(np.prod(ratios)) ** (1 / 3)
    heights = random.uniform(0.0, 0.06 if diameter_mm > 6 else 0.02, 4)
    lobes = tuple(
        Lobe(_point(random.normal(0, 2.2, 3)), float(random.uniform(0, 2 * np.pi)), float(height))
        for height in heights
    )
    is_calcified = kind == "solid" and random.random() < 0.1
    return Nodule(
        center_xyz_mm,
        diameter_mm,
        kind,
        attachment,
        hounsfield=float(random.uniform(150, 500) if is_calcified else random.uniform(-20, 65)),
        ratios=_point(ratios),
        lobes=lobes,
        spicules=_spicules(random, center_xyz_mm, diameter_mm) if kind == "spiculated" else (),
    )


def _spicules(
    random: np.random.Generator, center: Point, diameter_mm: float
) -> tuple[tuple[Point, Point, float], ...]:
    spicules = []
    for _ in range(int(random.integers(9, 18))):
        aim = random.normal(0, 1, 3)
        aim /= float(np.linalg.norm(aim))
        length = diameter_mm / 2 * float(random.uniform(1.2, 1.9))
        radius = float(random.uniform(0.25, 0.5)) * min(diameter_mm / 10, 1.4)
        start = np.asarray(center) + 0.6 * diameter_mm / 2 * aim
        spicules.append((_point(start), _point(np.asarray(center) + length * aim), radius))
    return tuple(spicules)


def _point(values: NDArray[np.float64]) -> Point:
    return (float(values[0]), float(values[1]), float(values[2]))


def depth_mm(nodule: Nodule, box: Box) -> Floats:
    """Return how deep each voxel (z, y, x) of a box lies in the nodule's body, negative outside."""
    x, y, z = (
        (axis - np.float32(center)) / np.float32(ratio)
        for axis, center, ratio in zip(
            (box.x, box.y, box.z), nodule.center_xyz_mm, nodule.ratios, strict=True
        )
    )
    return depth_at(nodule, x, y[:, np.newaxis], z[:, np.newaxis, np.newaxis])


def depth_at(nodule: Nodule, x: Floats, y: Floats, z: Floats) -> Floats:
    """Return the depth in the nodule's body at points relative to its center and divided by its ratios."""
    distance = np.sqrt(x * x + y * y + z * z) + np.float32(1e-3)
    radius = np.full_like(distance, nodule.diameter_mm / 2)
    for lobe in nodule.lobes:
        along = x * np.float32(lobe.direction[0]) + y * np.float32(lobe.direction[1])
        along = (along + z * np.float32(lobe.direction[2])) / distance + np.float32(lobe.phase)
        radius += np.float32(lobe.height * nodule.diameter_mm / 2) * np.sin(along)
    return np.asarray(radius - distance, dtype=np.float32)


def window_of(nodule: Nodule, box: Box) -> Window | None:
    """Return the part of a box that the nodule can touch, None if there is none."""
    x, y, z = nodule.center_xyz_mm
    reach = nodule.reach_mm
    return box.window((z - reach, y - reach, x - reach), (z + reach, y + reach, x + reach))


def paint_nodule(canvas: Canvas, nodule: Nodule) -> None:
    """Draw a nodule as far as there is lung; the lung stays what it was."""
    window = window_of(nodule, canvas.box)
    if window is None:
        return
    part = canvas.crop(window)
    edge_mm = np.float32(canvas.box.edge_mm)
    depth = depth_mm(nodule, part.box)
    is_glassy = nodule.kind in ("part_solid", "ground_glass")
    rim = np.float32(1.6) * edge_mm if is_glassy else edge_mm
    cover = np.clip(depth / rim + np.float32(0.5), 0, 1)
    value = np.full_like(cover, GLASS_HU + 0.5 * nodule.hounsfield if is_glassy else nodule.hounsfield)
    if nodule.kind == "part_solid":
        inner = depth - np.float32((1 - CORE_SHARE) * nodule.diameter_mm / 2)
        value += (nodule.hounsfield - value) * np.clip(inner / edge_mm + np.float32(0.5), 0, 1)
    if nodule.spicules:
        paint_tubes(cover, _as_tubes(nodule), part.box)
    cover *= part.lung
    # Glass veils the vessels in it, it does not erase them.
    step = np.maximum(value - part.hounsfield, 0) if is_glassy else value - part.hounsfield
    part.hounsfield[...] += cover * step


def _as_tubes(nodule: Nodule) -> Tubes:
    starts, ends, radii = (np.asarray(part) for part in zip(*nodule.spicules, strict=True))
    return Tubes(starts, ends, np.stack([radii, 0.4 * radii], axis=1))
