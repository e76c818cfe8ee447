"""A chest of a few ellipsoids with nodules at known places, scanned in any direction.

It has no vessels and no noise: a threshold finds its nodules, and what is measured of them is geometry.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from node.domain.image import Volume
from node.domain.location import Frame
from node.samples.ct_series import write_ct
from node.samples.scanner import Scan
from node.samples.stack import AXIAL, CtGeometry
from node.samples.tomography import CtSample
from tests.synthetic.stack import ARRANGEMENTS

Floats = NDArray[np.float64]
Triple = tuple[float, float, float]

CENTER_XYZ_MM = (12.5, -30.25, 140.0)
AIR_HU, BODY_HU, LUNG_HU, NODULE_HU = -1000.0, 40.0, -850.0, 100.0
BODY_RADII_MM = (58.0, 36.0, 400.0)
LUNG_RADII_MM, LUNG_X_MM = (21.0, 25.0, 28.0), 30.0
SIZE_XYZ_MM = (126.0, 82.0, 66.0)
FINE = (6, 3, 3)
"""Into so many parts a voxel is divided where a nodule is: what is drawn is the mean of them."""


@dataclass(frozen=True, slots=True)
class Ball:
    """A nodule: its center from the middle of the chest, and its diameter."""

    center_xyz_mm: Triple
    diameter_mm: float

    @property
    def place_xyz_mm(self) -> Triple:
        """Its center in the patient."""
        x, y, z = (float(a + b) for a, b in zip(CENTER_XYZ_MM, self.center_xyz_mm, strict=True))
        return x, y, z

    @property
    def volume_mm3(self) -> float:
        return float(np.pi / 6 * self.diameter_mm**3)


BALLS = (
    Ball((-29.0, 3.3, -5.6), 16.0),
    Ball((30.4, -4.2, 11.7), 12.0),
    Ball((31.3, 3.9, -10.2), 14.0),
)


def directions(arrangement: str) -> Floats:
    """Return the directions in which slices, rows and columns rise, (3, 3)."""
    row, column, step = ARRANGEMENTS[arrangement]
    return np.stack([step, column, row]) if arrangement != "axial" else AXIAL.copy()


def stack(spacing_zyx_mm: Triple, arrangement: str = "axial") -> CtGeometry:
    """Return a stack around the chest, with slices as they are arranged."""
    axes = np.round(directions(arrangement), 10)
    extents = np.abs(axes) @ SIZE_XYZ_MM
    z, y, x = (int(np.ceil(one / step)) for one, step in zip(extents, spacing_zyx_mm, strict=True))
    steps = axes * np.array(spacing_zyx_mm)[:, None]
    first = np.array(CENTER_XYZ_MM) - (np.array([z, y, x]) - 1) / 2 @ steps
    origin = (float(first[0]), float(first[1]), float(first[2]))
    return CtGeometry(origin, spacing_zyx_mm, (z, y, x), axes)


def scan(
    geometry: CtGeometry, balls: tuple[Ball, ...] = BALLS, lungs: int = 2, *, scale: float = 1.0
) -> CtSample:
    """Return what a scanner would give of the chest: the mean over each voxel where there are nodules.

    The chest may be `scale` times as large, the nodules as much farther apart.
    """
    planes = range(geometry.shape_zyx[0])
    values = np.stack(
        [_anatomy(_points(geometry, plane) / scale, lungs).astype(np.float32) for plane in planes]
    )
    for ball in (_moved(one, scale) for one in balls):
        window = geometry.window_around(
            ball.place_xyz_mm, ball.diameter_mm / 2 + max(geometry.spacing_zyx_mm)
        )
        values[window] += _share(geometry, window, ball) * (NODULE_HU - values[window])
    hounsfield = np.rint(values).astype(np.int16)
    return CtSample(hounsfield, hounsfield < -500, geometry, (), Scan(), 7)


def write(
    folder: Path, geometry: CtGeometry, *, balls: tuple[Ball, ...] = BALLS, lungs: int = 2
) -> list[Path]:
    """Write the chest as files, in the order of their slices."""
    return write_ct(scan(geometry, balls, lungs), folder)


def _moved(ball: Ball, scale: float) -> Ball:
    x, y, z = (scale * one for one in ball.center_xyz_mm)
    return Ball((x, y, z), ball.diameter_mm)


def _points(geometry: CtGeometry, plane: int) -> Floats:
    _, rows, columns = geometry.shape_zyx
    return geometry.points((slice(plane, plane + 1), slice(0, rows), slice(0, columns)))[0] - CENTER_XYZ_MM


def _anatomy(points: Floats, lungs: int) -> Floats:
    values = np.where(((points / BODY_RADII_MM) ** 2).sum(axis=-1) < 1, BODY_HU, AIR_HU)
    for side in (-1, 1)[:lungs]:
        relative = (points - [side * LUNG_X_MM, 0, 0]) / LUNG_RADII_MM
        values[(relative**2).sum(axis=-1) < 1] = LUNG_HU
    return values


def _share(geometry: CtGeometry, window: tuple[slice, ...], ball: Ball) -> Floats:
    """Return the share of each voxel of a window that is nodule."""
    axes = [
        np.arange(span.start, span.stop)[:, None] + (np.arange(parts) + 0.5) / parts - 0.5
        for span, parts in zip(window, FINE, strict=True)
    ]
    steps = geometry.directions * np.array(geometry.spacing_zyx_mm)[:, None]
    z, y, x = (axis.ravel()[:, None] * step for axis, step in zip(axes, steps, strict=True))
    offsets = z[:, None, None] + y[:, None] + x + np.array(geometry.origin_xyz_mm) - ball.place_xyz_mm
    inside = (offsets**2).sum(axis=-1) <= (ball.diameter_mm / 2) ** 2
    shape = [n for axis in axes for n in axis.shape]
    return inside.reshape(shape).mean(axis=(1, 3, 5))


def volume_of(sample: CtSample) -> Volume:
    """Return a sample as the volume that reading its files gives."""
    geometry, hounsfield = sample.geometry, sample.hounsfield
    origins = geometry.to_patient(np.array([[plane, 0, 0] for plane in range(len(hounsfield))]))
    step, column, row = geometry.directions
    if np.cross(row, column) @ step < 0:
        origins, hounsfield = origins[::-1], hounsfield[::-1].copy()
    frames = tuple(Frame(f"2.25.{plane + 1}") for plane in range(len(hounsfield)))
    return Volume(frames, hounsfield, origins, row, column, geometry.spacing_zyx_mm[1:])
