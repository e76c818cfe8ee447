"""Make scores mean what they say, on patients the network did not learn from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit

Floats = NDArray[np.floating]
Z_95 = 1.959964


@dataclass(frozen=True, slots=True)
class Calibration:
    """What the graphs need: temperatures by member and class, and by class the constant of the interval."""

    temperature: tuple[tuple[float, ...], ...]
    interval_constant: tuple[float, ...]


def negative_log_likelihood(logits: Floats, labels: Floats) -> float:
    """Return the mean negative log-likelihood of 0/1 labels under sigmoid(logits)."""
    return float(np.mean(np.logaddexp(0.0, logits) - labels * logits))


def fit_temperature(logits: Floats, labels: Floats) -> float:
    """Return T > 0 so that sigmoid(logits / T) has the least negative log-likelihood on 0/1 labels.

    One number keeps the ranking as it was: AUC does not change, only how sure a score is. Searched from
    1/20 to 20; raises ValueError where labels are of one kind, for then the best T is at the edge.
    """
    if len(np.unique(labels)) < 2:
        raise ValueError("a temperature needs positives and negatives")
    found = minimize_scalar(
        lambda log_t: negative_log_likelihood(logits / np.exp(log_t), labels),
        bounds=(-3.0, 3.0),
        method="bounded",
    )
    return float(np.exp(found.x))


def mean_logit(view_logits: Floats) -> Floats:
    """Return the logit of the mean probability over the first axis (views), clipped to ±13."""
    return np.asarray(logit(np.clip(expit(view_logits).mean(axis=0), 2e-6, 1 - 2e-6)))


def fit_interval_constant(view_logits: Floats, changed_logits: Floats, level: float = 0.95) -> float:
    """Return c so that mean ± 1.96·sqrt(s² + c²) holds the logits of `level` of the changed images.

    view_logits (views, n): calibrated logits of one class for each image as it is. changed_logits
    (changes, n): the same for slightly changed copies (position, exposure), each already averaged over views.
    s is the sample standard deviation over the views. c is the least such constant, 0 if none is needed.
    """
    center, views = mean_logit(view_logits), view_logits.std(axis=0, ddof=1)
    # For each changed copy, the c that just reaches it: |difference| = z sqrt(s² + c²).
    needed = np.square((changed_logits - center) / Z_95) - np.square(views)
    return float(np.sqrt(max(0.0, float(np.quantile(needed, level)))))


def interval_coverage(view_logits: Floats, changed_logits: Floats, constant: float) -> float:
    """Return the part of changed images whose logit lies in the interval that `constant` gives."""
    half = Z_95 * np.sqrt(np.square(view_logits.std(axis=0, ddof=1)) + constant**2)
    return float((np.abs(changed_logits - mean_logit(view_logits)) <= half).mean())
