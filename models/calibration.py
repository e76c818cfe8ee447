"""Make scores mean what they say, on patients the network did not learn from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit

from models import conformal, metrics
from models.strangeness import Standards

Floats = NDArray[np.floating]
Truth = NDArray[np.bool_]
Z_95 = 1.959964


@dataclass(frozen=True, slots=True)
class ClassCalibration:
    """What was fitted for one class.

    `temperature` by member, `interval_constant` and the part of slightly changed images that the interval
    then held, `conformal_quantile`, `threshold` of the probability.
    """

    temperature: tuple[float, ...]
    interval_constant: float
    interval_coverage: float
    conformal_quantile: float
    threshold: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was fitted for the whole ensemble, and on how many held-out images, patients, synthetic bodies."""

    classes: tuple[ClassCalibration, ...]
    standards: Standards
    foreign_threshold: float
    images: int
    patients: int
    synthetic: int


def calibrate_class(
    logits: Floats, labels: Floats, choose_threshold: Callable[[Truth, Floats], float]
) -> ClassCalibration:
    """Return what makes one class's scores honest.

    logits (members, pictures, views, n): of each image as it is, then of slightly changed copies of it.
    labels (n,) are 0, 1, or NaN where unknown.
    """
    is_known = ~np.isnan(labels)
    truth = labels[is_known] == 1
    temperature = ensemble_temperatures(logits[:, 0][..., is_known], truth)
    calibrated = logits / temperature[:, None, None, None]
    # Members and views are one axis from here on: (pictures, members and views, n).
    views = np.moveaxis(calibrated, 0, 1).reshape(logits.shape[1], -1, logits.shape[-1])
    plain, changed = views[0], np.stack([mean_logit(one) for one in views[1:]])
    constant = fit_interval_constant(plain, changed)
    probability = expit(plain).mean(axis=0)[is_known]
    return ClassCalibration(
        temperature=tuple(float(value) for value in temperature),
        interval_constant=constant,
        interval_coverage=interval_coverage(plain, changed, constant),
        conformal_quantile=conformal.fit_quantile(truth, probability),
        threshold=choose_threshold(truth, probability),
    )


def choose_threshold(wanted_sensitivity: float | None) -> Callable[[Truth, Floats], float]:
    """Return the rule for a threshold: at least a wanted sensitivity, or Youden's index where none is."""
    if wanted_sensitivity is None:
        return metrics.threshold_by_youden
    return lambda truth, probability: metrics.threshold_at_sensitivity(truth, probability, wanted_sensitivity)


def ensemble_temperatures(logits: Floats, truth: Truth) -> Floats:
    """Return a temperature for each member, from logits (members, views, n) of one class.

    First each member alone, then one common factor, so that the mean probability of all members and views
    has the least negative log-likelihood: members that are honest alone make a mean that is too cautious.
    """
    labels = truth.astype(np.float64)
    alone = np.array([fit_temperature(member, np.tile(labels, (len(member), 1))) for member in logits])
    scaled = logits / alone[:, None, None]
    views = scaled.reshape(-1, scaled.shape[-1])
    factor = _least_in_log(lambda t: negative_log_likelihood(mean_logit(views / t), labels))
    return np.asarray(alone * factor)


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
    return _least_in_log(lambda t: negative_log_likelihood(logits / t, labels))


def _least_in_log(loss: Callable[[float], float]) -> float:
    """Return the value between 1/20 and 20 with the least loss, searched on a logarithmic scale."""
    found = minimize_scalar(lambda log_t: loss(float(np.exp(log_t))), bounds=(-3.0, 3.0), method="bounded")
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
