"""Where the frames of a mask or a map are, in the words of highdicom."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
from highdicom import PixelMeasuresSequence, PlanePositionSequence
from highdicom.enum import CoordinateSystemNames
from highdicom.spatial import compute_tile_positions_per_frame
from pydicom.dataset import Dataset

from node.encode.evidence import image_evidence, slice_evidence
from node.encode.planes import Grid
from node.errors import DatasetError, GeometryError

POSITION = "PlanePositionSequence"
SHARED = ("PlaneOrientationSequence", "PixelMeasuresSequence")
"""The functional groups that say where a frame is, and what all frames must have alike."""

PARALLEL = ("ImageOrientationPatient", "PixelSpacing")
MAX_DIFFERENCE = 1e-4
"""Between cosines, or millimeters, of planes that count as parallel: 0.05 mm at the far end of a plane."""


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """The sources for highdicom, with nothing but what it needs; and what only tiles of a slide need."""

    images: tuple[Dataset, ...]
    positions: tuple[PlanePositionSequence, ...] | None = None
    measures: PixelMeasuresSequence | None = None


def find_place(grid: Grid, shape: tuple[int, int]) -> Place:
    """Return where the frames of a grid are; `shape` are the rows and columns that the sources shall have.

    Raises GeometryError where the planes are not parallel or two are at the same place, and DatasetError
    where a source does not say where it is.
    """
    if grid.is_slide:
        return _slide_place(grid)
    place = _frames_place(grid) if grid.numbers else _slices_place(grid)
    for image in place.images:
        _replace(image, Rows=shape[0], Columns=shape[1])
    return place


def _slices_place(grid: Grid) -> Place:
    first = image_evidence(grid.source)
    if not grid.has_place:
        if not all(spacing_mm > 0 for spacing_mm in first.get("PixelSpacing") or [0]):
            first.pop("PixelSpacing", None)
        return Place((first,))
    images = (first, *map(slice_evidence, grid.sources[1:]))
    _require_stack(grid, images)
    _replace(first, SliceThickness=first.get("SliceThickness") or None)
    for image in images:
        if image.ImageOrientationPatient != first.ImageOrientationPatient:
            # Cosines that differ in their last digits are refused by highdicom.
            _replace(image, ImageOrientationPatient=first.ImageOrientationPatient)
    return Place(images)


def _frames_place(grid: Grid) -> Place:
    """Return the source with those of its frames alone that are wanted, and what they share in one item."""
    image = image_evidence(grid.source)
    shared = image.SharedFunctionalGroupsSequence[0]
    every = image.get("PerFrameFunctionalGroupsSequence") or ()
    if absent := set(grid.numbers) - set(range(1, len(every) + 1)):
        raise GeometryError(grid.source.sop_instance_uid, f"no frame {min(absent)} among {len(every)}")
    groups = [_groups(grid, every[number - 1], shared) for number in grid.numbers]
    _require_stack(grid, [_flattened(group) for group in groups])
    positions = [deepcopy(group) for group in groups]
    for position in positions:
        for keyword in SHARED:
            del position[keyword]
    del groups[0][POSITION]
    _replace(
        image,
        NumberOfFrames=len(groups),
        SharedFunctionalGroupsSequence=groups[:1],
        PerFrameFunctionalGroupsSequence=positions,
    )
    return Place((image,))


def _groups(grid: Grid, frame: Dataset, shared: Dataset) -> Dataset:
    """Return where one frame is, whether it says so itself or all frames together do."""
    groups = Dataset()
    for keyword in (POSITION, *SHARED):
        sequence = frame.get(keyword) or shared.get(keyword)
        if not sequence:
            raise DatasetError(grid.source.sop_instance_uid, f"has no {keyword}")
        # highdicom completes the item, which belongs to the source.
        setattr(groups, keyword, [deepcopy(sequence[0])])
    return groups


def _flattened(groups: Dataset) -> Dataset:
    flat = Dataset()
    for sequence in groups:
        flat.update(sequence.value[0])
    return flat


def _require_stack(grid: Grid, planes: Sequence[Dataset]) -> None:
    """Refuse planes of which it is not known how they lie to each other."""
    uid = grid.source.sop_instance_uid
    for keyword in (*PARALLEL, "ImagePositionPatient"):
        if not all(plane.get(keyword) for plane in planes):
            raise DatasetError(uid, f"has no {keyword}")
    for keyword in PARALLEL:
        values = np.array([plane[keyword].value for plane in planes], float)
        if np.abs(values - values[0]).max() > MAX_DIFFERENCE:
            raise GeometryError(uid, f"the planes differ in {keyword}")
    if min(planes[0].PixelSpacing) <= 0:
        raise GeometryError(uid, "the pixels have no size")
    if len({tuple(plane.ImagePositionPatient) for plane in planes}) < len(planes):
        raise GeometryError(uid, "two planes are at the same place")


def _slide_place(grid: Grid) -> Place:
    image = image_evidence(grid.source)
    measures = image.SharedFunctionalGroupsSequence[0].get("PixelMeasuresSequence")
    if not measures:
        raise DatasetError(grid.source.sop_instance_uid, "has no PixelMeasuresSequence")
    spacing_mm = np.array(measures[0].PixelSpacing, float)
    orientation = np.array(image.ImageOrientationSlide, float).reshape(2, 3)
    origin_xyz_mm = _origin_xyz_mm(image)
    # The center of the first element, which covers the first pixels.
    origin_xyz_mm += (grid.stride_px - 1) / 2 * (spacing_mm[::-1] @ orientation)
    spacing_mm *= grid.stride_px
    tiles = compute_tile_positions_per_frame(
        *grid.shape, *grid.extent, origin_xyz_mm.tolist(), orientation.ravel().tolist(), spacing_mm.tolist()
    )
    slide = CoordinateSystemNames.SLIDE
    positions = [PlanePositionSequence(slide, xyz_mm, (column, row)) for (column, row), xyz_mm in tiles]
    thickness_mm = measures[0].get("SliceThickness")
    return Place((image,), tuple(positions), PixelMeasuresSequence(spacing_mm.tolist(), thickness_mm))


def _origin_xyz_mm(image: Dataset) -> np.ndarray:
    origin = image.TotalPixelMatrixOriginSequence[0]
    axes = [origin.get(f"{axis}OffsetInSlideCoordinateSystem", 0) for axis in "XYZ"]
    return np.array(axes, float)


def _replace(image: Dataset, **values: object) -> None:
    """Set attributes; the elements that were there belong to the source."""
    for keyword, value in values.items():
        image.pop(keyword, None)
        setattr(image, keyword, value)
