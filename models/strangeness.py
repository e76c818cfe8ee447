"""How unlike the training images an image is, and from where on it is too unlike to be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DIRECTIONS = 64
"""Of 32 to 256 the fewest that tell foreign pictures as well as more do, for both trunks."""
FALSE_ALARM_RATE = 0.01

Floats = NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Subspace:
    """Where features of training images lie: `center` (channels,), `directions` (channels, k) orthonormal."""

    center: NDArray[np.float32]
    directions: NDArray[np.float32]

    def distance(self, features: Floats) -> NDArray[np.float64]:
        """Return how far features (n, channels) lie outside (the residual of Wang et al. 2022, ViM)."""
        deviation = np.asarray(features, dtype=np.float64) - self.center
        outside = deviation - deviation @ self.directions @ self.directions.T
        return np.asarray(np.linalg.norm(outside, axis=1))


def fit_subspace(features: Floats, directions: int = DIRECTIONS) -> Subspace:
    """Return the subspace of the first principal components of training features (n, channels)."""
    center = features.mean(axis=0, dtype=np.float64)
    _, _, rows = np.linalg.svd(features - center, full_matrices=False)
    # The center takes one: n images span n - 1 directions.
    count = min(directions, len(features) - 1, features.shape[1])
    return Subspace(center.astype(np.float32), rows[:count].T.astype(np.float32))


@dataclass(frozen=True, slots=True)
class Gaussian:
    """How features of training images scatter: `center` (channels,), `whitening` (channels, channels)."""

    center: NDArray[np.float32]
    whitening: NDArray[np.float32]

    def distance(self, features: Floats) -> NDArray[np.float64]:
        """Return the Mahalanobis distance of features (n, channels) from the center (Lee et al. 2018)."""
        deviation = np.asarray(features, dtype=np.float64) - self.center
        return np.asarray(np.linalg.norm(deviation @ self.whitening, axis=1))


def fit_gaussian(features: Floats, least: float = 1e-3) -> Gaussian:
    """Return the scatter of training features (n, channels).

    Directions in which they scatter by less than that share of the mean variance count as if by so much: by
    how little they do is chance, and the rounding of weights would be magnified.
    """
    center = features.mean(axis=0, dtype=np.float64)
    variance, directions = np.linalg.eigh(np.atleast_2d(np.cov(features.astype(np.float64), rowvar=False)))
    whitening = directions / np.sqrt(np.maximum(variance, least * variance.mean()))
    return Gaussian(center.astype(np.float32), whitening.astype(np.float32))


@dataclass(frozen=True, slots=True)
class Standards:
    """What is usual: mean and standard deviation (members, parts) of strangeness on calibration images."""

    mean: NDArray[np.float32]
    deviation: NDArray[np.float32]


def fit_standards(strangeness: Floats) -> Standards:
    """Return what is usual, from strangeness (members, n, parts)."""
    # A part that never varies must not be divided by nothing.
    deviation = np.maximum(strangeness.std(axis=1), 1e-3)
    return Standards(strangeness.mean(axis=1).astype(np.float32), deviation.astype(np.float32))


def score(strangeness: Floats, standards: Standards) -> NDArray[np.float64]:
    """Return the out-of-distribution score (n,) from strangeness (members, n, parts), as the graph does."""
    standardized = (strangeness - standards.mean[:, None]) / standards.deviation[:, None]
    return np.asarray(np.logaddexp(0.0, standardized.mean(axis=0).max(axis=1)), dtype=np.float64)


def fit_threshold(scores_by_source: Sequence[Floats], rate: float = FALSE_ALARM_RATE) -> float:
    """Return the score that at most about `rate` of the images of each source pass."""
    return max(float(np.quantile(scores, 1.0 - rate)) for scores in scores_by_source if len(scores))
