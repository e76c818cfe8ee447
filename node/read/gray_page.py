"""A gray page of a TIFF: scanners of fluorescence write one for each channel, which are no colors."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL.TiffImagePlugin import (
    IMAGELENGTH,
    IMAGEWIDTH,
    PHOTOMETRIC_INTERPRETATION,
    RESOLUTION_UNIT,
    SAMPLESPERPIXEL,
    X_RESOLUTION,
    Y_RESOLUTION,
    TiffImageFile,
)

from node.errors import PixelError
from node.read.dataset import pixel_faults

Gray = npt.NDArray[np.uint8]

SHOWN_LONG_SIDE_PX = 500
"""The smallest page of at least this size is taken: none is read, but somebody may look at it."""
MAX_PIXELS = 64_000_000
MAX_PAGES = 1000
GRAYS = frozenset({0, 1})
"""Photometric interpretations of gray: its lowest value white, or black (TIFF 6.0)."""
MICROMETERS_BY_UNIT = {2: 25_400.0, 3: 10_000.0}


@dataclass(frozen=True, slots=True, eq=False)
class GrayPage:
    """One page (rows, columns), brightest at 255; `micrometers_yx` is None where the file does not say it."""

    pixels: Gray
    micrometers_yx: tuple[float, float] | None


def read_gray_page(path: Path) -> GrayPage | None:
    """Return the page that shows a TIFF whose first page is gray; None of colors, and of what is no TIFF.

    Raises PixelError where its pages are all too large, or the one that is taken does not decode.
    """
    try:
        with pixel_faults(path.name):
            # Not by `Image.open`, which refuses files for the size of a page that is not read here.
            image = TiffImageFile(path)
    except (SyntaxError, PixelError):
        return None
    with image:
        if not _is_gray(image):
            return None
        with pixel_faults(path.name):
            sizes = _gray_pages(image)
            number = min(sizes, key=sizes.__getitem__)
            if sizes[number] > MAX_PIXELS:
                raise PixelError(
                    path.name, f"its pages are gray, and the smallest has {sizes[number]} pixels"
                )
            image.seek(number)
            return GrayPage(_in_eight_bits(np.asarray(image)), _spacing(image))


def _is_gray(image: TiffImageFile) -> bool:
    samples = image.tag_v2.get(SAMPLESPERPIXEL, 1)
    return samples == 1 and image.tag_v2.get(PHOTOMETRIC_INTERPRETATION) in GRAYS


def _gray_pages(image: TiffImageFile) -> dict[int, int]:
    """Return how many pixels each gray page has: of those that are large enough, else of the first alone."""
    pixels_by_page = {}
    first = 0
    for number in range(MAX_PAGES):
        try:
            image.seek(number)
        except EOFError:
            break
        width, height = (int(image.tag_v2[tag]) for tag in (IMAGEWIDTH, IMAGELENGTH))
        first = first or width * height
        if _is_gray(image) and max(width, height) >= SHOWN_LONG_SIDE_PX:
            pixels_by_page[number] = width * height
    return pixels_by_page or {0: first}


def _in_eight_bits(pixels: npt.NDArray[np.generic]) -> Gray:
    """Return gray in 0–255: whatever is wider is stretched from zero to its brightest pixel."""
    if pixels.dtype == np.uint8:
        return np.array(pixels, np.uint8)
    values = np.nan_to_num(pixels.astype(np.float32), posinf=0, neginf=0).clip(min=0)
    return np.asarray(np.rint(values * (255 / max(1e-9, float(values.max())))), np.uint8)


def _spacing(image: TiffImageFile) -> tuple[float, float] | None:
    micrometers = MICROMETERS_BY_UNIT.get(image.tag_v2.get(RESOLUTION_UNIT, 0))
    down, across = (float(image.tag_v2.get(tag) or 0) for tag in (Y_RESOLUTION, X_RESOLUTION))
    return (micrometers / down, micrometers / across) if micrometers and down > 0 and across > 0 else None
