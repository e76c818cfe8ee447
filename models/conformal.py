"""Split-conformal prediction sets for yes/no questions (Angelopoulos and Bates 2021, section 1)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

COVERAGE = 0.95

Floats = NDArray[np.floating]
Truth = NDArray[np.bool_]


def fit_quantile(truth: Truth, probability: Floats, coverage: float = COVERAGE) -> float:
    """Return q so that sets of the answers with nonconformity <= q hold the truth on `coverage` of images.

    Nonconformity is 1 - the probability of the answer. q is its ceil((n + 1) coverage)-th smallest value for
    the true answers of n images like those to come; 1, so that every set holds both answers, where n is too
    small for that. Raises ValueError without images.
    """
    if len(truth) == 0:
        raise ValueError("a conformal quantile needs images")
    nonconformity = np.sort(np.where(truth, 1.0 - probability, probability))
    # The tolerance keeps 0.95 of 20 at 19, where floating point says 19.000000000000004.
    rank = int(np.ceil((len(truth) + 1) * coverage - 1e-9))
    return float(nonconformity[rank - 1]) if rank <= len(truth) else 1.0


def prediction_set(probability: Floats, quantile: float) -> NDArray[np.bool_]:
    """Return which answers (n, 2: absent, present) the set of each image holds."""
    return np.stack([probability, 1.0 - probability], axis=1) <= quantile


def is_covered(truth: Truth, sets: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return of each image whether its set (n, 2: absent, present) holds the true answer."""
    return np.asarray(np.where(truth, sets[:, 1], sets[:, 0]))
