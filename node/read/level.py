"""A level of a tiled slide as one picture: its tiles, each at its place in the total pixel matrix."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from node.errors import PixelError
from node.read.stored import Layout, StoredFrames

MATRIX_KEYWORDS = ("TotalPixelMatrixRows", "TotalPixelMatrixColumns")
KEYWORDS = (
    *MATRIX_KEYWORDS,
    "DimensionOrganizationType",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)
MAX_MATRIX_PIXELS, MAX_TILES = 64_000_000, 20_000
"""Larger levels would take longer than a picture of them is worth; slides have smaller ones for that."""

FULL_LONG_SIDE_PX = 1024
"""A level is reduced by whole numbers as long as its longer side keeps this many pixels."""

Colors = npt.NDArray[np.uint8]
Corner = tuple[int, int]
"""First row and first column of a tile in the total pixel matrix, from 0."""


@dataclass(frozen=True, slots=True)
class Level:
    """The size of the total pixel matrix, and of its tiles."""

    uid: str
    rows: int
    columns: int
    tile_rows: int
    tile_columns: int

    @property
    def down(self) -> int:
        """How many tiles lie one below the other."""
        return -(-self.rows // self.tile_rows)

    @property
    def across(self) -> int:
        """How many tiles lie side by side."""
        return -(-self.columns // self.tile_columns)

    @property
    def reduction(self) -> int:
        """How many pixels, along rows and columns, become one of the picture."""
        return max(1, max(self.rows, self.columns) // FULL_LONG_SIDE_PX)


class Canvas:
    """The picture of a level, which fills as tiles are laid on it; white where none was."""

    def __init__(self, level: Level) -> None:
        self._level, self._step = level, level.reduction
        shape = -(-level.rows // self._step), -(-level.columns // self._step)
        self._sums = np.zeros((*shape, 3), np.uint32)
        self._counts = np.zeros((*shape, 1), np.uint32)

    def lay(self, tile: Colors, corner: Corner) -> None:
        """Add a tile; what reaches beyond the matrix is padding and left out."""
        row, column = corner
        inside = tile[: self._level.rows - row, : self._level.columns - column].astype(np.uint32)
        (first_row, rows), (first_column, columns) = (
            self._bins(row, len(inside)),
            self._bins(column, inside.shape[1]),
        )
        place = (slice(first_row, first_row + len(rows)), slice(first_column, first_column + len(columns)))
        self._sums[place] += np.add.reduceat(np.add.reduceat(inside, rows, axis=0), columns, axis=1)
        counts = np.outer(np.diff([*rows, len(inside)]), np.diff([*columns, inside.shape[1]]))
        self._counts[place] += counts[..., None].astype(np.uint32)

    def picture(self) -> npt.NDArray[np.float32]:
        """Return what was laid so far, (rows, columns, 3) in 0–1."""
        mean = self._sums / np.maximum(self._counts, 1) / np.float32(255)
        return np.where(self._counts > 0, mean, 1).astype(np.float32)

    def _bins(self, start: int, length: int) -> tuple[int, npt.NDArray[np.intp]]:
        """Return the first pixel of the picture that is met, and where in the tile each one begins."""
        first = start // self._step
        begins = np.arange(first, (start + length - 1) // self._step + 1) * self._step - start
        return first, np.maximum(begins, 0)


def read_level(uid: str, dataset: Dataset, frames: StoredFrames) -> tuple[npt.NDArray[np.float32], int]:
    """Return a level as a picture (rows, columns, 3) in 0–1, and by how much it is reduced.

    The tiles of TILED_FULL run row by row (PS3.3 C.7.6.17.3), others lie where they say. Some writers state
    neither: theirs are tried row by row and column by column, and taken for what fits better where tiles
    meet. That is an assumption, not knowledge; the standard has no such slides. Of several optical paths or
    focal planes the first is shown. Raises PixelError for a level that is too large, has too few tiles, or
    whose tiles lie outside it.
    """
    level = _level(uid, dataset, frames.layout)
    if corners := _stated_corners(level, dataset, frames.layout):
        canvas = Canvas(level)
        for tile, corner in zip(frames.all_colors(), corners, strict=False):
            if corner is not None:
                canvas.lay(tile, corner)
        return canvas.picture(), level.reduction
    return _read_unordered(level, frames), level.reduction


def _level(uid: str, dataset: Dataset, layout: Layout) -> Level:
    rows, columns = (int(dataset[keyword].value) for keyword in MATRIX_KEYWORDS)
    if not 0 < rows * columns <= MAX_MATRIX_PIXELS:
        raise PixelError(
            uid, f"a level of {rows} × {columns} pixels, expected 1 to {MAX_MATRIX_PIXELS} in all"
        )
    level = Level(uid, rows, columns, layout.rows, layout.columns)
    if level.down * level.across > MAX_TILES or layout.frames > MAX_TILES:
        raise PixelError(uid, f"a level in {layout.frames} frames, expected at most {MAX_TILES}")
    return level


def _stated_corners(level: Level, dataset: Dataset, layout: Layout) -> Sequence[Corner | None]:
    """Return where each frame belongs, None for a second one at the same place; nothing where none says."""
    groups = dataset.get("PerFrameFunctionalGroupsSequence") or ()
    if str(dataset.get("DimensionOrganizationType", "")).strip() == "TILED_FULL":
        _need_all(level, layout)
        return list(_row_by_row(level))
    if not groups or not groups[0].get("PlanePositionSlideSequence"):
        return ()
    seen: set[Corner] = set()
    corners: list[Corner | None] = []
    for group in groups[: layout.frames]:
        corner = _corner(level, group.PlanePositionSlideSequence[0])
        corners.append(None if corner in seen else corner)
        seen.add(corner)
    return corners


def _corner(level: Level, position: Dataset) -> Corner:
    row = int(position.RowPositionInTotalImagePixelMatrix) - 1
    column = int(position.ColumnPositionInTotalImagePixelMatrix) - 1
    if not (0 <= row < level.rows and 0 <= column < level.columns):
        found = f"row {row + 1} and column {column + 1}"
        raise PixelError(level.uid, f"a tile at {found} of {level.rows} × {level.columns} pixels")
    return row, column


def _need_all(level: Level, layout: Layout) -> None:
    if layout.frames < level.down * level.across:
        raise PixelError(level.uid, f"{layout.frames} tiles, expected {level.down} × {level.across}")


def _row_by_row(level: Level) -> Iterator[Corner]:
    return (
        (row, column)
        for row in range(0, level.rows, level.tile_rows)
        for column in range(0, level.columns, level.tile_columns)
    )


def _column_by_column(level: Level) -> Iterator[Corner]:
    return (
        (row, column)
        for column in range(0, level.columns, level.tile_columns)
        for row in range(0, level.rows, level.tile_rows)
    )


def _read_unordered(level: Level, frames: StoredFrames) -> npt.NDArray[np.float32]:
    """Return the picture in that order of tiles whose edges differ less from those they meet."""
    _need_all(level, frames.layout)
    orders = [list(_row_by_row(level)), list(_column_by_column(level))]
    canvases = [Canvas(level) for _ in orders]
    edges = []
    for tile, *corners in zip(frames.all_colors(), *orders, strict=False):
        edges.append((tile[0], tile[-1], tile[:, 0], tile[:, -1]))
        for canvas, corner in zip(canvases, corners, strict=True):
            canvas.lay(tile, corner)
    gaps = [_gap(level, dict(zip(corners, edges, strict=True))) for corners in orders]
    return canvases[gaps.index(min(gaps))].picture()


def _gap(level: Level, edges: dict[Corner, tuple[Colors, ...]]) -> float:
    """Return the mean difference between edges that meet; edges are (top, bottom, left, right)."""
    gaps = [0.0]
    for (row, column), (_, bottom, _, right) in edges.items():
        for neighbor, mine, theirs in (
            ((row, column + level.tile_columns), right, 2),
            ((row + level.tile_rows, column), bottom, 0),
        ):
            if neighbor in edges:
                other = edges[neighbor][theirs].astype(np.int16)
                gaps.append(float(np.abs(mine.astype(np.int16) - other).mean()))
    return sum(gaps) / len(gaps)
