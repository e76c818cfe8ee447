"""Slides in the files of scanners (SVS, TIFF and others), read by OpenSlide."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import openslide

from node.domain.slide import SlideLevel
from node.errors import DatasetError, PixelError
from node.read.matrix import MAX_REGION_PIXELS, WHITE, Corner
from node.shrink import shrink

Colors = npt.NDArray[np.uint8]

CACHE_BYTES = 48 << 20
OPAQUE = bytes([WHITE])

DATES = (
    (("aperio.Date", "aperio.Time"), "%m/%d/%y %H:%M:%S"),
    (("aperio.Date", "aperio.Time"), "%m/%d/%Y %H:%M:%S"),
    (("tiff.DateTime",), "%Y:%m:%d %H:%M:%S"),
)
"""Where files say when they were scanned, and how they write it."""

DENSE_VENDORS = frozenset({"aperio", "generic-tiff"})
"""In their files every tile is stored: one that is missing was lost. Other scanners leave out bare glass."""


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What a scanner's file says of its slide beside the pixels: nothing of them is checked.

    `micrometers_yx` is the distance of rows and that of columns; texts are empty, others None where it says
    nothing.
    """

    vendor: str
    micrometers_yx: tuple[float, float] | None
    scanned_at: datetime | None
    icc_profile: bytes | None


class FileMatrix:
    """A level of a slide that OpenSlide has open; safe in threads."""

    def __init__(self, path: Path, slide: openslide.OpenSlide, number: int, level: SlideLevel) -> None:
        """Take the number of the level in the file (from 0)."""
        self._path, self._slide, self._number = path, slide, number
        # OpenSlide's own, unrounded: it divides by it to find the pixel.
        self._scale = slide.level_downsamples[number]
        self.level = level
        self._is_dense = slide.properties.get(openslide.PROPERTY_NAME_VENDOR) in DENSE_VENDORS

    def regions(self, corners: Sequence[Corner], columns: int, rows: int, *, factor: int = 1) -> list[Colors]:
        """Return the parts, white where the file stores nothing; raises PixelError with the place."""
        if not 0 < columns * rows * len(corners) <= MAX_REGION_PIXELS:
            raise ValueError(f"{len(corners)} parts of {columns} × {rows} pixels")
        return [shrink(self._region(left, top, columns, rows), factor) for left, top in corners]

    def _region(self, left: int, top: int, columns: int, rows: int) -> Colors:
        place = f"the part at column {left} and row {top} of level {self._number}"
        # Its corner is in pixels of the finest level, whichever level is read.
        corner = round(left * self._scale), round(top * self._scale)
        try:
            picture = self._slide.read_region(corner, self._number, (columns, rows))
        except openslide.OpenSlideError:
            # Once a thread met a fault, OpenSlide says the same of every place: each is looked at afresh.
            with slide_faults(self._path.name, place), openslide.OpenSlide(self._path) as slide:
                picture = slide.read_region(corner, self._number, (columns, rows))
        opacity = picture.tobytes("raw", "A")
        if opacity == OPAQUE * len(opacity):
            # Packed at once: to convert the picture first would copy it twice.
            colors = np.frombuffer(picture.tobytes("raw", "RGB"), np.uint8)
            return colors.reshape(rows, columns, 3)
        pixels = np.asarray(picture)
        if self._is_dense and not self._inside(pixels, left, top)[..., 3].all():
            raise PixelError(self._path.name, f"{place} lacks a tile: the file stores nothing there")
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


def read_facts(path: Path) -> FileFacts:
    """Return what a file says; raises DatasetError for one that OpenSlide does not read as a slide."""
    with open_file(path) as slide, slide_faults(path.name):
        properties = slide.properties
        profile = slide.color_profile
        return FileFacts(
            str(properties.get(openslide.PROPERTY_NAME_VENDOR, "")),
            _spacing(properties),
            _scanned_at(properties),
            profile.tobytes() if profile else None,
        )


def _spacing(properties: Mapping[str, str]) -> tuple[float, float] | None:
    try:
        down = float(properties[openslide.PROPERTY_NAME_MPP_Y])
        across = float(properties[openslide.PROPERTY_NAME_MPP_X])
    except (KeyError, ValueError):
        return None
    return (down, across) if down > 0 and across > 0 else None


def _scanned_at(properties: Mapping[str, str]) -> datetime | None:
    for names, form in DATES:
        try:
            # Without a zone, as it is written there.
            return datetime.strptime(" ".join(properties[name] for name in names), form)
        except (KeyError, ValueError):
            continue
    return None


def make_matrices(
    path: Path, slide: openslide.OpenSlide, downsamples: Sequence[float]
) -> tuple[FileMatrix, ...]:
    """Return the levels, finest first."""
    matrices = []
    for number, (columns, rows) in enumerate(slide.level_dimensions):
        key = f"openslide.level[{number}].tile"
        tile_columns, tile_rows = (
            int(slide.properties.get(f"{key}-{side}", 256)) for side in ("width", "height")
        )
        level = SlideLevel("", columns, rows, downsamples[number], tile_columns, tile_rows)
        matrices.append(FileMatrix(path, slide, number, level))
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
