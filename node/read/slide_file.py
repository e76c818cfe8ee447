"""Slides in the files of scanners (SVS, TIFF and others), read by OpenSlide."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import openslide

from node.domain.slide import SlideLevel
from node.errors import DatasetError, PixelError
from node.read.matrix import MAX_REGION_PIXELS, WHITE, Corner

Colors = npt.NDArray[np.uint8]

CACHE_BYTES = 48 << 20

DENSE_VENDORS = frozenset({"aperio", "generic-tiff"})
"""In their files every tile is stored: one that is missing was lost. Other scanners leave out bare glass."""


class FileMatrix:
    """A level of a slide that OpenSlide has open; safe in threads."""

    def __init__(self, name: str, slide: openslide.OpenSlide, number: int, level: SlideLevel) -> None:
        """Take the number of the level in the file (from 0)."""
        self._name, self._slide, self._number = name, slide, number
        self.level = level
        self._is_dense = slide.properties.get(openslide.PROPERTY_NAME_VENDOR) in DENSE_VENDORS

    def regions(self, corners: Sequence[Corner], columns: int, rows: int) -> list[Colors]:
        """Return the parts, white where the file stores nothing; raises PixelError with the place."""
        if not 0 < columns * rows * len(corners) <= MAX_REGION_PIXELS:
            raise ValueError(f"{len(corners)} parts of {columns} × {rows} pixels")
        return [self._region(left, top, columns, rows) for left, top in corners]

    def _region(self, left: int, top: int, columns: int, rows: int) -> Colors:
        # OpenSlide's own, unrounded: it divides by it to find the pixel.
        scale = self._slide.level_downsamples[self._number]
        place = f"the part at column {left} and row {top} of level {self._number}"
        with slide_faults(self._name, place):
            # Its corner is in pixels of the finest level, whichever level is read.
            picture = self._slide.read_region(
                (round(left * scale), round(top * scale)), self._number, (columns, rows)
            )
        if picture.getchannel("A").getextrema() == (WHITE, WHITE):
            return np.array(picture.convert("RGB"))
        pixels = np.asarray(picture)
        if self._is_dense and not self._inside(pixels, left, top)[..., 3].all():
            raise PixelError(self._name, f"{place} lacks a tile: the file stores nothing there")
        return _on_white(pixels)

    def _inside(self, pixels: Colors, left: int, top: int) -> Colors:
        """Return what of a part lies within the level."""
        rows, columns = max(0, self.level.rows - top), max(0, self.level.columns - left)
        return pixels[max(0, -top) : rows, max(0, -left) : columns]


def open_file(path: Path) -> openslide.OpenSlide:
    """Return the open slide; raises DatasetError for a file that OpenSlide does not read as a slide."""
    with slide_faults(path.name):
        slide = openslide.OpenSlide(path)
        slide.set_cache(openslide.OpenSlideCache(CACHE_BYTES))
        return slide


def make_matrices(
    name: str, slide: openslide.OpenSlide, downsamples: Sequence[float]
) -> tuple[FileMatrix, ...]:
    """Return the levels, finest first."""
    matrices = []
    for number, (columns, rows) in enumerate(slide.level_dimensions):
        key = f"openslide.level[{number}].tile"
        tile_columns, tile_rows = (
            int(slide.properties.get(f"{key}-{side}", 256)) for side in ("width", "height")
        )
        level = SlideLevel("", columns, rows, downsamples[number], tile_columns, tile_rows)
        matrices.append(FileMatrix(name, slide, number, level))
    return tuple(matrices)


@contextmanager
def slide_faults(name: str, place: str = "") -> Iterator[None]:
    """Turn a fault of OpenSlide in the block into a PixelError with the place, DatasetError without one."""
    try:
        yield
    except FileNotFoundError as error:
        raise DatasetError(name, "there is no such file") from error
    except openslide.OpenSlideUnsupportedFormatError as error:
        raise DatasetError(name, "is no slide in a format that OpenSlide reads") from error
    except openslide.OpenSlideError as error:
        # Without the folders of its file: their names are nobody's business.
        reason = re.sub(r"/\S*/", "", " ".join(str(error).split()))[:300]
        if place:
            raise PixelError(name, f"{place} cannot be read: {reason}") from error
        raise DatasetError(name, f"cannot be opened as a slide: {reason}") from error


def _on_white(picture: Colors) -> Colors:
    """Return RGBA on white, as RGB; OpenSlide leaves transparent what is outside or not stored."""
    colors, alpha = picture[..., :3], picture[..., 3:]
    # Read back, colors are not multiplied by their opacity.
    mixed = colors.astype(np.uint16) * alpha + WHITE * (WHITE - alpha.astype(np.uint16))
    return ((mixed + WHITE // 2) // WHITE).astype(np.uint8)
