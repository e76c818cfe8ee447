"""Where the frames of a tiled instance lie in its file: found once, then read one by one, by any thread."""

import errno
import os
import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom import dcmread
from pydicom.dataset import FileDataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian

from node.domain.study import Instance
from node.errors import DatasetError, PixelError
from node.read.dataset import DEFER_BYTES, check_bounds, dataset_faults

PIXEL_DATA = b"\xe0\x7f\x10\x00"
ITEM, SEQUENCE_DELIMITER = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
STARTS = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP  ")
"""Of a stream of JPEG and JPEG-LS, of JPEG 2000, and of JPEG 2000 in its file format."""

MAX_FRAGMENTS = 4_000_000
MOST_GROWTH, SMALL_BYTES = 3, 1 << 20
"""A compressed frame has at most so many times the bytes of the pixels in it, and some more."""

Offsets = npt.NDArray[np.int64]


class FileBytes:
    """A file that several threads read at a time, each from where it wants."""

    def __init__(self, path: Path) -> None:
        """Open the file; raises OSError."""
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.size = os.fstat(self._descriptor).st_size

    def read(self, length: int, offset: int) -> bytes:
        """Return so many bytes from there, fewer where the file ends; raises OSError, too, once closed."""
        if self._descriptor < 0:
            raise OSError(errno.EBADF, "it is closed")
        return os.pread(self._descriptor, length, offset)

    def close(self) -> None:
        """Close the file, once no thread reads it any more."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


@dataclass(frozen=True, slots=True, eq=False)
class FrameTable:
    """Where each frame lies: frame n (from 0) is the fragments `firsts[n]` to `firsts[n + 1]`.

    `fault` is the first frame that is not wholly there, or is empty, and what is wrong with it.
    """

    offsets: Offsets
    lengths: Offsets
    firsts: Offsets
    fault: tuple[int, str] | None

    @property
    def frames(self) -> int:
        """How many frames are wholly there."""
        return len(self.firsts) - 1

    def encoded(self, file: FileBytes, number: int) -> bytes:
        """Return the stored bytes of a frame (from 0)."""
        fragments = range(int(self.firsts[number]), int(self.firsts[number + 1]))
        return b"".join(file.read(int(self.lengths[one]), int(self.offsets[one])) for one in fragments)


def read_tiled_header(instance: Instance) -> tuple[FileDataset, int]:
    """Return the data set before its Pixel Data, and where in the file that element begins.

    Raises DatasetError for a file that cannot be read so.
    """
    uid = instance.sop_instance_uid
    with dataset_faults(uid), instance.path.open("rb") as file:
        check_bounds(uid, instance.path)
        header = dcmread(file, stop_before_pixels=True, force=True, defer_size=DEFER_BYTES)
        position = file.tell()
        syntax = UID(header.file_meta.get("TransferSyntaxUID") or instance.transfer_syntax_uid)
        header.file_meta.TransferSyntaxUID = syntax
        if syntax == DeflatedExplicitVRLittleEndian or not syntax.is_little_endian:
            raise DatasetError(
                uid, f"a slide in transfer syntax {syntax.name}, which no slide scanner writes"
            )
    return header, position


def find_frames(
    uid: str, file: FileBytes, header: FileDataset, *, position: int, frame_bytes: int
) -> FrameTable:
    """Return where the frames are; the element begins at `position`, a native frame has `frame_bytes`.

    Raises PixelError where there is no Pixel Data, or its fragments cannot be told apart into frames.
    """
    if file.read(4, position) != PIXEL_DATA:
        raise PixelError(uid, "the file ends before its Pixel Data")
    frames = int(header.get("NumberOfFrames") or 1)
    syntax = header.file_meta.TransferSyntaxUID
    start = position + (8 if syntax == ImplicitVRLittleEndian else 12)
    if not syntax.is_encapsulated:
        return _native_table(file, start, frames, frame_bytes)
    return _encapsulated_table(uid, file, header, start=start, frame_bytes=frame_bytes)


def _native_table(file: FileBytes, start: int, frames: int, frame_bytes: int) -> FrameTable:
    # More frames than the file has bytes are a lie of the header, which must cost no memory.
    whole = max(0, file.size - start) // frame_bytes
    count = min(frames, whole)
    offsets = start + np.arange(count, dtype=np.int64) * frame_bytes
    fault = (whole, f"the file ends after {whole} of {frames} frames") if whole < frames else None
    return FrameTable(offsets, np.full(count, frame_bytes, np.int64), np.arange(count + 1), fault)


def _encapsulated_table(
    uid: str, file: FileBytes, header: FileDataset, *, start: int, frame_bytes: int
) -> FrameTable:
    frames = int(header.get("NumberOfFrames") or 1)
    items, is_cut = _items(uid, file, start)
    if not len(items):
        none = np.zeros(0, np.int64)
        return FrameTable(none, none, np.zeros(1, np.int64), (0, "the file ends before it"))
    table_offset, table_length = items[0].tolist()
    offsets, lengths = items[1:].T
    basic = file.read(table_length, table_offset) if table_length == 4 * frames else b""
    table = _stated_starts(header, basic, frames)
    firsts = _firsts(uid, file, offsets, table=table, frames=frames, is_cut=is_cut)
    sizes = np.diff(np.append(0, np.cumsum(lengths))[firsts])
    return FrameTable(offsets, lengths, firsts, _fault(sizes, frames, frame_bytes))


def _fault(sizes: Offsets, frames: int, frame_bytes: int) -> tuple[int, str] | None:
    """Return the first frame that cannot be one by its number of bytes, and why."""
    odd = np.flatnonzero((sizes == 0) | (sizes > MOST_GROWTH * frame_bytes + SMALL_BYTES))
    if len(odd):
        size = int(sizes[odd[0]])
        return int(odd[0]), f"the frame has {size} bytes" if size else "the frame has no bytes"
    if len(sizes) < frames:
        return len(sizes), f"the file ends after {len(sizes)} of {frames} frames"
    return None


def _items(uid: str, file: FileBytes, position: int) -> tuple[Offsets, bool]:
    """Return (n, 2) offset and length of the items that are whole, and whether the file ends too early."""
    items = array("q")
    is_cut = False
    while len(head := file.read(8, position)) == 8 and head[:4] != SEQUENCE_DELIMITER:
        (length,) = struct.unpack_from("<I", head, 4)
        if head[:4] != ITEM or len(items) > 2 * MAX_FRAGMENTS:
            found = max(0, len(items) // 2 - 1)
            raise PixelError(uid, f"no fragment begins at byte {position}, behind {found} others")
        if is_cut := position + 8 + length > file.size:
            break
        items.extend((position + 8, length))
        position += 8 + length
    return np.array(items, np.int64).reshape(-1, 2), is_cut or len(head) < 8


def _stated_starts(header: FileDataset, basic: bytes, frames: int) -> Offsets | None:
    """Return where the frames begin behind the first item, as a table says; None where none is usable."""
    extended = bytes(header.get("ExtendedOffsetTable") or b"")
    for table, size in ((extended, 8), (basic, 4)):
        if len(table) == size * frames:
            return np.frombuffer(table, f"<u{size}").astype(np.int64)
    return None


def _firsts(
    uid: str, file: FileBytes, offsets: Offsets, *, table: Offsets | None, frames: int, is_cut: bool
) -> Offsets:
    """Return the first fragment of each frame that is wholly there, and one number more."""
    count = len(offsets)
    if count == frames or (is_cut and count < frames and table is None):
        return np.arange(count + 1)
    if table is not None and count:
        # Offsets count from the first item behind the table, its head of 8 bytes included.
        starts = offsets - offsets[0]
        firsts = np.searchsorted(starts, table)
        is_usable = is_cut or np.array_equal(starts[np.minimum(firsts, count - 1)], table)
    else:
        firsts = np.fromiter(_beginnings(file, offsets), np.int64)
        is_usable = len(firsts) == frames or is_cut
    if not is_usable or not count:
        if count < frames:
            return np.arange(count + 1)
        raise PixelError(
            uid, f"{count} fragments for {frames} frames, and nothing tells which belong together"
        )
    firsts = firsts[firsts < count]
    # Of a file that is cut off the last frame may lack fragments.
    return firsts if is_cut else np.append(firsts, count)


def _beginnings(file: FileBytes, offsets: Offsets) -> Iterator[int]:
    """Yield the fragments that begin a stream."""
    for number, offset in enumerate(offsets.tolist()):
        if file.read(8, offset).startswith(STARTS):
            yield number
