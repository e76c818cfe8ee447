"""The opacities of a lesion radiograph: round nodules, lobulated masses, cloudy consolidations."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from node.samples.anatomy import Fissure, Lesion
from node.samples.projection import lesion_depth_mm
from node.samples.shapes import Ellipsoid, Floats, Point, Tube, cross_ellipsoid, length_mm

Kind = Literal["nodule", "mass", "consolidation"]

SIZES_MM: dict[Kind, tuple[float, float]] = {
    "nodule": (4.0, 29.0),
    "mass": (31.0, 60.0),
    "consolidation": (18.0, 60.0),
}
"""The longer side of the box: what is round and longer than 30 mm is a mass (Fleischner Society 2008)."""

BOX_SHARE = 0.25
"""A lesion's box holds what has more than this share of its own greatest depth."""

SHELLS = 5
UNION = np.float32(4.0)
"""The power whose mean joins lobes: high enough to keep their notches, low enough for round shoulders."""
REFERENCE_LUNG_MM = 120.0


@dataclass(frozen=True, slots=True)
class Fringe:
    """How an outline departs from its ellipses: waves (number, share of the radius, phase) around it."""

    waves: tuple[tuple[int, float, float], ...] = ()
    spicules: tuple[tuple[int, float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Opacity:
    """One lesion before it has a density: solids in patient mm, their edge faded over `softness` of a radius.

    A consolidation is a cloud at most `thickness_mm` deep, has air left in `bronchi` and may end at a
    `fissure`.
    """

    kind: Kind
    center_xyz_mm: Point
    blobs: tuple[Ellipsoid, ...]
    softness: float = 0.0
    fringe: Fringe = Fringe()
    thickness_mm: float = 0.0
    bronchi: tuple[Tube, ...] = ()
    fissure: Fissure | None = None


def draw_opacity(
    kind: Kind, random: np.random.Generator, *, center_xyz_mm: Point, size_mm: float, hilum_xyz_mm: Point
) -> Opacity:
    """Return a lesion whose box is `size_mm` long where no lung ends; see `SIZES_MM` for the usual sizes."""
    center = np.asarray(center_xyz_mm)
    # Drawn at one size first: what its box is follows from the drawing.
    draw = {"nodule": _nodule, "mass": _mass, "consolidation": _consolidation}[kind]
    drawn = draw(random, center, size_mm)
    fitted = _scaled(drawn, size_mm / extent_mm(drawn, size_mm))
    if kind != "consolidation":
        return fitted
    away = center - np.asarray(hilum_xyz_mm)
    return replace(
        fitted,
        bronchi=_bronchi(random, center, away, size_mm),
        fissure=_fissure(random, center, size_mm) if random.random() < 0.35 else None,
    )


def opacity_depth_mm(opacity: Opacity, lung_mm: Floats, x: Floats, z: Floats) -> Floats:
    """Return the length of lung that the lesion fills on each ray, at most the lung's own."""
    if opacity.kind == "consolidation":
        cloud = Lesion("consolidation", opacity.blobs, 1.0, opacity.bronchi, opacity.fissure)
        return lesion_depth_mm(cloud, np.minimum(lung_mm, np.float32(opacity.thickness_mm)), x, z)
    depth = np.zeros_like(lung_mm)
    for share in np.linspace(-1, 1, SHELLS):
        grown = _outline(opacity, x, z, 1 + opacity.softness * float(share))
        joined = np.zeros_like(lung_mm)
        for blob in opacity.blobs:
            joined += length_mm(cross_ellipsoid(blob, *_about(blob, x, z, grown))) ** UNION
        depth += joined ** (1 / UNION)
    return np.asarray(np.minimum(depth / np.float32(SHELLS), lung_mm), dtype=np.float32)


def box_of(depth_mm: Floats) -> tuple[int, int, int, int] | None:
    """Return the box (x0, y0, x1, y1) in pixels, ends excluded, of what exceeds `BOX_SHARE` of the greatest.

    None where nothing of the lesion is in the picture.
    """
    peak = float(depth_mm.max(initial=0.0))
    if peak <= 0:
        return None
    rows, columns = np.nonzero(depth_mm > np.float32(BOX_SHARE * peak))
    return (int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)


def window_mm(opacity: Opacity) -> float:
    """Return how far from its middle a lesion can reach, along x or z."""
    center = np.asarray(opacity.center_xyz_mm)
    reaches = [
        float(np.abs(np.asarray(blob.center_xyz_mm) - center)[[0, 2]].max()) + max(blob.radii_xyz_mm)
        for blob in opacity.blobs
    ]
    # A Gaussian cloud has 2 % left at twice its radius.
    return max(reaches) * (1.9 if opacity.kind == "consolidation" else 1.45) + 1


def extent_mm(opacity: Opacity, size_mm: float) -> float:
    """Return the longer side of the lesion's box in an endless lung."""
    steps = np.linspace(-1.5 * size_mm, 1.5 * size_mm, 121, dtype=np.float32)
    x = np.float32(opacity.center_xyz_mm[0]) + steps[np.newaxis, :] + np.zeros_like(steps)[:, np.newaxis]
    z = np.float32(opacity.center_xyz_mm[2]) - steps[:, np.newaxis] + np.zeros_like(steps)[np.newaxis, :]
    box = box_of(opacity_depth_mm(opacity, np.full_like(x, REFERENCE_LUNG_MM), x, z))
    step = float(steps[1] - steps[0])
    return step * max(box[2] - box[0], box[3] - box[1]) if box else step


def _about(blob: Ellipsoid, x: Floats, z: Floats, grown: Floats) -> tuple[Floats, Floats]:
    """Return the points as seen from a blob whose outline is moved outwards by a factor at each of them."""
    center_x, _, center_z = (np.float32(value) for value in blob.center_xyz_mm)
    return center_x + (x - center_x) / grown, center_z + (z - center_z) / grown


def _outline(opacity: Opacity, x: Floats, z: Floats, grown: float) -> Floats:
    """Return by how much the outline lies further out than its ellipses, in the direction of each point."""
    angle = np.arctan2(z - np.float32(opacity.center_xyz_mm[2]), x - np.float32(opacity.center_xyz_mm[0]))
    factor: Floats = np.full_like(angle, grown)
    for number, share, phase in opacity.fringe.waves:
        factor += np.float32(share) * np.sin(np.float32(number) * angle + np.float32(phase))
    for number, share, phase in opacity.fringe.spicules:
        # Thin rays of the outermost shells only: a corona.
        ray = np.maximum(np.sin(np.float32(number) * angle + np.float32(phase)), 0) ** 2
        factor += np.float32(share * max(grown - 1, 0) / max(opacity.softness, 1e-3)) * ray
    return factor


def _nodule(random: np.random.Generator, center: NDArray[np.float64], size_mm: float) -> Opacity:
    radii = 0.5 * size_mm * random.uniform(0.85, 1.0, 3)
    blob = Ellipsoid(_point(center), _point(radii), float(random.uniform(0, np.pi)))
    waves = tuple(
        (number, float(random.normal(0, 0.025)), float(random.uniform(0, 2 * np.pi))) for number in (3, 4, 5)
    )
    spicules = _spicules(random) if random.random() < 0.15 and size_mm > 10 else ()
    return Opacity(
        "nodule", _point(center), (blob,), float(random.uniform(0.08, 0.3)), Fringe(waves, spicules)
    )


def _mass(random: np.random.Generator, center: NDArray[np.float64], size_mm: float) -> Opacity:
    blobs = [Ellipsoid(_point(center), _point(0.36 * size_mm * random.uniform(0.9, 1.1, 3)))]
    count = int(random.integers(3, 7))
    start = random.uniform(0, 2 * np.pi)
    for index in range(count):
        angle = start + 2 * np.pi * (index + random.uniform(-0.3, 0.3)) / count
        radius = size_mm * float(random.uniform(0.16, 0.27))
        away = size_mm * float(random.uniform(0.2, 0.3))
        offset = away * np.asarray([np.cos(angle), 0.6 * random.normal(), np.sin(angle)])
        radii = radius * random.uniform(0.85, 1.15, 3)
        blobs.append(Ellipsoid(_point(center + offset), _point(radii), float(random.uniform(0, np.pi))))
    waves = tuple((n, float(random.normal(0, 0.02)), float(random.uniform(0, 2 * np.pi))) for n in (5, 7))
    spicules = _spicules(random) if random.random() < 0.35 else ()
    softness = float(random.uniform(0.06, 0.18))
    return Opacity("mass", _point(center), tuple(blobs), softness, Fringe(waves, spicules))


def _spicules(random: np.random.Generator) -> tuple[tuple[int, float, float], ...]:
    numbers = random.choice(np.arange(9, 23), 2, replace=False)
    return tuple(
        (int(n), float(random.uniform(0.1, 0.22)), float(random.uniform(0, 2 * np.pi))) for n in numbers
    )


def _consolidation(random: np.random.Generator, center: NDArray[np.float64], size_mm: float) -> Opacity:
    spread = 0.22 * size_mm * random.uniform(0.7, 1.2, 3)
    blobs = []
    for _ in range(int(random.integers(18, 36))):
        offset = random.normal(0, 1, 3) * spread
        radius = size_mm * float(random.uniform(0.08, 0.22))
        blobs.append(Ellipsoid(_point(center + offset), _point(radius * random.uniform(0.7, 1.3, 3))))
    # Deep enough for a dense middle, shallow enough for the cloud to be even there.
    thickness = size_mm * float(random.uniform(0.45, 0.8))
    return Opacity("consolidation", _point(center), tuple(blobs), thickness_mm=thickness)


def _bronchi(
    random: np.random.Generator, center: NDArray[np.float64], away: NDArray[np.float64], size_mm: float
) -> tuple[Tube, ...]:
    """Return bronchi that enter from the hilum's side and fork once."""
    inward = away / max(float(np.linalg.norm(away)), 1e-3)
    tubes = []
    for _ in range(int(random.integers(1, 4))):
        start = center - inward * 0.55 * size_mm + random.normal(0, 0.12 * size_mm, 3)
        fork = center + random.normal(0, 0.1 * size_mm, 3)
        radius = float(random.uniform(1.2, 2.2)) * (0.6 + size_mm / 80)
        tubes.append(Tube(_point(start), _point(fork), (1.2 * radius, radius)))
        for _ in range(2):
            end = fork + inward * 0.3 * size_mm + random.normal(0, 0.16 * size_mm, 3)
            tubes.append(Tube(_point(fork), _point(end), (0.8 * radius, 0.6 * radius)))
    return tuple(tubes)


def _fissure(random: np.random.Generator, center: NDArray[np.float64], size_mm: float) -> Fissure:
    is_above = bool(random.random() < 0.5)
    slope = float(random.normal(0, 0.2))
    level = float(center[2]) + (-0.22 if is_above else 0.22) * size_mm
    return Fissure(level - slope * abs(float(center[0])), slope, is_above)


def _scaled(opacity: Opacity, factor: float) -> Opacity:
    """Return the opacity drawn larger about its middle."""
    center = np.asarray(opacity.center_xyz_mm)
    blobs = tuple(
        Ellipsoid(
            _point(center + factor * (np.asarray(blob.center_xyz_mm) - center)),
            _point(factor * np.asarray(blob.radii_xyz_mm)),
            blob.tilt_rad,
        )
        for blob in opacity.blobs
    )
    return replace(opacity, blobs=blobs)


def _point(values: NDArray[np.float64]) -> Point:
    return (float(values[0]), float(values[1]), float(values[2]))
