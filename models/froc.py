"""Free-response ROC: how many lesions are found at so many false positives per image, with intervals.

Works on whatever a detection and a truth are: which detection may stand for which truth is given as a table,
by distance or by overlap of boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.metrics import Estimate, bootstrap

Reals = NDArray[np.float64]

OPERATING_POINTS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""False positives per image (as LUNA16, Setio et al. 2017)."""


@dataclass(frozen=True, slots=True, eq=False)
class Matched:
    """One image: at which score each truth (n,) is found, −inf if never, and the scores of the false ones."""

    found: Reals
    false: Reals

    def of(self, chosen: NDArray[np.bool_]) -> Matched:
        """Return the image with only some of its truths; what lies on the others is not false for that."""
        return Matched(self.found[chosen], self.false)


def by_distance(points: Reals, truths: Reals, radii: Reals) -> Reals:
    """Return how close (n, m) each point (n, k) lies to each truth (m, k), −inf beyond the truth's radius.

    Closeness is minus the distance in radii: a point in the middle of a truth has 0.
    """
    points, truths = np.asarray(points, float), np.asarray(truths, float)
    if not len(points) or not len(truths):
        return np.zeros((len(points), len(truths)))
    away = np.linalg.norm(points[:, np.newaxis] - truths, axis=-1) / np.asarray(radii, float)
    return np.asarray(np.where(away <= 1, -away, -np.inf))


def by_overlap(boxes: Reals, truths: Reals, least: float) -> Reals:
    """Return the overlap (n, m) of boxes (n, 2, k) and (m, 2, k), −inf below `least`.

    A box is its lowest and its highest corner; overlap is the common part over the part that either covers.
    """
    boxes, truths = np.asarray(boxes, float), np.asarray(truths, float)
    if not len(boxes) or not len(truths):
        return np.zeros((len(boxes), len(truths)))
    low = np.maximum(boxes[:, np.newaxis, 0], truths[:, 0])
    high = np.minimum(boxes[:, np.newaxis, 1], truths[:, 1])
    common = np.prod(np.maximum(high - low, 0), axis=-1)
    areas, own = (np.prod(each[:, 1] - each[:, 0], axis=-1) for each in (boxes, truths))
    overlap = common / (areas[:, np.newaxis] + own - common)
    return np.asarray(np.where(overlap >= least, overlap, -np.inf))


def match(scores: Sequence[float], closeness: Reals) -> Matched:
    """Return what was found in one image: the surest detection chooses first, each truth is found once.

    A detection takes the closest truth that is left; one that meets only truths already found is neither
    found nor false.
    """
    found = np.full(closeness.shape[1], -np.inf)
    false = []
    for index in np.argsort(-np.asarray(scores, float), kind="stable"):
        is_near = closeness[index] > -np.inf
        is_open = is_near & np.isneginf(found)
        if is_open.any():
            found[int(np.argmax(np.where(is_open, closeness[index], -np.inf)))] = scores[index]
        elif not is_near.any():
            false.append(scores[index])
    return Matched(found, np.asarray(false, float))


def threshold_at(images: Sequence[Matched], false_per_image: float) -> float:
    """Return the score above which no more false positives per image are left; −inf when there never are."""
    scores = np.sort(np.concatenate([image.false for image in images]))[::-1]
    allowed = int(np.floor(false_per_image * len(images) + 1e-9))
    return float(scores[allowed]) if allowed < len(scores) else -np.inf


def sensitivity(images: Sequence[Matched], threshold: float) -> float:
    """Return the part of all truths found above a threshold, NaN without any truth."""
    found = np.concatenate([image.found for image in images])
    return float((found > threshold).mean()) if len(found) else float("nan")


def false_rate(images: Sequence[Matched], threshold: float) -> float:
    """Return the false positives per image above a threshold, NaN without any image."""
    return float(np.mean([(image.false > threshold).sum() for image in images])) if images else float("nan")


def sensitivities(images: Sequence[Matched], points: Sequence[float] = OPERATING_POINTS) -> tuple[float, ...]:
    """Return the sensitivity at each number of false positives per image."""
    return tuple(sensitivity(images, threshold_at(images, point)) for point in points)


def sensitivity_estimate(images: Sequence[Matched], point: float, *, repeats: int) -> Estimate:
    """Return the sensitivity at so many false positives per image; images are drawn, not lesions."""

    def figure(chosen: NDArray[np.intp]) -> float:
        return sensitivities([images[index] for index in chosen], [point])[0]

    return bootstrap(figure, np.arange(len(images)).astype(str), repeats=repeats)
