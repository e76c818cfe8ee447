"""JPEG tiles of slides are decoded in processes of their own, into memory that those share with the node.

As for all frames (`isolation.py`), bytes from anywhere must not end the node. A tile comes back through that
memory and not through a socket, and several are asked for at a time: at least three times as fast, and about
three quarters of what decoding in this process would give.
"""

import atexit
import fcntl
import mmap
import os
from collections.abc import Sequence
from pathlib import Path
from queue import LifoQueue
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from node.read.child import ChildError, ChildProcess

PROGRAM = Path(__file__).with_name("tile_decoder.py")
ROOM_BYTES = 32 << 20
"""What a process has for the tiles of one request; of it only what was used once is in memory."""

TIMEOUT_S = 60.0
DECODERS = min(8, os.cpu_count() or 1)

Colors = npt.NDArray[np.uint8]


class TileError(ValueError):
    """A tile that does not decode: which one of those asked for (from 0), and why."""

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(reason)
        self.index = index


class TileDecoder:
    """A decoder of JPEG tiles in another process, started by the first call and again after it ended."""

    def __init__(self, timeout_s: float = TIMEOUT_S) -> None:
        """Give each request `timeout_s` seconds."""
        self._lock = Lock()
        self._child = ChildProcess(PROGRAM, timeout_s, on_start=self._make_room)
        self._room: Colors = np.empty(0, np.uint8)

    def decode(self, streams: Sequence[bytes], rows: int, columns: int, factor: int = 1) -> list[Colors]:
        """Return the tiles (rows, columns, 3) in RGB; raises TileError for the first that does not decode.

        By a factor that divides both sides they come smaller, each pixel the mean of factor × factor.
        """
        lengths = np.array([len(stream) for stream in streams], "<u4")
        job = {"count": len(streams), "rows": rows, "columns": columns, "factor": factor}
        with self._lock:
            try:
                answer, _ = self._child.request(job, b"".join((lengths.tobytes(), *streams)))
                return self._tiles(answer, len(streams), rows // factor, columns // factor)
            except ChildError as error:
                if len(streams) == 1:
                    raise TileError(0, str(error)) from error
        # Which of them ended the process is found by asking for one after the other.
        return [self._decode_one(index, one, rows, columns, factor) for index, one in enumerate(streams)]

    def close(self) -> None:
        """End the process; the next call starts another."""
        self._child.close()

    def _decode_one(self, index: int, stream: bytes, rows: int, columns: int, factor: int) -> Colors:
        try:
            return self.decode([stream], rows, columns, factor)[0]
        except TileError as error:
            raise TileError(index, str(error)) from error

    def _tiles(self, answer: Any, count: int, rows: int, columns: int) -> list[Colors]:
        match answer:
            case []:
                room = self._room[: count * rows * columns * 3]
                # Copied while nobody else may use the room.
                return [tile.copy() for tile in room.reshape(-1, rows, columns, 3)]
            case [int(index), str(reason)] if 0 <= index < count:
                raise TileError(index, reason)
        raise TileError(0, "the decoder's answer makes no sense")

    def _make_room(self) -> list[int]:
        """Return the file of the memory that is shared with a new process."""
        room = os.memfd_create("tiles", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(room, ROOM_BYTES)
            # Whoever reads beyond the end of a file that was cut is killed: a decoder must not do that to us.
            fcntl.fcntl(room, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
            self._room = np.frombuffer(mmap.mmap(room, ROOM_BYTES), np.uint8)
        except OSError:
            os.close(room)
            raise
        return [room]


class TileDecoders:
    """Several such processes: as many requests are served at a time as there are threads that ask."""

    def __init__(self, size: int = DECODERS) -> None:
        """Start at most `size` processes, each when it is needed."""
        self._decoders = [TileDecoder() for _ in range(size)]
        self._idle: LifoQueue[TileDecoder] = LifoQueue()
        for decoder in reversed(self._decoders):
            self._idle.put(decoder)

    def decode(self, streams: Sequence[bytes], rows: int, columns: int, factor: int = 1) -> list[Colors]:
        """Return the tiles as `TileDecoder` does, once one of them is free; any number of streams."""
        at_once = max(1, ROOM_BYTES // (rows * columns * 3))
        tiles: list[Colors] = []
        for start in range(0, len(streams), at_once):
            try:
                tiles += self._decode(streams[start : start + at_once], rows, columns, factor)
            except TileError as error:
                raise TileError(start + error.index, str(error)) from error
        return tiles

    def close(self) -> None:
        """End the processes; the next call starts one again."""
        for decoder in self._decoders:
            decoder.close()

    def _decode(self, streams: Sequence[bytes], rows: int, columns: int, factor: int) -> list[Colors]:
        decoder = self._idle.get()
        try:
            return decoder.decode(streams, rows, columns, factor)
        finally:
            self._idle.put(decoder)


# Start with the first tile of the first slide, and end with the node.
TILE_DECODERS = TileDecoders()
atexit.register(TILE_DECODERS.close)
