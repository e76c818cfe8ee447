"""Hounsfield units of some axial sections of a body: the wall with its bones, lung, mediastinum, abdomen."""

from dataclasses import dataclass

import numpy as np

from node.samples.anatomy import Thorax
from node.samples.canvas import Canvas
from node.samples.sections import (
    Box,
    cage_outline,
    column_outline,
    coverage,
    dome_outline,
    superellipse,
)
from node.samples.shapes import Ellipsoid, Floats, cage_scale
from node.samples.skeleton import draw_blades, draw_ribs, draw_spine

AIR_HU, GAS_HU, FAT_HU, MUSCLE_HU, LIVER_HU = -1000.0, -970.0, -100.0, 52.0, 58.0


@dataclass(frozen=True, slots=True)
class Wave:
    """One wave of the lungs' uneven density: its height in HU and its rates per mm along x, y and z."""

    height_hu: float
    rates_xyz: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Contents:
    """What one body's tissues measure in HU; `gradient_hu` is how much denser its lungs are at the back.

    `fissure_hu` is how much denser a fissure shows than the lung around it.
    """

    blood_hu: float
    lung_hu: float
    gradient_hu: float
    fissure_hu: float
    waves: tuple[Wave, ...]


def draw_contents(random: np.random.Generator, scale_mm: float) -> Contents:
    """Return the contents of a body: with contrast medium in about half of them."""
    has_contrast = bool(random.random() < 0.5)
    waves = []
    for _ in range(4):
        x, y, z = (float(value) for value in random.normal(0, 4.5, 3) / scale_mm)
        waves.append(Wave(float(random.uniform(6, 22)), (x, y, z)))
    return Contents(
        blood_hu=float(random.uniform(120, 320)) if has_contrast else float(random.uniform(35, 50)),
        lung_hu=float(random.uniform(-895, -815)),
        gradient_hu=float(random.uniform(10, 70)),
        fissure_hu=float(random.uniform(40, 160)),
        waves=tuple(waves),
    )


def draw_sections(body: Thorax, contents: Contents, box: Box) -> Canvas:
    """Return the sections of a body without what branches through its lungs."""
    cage = cage_outline(body.lungs.cage, box)
    canvas = Canvas(box, np.full(box.shape, AIR_HU, dtype=np.float32), np.zeros(box.shape, dtype=np.float32))
    side = cage.side(box.edge_mm)
    if side <= 0:
        _draw_table(body, canvas)
        _draw_wall(body, canvas)
        draw_blades(body, canvas)
    if side >= 0:
        inner = Canvas(box, _lung_hu(body, contents, box), np.ones(box.shape, dtype=np.float32))
        _draw_inside(body, contents, inner)
        cover = coverage(cage, box.edge_mm)
        canvas.fill(cover, inner.hounsfield)
        np.multiply(cover, inner.lung, out=canvas.lung)
    if side <= 0:
        draw_ribs(body, canvas)
    draw_spine(body, canvas)
    return canvas


def _lung_hu(body: Thorax, contents: Contents, box: Box) -> Floats:
    """Return the parenchyma: uneven, denser at the back where a lying patient's blood is, with fissures."""
    depth = box.y / np.float32(body.lungs.cage.half_depth_mm)
    values = np.float32(contents.lung_hu) + np.float32(contents.gradient_hu) * depth[:, np.newaxis]
    values = np.tile(values, (len(box.z), 1, len(box.x)))
    for wave in contents.waves:
        x_rate, y_rate, z_rate = (np.float32(rate) for rate in wave.rates_xyz)
        phase = (z_rate * box.z)[:, np.newaxis]
        across = np.sin(x_rate * box.x + phase)
        along = np.float32(wave.height_hu) * np.cos(y_rate * box.y - phase)
        values += along[:, :, np.newaxis] * across[:, np.newaxis]
    scale = np.float32(body.scale_mm)
    # The oblique fissures: planes that fall from behind to the front, bent upwards at the sides.
    level = (box.z - np.float32(0.55) * scale)[:, np.newaxis] - np.float32(0.95) * box.y
    bend = np.float32(0.12) * np.abs(box.x) + np.where(box.x < 0, -6, 4).astype(np.float32)
    away = np.abs(level[:, :, np.newaxis] - bend)
    away *= np.float32(-1 / (1.4 * (box.edge_mm + 0.4)))
    away += np.float32(1)
    np.maximum(away, 0, out=away)
    away *= np.float32(contents.fissure_hu / (0.5 + box.edge_mm))
    values += away
    return values


