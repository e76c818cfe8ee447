"""Where nodules are put in the lungs of a synthetic body."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from node.samples.ct_body import MAP_MM, CtBody
from node.samples.nodules import Attachment, Nodule, draw_shape
from node.samples.shapes import Point

CT_NODULES = 5
"""Random stream of a seed."""


def draw_nodules(
    body: CtBody, count: int, *, diameters_mm: Sequence[float] = (), stream: int = 0
) -> tuple[Nodule, ...]:
    """Return so many nodules of 4–30 mm in the lungs, apart from each other, or of the diameters given.

    A quarter hangs on the wall, a quarter on a vessel; the rest lies free, away from larger vessels.
    """
    random = np.random.default_rng([body.seed, CT_NODULES, stream])
    sizes = list(diameters_mm) or [float(np.exp(random.uniform(np.log(4), np.log(30)))) for _ in range(count)]
    placed: list[Nodule] = []
    for diameter in sorted(sizes, reverse=True):
        nodule = _place(body, random, diameter, placed)
        if nodule is not None:
            placed.append(nodule)
    return tuple(placed)


def _place(
    body: CtBody, random: np.random.Generator, diameter_mm: float, placed: Sequence[Nodule]
) -> Nodule | None:
    attachments: list[Attachment | None] = [None, None, "wall", "vessel"]
    for _ in range(200):
        attachment = attachments[int(random.integers(4))]
        center = _spot(body, random, diameter_mm / 2, attachment)
        if center is None:
            continue
        gaps = [
            float(np.linalg.norm(np.subtract(center, one.center_xyz_mm)))
            - (one.diameter_mm + diameter_mm) / 2
            for one in placed
        ]
        if min(gaps, default=99.0) > 8:
            return draw_shape(random, center, diameter_mm, attachment)
    return None


def _spot(
    body: CtBody, random: np.random.Generator, radius: float, attachment: Attachment | None
) -> Point | None:
    """Return a place for a nodule of a radius, None where the draw was no good."""
    inside = np.argwhere(body.lung_map)
    point = np.asarray(body.map_origin_xyz_mm) + MAP_MM * inside[int(random.integers(len(inside)))][::-1]
    aim = random.normal(0, 1, 3)
    aim /= np.linalg.norm(aim)
    if attachment == "wall":
        steps = np.arange(0, 120, 1.0)
        is_in = body.is_lung(point + steps[:, np.newaxis] * aim)
        if is_in.all():
            return None
        center = point + (steps[int(np.argmin(is_in))] - float(random.uniform(0.35, 0.85)) * radius) * aim
        # Most of it must be lung: behind the wall nobody sees it.
        is_good = float(body.is_lung(center + _ball(0.9 * radius)).mean()) > 0.55
    elif attachment == "vessel":
        vessels = body.trees.vessels
        index = int(random.integers(len(vessels)))
        wide = float(vessels.radii[index].mean())
        middle = (vessels.starts[index] + vessels.ends[index]) / 2
        center = middle + (wide + float(random.uniform(0.3, 0.9)) * radius) * aim
        is_good = wide > 0.7 and bool(body.is_lung(center + _ball(radius + 3)).all())
    else:
        return free_spot(body, random, radius)
    return (float(center[0]), float(center[1]), float(center[2])) if is_good else None


def free_spot(body: CtBody, random: np.random.Generator, radius: float) -> Point | None:
    """Return a drawn place in a lung, a few mm from walls and larger vessels, None where it was no good."""
    inside = np.argwhere(body.lung_map)
    step = random.uniform(-0.5, 0.5, 3) + inside[int(random.integers(len(inside)))][::-1]
    center = np.asarray(body.map_origin_xyz_mm) + MAP_MM * step
    is_good = bool(body.is_lung(center + _ball(radius + 4)).all()) and _is_free(body, center, radius)
    return (float(center[0]), float(center[1]), float(center[2])) if is_good else None


def _is_free(body: CtBody, center: NDArray[np.float64], radius: float) -> bool:
    """Return whether no vessel of more than 1.2 mm radius comes near."""
    near = body.trees.vessels.touching(list(center - radius), list(center + radius))
    return not bool((near.radii.mean(axis=1) > 1.2).any())


def _ball(radius: float) -> NDArray[np.float64]:
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 5)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    return np.asarray(radius * grid[(grid**2).sum(axis=1) <= 1.01])
