"""The lung field of a CT: where a search for nodules has to look; found cheaply, and rather too wide."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from node.domain.image import Volume
from node.imaging.grid import Grid

Field = NDArray[np.bool_]
Voxels = NDArray[np.int16]
Triple = tuple[float, float, float]

COARSE_MM = 4.0
"""As fine as the field need be: it is closed and widened by several times as much."""

AIR_HU, PLAINLY_GRAY_HU, BLACK_HU, PADDING_HU = -400, -880, -940, -1010
"""Lung and air lie below the first, pure air below the third, what was not measured below the last."""

AIRWAY_MM2, AIRWAY_HU = 800.0, -880
"""In one plane, what is as small and as black as this is trachea, esophagus or the edge of the body."""

LEAST_ML, LEAST_SHARE = 20.0, 0.05
"""A lung has so much, and no less than this share of the largest one."""

CLOSING_MM, MARGIN_MM = 12.0, 4.0
"""What is as wide as a nodule on the pleura or a vessel at the hilum is closed; then the field is widened."""


@dataclass(frozen=True, slots=True, eq=False)
class LungField:
    """The lungs on a coarse grid: element (z, y, x) of `mask` is voxel (z, y, x) * `stride_zyx`.

    `is_cut` says that lung reaches the edge of the picture: more of it lies outside.
    """

    mask: Field
    stride_zyx: tuple[int, int, int]
    is_cut: bool

    def on_grid(self, volume: Volume, grid: Grid) -> Field:
        """Return which points of a grid over the volume are in the field, (z, y, x)."""
        field = np.zeros(grid.shape_zyx, np.bool_)
        axes = (volume.normal_xyz, volume.column_direction_xyz, volume.row_direction_xyz)
        middles = (volume.positions_mm[1:] + volume.positions_mm[:-1]) / 2
        planes = np.searchsorted(middles, grid.along(0))
        for index, plane in enumerate(planes.tolist()):
            own = self.mask[min(plane // self.stride_zyx[0], len(self.mask) - 1)]
            rows, columns = (
                _elements(
                    (grid.along(axis) - volume.origins_xyz_mm[plane] @ axes[axis])
                    / volume.spacing_yx_mm[axis - 1],
                    self.stride_zyx[axis],
                    own.shape[axis - 1],
                )
                for axis in (1, 2)
            )
            field[index] = own[np.ix_(rows, columns)]
        return field

    @property
    def box_zyx(self) -> tuple[slice, slice, slice]:
        """The voxels around the field, whole strides; it may end beyond the volume."""
        axes = ndimage.find_objects(self.mask.astype(np.uint8))[0]
        z, y, x = (
            slice(axis.start * stride, axis.stop * stride)
            for axis, stride in zip(axes, self.stride_zyx, strict=True)
        )
        return z, y, x


def find_lungs(hounsfield: Voxels, spacing_zyx_mm: Triple) -> LungField | None:
    """Return where the lungs are in (z, y, x) Hounsfield units; None where there are none.

    Lungs are large air that is neither outside the body nor gas in a hollow organ; what is dense in them or
    on their walls is closed over. Every n-th voxel is looked at: a slab of 300 slices costs about a tenth of
    a second. A tilt of the slices does no harm.
    """
    z, y, x = (max(1, int(COARSE_MM / spacing)) for spacing in spacing_zyx_mm)
    coarse = hounsfield[::z, ::y, ::x]
    spacing = (spacing_zyx_mm[0] * z, spacing_zyx_mm[1] * y, spacing_zyx_mm[2] * x)
    lungs = _lungs(coarse, spacing)
    if not lungs.any():
        return None
    closed = _closed(lungs, spacing)
    return LungField(closed, (z, y, x), _is_cut(lungs))


def _lungs(coarse: Voxels, spacing: Triple) -> Field:
    """Return the air that is lung: the large parts of it that hang together, and are plainly gray."""
    air, is_doubtful = _gray_air(coarse, spacing[1] * spacing[2])
    labels, count = ndimage.label(air)
    volumes_ml = np.bincount(labels.ravel(), minlength=count + 1) * np.prod(spacing) / 1000
    volumes_ml[0] = 0
    is_large = volumes_ml >= max(LEAST_ML, LEAST_SHARE * volumes_ml.max())
    doubtful_ml = np.bincount(labels[is_doubtful], minlength=count + 1) * np.prod(spacing) / 1000
    return np.asarray((is_large & (2 * doubtful_ml < volumes_ml))[labels])


def _gray_air(coarse: Voxels, pixel_mm2: float) -> tuple[Field, Field]:
    """Return the air that has tissue in it, judged by what hangs together in one plane; and what is doubtful.

    Gas in stomach and bowel is black through and through, but of a lung even the emptiest is not; nor is the
    air around the body, which meets the border of the plane, by padding or itself, but there lie blankets in
    it. So what meets the border is doubtful where it is nearly black: in a picture that was cut out of a
    larger one it is lung, which the planes beside it must tell. Airways are small and black.
    """
    air = coarse < AIR_HU
    labels, count = ndimage.label(air, _IN_PLANE)
    elements, values = labels[air], coarse[air]
    areas = np.bincount(elements, minlength=count + 1)
    means_hu = np.bincount(elements, values, minlength=count + 1) / np.maximum(areas, 1)
    is_airway = (areas * pixel_mm2 < AIRWAY_MM2) & (means_hu < AIRWAY_HU)
    is_black, is_doubtful = (
        2 * np.bincount(elements, values <= limit_hu, minlength=count + 1) >= areas
        for limit_hu in (BLACK_HU, PLAINLY_GRAY_HU)
    )
    gray = ~(is_black | is_airway)[labels] & air & (coarse > PADDING_HU)
    return gray, gray & (is_doubtful & _meets_border(labels, count))[labels]


def _meets_border(labels: NDArray[np.int32], count: int) -> Field:
    """Return which labels are on the border of their plane."""
    meets = np.zeros(count + 1, bool)
    for edge in (labels[:, 0], labels[:, -1], labels[:, :, 0], labels[:, :, -1]):
        meets[edge] = True
    return meets


def _closed(lungs: Field, spacing: Triple) -> Field:
    """Return the lungs without what is narrower than a ball in them, holes filled, and a little wider."""
    around = [round(CLOSING_MM / one) + 1 for one in spacing]
    padded = np.pad(lungs, [(one, one) for one in around])
    widened = ndimage.distance_transform_edt(~padded, sampling=spacing) <= CLOSING_MM
    for plane in widened:
        ndimage.binary_fill_holes(plane, output=plane)
    closed = ndimage.distance_transform_edt(widened, sampling=spacing) > CLOSING_MM - MARGIN_MM
    z, y, x = (slice(one, -one) for one in around)
    return np.asarray(closed[z, y, x] | lungs)


def _is_cut(lungs: Field) -> bool:
    """Return whether lung lies along an edge, more than a few stray elements of it."""
    edges = (lungs[0], lungs[-1], lungs[:, 0], lungs[:, -1], lungs[:, :, 0], lungs[:, :, -1])
    return any(edge.mean() > _CUT_SHARE for edge in edges)


def _elements(voxels: NDArray[np.float64], stride: int, count: int) -> NDArray[np.intp]:
    """Return which element of the coarse grid stands for each place along an axis, given in voxels."""
    return np.clip(np.rint(voxels / stride), 0, count - 1).astype(np.intp)


_IN_PLANE = np.zeros((3, 3, 3), bool)
_IN_PLANE[1] = ndimage.generate_binary_structure(2, 1)
_CUT_SHARE = 0.02