def _draw_table(body: Thorax, canvas: Canvas) -> None:
    """Draw the table: two thin shells with foam between them."""
    scale = body.scale_mm
    below = canvas.box.window((-1e4, 0.6 * scale, -1.45 * scale), (1e4, 1e4, 1.45 * scale))
    if below is None:
        return
    part = canvas.crop(below)
    for margin, value in ((0.0, -180.0), (2.5, -940.0), (22.0, -150.0), (24.5, AIR_HU)):
        radius = 2.75 * scale + margin
        outline = superellipse(part.box, (0.0, -1.7 * scale), (radius, radius))
        part.fill(1 - coverage(outline, part.box.edge_mm), value)


def _draw_wall(body: Thorax, canvas: Canvas) -> None:
    """Draw what lies around the cage: skin, fat, muscle, shoulders, neck."""
    cage, wall, rib = body.lungs.cage, body.wall, body.ribs.thickness_mm
    thickness = wall.thickness_mm
    for margin, value, inset in (
        (thickness + rib, 30.0, 0.0),
        (thickness + rib - 2.0, FAT_HU, 2.0),
        (0.5 * thickness + rib, MUSCLE_HU, 0.5 * thickness),
    ):
        canvas.put(cage_outline(cage, canvas.box, margin_mm=margin), value)
        for solid in wall.solids:
            a, b, c = (max(radius - inset, 1.0) for radius in solid.radii_xyz_mm)
            canvas.put_ellipsoid(Ellipsoid(solid.center_xyz_mm, (a, b, c)), value)
        neck = tuple(radius - inset for radius in wall.neck_radii_xy_mm)
        canvas.put_column((0.0, 0.0), (neck[0], neck[1]), value, between_z_mm=(body.scale_mm, 1e4))
    canvas.put(cage_outline(cage, canvas.box, margin_mm=1.1 * rib), -45.0)
    canvas.put(cage_outline(cage, canvas.box, margin_mm=0.8 * rib), MUSCLE_HU)


def _draw_inside(body: Thorax, contents: Contents, canvas: Canvas) -> None:
    """Draw mediastinum, heart, great vessels and abdomen."""
    canvas.put(column_outline(body.lungs.column, canvas.box), -70.0)
    _draw_front_fat(body, canvas)
    heart, atrium, trunk, arch, cava, thymus = body.lungs.organs
    for solid, value in (
        (thymus, -60.0),
        (cava, -60.0),
        (trunk, -75.0),
        (arch, -70.0),
        (heart, 0.6 * contents.blood_hu + 18),
        (atrium, contents.blood_hu),
    ):
        canvas.put_ellipsoid(solid, value)
    _draw_great_vessels(body, contents, canvas)
    _draw_abdomen(body, contents, canvas)


def _draw_front_fat(body: Thorax, canvas: Canvas) -> None:
    """Draw the fat between both lungs behind the breastbone, as deep as the cage is there."""
    scale, cage, z = body.scale_mm, body.lungs.cage, canvas.box.z
    half = np.float32(cage.half_depth_mm) * cage_scale(cage, z) ** np.float32(0.8)
    front: Floats = np.float32(cage.lean) * z - half
    # It narrows towards the back, so that lung reaches in front of the heart on both sides.
    canvas.put_column((0.0, front), (0.16 * scale, 0.16 * scale), -85.0)
    canvas.put_column((0.0, front + np.float32(0.25 * scale)), (0.06 * scale, 0.35 * scale), -85.0)


