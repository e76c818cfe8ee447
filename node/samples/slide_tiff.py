"""Synthetic slides as pyramidal TIFF: a directory of JPEG tiles for each level (TIFF 6.0, Technote 2)."""

from dataclasses import dataclass, field
from pathlib import Path
from struct import pack
from typing import BinaryIO

from node.samples.slide import SlideSample
from node.samples.slide_pyramid import pyramid_tiles
from node.slide_objects.frames import encode_jpeg

SHORT, LONG, RATIONAL = 3, 4, 5
SIZE_BY_KIND = {SHORT: 2, LONG: 4, RATIONAL: 8}
CODE_BY_KIND = {SHORT: "H", LONG: "I"}
JPEG, YCBCR, CENTIMETER = 7, 6, 3
FINEST, REDUCED = 0, 1
LARGEST_OFFSET = 0xFFFFFFFF

Entry = tuple[int, int, list[int]]


def write_slide_tiff(sample: SlideSample, path: Path, *, tile_px: int = 256, quality: int = 85) -> Path:
    """Write a slide as tiled TIFF and return its file; tiles go to disk as they are drawn.

    Raises ValueError, and leaves no file, for one of more than 4 GiB: an offset has four bytes (TIFF 6.0).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("wb") as stream:
            _write(sample, stream, tile_px=tile_px, quality=quality)
    except BaseException:
        path.unlink()
        raise
    return path


def _write(sample: SlideSample, stream: BinaryIO, *, tile_px: int, quality: int) -> None:
    levels = [_Tiles() for _ in sample.levels]
    stream.write(b"II*\0" + bytes(4))
    for tile in pyramid_tiles(sample, tile_px):
        levels[tile.level].offsets.append(_checked(stream.tell()))
        levels[tile.level].lengths.append(stream.write(encode_jpeg(tile.colors, quality)))
    link = 4
    for level, tiles in enumerate(levels):
        stream.write(b"\0" * (stream.tell() % 2))
        start = _checked(stream.tell())
        directory = _directory(_entries(sample, level, tile_px, tiles), start)
        stream.seek(link)
        stream.write(pack("<I", start))
        stream.seek(start)
        # Where the next directory begins stands at the end of the entries, before their values.
        link = start + 2 + 12 * int.from_bytes(directory[:2], "little")
        stream.write(directory)


def _checked(offset: int) -> int:
    """Return an offset; raises ValueError for one that has more than four bytes."""
    if offset > LARGEST_OFFSET:
        raise ValueError("the slide takes more than 4 GiB, and a TIFF that is no BigTIFF ends there")
    return offset


@dataclass(frozen=True, slots=True)
class _Tiles:
    """Where the tiles of one level lie in the file, row by row."""

    offsets: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)


def _entries(sample: SlideSample, level: int, tile_px: int, tiles: _Tiles) -> list[Entry]:
    """Return what a directory says of a level, by rising number of the tag."""
    columns, rows = sample.size(level)
    spacing_um = sample.micrometers_per_pixel * sample.levels[level]
    per_centimeter = [round(10_000 / spacing_um * 1000), 1000]
    return [
        (254, LONG, [REDUCED if level else FINEST]),
        (256, LONG, [columns]),
        (257, LONG, [rows]),
        (258, SHORT, [8, 8, 8]),
        (259, SHORT, [JPEG]),
        (262, SHORT, [YCBCR]),
        (277, SHORT, [3]),
        (282, RATIONAL, per_centimeter),
        (283, RATIONAL, per_centimeter),
        (284, SHORT, [1]),
        (296, SHORT, [CENTIMETER]),
        (322, LONG, [tile_px]),
        (323, LONG, [tile_px]),
        (324, LONG, tiles.offsets),
        (325, LONG, tiles.lengths),
        (530, SHORT, [2, 1]),
    ]


def _directory(entries: list[Entry], start: int) -> bytes:
    """Return a directory that begins at `start`: entries, no next one, values longer than four bytes."""
    head, values = pack("<H", len(entries)), b""
    after = start + 2 + 12 * len(entries) + 4
    for tag, kind, numbers in entries:
        data = pack(f"<{len(numbers)}{CODE_BY_KIND.get(kind, 'I')}", *numbers)
        count = len(data) // SIZE_BY_KIND[kind]
        if len(data) > 4:
            data, values = pack("<I", _checked(after + len(values))), values + data
        head += pack("<HHI", tag, kind, count) + data.ljust(4, b"\0")
    return head + bytes(4) + values
