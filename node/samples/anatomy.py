"""One synthetic thorax: its anatomy in patient millimeters, drawn from a seed."""

from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from node.samples.shapes import (
    Cage,
    Column,
    Dome,
    Ellipsoid,
    Lungs,
    Point,
    Tube,
    is_lung,
    lung_depth_mm,
)

Finding = Literal["consolidation", "nodule"]

Points = NDArray[np.float64]

ANATOMY, LESION = 0, 1
"""Random streams of one seed: a body has the same anatomy with a lesion and without."""


@dataclass(frozen=True, slots=True)
class Ribs:
    """Twelve pairs of ribs as bands on the cage's wall, their height a function of the angle from behind."""

    thickness_mm: float
    half_height_mm: float
    pitch_mm: float
    first_z_mm: float
    drop_mm: float
    offsets_mm: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Spine:
    """A column of vertebrae, bent sideways by `bend_mm` over `bend_length_mm`."""

    center_xy_mm: tuple[float, float]
    half_width_mm: float
    pitch_mm: float
    phase_mm: float
    bend_mm: float
    bend_length_mm: float


@dataclass(frozen=True, slots=True)
class Wall:
    """Soft tissue around the cage: thickness, shoulders, neck, head and arms."""

    thickness_mm: float
    solids: tuple[Ellipsoid, ...]
    arms: tuple[Tube, ...]
    neck_radii_xy_mm: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Bones:
    """The shoulder girdle: clavicles and humeri as tubes, shoulder blades as triangles of (x, z) in mm."""

    tubes: tuple[Tube, ...]
    blades_xz_mm: tuple[tuple[tuple[float, float], ...], ...]


@dataclass(frozen=True, slots=True)
class Fissure:
    """The border of a lobe: the height where x is 0, its rise per mm of |x|, and which side is filled."""

    z_mm: float
    slope: float
    is_above_filled: bool


@dataclass(frozen=True, slots=True)
class Lesion:
    """An opacity in one lung.

    A nodule is one sharp ellipsoid; a consolidation is a cloud of Gaussian ones, filled to `density` (0–1),
    with air left in `bronchi`, and it ends at a fissure where there is one.
    """

    finding: Finding
    blobs: tuple[Ellipsoid, ...]
    density: float
    bronchi: tuple[Tube, ...] = ()
    fissure: Fissure | None = None


@dataclass(frozen=True, slots=True)
class Thorax:
    """One body: all anatomy in patient mm (x left, y back, z head), origin between the lung bases."""

    seed: int
    scale_mm: float
    lungs: Lungs
    ribs: Ribs
    spine: Spine
    wall: Wall
    bones: Bones
    vessels: tuple[Tube, ...]
    airway: tuple[Tube, ...]
    gas: tuple[Ellipsoid, ...]
    lesion: Lesion | None


def thorax_body(seed: int, *, finding: str | None = None, scale_mm: float | None = None) -> Thorax:
    """Return the body of a seed, with a "consolidation", a "nodule" or nothing in its lungs.

    Bodies range from small children (cage 15 cm wide) to small adults (26 cm); `scale_mm`, half the cage's
    width, asks for another size. Bodies of one seed share their anatomy whatever the finding.
    """
    if finding is not None and finding not in get_args(Finding):
        raise ValueError(f"finding {finding!r}, expected one of {get_args(Finding)} or None")
    random = np.random.default_rng([seed, ANATOMY])
    body = _healthy(seed, random, scale_mm)
    if finding is None:
        return body
    random = np.random.default_rng([seed, LESION])
    lesion = _nodule(body, random) if finding == "nodule" else _consolidation(body, random)
    return replace(body, lesion=lesion)


def _healthy(seed: int, random: np.random.Generator, scale_mm: float | None) -> Thorax:
    drawn = float(random.uniform(75, 130))
    scale = scale_mm or drawn
    adult = min((scale - 75) / 55, 1.0)
    # Turning the patient moves what lies in front and what lies behind in opposite directions.
    turn = float(random.normal(0, 0.04))
    lungs = _lungs(random, scale, adult, turn)
    top = lungs.cage.apex_z_mm
    return Thorax(
        seed=seed,
        scale_mm=scale,
        lungs=lungs,
        ribs=_ribs(random, scale, top),
        spine=_spine(random, scale, turn),
        wall=_wall(random, scale, adult, top),
        bones=_bones(random, scale, turn, top),
        vessels=_vessels(random, scale),
        airway=_airway(random, scale, turn),
        gas=_gas(random, scale, lungs),
        lesion=None,
    )


