"""The levels of a slide that came as VL Whole Slide Microscopy instances (PS3.3 A.32.8)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.uid import VLWholeSlideMicroscopyImageStorage

from node.domain.slide import SlideLevel
from node.domain.study import Series
from node.errors import DatasetError, PixelError
from node.read.dataset import LIBRARY_ERRORS, dataset_faults
from node.read.matrix import TiledMatrix
from node.read.slide_frames import read_tiled_header
from node.read.slide_order import learn_order, stated_corners
from node.read.slide_parts import LevelFrames, Part
from node.read.tile_isolation import TileError

Colors = npt.NDArray[np.uint8]

APART = frozenset({"LABEL", "OVERVIEW"})
"""Third value of Image Type: pictures of the glass, which may name the patient (PS3.3 C.8.12.4.1.1)."""

MAX_SIDE_PX = 2_000_000
MAX_FRAMES = 4_000_000


@dataclass(frozen=True, slots=True)
class DicomLevel:
    """A level as it was opened: its matrix, its first header, what was irregular, its files."""

    matrix: TiledMatrix
    header: Dataset
    notes: tuple[str, ...]
    close: Callable[[], None]


def read_parts(series: Series) -> tuple[list[list[Part]], list[str]]:
    """Return the instances that show the slide, those of one concatenation together, and what was left out.

    Raises DatasetError where none does, or a part of a concatenation is missing.
    """
    groups: dict[str, list[Part]] = {}
    others = 0
    for instance in series.instances:
        if instance.sop_class_uid != VLWholeSlideMicroscopyImageStorage:
            others += 1
            continue
        header, position = read_tiled_header(instance)
        with dataset_faults(instance.sop_instance_uid):
            if not _is_apart(header):
                first = int(header.get("ConcatenationFrameOffsetNumber") or 0)
                key = str(header.get("ConcatenationUID") or instance.sop_instance_uid)
                groups.setdefault(key, []).append(Part(instance, header, position, first))
    if not groups:
        raise DatasetError(series.series_instance_uid, "none of its instances is a level of a slide")
    notes = [f"{others} objects of another kind were left out."] if others else []
    return [_in_order(parts) for parts in groups.values()], notes


def open_level(parts: Sequence[Part], downsample: float) -> DicomLevel:
    """Return a level, its frames found and placed; raises PixelError, with the place of a damaged frame."""
    frames = LevelFrames(parts)
    try:
        rows, columns = matrix_size(parts[0])
        tile_rows, tile_columns = frames.layout_rows_columns
        level = SlideLevel(parts[0].uid, columns, rows, downsample, tile_columns, tile_rows)
        corners, note = _corners(level, frames)
        matrix = TiledMatrix(level, corners, frames.decode)
        _require_whole(matrix, frames)
        notes = (frames.note, note, _left_over(parts[0], len(corners), frames.total))
        return DicomLevel(matrix, parts[0].header, tuple(one for one in notes if one), frames.close)
    except BaseException:
        frames.close()
        raise


def matrix_size(part: Part) -> tuple[int, int]:
    """Return rows and columns of the total pixel matrix; raises PixelError for one without pixels."""
    with dataset_faults(part.uid):
        rows, columns = (int(part.header.get(f"TotalPixelMatrix{side}") or 0) for side in ("Rows", "Columns"))
        tile_rows, tile_columns = int(part.header.get("Rows") or 0), int(part.header.get("Columns") or 0)
    if not 0 < rows <= MAX_SIDE_PX or not 0 < columns <= MAX_SIDE_PX:
        raise PixelError(part.uid, f"a level of {rows} × {columns} pixels")
    if tile_rows < 1 or tile_columns < 1:
        raise PixelError(part.uid, f"tiles of {tile_rows} × {tile_columns} pixels")
    if -(-rows // tile_rows) * -(-columns // tile_columns) > MAX_FRAMES or part.frames > MAX_FRAMES:
        raise PixelError(
            part.uid, f"{part.frames} frames of {tile_rows} × {tile_columns} pixels, at most {MAX_FRAMES}"
        )
    return rows, columns


def _is_apart(header: Dataset) -> bool:
    """Return whether an instance is the label or the overview of the glass."""
    parts = [str(one) for one in header.get("ImageType") or ()]
    if len(parts) > 2:
        return parts[2] in APART
    return str(header.get("SpecimenLabelInImage", "")).strip() == "YES"


def _in_order(parts: list[Part]) -> list[Part]:
    """Return the parts of one level, of which none may be missing (PS3.3 C.7.6.16.1)."""
    uid = parts[0].uid
    with dataset_faults(uid):
        total = int(parts[0].header.get("InConcatenationTotalNumber") or 0)
        parts = sorted(parts, key=lambda part: part.first)
        numbers = [int(part.header.get("InConcatenationNumber") or 1) for part in parts]
        expected = 0
        for part in parts:
            if part.first != expected:
                raise DatasetError(
                    uid,
                    f"a concatenation in parts {numbers}: frames {expected + 1} to {part.first} are missing",
                )
            expected += part.frames
    if total and len(parts) != total:
        raise DatasetError(uid, f"the concatenation has parts {numbers}, expected 1 to {total}")
    return parts


def _corners(level: SlideLevel, frames: LevelFrames) -> tuple[npt.NDArray[np.int64], str]:
    header = frames.parts[0].header
    if len(frames.parts) == 1 or str(header.get("DimensionOrganizationType", "")).strip() == "TILED_FULL":
        with dataset_faults(level.sop_instance_uid):
            stated = stated_corners(level, header, frames.total)
    else:
        each = [stated_corners(level, part.header, part.frames) for part in frames.parts]
        stated = (
            None
            if any(one is None for one in each)
            else np.concatenate([one for one in each if one is not None])
        )
    if stated is not None:
        return stated, ""
    if frames.fault:
        number, reason = frames.fault
        raise PixelError(level.sop_instance_uid, f"frame {number + 1} of {frames.total}: {reason}")
    try:
        return learn_order(level, frames.total, frames.decode)
    except TileError as error:
        raise PixelError(
            level.sop_instance_uid, f"a tile without position does not decode: {error}"
        ) from error


def _require_whole(matrix: TiledMatrix, frames: LevelFrames) -> None:
    if frames.fault and frames.fault[0] < matrix.frames:
        number, reason = frames.fault
        raise PixelError(matrix.level.sop_instance_uid, f"{matrix.place(number)}: {reason}")


def _left_over(part: Part, used: int, total: int) -> str:
    planes = _number(part.header, "TotalPixelMatrixFocalPlanes")
    paths = _number(part.header, "NumberOfOpticalPaths")
    if planes > 1 or paths > 1:
        return f"Of {planes} focal planes and {paths} optical paths the first was read."
    return f"{total - used} frames beyond the matrix were left out." if total > used else ""


def _number(header: Dataset, keyword: str) -> int:
    try:
        return int(header.get(keyword) or 1)
    except LIBRARY_ERRORS:
        return 1
