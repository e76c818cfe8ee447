"""Which frames the planes of a mask or a map become, and which sources they lie over."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from node.domain.location import Frame
from node.encode.identity import Result
from node.encode.source import Source
from node.errors import GeometryError

Key = tuple[object, ...]
Number = TypeVar("Number", bound=np.generic)


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """The frames that planes of an array become in one object, and the sources they lie over.

    There is a source for each plane, or one that has them all: as its frames, by their `numbers`, or as a
    level of a slide. `cuts` are (plane, first row, first column) of each frame and `shape` its rows and
    columns: whole planes, but tiles of a slide, the last of which reach beyond the `extent` of the array.
    """

    sources: tuple[Source, ...]
    numbers: tuple[int, ...]
    cuts: tuple[tuple[int, int, int], ...]
    shape: tuple[int, int]
    extent: tuple[int, int]
    stride_px: int = 1

    @property
    def source(self) -> Source:
        """The first of the sources."""
        return self.sources[0]

    @property
    def is_slide(self) -> bool:
        """Are the frames tiles of a total pixel matrix?"""
        return _is_slide(self.source)

    @property
    def has_place(self) -> bool:
        """Is it known where the frames are, in the patient or on the slide?"""
        return self.is_slide or bool(self.numbers) or _is_slice(self.source)

    @property
    def keys(self) -> tuple[Key, ...]:
        """What tells each frame from the others in the object made; see `key_of`."""
        if self.is_slide:
            return tuple((row + 1, column + 1) for _, row, column in self.cuts)
        if self.numbers:
            # highdicom is shown the wanted frames of a source alone, so it counts them from 1.
            return tuple((self.source.sop_instance_uid, index + 1) for index in range(len(self.numbers)))
        return tuple((source.sop_instance_uid, 0) for source in self.sources)

    def frame(self, values: npt.NDArray[Number], index: int) -> npt.NDArray[Number]:
        """Return a frame of an array (planes, rows, columns): a view, or a copy with zeros past the edge."""
        plane, row, column = self.cuts[index]
        frame = values[plane, row : row + self.shape[0], column : column + self.shape[1]]
        missing = [(0, full - part) for full, part in zip(self.shape, frame.shape, strict=True)]
        return frame if frame.shape == self.shape else np.pad(frame, missing)

    def frames(self, values: npt.NDArray[Number]) -> Iterator[npt.NDArray[Number]]:
        """Yield every frame of an array, as `frame` does."""
        return (self.frame(values, index) for index in range(len(self.cuts)))

    def stack(self, values: npt.NDArray[Number]) -> npt.NDArray[Number]:
        """Return every frame of an array, (frames, rows, columns): the array itself where that is it."""
        is_same = not self.is_slide and [plane for plane, _, _ in self.cuts] == list(range(len(values)))
        return values if is_same else np.stack(list(self.frames(values)))

    def find(self, plane: int, row: float, column: float) -> int | None:
        """Return the frame, from 0, that has this element of an array; None where none of this grid does."""
        for index, (number, top, left) in enumerate(self.cuts):
            if number == plane and 0 <= row - top < self.shape[0] and 0 <= column - left < self.shape[1]:
                return index
        return None


def make_grids(
    result: Result, frames: Sequence[Frame], extent: tuple[int, int], stride_px: int
) -> Iterator[Grid]:
    """Yield the grids of an array over these pictures, each of `extent` rows and columns: for an object each.

    A series of slices is one grid; what has frames of its own, or no place in the patient, is one by itself.
    There is none over slices, frames or slides that are in no frame of reference. Raises GeometryError where
    the array does not have the size of its pictures.
    """
    source_by_uid = {source.sop_instance_uid: source for source in result.sources}
    planes_by_key: dict[str, list[int]] = defaultdict(list)
    for plane, frame in enumerate(frames):
        is_slice = _is_slice(source_by_uid[frame.sop_instance_uid])
        planes_by_key["series" if is_slice else frame.sop_instance_uid].append(plane)
    for planes in planes_by_key.values():
        sources = tuple(source_by_uid[frames[plane].sop_instance_uid] for plane in planes)
        if _is_lost(sources[0]):
            continue
        if _is_slide(sources[0]):
            yield _slide_grid(sources[0], planes[0], extent, stride_px)
        elif _is_multiframe(sources[0]):
            numbers = tuple(frames[plane].frame_number or 1 for plane in planes)
            yield _plane_grid(sources[:1], numbers, planes, extent)
        else:
            yield _plane_grid(sources, (), planes, extent)


def _plane_grid(
    sources: tuple[Source, ...], numbers: tuple[int, ...], planes: Sequence[int], extent: tuple[int, int]
) -> Grid:
    for source in sources:
        expected = source.number("Rows"), source.number("Columns")
        if extent != expected:
            raise GeometryError(source.sop_instance_uid, f"a plane of {extent}, expected {expected}")
    return Grid(sources, numbers, tuple((plane, 0, 0) for plane in planes), extent, extent)


def _slide_grid(source: Source, plane: int, extent: tuple[int, int], stride_px: int) -> Grid:
    matrix = source.number("TotalPixelMatrixRows"), source.number("TotalPixelMatrixColumns")
    # What is left over at the far edges may have an element of its own, or none.
    if any(abs(full - part * stride_px) >= stride_px for full, part in zip(matrix, extent, strict=True)):
        reason = f"a plane of {extent} at a stride of {stride_px}, expected {matrix}"
        raise GeometryError(source.sop_instance_uid, reason)
    tile = max(1, source.number("Rows")), max(1, source.number("Columns"))
    shape = min(tile[0], extent[0]), min(tile[1], extent[1])
    corners = product(range(0, extent[0], shape[0]), range(0, extent[1], shape[1]))
    return Grid((source,), (), tuple((plane, *corner) for corner in corners), shape, extent, stride_px)


def _is_slide(source: Source) -> bool:
    return source.number("TotalPixelMatrixRows") > 0


def _is_multiframe(source: Source) -> bool:
    return "SharedFunctionalGroupsSequence" in source.header


def _is_slice(source: Source) -> bool:
    return "ImagePositionPatient" in source.header


def _is_lost(source: Source) -> bool:
    """Return whether a source that should have a place has none; a radiograph needs none."""
    if _is_slide(source):
        keywords = [
            "ImageOrientationSlide",
            "TotalPixelMatrixOriginSequence",
            "SharedFunctionalGroupsSequence",
        ]
    elif not _is_slice(source) and not _is_multiframe(source):
        return False
    else:
        keywords = []
    return not all(source.header.get(one) for one in ["FrameOfReferenceUID", *keywords])
