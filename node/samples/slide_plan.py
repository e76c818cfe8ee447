"""What lies where on a synthetic slide: pieces of tissue, tumor regions, folds and pen marks, in µm."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from node.samples.shapes import Floats, Reals

LAYOUT, TUMOR, ARTIFACTS = 1, 2, 3
"""Random streams of a slide's seed; what one of them draws does not depend on the others."""

ANGLES = 720
TUMOR_SHARES = 0.04, 0.4
"""The least and the most of a piece of tissue that its tumor takes."""
TUMOR_MARGIN_UM = 4.0
LEAST_TUMOR_UM = 160.0
"""The least radius of a tumor, where the piece of tissue has room for it: some nests must fit in."""
LEAST_PIECE_UM = 1000.0
PEN_COLORS = ((0.12, 0.42, 0.25), (0.15, 0.2, 0.55), (0.09, 0.09, 0.1), (0.7, 0.12, 0.15))
"""How much red, green and blue light green, blue, black and red ink let through."""

Point = tuple[float, float]
Colors3 = tuple[float, float, float]


@dataclass(frozen=True, slots=True, eq=False)
class Blob:
    """A shape that every ray from its center leaves once; `reach` has its radii in ANGLES directions.

    Distances are counted in a plane that is turned and stretched: `axes_um` is the length of 1 along each.
    """

    center_xy_um: Point
    axes_um: Point
    turn_rad: float
    reach: Floats

    def depth_um(self, y_um: Reals, x_um: Reals) -> Floats:
        """Return about how deep points lie inside, negative outside; coordinates broadcast."""
        across, down = self._own(y_um, x_um)
        radius = np.sqrt(across * across + down * down)
        scale = np.float32(np.sqrt(self.axes_um[0] * self.axes_um[1]))
        return np.asarray((self._reach_towards(down, across) - radius) * scale, dtype=np.float32)

    def outline(self) -> NDArray[np.float64]:
        """Return the outline, (n, 2) as x and y in µm."""
        angle = 2 * np.pi * np.arange(ANGLES) / ANGLES
        own = (
            np.stack([self.reach * np.cos(angle), self.reach * np.sin(angle)])
            * np.asarray(self.axes_um)[:, None]
        )
        cosine, sine = np.cos(self.turn_rad), np.sin(self.turn_rad)
        x, y = own[0] * cosine - own[1] * sine, own[0] * sine + own[1] * cosine
        return np.stack([x + self.center_xy_um[0], y + self.center_xy_um[1]], axis=1)

    def _own(self, y_um: Reals, x_um: Reals) -> tuple[Floats, Floats]:
        x = np.asarray(x_um - self.center_xy_um[0], dtype=np.float32)
        y = np.asarray(y_um - self.center_xy_um[1], dtype=np.float32)
        cosine, sine = np.float32(np.cos(self.turn_rad)), np.float32(np.sin(self.turn_rad))
        across, down = (x * cosine + y * sine) / self.axes_um[0], (y * cosine - x * sine) / self.axes_um[1]
        return np.asarray(across, dtype=np.float32), np.asarray(down, dtype=np.float32)

    def _reach_towards(self, down: Floats, across: Floats) -> Floats:
        steps = np.arctan2(down, across) * np.float32(ANGLES / (2 * np.pi)) + np.float32(ANGLES)
        whole = steps.astype(np.int32)
        closed = np.concatenate([self.reach, self.reach, self.reach[:2]])
        first = closed[whole]
        return np.asarray(first + (closed[whole + 1] - first) * (steps - whole), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Stroke:
    """A line of some width: a fold of the tissue, or ink where it has a color."""

    points_xy_um: tuple[Point, ...]
    width_um: float
    color: Colors3 | None = None

    def depth_um(self, y_um: Reals, x_um: Reals) -> Floats:
        """Return how deep points, heights (rows, 1) and widths (1, columns), lie in the line."""
        least = np.full(np.broadcast_shapes(y_um.shape, x_um.shape), np.inf, dtype=np.float32)
        for (x0, y0), (x1, y1) in zip(self.points_xy_um, self.points_xy_um[1:], strict=False):
            dx, dy = x1 - x0, y1 - y0
            x, y = np.asarray(x_um - x0, dtype=np.float32), np.asarray(y_um - y0, dtype=np.float32)
            along = np.clip((x * np.float32(dx) + y * np.float32(dy)) / np.float32(dx * dx + dy * dy), 0, 1)
            away: Floats = np.square(x - along * np.float32(dx)) + np.square(y - along * np.float32(dy))
            np.minimum(least, away, out=least)
        return np.asarray(np.float32(self.width_um / 2) - np.sqrt(least), dtype=np.float32)

    def touches(self, y_um: Reals, x_um: Reals) -> bool:
        """Return whether the line can lie in the box of a grid."""
        points, reach = np.asarray(self.points_xy_um), self.width_um
        low, high = points.min(axis=0) - reach, points.max(axis=0) + reach
        return bool(
            low[0] < x_um.max() and high[0] > x_um.min() and low[1] < y_um.max() and high[1] > y_um.min()
        )


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """Everything on one slide that is larger than a gland."""

    tissue: tuple[Blob, ...]
    tumor: tuple[Blob, ...]
    folds: tuple[Stroke, ...]
    marks: tuple[Stroke, ...]


def draw_plan(seed: int, size_xy_um: Point, *, is_tumor: bool) -> Plan:
    """Return the layout of a slide: with and without tumor the same but for the tumor."""
    tissue = _draw_tissue(np.random.default_rng([seed, LAYOUT]), size_xy_um)
    tumor = _draw_tumor(np.random.default_rng([seed, TUMOR]), tissue) if is_tumor else ()
    random = np.random.default_rng([seed, ARTIFACTS])
    folds = tuple(_draw_fold(random, tissue) for _ in range(int(random.choice(4, p=(0.45, 0.3, 0.15, 0.1)))))
    count = int(random.choice(3, p=(0.6, 0.25, 0.15)))
    return Plan(tissue, tumor, folds, tuple(_draw_mark(random, tissue, size_xy_um) for _ in range(count)))


def depth_in(blobs: tuple[Blob, ...], y_um: Reals, x_um: Reals) -> Floats:
    """Return how deep points lie in the nearest of some shapes, very negative where there is none."""
    shape = np.broadcast_shapes(np.shape(y_um), np.shape(x_um))
    depth = np.full(shape, -1e4, dtype=np.float32)
    for blob in blobs:
        np.maximum(depth, blob.depth_um(y_um, x_um), out=depth)
    return depth


def _draw_tissue(random: np.random.Generator, size_xy_um: Point) -> tuple[Blob, ...]:
    """Return the pieces: side by side along the longer side of the slide."""
    count = int(random.choice((1, 2, 3), p=(0.4, 0.4, 0.2)))
    count = min(count, max(1, int(max(size_xy_um) // LEAST_PIECE_UM)))
    is_wide = size_xy_um[0] >= size_xy_um[1]
    long, short = max(size_xy_um), min(size_xy_um)
    pieces = []
    for number in range(count):
        axes = np.array([long / count, short]) * random.uniform((0.36, 0.3), (0.42, 0.42))
        center = (number + 0.5) * long / count, short * (0.5 + random.uniform(-0.03, 0.03))
        if not is_wide:
            center, axes = (center[1], center[0]), axes[::-1]
        turn = float(random.normal(0, 0.08))
        pieces.append(Blob(center, (float(axes[0]), float(axes[1])), turn, _reach(random, 0.11, 48)))
    return tuple(pieces)


def _reach(random: np.random.Generator, roughness: float, waves: int) -> Floats:
    """Return radii around 1, rough at every scale down to a turn's part of `waves`."""
    angle = 2 * np.pi * np.arange(ANGLES) / ANGLES
    number = np.arange(2, waves)[:, np.newaxis]
    height = roughness * random.standard_normal(number.shape) / number**1.1 * 2**1.1 / 1.6
    wave = (height * np.cos(number * angle + random.uniform(0, 2 * np.pi, number.shape))).sum(axis=0)
    return np.asarray(np.clip(1 + wave, 0.5, 1.18), dtype=np.float32)


def _draw_tumor(random: np.random.Generator, tissue: tuple[Blob, ...]) -> tuple[Blob, ...]:
    """Return one tumor region, or one in each of two pieces."""
    count = min(len(tissue), 1 + int(random.random() < 0.3))
    chosen = random.permutation(len(tissue))[:count]
    return tuple(_draw_region(random, tissue[number]) for number in chosen)


def _draw_region(random: np.random.Generator, piece: Blob) -> Blob:
    """Return a region inside a piece of tissue."""
    share = np.exp(random.uniform(*np.log(TUMOR_SHARES)))
    radius = float(np.sqrt(share * piece.axes_um[0] * piece.axes_um[1]))
    radius = max(radius, min(LEAST_TUMOR_UM, 0.6 * min(piece.axes_um)))
    angle, far = random.uniform(0, 2 * np.pi), random.uniform(0, 0.6) * (1 - np.sqrt(share))
    own = far * np.cos(angle) * piece.axes_um[0], far * np.sin(angle) * piece.axes_um[1]
    cosine, sine = np.cos(piece.turn_rad), np.sin(piece.turn_rad)
    center = (
        float(piece.center_xy_um[0] + own[0] * cosine - own[1] * sine),
        float(piece.center_xy_um[1] + own[0] * sine + own[1] * cosine),
    )
    free = Blob(center, (radius, radius), 0.0, _reach(random, 0.2, 24))
    return Blob(center, (radius, radius), 0.0, _clipped(free, piece))


def _clipped(region: Blob, piece: Blob) -> Floats:
    """Return the radii of a region as far as they stay inside the tissue."""
    shares = np.linspace(0, 1, 201)[1:, np.newaxis, np.newaxis]
    center = np.asarray(region.center_xy_um)
    points = center + shares * (region.outline() - center)
    inside = piece.depth_um(points[..., 1], points[..., 0]) > TUMOR_MARGIN_UM
    steps = np.logical_and.accumulate(inside, axis=0).sum(axis=0)
    return np.asarray(region.reach * np.maximum(steps, 1) / len(shares), dtype=np.float32)


def _draw_fold(random: np.random.Generator, tissue: tuple[Blob, ...]) -> Stroke:
    """Return a line across a piece of tissue, along which it lies double."""
    piece = tissue[int(random.integers(len(tissue)))]
    outline, start = piece.outline(), int(random.integers(ANGLES))
    ends = outline[start], outline[(start + int(random.integers(ANGLES // 6, ANGLES // 2))) % ANGLES]
    return Stroke(_curve(random, ends[0], ends[1], 0.08), float(random.uniform(18, 60)))


def _draw_mark(random: np.random.Generator, tissue: tuple[Blob, ...], size_xy_um: Point) -> Stroke:
    """Return a pen's line: along the edge of a piece of tissue or across the slide, tumor or not."""
    width = float(min(random.uniform(120, 350), 0.08 * min(size_xy_um)))
    color = PEN_COLORS[int(random.integers(len(PEN_COLORS)))]
    piece = tissue[int(random.integers(len(tissue)))]
    if random.random() < 0.6:
        start, length = int(random.integers(ANGLES)), int(random.integers(ANGLES // 6, ANGLES // 2))
        ring = np.asarray(piece.center_xy_um) + (piece.outline() - piece.center_xy_um) * random.uniform(
            0.9, 1.12
        )
        picked = ring[np.arange(start, start + length, 24) % ANGLES]
        return Stroke(tuple((float(x), float(y)) for x, y in picked), width, color)
    ends = random.uniform(0.05, 0.95, (2, 2)) * np.asarray(size_xy_um)
    return Stroke(_curve(random, ends[0], ends[1], 0.03), width, color)


def _curve(random: np.random.Generator, start: Reals, end: Reals, bend: float) -> tuple[Point, ...]:
    """Return points of a wavy line between two."""
    share = np.linspace(0, 1, 14)[:, np.newaxis]
    along = end - start
    waves = random.normal(0, bend, 3) / (1 + np.arange(3))
    off = sum(wave * np.sin((number + 1) * np.pi * share) for number, wave in enumerate(waves))
    points = start + share * along + off * np.array([-along[1], along[0]])
    return tuple((float(x), float(y)) for x, y in points)
