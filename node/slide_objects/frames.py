"""The frames of one object of a slide: to disk as they come, then behind the header they belong to."""

from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from shutil import copyfileobj
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import FileDataset
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit

Colors = NDArray[np.uint8]

ITEM, DELIMITER = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0\0\0\0\0"
PIXEL_DATA = b"\xe0\x7f\x10\x00OB\0\0"
UNDEFINED_LENGTH = 0xFFFFFFFF
LARGEST_OFFSET = 0xFFFFFFFF
HEAD_BYTES = 8
"""Of an item: its tag and its length."""


@dataclass(slots=True)
class Frames:
    """The frames of one object on their way: their bytes in a file, their lengths and places.

    They are baseline JPEG of this quality, or uncompressed without one.
    """

    file: IO[bytes]
    quality: int | None
    lengths: list[int] = field(default_factory=list)
    places: list[tuple[int, int]] = field(default_factory=list)
    raw_bytes: int = 0

    @property
    def ratio(self) -> float:
        """By how much they became smaller."""
        return self.raw_bytes / max(1, sum(self.lengths))

    def add(self, colors: Colors, place: tuple[int, int]) -> None:
        """Put one more behind the others; its place is its row and column, counted in tiles."""
        if self.quality is not None:
            data = encode_jpeg(colors, self.quality)
            data += b"\0" * (len(data) % 2)
            self.file.write(ITEM + len(data).to_bytes(4, "little"))
        else:
            data = np.ascontiguousarray(colors).tobytes()
        self.file.write(data)
        self.lengths.append(len(data))
        self.places.append(place)
        self.raw_bytes += colors.size


def encode_jpeg(colors: Colors, quality: int) -> bytes:
    """Return a tile as baseline JPEG, its colors, if any, at half the width of its brightness (4:2:2)."""
    stream = BytesIO()
    Image.fromarray(colors).save(stream, "JPEG", quality=quality, subsampling="4:2:2")
    return stream.getvalue()


def write_object(header: FileDataset, frames: Frames, path: Path) -> Path:
    """Write one object, its frames from where they wait, and return its file.

    Raises ValueError for uncompressed frames of 4 GiB or more: their element cannot be longer (PS3.5 7.1).
    """
    if frames.quality is None:
        _write_native(header, frames, path)
    else:
        _write_encapsulated(header, frames, path)
    return path


def _write_native(header: FileDataset, frames: Frames, path: Path) -> None:
    total = sum(frames.lengths)
    if total >= UNDEFINED_LENGTH:
        raise ValueError(f"{path.name} would have {total} bytes of pixels, expected less than 4 GiB")
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.save_as(path, enforce_file_format=True)
    with path.open("ab") as stream:
        stream.write(PIXEL_DATA + (total + total % 2).to_bytes(4, "little"))
        _copy(frames, stream)
        stream.write(b"\0" * (total % 2))


def _write_encapsulated(header: FileDataset, frames: Frames, path: Path) -> None:
    lengths = np.asarray(frames.lengths, dtype=np.int64)
    starts = np.concatenate([[0], np.cumsum(lengths + HEAD_BYTES)[:-1]])
    # A basic offset has four bytes: what lies further needs the other table (PS3.3 C.7.6.3.1.8).
    is_extended = int(starts[-1]) > LARGEST_OFFSET
    if is_extended:
        header.ExtendedOffsetTable = starts.astype("<u8").tobytes()
        header.ExtendedOffsetTableLengths = lengths.astype("<u8").tobytes()
    header.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    header.save_as(path, enforce_file_format=True)
    table = b"" if is_extended else starts.astype("<u4").tobytes()
    with path.open("ab") as stream:
        stream.write(PIXEL_DATA + UNDEFINED_LENGTH.to_bytes(4, "little"))
        stream.write(ITEM + len(table).to_bytes(4, "little") + table)
        _copy(frames, stream)
        stream.write(DELIMITER)


def _copy(frames: Frames, stream: IO[bytes]) -> None:
    frames.file.seek(0)
    copyfileobj(frames.file, stream, 1 << 20)
