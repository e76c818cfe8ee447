"""The tree of arteries, veins and bronchi that fills a pair of lungs, in patient millimeters."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from node.samples.tubes import Tubes, join

Points = NDArray[np.float64]

TWIG_MM = 0.42
"""Radius of the last vessels that are drawn; those before them follow from how many they feed (Murray)."""
MURRAY = 2.9


@dataclass(frozen=True, slots=True, eq=False)
class Trees:
    """What branches through both lungs: blood vessels, bronchi with their walls, and the air in them."""

    vessels: Tubes
    bronchi: Tubes
    lumina: Tubes


def grow_trees(random: np.random.Generator, tips: Points, scale_mm: float) -> Trees:
    """Return the trees that reach the tips (n, 3), points all over both lungs."""
    vessels, bronchi, lumina = [], [], []
    for side in (-1, 1):
        own = tips[np.sign(tips[:, 0]) == side]
        share = random.random(len(own))
        hilum = scale_mm * np.asarray([side * 0.22, 0.08, 0.66 if side < 0 else 0.72])
        arteries = _grow(random, hilum + scale_mm * np.asarray([0, 0, 0.05]), own[share < 0.6])
        veins = _grow(random, hilum - scale_mm * np.asarray([0, 0.06, 0.1]), own[share >= 0.6])
        vessels += [arteries, veins]
        walls, air = _beside(arteries, np.asarray([side * 0.5, 0.6, 0.62]))
        bronchi.append(walls)
        lumina.append(air)
    return Trees(join(vessels), join(bronchi), join(lumina))


def _grow(random: np.random.Generator, root: Points, tips: Points) -> Tubes:
    """Return a tree from the root to all tips: each fork halves what its branch feeds, along its length."""
    starts, ends, radii = [], [], []
    open_branches = [(root, tips, TWIG_MM * len(tips) ** (1 / MURRAY))]
    while open_branches:
        start, own, radius = open_branches.pop()
        center = own.mean(axis=0)
        is_last = len(own) == 1
        reach = 1.0 if is_last else float(random.uniform(0.3, 0.5))
        end = start + reach * (center - start)
        if not is_last:
            end += random.normal(0, 0.06, 3) * np.linalg.norm(end - start)
        after = TWIG_MM * len(own) ** (1 / MURRAY)
        starts.append(start)
        ends.append(end)
        radii.append((radius, 0.6 * after if is_last else after))
        if is_last:
            continue
        spread = own - center
        axis = spread[int(np.argmax((spread**2).sum(axis=1)))] + random.normal(0, 0.2, 3)
        along = spread @ axis
        order = np.argsort(along)
        cut = int(np.clip(round(len(own) * float(random.uniform(0.25, 0.75))), 1, len(own) - 1))
        for half in (order[:cut], order[cut:]):
            open_branches.append((end, own[half], after if len(half) > len(own) / 2 else 0.95 * after))
    return Tubes(np.asarray(starts), np.asarray(ends), np.asarray(radii))


def _beside(arteries: Tubes, direction: Points) -> tuple[Tubes, Tubes]:
    """Return the bronchi that accompany the wider arteries: their walls and the air inside."""
    wide = arteries.radii[:, 1] > 2.2 * TWIG_MM
    radii = 0.95 * arteries.radii[wide] + 0.25
    # The shift grows with the artery, so that branches that meet still meet.
    starts = arteries.starts[wide] + (arteries.radii[wide, :1] + radii[:, :1]) * direction
    ends = arteries.ends[wide] + (arteries.radii[wide, 1:] + radii[:, 1:]) * direction
    air = np.maximum(0.82 * radii - 0.35, 0.3)
    return Tubes(starts, ends, radii), Tubes(starts, ends, air)
