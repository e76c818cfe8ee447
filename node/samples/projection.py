"""Line integrals of attenuation through a thorax, front to back: what a parallel beam meets."""

from dataclasses import dataclass

import numpy as np

from node.samples.anatomy import Bones, Lesion, Ribs, Spine, Thorax, Wall
from node.samples.shapes import (
    Ellipsoid,
    Floats,
    Interval,
    add_tubes,
    around,
    cage_scale,
    cross_cage,
    cross_ellipsoid,
    hull,
    length_mm,
    lung_depth_mm,
    section_profile,
    tube_depth_mm,
)

SOFT_PER_MM = 0.0205
"""Linear attenuation of soft tissue at about 65 keV."""
LUNG_PER_MM = 0.0052
"""Inflated lung, a quarter of soft tissue's density."""
BONE_PER_MM = 0.05
"""Bone, marrow and cortex together."""


@dataclass(frozen=True, slots=True)
class Depths:
    """What each ray meets, (rows, columns): attenuation without unit, lung, body and lesion in mm."""

    attenuation: Floats
    lung_mm: Floats
    body_mm: Floats
    lesion_mm: Floats


def integrate(body: Thorax, x: Floats, z: Floats) -> Depths:
    """Return the line integrals at each (x, z) of a regular grid: columns rise with x, rows fall with z."""
    lung = lung_depth_mm(body.lungs, x, z)
    lesion = lesion_depth_mm(body.lesion, lung, x, z)
    soft = length_mm(cross_body(body, x, z))
    bone = rib_depth_mm(body, x, z) + spine_depth_mm(body.spine, x, z)
    bone += girdle_depth_mm(body.bones, x, z)
    bone *= np.minimum(soft / np.float32(20), 1)
    gas = air_depth_mm(body, x, z)
    vessels = vessel_depth_mm(body, lung - lesion, x, z)
    attenuation = np.float32(SOFT_PER_MM) * np.maximum(soft - lung - gas, 0) + np.float32(LUNG_PER_MM) * lung
    attenuation += np.float32(SOFT_PER_MM - LUNG_PER_MM) * (lesion + vessels)
    attenuation += np.float32(BONE_PER_MM - SOFT_PER_MM) * bone
    return Depths(attenuation, lung, soft, lesion)


def vessel_depth_mm(body: Thorax, air_mm: Floats, x: Floats, z: Floats) -> Floats:
    """Return the length of vessel that shows on each ray, on which so much of the lung holds air."""
    depth = np.zeros_like(air_mm)
    add_tubes(depth, body.vessels, x, z)
    # Vessels show only against air: none in the mediastinum, none in a consolidation.
    depth *= np.clip(air_mm / np.float32(0.5 * body.scale_mm), 0, 1)
    return depth


def cross_body(body: Thorax, x: Floats, z: Floats) -> Interval:
    """Return the interval of the whole body: trunk, shoulders, neck, head and arms."""
    cage, wall = body.lungs.cage, body.wall
    interval = cross_cage(cage, x, z, margin_mm=wall.thickness_mm)
    for solid in wall.solids:
        interval = hull(interval, cross_ellipsoid(solid, x, z))
    neck_x, neck_y = wall.neck_radii_xy_mm
    relative = x / np.float32(neck_x)
    neck = around(0.0, neck_y * section_profile(relative, 2.0), (np.abs(relative) < 1) & (z > body.scale_mm))
    return hull(hull(interval, neck), _cross_arms(wall, x, z))


def _cross_arms(wall: Wall, x: Floats, z: Floats) -> Interval:
    depth = np.zeros_like(x)
    add_tubes(depth, wall.arms, x, z)
    return around(0.0, depth / 2, depth > 0)


