"""The program that decodes JPEG tiles of slides, in a process of its own, into memory shared with the node.

Run by path, so that it needs next to nothing of the node and starts fast; `tile_isolation.py` talks to it.
"""

import mmap
import resource
import signal
import socket
import sys
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import simplejpeg

from node.read.messages import receive, send
from node.shrink import shrink

MAX_MEMORY_BYTES = 2 << 30
MAX_REASON_LENGTH = 1000
COLOR = frozenset({"RGB", "YCbCr"})

Bytes = npt.NDArray[np.uint8]


def serve(connection: socket.socket, room: Bytes) -> None:
    """Decode the tiles of each job into the room; answer with the first that fails, and why, or with [].

    The payload is the lengths of the streams, four bytes each, and the streams. Pixels of the tiles are means
    of factor × factor.
    """
    while True:
        try:
            job, payload = receive(connection)
        except EOFError:
            return
        send(connection, _decode_all(payload, room, **job))


def _decode_all(payload: Bytes, room: Bytes, count: int, rows: int, columns: int, factor: int) -> list[Any]:
    ends = np.cumsum(payload[: 4 * count].view("<u4"), dtype=np.int64) + 4 * count
    size = (rows // factor) * (columns // factor) * 3
    whole = np.empty(rows * columns * 3 if factor > 1 else 0, np.uint8)
    for number, (start, end) in enumerate(pairwise([4 * count, *ends.tolist()])):
        place = room[number * size : (number + 1) * size]
        reason = _decode(payload[start:end].tobytes(), rows, columns, whole if factor > 1 else place)
        if reason:
            return [number, reason[:MAX_REASON_LENGTH]]
        if factor > 1:
            place[:] = shrink(whole.reshape(rows, columns, 3), factor).ravel()
    return []


def _decode(stream: bytes, rows: int, columns: int, place: Bytes) -> str:
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(stream)
        if (height, width) != (rows, columns):
            return f"the compressed tile is {height} × {width} pixels, the data set says {rows} × {columns}"
        if colors not in COLOR:
            return f"the compressed tile is in {colors}, expected color"
        # Strict: what the library only warns of leaves gray where pixels were lost.
        simplejpeg.decode_jpeg(stream, "RGB", buffer=place.data, strict=True)
    except BaseException as error:  # noqa: BLE001 - the edge: whatever it is, the node gets the reason
        return str(error) or type(error).__name__
    return ""


def main() -> None:
    """Serve the socket whose number is the first argument in the memory whose number is the second."""
    # An interrupted node closes the socket, which ends this process too.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A core file would hold a patient's image.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    room = np.frombuffer(mmap.mmap(int(sys.argv[2]), 0), np.uint8)
    serve(socket.socket(fileno=int(sys.argv[1])), room)


if __name__ == "__main__":
    main()
