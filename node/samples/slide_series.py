"""Synthetic slides as DICOM files: an object for each level of the pyramid, for the label and an overview."""

from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from node.samples.slide import SlideSample
from node.samples.slide_header import slide_header
from node.samples.slide_macro import draw_label, draw_overview
from node.samples.slide_matrix import SlideOptions, level_picture, macro_picture
from node.samples.slide_pyramid import pyramid_tiles
from node.slide_objects.frames import Frames, write_object
from node.slide_objects.header import TILED_FULL, Picture

__all__ = ["SlideOptions", "write_slide"]


def write_slide(sample: SlideSample, folder: Path, *, options: SlideOptions | None = None) -> list[Path]:
    """Write a slide into a folder and return its files: levels, the finest first, then label and overview.

    Tiles go to disk as they are drawn. An uncompressed level is a file of less than 4 GiB (PS3.5 7.1).
    """
    options = options or SlideOptions()
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"slide-level-{level}.dcm" for level in range(len(sample.levels))]
    with ExitStack() as stack:
        frames = [_frames(stack.enter_context(TemporaryFile(dir=folder)), options) for _ in files]
        for tile in pyramid_tiles(sample, options.tile_px):
            if options.organization == TILED_FULL or not tile.is_blank:
                frames[tile.level].add(tile.colors, (tile.row, tile.column))
        for level, file in enumerate(files):
            _write(sample, frames[level], file, options, level_picture(sample, level, options))
    return files + _write_macro(sample, folder, options)


def _write_macro(sample: SlideSample, folder: Path, options: SlideOptions) -> list[Path]:
    """Write the label and the overview, each as one tile."""
    files = []
    pictures = {"LABEL": draw_label(sample), "OVERVIEW": draw_overview(sample)}
    for number, (kind, colors) in enumerate(pictures.items(), len(sample.levels)):
        files.append(folder / f"slide-{kind.lower()}.dcm")
        with TemporaryFile(dir=folder) as spool:
            frames = _frames(spool, options)
            frames.add(colors, (0, 0))
            _write(sample, frames, files[-1], options, macro_picture(kind, number, options))
    return files


def _frames(spool: IO[bytes], options: SlideOptions) -> Frames:
    return Frames(spool, options.quality if options.is_lossy else None)


def _write(sample: SlideSample, frames: Frames, file: Path, options: SlideOptions, picture: Picture) -> None:
    header = slide_header(sample, options, picture, places=frames.places, ratio=frames.ratio)
    write_object(header, frames, file)