def rib_depth_mm(body: Thorax, x: Floats, z: Floats) -> Floats:
    """Return the length of rib on each ray: behind and in front, the wall's thickness where a rib runs."""
    cage, ribs = body.lungs.cage, body.ribs
    outer = cross_cage(cage, x, z, margin_mm=ribs.thickness_mm)
    inner = cross_cage(cage, x, z)
    middle = np.float32(cage.lean) * z
    total = np.zeros_like(x)
    width = np.maximum(cage.half_width_mm * cage_scale(cage, z), np.float32(0.15 * cage.half_width_mm))
    for side in (-1, 1):
        far = outer[1] - middle
        near = np.maximum(inner[1] - middle, 0)
        chord = np.maximum(far - near, 0)
        depth = side * (far + near) / 2
        angle = np.arctan2(np.abs(x) / width, depth / np.float32(0.7 * cage.half_width_mm))
        total += chord * rib_share(ribs, angle, z) * np.float32(1 if side > 0 else 0.75)
    return total


def rib_share(ribs: Ribs, angle_rad: Floats, z: Floats) -> Floats:
    """Return how much of the wall is bone, 0–1, at an angle from behind (0) to the front (pi)."""
    height, is_bone = rib_height_mm(ribs, angle_rad, z)
    across = np.abs(height) / np.float32(ribs.half_height_mm)
    whole = np.sqrt(np.maximum(1 - across * across, 0))
    marrow = np.sqrt(np.maximum(1 - (across / np.float32(0.72)) ** 2, 0))
    cortex = whole - np.float32(0.42) * marrow
    return np.asarray(cortex * is_bone, dtype=np.float32)


def rib_height_mm(ribs: Ribs, angle_rad: Floats, z: Floats) -> tuple[Floats, Floats]:
    """Return the height over the nearest rib's middle, and how far that rib is bone there, not cartilage."""
    turn = angle_rad / np.float32(np.pi)
    drop = np.float32(ribs.drop_mm) * (turn**2 * np.float32(1.3) - np.float32(0.35) * turn * (1 - turn) ** 3)
    level = (np.float32(ribs.first_z_mm) - drop - z) / np.float32(ribs.pitch_mm)
    index = np.clip(np.rint(level), 0, 11).astype(np.intp)
    offsets = np.asarray(ribs.offsets_mm, dtype=np.float32)
    height = (level - index) * np.float32(ribs.pitch_mm) - offsets[index]
    # Cartilage begins where the front third does, further back on the lowest ribs.
    end = np.float32(0.8) - np.float32(0.022) * np.maximum(index - 4, 0).astype(np.float32)
    is_bone = np.clip((end - turn) / np.float32(0.03), 0.06, 1)
    return height.astype(np.float32, copy=False), is_bone.astype(np.float32, copy=False)


def spine_depth_mm(spine: Spine, x: Floats, z: Floats) -> Floats:
    """Return the length of bone in the spine: bodies with end plates, pedicles, processes."""
    bend = spine.bend_mm * np.sin(z / np.float32(spine.bend_length_mm) * np.float32(2))
    half = np.float32(spine.half_width_mm)
    across = (x - spine.center_xy_mm[0] - bend) / half
    phase = (z + np.float32(spine.phase_mm)) / np.float32(spine.pitch_mm)
    level = phase - np.floor(phase) - np.float32(0.5)
    height = np.abs(level) * 2
    waist = 1 - np.float32(0.1) * (1 - height * height)
    profile = section_profile(across / waist, 2.6)
    share = np.float32(0.24) + np.float32(0.16) * np.exp(-(((height - 0.76) / 0.08) ** 2))
    share = share * np.clip((np.float32(0.88) - height) / np.float32(0.08), 0.3, 1)
    vertebra = 2 * half * profile * share
    local_z = level * np.float32(spine.pitch_mm)
    for side in (-1, 1):
        pedicle = ((across - side * 0.62) / 0.2) ** 2 + ((local_z - 0.12 * half) / (0.3 * half)) ** 2
        vertebra += np.float32(0.28) * half * np.exp(-pedicle * pedicle)
        process = ((across - side * 1.1) / 0.55) ** 2 + ((local_z - 0.1 * half) / (0.2 * half)) ** 2
        vertebra += np.float32(0.22) * half * np.exp(-process)
    spinous = (across / 0.13) ** 2 + ((local_z + 0.35 * half) / (0.4 * half)) ** 2
    return np.asarray(vertebra + np.float32(0.5) * half * np.exp(-spinous * spinous), dtype=np.float32)


