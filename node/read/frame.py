"""What a compressed frame says of its own size, before a decoder makes room for it."""

import struct
from collections.abc import Iterator

from pydicom.encaps import get_frame

from node.errors import PixelError

JPEG_START = b"\xff\xd8"
JPEG_2000_START = b"\xff\x4f\xff\x51"
JPEG_2000_BOX = b"\x00\x00\x00\x0cjP  "
# SOF0–SOF15 without DHT, JPG and DAC, and SOF55 of JPEG-LS.
JPEG_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}
HEADER_BYTES = 1 << 16


def check_frame_size(uid: str, encapsulated: bytes, rows: int, columns: int) -> None:
    """Raise PixelError where a frame's own header claims another size than the data set.

    A decoder believes the frame: ten rows in the data set must not become four billion pixels in memory.
    """
    for size in _sizes(encapsulated):
        if size != (rows, columns):
            found, expected = f"{size[0]} × {size[1]}", f"{rows} × {columns}"
            raise PixelError(uid, f"the compressed frame is {found} pixels, the data set says {expected}")


def _sizes(encapsulated: bytes) -> Iterator[tuple[int, int]]:
    frame = get_frame(encapsulated, 0, number_of_frames=1)
    if frame[:2] == JPEG_START:
        yield from _jpeg_sizes(frame)
    elif frame[:8] == JPEG_2000_BOX or frame[:4] == JPEG_2000_START:
        yield from _jpeg_2000_sizes(frame)


def _jpeg_sizes(stream: bytes) -> Iterator[tuple[int, int]]:
    """Give (rows, columns) of each frame header up to the first scan (ISO/IEC 10918-1 B.2.2)."""
    position = 2
    while position + 9 <= len(stream) and stream[position] == 0xFF:
        marker, (length,) = stream[position + 1], struct.unpack_from(">H", stream, position + 2)
        if marker in JPEG_FRAME_MARKERS:
            yield struct.unpack_from(">HH", stream, position + 5)
        if marker == 0xDA:
            return
        position += 1 if marker == 0xFF else 2 + length


def _jpeg_2000_sizes(stream: bytes) -> Iterator[tuple[int, int]]:
    """Give (rows, columns) of the image area in the SIZ segment (ISO/IEC 15444-1 A.5.1)."""
    start = stream.find(JPEG_2000_START, 0, HEADER_BYTES)
    if start >= 0 and len(stream) >= start + 24:
        x_end, y_end, x_start, y_start = struct.unpack_from(">IIII", stream, start + 8)
        yield y_end - y_start, x_end - x_start
