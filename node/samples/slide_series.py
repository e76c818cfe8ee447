"""Synthetic slides as DICOM files: an object for each level of the pyramid, for the label and an overview."""

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from shutil import copyfileobj
from tempfile import TemporaryFile
from typing import IO

import numpy as np
from pydicom.dataset import FileDataset
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit

from node.samples.slide import SlideSample
from node.samples.slide_header import slide_header
from node.samples.slide_macro import LABEL_SIZE, MACRO_SPACING_UM, OVERVIEW_SIZE, draw_label, draw_overview
from node.samples.slide_matrix import Picture, SlideOptions
from node.samples.slide_pyramid import encode_jpeg, pyramid_tiles
from node.samples.stain import Colors

__all__ = ["SlideOptions", "write_slide"]

ITEM, DELIMITER = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0\0\0\0\0"
PIXEL_DATA = b"\xe0\x7f\x10\x00OB\0\0"
UNDEFINED_LENGTH = 0xFFFFFFFF


def write_slide(sample: SlideSample, folder: Path, *, options: SlideOptions | None = None) -> list[Path]:
    """Write a slide into a folder and return its files: levels, the finest first, then label and overview.

    Tiles go to disk as they are drawn. A level is a file of at most 4 GiB (PS3.5 7.5.2).
    """
    options = options or SlideOptions()
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"slide-level-{level}.dcm" for level in range(len(sample.levels))]
    with ExitStack() as stack:
        frames = [_Frames(stack.enter_context(TemporaryFile(dir=folder))) for _ in files]
        for tile in pyramid_tiles(sample, options.tile_px):
            if options.organization == "TILED_FULL" or not tile.is_blank:
                frames[tile.level].add(tile.colors, options, (tile.row, tile.column))
        for level, file in enumerate(files):
            _write(sample, frames[level], file, options, _level_picture(sample, level, options))
    return files + _write_macro(sample, folder, options)


def _level_picture(sample: SlideSample, level: int, options: SlideOptions) -> Picture:
    columns, rows = sample.size(level)
    spacing_um = sample.micrometers_per_pixel * sample.levels[level]
    return Picture("VOLUME", level, columns, rows, spacing_um, (options.tile_px, options.tile_px))


def _write_macro(sample: SlideSample, folder: Path, options: SlideOptions) -> list[Path]:
    """Write the label and the overview, each as one tile."""
    number, files = len(sample.levels), []
    pictures = (("LABEL", LABEL_SIZE, draw_label(sample)), ("OVERVIEW", OVERVIEW_SIZE, draw_overview(sample)))
    for kind, (columns, rows), colors in pictures:
        files.append(folder / f"slide-{kind.lower()}.dcm")
        picture = Picture(kind, number, columns, rows, MACRO_SPACING_UM, (columns, rows))
        with TemporaryFile(dir=folder) as spool:
            frames = _Frames(spool)
            frames.add(colors, options, (0, 0))
            _write(sample, frames, files[-1], options, picture)
        number += 1
    return files


@dataclass(slots=True)
class _Frames:
    """The frames of one object on their way: their bytes in a file, their lengths and places."""

    file: IO[bytes]
    lengths: list[int] = field(default_factory=list)
    places: list[tuple[int, int]] = field(default_factory=list)
    raw_bytes: int = 0

    def add(self, colors: Colors, options: SlideOptions, place: tuple[int, int]) -> None:
        """Put one more frame behind the others; an encoded one is an item of its own."""
        if options.is_lossy:
            data = encode_jpeg(colors, options.quality)
            data += b"\0" * (len(data) % 2)
            self.file.write(ITEM + len(data).to_bytes(4, "little"))
        else:
            data = np.ascontiguousarray(colors).tobytes()
        self.file.write(data)
        self.lengths.append(len(data))
        self.places.append(place)
        self.raw_bytes += colors.size


def _write(sample: SlideSample, frames: _Frames, file: Path, options: SlideOptions, picture: Picture) -> None:
    """Write one object: its header, then its frames from where they wait."""
    total = sum(frames.lengths)
    if total + 8 * len(frames.lengths) >= UNDEFINED_LENGTH:
        raise ValueError(f"{file.name} would have {total} bytes of pixels, expected less than 4 GiB")
    ratio = frames.raw_bytes / max(1, total)
    header = slide_header(sample, options, picture, places=frames.places, ratio=ratio)
    _save_header(header, file, options)
    with file.open("ab") as stream:
        if options.is_lossy:
            stream.write(PIXEL_DATA + UNDEFINED_LENGTH.to_bytes(4, "little"))
            stream.write(ITEM + (4 * len(frames.lengths)).to_bytes(4, "little"))
            starts = np.concatenate([[0], np.cumsum(np.asarray(frames.lengths, dtype=np.int64) + 8)[:-1]])
            stream.write(starts.astype("<u4").tobytes())
        else:
            stream.write(PIXEL_DATA + (total + total % 2).to_bytes(4, "little"))
        frames.file.seek(0)
        copyfileobj(frames.file, stream, 1 << 20)
        stream.write(DELIMITER if options.is_lossy else b"\0" * (total % 2))


def _save_header(header: FileDataset, file: Path, options: SlideOptions) -> None:
    header.file_meta.TransferSyntaxUID = JPEGBaseline8Bit if options.is_lossy else ExplicitVRLittleEndian
    header.save_as(file, enforce_file_format=True)
