"""Lines, labels and maps laid over a picture; they know pixels and colors, and nothing of findings."""

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image as Picture
from PIL import ImageDraw, ImageFont

Pixels = npt.NDArray[np.uint8]
Map = npt.NDArray[np.float32]
Area = npt.NDArray[np.bool_]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Color = tuple[int, int, int]
Point = tuple[float, float]
Box = tuple[int, int, int, int]
"""Left, top, right, bottom."""

BLACK = (0, 0, 0)

COLORS = np.array(
    [[136, 34, 106], [203, 65, 73], [243, 120, 25], [252, 181, 25], [245, 233, 117]], np.float32
)
"""Purple to pale yellow, ever lighter (upper part of the map "inferno"), so that gray print shows it too."""

FAINT, STRONG, OPACITY = 0.3, 0.8, 0.55
"""Below FAINT of its maximum a map shows nothing; from STRONG on it covers the picture by OPACITY."""

OUTLINE_LEVEL = 0.5
LINE_PX, HALO_PX = 3, 1
"""A line of color between two of black: it is seen on bone, on air, and on a white slide."""

DASH_PX, GAP_PX = 12, 8
TAG_MARGIN_PX = 4


def resize(values: Map, rows: int, columns: int) -> Map:
    """Return an array of 0–1 at another size: averaged where it shrinks, smoothed where it grows."""
    picture = Picture.fromarray(np.ascontiguousarray(values, np.float32))
    is_smaller = values.shape[0] > rows and values.shape[1] > columns
    method = Picture.Resampling.BOX if is_smaller else Picture.Resampling.BICUBIC
    return np.clip(np.asarray(picture.resize((columns, rows), method), np.float32), 0, 1)


def enlarge(inside: Area, rows: int, columns: int) -> Area:
    """Return an area at another size; where it shrinks, what is left of a small part is still there."""
    picture = Picture.fromarray(np.where(inside, np.uint8(255), np.uint8(0)))
    if inside.shape[0] > rows or inside.shape[1] > columns:
        return np.asarray(picture.resize((columns, rows), Picture.Resampling.BOX)) > 0
    return np.asarray(picture.resize((columns, rows), Picture.Resampling.BILINEAR)) >= 128


def fit(values: npt.NDArray[np.generic], shape: tuple[int, int]) -> npt.NDArray[np.generic]:
    """Return the array cut to a shape, or filled up with nothing."""
    cut = values[: shape[0], : shape[1]]
    return np.pad(cut, [(0, full - part) for full, part in zip(shape, cut.shape, strict=True)])


def blend(color: Map, strength: Map) -> Map:
    """Lay a map over the picture, ever more opaque, with a line around its core."""
    ramp = np.clip((strength - FAINT) / (STRONG - FAINT), 0, 1)
    stops = np.linspace(FAINT, 1, len(COLORS))
    tint = np.stack([np.interp(strength, stops, channel) for channel in COLORS.T], axis=-1)
    opacity = (OPACITY * ramp * ramp * (3 - 2 * ramp))[..., None]
    opacity[border(strength >= OUTLINE_LEVEL)] = 0.9
    return np.asarray(color * (1 - opacity) + tint * opacity, np.float32)


def border(core: Area) -> Area:
    """Return the pixels on either side of the border of an area."""
    edge = np.zeros_like(core)
    across, down = core[:, 1:] != core[:, :-1], core[1:] != core[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    return edge


def draw_contour(body: Pixels, inside: Area, color: Color, *, is_dashed: bool) -> None:
    """Color the border of an area."""
    edge = border(inside)
    if is_dashed:
        row, column = np.ogrid[: edge.shape[0], : edge.shape[1]]
        edge &= (row + column) % (DASH_PX + GAP_PX) < DASH_PX
    body[edge] = color


def draw_line(picture: Picture.Image, points: Sequence[Point], color: Color, *, is_dashed: bool) -> None:
    """Draw a closed line; its middle is where the points are."""
    pieces = list(_dashes(points) if is_dashed else _sides(points))
    pen = ImageDraw.Draw(picture)
    for width, ink in ((LINE_PX + 2 * HALO_PX, BLACK), (LINE_PX, color)):
        for start, end in pieces:
            pen.line([start, end], fill=ink, width=width)


def draw_tag(picture: Picture.Image, text: str, beside: Box, taken: list[Box], color: Color) -> None:
    """Write a label on its color at a corner of a box, inside the picture, and on no other where it can."""
    letters = font(max(14, picture.width // 48))
    left, top, right, bottom = letters.getbbox(text)
    width, height = (math.ceil(side) + 2 * TAG_MARGIN_PX for side in (right - left, bottom - top))
    places = [_moved_inside(place, picture.size) for place in _places(beside, width, height)]
    free = [place for place in places if not any(_overlap(place, one) for one in taken)]
    place = (free or places)[0]
    taken.append(place)
    pen = ImageDraw.Draw(picture)
    pen.rectangle((place[0], place[1], place[2] - 1, place[3] - 1), fill=color)
    pen.text(
        (place[0] + TAG_MARGIN_PX - left, place[1] + TAG_MARGIN_PX - top), text, fill=BLACK, font=letters
    )


@lru_cache(maxsize=16)
def font(size: int) -> Font:
    """Return the font that Pillow carries, which has ASCII and little else."""
    return ImageFont.load_default(size=size)


def _sides(points: Sequence[Point]) -> Iterator[tuple[Point, Point]]:
    return zip(points, [*points[1:], points[0]], strict=True)


def _dashes(points: Sequence[Point]) -> Iterator[tuple[Point, Point]]:
    """Yield the dashes of a closed line; they go on around its corners."""
    period, done = DASH_PX + GAP_PX, 0.0
    for (x, y), (to_x, to_y) in _sides(points):
        length = math.hypot(to_x - x, to_y - y)
        first = math.floor(done / period)
        for index in range(first, math.floor((done + length) / period) + 1 if length else first):
            start, end = (min(max(at - done, 0), length) for at in (index * period, index * period + DASH_PX))
            if end > start:
                yield (
                    (x + (to_x - x) * start / length, y + (to_y - y) * start / length),
                    (x + (to_x - x) * end / length, y + (to_y - y) * end / length),
                )
        done += length


def _places(beside: Box, width: int, height: int) -> Iterator[Box]:
    """Yield where a label may stand: above and below the box, then within it."""
    left, top, right, bottom = beside
    gap = LINE_PX // 2 + HALO_PX + 1
    for x, y in (
        (left, top - height - gap),
        (right - width, top - height - gap),
        (left, bottom + gap),
        (right - width, bottom + gap),
        (right + gap, top),
        (left - width - gap, top),
        (left + gap, top + gap),
        (right - width - gap, bottom - height - gap),
    ):
        yield x, y, x + width, y + height


def _moved_inside(place: Box, size: tuple[int, int]) -> Box:
    left, top, right, bottom = place
    across = max(min(0, size[0] - right), -left)
    down = max(min(0, size[1] - bottom), -top)
    return left + across, top + down, right + across, bottom + down


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
