"""A volume on an evenly spaced grid and back: what a network is given, and what it says put where it belongs.

The grid keeps the axes of the volume and is never turned, so that one axis after the other can be sampled.
Each plane is taken from where it lies: uneven steps and the slant of a tilted gantry are met exactly.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from node.domain.image import PADDING_HU, Volume

COARSE = 1.5
"""From a step of the grid this many times the volume's on, voxels are averaged: noise must not alias."""

MAX_POINTS = 1 << 30
"""On one grid: 2 GiB, more than any chest at half a millimeter."""

Floats = npt.NDArray[np.float32]
Coordinates = npt.NDArray[np.float64]
Box = tuple[slice, slice, slice]


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """Where points of equal distances lie in the patient; point (0, 0, 0) is at `origin_xyz_mm`."""

    shape_zyx: tuple[int, int, int]
    spacing_zyx_mm: tuple[float, float, float]
    origin_xyz_mm: Coordinates
    row_direction_xyz: Coordinates
    column_direction_xyz: Coordinates
    normal_xyz: Coordinates

    @property
    def axes_zyx(self) -> Coordinates:
        """The unit vectors along z, y and x, (3, 3)."""
        return np.stack([self.normal_xyz, self.column_direction_xyz, self.row_direction_xyz])

    def to_patient(self, points_zyx: npt.NDArray[np.floating]) -> Coordinates:
        """Return (n, 3) patient coordinates (x, y, z) in mm of (n, 3) points (z, y, x) of the grid."""
        steps = np.asarray(points_zyx, np.float64) * self.spacing_zyx_mm
        return np.asarray(self.origin_xyz_mm + steps @ self.axes_zyx)

    def to_grid(self, points_xyz_mm: npt.NDArray[np.floating]) -> Coordinates:
        """Return (n, 3) points (z, y, x) of the grid of (n, 3) patient coordinates (x, y, z) in mm."""
        offsets = np.asarray(points_xyz_mm, np.float64) - self.origin_xyz_mm
        return np.asarray(offsets @ self.axes_zyx.T / self.spacing_zyx_mm)

    def along(self, axis: int) -> Coordinates:
        """Return where the points lie along one of its axes (0 is z), in mm from the patient's origin."""
        start = float(self.origin_xyz_mm @ self.axes_zyx[axis])
        return np.asarray(start + np.arange(self.shape_zyx[axis]) * self.spacing_zyx_mm[axis])


def grid_over(volume: Volume, spacing_zyx_mm: tuple[float, float, float], box_zyx: Box | None = None) -> Grid:
    """Return the grid over a volume, or over a box of its voxels, from edge to edge and in its middle.

    Under a tilted gantry it covers every plane. Raises ValueError for a box without voxels, and for a spacing
    that is none or would make more than MAX_POINTS points.
    """
    starts, ends = np.array([_extent(volume, axis, box_zyx) for axis in range(3)]).T
    spacing = np.array(spacing_zyx_mm, np.float64)
    if not (np.isfinite(spacing).all() and (spacing > 0).all()):
        raise ValueError(f"a spacing of {spacing_zyx_mm} mm")
    # What is lost to rounding must not add a plane that holds nothing.
    shape = np.maximum(np.ceil((ends - starts) / spacing - 1e-6), 1)
    if shape.prod() > MAX_POINTS:
        raise ValueError(f"a grid of {shape.prod():.3g} points, expected at most {MAX_POINTS}")
    axes = _axes_zyx(volume)
    first = (starts + ends - (shape - 1) * spacing) / 2
    z, y, x = (int(size) for size in shape)
    return Grid((z, y, x), spacing_zyx_mm, first @ axes, axes[2], axes[1], axes[0])


def sample(volume: Volume, grid: Grid, out: npt.NDArray[np.int16] | None = None) -> npt.NDArray[np.int16]:
    """Return the volume at the points of a grid, (z, y, x) int16, PADDING_HU where there is none of it.

    Between voxels the values are linear; along an axis whose step is COARSE times the volume's or more, they
    are the mean of that over the point's own extent. `out` is filled and returned where it is given. Besides
    the result a few planes are held.
    """
    result = np.empty(grid.shape_zyx, np.int16) if out is None else out
    if result.shape != grid.shape_zyx or result.dtype != np.int16:
        raise ValueError(f"room of {result.shape} {result.dtype}, expected {grid.shape_zyx} int16")
    taps = _taps(volume.positions_mm, grid.along(0), grid.spacing_zyx_mm[0])
    planes = _Planes(_plane_sampler(volume, grid))
    for index in range(grid.shape_zyx[0]):
        if not taps.is_inside[index]:
            result[index] = PADDING_HU
            continue
        np.rint(planes.mix(taps, index), out=result[index], casting="unsafe")
    return result


