"""The planes of a series in their order along the normal, each position once; or why that is no stack.

Everything is by positions and orientation: no instance number, slice location or file name counts.
What is irregular and can be met exactly, because each plane is sampled where it lies, is noted; what would
need invention is refused.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from node.errors import GeometryError
from node.read.plane import MAX_DIRECTION_ERROR, Plane
from node.read.scan import TRAITS

MIN_PLANES = 3
"""Fewer give no two gaps to compare, and no volume worth the name."""

MAX_PLANES = 4096
MAX_VOXELS = 1 << 30
SAME_POSITION_MM = 0.05
"""Planes nearer to each other lie at the same place: a quarter of the thinnest slice."""

MAX_STEP_MM = 10.0
"""Between neighboring planes, usually: what lies between farther ones would be invented."""

EVEN_SHARE, EVEN_MM = 0.02, 0.05
"""By how much steps may differ from the usual one and still be called even: headers round."""

MAX_STEP_RATIO = 1.5
"""A longer step than so many usual ones is one with a slice missing."""

MAX_HOLE_RATIO, MAX_HOLE_MM, MAX_HOLE_SHARE = 2.5, 6.0, 0.05
"""One missing slice is interpolated across where its neighbors are so near, and where so few are missing."""

MAX_TILT_DEGREES = 45.0
MIN_TILT_DEGREES = 0.5
MAX_SHIFT_MM = 1.0
"""Planes whose first voxels lie farther from a straight line are told of."""

Positions = npt.NDArray[np.float64]
IsSame = Callable[[Plane, Plane], bool]
"""Tells whether two planes have the same pixels."""


@dataclass(frozen=True, slots=True)
class Stack:
    """The planes in their order, and what was irregular about them."""

    planes: tuple[Plane, ...]
    notes: tuple[str, ...]


def arrange(uid: str, planes: Sequence[Plane], is_same: IsSame) -> Stack:
    """Return the planes of the series `uid` along the normal, of several alike at one place only one.

    Raises GeometryError for planes that differ in orientation, size or frame of reference, for two stacks in
    one series, for slices too far apart, and for fewer than MIN_PLANES or more than memory should hold.
    """
    _require_alike(uid, planes)
    normal = np.cross(planes[0].row_direction_xyz, planes[0].column_direction_xyz)
    ordered = sorted(planes, key=lambda one: (float(one.origin_xyz_mm @ normal), one.name))
    ordered, notes = _without_duplicates(uid, ordered, normal, is_same)
    if len(ordered) < MIN_PLANES:
        raise GeometryError(
            uid, f"{count(len(ordered), 'slice')} at different places, expected at least {MIN_PLANES}"
        )
    origins = np.stack([one.origin_xyz_mm for one in ordered])
    notes += _kernel_notes(uid, ordered, origins @ normal)
    notes += _step_notes(uid, ordered, origins @ normal)
    notes += _tilt_notes(uid, origins, normal)
    if not ordered[0].frame_of_reference_uid:
        notes.append("No slice names a frame of reference: their places were taken to be in the same one.")
    return Stack(tuple(ordered), tuple(notes))


def _require_alike(uid: str, planes: Sequence[Plane]) -> None:
    if not planes:
        raise GeometryError(uid, "holds no CT slices")
    if len(planes) > MAX_PLANES or len(planes) * planes[0].rows * planes[0].columns > MAX_VOXELS:
        raise GeometryError(
            uid, f"{len(planes)} slices, expected at most {MAX_PLANES} of {MAX_VOXELS} voxels together"
        )
    if len({one.source.frame for one in planes}) < len(planes):
        raise GeometryError(uid, "an instance of this series was given twice")
    first = planes[0]
    for one in planes:
        if reason := _difference(first, one):
            raise GeometryError(uid, f"{reason} ({first.name} and {one.name}), expected one stack of slices")


def _difference(first: Plane, other: Plane) -> str:
    if (other.rows, other.columns) != (first.rows, first.columns):
        sizes = f"{first.rows} × {first.columns} and of {other.rows} × {other.columns}"
        return f"slices of {sizes} pixels in one series"
    if any(abs(a - b) > 1e-3 * b for a, b in zip(other.spacing_yx_mm, first.spacing_yx_mm, strict=True)):
        return "slices of different pixel spacing in one series"
    turned = max(
        float(np.linalg.norm(first.row_direction_xyz - other.row_direction_xyz)),
        float(np.linalg.norm(first.column_direction_xyz - other.column_direction_xyz)),
    )
    if turned > MAX_DIRECTION_ERROR:
        degrees = math.degrees(2 * math.asin(min(1, turned / 2)))
        return f"slices of different orientation in one series, {degrees:.1f} degrees apart"
    if other.frame_of_reference_uid != first.frame_of_reference_uid:
        return "slices in different frames of reference in one series"
    return ""


# --- several planes at one place


def _without_duplicates(
    uid: str, ordered: Sequence[Plane], normal: Positions, is_same: IsSame
) -> tuple[list[Plane], list[str]]:
    kept: list[Plane] = []
    for plane in ordered:
        offset = plane.origin_xyz_mm - kept[-1].origin_xyz_mm if kept else None
        if offset is None or offset @ normal >= SAME_POSITION_MM:
            kept.append(plane)
            continue
        if (aside_mm := float(np.linalg.norm(offset - (offset @ normal) * normal))) >= SAME_POSITION_MM:
            names = f"{kept[-1].name} and {plane.name}"
            raise GeometryError(
                uid, f"two slices in one plane, {aside_mm:.2f} mm aside of each other ({names})"
            )
        if not is_same(kept[-1], plane):
            raise GeometryError(uid, _two_stacks(kept[-1], plane))
    if not (left_out := len(ordered) - len(kept)):
        return kept, []
    return kept, [f"{count(left_out, 'slice')} repeated the pixels of another at the same place: left out."]


def _two_stacks(first: Plane, other: Plane) -> str:
    """Say what tells two planes at one place apart.

    Nothing is chosen for the reader: which kernel or phase is meant is a clinical question, and the results
    of the one would be read as those of the other.
    """
    differing = [one for one in TRAITS if first.traits.get(one) != other.traits.get(one)]
    told = f"they differ in {', '.join(differing)}" if differing else "their headers do not tell them apart"
    names = f"{first.name} and {other.name}"
    return f"two slices at one place with different pixels ({names}); {told}; send each stack as a series"


# --- what is irregular


def _kernel_notes(uid: str, ordered: Sequence[Plane], positions: Positions) -> list[str]:
    """Refuse two kernels that interleave: the planes of two reconstructions, a little offset."""
    places: defaultdict[object, list[float]] = defaultdict(list)
    for plane, position in zip(ordered, positions, strict=True):
        places[plane.traits.get("ConvolutionKernel", "")].append(float(position))
    stretches = sorted((min(one), max(one)) for one in places.values())
    if any(after[0] < before[1] for before, after in pairwise(stretches)):
        raise GeometryError(
            uid, f"slices of {len(places)} convolution kernels interleave, expected one stack"
        )
    if len(places) < 2:
        return []
    return [f"The slices are of {len(places)} convolution kernels, one after the other."]


def _step_notes(uid: str, ordered: Sequence[Plane], positions: Positions) -> list[str]:
    steps = np.diff(positions)
    usual = float(np.median(steps))
    if usual > MAX_STEP_MM:
        raise GeometryError(uid, f"slices are {usual:.2f} mm apart, expected at most {MAX_STEP_MM:g} mm")
    is_hole = steps > max(MAX_STEP_RATIO * usual, usual + EVEN_MM)
    holes, rest, notes = steps[is_hole], steps[~is_hole], []
    if len(holes):
        _require_bridgeable(uid, ordered[int(steps.argmax())], holes, steps)
        notes.append(
            f"{count(len(holes), 'slice')} missing, steps of up to {holes.max():.2f} mm where {usual:.2f} mm "
            "is usual: interpolated across."
        )
    if np.abs(rest - usual).max() > max(EVEN_SHARE * usual, EVEN_MM):
        span = f"{rest.min():.2f} to {rest.max():.2f} mm"
        notes.append(f"The slices are {span} apart: each was taken from its own place.")
    return notes


def _require_bridgeable(uid: str, before: Plane, holes: Positions, steps: Positions) -> None:
    """Raise GeometryError for a hole wider than one slice, wider than MAX_HOLE_MM, or one of too many."""
    usual, widest = float(np.median(steps)), float(holes.max())
    if widest > MAX_HOLE_RATIO * usual or widest > MAX_HOLE_MM + SAME_POSITION_MM:
        raise GeometryError(
            uid,
            f"a gap of {widest:.2f} mm where {usual:.2f} mm is usual (beside {before.name}); at most one may"
            f" be missing, and at most {MAX_HOLE_MM:g} mm are interpolated across",
        )
    if len(holes) > max(1, MAX_HOLE_SHARE * len(steps)):
        raise GeometryError(uid, f"{len(holes)} of {len(steps)} steps between slices lack a slice")


def _tilt_notes(uid: str, origins: Positions, normal: Positions) -> list[str]:
    """Tell of planes that do not lie straight above each other; refuse where they lie aside."""
    positions = origins @ normal
    way = origins[-1] - origins[0]
    length = float(positions[-1] - positions[0])
    slant = (way - (way @ normal) * normal) / length
    degrees = math.degrees(math.atan(float(np.linalg.norm(slant))))
    if degrees > MAX_TILT_DEGREES:
        raise GeometryError(
            uid,
            f"planes shifted as by a tilt of {degrees:.1f} degrees, at most {MAX_TILT_DEGREES:g} is allowed",
        )
    straight = origins[0] + (positions - positions[0])[:, None] * (normal + slant)
    aside_mm = float(np.linalg.norm(origins - straight, axis=1).max())
    notes = []
    if degrees > MIN_TILT_DEGREES:
        notes.append(
            f"The gantry was tilted by {degrees:.1f} degrees: each slice was taken from its own place."
        )
    if aside_mm > MAX_SHIFT_MM:
        notes.append(f"Slices lie up to {aside_mm:.1f} mm aside: each was taken from its own place.")
    return notes


def count(number: int, noun: str) -> str:
    """Return them in words: 1 slice, 2 slices."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
