"""How a scanner shows a body: the width of an edge, noise with a kernel's texture, padding around."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import numpy as np

from node.samples.shapes import Floats

Kernel = Literal["soft", "sharp"]

EDGE_MM: dict[Kernel, float] = {"soft": 1.1, "sharp": 0.7}
"""Width of an edge in the plane, before the pixels' own."""
FREQUENCY_PER_MM: dict[Kernel, float] = {"soft": 0.22, "sharp": 0.5}
"""Where the noise of each kernel has its power."""
NOISE_HU: dict[Kernel, float] = {"soft": 14.0, "sharp": 34.0}
"""Noise at dose 1, slices of 1.25 mm."""
LOWEST_HU, HIGHEST_HU = -1024, 3071


@dataclass(frozen=True, slots=True)
class Scan:
    """How a CT is taken: `dose` 1 is a diagnostic scan, 0.1 a screening one.

    `padding_hu` fills what lies outside the circular field of view; without it the field is square.
    """

    kernel: Kernel = "soft"
    dose: float = 1.0
    padding_hu: int | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for an unknown kernel or a dose that is not positive."""
        if self.kernel not in get_args(Kernel) or not self.dose > 0:
            raise ValueError(f"kernel {self.kernel!r}, dose {self.dose}: expected {get_args(Kernel)}, > 0")

    def edge_mm(self, pixel_mm: float) -> float:
        """Return the width over which an edge rises from nothing to all."""
        return float(np.hypot(EDGE_MM[self.kernel], pixel_mm))

    def noise_hu(self, slice_mm: float) -> float:
        """Return the standard deviation of the noise: thin slices and low doses are noisier."""
        thinness = 1.25 / max(slice_mm, 0.4)
        return float(min(NOISE_HU[self.kernel] * (thinness / self.dose) ** 0.5, 120.0))


def add_noise(
    hounsfield: Floats, scan: Scan, spacing_zyx_mm: tuple[float, float, float], random: np.random.Generator
) -> None:
    """Add noise to slices (z, y, x), independent from slice to slice, correlated in each."""
    planes, rows, columns = hounsfield.shape
    sigma = scan.noise_hu(spacing_zyx_mm[0])
    shape = _spectrum(rows, columns, scan.kernel, spacing_zyx_mm[1:])
    for plane in range(planes):
        parts = random.standard_normal((rows, columns // 2 + 1, 2), dtype=np.float32)
        waves = parts.view(np.complex64)[..., 0] * shape
        noise = np.fft.irfft2(waves, s=(rows, columns), norm="ortho")
        hounsfield[plane] += np.float32(sigma) * noise.astype(np.float32, copy=False)


@lru_cache(maxsize=32)
def _spectrum(rows: int, columns: int, kernel: Kernel, spacing_yx_mm: tuple[float, ...]) -> Floats:
    """Return the amplitude of each wave of a slice: a ramp that the kernel ends; its noise has variance 1."""
    along = np.fft.fftfreq(rows, spacing_yx_mm[0])[:, np.newaxis]
    across = np.fft.rfftfreq(columns, spacing_yx_mm[1])
    frequency = np.hypot(along, across)
    amplitude = np.sqrt(frequency + 0.02) * np.exp(-((frequency / FREQUENCY_PER_MM[kernel]) ** 2) / 2)
    # All columns but the first stand for their mirror images, too; a complex normal has power 2.
    weights = np.full(across.shape, 2.0)
    weights[0] = 1
    power = 2 * float((amplitude**2 * weights).sum()) / (rows * columns)
    return np.asarray(amplitude / power**0.5, dtype=np.float32)


def pad_outside(hounsfield: Floats, scan: Scan) -> None:
    """Put the padding value outside the circle that each slice (z, y, x) encloses."""
    if scan.padding_hu is None:
        return
    _, rows, columns = hounsfield.shape
    y = (np.arange(rows) - (rows - 1) / 2)[:, np.newaxis] / (rows / 2)
    x = (np.arange(columns) - (columns - 1) / 2) / (columns / 2)
    hounsfield[:, y * y + x * x > 1] = scan.padding_hu