def _lungs(random: np.random.Generator, scale: float, adult: float, turn: float) -> Lungs:
    cage = Cage(
        half_width_mm=scale,
        half_depth_mm=scale * float(random.uniform(0.66, 0.78)) * (1 - 0.08 * adult),
        flare_z_mm=-0.4 * scale,
        apex_z_mm=scale * float(random.uniform(1.75, 2.0)) * (1 + 0.08 * adult),
        dome_exponent=float(random.uniform(2.3, 2.9)),
        section_exponent=float(random.uniform(2.1, 2.5)),
        lean=float(random.uniform(0.05, 0.12)),
    )
    # The height at which half of the cage's width is left: there the lungs' tops close.
    power = cage.dome_exponent
    top_z = cage.flare_z_mm + (cage.apex_z_mm - cage.flare_z_mm) * (1 - 0.5**power) ** (1 / power)
    column = Column(
        center_xy_mm=(0.3 * scale * turn, 0.08 * scale),
        half_width_mm=scale * float(random.uniform(0.16, 0.21)),
        half_depth_mm=0.5 * scale,
        arc_z_mm=(top_z - 0.5 * scale, top_z),
        widening_mm=0.25 * scale,
    )
    right_z, left_z = (scale * float(random.normal(0, 0.03)), scale * float(random.normal(-0.07, 0.03)))
    height = scale * float(random.uniform(0.32, 0.45))
    domes = (
        Dome((-0.47 * scale, -0.1 * scale, right_z), (0.6 * scale, 0.8 * scale), height),
        Dome((0.5 * scale, -0.1 * scale, left_z), (0.57 * scale, 0.8 * scale), height),
        Dome((0.1 * scale, -0.25 * scale, left_z - 0.01 * scale), (0.6 * scale, 0.6 * scale), height),
    )
    return Lungs(cage, column, _organs(random, scale, adult, turn), domes)


def _organs(random: np.random.Generator, scale: float, adult: float, turn: float) -> tuple[Ellipsoid, ...]:
    size = float(random.uniform(0.92, 1.12)) * (1 - 0.06 * adult)
    shift = scale * (0.06 * float(random.normal()) * 0.5 - 0.3 * turn)
    tilt = -float(random.uniform(0.75, 1.0))

    def organ(center: Point, radii: Point, turned: float = 0.0) -> Ellipsoid:
        x, y, z = (scale * value for value in center)
        a, b, c = (scale * size * value for value in radii)
        return Ellipsoid((x + shift, y, z), (a, b, c), turned)

    # All lie at nearly the same depth, so that what they cover together has no gap of lung inside.
    heart = organ((0.16, -0.18, 0.24), (0.52, 0.4, 0.4), tilt)
    atrium = organ((-0.08, -0.12, 0.3), (0.28, 0.32, 0.42), 0.15)
    trunk = organ((0.1, -0.14, 0.72), (0.22, 0.28, 0.38), 0.25)
    arch = organ((0.08, -0.08, 1.06), (0.18 + 0.03 * adult, 0.26, 0.2))
    cava = organ((-0.1, -0.1, 0.9), (0.13, 0.2, 0.6))
    thymus = organ((0.0, -0.16, 1.0), (0.3 - 0.12 * adult, 0.3, 0.38))
    return (heart, atrium, trunk, arch, cava, thymus)


def _ribs(random: np.random.Generator, scale: float, top: float) -> Ribs:
    return Ribs(
        thickness_mm=0.065 * scale,
        half_height_mm=scale * float(random.uniform(0.042, 0.052)),
        pitch_mm=scale * float(random.uniform(0.195, 0.225)),
        first_z_mm=top - scale * float(random.uniform(0.07, 0.2)),
        drop_mm=scale * float(random.uniform(0.75, 1.05)),
        offsets_mm=tuple(float(value) for value in random.normal(0, 0.012 * scale, 12)),
    )


def _spine(random: np.random.Generator, scale: float, turn: float) -> Spine:
    return Spine(
        center_xy_mm=(0.45 * scale * turn, 0.48 * scale),
        half_width_mm=scale * float(random.uniform(0.125, 0.15)),
        pitch_mm=scale * float(random.uniform(0.19, 0.22)),
        phase_mm=scale * float(random.uniform(0, 0.2)),
        bend_mm=scale * float(random.normal(0, 0.012)),
        bend_length_mm=scale * float(random.uniform(1.5, 3.0)),
    )