def sample_back(
    values: Floats, grid: Grid, volume: Volume, planes: range, box_yx: tuple[slice, slice]
) -> Floats:
    """Return values of a grid (z, y, x) at voxels of the volume: (planes, rows, columns) of that box.

    They are linear between points, and 0 where the grid does not reach.
    """
    if values.shape != grid.shape_zyx:
        raise ValueError(f"values of shape {values.shape}, expected {grid.shape_zyx}")
    spans = [
        range(*span.indices(size)) for span, size in zip(box_yx, volume.hounsfield.shape[1:], strict=True)
    ]
    result = np.zeros((len(planes), *map(len, spans)), np.float32)
    along_z = _linear_taps(grid.along(0), volume.positions_mm[planes.start : planes.stop : planes.step])
    for number, plane in enumerate(planes):
        if not along_z.is_inside[number]:
            continue
        rows, columns = (
            _linear_taps(
                grid.along(axis), _plane_points(volume, plane, axis)[span.start : span.stop : span.step]
            )
            for axis, span in zip((1, 2), spans, strict=True)
        )
        between = sum(weight * values[index] for index, weight in along_z.of(number))
        result[number] = _resample_plane(np.asarray(between, np.float32), rows, columns, outside=0)
    return result


# --- where things lie along an axis of the volume


def _axes_zyx(volume: Volume) -> Coordinates:
    return np.stack([volume.normal_xyz, volume.column_direction_xyz, volume.row_direction_xyz])


def _plane_points(volume: Volume, plane: int, axis: int) -> Coordinates:
    """Return where the voxels of a plane lie along y (1) or x (2), in mm."""
    start = float(volume.origins_xyz_mm[plane] @ _axes_zyx(volume)[axis])
    return np.asarray(start + np.arange(volume.hounsfield.shape[axis]) * volume.spacing_yx_mm[axis - 1])


def _extent(volume: Volume, axis: int, box_zyx: Box | None) -> tuple[float, float]:
    """Return the outer edges along an axis of what is in the box, in mm."""
    box = box_zyx or (slice(None),) * 3
    planes = np.arange(len(volume.frames))[box[0]]
    span = np.arange(volume.hounsfield.shape[axis])[box[axis]]
    if not len(planes) or not len(span):
        raise ValueError(f"a box without voxels: {box}")
    low, high = int(span.min()), int(span.max())
    if axis == 0:
        positions, gaps = volume.positions_mm, np.diff(volume.positions_mm)
        before, after = gaps[max(low - 1, 0)], gaps[min(high, len(gaps) - 1)]
        return float(positions[low] - before / 2), float(positions[high] + after / 2)
    starts = volume.origins_xyz_mm[planes] @ _axes_zyx(volume)[axis]
    step = volume.spacing_yx_mm[axis - 1]
    return float(starts.min() + (low - 0.5) * step), float(starts.max() + (high + 0.5) * step)


# --- sampling along an axis


@dataclass(frozen=True, slots=True, eq=False)
class _Taps:
    """Which samples make each point of an axis, (taps, points), with what weight, and is it among them."""

    indices: npt.NDArray[np.intp]
    weights: Floats
    is_inside: npt.NDArray[np.bool_]

    def of(self, point: int) -> Iterator[tuple[int, float]]:
        """Yield index and weight of the samples that one point is made of."""
        for index, weight in zip(self.indices[:, point], self.weights[:, point], strict=True):
            if weight:
                yield int(index), float(weight)


def _taps(samples: Coordinates, points: Coordinates, step_mm: float) -> _Taps:
    """Return how points `step_mm` apart are made of samples: linear, or averaged where they are coarse."""
    if len(samples) < 2 or step_mm < COARSE * float(np.median(np.diff(samples))):
        return _linear_taps(samples, points)
    return _mean_taps(samples, points, step_mm)


def _linear_taps(samples: Coordinates, points: Coordinates) -> _Taps:
    if len(samples) == 1:
        weights = np.ones((1, len(points)), np.float32)
        return _Taps(np.zeros(weights.shape, np.intp), weights, np.ones(len(points), np.bool_))
    clamped = np.clip(points, samples[0], samples[-1])
    below = np.clip(np.searchsorted(samples, clamped, "right") - 1, 0, len(samples) - 2)
    share = (clamped - samples[below]) / (samples[below + 1] - samples[below])
    weights = np.stack([1 - share, share]).astype(np.float32)
    return _Taps(np.stack([below, below + 1]), weights, _is_inside(samples, points))


