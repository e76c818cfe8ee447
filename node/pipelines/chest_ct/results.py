"""Nodules as findings: scores, regions with their measures, a mask, a map of entropy, the slices to see."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from node.domain.code import (
    BIT,
    CUBIC_MILLIMETER,
    HOUNSFIELD_UNIT,
    LONG_AXIS,
    LUNG,
    MEAN_ATTENUATION,
    MILLIMETER,
    PERCENT,
    PREDICTIVE_ENTROPY,
    PROBABILITY_OF_CANCER,
    SHORT_AXIS,
    VOLUME,
)
from node.domain.findings import Measurement, OutOfDistribution, Presence, Region, Score
from node.domain.image import Volume
from node.domain.location import Frame, Mask, Outline, Segment, ValueMap
from node.imaging.grid import sample_back
from node.imaging.regions import size_class
from node.pipelines.chest_ct.nodules import Nodule, joined
from node.pipelines.chest_ct.search import Search

SEEN_BITS = 0.5
"""From this entropy on, a slice has something to see in the map."""

MOST_MAPPED = 48
"""Slices of the map: each is a picture of 1 MiB."""


def study_scores(nodules: Sequence[Nodule]) -> tuple[Score, ...]:
    """Return what is said of the series: of the surest place whether it is a nodule, and the suspicion.

    The latter is that of the most suspicious nodule; without any nothing is suspected, so there is no score.
    A place that is unlike what the classifiers know speaks for the series only where all are.
    """
    known = [one for one in nodules if not is_foreign(one)] or list(nodules)
    surest = max(known, key=lambda one: one.judgment[0].probability)
    scores = [surest.judgment[0]]
    present = [one for one in known if one.judgment[0].presence is Presence.PRESENT]
    if suspects := present or [one for one in known if one.is_reported]:
        scores.append(max(suspects, key=lambda one: one.judgment[1].probability).judgment[1])
    stranger = max((score.uncertainty.out_of_distribution for score in scores), key=_strangeness)
    # One image, one such number: the larger of the places that speak for it.
    return tuple(
        replace(score, uncertainty=replace(score.uncertainty, out_of_distribution=stranger))
        for score in scores
    )


def is_foreign(nodule: Nodule) -> bool:
    """Return whether the place is unlike those the classifiers were made for."""
    strange = nodule.judgment[0].uncertainty.out_of_distribution
    return bool(strange and strange.is_foreign)


def _strangeness(value: OutOfDistribution | None) -> float:
    return value.score if value else -np.inf


def in_order(nodules: Sequence[Nodule]) -> list[Nodule]:
    """Return the nodules that are listed, those that are certain first, then by suspicion."""
    return sorted(
        (one for one in nodules if one.is_reported),
        key=lambda one: (one.judgment[0].presence is not Presence.PRESENT, -one.judgment[1].probability),
    )


def left_out(nodules: Sequence[Nodule]) -> tuple[str, ...]:
    """Return in words how many places are not listed, though it is not certain that they are no nodules."""
    doubtful = [one for one in nodules if not one.is_reported and one.judgment[0].is_uncertain]
    if not doubtful:
        return ()
    highest = max(one.judgment[0].probability for one in doubtful)
    places = "1 more place is" if len(doubtful) == 1 else f"{len(doubtful)} more places are"
    return (
        f"{places} below the threshold, but not certainly no nodule ({highest:.0%} at most): not listed.",
    )


def name_of(number: int) -> str:
    """Return the name of the n-th nodule: of its region, and of its segment."""
    return f"Nodule {number}"


def make_regions(volume: Volume, nodules: Sequence[Nodule]) -> tuple[Region, ...]:
    """Return a region for each nodule, outlined on the slice in which it is longest."""
    return tuple(
        Region(
            identifier=name_of(number),
            code=nodule.judgment[0].code,
            outline=_outline(volume, nodule),
            score=nodule.judgment[0],
            site=LUNG,
            measurements=tuple(_measurements(nodule)),
            remark=size_class(sum(nodule.diameters_mm) / 2),
        )
        for number, nodule in enumerate(nodules, 1)
    )


def _outline(volume: Volume, nodule: Nodule) -> Outline:
    place = nodule.place
    points = np.argwhere(place.mask[nodule.plane - place.planes.start])
    points += np.array([span.start for span in place.box_yx])
    (top, left), (bottom, right) = points.min(axis=0).tolist(), (points.max(axis=0) + 1).tolist()
    return Outline.box(volume.frames[nodule.plane], (left, top), (right, bottom))


def _measurements(nodule: Nodule) -> Iterator[Measurement]:
    """Yield what a reader asks for first, first: viewers show but a few; in no more digits than are known."""
    suspicion = nodule.judgment[1]
    low, high = suspicion.uncertainty.interval
    percent, low, high = (round(100 * one, 1) for one in (suspicion.probability, low, high))
    yield Measurement(VOLUME, round(nodule.volume_mm3), CUBIC_MILLIMETER)
    yield Measurement(LONG_AXIS, round(nodule.diameters_mm[0], 1), MILLIMETER)
    yield Measurement(SHORT_AXIS, round(nodule.diameters_mm[1], 1), MILLIMETER)
    yield Measurement(PROBABILITY_OF_CANCER, percent, PERCENT, (low, high))
    yield Measurement(MEAN_ATTENUATION, round(nodule.mean_hu), HOUNSFIELD_UNIT)


def make_masks(volume: Volume, nodules: Sequence[Nodule]) -> tuple[Mask, ...]:
    """Return one mask with a segment for each nodule, over the slices that have any."""
    if not nodules:
        return ()
    planes, labels, probability = joined(volume, nodules)
    segments = tuple(
        Segment(name_of(number), nodule.judgment[0].code) for number, nodule in enumerate(nodules, 1)
    )
    return (Mask(_frames(volume, planes), segments, labels, probability[None]),)


def make_maps(
    volume: Volume, found: Search, nodules: Sequence[Nodule], *, every_slice: bool
) -> tuple[ValueMap, ...]:
    """Return the map of entropy over the slices in which there is something to see, or over all."""
    planes = list(range(len(volume.frames))) if every_slice else _planes_to_see(volume, found, nodules)
    if not planes:
        return ()
    box = (slice(0, volume.hounsfield.shape[1]), slice(0, volume.hounsfield.shape[2]))
    values = np.empty((len(planes), *volume.hounsfield.shape[1:]), np.float32)
    for index, plane in enumerate(planes):
        values[index] = sample_back(found.entropy, found.grid, volume, range(plane, plane + 1), box)[0]
    return (ValueMap("Entropy", PREDICTIVE_ENTROPY, BIT, _frames(volume, planes), values),)


def _planes_to_see(volume: Volume, found: Search, nodules: Sequence[Nodule]) -> list[int]:
    """Return the planes of nodules, and those with the largest entropy where it is large; not too many."""
    held = {plane for nodule in nodules for plane in nodule.place.planes}
    peaks = found.entropy.max(axis=(1, 2), where=found.is_lung, initial=0)
    at_planes = np.interp(volume.positions_mm, found.grid.along(0), peaks, left=0, right=0)
    by_entropy = [int(plane) for plane in np.argsort(-at_planes) if at_planes[plane] >= SEEN_BITS]
    of_nodules = sorted(held, key=lambda plane: -at_planes[plane])
    return sorted([*of_nodules, *(one for one in by_entropy if one not in held)][:MOST_MAPPED])


def key_frames(volume: Volume, nodules: Sequence[Nodule]) -> tuple[Frame, ...]:
    """Return the slice of each nodule in which it is longest, each once."""
    return tuple(dict.fromkeys(volume.frames[nodule.plane] for nodule in nodules))


def _frames(volume: Volume, planes: Sequence[int]) -> tuple[Frame, ...]:
    return tuple(volume.frames[plane] for plane in planes)
