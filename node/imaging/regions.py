"""What stands out in a map of probability: single regions, and how large they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.float32]
Field = NDArray[np.bool_]
Box = tuple[slice, slice, slice]
Triple = tuple[float, float, float]

BRIDGE_MM = 2.0
"""Cores of a region that lie no farther apart than this are one."""

THICK_SHARE = 0.6
"""Thick is what lies so deep inside, measured by the deepest element."""

TOUCHING = np.ones((3, 3, 3), np.bool_)


@dataclass(frozen=True, slots=True, eq=False)
class Spot:
    """One region of a volume: what is `mask` in the box is its own; `peak` is the largest probability in it.

    `probability` is that of the box, which reaches one element beyond the region, and 0 where another region
    is. `center_zyx` is the middle of where it is thickest, in elements of the volume: of a nodule on a vessel
    that of the nodule.
    """

    box_zyx: Box
    mask: Field
    probability: Floats
    peak: float
    center_zyx: Triple


def find_spots(
    probability: Floats, *, low: float, high: float, spacing_zyx_mm: Triple, least_mm3: float = 0.0
) -> list[Spot]:
    """Return the regions of a volume (z, y, x) in which the probability reaches `low`, the surest first.

    A region with several cores that reach `high`, farther than BRIDGE_MM apart, is divided among them: each
    element goes to the nearest. Cores, and regions without any, smaller than `least_mm3` are left out.
    """
    least = least_mm3 / float(np.prod(spacing_zyx_mm))
    labels, _ = ndimage.label(probability >= low, TOUCHING)
    spots = []
    for number, tight in enumerate(ndimage.find_objects(labels), 1):
        box = _grown(tight, labels.shape)
        own = labels[box] == number
        if own.sum() < least:
            continue
        # Values of what belongs to another region must not reach over the border.
        part = np.where(own | (labels[box] == 0), probability[box], np.float32(0))
        for piece, mine, inner in _divided(part, own, high, spacing_zyx_mm, least):
            spots.append(_spot(piece, mine, _inside(box, inner), spacing_zyx_mm))
    return sorted(spots, key=lambda spot: (-spot.peak, -int(spot.mask.sum()), spot.center_zyx))


def surest_spot(probability: Floats, spacing_zyx_mm: Triple, share: float = 0.5) -> Spot:
    """Return what hangs together with the largest probability, has this share of it or more, and is near."""
    peak = np.unravel_index(int(probability.argmax()), probability.shape)
    box = _grown([slice(int(at), int(at) + 1) for at in peak], probability.shape, by=8)
    part = probability[box]
    labels, _ = ndimage.label(part >= share * probability[peak], TOUCHING)
    here = tuple(int(at) - axis.start for at, axis in zip(peak, box, strict=True))
    return _spot(part, labels == labels[here], box, spacing_zyx_mm)


def _grown(box: Sequence[slice], shape: Sequence[int], by: int = 1) -> Box:
    """Return a box with so many elements around it, as far as there are any."""
    z, y, x = (
        slice(max(0, axis.start - by), min(size, axis.stop + by))
        for axis, size in zip(box, shape, strict=True)
    )
    return z, y, x


def _inside(box: Box, inner: Box) -> Box:
    """Return a box that is given within another one."""
    z, y, x = (
        slice(axis.start + span.start, axis.start + span.stop) for axis, span in zip(box, inner, strict=True)
    )
    return z, y, x


def _divided(
    part: Floats, own: Field, high: float, spacing: Triple, least: float
) -> Iterator[tuple[Floats, Field, Box]]:
    """Yield probability, elements and box of each region that one is divided into."""
    cores, count = _cores(own & (part >= high), spacing)
    if count <= 1:
        yield part, own, _grown([slice(0, size) for size in own.shape], own.shape)
        return
    nearest = ndimage.distance_transform_edt(
        cores == 0, sampling=spacing, return_distances=False, return_indices=True
    )
    owners = np.where(own, cores[tuple(nearest)], 0)
    sizes = np.bincount(cores.ravel(), minlength=count + 1)
    for number, tight in enumerate(ndimage.find_objects(owners), 1):
        if sizes[number] < least:
            continue
        inner = _grown(tight, own.shape)
        mine = owners[inner] == number
        is_other = (owners[inner] > 0) & ~mine
        yield np.where(is_other, np.float32(0), part[inner]), mine, inner


def _cores(is_high: Field, spacing: Triple) -> tuple[NDArray[np.int32], int]:
    """Return numbers for what is high, the same where only a narrow bridge is missing; and how many."""
    labels, count = ndimage.label(is_high, TOUCHING)
    if count <= 1:
        return labels, count
    widened = ndimage.distance_transform_edt(~is_high, sampling=spacing) <= BRIDGE_MM / 2
    labels, count = ndimage.label(widened, TOUCHING)
    return np.where(is_high, labels, 0), count


def _spot(part: Floats, own: Field, box: Box, spacing: Triple) -> Spot:
    depth_mm = ndimage.distance_transform_edt(np.pad(own, 1), sampling=spacing)[1:-1, 1:-1, 1:-1]
    labels, _ = ndimage.label(depth_mm >= THICK_SHARE * depth_mm.max(), TOUCHING)
    thickest = labels == labels[np.unravel_index(int(depth_mm.argmax()), depth_mm.shape)]
    center = ndimage.center_of_mass(thickest)
    z, y, x = (float(at) + axis.start for at, axis in zip(center, box, strict=True))
    return Spot(box, own, part, float(part[own].max()), (z, y, x))


# --- how large a region is in a plane


def diameters_mm(
    probability: Floats, level: float, spacing_yx_mm: tuple[float, float]
) -> tuple[float, float]:
    """Return the longest diameter of what reaches `level` in a plane (y, x) and the one across; 0 of nothing.

    Of several parts the largest is meant. Its edge runs between elements, where the probability passes the
    level. The one across is the distance of the two lines along the longest that it lies between.
    """
    labels, count = ndimage.label(probability >= level, TOUCHING[0])
    if count > 1:
        largest = 1 + int(np.bincount(labels.ravel())[1:].argmax())
        probability = np.where((labels == largest) | (labels == 0), probability, np.float32(0))
    edge = _edge_yx(np.pad(probability, 1), level) * spacing_yx_mm
    if len(edge) < 2:
        return 0.0, 0.0
    points = _outermost(edge)
    offsets = points[:, None] - points[None]
    lengths = np.hypot(offsets[..., 0], offsets[..., 1])
    first, second = np.unravel_index(int(lengths.argmax()), lengths.shape)
    longest = float(lengths[first, second])
    if not longest:
        return 0.0, 0.0
    along = offsets[first, second] / longest
    return longest, float(np.ptp(points @ np.array([-along[1], along[0]])))


def _edge_yx(plane: Floats, level: float) -> NDArray[np.float64]:
    """Return the points (y, x) between neighbors where a plane passes the level."""
    inside = plane >= level
    points = []
    for axis in (0, 1):
        one, other = (np.moveaxis(plane, axis, 0)[span] for span in (slice(None, -1), slice(1, None)))
        a, b = (np.moveaxis(inside, axis, 0)[span] for span in (slice(None, -1), slice(1, None)))
        at = np.argwhere(a != b)
        before, after = one[a != b].astype(np.float64), other[a != b].astype(np.float64)
        crossed = at.astype(np.float64)
        crossed[:, 0] += (level - before) / (after - before)
        points.append(crossed[:, ::-1] if axis else crossed)
    return np.concatenate(points)


def _outermost(points: NDArray[np.float64], directions: int = 180) -> NDArray[np.float64]:
    """Return the points that lie farthest out in some direction, one degree after the other."""
    angles = np.arange(2 * directions) * (np.pi / directions)
    farthest = (points @ np.stack([np.sin(angles), np.cos(angles)])).argmax(axis=0)
    return np.asarray(points[np.unique(farthest)])


# --- what a size means

SIZE_CLASSES = ((6.0, "below 6 mm", "2"), (8.0, "6 to below 8 mm", "3"), (15.0, "8 to below 15 mm", "4A"))
"""Upper bound of the mean diameter, in words, and the Lung-RADS 2022 category of a solid nodule."""


def size_class(mean_diameter_mm: float) -> str:
    """Return the size class of a nodule in words; information, for its density and its past decide too.

    As Lung-RADS 2022 does, the mean of both diameters is taken to one decimal.
    """
    rounded = round(mean_diameter_mm, 1)
    words, category = next(
        ((words, category) for bound, words, category in SIZE_CLASSES if rounded < bound),
        ("15 mm or more", "4B"),
    )
    return (
        f"mean diameter {rounded:.1f} mm, size class {words} (that of a solid nodule of Lung-RADS 2022 "
        f"category {category} at baseline; for information, no category was assigned)"
    )
