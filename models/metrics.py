"""Figures of merit for scores, each with the uncertainty that a finite number of patients leaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Truth = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its interval."""

    value: float
    low: float
    high: float


def area_under_curve(truth: Truth, scores: Floats) -> float:
    """Return the area under the ROC curve: the chance that a positive outranks a negative, ties half.

    NaN where one of the two is missing, for then there is nothing to rank.
    """
    positives, negatives = int(truth.sum()), int((~truth).sum())
    if positives == 0 or negatives == 0:
        return float("nan")
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2.0)[inverse]
    return float((ranks[truth].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def sensitivity(truth: Truth, probability: Floats, threshold: float) -> float:
    """Return the part of the positives at or above the threshold; NaN without positives."""
    return _mean(probability[truth] >= threshold)


recall = sensitivity  # its name beside precision


def specificity(truth: Truth, probability: Floats, threshold: float) -> float:
    """Return the part of the negatives below the threshold; NaN without negatives."""
    return _mean(probability[~truth] < threshold)


def precision(truth: Truth, probability: Floats, threshold: float) -> float:
    """Return the part of positives among the cases at or above the threshold; NaN where there is none."""
    return _mean(truth[probability >= threshold])


def accuracy(truth: Truth, probability: Floats, threshold: float) -> float:
    """Return the part of all cases on their right side of the threshold; NaN without cases."""
    return _mean((probability >= threshold) == truth)


def f1_score(truth: Truth, probability: Floats, threshold: float) -> float:
    """Return the harmonic mean of precision and recall.

    Counted as 2 TP / (2 TP + FP + FN), so it is 0 where positives exist and none is found, and NaN only
    where no case is positive and none is at or above the threshold.
    """
    (_, false_positives), (false_negatives, true_positives) = confusion_matrix(truth, probability, threshold)
    whole = 2 * true_positives + false_positives + false_negatives
    return float(2 * true_positives / whole) if whole else float("nan")


def confusion_matrix(truth: Truth, probability: Floats, threshold: float) -> NDArray[np.int64]:
    """Return the counts (2, 2), rows by truth (negative, positive), columns by call (negative, positive).

    Positive is called what is at or above the threshold.
    """
    called = probability >= threshold
    return np.bincount(2 * truth + called, minlength=4).reshape(2, 2).astype(np.int64)


def roc_curve(truth: Truth, scores: Floats) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (1 - specificity, sensitivity) from 0, 0 to 1, 1: one point per distinct score, highest first.

    NaN throughout the one whose cases are missing.
    """
    true_positives, called = _count_by_threshold(truth, scores)
    return _part(called - true_positives, int((~truth).sum())), _part(true_positives, int(truth.sum()))


def _part(counts: NDArray[np.int64], whole: int) -> NDArray[np.float64]:
    return np.concatenate([[0.0], counts]) / (whole or np.nan)


def average_precision(truth: Truth, scores: Floats) -> float:
    """Return the mean precision over distinct scores, each weighted by the recall that it adds.

    NaN without positives. The step-wise sum: interpolation between two scores would be too hopeful.
    """
    if not truth.any():
        return float("nan")
    true_positives, called = _count_by_threshold(truth, scores)
    return float((np.diff(true_positives, prepend=0) * true_positives / called).sum() / truth.sum())


def _count_by_threshold(truth: Truth, scores: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (positives, all) at or above each distinct score, highest score first."""
    _, place = np.unique(-scores, return_inverse=True)
    positives = np.bincount(place[truth], minlength=int(place.max(initial=-1)) + 1)
    return np.cumsum(positives), np.cumsum(np.bincount(place))


def brier_score(truth: Truth, probability: Floats) -> float:
    """Return the mean squared difference of probability and truth; NaN without cases.

    0 is perfect, 0.25 what a constant 0.5 gets.
    """
    return _mean(np.square(probability - truth))


@dataclass(frozen=True, slots=True)
class Reliability:
    """What was said and what happened, in each equal-width bin of probability that holds cases.

    Arrays (filled bins): `place` of the bin, from 0; `count` of its cases; their mean `probability`; the
    `frequency` of positives among them.
    """

    place: NDArray[np.intp]
    count: NDArray[np.intp]
    probability: NDArray[np.float64]
    frequency: NDArray[np.float64]


def reliability(truth: Truth, probability: Floats, bins: int = 10) -> Reliability:
    """Return the filled bins, each from its lower bound up to but without the next one's, the last with 1.

    Bins of the probability of the class itself, not of the winning class: 0.1 must happen one time in ten.
    """
    place = np.minimum((probability * bins).astype(np.intp), bins - 1)
    count = np.bincount(place, minlength=bins)
    filled = np.flatnonzero(count)
    sums = [np.bincount(place, weights=values, minlength=bins) for values in (probability, truth)]
    mean, frequency = (total[filled] / count[filled] for total in sums)
    return Reliability(filled, count[filled], mean, frequency)


def expected_calibration_error(truth: Truth, probability: Floats, bins: int = 10) -> float:
    """Return the mean distance of probability and frequency in the bins of `reliability`, by their size.

    NaN without cases.
    """
    if len(truth) == 0:
        return float("nan")
    found = reliability(truth, probability, bins)
    return float(np.average(np.abs(found.probability - found.frequency), weights=found.count))


def _mean(values: NDArray[np.generic]) -> float:
    return float(values.mean()) if len(values) else float("nan")


def threshold_at_sensitivity(truth: Truth, probability: Floats, wanted: float) -> float:
    """Return the highest threshold whose sensitivity is `wanted` or more; ValueError without positives."""
    positives = np.sort(probability[truth])[::-1]
    if len(positives) == 0 or not 0 < wanted <= 1:
        raise ValueError(
            f"{len(positives)} positives and sensitivity {wanted}, expected some and 0 < it <= 1"
        )
    # The tolerance keeps 0.95 of 20 at 19 positives, where floating point says 19.000000000000004.
    return float(positives[int(np.ceil(wanted * len(positives) - 1e-9)) - 1])


def threshold_by_youden(truth: Truth, probability: Floats) -> float:
    """Return the threshold with the highest sensitivity + specificity; the highest one among equals."""
    if truth.all() or not truth.any():
        raise ValueError("a threshold by Youden needs positives and negatives")
    candidates = np.unique(probability)[::-1]
    gains = [sensitivity(truth, probability, t) + specificity(truth, probability, t) for t in candidates]
    return float(candidates[int(np.argmax(gains))])


def bootstrap(
    figure: Callable[[NDArray[np.intp]], float],
    groups: NDArray[np.str_],
    *,
    repeats: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Return figure(all indices) with its percentile interval over resampled patients.

    Whole groups are drawn with replacement: images of one patient are not independent, and drawing images
    would make the interval too narrow. Draws that leave the figure undefined (NaN) do not count.
    """
    _, inverse = np.unique(groups, return_inverse=True)
    members = np.split(np.argsort(inverse, kind="stable"), np.cumsum(np.bincount(inverse))[:-1])
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(repeats):
        drawn = rng.integers(len(members), size=len(members))
        values.append(figure(np.concatenate([members[group] for group in drawn])))
    defined = [value for value in values if not np.isnan(value)]
    value = figure(np.arange(len(groups)))
    if not defined:
        return Estimate(value, float("nan"), float("nan"))
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, float(low), float(high))
