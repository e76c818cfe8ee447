"""The band below a picture: how large things are, what was found, and that nobody has checked it."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image as Picture
from PIL import ImageDraw

from node.encode.document import LONGEST_WORDS
from node.encode.drawing import BLACK, Color, Font, Pixels, blend, font
from node.encode.identity import plain

WHITE, GRAY = (255, 255, 255), (170, 170, 170)

SMALLEST_FONT_PX, LINE_HEIGHT = 14, 1.35

HEAD, BODY, DETAIL, FOOT = 1 / 25, 1 / 34, 1 / 42, 1 / 48
"""Sizes of letters, relative to the width of the picture."""

LONGEST_BAR = 0.25
"""Of the width of the picture."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the caption: its words, its size relative to the picture's width, and its color."""

    text: str
    size: float
    color: Color


def draw_caption(lines: Sequence[Line], width: int, *, mm_per_px: float | None, has_map: bool) -> Pixels:
    """Return the band, as high as its wrapped lines need; with a scale where the size of pixels is known."""
    margin = width // 40
    bar = _draw_bar(width, mm_per_px) if mm_per_px else None
    legend = _draw_legend(width) if has_map else None
    placed = []
    top = margin + (bar.height if bar else 0)
    for line in lines:
        size = max(SMALLEST_FONT_PX, round(line.size * width))
        for text in _wrap(plain(line.text, LONGEST_WORDS), font(size), width - 2 * margin):
            placed.append((top, text, size, line.color))
            top += round(LINE_HEIGHT * size)
    band = Picture.new("RGB", (width, top + margin // 2 + (legend.height if legend else 0)), BLACK)
    for offset, text, size, color in placed:
        ImageDraw.Draw(band).text((margin, offset), text, fill=color, font=font(size))
    for picture, offset in ((bar, margin // 2), (legend, top)):
        if picture:
            band.paste(picture, (margin, offset))
    return np.array(band)


def bar_mm(mm_per_px: float, longest_px: float) -> float:
    """Return the longest of 1, 2, 5, 10, … mm (or parts of it) that fits."""
    longest_mm = mm_per_px * longest_px
    unit = 10.0 ** math.floor(math.log10(longest_mm))
    return max(step for step in (unit, 2 * unit, 5 * unit) if step <= longest_mm)


def _draw_bar(width: int, mm_per_px: float) -> Picture.Image:
    """Return a bar with its length in words."""
    length_mm = bar_mm(mm_per_px, LONGEST_BAR * width)
    words = f"{length_mm:g} mm" if length_mm >= 1 else f"{1000 * length_mm:g} um"
    length, size = max(2, round(length_mm / mm_per_px)), max(SMALLEST_FONT_PX, round(FOOT * width))
    picture = Picture.new(
        "RGB", (length + size // 2 + round(font(size).getlength(words)) + 1, 2 * size), BLACK
    )
    pen = ImageDraw.Draw(picture)
    middle = size * 3 // 4
    pen.line([(0, middle), (length - 1, middle)], fill=WHITE, width=2)
    for end in (0, length - 1):
        pen.line([(end, middle - size // 3), (end, middle + size // 3)], fill=WHITE)
    pen.text((length + size // 2, middle), words, fill=WHITE, font=font(size), anchor="lm")
    return picture


def _draw_legend(width: int) -> Picture.Image:
    """Return the scale of a map, from little to most, as it looks over a medium gray."""
    size = max(SMALLEST_FONT_PX, width // 52)
    strength = np.tile(np.linspace(0, 1, 12 * size, dtype=np.float32), (size, 1))
    bar = blend(np.full((size, 12 * size, 3), 96, np.float32), strength)
    return Picture.fromarray(np.rint(bar).astype(np.uint8))


def _wrap(text: str, letters: Font, width: float) -> list[str]:
    lines = [""]
    for word in re.split(" (?!%)", text):
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and letters.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