def _wall(random: np.random.Generator, scale: float, adult: float, top: float) -> Wall:
    is_raised = bool(random.random() < 0.35)
    elbow_z = top + scale * (0.45 if is_raised else float(random.uniform(-2.0, -1.3)))
    elbow_x = scale * float(random.uniform(1.55, 1.85))
    shoulder_z = top - scale * (0.2 if is_raised else 0.35)
    radius = scale * float(random.uniform(0.24, 0.3))
    ends = (
        ((side * 1.22 * scale, 0.05 * scale, shoulder_z), (side * elbow_x, 0.0, elbow_z)) for side in (-1, 1)
    )
    arms = tuple(Tube(shoulder, elbow, (radius, 0.85 * radius)) for shoulder, elbow in ends)
    chin_z = top + scale * float(random.uniform(1.1, 1.45))
    solids = (
        Ellipsoid((0.0, 0.12 * scale, top - 0.42 * scale), (1.5 * scale, 0.6 * scale, 0.46 * scale)),
        Ellipsoid((0.0, 0.1 * scale, top - 0.15 * scale), (0.85 * scale, 0.45 * scale, 0.33 * scale)),
        Ellipsoid((0.0, 0.0, chin_z), (0.75 * scale, 0.8 * scale, 0.8 * scale)),
    )
    neck = ((0.5 - 0.06 * adult) * scale, 0.48 * scale)
    return Wall(scale * float(random.uniform(0.13, 0.2)), solids, arms, neck)


def _bones(random: np.random.Generator, scale: float, turn: float, top: float) -> Bones:
    rise = float(random.uniform(0.05, 0.3))
    tubes: list[Tube] = []
    blades = []
    for side in (-1, 1):
        path = ((0.12, -0.48), (0.38, -0.38), (0.75, rise - 0.36), (1.15, rise - 0.38))
        points = [(scale * (side * x + 0.5 * turn), -0.4 * scale, top + scale * z) for x, z in path]
        radii = [scale * value for value in (0.065, 0.05, 0.045, 0.055)]
        tubes += [Tube(points[i], points[i + 1], (radii[i], radii[i + 1])) for i in range(3)]
        head = (side * 1.33 * scale, 0.1 * scale, top + scale * (rise - 0.5))
        elbow = (side * float(random.uniform(1.6, 1.8)) * scale, 0.0, 0.5 * scale)
        tubes += [
            Tube(head, head, (0.15 * scale, 0.15 * scale)),
            Tube(head, elbow, (0.1 * scale, 0.075 * scale)),
        ]
        corners = ((0.82, rise - 0.36), (1.25, rise - 0.46), (float(random.uniform(0.98, 1.1)), -1.12))
        blades.append(tuple((side * scale * x, top + scale * z) for x, z in corners))
    return Bones(tuple(tubes), tuple(blades))


def _airway(random: np.random.Generator, scale: float, turn: float) -> tuple[Tube, ...]:
    carina = (scale * (0.01 - 0.1 * turn), 0.12 * scale, scale * float(random.uniform(0.9, 1.02)))
    throat = (scale * (-0.2 * turn + 0.02 * float(random.normal())), -0.05 * scale, 2.6 * scale)
    radius = 0.062 * scale
    right = (-0.27 * scale, 0.14 * scale, carina[2] - 0.26 * scale)
    left = (0.33 * scale, 0.16 * scale, carina[2] - 0.24 * scale)
    return (
        Tube(throat, carina, (radius, radius)),
        Tube(carina, right, (0.85 * radius, 0.7 * radius)),
        Tube(carina, left, (0.75 * radius, 0.6 * radius)),
    )


def _gas(random: np.random.Generator, scale: float, lungs: Lungs) -> tuple[Ellipsoid, ...]:
    if random.random() < 0.4:
        return ()
    width, height = scale * float(random.uniform(0.12, 0.27)), scale * float(random.uniform(0.07, 0.14))
    x, _, z = lungs.domes[1].top_xyz_mm
    center = (x - scale * float(random.uniform(0.0, 0.2)), -0.1 * scale, z - height - scale * 0.12)
    return (Ellipsoid(center, (width, 0.8 * width, height), float(random.normal(0, 0.2))),)


def _vessels(random: np.random.Generator, scale: float) -> tuple[Tube, ...]:
    tubes: list[Tube] = []
    for side in (-1, 1):
        hilum = np.asarray([side * 0.2, 0.08, 0.66 if side < 0 else 0.72])
        for angle in np.deg2rad([75, 55, 30, 5, -25, -45, -62, -80]):
            aim = np.asarray([side * np.cos(angle), 0.4 * float(random.normal()), np.sin(angle)])
            radius = float(random.uniform(0.042, 0.058)) * (1.25 if angle < 0 else 0.9)
            start = hilum + 0.06 * random.normal(0, 1, 3)
            _branch(random, tubes, (scale * start, aim), (scale * radius, scale * 0.2), 7)
    return tuple(tubes)


