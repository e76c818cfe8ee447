"""The colors of hematoxylin and eosin: how much light each stain takes from red, green and blue."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from node.samples.shapes import Floats

Colors = NDArray[np.uint8]

RUIFROK_JOHNSTON = ((0.650, 0.704, 0.286), (0.072, 0.990, 0.105))
"""Optical density of hematoxylin and of eosin in red, green, blue (Ruifrok and Johnston 2001)."""
MACENKO = ((0.5626, 0.7201, 0.4062), (0.2159, 0.8012, 0.5581))
"""The same as another laboratory's slides show them (Macenko et al. 2009)."""

STAIN = 11
"""Random stream of a slide's seed."""

STEPS = 256
"""Shades of each stain that are told apart."""
HIGHEST = 2.0
"""The most of one stain that is drawn, in optical density (base 10) of its unit vector."""


@dataclass(frozen=True, slots=True)
class Stain:
    """The stains of one slide: unit vectors of optical density, their strength, the color of bare glass."""

    hematoxylin: tuple[float, float, float]
    eosin: tuple[float, float, float]
    strength: tuple[float, float]
    glass: tuple[float, float, float]

    def colors(self, hematoxylin: Floats, eosin: Floats) -> Colors:
        """Return the colors (rows, columns, 3) of so much of each stain, in optical density."""
        scale = np.float32((STEPS - 1) / HIGHEST)
        h, e = (
            np.clip(plane * scale + np.float32(0.5), 0, STEPS - 1).astype(np.uint16)
            for plane in (hematoxylin, eosin)
        )
        return np.asarray(_palette(self)[h * np.uint16(STEPS) + e])


@lru_cache(maxsize=16)
def _palette(stain: Stain) -> Colors:
    """Return the color (n, 3) of each pair of shades, eosin running fastest."""
    shades = np.linspace(0, HIGHEST, STEPS)
    h, e = np.meshgrid(shades * stain.strength[0], shades * stain.strength[1], indexing="ij")
    density = h[..., np.newaxis] * stain.hematoxylin + e[..., np.newaxis] * stain.eosin
    return np.asarray(np.rint(np.asarray(stain.glass) * 10.0**-density), dtype=np.uint8).reshape(-1, 3)


def draw_stain(seed: int) -> Stain:
    """Return how the laboratory of a seed stains: anything from the one published matrix to the other."""
    random = np.random.default_rng([seed, STAIN])
    vectors = []
    for one, other in zip(RUIFROK_JOHNSTON, MACENKO, strict=True):
        share = random.uniform(0.25, 1.0)
        mixed = (1 - share) * np.asarray(one) + share * np.asarray(other) + random.normal(0, 0.015, 3)
        mixed = np.clip(mixed, 0.01, None)
        vectors.append(mixed / np.linalg.norm(mixed))
    glass = random.uniform(238, 246) + random.normal(0, 1.0, 3)
    (h, e), strength = vectors, np.exp(random.normal(0, 0.1, 2))
    return Stain(
        (float(h[0]), float(h[1]), float(h[2])),
        (float(e[0]), float(e[1]), float(e[2])),
        (float(strength[0]), float(strength[1])),
        (float(glass[0]), float(glass[1]), float(glass[2])),
    )
