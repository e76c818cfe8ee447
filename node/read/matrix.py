"""The total pixel matrix of one level of a slide: any part of it, from the tiles it is stored in."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Protocol

import numpy as np
import numpy.typing as npt

from node.domain.slide import SlideLevel
from node.errors import PixelError
from node.read.tile_isolation import TileError
from node.shrink import shrink

Colors = npt.NDArray[np.uint8]
Corners = npt.NDArray[np.int64]
Corner = tuple[int, int]
"""First column and first row of a part or a tile in the matrix, from 0; they may lie outside of it."""

WHITE = 255
MAX_REGION_PIXELS = 200_000_000
TILES_AT_ONCE = 64
"""So many are decoded before they are laid: a large part must not be held twice."""

CACHE_BYTES = 48 << 20
"""For tiles of which only a part was wanted: two rows of them across a slide of 30 000 pixels."""


class Matrix(Protocol):
    """One level of an open slide."""

    level: SlideLevel

    def regions(self, corners: Sequence[Corner], columns: int, rows: int, *, factor: int = 1) -> list[Colors]:
        """Return for each corner the part (rows, columns, 3) in RGB, white where nothing is stored.

        By a factor that divides both sides they come smaller, each pixel the mean of factor × factor.
        """
        ...


class TiledMatrix:
    """A level, each frame at its corner; of several at one place the first counts; safe in threads."""

    def __init__(
        self, level: SlideLevel, corners: Corners, decode: Callable[[Sequence[int], int], list[Colors]]
    ) -> None:
        """Take (frames, 2) corners, and what gives the tiles of some frames (from 0), smaller by a factor."""
        self.level = level
        self._corners, self._decode = corners, decode
        self._frame_by_cell = _frame_by_cell(level, corners)
        self._cache = _Cache(CACHE_BYTES)

    @property
    def frames(self) -> int:
        """How many frames have a place."""
        return len(self._corners)

    def regions(self, corners: Sequence[Corner], columns: int, rows: int, *, factor: int = 1) -> list[Colors]:
        """Return the parts; raises PixelError with the place for a tile that does not decode."""
        if not 0 < columns * rows * len(corners) <= MAX_REGION_PIXELS:
            raise ValueError(f"{len(corners)} parts of {columns} × {rows} pixels")
        users: dict[int, list[int]] = {}
        for index, corner in enumerate(corners):
            for frame in self._frames_in(corner, columns, rows):
                users.setdefault(frame, []).append(index)
        # Backwards: where tiles overlap the first one ends on top.
        frames = sorted(users, reverse=True)
        if exact := self._exact(corners, columns, rows, users):
            return self._new_tiles(exact, factor)
        pictures = [np.full((rows, columns, 3), WHITE, np.uint8) for _ in corners]
        for start in range(0, len(frames), TILES_AT_ONCE):
            part = frames[start : start + TILES_AT_ONCE]
            for frame, tile in zip(part, self._tiles(part), strict=True):
                for index in users[frame]:
                    self._lay(tile, frame, pictures[index], corners[index])
        return [shrink(picture, factor) for picture in pictures]

    def place(self, frame: int) -> str:
        """Return in words which frame it is (from 0), and where."""
        left, top = self._corners[frame].tolist()
        return f"frame {frame + 1} of {len(self._corners)}, the tile at column {left} and row {top}"

    def _exact(
        self, corners: Sequence[Corner], columns: int, rows: int, users: dict[int, list[int]]
    ) -> list[int]:
        """Return the frames where each part is just one of them; nothing where not."""
        level = self.level
        if (columns, rows) != (level.tile_columns, level.tile_rows) or len(users) != len(corners):
            return []
        frame_by_index = {indices[0]: frame for frame, indices in users.items() if len(indices) == 1}
        for index, (left, top) in enumerate(corners):
            is_inside = left + columns <= level.columns and top + rows <= level.rows
            frame = frame_by_index.get(index)
            if frame is None or not is_inside or tuple(self._corners[frame].tolist()) != (left, top):
                return []
        return [frame_by_index[index] for index in range(len(corners))]

    def _frames_in(self, corner: Corner, columns: int, rows: int) -> list[int]:
        """Return the frames that meet a part within the matrix."""
        level = self.level
        left, top = max(corner[0], 0), max(corner[1], 0)
        right, bottom = min(corner[0] + columns, level.columns), min(corner[1] + rows, level.rows)
        if left >= right or top >= bottom:
            return []
        if self._frame_by_cell is not None:
            cells = self._frame_by_cell[
                top // level.tile_rows : -(-bottom // level.tile_rows),
                left // level.tile_columns : -(-right // level.tile_columns),
            ]
            return [frame for frame in cells.ravel().tolist() if frame >= 0]
        lefts, tops = self._corners.T
        meets = (lefts < right) & (lefts + level.tile_columns > left)
        meets &= (tops < bottom) & (tops + level.tile_rows > top)
        return list(np.flatnonzero(meets).tolist())

    def _tiles(self, frames: Sequence[int]) -> list[Colors]:
        """Return tiles of which parts are wanted: from the cache, and for it."""
        tiles = {frame: tile for frame in frames if (tile := self._cache.get(frame)) is not None}
        missing = [frame for frame in frames if frame not in tiles]
        for frame, tile in zip(missing, self._new_tiles(missing), strict=True):
            tiles[frame] = tile
            self._cache.put(frame, tile)
        return [tiles[frame] for frame in frames]

    def _new_tiles(self, frames: Sequence[int], factor: int = 1) -> list[Colors]:
        try:
            return self._decode(frames, factor)
        except TileError as error:
            raise PixelError(
                self.level.sop_instance_uid, f"{self.place(frames[error.index])}: {error}"
            ) from error

    def _lay(self, tile: Colors, frame: int, picture: Colors, corner: Corner) -> None:
        """Copy what a tile has of a picture; what reaches beyond the matrix is padding and left out."""
        left, top = self._corners[frame].tolist()
        rows = _overlap(top, min(top + len(tile), self.level.rows), corner[1], len(picture))
        columns = _overlap(left, min(left + tile.shape[1], self.level.columns), corner[0], picture.shape[1])
        if rows.start < rows.stop and columns.start < columns.stop:
            picture[
                rows.start - corner[1] : rows.stop - corner[1],
                columns.start - corner[0] : columns.stop - corner[0],
            ] = tile[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]


class _Cache:
    """The tiles last used, up to so many bytes; safe in threads."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self._bytes = max_bytes, 0
        self._tiles: OrderedDict[int, Colors] = OrderedDict()
        self._lock = Lock()

    def get(self, frame: int) -> Colors | None:
        with self._lock:
            if frame in self._tiles:
                self._tiles.move_to_end(frame)
            return self._tiles.get(frame)

    def put(self, frame: int, tile: Colors) -> None:
        with self._lock:
            if frame in self._tiles:
                return
            self._tiles[frame] = tile
            self._bytes += tile.nbytes
            while self._bytes > self._max_bytes:
                self._bytes -= self._tiles.popitem(last=False)[1].nbytes


def _overlap(start: int, stop: int, other: int, length: int) -> range:
    return range(max(start, other), min(stop, other + length))


def _frame_by_cell(level: SlideLevel, corners: Corners) -> npt.NDArray[np.int64] | None:
    """Return the frame of each cell of the grid of tiles, -1 for none; None where a tile lies off it."""
    lefts, tops = corners.T
    if (lefts % level.tile_columns).any() or (tops % level.tile_rows).any():
        return None
    cells = np.full(
        (-(-level.rows // level.tile_rows), -(-level.columns // level.tile_columns)), -1, np.int64
    )
    # Backwards, so that the first of several at one place stays.
    cells[(tops // level.tile_rows)[::-1], (lefts // level.tile_columns)[::-1]] = np.arange(len(corners))[
        ::-1
    ]
    return cells
