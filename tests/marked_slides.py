"""A slide of dots on glass, drawn at once: what the code of training needs of a slide, and no more."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

GLASS, STROMA, NUCLEUS = (243, 242, 244), (226, 160, 200), (70, 40, 110)
SIDE = 512
DOWNSAMPLES = (1, 4, 16)


@dataclass(frozen=True, slots=True, eq=False)
class MarkedSlide:
    """Tissue with few dots in a frame of glass; in the square of a tumor, anywhere in it, they are many."""

    pixels: NDArray[np.uint8]
    truth: NDArray[np.bool_]
    micrometers_per_pixel: float = 2.0
    levels: tuple[int, ...] = DOWNSAMPLES

    def size(self, level: int) -> tuple[int, int]:
        """Return the columns and rows of a level."""
        return SIDE // DOWNSAMPLES[level], SIDE // DOWNSAMPLES[level]

    def region(self, level: int, left: int, top: int, columns: int, rows: int) -> NDArray[np.uint8]:
        """Return the pixels of a rectangle."""
        return self.pixels[_place(level, left, top, columns, rows)]

    def tumor(self, level: int, left: int, top: int, columns: int, rows: int) -> NDArray[np.bool_]:
        """Return where the tumor is in a rectangle."""
        return self.truth[_place(level, left, top, columns, rows)]


def _place(level: int, left: int, top: int, columns: int, rows: int) -> tuple[slice, slice]:
    d = DOWNSAMPLES[level]
    return slice(top * d, (top + rows) * d, d), slice(left * d, (left + columns) * d, d)


def marked_slide(seed: int, *, is_tumor: bool) -> MarkedSlide:
    """Return the slide of a seed."""
    random = np.random.default_rng(seed)
    pixels = np.full((SIDE, SIDE, 3), GLASS, dtype=np.uint8)
    inside = slice(64, SIDE - 64)
    pixels[inside, inside] = STROMA
    truth = np.zeros((SIDE, SIDE), dtype=np.bool_)
    if is_tumor:
        top, left = random.integers(1, 4, 2) * 64
        truth[top : top + 128, left : left + 128] = True
    is_dot = random.random((SIDE // 4, SIDE // 4)) < np.where(truth[::4, ::4], 0.55, 0.06)
    dots = np.kron(is_dot, np.ones((4, 4), dtype=np.bool_)).astype(np.bool_)
    dots[:64] = dots[-64:] = dots[:, :64] = dots[:, -64:] = False
    pixels[dots] = NUCLEUS
    return MarkedSlide(pixels, truth)