def _draw_great_vessels(body: Thorax, contents: Contents, canvas: Canvas) -> None:
    """Draw aorta, pulmonary trunk, caval veins and gullet."""
    scale, blood, z = body.scale_mm, contents.blood_hu, canvas.box.z
    back: Floats = np.float32(0.33 * scale) + np.float32(body.lungs.cage.lean) * z
    arch_z, low = 1.12 * scale, 0.45 * scale

    def column(center: tuple[float, float | Floats], radius: float, between: tuple[float, float]) -> None:
        size = (radius * scale, radius * scale)
        canvas.put_column((center[0] * scale, center[1]), size, blood, between_z_mm=between)

    column((0.15, back), 0.095, (-1e4, arch_z))
    column((-0.05, -0.2 * scale), 0.12, (low, arch_z))
    column((-0.19, -0.1 * scale), 0.08, (low, 1.5 * scale))
    for x, y in ((-0.14, -0.12), (0.02, -0.1), (0.13, 0.02)):
        column((x, y * scale), 0.045, (arch_z, 1e4))
    solids = [
        Ellipsoid((0.06 * scale, 0.06 * scale, arch_z), (0.13 * scale, 0.32 * scale, 0.1 * scale)),
        Ellipsoid((0.08 * scale, -0.18 * scale, 0.72 * scale), (0.11 * scale, 0.13 * scale, 0.2 * scale)),
    ]
    for side, height in ((-1, 0.72), (1, 0.78)):
        center = (side * 0.17 * scale, 0.02 * scale, height * scale)
        solids.append(Ellipsoid(center, (0.17 * scale, 0.1 * scale, 0.1 * scale)))
    for solid in solids:
        canvas.put_ellipsoid(solid, blood)
    canvas.put_column((0.02 * scale, back - np.float32(0.1 * scale)), (0.06 * scale, 0.04 * scale), 40.0)


def _draw_abdomen(body: Thorax, contents: Contents, canvas: Canvas) -> None:
    """Draw what lies under the diaphragm: liver, spleen and stomach in fat."""
    right, left, middle = body.lungs.domes
    peak = max(dome.top_xyz_mm[2] for dome in body.lungs.domes)
    window = canvas.box.window((-1e4, -1e4, -1e4), (peak, 1e4, 1e4))
    if window is None:
        return
    part = canvas.crop(window)
    edge_mm = part.box.edge_mm
    outlines = [dome_outline(dome, part.box) for dome in (middle, left, right)]
    if all(outline.side(edge_mm) < 0 for outline in outlines):
        return
    for outline, value in zip(outlines, (45.0, FAT_HU + 5, LIVER_HU), strict=True):
        part.put(outline, value)
    # What lies in the fat is drawn as a whole, and then shown as far as it is under the diaphragm.
    beneath = Canvas(part.box, part.hounsfield.copy(), np.zeros(part.box.shape, dtype=np.float32))
    _draw_belly(body, contents, beneath)
    under = np.maximum.reduce([coverage(outline, edge_mm) for outline in outlines])
    part.hounsfield[...] += under * (beneath.hounsfield - part.hounsfield)


def _draw_belly(body: Thorax, contents: Contents, canvas: Canvas) -> None:
    """Draw spleen, stomach with its gas, and aorta."""
    scale, top = body.scale_mm, body.lungs.domes[1].top_xyz_mm[2]
    spleen = (0.62 * scale, 0.3 * scale, top - 0.5 * scale)
    stomach = (0.35 * scale, -0.2 * scale, top - 0.36 * scale)
    for solid, value in (
        (Ellipsoid(spleen, (0.24 * scale, 0.34 * scale, 0.42 * scale), -0.2), 0.3 * contents.blood_hu + 40),
        (Ellipsoid(stomach, (0.3 * scale, 0.32 * scale, 0.32 * scale), 0.2), 35.0),
        *((bubble, GAS_HU) for bubble in body.gas),
    ):
        canvas.put_ellipsoid(solid, value)
    canvas.put_column((0.1 * scale, 0.3 * scale), (0.09 * scale, 0.09 * scale), contents.blood_hu)
