"""The overlay as a picture: what the radiologist saw, where the network looked, and what it says of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image as Picture
from PIL import ImageDraw, ImageFont

from node.domain.findings import Findings, Presence, Score
from node.domain.image import Image
from node.encode.document import LONGEST_WORDS
from node.encode.identity import plain
from node.encode.summary import (
    FOREIGN_WARNING,
    WARNING,
    WORD_BY_PRESENCE,
    describe_probability,
    describe_score,
)

Pixels = npt.NDArray[np.uint8]
Map = npt.NDArray[np.float32]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

SHORTEST_LONG_SIDE_PX, LONGEST_LONG_SIDE_PX = 768, 1024
"""Smaller pictures are enlarged, or their caption could not be read; larger ones only make large files."""

NARROWEST_PX = 512
"""Narrower pictures get black at both sides, for the caption needs room."""

WHITE, GRAY, AMBER, BLACK = (255, 255, 255), (170, 170, 170), (255, 191, 64), (0, 0, 0)

COLORS = np.array(
    [[136, 34, 106], [203, 65, 73], [243, 120, 25], [252, 181, 25], [245, 233, 117]], np.float32
)
"""Purple to pale yellow, ever lighter (upper part of the map "inferno"), so that gray print shows it too."""

FAINT, STRONG, OPACITY = 0.3, 0.8, 0.55
"""Below FAINT of its maximum a map shows nothing; from STRONG on it covers the picture by OPACITY."""

OUTLINE_LEVEL = 0.5
SMALLEST_FONT_PX, LINE_HEIGHT = 14, 1.35


@dataclass(frozen=True, slots=True)
class Overlay:
    """A color picture (rows, columns, 3), and by how much the source was enlarged or reduced in it."""

    pixels: Pixels
    scale: float


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the caption: its words, its size relative to the picture's width, and its color."""

    text: str
    size: float
    color: tuple[int, int, int]


def draw_overlay(image: Image, findings: Findings, algorithm: str) -> Overlay:
    """Return the picture with a caption below the anatomy, and the map of a finding that is present.

    Of a score that abstains nothing is drawn: a reader would take it for a finding.
    """
    scale = _scale(image.pixels.shape)
    rows, columns = (max(1, round(side * scale)) for side in image.pixels.shape)
    gray = _resize(np.asarray(image.pixels, np.float32), rows, columns)
    color = np.repeat(255 * gray[..., None], 3, axis=2)
    shown = shown_score(findings)
    activation = _shown_map(shown)
    if activation is not None:
        color = _blend(color, _resize(activation, rows, columns))
    body = _widen(np.rint(color).astype(np.uint8))
    lines = _lines(findings, shown, algorithm)
    caption = _draw_caption(lines, body.shape[1], has_map=activation is not None)
    return Overlay(np.vstack([body, caption]), scale)


def shown_score(findings: Findings) -> Score | None:
    """Return the most probable score that is present, or else uncertain; none of a foreign image."""
    raised = [score for score in findings.scores if score.presence is not Presence.ABSENT]
    if findings.is_foreign:
        return None
    return max(raised, key=lambda score: (not score.is_uncertain, score.probability), default=None)


def _shown_map(shown: Score | None) -> Map | None:
    """Return the map to draw, relative to its maximum."""
    if shown is None or shown.presence is not Presence.PRESENT or shown.activation is None:
        return None
    highest = float(shown.activation.max())
    return shown.activation / np.float32(highest) if highest > 0 else None


def _scale(shape: Sequence[int]) -> float:
    longest = max(shape)
    return min(max(longest, SHORTEST_LONG_SIDE_PX), LONGEST_LONG_SIDE_PX) / longest


def _resize(values: Map, rows: int, columns: int) -> Map:
    picture = Picture.fromarray(np.ascontiguousarray(values, np.float32))
    is_smaller = values.shape[0] > rows
    method = Picture.Resampling.BOX if is_smaller else Picture.Resampling.BICUBIC
    return np.clip(np.asarray(picture.resize((columns, rows), method), np.float32), 0, 1)


