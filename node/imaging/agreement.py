"""What several detectors' scores of one place come to: a probability, and how far it can be trusted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from node.domain.card import Fusion

LEAST = 0.01
"""What a member counts as saying of a place where it found nothing: it has no score lower than it gives."""

NORMAL_95 = 1.96

Reals = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Agreement:
    """Of each place its calibrated probability with its 95 % interval, (n,) in 0–1, and entropies in bit."""

    probability: Reals
    low: Reals
    high: Reals
    entropy: Reals
    mutual_information: Reals


def weigh_agreement(members: NDArray[np.floating], fusion: Fusion) -> Agreement:
    """Return what the scores (n, members) of each place come to; 0 is a member that found nothing there.

    The probability is that of the mean of their logits, by the class's weights (none: all alike), calibrated.
    The interval is that of the classifiers: normal on the logit scale, half-width 1.96·sqrt(s² + c²), s the
    sample standard deviation (ddof 1) of the members' calibrated logits, c the class's constant. So what one
    of two finds alone is hardly ever certain. Raises ValueError where there are other weights than members.
    """
    scores = np.asarray(members, np.float64)
    if fusion.weights and len(fusion.weights) != scores.shape[1]:
        raise ValueError(f"{len(fusion.weights)} weights of {scores.shape[1]} members")
    logits = _calibrated(scores, fusion)
    weights = np.asarray(fusion.weights or np.ones(scores.shape[1]))
    center = np.asarray(logits @ (weights / weights.sum()))
    disagreement = logits.var(axis=1, ddof=1) if scores.shape[1] > 1 else np.zeros(len(scores))
    half_width = NORMAL_95 * np.sqrt(disagreement + fusion.interval_constant**2)
    probability = _sigmoid(center)
    return Agreement(
        probability=probability,
        low=_sigmoid(center - half_width),
        high=_sigmoid(center + half_width),
        entropy=_entropy(probability),
        mutual_information=np.maximum(_entropy(scores.mean(axis=1)) - _entropy(scores).mean(axis=1), 0),
    )


def _calibrated(scores: Reals, fusion: Fusion) -> Reals:
    """Return the logits of scores once calibrated; those of certainty are finite."""
    bounded = np.clip(scores, LEAST, 1 - LEAST)
    return np.asarray(fusion.slope * np.log(bounded / (1 - bounded)) + fusion.offset)


def _sigmoid(logits: Reals) -> Reals:
    return np.asarray(1 / (1 + np.exp(-logits)))


def _entropy(probability: Reals) -> Reals:
    """Return the entropy of yes or no in bit."""
    known = np.clip(probability, 1e-12, 1 - 1e-12)
    return np.asarray(-known * np.log2(known) - (1 - known) * np.log2(1 - known))
