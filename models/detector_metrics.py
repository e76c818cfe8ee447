"""How good boxes are: mean average precision with each truth found once, and free-response ROC of lesions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from models import froc

Reals = NDArray[np.floating]
Labels = NDArray[np.int64]

OVERLAPS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
"""The least overlaps that COCO averages over: 0.5 to 0.95."""
RECALLS = np.linspace(0.0, 1.0, 101)
"""Where COCO reads the precision."""
FOUND_OVERLAP = 0.2
"""The least overlap by which a lesion is found: a box of 5 × 5 pixels that is 2 off has 0.43, 3 off 0.25."""


@dataclass(frozen=True, slots=True, eq=False)
class Boxes:
    """What lies on one image: boxes (n, 4; left, top, right, bottom) and labels (n,), 1 and up.

    `scores` (n,) are those of detections; of truths they mean nothing and are 1. `kinds` (n, kinds) is how
    likely each of the first labels is where there is a thing at all, 0 of all where the label says it alone.
    """

    boxes: Reals
    labels: Labels
    scores: Reals
    kinds: Reals | None = None

    def of(self, labels: Sequence[int]) -> Boxes:
        """Return those of some labels."""
        chosen = np.isin(self.labels, labels)
        kinds = None if self.kinds is None else self.kinds[chosen]
        return Boxes(self.boxes[chosen], self.labels[chosen], self.scores[chosen], kinds)

    def of_each_kind(self) -> Boxes:
        """Return a box for each kind that a thing may be, its score shared out: what mAP asks a detector for.

        A thing with several names may be right with one of them alone; the others count as false.
        """
        if self.kinds is None:
            return self
        is_one = ~self.kinds.any(axis=1)
        box, kind = np.nonzero(self.kinds)
        return Boxes(
            np.concatenate([self.boxes[is_one], self.boxes[box]]),
            np.concatenate([self.labels[is_one], kind + 1]),
            np.concatenate([self.scores[is_one], self.scores[box] * self.kinds[box, kind]]),
        )

    @classmethod
    def truth(cls, boxes: Reals, labels: Labels) -> Boxes:
        """Return truths."""
        return cls(np.asarray(boxes, float).reshape(-1, 4), np.asarray(labels), np.ones(len(labels)))


def overlap(boxes: Reals, others: Reals) -> NDArray[np.float64]:
    """Return the IoU (n, m) of boxes (n, 4) and others (m, 4)."""
    return froc.by_overlap(corners(boxes), corners(others), 0.0)


def corners(boxes: Reals) -> NDArray[np.float64]:
    """Return boxes (n, 4) as their lowest and highest corners (n, 2, 2)."""
    return np.asarray(boxes, float).reshape(-1, 2, 2)


def hits(found: Boxes, truth: Boxes, least: float) -> NDArray[np.bool_]:
    """Return which detections (n,) of one label and image find a truth: each truth is found once.

    The surest chooses first, the truth it overlaps most of those still free; a second box on a truth that is
    found is wrong, as in COCO.
    """
    table, is_free = overlap(found.boxes, truth.boxes), np.ones(len(truth.boxes), np.bool_)
    is_hit = np.zeros(len(found.boxes), np.bool_)
    for index in np.argsort(-found.scores, kind="stable"):
        near = np.where(is_free, table[index], -np.inf)
        # The tolerance that COCO leaves for an overlap that is the least one exactly.
        if len(near) and near.max() >= least - 1e-10:
            is_free[int(near.argmax())] = False
            is_hit[index] = True
    return is_hit


def average_precision(found: Sequence[Boxes], truths: Sequence[Boxes], least: float) -> float:
    """Return the mean precision at 101 recalls, of boxes of one label over all images; NaN without a truth.

    The precision at a recall is the best one at that recall or a higher one (COCO).
    """
    count = sum(len(one.boxes) for one in truths)
    if not count:
        return float("nan")
    scores = np.concatenate([one.scores for one in found])
    is_hit = np.concatenate([hits(one, other, least) for one, other in zip(found, truths, strict=True)])
    true = np.cumsum(is_hit[np.argsort(-scores, kind="stable")])
    precision = true / np.arange(1, len(true) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(true / count, RECALLS, side="left")
    return float(np.append(best, 0.0)[np.minimum(places, len(best))].mean())


def mean_average_precision(
    found: Sequence[Boxes],
    truths: Sequence[Boxes],
    labels: Sequence[int],
    *,
    overlaps: Sequence[float] = OVERLAPS,
) -> float:
    """Return the mean over labels that any truth has, and over least overlaps; NaN without a truth."""
    each = [
        average_precision([one.of([label]) for one in found], [one.of([label]) for one in truths], least)
        for label in labels
        if any((one.labels == label).any() for one in truths)
        for least in overlaps
    ]
    return float(np.mean(each)) if each else float("nan")


def matched(
    found: Sequence[Boxes], truths: Sequence[Boxes], labels: Sequence[int], least: float = FOUND_OVERLAP
) -> list[froc.Matched]:
    """Return the images for models.froc: boxes of any of the labels on truths of any of them.

    Which kind a lesion is called does not matter here: it is shown to a reader either way.
    """
    pairs = ((one.of(labels), other.of(labels)) for one, other in zip(found, truths, strict=True))
    return [
        froc.match(one.scores.tolist(), froc.by_overlap(corners(one.boxes), corners(other.boxes), least))
        for one, other in pairs
    ]


def sensitivity_of(
    images: Sequence[froc.Matched], chosen: Sequence[NDArray[np.bool_]], threshold: float
) -> tuple[int, float]:
    """Return how many truths are chosen, of each image (n,), and which part of them is found; NaN without."""
    group = [image.of(which) for image, which in zip(images, chosen, strict=True)]
    return sum(len(image.found) for image in group), froc.sensitivity(group, threshold)


def outcomes(found: Boxes, truth: Boxes, least: float = FOUND_OVERLAP) -> NDArray[np.float64]:
    """Return of each detection (n,) on one image 1 if it finds a truth, 0 if it is false.

    NaN of one on a truth that a surer one has found: as in models.froc, it is neither.
    """
    table = froc.by_overlap(corners(found.boxes), corners(truth.boxes), least)
    is_free, values = np.ones(len(truth.boxes), np.bool_), np.zeros(len(found.boxes))
    for index in np.argsort(-found.scores, kind="stable"):
        is_near = table[index] > -np.inf
        if (is_near & is_free).any():
            is_free[int(np.argmax(np.where(is_near & is_free, table[index], -np.inf)))] = False
            values[index] = 1.0
        elif is_near.any():
            values[index] = np.nan
    return values


def largest_difference(found: Boxes, others: Boxes) -> tuple[float, float]:
    """Return by how many pixels and how much score two answers to one image differ, whatever their order.

    Each box is paired with the closest of the same label; infinite where their numbers differ.
    """
    largest = (0.0, 0.0)
    for label in sorted({*found.labels.tolist(), *others.labels.tolist()}):
        one, other = found.of([label]), others.of([label])
        if len(one.boxes) != len(other.boxes):
            return np.inf, np.inf
        pixels = np.abs(one.boxes[:, np.newaxis] - other.boxes).max(axis=2)
        scores = np.abs(one.scores[:, np.newaxis] - other.scores)
        # Two boxes at nearly the same place are told apart by their scores.
        pairs = linear_sum_assignment(pixels + scores)
        largest = max(largest[0], float(pixels[pairs].max())), max(largest[1], float(scores[pairs].max()))
    return largest


def best_overlaps(found: Sequence[Boxes], truths: Sequence[Boxes], label: int) -> NDArray[np.float64]:
    """Return the IoU of each truth of a label with the surest box of that label in its image, 0 without."""
    values: list[float] = []
    for one, other in zip(found, truths, strict=True):
        own, wanted = one.of([label]), other.of([label])
        surest = own.boxes[np.argsort(-own.scores, kind="stable")[:1]]
        table = overlap(surest, wanted.boxes)
        values += (table[0] if len(table) else np.zeros(len(wanted.boxes))).tolist()
    return np.array(values, np.float64)
