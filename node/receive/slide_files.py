"""A slide in a scanner's file becomes a DICOM slide on its way in: results can refer to nothing else.

Its label and the picture of the whole glass stay in the file: they may show the patient's name.
"""

import hashlib
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from itertools import pairwise, product
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile

import numpy as np
from numpy.typing import NDArray

from node.disk import disk_errors
from node.domain.progress import Progress
from node.domain.study import Instance
from node.header import PREAMBLE_BYTES, PREFIX
from node.read.gray_page import Gray, read_gray_page
from node.read.slide import Slide, open_slide_file
from node.read.slide_file import read_facts
from node.read.tiles import stream_tiles
from node.receive.folder import companions, store_file
from node.receive.slide_header import Origin, converted_header
from node.receive.slide_levels import gray_picture, level_pictures
from node.slide_objects.frames import Frames, write_object
from node.slide_objects.header import Picture, gray_light_part, light_part, srgb_profile
from node.slide_objects.pyramid import Tile, averaged_pyramid
from node.storage import Storage

SUFFIXES = frozenset(
    {".bif", ".czi", ".mrxs", ".ndpi", ".qptiff", ".scn", ".svs", ".svslide", ".tif", ".tiff"}
)
TIFF = frozenset({b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"})
QUALITY = 90
"""Of the JPEG of every tile; scanners themselves code with 30 to 90."""

Colors = NDArray[np.uint8]


def is_slide_file(path: Path) -> bool:
    """Return whether a file is, by its name or its first bytes, a scanner's and not DICOM."""
    with path.open("rb") as file:
        head = file.read(PREAMBLE_BYTES + len(PREFIX))
    return head[PREAMBLE_BYTES:] != PREFIX and (path.suffix.lower() in SUFFIXES or head[:4] in TIFF)


def store_slide(path: Path, storage: Storage) -> list[Instance]:
    """Put the slide of a scanner's file into the spool, an instance for each level, the finest first.

    Tiles are read and coded anew, as JPEG of quality 90, a few at a time. A TIFF of gray pages, as
    fluorescence gives, becomes one gray instance, so that its refusal has what to refer to. Raises
    DatasetError for a file that is no slide, PixelError with the place for a damaged one,
    OutOfResourcesError for a full disk.
    """
    with disk_errors(), TemporaryDirectory(dir=storage.incoming) as name:
        folder = Path(name)
        page = read_gray_page(path)
        if page is None:
            written = _convert(path, folder)
        else:
            picture = gray_picture(page.pixels.shape[1], page.pixels.shape[0], page.micrometers_yx)
            origin = Origin(_sha256(path), "gray pages", None, gray_light_part())
            written = _write([picture], _cut(page.pixels, picture), origin, folder)
        return [store_file(file, storage).instance for file in written]


def _convert(path: Path, folder: Path) -> list[Path]:
    """Write the levels of a slide; what the file lacks of coarse ones is averaged from its coarsest."""
    facts = read_facts(path)
    with open_slide_file(path) as slide:
        profile, power = facts.icc_profile, slide.objective_power
        light = light_part(profile or srgb_profile(), is_srgb=profile is None, objective_power=power)
        origin = Origin(_sha256(path), facts.vendor, facts.scanned_at, light)
        micrometers_yx = facts.micrometers_yx if slide.micrometers_per_pixel else None
        pictures = level_pictures(slide.levels, micrometers_yx)
        progress = Progress(sum(len(_corners(one[0])) for one in pictures), "tiles")
        written: list[Path] = []
        for number, part in enumerate(pictures):
            with closing(_read(slide, number, part[0], progress)) as tiles:
                written += _write(part, _pyramid(tiles, part), origin, folder)
        return written


def _write(pictures: Sequence[Picture], tiles: Iterable[Tile], origin: Origin, folder: Path) -> list[Path]:
    """Write the levels that these tiles belong to, each tile once it is there."""
    with ExitStack() as stack:
        frames = [Frames(stack.enter_context(TemporaryFile(dir=folder)), QUALITY) for _ in pictures]
        for tile in tiles:
            frames[tile.level].add(tile.colors, (tile.row, tile.column))
        return [
            write_object(converted_header(origin, picture, one), one, folder / f"{picture.number}.dcm")
            for picture, one in zip(pictures, frames, strict=True)
        ]


def _pyramid(tiles: Iterator[Colors], pictures: Sequence[Picture]) -> Iterator[Tile]:
    """Return the tiles of a level, and those of the coarser ones that are averaged from it."""
    sizes = [(one.columns, one.rows) for one in pictures]
    factors = [max(fine) // max(coarse) for fine, coarse in pairwise(sizes)]
    return averaged_pyramid(tiles, sizes, factors=factors, tile_px=pictures[0].tile_size[0])


def _read(slide: Slide, level: int, picture: Picture, progress: Progress) -> Generator[Colors, None, None]:
    """Yield the tiles of a level, row by row."""
    for _, colors in stream_tiles(slide, level, _corners(picture), picture.tile_size[0]):
        progress.advance()
        yield colors


def _cut(pixels: Gray, picture: Picture) -> Iterator[Tile]:
    """Yield the tiles of a gray picture, black where it has ended."""
    size = picture.tile_size[0]
    padded = np.pad(pixels, ((0, -picture.rows % size), (0, -picture.columns % size)))
    for left, top in _corners(picture):
        yield Tile(0, top // size, left // size, padded[top : top + size, left : left + size])


def _corners(picture: Picture) -> list[tuple[int, int]]:
    """Return where the tiles begin, column and row in pixels, row by row."""
    columns, rows = picture.tile_size
    corners = product(range(0, picture.rows, rows), range(0, picture.columns, columns))
    return [(left, top) for top, left in corners]


def _sha256(path: Path) -> str:
    """Return the digest of a slide's file, with those that belong to it."""
    whole = hashlib.sha256()
    for one in (path, *companions(path)):
        with one.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()
