"""Where lesions are put in the lungs of a synthetic body: free, behind heart, rib or diaphragm."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from node.samples.anatomy import Thorax
from node.samples.projection import rib_depth_mm
from node.samples.shapes import (
    Floats,
    Point,
    cross_cage,
    cross_domes,
    cross_organs,
    is_lung,
    length_mm,
    overlap,
)

Place = Literal["free lung", "behind rib", "behind heart", "behind diaphragm"]

PLACES: tuple[Place, ...] = ("free lung", "behind rib", "behind heart", "behind diaphragm")
SHARES = (0.38, 0.26, 0.2, 0.16)
"""How often each place is looked for first."""

CANDIDATES = 4096
RIB_MM = 2.0
"""Bone on the ray through the middle of what lies behind a rib; of a large lesion only this ray counts."""
ORGAN_SHARE, DOME_SHARE = 0.25, 0.12
"""Of half the cage's width: so much heart or belly is met by the ray through the middle."""
MARGIN_BY_KIND = {"nodule": 0.9, "mass": 0.6, "consolidation": 0.3}
"""How much of its radius must be lung in all six directions."""


@dataclass(frozen=True, slots=True)
class Spot:
    """A point in a lung and what lies before or behind it."""

    center_xyz_mm: Point
    place: Place


def draw_spot(body: Thorax, random: np.random.Generator, *, kind: str, size_mm: float) -> Spot | None:
    """Return where a lesion fits into a lung, None where the draw found no such place."""
    wanted = random.choice(len(PLACES), p=SHARES)
    x, y, z = _roomy(body, _candidates(body, random), margin_mm=MARGIN_BY_KIND[kind] * size_mm / 2 + 1)
    if not len(x):
        return None
    places = places_of(body, x, z)
    # Where the place has no room, any other.
    index = int(np.argmax(places == wanted))
    return Spot((float(x[index]), float(y[index]), float(z[index])), PLACES[int(places[index])])


def places_of(body: Thorax, x: Floats, z: Floats) -> NDArray[np.intp]:
    """Return which of `PLACES` the ray at each (x, z) goes through; the last that holds wins."""
    cavity = cross_cage(body.lungs.cage, x, z)
    organs = length_mm(overlap(cavity, cross_organs(body.lungs, x, z)))
    below = length_mm(overlap(cavity, cross_domes(body.lungs, x, z)))
    places = np.zeros(x.shape, dtype=np.intp)
    places[rib_depth_mm(body, x, z) > RIB_MM] = PLACES.index("behind rib")
    places[organs > ORGAN_SHARE * body.scale_mm] = PLACES.index("behind heart")
    places[below > DOME_SHARE * body.scale_mm] = PLACES.index("behind diaphragm")
    return places


def _candidates(body: Thorax, random: np.random.Generator) -> tuple[Floats, Floats, Floats]:
    scale = np.float32(body.scale_mm)
    x = random.uniform(-0.95, 0.95, CANDIDATES).astype(np.float32) * scale
    y = random.uniform(-0.7, 0.8, CANDIDATES).astype(np.float32) * scale
    z = random.uniform(-0.45, 1.7, CANDIDATES).astype(np.float32) * scale
    return x, y, z


def _roomy(
    body: Thorax, points: tuple[Floats, Floats, Floats], *, margin_mm: float
) -> tuple[Floats, Floats, Floats]:
    """Return the points with lung on all six sides, the margin away."""
    x, y, z = points
    for way in ((0, 0, 0), (1, 0, 0), (-1, 0, 0), (0, 0, 1), (0, 0, -1), (0, 1, 0), (0, -1, 0)):
        dx, dy, dz = (np.float32(margin_mm * share) for share in way)
        is_good = is_lung(body.lungs, x + dx, y + dy, z + dz)
        x, y, z = x[is_good], y[is_good], z[is_good]
    return x, y, z
