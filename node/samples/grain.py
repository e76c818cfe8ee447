"""Random fields of a seed, the same at a place from wherever they are asked."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from node.samples.shapes import Floats, Reals

Indices = NDArray[np.int64]

FIBERS, GRAIN = 12, 13
"""Random streams of a slide's seed."""

PERIOD = 4096
"""Length of a table of fibers; what comes after repeats."""
FIBER_STEP_UM = 0.25
GRAIN_SIZE = 512


@dataclass(frozen=True, slots=True)
class Noise:
    """A smooth random field of −1 to 1 with one independent value each `pitch_um`."""

    seed: int
    stream: int
    pitch_um: float

    def on_grid(self, y_um: Reals, x_um: Reals) -> Floats:
        """Return the field (rows, columns) at a grid of heights (rows,) and widths (columns,)."""
        (y, down), (x, across) = self._steps(y_um), self._steps(x_um)
        if not y.size or not x.size:
            return np.zeros((y.size, x.size), dtype=np.float32)
        knots = self._values(
            np.arange(y[0], y[-1] + 2)[:, np.newaxis], np.arange(x[0], x[-1] + 2)[np.newaxis, :]
        )
        row, column = y - y[0], x - x[0]
        lines = knots[row] + (knots[row + 1] - knots[row]) * down[:, np.newaxis]
        first = lines[:, column]
        return np.asarray(first + (lines[:, column + 1] - first) * across, dtype=np.float32)

    def at(self, y_um: Reals, x_um: Reals) -> Floats:
        """Return the field at points, of the shape of their coordinates."""
        (y, down), (x, across) = self._steps(y_um), self._steps(x_um)
        upper = self._values(y, x), self._values(y, x + 1)
        lower = self._values(y + 1, x), self._values(y + 1, x + 1)
        left, right = upper[0] + (lower[0] - upper[0]) * down, upper[1] + (lower[1] - upper[1]) * down
        return np.asarray(left + (right - left) * across, dtype=np.float32)

    def _steps(self, um: Reals) -> tuple[Indices, Floats]:
        steps = np.asarray(um, dtype=np.float64) / self.pitch_um
        whole = np.floor(steps)
        part = (steps - whole).astype(np.float32)
        return whole.astype(np.int64), part * part * (3 - 2 * part)

    def _values(self, y: Indices, x: Indices) -> Floats:
        """Return the values of knots: their numbers, mixed until no pattern is left (splitmix64)."""
        mixed = x.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        mixed = mixed ^ (y.astype(np.uint64) * np.uint64(0xC2B2AE3D27D4EB4F))
        mixed = mixed + np.uint64((self.seed * 0x165667B19E3779F9 + self.stream * 0xD6E8FEB86659FD93) % 2**64)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
        mixed = mixed ^ (mixed >> np.uint64(31))
        return np.asarray((mixed >> np.uint64(40)) * 2.0**-23 - 1, dtype=np.float32)


@lru_cache(maxsize=64)
def fiber_table(seed: int, pixel_um: float) -> Floats:
    """Return how dense fibers are, 0–1, at steps across them, as a pixel of that size averages them."""
    random = np.random.default_rng([seed, FIBERS])
    strands = _smooth(random.standard_normal(PERIOD), 0.9 / FIBER_STEP_UM)
    strands += 0.7 * _smooth(random.standard_normal(PERIOD), 3.5 / FIBER_STEP_UM)
    values = np.clip(0.5 + 0.28 * strands / strands.std(), 0, 1)
    return _averaged(values, max(1, round(pixel_um / FIBER_STEP_UM)))


@lru_cache(maxsize=16)
def grain_plate(seed: int, sigma_px: float) -> Floats:
    """Return a plate (512, 512) of normal noise that can be laid edge to edge."""
    plate = np.random.default_rng([seed, GRAIN]).standard_normal((GRAIN_SIZE, GRAIN_SIZE))
    if sigma_px > 0:
        plate = _smooth(_smooth(plate, sigma_px).T, sigma_px)
    return np.asarray(plate / plate.std(), dtype=np.float32)


def _smooth(lines: Reals, sigma: float) -> NDArray[np.float64]:
    """Return closed lines of values, one or several (n, length), after a Gaussian blur."""
    length = lines.shape[-1]
    gain = np.exp(-2 * (np.pi * np.fft.rfftfreq(length) * sigma) ** 2)
    return np.asarray(np.fft.irfft(np.fft.rfft(lines) * gain, length))


def _averaged(line: Reals, width: int) -> Floats:
    """Return a closed line of values, each the mean of `width` around it."""
    whole = np.concatenate([line[-width:], line, line[:width]])
    kernel = np.full(width, 1 / width)
    first = width + (width - 1) // 2
    return np.asarray(np.convolve(whole, kernel, "full")[first : first + line.size], dtype=np.float32)
