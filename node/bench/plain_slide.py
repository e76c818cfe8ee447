"""The peers of the reader of slides: a bare loop over openslide, and the decoding of stored tiles alone."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import openslide
import simplejpeg

Colors = npt.NDArray[np.uint8]
Corner = tuple[int, int]


def open_with_openslide(path: Path) -> openslide.OpenSlide:
    """Return the open slide."""
    return openslide.OpenSlide(path)


def read_with_openslide(
    slide: openslide.OpenSlide, corners: Sequence[Corner], side: int, threads: int
) -> int:
    """Read a square of the finest level at each corner, and return how many were read."""
    with ThreadPoolExecutor(threads) as pool:
        return sum(1 for _ in pool.map(lambda corner: read_tile(slide, corner, side), corners))


def read_tile(slide: openslide.OpenSlide, corner: Corner, side: int) -> Colors:
    """Return one square of the finest level (side, side, 3) in RGB."""
    return np.asarray(slide.read_region(corner, 0, (side, side)).convert("RGB"))


def decode_streams(streams: Sequence[bytes], threads: int) -> int:
    """Decode JPEG streams that are in memory, and return how many: no reader can be faster."""
    with ThreadPoolExecutor(threads) as pool:
        return sum(1 for _ in pool.map(simplejpeg.decode_jpeg, streams))