def _branch(
    random: np.random.Generator,
    tubes: list[Tube],
    ray: tuple[Points, Points],
    size_mm: tuple[float, float],
    generations: int,
) -> None:
    """Add one vessel and its branches: `ray` is (start, direction), `size_mm` (radius, length)."""
    start, aim = ray
    radius, length = size_mm
    end = start + length * float(random.uniform(0.6, 1.3)) * aim / np.linalg.norm(aim)
    tubes.append(Tube(_point(start), _point(end), (radius, 0.93 * radius)))
    if generations == 1:
        return
    forks = (-0.35, 0.45) if random.random() < 0.55 else (0.0,)
    for fork in forks:
        angle = fork + float(random.normal(0, 0.22))
        across = aim[0] * np.cos(angle) - aim[2] * np.sin(angle)
        along = aim[0] * np.sin(angle) + aim[2] * np.cos(angle)
        turned = np.asarray([across, aim[1] + float(random.normal(0, 0.3)), along])
        shrink = 0.78 if len(forks) > 1 else 0.93
        _branch(random, tubes, (end, turned), (shrink * radius, 0.9 * length), generations - 1)


def _point(values: Points) -> Point:
    return (float(values[0]), float(values[1]), float(values[2]))


def _place(body: Thorax, random: np.random.Generator, *, margin_mm: float) -> Point:
    """Return a point in a lung, the margin away from its edge, where it is deep enough to be seen."""
    scale = body.scale_mm
    count = 4096
    x = (random.choice([-1, 1], count) * random.uniform(0.3, 0.85, count) * scale).astype(np.float32)
    y = random.uniform(-0.5, 0.5, count).astype(np.float32) * np.float32(scale)
    z = random.uniform(0.08, 1.5, count).astype(np.float32) * np.float32(scale)
    is_good = lung_depth_mm(body.lungs, x, z) > 0.6 * scale
    for step in np.asarray([[0, 0, 0], [1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]]):
        dx, dy, dz = (np.float32(margin_mm * value) for value in step)
        is_good &= is_lung(body.lungs, x + dx, y + dy, z + dz)
    index = int(np.argmax(is_good))
    return (float(x[index]), float(y[index]), float(z[index]))


def _nodule(body: Thorax, random: np.random.Generator) -> Lesion:
    radius = float(random.uniform(2.5, min(15.0, 0.16 * body.scale_mm)))
    center = _place(body, random, margin_mm=radius + 1)
    a, b, c = (float(radius * value) for value in random.uniform(0.9, 1.1, 3))
    return Lesion("nodule", (Ellipsoid(center, (a, b, c), float(random.uniform(0, 3))),), 1.0)


def _consolidation(body: Thorax, random: np.random.Generator) -> Lesion:
    scale = body.scale_mm
    center = np.asarray(_place(body, random, margin_mm=0.1 * scale))
    spread = scale * random.uniform(0.13, 0.28) * np.asarray([1.0, 0.9, 1.1])
    blobs = []
    for _ in range(int(random.integers(12, 28))):
        offset = random.normal(0, 1, 3) * spread * 0.6
        radius = float(random.uniform(0.4, 0.95)) * float(spread[0])
        radii = radius * random.uniform(0.7, 1.3, 3)
        blobs.append(Ellipsoid(_point(center + offset), _point(radii), float(random.uniform(0, 3))))
    density = float(random.uniform(0.6, 1.0))
    fissure = _fissure(center, float(spread[2]), random) if random.random() < 0.4 else None
    return Lesion("consolidation", tuple(blobs), density, _bronchi(center, random, scale), fissure)


def _fissure(center: Points, spread_mm: float, random: np.random.Generator) -> Fissure:
    is_above = bool(random.random() < 0.5)
    slope = float(random.normal(0, 0.2))
    level = float(center[2]) + (-0.5 if is_above else 0.5) * spread_mm
    return Fissure(level - slope * abs(float(center[0])), slope, is_above)


def _bronchi(center: Points, random: np.random.Generator, scale: float) -> tuple[Tube, ...]:
    hilum = np.asarray([np.sign(center[0]) * 0.24 * scale, 0.1 * scale, 0.75 * scale])
    away = center - hilum
    tubes = []
    for _ in range(int(random.integers(2, 5))):
        start = hilum + away * float(random.uniform(0.4, 0.7))
        end = center + random.normal(0, 0.12 * scale, 3)
        tubes.append(Tube(_point(start), _point(end), (0.018 * scale, 0.01 * scale)))
    return tuple(tubes)
