"""Where a nodule is in the slices, and how large: its voxels, and what is measured of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from node.domain.image import Volume
from node.imaging.grid import Grid, sample_back
from node.imaging.regions import Spot, diameters_mm
from node.pipelines.chest_ct.judging import Judgment

Floats = npt.NDArray[np.float32]
Field = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """The voxels of a volume that a spot covers: a box in some planes, and its probability.

    What reaches `level` is nodule.
    """

    planes: range
    box_yx: tuple[slice, slice]
    probability: Floats
    level: float

    @property
    def mask(self) -> Field:
        """Which voxels of the box are nodule."""
        return self.probability >= self.level


@dataclass(frozen=True, slots=True, eq=False)
class Nodule:
    """A place that was judged, and its measures; `plane` of the volume is the one in which it is longest.

    `diameters_mm` are the longest in that plane, and the one across it.
    """

    judgment: Judgment
    place: Place
    centroid_xyz_mm: npt.NDArray[np.float64]
    volume_mm3: float
    mean_hu: float
    plane: int
    diameters_mm: tuple[float, float]

    @property
    def is_reported(self) -> bool:
        """Does its probability reach the threshold, whether or not that decides?

        Below it most places are vessels: a list of all that might be nodules would hide those that are.
        """
        score = self.judgment[0]
        return score.probability >= score.threshold


def measure(volume: Volume, grid: Grid, spot: Spot, *, threshold: float, judgment: Judgment) -> Nodule:
    """Return the nodule at a spot of the grid; `threshold` is the probability that makes an element nodule.

    Volume and centroid are those of the elements of the grid: between slices that lie far apart it knows
    more than whole voxels tell. Diameters and Hounsfield units are taken in the slices.
    """
    place = locate(volume, grid, spot, threshold)
    own = spot.mask & (spot.probability >= min(place.level, spot.peak))
    points = np.argwhere(own) + np.array([axis.start for axis in spot.box_zyx])
    planes, (rows, columns) = place.planes, place.box_yx
    voxels = volume.hounsfield[planes.start : planes.stop, rows, columns][place.mask]
    diameters = [diameters_mm(plane, place.level, volume.spacing_yx_mm) for plane in place.probability]
    longest = max(range(len(diameters)), key=lambda index: diameters[index])
    return Nodule(
        judgment=judgment,
        place=place,
        centroid_xyz_mm=grid.to_patient(points).mean(axis=0),
        volume_mm3=float(own.sum() * np.prod(grid.spacing_zyx_mm)),
        mean_hu=float(voxels.mean()),
        plane=planes.start + longest,
        diameters_mm=diameters[longest],
    )


def locate(volume: Volume, grid: Grid, spot: Spot, threshold: float) -> Place:
    """Return which voxels a spot of the grid covers: those that reach the threshold, and at least one.

    Of a spot that nowhere reaches it, those that reach half its largest probability.
    """
    part = _part(grid, spot)
    planes, box = _box_around(volume, part)
    probability = sample_back(spot.probability, part, volume, planes, box)
    if not probability.any():
        # It lies between two planes and meets neither: the voxel beside its middle stands for it.
        (center,) = grid.to_patient(np.array([spot.center_zyx]))
        probability[_nearest(volume, center, planes, box)] = spot.peak
    peak = float(probability.max())
    return Place(planes, box, probability, threshold if peak >= threshold else peak / 2)


def _part(grid: Grid, spot: Spot) -> Grid:
    """Return the part of a grid that is the box of a spot."""
    corner = np.array([[axis.start for axis in spot.box_zyx]], np.float64)
    z, y, x = spot.probability.shape
    return replace(grid, shape_zyx=(z, y, x), origin_xyz_mm=grid.to_patient(corner)[0])


def _box_around(volume: Volume, grid: Grid) -> tuple[range, tuple[slice, slice]]:
    """Return the planes that a grid reaches, or else the nearest one, and rows and columns around it."""
    low, high = grid.along(0)[[0, -1]]
    reached = np.flatnonzero((volume.positions_mm >= low) & (volume.positions_mm <= high))
    if not len(reached):
        reached = np.abs(volume.positions_mm - (low + high) / 2).argmin()[None]
    planes = range(int(reached[0]), int(reached[-1]) + 1)
    rows, columns = (_span(volume, grid, planes, axis) for axis in (1, 2))
    return planes, (rows, columns)


def _span(volume: Volume, grid: Grid, planes: range, axis: int) -> slice:
    direction = (volume.column_direction_xyz, volume.row_direction_xyz)[axis - 1]
    starts = volume.origins_xyz_mm[planes.start : planes.stop] @ direction
    low, high = grid.along(axis)[[0, -1]]
    step, size = volume.spacing_yx_mm[axis - 1], volume.hounsfield.shape[axis]
    first = int(np.clip(np.floor((low - starts.max()) / step), 0, size - 1))
    last = int(np.clip(np.ceil((high - starts.min()) / step), first, size - 1))
    return slice(first, last + 1)


def _nearest(
    volume: Volume, center_xyz_mm: npt.NDArray[np.float64], planes: range, box: tuple[slice, slice]
) -> tuple[int, int, int]:
    """Return the element of the box that lies nearest to a point, in the plane nearest to it."""
    positions = volume.positions_mm[planes.start : planes.stop]
    plane = int(np.abs(positions - center_xyz_mm @ volume.normal_xyz).argmin())
    offset = center_xyz_mm - volume.origins_xyz_mm[planes.start + plane]
    axes = np.stack([volume.column_direction_xyz, volume.row_direction_xyz])
    steps = axes @ offset / volume.spacing_yx_mm
    row, column = (
        int(np.clip(round(step) - span.start, 0, span.stop - span.start - 1))
        for step, span in zip(steps.tolist(), box, strict=True)
    )
    return plane, row, column


def joined(volume: Volume, nodules: Sequence[Nodule]) -> tuple[list[int], npt.NDArray[np.uint8], Floats]:
    """Return the planes that hold nodules, their labels (planes, rows, columns), and the probability.

    Label n is the n-th nodule; where two meet, a voxel is of the one that is surer of it.
    """
    held = sorted(
        {
            nodule.place.planes[index]
            for nodule in nodules
            for index in np.flatnonzero(nodule.place.mask.any(axis=(1, 2))).tolist()
        }
    )
    index_by_plane = {plane: index for index, plane in enumerate(held)}
    labels = np.zeros((len(held), *volume.hounsfield.shape[1:]), np.uint8)
    probability = np.zeros(labels.shape, np.float32)
    for number, nodule in enumerate(nodules, 1):
        place = nodule.place
        for plane, values, mask in zip(place.planes, place.probability, place.mask, strict=True):
            if plane not in index_by_plane:
                continue
            target = (index_by_plane[plane], *place.box_yx)
            labels[target] = np.where(mask & (values > probability[target]), number, labels[target])
            probability[target] = np.maximum(probability[target], values)
    return held, labels, probability
