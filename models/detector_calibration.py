"""Make the scores of detectors mean what they say, on films that no network learned from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, logit

from models.detector import LABELS, LESIONS, LUNGS
from models.detector_graphs import EDGE, Platt
from models.detector_metrics import FOUND_OVERLAP, Boxes, outcomes
from models.metrics import expected_calibration_error

Reals = NDArray[np.floating]

LUNG_OVERLAP = 0.5
"""The least overlap by which a lung is found."""
GROUPS = ((LESIONS, FOUND_OVERLAP), *(((label,), LUNG_OVERLAP) for label in LUNGS))
"""What may stand for what, and by which overlap: a lesion is found whatever kind it is called."""
# With fewer of either kind a label takes what all of its group say together.
LEAST_CASES = 15
SLOPES = (0.05, 20.0)


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """Detections of all images: their label, score, and 1 where they found a truth, 0 where not (n,)."""

    labels: NDArray[np.int64]
    scores: Reals
    outcomes: Reals

    def of(self, labels: Sequence[int]) -> Judged:
        """Return those of some labels."""
        chosen = np.isin(self.labels, labels)
        return Judged(self.labels[chosen], self.scores[chosen], self.outcomes[chosen])

    @property
    def is_enough(self) -> bool:
        """Are there enough of both kinds to fit two numbers to?"""
        return bool(min(self.outcomes.sum(), (1 - self.outcomes).sum()) >= LEAST_CASES)


def judge(
    found: Sequence[Boxes], truths: Sequence[Boxes], is_labelled: Sequence[tuple[bool, bool]]
) -> Judged:
    """Return what became of each detection on images.

    `is_labelled` says of each image whether all lesions and all lungs have a box; where they have not,
    nothing is counted.
    """
    labels: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
    scores: list[Reals] = [np.empty(0)]
    became: list[Reals] = [np.empty(0)]
    for one, truth, (are_lesions, are_lungs) in zip(found, truths, is_labelled, strict=True):
        for group, least in GROUPS:
            if not (are_lesions if group == LESIONS else are_lungs):
                continue
            own = one.of(group)
            values = outcomes(own, truth.of(group), least)
            is_counted = ~np.isnan(values)
            labels.append(own.labels[is_counted])
            scores.append(own.scores[is_counted])
            became.append(values[is_counted])
    return Judged(np.concatenate(labels), np.concatenate(scores), np.concatenate(became))


def fit_platts(judged: Judged) -> list[Platt]:
    """Return the calibration of each label from 1 on; as it is where there is too little to tell."""
    fitted = [Platt()] * (len(LABELS) - 1)
    for group, _ in GROUPS:
        whole = judged.of(group)
        for label in group:
            own = whole.of((label,))
            chosen = own if own.is_enough else whole
            if chosen.is_enough:
                fitted[label - 1] = fit_platt(chosen.scores, chosen.outcomes)
    return fitted


def fit_platt(scores: Reals, outcomes: Reals) -> Platt:
    """Return slope and offset of the logit of least cross-entropy (Platt 1999); the slope keeps the order.

    Wanted are not 1 and 0 but what as many cases can tell: (n + 1) / (n + 2) of n hits, 1 / (m + 2) of m.
    """
    hits, misses = outcomes.sum(), (1 - outcomes).sum()
    wanted = np.where(outcomes > 0, (hits + 1) / (hits + 2), 1 / (misses + 2))
    logits = logit(np.clip(scores, EDGE, 1 - EDGE))

    def loss(parameters: Reals) -> tuple[float, Reals]:
        slope, offset = parameters
        said = slope * logits + offset
        error = (expit(said) - wanted) / len(wanted)
        value = float(np.mean(np.logaddexp(0.0, said) - wanted * said))
        return value, np.array([error @ logits, error.sum()])

    found = minimize(loss, (1.0, 0.0), jac=True, method="L-BFGS-B", bounds=(SLOPES, (-20.0, 20.0)))
    return Platt(*(round(float(value), 5) for value in found.x))


def calibration_error(judged: Judged) -> float:
    """Return the expected calibration error of scores as they are; NaN without a detection."""
    return expected_calibration_error(judged.outcomes > 0, judged.scores)
