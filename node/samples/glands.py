"""Glands of a synthetic slide: a wall of epithelium around a lumen, by radii around their centers."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from node.samples.shapes import Floats, Reals

DIRECTIONS = 96
"""How many radii an outline has; the first one is repeated at the end."""
WIDEST_UM = 82.0
"""No outline goes further from its center."""


@dataclass(frozen=True, slots=True, eq=False)
class Glands:
    """Some glands: their centers (n,), and the radii (n, DIRECTIONS + 1) of outlines and of lumens.

    A negative radius of a lumen means that there is none in that direction.
    """

    x_um: NDArray[np.float64]
    y_um: NDArray[np.float64]
    rim_um: Floats
    lumen_um: Floats

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.x_um)

    def depths_um(self, y_um: Reals, x_um: Reals) -> tuple[Floats, Floats]:
        """Return how deep points (n,) lie in the epithelium or what it encloses, and how deep in a lumen."""
        if not len(self):
            nowhere = np.full(np.shape(x_um), -1e3, dtype=np.float32)
            return nowhere, nowhere
        x, y = x_um[:, np.newaxis] - self.x_um, y_um[:, np.newaxis] - self.y_um
        number = np.arange(len(self))[np.newaxis, :]
        rim, lumen = _depths(self, number, y.astype(np.float32), x.astype(np.float32))
        return rim.max(axis=1), lumen.max(axis=1)

    def draw(self, y_um: Reals, x_um: Reals) -> tuple[Floats, Floats]:
        """Return the same for a grid of heights (rows,) and widths (columns,)."""
        rim = np.full((y_um.size, x_um.size), -1e3, dtype=np.float32)
        lumen = rim.copy()
        for number in range(len(self)):
            rows = _within(y_um, self.y_um[number])
            columns = _within(x_um, self.x_um[number])
            y = (y_um[rows] - self.y_um[number]).astype(np.float32)[:, np.newaxis]
            x = (x_um[columns] - self.x_um[number]).astype(np.float32)[np.newaxis, :]
            if y.size and x.size:
                own = _depths(self, number, y, x)
                for plane, depth in zip((rim, lumen), own, strict=True):
                    np.maximum(plane[rows, columns], depth, out=plane[rows, columns])
        return rim, lumen

    def towards(self, number: int, angle: Reals) -> Floats:
        """Return the radii of one gland's outline at some angles (n,)."""
        steps = (angle % (2 * np.pi)) * (DIRECTIONS / (2 * np.pi))
        return np.asarray(np.interp(steps, np.arange(DIRECTIONS + 1), self.rim_um[number]), dtype=np.float32)

    def only(self, chosen: NDArray[np.bool_]) -> "Glands":
        """Return some of them."""
        return Glands(self.x_um[chosen], self.y_um[chosen], self.rim_um[chosen], self.lumen_um[chosen])


def no_glands() -> Glands:
    """Return none."""
    nowhere, nothing = np.zeros(0), np.zeros((0, DIRECTIONS + 1), dtype=np.float32)
    return Glands(nowhere, nowhere, nothing, nothing)


def join(parts: list[Glands]) -> Glands:
    """Return the glands of several parts, in their order."""
    return Glands(
        np.concatenate([part.x_um for part in parts]),
        np.concatenate([part.y_um for part in parts]),
        np.concatenate([part.rim_um for part in parts]),
        np.concatenate([part.lumen_um for part in parts]),
    )


def shaped(
    random: np.random.Generator,
    x_um: Reals,
    y_um: Reals,
    radius_um: Reals,
    *,
    wall_um: Reals,
    roughness: float,
) -> Glands:
    """Return glands of given centers, mean radii and thickness of the epithelium; the rest is drawn."""
    count = len(x_um)
    angle = 2 * np.pi * np.arange(DIRECTIONS + 1) / DIRECTIONS
    waves = 1 + _waves(random, count, np.arange(2, 7), angle) * roughness
    rim = np.clip(radius_um[:, np.newaxis] * waves, 4, WIDEST_UM)
    # The smaller the lumen, the smoother: it would be a star else.
    heights = np.clip((radius_um - wall_um) / 10, 0, 2.0)[:, np.newaxis]
    folds = _waves(random, count, np.arange(5, 12), angle) * heights
    lumen = rim - wall_um[:, np.newaxis] + folds
    lumen[(rim.mean(axis=1) - wall_um) < 4] = -1e3
    return Glands(
        np.asarray(x_um, dtype=np.float64),
        np.asarray(y_um, dtype=np.float64),
        rim.astype(np.float32),
        lumen.astype(np.float32),
    )


def _waves(random: np.random.Generator, count: int, numbers: NDArray[np.int64], angle: Reals) -> Reals:
    """Return waves (count, angles) around 0, weaker the finer they are."""
    heights = random.standard_normal((count, len(numbers))) * (numbers[0] / numbers)
    phases = random.uniform(0, 2 * np.pi, (count, len(numbers), 1))
    return np.asarray(
        (heights[..., np.newaxis] * np.cos(numbers[:, np.newaxis] * angle + phases)).sum(axis=1)
    )


def _depths(glands: Glands, number: int | NDArray[np.int64], y: Floats, x: Floats) -> tuple[Floats, Floats]:
    """Return how deep offsets from the centers lie inside outline and lumen."""
    radius = np.sqrt(x * x + y * y)
    steps = np.arctan2(y, x) * np.float32(DIRECTIONS / (2 * np.pi))
    steps = np.clip(steps + np.float32(DIRECTIONS) * (steps < 0), 0, np.float32(DIRECTIONS - 1e-3))
    whole = steps.astype(np.int32)
    part = steps - whole
    depths = []
    for table in (glands.rim_um, glands.lumen_um):
        near = table[number, whole]
        depths.append(near + (table[number, whole + 1] - near) * part - radius)
    return depths[0], depths[1]


def _within(um: Reals, center_um: float) -> slice:
    first, last = np.searchsorted(um, (center_um - WIDEST_UM, center_um + WIDEST_UM))
    return slice(int(first), int(last))
