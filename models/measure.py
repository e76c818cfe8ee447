"""The figures of a model on labelled images: of each class, of each member, and of its doubts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu

from models import card, conformal, data, metrics
from models.metrics import Estimate

DECIMALS = 4
BACTERIAL, VIRAL = 1, 2

Floats = NDArray[np.float32]
Truth = NDArray[np.bool_]
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Cases:
    """What is measured on: prepared images (size, size), labels (n, classes) with NaN, patient of each."""

    images: list[Floats]
    labels: Floats
    groups: NDArray[np.str_]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)


@dataclass(frozen=True, slots=True)
class Doubts:
    """What the exported graphs say beside probabilities, as they give it (n first); and their threshold."""

    interval: Floats
    mutual_information: Floats
    prediction_set: Floats
    out_of_distribution: Floats
    foreign_threshold: float

    @property
    def is_foreign(self) -> Truth:
        """Of each image whether it is unlike those that the model was made for."""
        return np.asarray(self.out_of_distribution[:, 0] > self.foreign_threshold)


@dataclass(frozen=True, slots=True)
class Predictions:
    """Probability of each case and class, thresholds by class, the members' own probabilities by name.

    `doubts` is None of a network that is not exported yet.
    """

    probability: Floats
    thresholds: list[float]
    source: Json
    doubts: Doubts | None = None
    members: Mapping[str, Floats] = field(default_factory=dict)

    def is_undecided(self, index: int) -> Truth:
        """Return of each case whether the score of a class abstains: the rule of the card."""
        threshold, doubts = self.thresholds[index], self.doubts
        if doubts is None:
            return np.zeros(len(self.probability), dtype=np.bool_)
        low, high = doubts.interval[:, index].T
        is_present = self.probability[:, index] >= threshold
        answer = np.stack([~is_present, is_present], axis=1)
        is_sole = (doubts.prediction_set[:, index].astype(np.bool_) == answer).all(axis=1)
        return np.asarray(((low < threshold) & (threshold <= high)) | ~is_sole | doubts.is_foreign)


def measure(cases: Cases, predictions: Predictions, repeats: int) -> Json:
    """Return the figures of each class and member, of bacterial against viral, and of all prediction sets."""
    measured: Json = {
        "images": len(cases),
        "patients": len(np.unique(cases.groups)),
        "classes": [
            {"name": name, "code": list(card.CODES[name])} | measure_class(cases, predictions, index, repeats)
            for index, name in enumerate(data.CLASSES)
        ],
        "bacterial_vs_viral": measure_kind(cases, predictions.probability, repeats),
        "members": {
            name: measure_member(cases, probability, predictions.probability, repeats)
            for name, probability in predictions.members.items()
        },
    }
    if predictions.doubts:
        covered = covered_share(cases, predictions.doubts)
        measured["set_coverage"] = as_json(metrics.bootstrap(covered, cases.groups, repeats=repeats))
        measured["called_foreign"] = share(predictions.doubts.is_foreign, cases.groups, repeats)
    return measured


def measure_class(cases: Cases, predictions: Predictions, index: int, repeats: int) -> Json:
    """Return the figures of one class over the cases whose truth is known."""
    is_known = ~np.isnan(cases.labels[:, index])
    truth, groups = cases.labels[is_known, index] == 1, cases.groups[is_known]
    probability, threshold = predictions.probability[is_known, index], predictions.thresholds[index]
    measured: Json = {"positives": int(truth.sum()), "negatives": int((~truth).sum()), "threshold": threshold}
    if len(truth) == 0:
        return measured
    for name, figure in figures_at(threshold).items():
        estimate = metrics.bootstrap(_over(figure, truth, probability), groups, repeats=repeats)
        measured[name] = as_json(estimate)
    measured["confusion_matrix"] = metrics.confusion_matrix(truth, probability, threshold).tolist()
    if predictions.doubts:
        is_right = (probability >= threshold) == truth
        is_decided = ~predictions.is_undecided(index)[is_known]
        sets = predictions.doubts.prediction_set[is_known, index] > 0
        measured["set_coverage"] = share(conformal.is_covered(truth, sets), groups, repeats)
        measured["undecided"] = share(~is_decided, groups, repeats)
        measured["accuracy_when_decided"] = share(is_right[is_decided], groups[is_decided], repeats)
        mutual_information = predictions.doubts.mutual_information[is_known, index]
        measured["mutual_information"] = compare(mutual_information[~is_right], mutual_information[is_right])
    return measured


def figures_at(threshold: float) -> dict[str, Callable[[Truth, Floats], float]]:
    """Return every figure of truth and probability by name."""
    return {
        "auc": metrics.area_under_curve,
        "average_precision": metrics.average_precision,
        "sensitivity": lambda t, p: metrics.sensitivity(t, p, threshold),
        "specificity": lambda t, p: metrics.specificity(t, p, threshold),
        "precision": lambda t, p: metrics.precision(t, p, threshold),
        "f1": lambda t, p: metrics.f1_score(t, p, threshold),
        "accuracy": lambda t, p: metrics.accuracy(t, p, threshold),
        "calibration_error": metrics.expected_calibration_error,
        "brier_score": metrics.brier_score,
    }


def covered_share(cases: Cases, doubts: Doubts) -> Callable[[NDArray[np.intp]], float]:
    """Return the figure of indices: the part of all sets, of any class with known truth, that hold it."""
    is_known = ~np.isnan(cases.labels)
    covered = np.stack(
        [
            conformal.is_covered(cases.labels[:, index] == 1, doubts.prediction_set[:, index] > 0)
            for index in range(cases.labels.shape[1])
        ],
        axis=1,
    )
    return lambda chosen: _mean(covered[chosen][is_known[chosen]])


def compare(wrong: Floats, right: Floats) -> Json:
    """Return medians of both, and how likely wrong cases rank so high by chance (Mann-Whitney, one-sided)."""
    described: Json = {
        name: {"cases": len(values), "median": round(float(np.median(values)), 5) if len(values) else None}
        for name, values in (("wrong", wrong), ("right", right))
    }
    if len(wrong) and len(right):
        described["p"] = float(f"{mannwhitneyu(wrong, right, alternative='greater').pvalue:.3g}")
    return described


def measure_kind(cases: Cases, probability: Floats, repeats: int) -> Json:
    """Return the AUC of bacterial against viral among the cases that are one of them."""
    chosen, is_bacterial = kinds(cases)
    counts = {"bacterial": int(is_bacterial.sum()), "viral": int((~is_bacterial).sum())}
    if not chosen.any():
        return counts
    figure = _over(metrics.area_under_curve, is_bacterial, bacterial_over_viral(probability[chosen]))
    return counts | {"auc": as_json(metrics.bootstrap(figure, cases.groups[chosen], repeats=repeats))}


def measure_member(cases: Cases, probability: Floats, ensemble: Floats, repeats: int) -> Json:
    """Return a member's AUC of each class and kind, and by how much the ensemble is better at the latter.

    The difference is paired: both are drawn on the same patients each time.
    """
    measured: Json = {"auc": {}}
    for index, name in enumerate(data.CLASSES):
        is_known = ~np.isnan(cases.labels[:, index])
        truth, groups = cases.labels[is_known, index] == 1, cases.groups[is_known]
        figure = _over(metrics.area_under_curve, truth, probability[is_known, index])
        measured["auc"][name] = as_json(metrics.bootstrap(figure, groups, repeats=repeats))
    chosen, is_bacterial = kinds(cases)
    own, joint = (
        _over(metrics.area_under_curve, is_bacterial, bacterial_over_viral(one[chosen]))
        for one in (probability, ensemble)
    )
    groups = cases.groups[chosen]
    gain = metrics.bootstrap(lambda drawn: joint(drawn) - own(drawn), groups, repeats=repeats)
    measured["bacterial_vs_viral"] = as_json(metrics.bootstrap(own, groups, repeats=repeats))
    measured["ensemble_is_better_by"] = as_json(gain)
    return measured


def kinds(cases: Cases) -> tuple[Truth, Truth]:
    """Return which cases are a bacterial or a viral pneumonia, and of those which are bacterial."""
    bacterial, viral = cases.labels[:, BACTERIAL] == 1, cases.labels[:, VIRAL] == 1
    chosen = bacterial ^ viral
    return chosen, bacterial[chosen]


def bacterial_over_viral(probability: Floats) -> NDArray[np.float64]:
    """Return the difference of both logits: how much more bacterial than viral."""
    inside = np.clip(probability.astype(np.float64), 1e-6, 1 - 1e-6)
    logits = np.log(inside / (1 - inside))
    return np.asarray(logits[:, BACTERIAL] - logits[:, VIRAL])


def share(is_so: Truth, groups: NDArray[np.str_], repeats: int) -> list[float | None]:
    """Return the part of the cases that are so, with its interval."""
    return as_json(metrics.bootstrap(lambda chosen: _mean(is_so[chosen]), groups, repeats=repeats))


def _mean(values: Truth) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _over(
    figure: Callable[[Truth, Any], float], truth: Truth, scores: NDArray[np.floating]
) -> Callable[[NDArray[np.intp]], float]:
    return lambda chosen: figure(truth[chosen], scores[chosen])


def as_json(estimate: Estimate) -> list[float | None]:
    """Return [value, low, high], rounded; null where undefined."""
    values = (estimate.value, estimate.low, estimate.high)
    return [None if math.isnan(value) else round(value, DECIMALS) for value in values]


def cell(values: list[float | None] | None) -> str:
    """Return an estimate as text for people: 0.900 (0.850-0.940), or a dash."""
    if values is None or values[0] is None:
        return "-"
    value, low, high = ("-" if number is None else f"{number:.3f}" for number in values)
    return f"{value} ({low}-{high})"
