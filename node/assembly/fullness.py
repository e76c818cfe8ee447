"""Is a series whole, by what its own headers say: numbers without a gap, even steps, all levels of a slide.

It can only be told that nothing lacks between what is here: that a series ends where it does is known by the
end of its association alone.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import median

from node.read.extent import Extent
from node.read.slide import LARGE_STEP, step_notes

SLIDE, LOCALIZER = "SM", "LOCALIZER"
APART = frozenset({"LABEL", "OVERVIEW"})
RESAMPLED = "RESAMPLED"
MIN_EVEN = 3
"""Fewer slices have no two steps to compare."""
EVEN_SHARE, EVEN_MM = 0.02, 0.05
"""By how much steps may differ and be called even: headers round."""
SAME_DIRECTION = 1e-3
COARSEST_PX = 8192
"""A pyramid whose coarsest level has a longer side may go on: no scanner leaves it at that."""


def fullness(modality: str, extents: Sequence[Extent | None]) -> str | None:
    """Return of what a series is whole, in words; empty where it is one picture, None where it may lack some.

    One that is a single picture, a scout or a document is no evidence, and hinders none.
    """
    known = [one for one in extents if one is not None]
    if len(known) < len(extents) or not _are_whole(known):
        return None
    if modality == SLIDE:
        return _levels([one for one in known if not APART & set(one.image_type)])
    if len(known) == 1:
        return f"{known[0].frames} frames" if known[0].frames > 1 else ""
    words = _numbered(known) or _even(known)
    return "" if words and any(LOCALIZER in one.image_type for one in known) else words


def _are_whole(extents: Sequence[Extent]) -> bool:
    """Are all parts of every concatenation here? Where nobody says how many there are, they may not be."""
    groups: dict[str, list[Extent]] = {}
    for one in extents:
        if one.concatenation_uid:
            groups.setdefault(one.concatenation_uid, []).append(one)
    return all(
        sorted(one.part for one in parts) == list(range(1, parts[0].parts + 1)) and parts[0].parts
        for parts in groups.values()
    )


def _numbered(extents: Sequence[Extent]) -> str | None:
    """Return the numbers of instances that go from 1 on, each once; None of any other."""
    numbers = sorted(one.number for one in extents)
    return f"1–{len(numbers)}" if numbers == list(range(1, len(numbers) + 1)) else None


def _even(extents: Sequence[Extent]) -> str | None:
    """Return the step in mm of slices that lie one as far behind the other as the next; None of any other."""
    first = extents[0].orientation
    if len(extents) < MIN_EVEN or not first or not all(one.position_mm for one in extents):
        return None
    if any(not one.orientation or math.dist(one.orientation, first) > SAME_DIRECTION for one in extents):
        return None
    normal = _normal(first)
    places = sorted(sum(a * b for a, b in zip(one.position_mm, normal, strict=True)) for one in extents)
    steps = [after - before for before, after in pairwise(places)]
    usual = median(steps)
    if usual <= EVEN_MM or any(abs(step - usual) > max(EVEN_MM, EVEN_SHARE * usual) for step in steps):
        return None
    return f"{len(extents)} slices, {usual:g} mm apart"


def _normal(orientation: Sequence[float]) -> tuple[float, float, float]:
    (a, b, c), (d, e, f) = orientation[:3], orientation[3:]
    return b * f - c * e, c * d - a * f, a * e - b * d


def _levels(extents: Sequence[Extent]) -> str | None:
    """Return how many levels a slide has: from the one that was scanned to an overview, none left out."""
    sides = sorted({max(one.columns, one.rows) for one in extents}, reverse=True)
    if not sides or sides[-1] < 1 or sides[-1] > COARSEST_PX:
        return None
    finest = [one for one in extents if max(one.columns, one.rows) == sides[0]]
    if all(RESAMPLED in one.image_type for one in finest) or _has_hole([sides[0] / one for one in sides]):
        return None
    count = f"{len(sides)} level{'s' if len(sides) > 1 else ''}"
    return f"{count}, {sides[0]} to {sides[-1]} pixels" if len(sides) > 1 else f"{count}, {sides[0]} pixels"


def _has_hole(downsamples: Sequence[float]) -> bool:
    """Does a level lack between others? Of two levels far apart nobody can say, so it may."""
    is_far = len(downsamples) == 2 and downsamples[1] > LARGE_STEP
    return is_far or bool(step_notes(downsamples))