def _blend(color: Map, strength: Map) -> Map:
    """Lay the map over the picture, ever more opaque, with a line around its core."""
    ramp = np.clip((strength - FAINT) / (STRONG - FAINT), 0, 1)
    stops = np.linspace(FAINT, 1, len(COLORS))
    tint = np.stack([np.interp(strength, stops, channel) for channel in COLORS.T], axis=-1)
    opacity = (OPACITY * ramp * ramp * (3 - 2 * ramp))[..., None]
    opacity[_outline(strength >= OUTLINE_LEVEL)] = 0.9
    return np.asarray(color * (1 - opacity) + tint * opacity, np.float32)


def _outline(core: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return the pixels on either side of the border of a region."""
    border = np.zeros_like(core)
    across, down = core[:, 1:] != core[:, :-1], core[1:] != core[:-1]
    border[:, 1:] |= across
    border[:, :-1] |= across
    border[1:] |= down
    border[:-1] |= down
    return border


def _widen(body: Pixels) -> Pixels:
    missing = max(0, NARROWEST_PX - body.shape[1])
    return np.pad(body, ((0, 0), (missing // 2, missing - missing // 2), (0, 0)))


def _lines(findings: Findings, shown: Score | None, algorithm: str) -> list[Line]:
    mapped = shown.code.meaning if shown and _shown_map(shown) is not None else ""
    others = [score for score in findings.scores if score is not shown]
    return [
        *_head(findings, shown),
        *(Line(describe_score(score), 1 / 48, GRAY) for score in others),
        Line(WARNING, 1 / 36, AMBER),
        Line(f"by {algorithm}", 1 / 48, GRAY),
        *(
            [Line(f"Where the network looked for {mapped}; the line is at half", 1 / 48, GRAY)]
            if mapped
            else []
        ),
    ]


def _head(findings: Findings, shown: Score | None) -> list[Line]:
    """Return what must be read first."""
    if findings.is_foreign:
        return [Line(FOREIGN_WARNING, 1 / 25, AMBER)]
    if shown is None:
        return [Line("No findings", 1 / 25, WHITE)]
    color = AMBER if shown.is_uncertain else WHITE
    return [
        Line(f"{shown.code.meaning}: {WORD_BY_PRESENCE[shown.presence]}", 1 / 25, color),
        *(Line(doubt, 1 / 34, color) for doubt in shown.doubts),
        Line(describe_probability(shown), 1 / 34, WHITE),
    ]


def _draw_caption(lines: Sequence[Line], width: int, *, has_map: bool) -> Pixels:
    """Return the band of text, as high as its wrapped lines need."""
    margin = width // 40
    placed = []
    top = margin
    for line in lines:
        size = max(SMALLEST_FONT_PX, round(line.size * width))
        # The font that Pillow carries has ASCII and little else.
        for text in _wrap(plain(line.text, LONGEST_WORDS), _font(size), width - 2 * margin):
            placed.append((top, text, size, line.color))
            top += round(LINE_HEIGHT * size)
    legend = _draw_legend(width) if has_map else None
    height = top + margin // 2 + (legend.height if legend else 0)
    band = Picture.new("RGB", (width, height), BLACK)
    for offset, text, size, color in placed:
        ImageDraw.Draw(band).text((margin, offset), text, fill=color, font=_font(size))
    if legend:
        band.paste(legend, (margin, top))
    return np.array(band)


def _draw_legend(width: int) -> Picture.Image:
    """Return the scale of the map, from little to most, as it looks over a medium gray."""
    size = max(SMALLEST_FONT_PX, width // 52)
    strength = np.tile(np.linspace(0, 1, 12 * size, dtype=np.float32), (size, 1))
    bar = _blend(np.full((size, 12 * size, 3), 96, np.float32), strength)
    return Picture.fromarray(np.rint(bar).astype(np.uint8))


def _wrap(text: str, font: Font, width: float) -> list[str]:
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


@lru_cache(maxsize=16)
def _font(size: int) -> Font:
    return ImageFont.load_default(size=size)