def girdle_depth_mm(bones: Bones, x: Floats, z: Floats) -> Floats:
    """Return the length of bone in clavicles, shoulder blades and humeri."""
    depth = np.zeros_like(x)
    add_tubes(depth, bones.tubes, x, z)
    depth *= np.float32(0.75)
    for blade in bones.blades_xz_mm:
        distance = np.full_like(x, np.inf)
        for i in range(3):
            (x0, z0), (x1, z1), (x2, z2) = blade[i], blade[(i + 1) % 3], blade[(i + 2) % 3]
            run = float(np.hypot(x1 - x0, z1 - z0))
            sign = np.sign((x1 - x0) * (z2 - z0) - (z1 - z0) * (x2 - x0))
            edge = ((x1 - x0) * (z - z0) - (z1 - z0) * (x - x0)) * np.float32(sign / run)
            distance = np.minimum(distance, edge.astype(np.float32))
        size = np.float32(0.01 * abs(blade[0][1]))
        border = np.exp(-((distance / (2 * size) - 1) ** 2)) * 3
        depth += np.where(distance > 0, size * (np.float32(0.8) + border), 0).astype(np.float32)
    return depth


def air_depth_mm(body: Thorax, x: Floats, z: Floats) -> Floats:
    """Return the length of air outside the lungs: trachea, main bronchi, stomach bubble."""
    depth = np.zeros_like(x)
    add_tubes(depth, body.airway, x, z)
    for bubble in body.gas:
        depth += length_mm(cross_ellipsoid(bubble, x, z))
    return depth


def lesion_depth_mm(lesion: Lesion | None, lung_mm: Floats, x: Floats, z: Floats) -> Floats:
    """Return the length of lung that the lesion fills on each ray, at most the lung's own."""
    depth = np.zeros_like(lung_mm)
    if lesion is None:
        return depth
    if lesion.finding == "nodule":
        for blob in lesion.blobs:
            depth += length_mm(cross_ellipsoid(blob, x, z))
        return np.minimum(depth, lung_mm)
    for blob in lesion.blobs:
        depth += _cloud_depth_mm(blob, x, z)
    filled = lung_mm * (1 - np.exp(-2 * depth / np.maximum(lung_mm, 1))) * np.float32(lesion.density)
    if lesion.fissure is not None:
        height = z - lesion.fissure.z_mm - lesion.fissure.slope * np.abs(x)
        sign = 1 if lesion.fissure.is_above_filled else -1
        filled *= np.clip(sign * height / np.float32(9) + np.float32(0.5), 0.05, 1)
    for tube in lesion.bronchi:
        filled -= 0.5 * np.minimum(tube_depth_mm(tube, x, z), filled)
    return np.asarray(filled, dtype=np.float32)


def _cloud_depth_mm(blob: Ellipsoid, x: Floats, z: Floats) -> Floats:
    radius_x, radius_y, radius_z = (np.float32(radius) for radius in blob.radii_xyz_mm)
    across, along = (x - blob.center_xyz_mm[0]) / radius_x, (z - blob.center_xyz_mm[2]) / radius_z
    return np.asarray(
        np.float32(np.sqrt(np.pi)) * radius_y * np.exp(-across * across - along * along), dtype=np.float32
    )


def lesion_box(depths: Depths) -> tuple[int, int, int, int] | None:
    """Return the lesion's box (x0, y0, x1, y1) in pixels, ends excluded, or None when nothing shows."""
    peak = float(depths.lesion_mm.max())
    if peak < 1:
        return None
    rows, columns = np.nonzero(depths.lesion_mm > 0.3 * peak)
    return (int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)
