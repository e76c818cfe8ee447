"""Where each frame of a tiled instance belongs: as it says, else as its pixels tell."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from node.domain.slide import SlideLevel
from node.errors import DatasetError, PixelError
from node.read.dataset import LIBRARY_ERRORS

Colors = npt.NDArray[np.uint8]
Corners = npt.NDArray[np.int64]
Decode = Callable[[Sequence[int]], list[Colors]]

ANCHORS = 48
"""Tiles that are compared with their neighbors to learn the order."""

CLEARLY = 0.7
"""An order is right where its gaps are at most this share of the other's."""

SMOOTH, TORN = 1.3, 4.0
"""Gaps between tiles in steps between pixels: up to the first nothing is torn, from the second on all is."""


def stated_corners(level: SlideLevel, header: Dataset, frames: int) -> Corners | None:
    """Return the (frames, 2) corners as the header says, left and top from 0; None where it says nothing.

    The frames of TILED_FULL run row by row, of the first focal plane and optical path first (PS3.3
    C.7.6.17.3); others have positions of their own. Raises PixelError for one outside of the matrix or for
    too few frames, DatasetError for a position that cannot be read.
    """
    if str(header.get("DimensionOrganizationType", "")).strip() == "TILED_FULL":
        require_all(level, frames)
        return row_by_row(level)
    groups = header.get("PerFrameFunctionalGroupsSequence") or ()
    if not groups or not groups[0].get("PlanePositionSlideSequence"):
        return None
    return _positions(level, groups, frames)


def learn_order(level: SlideLevel, frames: int, decode: Decode) -> tuple[Corners, str]:
    """Return the corners of frames that bear no position, and how they were found, in words.

    Row by row and column by column are tried: in the right order a tile goes on where the one beside it ends.
    That is an assumption, the standard has no such slides. Raises PixelError where neither order fits.
    """
    require_all(level, frames)
    corners = row_by_row(level)
    down, across = shape(level)
    if min(down, across) == 1:
        return corners, ""
    if min(level.tile_rows, level.tile_columns) < 2:
        raise PixelError(
            level.sop_instance_uid, f"{frames} tiles without positions and too thin to be matched"
        )
    gaps = _gaps(down, across, decode)
    names = ("row by row", "column by column")
    best = int(np.argmin(gaps))
    if max(gaps) <= SMOOTH:
        return corners, "The tiles have no positions and look alike in any order; they were taken row by row."
    if gaps[best] > CLEARLY * gaps[1 - best] or gaps[best] > TORN:
        raise PixelError(
            level.sop_instance_uid,
            f"{frames} tiles have no positions, and their pixels do not tell the order",
        )
    note = f"The tiles have no positions; their edges fit {names[best]}, and so they were laid."
    return (column_by_column(level) if best else corners), note


def require_all(level: SlideLevel, frames: int) -> None:
    """Raise PixelError where there are fewer frames than places for them."""
    down, across = shape(level)
    if frames < down * across:
        missing = row_by_row(level)[frames].tolist()
        raise PixelError(
            level.sop_instance_uid,
            f"{frames} tiles, expected {down} × {across}: the first that is missing is "
            f"at column {missing[0]} and row {missing[1]}",
        )


def shape(level: SlideLevel) -> tuple[int, int]:
    """Return how many tiles lie one below the other, and how many side by side."""
    return -(-level.rows // level.tile_rows), -(-level.columns // level.tile_columns)


def row_by_row(level: SlideLevel) -> Corners:
    """Return the corners of all tiles, those of the first row first."""
    tops, lefts = (axis.ravel() for axis in _axes(level))
    return np.stack([lefts, tops], axis=1)


def column_by_column(level: SlideLevel) -> Corners:
    """Return the corners of all tiles, those of the first column first."""
    tops, lefts = (axis.T.ravel() for axis in _axes(level))
    return np.stack([lefts, tops], axis=1)


def _axes(level: SlideLevel) -> list[Corners]:
    tops = np.arange(0, level.rows, level.tile_rows, dtype=np.int64)
    lefts = np.arange(0, level.columns, level.tile_columns, dtype=np.int64)
    return list(np.meshgrid(tops, lefts, indexing="ij"))


def _positions(level: SlideLevel, groups: Sequence[Dataset], frames: int) -> Corners:
    uid = level.sop_instance_uid
    if len(groups) != frames:
        raise PixelError(uid, f"{frames} frames of which {len(groups)} are described")
    corners = np.empty((frames, 2), np.int64)
    for number, group in enumerate(groups):
        try:
            position = group.PlanePositionSlideSequence[0]
            corners[number] = (
                int(position.ColumnPositionInTotalImagePixelMatrix) - 1,
                int(position.RowPositionInTotalImagePixelMatrix) - 1,
            )
        except LIBRARY_ERRORS as error:
            raise DatasetError(
                uid, f"frame {number + 1} of {frames} has no position that can be read"
            ) from error
    outside = np.flatnonzero(((corners < 0) | (corners >= [level.columns, level.rows])).any(axis=1))
    if len(outside):
        column, row = corners[outside[0]].tolist()
        raise PixelError(
            uid,
            f"frame {outside[0] + 1} of {frames} lies at column {column} and row {row}, outside of "
            f"{level.columns} × {level.rows} pixels",
        )
    return corners


def _gaps(down: int, across: int, decode: Decode) -> tuple[float, float]:
    """Return how much edges that meet differ in either order, in steps between pixels beside the edges."""
    pairs_by_order = [_pairs(down, across, is_by_column=one) for one in (False, True)]
    numbers = sorted(
        {number for pairs in pairs_by_order for one, other, _ in pairs for number in (one, other)}
    )
    tiles = dict(zip(numbers, (tile.astype(np.int16) for tile in decode(numbers)), strict=True))
    gaps = []
    for pairs in pairs_by_order:
        gap, step = 0.0, 1e-3
        for one, other, is_beside in pairs:
            first, second = (tiles[k].swapaxes(0, 1) if is_beside else tiles[k] for k in (one, other))
            gap += float(np.abs(first[-1] - second[0]).mean())
            step += float(np.abs(first[-1] - first[-2]).mean() + np.abs(second[0] - second[1]).mean()) / 2
        gaps.append(gap / step)
    return gaps[0], gaps[1]


def _pairs(down: int, across: int, *, is_by_column: bool) -> list[tuple[int, int, bool]]:
    """Return frames that would be neighbors: one, the other, and whether they lie side by side."""
    run = down if is_by_column else across
    total = down * across
    anchors = np.unique(np.linspace(0, total - 1, ANCHORS).astype(int)).tolist()
    within = [(one, one + 1, not is_by_column) for one in anchors if one % run < run - 1]
    between = [(one, one + run, is_by_column) for one in anchors if one + run < total]
    return within + between
