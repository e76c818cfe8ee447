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
    return float((probability[truth] >= threshold).mean()) if truth.any() else float("nan")


def specificity(truth: Truth, probability: Floats, threshold: float) -> float:
    """Return the part of the negatives below the threshold; NaN without negatives."""
    return float((probability[~truth] < threshold).mean()) if (~truth).any() else float("nan")


def accuracy(truth: Truth, probability: Floats, threshold: float) -> float:
    """Return the part of all cases on their right side of the threshold."""
    return float(((probability >= threshold) == truth).mean())


def brier_score(truth: Truth, probability: Floats) -> float:
    """Return the mean squared difference of probability and truth: 0 is perfect, 0.25 a constant 0.5."""
    return float(np.square(probability - truth).mean())


def expected_calibration_error(truth: Truth, probability: Floats, bins: int = 10) -> float:
    """Return the mean distance of probability and observed frequency over equal-width bins, by their size.

    Bins of the probability of the class itself, not of the winning class: 0.1 must happen one time in ten.
    """
    place = np.minimum((probability * bins).astype(int), bins - 1)
    error = 0.0
    for index in np.unique(place):
        chosen = place == index
        error += chosen.mean() * abs(float(probability[chosen].mean()) - float(truth[chosen].mean()))
    return float(error)


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