def _mean_taps(samples: Coordinates, points: Coordinates, step_mm: float) -> _Taps:
    """Return the weights of the mean, over each point's extent, of the line through the samples."""
    low = np.clip(points - step_mm / 2, samples[0], samples[-1])
    high = np.clip(points + step_mm / 2, samples[0], samples[-1])
    first = np.clip(np.searchsorted(samples, low, "right") - 1, 0, len(samples) - 1)
    last = np.clip(np.searchsorted(samples, high, "left"), 0, len(samples) - 1)
    unbounded = first + np.arange(int((last - first).max()) + 1)[:, None]
    indices = np.minimum(unbounded, len(samples) - 1)
    weights = (_hat_area(samples, indices, high) - _hat_area(samples, indices, low)) * (unbounded <= last)
    total = weights.sum(axis=0)
    # A point beyond the last sample takes that one.
    weights[0] = np.where(total > 0, weights[0], 1)
    weights /= np.where(total > 0, total, 1)
    return _Taps(indices, weights.astype(np.float32), _is_inside(samples, points))


def _hat_area(samples: Coordinates, indices: npt.NDArray[np.intp], end: Coordinates) -> Coordinates:
    """Return the area up to `end` under the function that is 1 at one sample, 0 at the others, and linear."""
    gaps = np.diff(samples)
    before = np.append(gaps[0], gaps)[indices]
    after = np.append(gaps, gaps[-1])[indices]
    offset = end - samples[indices]
    rising = np.clip(offset + before, 0, before)
    falling = np.clip(after - offset, 0, after)
    return np.asarray(
        rising**2 / (2 * before) + np.where(offset > 0, after / 2 - falling**2 / (2 * after), 0)
    )


def _is_inside(samples: Coordinates, points: Coordinates) -> npt.NDArray[np.bool_]:
    """Return which points the voxels of the samples cover: half a step beyond the first and the last."""
    before, after = samples[1] - samples[0], samples[-1] - samples[-2]
    slack = 1e-6 * min(before, after)
    return np.asarray(
        (points >= samples[0] - before / 2 - slack) & (points <= samples[-1] + after / 2 + slack)
    )


# --- sampling of planes


class _Planes:
    """The last few planes of a volume, sampled; points along z ask for them in rising order."""

    def __init__(self, sampler: Callable[[int], Floats]) -> None:
        self._sampler = sampler
        self._plane_by_index: dict[int, Floats] = {}

    def mix(self, taps: _Taps, point: int) -> Floats:
        """Return the plane at one point along z."""
        parts = list(taps.of(point))
        lowest = min(index for index, _ in parts)
        self._plane_by_index = {index: one for index, one in self._plane_by_index.items() if index >= lowest}
        (first, weight), *others = parts
        mixed = self._plane(first) * np.float32(weight)
        for index, weight in others:
            mixed += self._plane(index) * np.float32(weight)
        return mixed

    def _plane(self, index: int) -> Floats:
        if index not in self._plane_by_index:
            self._plane_by_index[index] = self._sampler(index)
        return self._plane_by_index[index]


def _plane_sampler(volume: Volume, grid: Grid) -> Callable[[int], Floats]:
    """Return what gives a plane of the volume at the points of the grid along y and x."""
    taps_by_start: dict[tuple[int, float], _Taps] = {}

    def taps(plane: int, axis: int) -> _Taps:
        samples = _plane_points(volume, plane, axis)
        # Without tilt all planes start at the same place, and the weights are made once.
        key = axis, round(float(samples[0]), 9)
        if key not in taps_by_start:
            if len(taps_by_start) > 8:
                taps_by_start.clear()
            taps_by_start[key] = _taps(samples, grid.along(axis), grid.spacing_zyx_mm[axis])
        return taps_by_start[key]

    return lambda plane: _resample_plane(
        volume.hounsfield[plane], taps(plane, 1), taps(plane, 2), outside=PADDING_HU
    )


def _resample_plane(
    values: npt.NDArray[np.generic], rows: _Taps, columns: _Taps, *, outside: float
) -> Floats:
    """Return (rows, columns) values at other points along both axes."""
    across = _weigh(values, rows, axis=0)
    plane = _weigh(across, columns, axis=1)
    plane[~rows.is_inside] = outside
    plane[:, ~columns.is_inside] = outside
    return plane


def _weigh(values: npt.NDArray[np.generic], taps: _Taps, axis: int) -> Floats:
    shape = (-1, 1) if axis == 0 else (1, -1)
    mixed = np.take(values, taps.indices[0], axis=axis) * taps.weights[0].reshape(shape)
    for indices, weights in zip(taps.indices[1:], taps.weights[1:], strict=True):
        part = np.take(values, indices, axis=axis)
        mixed += part * weights.reshape(shape)
    return np.asarray(mixed, np.float32)
