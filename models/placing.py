"""Real nodules of LIDC-IDRI put into lungs that had none there, so that detection has a truth.

A nodule goes in as it was cut out: its Hounsfield units inside the radiologists' mask and a rim around it,
resampled linearly to the stack. Over the rim it fades into the lung that it is put in. What is dense beside
the mask (the wall or the vessel that it hung on) stays behind: outside the mask nothing is denser than the
blur of the nodule's own edge. It stands free, in parenchyma, a few millimeters from walls and larger vessels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from models.nodules import Voi, center_of
from node.samples.placement import free_spot
from node.samples.shapes import Point
from node.samples.tomography import CtBody, CtGeometry, CtSample, NoduleTruth

Floats = NDArray[np.float32]

RIM_MM = 3.0
"""From the mask's border to where nothing of the nodule is left."""
EDGE_MM = 1.5
"""Within it, how far from the border a nodule's own blur still shows."""
GAP_MM = 10.0
"""Between two nodules."""
LEAST_SHARE = 0.3
"""A voxel with less of the nodule in it is not of its mask."""
REAL = "real"
"""The kind of a nodule that was cut out of a real CT."""


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """A real nodule on its way into a stack: where its middle goes, and along which axes it is mirrored."""

    voi: Voi
    center_xyz_mm: Point
    mirrored_zyx: tuple[bool, bool, bool] = (False, False, False)

    @property
    def reach_mm(self) -> float:
        """How far from its middle it can change a voxel."""
        corners = np.argwhere(self.voi.mask)
        half = (corners.max(axis=0) - corners.min(axis=0) + 1) / 2 * self.voi.spacing_zyx_mm
        return float(np.linalg.norm(half)) + RIM_MM


def place(sample: CtSample, nodules: Sequence[Placed]) -> CtSample:
    """Return the sample with real nodules in it, appended to its truth."""
    hounsfield = sample.hounsfield.copy()
    truths = [_put(hounsfield, sample.geometry, one) for one in nodules]
    return replace(sample, hounsfield=hounsfield, nodules=(*sample.nodules, *truths))


def draw_places(
    body: CtBody, vois: Sequence[Voi], random: np.random.Generator, taken: Sequence[tuple[Point, float]] = ()
) -> list[Placed]:
    """Return a free place in the lungs of a body for each nodule that finds one, mirrored by chance.

    `taken` are center and radius in mm of what is there already.
    """
    placed: list[Placed] = []
    occupied = list(taken)
    for voi in sorted(vois, key=lambda one: -one.row.diameter_mm):
        z, y, x = (bool(side) for side in random.random(3) < 0.5)
        radius = float(voi.row.diameter_mm) / 2
        center = _free(body, random, radius, occupied)
        if center is not None:
            placed.append(Placed(voi, center, (z, y, x)))
            occupied.append((center, radius))
    return placed


def _free(
    body: CtBody, random: np.random.Generator, radius: float, occupied: Sequence[tuple[Point, float]]
) -> Point | None:
    for _ in range(300):
        center = free_spot(body, random, radius)
        if center is not None and all(
            float(np.linalg.norm(np.subtract(center, other))) > radius + reach + GAP_MM
            for other, reach in occupied
        ):
            return center
    return None


def _put(hounsfield: NDArray[np.int16], geometry: CtGeometry, nodule: Placed) -> NoduleTruth:
    """Put one nodule into a stack (z, y, x) and return its truth."""
    window = geometry.window_around(nodule.center_xyz_mm, nodule.reach_mm)
    points = geometry.points(window)
    part = hounsfield[window]
    voxel = nodule.voi.spacing_zyx_mm
    volume = float(nodule.voi.mask.sum() * voxel.prod())
    if part.size:
        values, inside = _resampled(nodule, points)
        mask = _as_large(inside, volume / (geometry.slice_mm * float(np.prod(geometry.spacing_zyx_mm[1:]))))
        part[...] = np.rint(_blend(part, values, mask, geometry)).astype(np.int16)
    else:
        mask = np.zeros(part.shape, dtype=bool)
    places = np.argwhere(nodule.voi.mask)
    offset = ((places.mean(axis=0) - center_of(nodule.voi)) * voxel * _signs(nodule))[::-1]
    center = np.asarray(nodule.center_xyz_mm) + offset
    return NoduleTruth(
        (float(center[0]), float(center[1]), float(center[2])),
        2 * (volume * 3 / 4 / float(np.pi)) ** (1 / 3),
        volume,
        REAL,
        None,
        window,
        mask,
    )


def _signs(nodule: Placed) -> NDArray[np.float64]:
    return np.where(nodule.mirrored_zyx, -1.0, 1.0)


def _resampled(nodule: Placed, points: NDArray[np.float64]) -> tuple[Floats, Floats]:
    """Return HU and mask 0–1 of a nodule at points (z, y, x, 3); HU is NaN where nothing was cut out."""
    voi = nodule.voi
    offset = (points - np.asarray(nodule.center_xyz_mm))[..., ::-1] * _signs(nodule)
    voxels = np.moveaxis(center_of(voi) + offset / voi.spacing_zyx_mm, -1, 0)
    # Half a voxel beyond the outermost centers is known, too.
    known = np.all(
        [(axis > -0.5) & (axis < size - 0.5) for axis, size in zip(voxels, voi.mask.shape, strict=True)],
        axis=0,
    )
    values = ndimage.map_coordinates(voi.hounsfield.astype(np.float32), voxels, order=1, mode="nearest")
    inside = ndimage.map_coordinates(voi.mask.astype(np.float32), voxels, order=1, mode="nearest")
    return np.where(known, values, np.nan).astype(np.float32), np.where(known, inside, 0).astype(np.float32)


def _as_large(inside: Floats, voxels: float) -> NDArray[np.bool_]:
    """Return a mask of about so many voxels from the part of each that is inside, 0–1.

    At half a voxel a small mask would lose up to a seventh: what is linear between slices cuts off its ends.
    """
    ordered = np.sort(inside, axis=None)[::-1]
    count = min(max(round(voxels), 1), ordered.size)
    return np.asarray(inside >= np.clip(ordered[count - 1], LEAST_SHARE, 0.5))


def _blend(lung: NDArray[np.int16], values: Floats, mask: NDArray[np.bool_], geometry: CtGeometry) -> Floats:
    """Return lung with the nodule in it."""
    spacing = (geometry.slice_mm, *geometry.spacing_zyx_mm[1:])
    outward = (
        ndimage.distance_transform_edt(~mask, sampling=spacing) if mask.any() else np.full(mask.shape, 99.0)
    )
    weight = np.clip((RIM_MM - outward) / (RIM_MM - EDGE_MM), 0, 1)
    weight = np.where(np.isnan(values), 0, weight)
    # The mean of its border voxels is where the nodule's blur starts from, the lung's own where it ends.
    border = mask & ~ndimage.binary_erosion(mask)
    level = float(np.nanmedian(values[border])) if border.any() else -400.0
    base = lung.astype(np.float32)
    ceiling = base + np.maximum(level - base, 0) * np.clip(1 - outward / EDGE_MM, 0, 1)
    grain = np.float32(60.0)
    own = np.where(mask, values, np.minimum(values, np.maximum(ceiling, base + grain)))
    return np.asarray(base + weight * (np.nan_to_num(own) - base), dtype=np.float32)
