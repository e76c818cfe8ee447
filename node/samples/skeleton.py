"""Ribs, breastbone, shoulder blades and spine of axial sections."""

import numpy as np

from node.samples.anatomy import Thorax
from node.samples.canvas import Canvas
from node.samples.projection import rib_height_mm
from node.samples.sections import cage_outline
from node.samples.shapes import Floats, cage_scale

COMPACT_HU, MARROW_HU, CARTILAGE_HU = 820.0, 230.0, 95.0
COMPACT_MM = 1.3


def draw_ribs(body: Thorax, canvas: Canvas) -> None:
    """Draw ribs and breastbone as flattened bars of compact bone with marrow in the wall of the cage."""
    cage, ribs, box = body.lungs.cage, body.ribs, canvas.box
    half = 0.42 * ribs.thickness_mm
    distance = cage_outline(cage, box, margin_mm=ribs.thickness_mm / 2).distance_mm()
    z, y, x = np.nonzero(np.abs(distance) < half + box.edge_mm)
    if not z.size:
        return
    across = distance[z, y, x] / np.float32(half)
    scale = cage_scale(cage, box.z)
    width = np.maximum(cage.half_width_mm * scale, np.float32(0.15 * cage.half_width_mm))
    depth = box.y[y] - np.float32(cage.lean) * box.z[z]
    angle = np.arctan2(np.abs(box.x[x]) / width[z], depth / np.float32(0.7 * cage.half_width_mm))
    height, is_bone = rib_height_mm(ribs, angle, box.z[z])
    # In a lying body's CT ribs are a little flatter than they project in a radiograph.
    share = np.sqrt(across**2 + (height / np.float32(0.9 * ribs.half_height_mm)) ** 2)
    inside = (1 - share) * np.float32(half)
    bone = _bar(inside, box.edge_mm)
    values = CARTILAGE_HU + (bone - CARTILAGE_HU) * np.clip(2 * is_bone - 1, 0, 1)
    cover = np.clip(inside / np.float32(box.edge_mm) + np.float32(0.5), 0, 1)
    is_plate = (depth < 0) & (box.z[z] > 0.2 * body.scale_mm) & (box.z[z] < 0.93 * cage.apex_z_mm)
    plate = np.minimum((1 - np.abs(across)) * half, 0.125 * body.scale_mm - np.abs(box.x[x]))
    of_plate = np.clip(plate / np.float32(box.edge_mm) + np.float32(0.5), 0, 1) * is_plate
    values = np.where(of_plate > cover, 0.6 * _bar(plate, box.edge_mm), values)
    cover = np.maximum(cover, of_plate)
    canvas.hounsfield[z, y, x] += cover * (values - canvas.hounsfield[z, y, x])


def _bar(inside_mm: Floats, edge_mm: float) -> Floats:
    """Return compact bone near the surface and marrow deeper in."""
    marrow = np.clip((inside_mm - np.float32(COMPACT_MM)) / np.float32(edge_mm) + np.float32(0.5), 0, 1)
    return np.asarray(COMPACT_HU + (MARROW_HU - COMPACT_HU) * marrow, dtype=np.float32)


def draw_blades(body: Thorax, canvas: Canvas) -> None:
    """Draw the shoulder blades as bent plates in the muscle behind the cage."""
    cage, scale, box = body.lungs.cage, body.scale_mm, canvas.box
    top = cage.apex_z_mm
    margin = body.ribs.thickness_mm + 0.1 * scale
    window = box.window((top - 1.1 * scale, -0.1 * scale, -2 * scale), (top - 0.3 * scale, scale, 2 * scale))
    if window is None:
        return
    part = canvas.crop(window)
    distance = cage_outline(cage, part.box, margin_mm=margin).distance_mm()
    low = np.clip((part.box.z - (top - 1.1 * scale)) / (0.8 * scale), 0, 1)
    reach = (0.25 + 0.55 * low) * scale
    aside = np.abs(part.box.x)[np.newaxis, np.newaxis]
    middle = 0.78 * scale
    within = (reach[:, np.newaxis, np.newaxis] / 2) - np.abs(aside - np.float32(middle))
    behind = (part.box.y - np.float32(0.12 * scale))[np.newaxis, :, np.newaxis]
    inside = np.minimum(np.minimum(within, behind), np.float32(2.6) - np.abs(distance))
    cover = np.clip(inside / np.float32(box.edge_mm) + np.float32(0.5), 0, 1)
    part.fill(cover, _bar(inside, box.edge_mm) * np.float32(0.8))


def draw_spine(body: Thorax, canvas: Canvas) -> None:
    """Draw vertebrae and discs, the canal and the processes, with the muscle beside them."""
    spine, z = body.spine, canvas.box.z
    half = spine.half_width_mm
    x = np.float32(spine.center_xy_mm[0]) + spine.bend_mm * np.sin(2 * z / np.float32(spine.bend_length_mm))
    y = np.float32(spine.center_xy_mm[1]) + np.float32(body.lungs.cage.lean) * z
    reach = 3.2 * half
    low = (-1e4, float(y.min()) - reach, float(x.min()) - reach)
    window = canvas.box.window(low, (1e4, float(y.max()) + reach, float(x.max()) + reach))
    if window is None:
        return
    part = canvas.crop(window)
    phase = (z + np.float32(spine.phase_mm)) / np.float32(spine.pitch_mm)
    phase = phase - np.floor(phase)
    disc = np.clip((np.abs(phase - 0.5) * 2 - 0.76) / 0.08, 0, 1)
    arch = np.clip((0.75 - np.abs(phase - 0.45) * 2) / 0.1, 0, 1)
    part.put_column((x, y + 0.7 * half), (1.4 * half, 1.75 * half), 5.0)
    for side in (-1, 1):
        center = (x + side * 0.95 * half, y + 2.0 * half)
        part.put_column(center, (0.95 * half, 0.75 * half), 50.0)
    part.put_column((x, y), (half, 0.82 * half), (1 - disc) * 480 + disc * 110)
    part.put_column((x, y), (half - 1.6, 0.82 * half - 1.6), (1 - disc) * 170 + disc * 80)
    part.put_column((x, y + 1.25 * half), (0.85 * half, 0.72 * half), 60 + 400 * arch)
    for side in (-1, 1):
        center = (x + side * 1.05 * half, y + 1.45 * half)
        part.put_column(center, (0.6 * half, 0.24 * half), 60 + 280 * arch)
    part.put_column((x, y + 1.22 * half), (0.55 * half, 0.46 * half), 25.0)
    part.put_column((x, y + 2.2 * half), (0.15 * half, 0.6 * half), 350.0)
