"""The voxels of a CT before its noise: a body drawn into an axial box, or interpolated from one."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from node.samples.anatomy import Thorax
from node.samples.canvas import Canvas
from node.samples.ct_body import CtBody
from node.samples.nodules import Nodule, paint_nodule
from node.samples.scanner import Scan
from node.samples.sections import Box
from node.samples.shapes import Floats
from node.samples.stack import CtGeometry
from node.samples.tissue import draw_sections
from node.samples.tubes import Tubes, paint_tubes

SLAB_VOXELS, SECTION_VOXELS = 6_000_000, 400_000
"""Voxels drawn at once: few where many passes go over them, so that they stay in the processor's cache."""
THIN_MM = 1.4
"""A slice thicker than this is the mean of thinner ones."""
FINE_MM = 0.7
"""The steps of the axial box that an oblique stack is interpolated from."""

Drawn = tuple[Floats, NDArray[np.bool_]]


def hounsfield_of(body: CtBody, geometry: CtGeometry, nodules: Sequence[Nodule], scan: Scan) -> Drawn:
    """Return an axial box without noise (z, y, x) in HU, and where lung is."""
    whole = _box(geometry, scan)
    step_mm = geometry.spacing_zyx_mm[0]
    hounsfield = np.empty(geometry.shape_zyx, dtype=np.float32)
    lung = np.empty(geometry.shape_zyx, dtype=bool)
    offsets = _offsets_mm(step_mm)
    parts = len(offsets)
    planes = max(1, SLAB_VOXELS // (len(whole.y) * len(whole.x) * parts))
    for start in range(0, len(whole.z), planes):
        levels = (whole.z[start : start + planes, np.newaxis] + offsets.astype(np.float32)).ravel()
        canvas = _slab(body, nodules, Box(levels, whole.y, whole.x, whole.edge_mm))
        shape = (-1, parts, len(whole.y), len(whole.x))
        rows = slice(start, start + planes)
        hounsfield[rows] = canvas.hounsfield.reshape(shape).mean(axis=1)
        lung[rows] = canvas.lung.reshape(shape).mean(axis=1) > 0.5
    return hounsfield, lung


def _box(geometry: CtGeometry, scan: Scan) -> Box:
    """Return the voxels of an axial stack."""
    z, y, x = (
        (origin + np.arange(count) * step).astype(np.float32)
        for origin, count, step in zip(
            reversed(geometry.origin_xyz_mm), geometry.shape_zyx, geometry.spacing_zyx_mm, strict=True
        )
    )
    return Box(z, y, x, scan.edge_mm(max(geometry.spacing_zyx_mm[1:])))


def _slab(body: CtBody, nodules: Sequence[Nodule], box: Box) -> Canvas:
    """Return a few sections in HU with vessels, airways and nodules, and their share of lung."""
    hounsfield, lung = np.empty(box.shape, dtype=np.float32), np.empty(box.shape, dtype=np.float32)
    planes = max(1, SECTION_VOXELS // (len(box.y) * len(box.x)))
    for start in range(0, len(box.z), planes):
        levels = slice(start, start + planes)
        drawn = draw_sections(body.thorax, body.contents, box.crop((levels, slice(None), slice(None))))
        hounsfield[levels], lung[levels] = drawn.hounsfield, drawn.lung
    canvas = Canvas(box, hounsfield, lung)
    _paint(canvas, body.trees.vessels, body.contents.blood_hu)
    _paint(canvas, body.trees.bronchi, -50.0)
    _paint(canvas, body.trees.lumina, -960.0)
    _paint(canvas, _airway(body.thorax, 1.5), 20.0, is_everywhere=True)
    _paint(canvas, _airway(body.thorax, 0.0), -990.0, is_everywhere=True)
    for nodule in nodules:
        paint_nodule(canvas, nodule)
    return canvas


def _airway(thorax: Thorax, wall_mm: float) -> Tubes:
    starts, ends = (
        np.asarray([getattr(tube, name) for tube in thorax.airway]) for name in ("start_xyz_mm", "end_xyz_mm")
    )
    return Tubes(starts, ends, np.asarray([tube.radii_mm for tube in thorax.airway]) + wall_mm)


def _paint(canvas: Canvas, tubes: Tubes, value: float, *, is_everywhere: bool = False) -> None:
    """Draw tubes of one value, only into the lung unless they are everywhere; the lung stays what it was."""
    box = canvas.box
    low = [float(axis[0]) - box.edge_mm for axis in (box.x, box.y, box.z)]
    high = [float(axis[-1]) + box.edge_mm for axis in (box.x, box.y, box.z)]
    near = tubes.touching(low, high)
    if not len(near):
        return
    lows, highs = near.bounds()
    window = box.window(tuple(lows.min(axis=0)[::-1]), tuple(highs.max(axis=0)[::-1]))
    if window is None:
        return
    part = canvas.crop(window)
    cover = np.zeros(part.box.shape, dtype=np.float32)
    paint_tubes(cover, near, part.box)
    if not is_everywhere:
        cover *= part.lung
    cover *= np.float32(value) - part.hounsfield
    part.hounsfield[...] += cover


def _offsets_mm(step_mm: float) -> Floats:
    """Return where in a slice its thin ones lie."""
    parts = max(1, int(np.ceil(step_mm / THIN_MM)))
    return np.asarray(((np.arange(parts) + 0.5) / parts - 0.5) * step_mm, dtype=np.float32)


def resampled(body: CtBody, geometry: CtGeometry, nodules: Sequence[Nodule], scan: Scan) -> Drawn:
    """Return a stack of any directions without noise (z, y, x) in HU, and where lung is."""
    depth, rows, columns = geometry.shape_zyx
    fine = _axial_around(geometry)
    # The coarser pixels blur as if they had been drawn; what the fine ones did is part of it.
    source, source_lung = hounsfield_of(body, fine, nodules, scan)
    hounsfield = np.zeros(geometry.shape_zyx, dtype=np.float32)
    lung = np.empty(geometry.shape_zyx, dtype=bool)
    offsets = _offsets_mm(geometry.slice_mm)
    normal = np.cross(geometry.directions[2], geometry.directions[1])
    for z in range(depth):
        points = geometry.points((slice(z, z + 1), slice(0, rows), slice(0, columns)))[0]
        lung[z] = _linear(source_lung, fine.to_voxels(points)) > 0.5
        for offset in offsets:
            hounsfield[z] += _linear(source, fine.to_voxels(points + float(offset) * normal))
    hounsfield /= np.float32(len(offsets))
    return hounsfield, lung


def _axial_around(geometry: CtGeometry) -> CtGeometry:
    """Return an axial box of fine steps that holds the whole stack."""
    last = np.asarray(geometry.shape_zyx, dtype=np.float64) - 1
    corners = np.stack(np.meshgrid(*[[0.0, end] for end in last], indexing="ij"), axis=-1).reshape(-1, 3)
    points = geometry.to_patient(corners)
    margin = geometry.spacing_zyx_mm[0] / 2 + 2
    low, high = points.min(axis=0) - margin, points.max(axis=0) + margin
    step = min(FINE_MM, *geometry.spacing_zyx_mm[1:])
    shape = np.ceil((high - low) / step).astype(int)[::-1] + 1
    return CtGeometry(
        (float(low[0]), float(low[1]), float(low[2])),
        (step, step, step),
        (int(shape[0]), int(shape[1]), int(shape[2])),
    )


def _linear(source: Floats | NDArray[np.bool_], voxels: NDArray[np.float64]) -> Floats:
    """Return the values of a box (z, y, x) at voxel coordinates (rows, columns, 3), all inside it."""
    first = np.floor(voxels).astype(np.intp)
    share = (voxels - first).astype(np.float32)
    total = np.zeros(voxels.shape[:-1], dtype=np.float32)
    for corner in np.ndindex(2, 2, 2):
        weight = np.prod(np.where(corner, share, 1 - share), axis=-1)
        z, y, x = np.moveaxis(first + np.asarray(corner), -1, 0)
        total += weight * source[z, y, x]
    return total
