"""What a classifier ensemble answers, as scores: the same outputs whatever was looked at."""

import numpy as np
import numpy.typing as npt

from node.domain.card import ModelCard
from node.domain.findings import OutOfDistribution, PredictionSet, Presence, Score, Uncertainty
from node.errors import ModelError
from node.interfaces import Arrays

NUMBERS = ("probability", "spread", "entropy", "mutual_information")
ANSWERS = (Presence.ABSENT, Presence.PRESENT)
"""What the last axis of a prediction set stands for."""


def to_scores(model: str, card: ModelCard, outputs: Arrays) -> tuple[Score, ...]:
    """Return the scores of one image in the order of the card's classes.

    Prediction sets and the out-of-distribution score are asked for where the card states their coverage and
    threshold; the activation map may be missing.
    """
    for name, shape in _shapes(card, outputs).items():
        _require(model, name, outputs.get(name), shape)
    if card.conformal_coverage is not None and not np.isin(outputs["prediction_set"], (0, 1)).all():
        raise ModelError(model, "output prediction_set holds values other than 0 and 1")
    return tuple(_score(index, card, outputs) for index in range(len(card.classes)))


def _shapes(card: ModelCard, outputs: Arrays) -> dict[str, tuple[int, ...]]:
    """Return the outputs that must be there, each with its shape; -1 is any length."""
    classes = len(card.classes)
    shapes: dict[str, tuple[int, ...]] = {name: (1, classes) for name in NUMBERS}
    shapes["interval"] = (1, classes, 2)
    if card.conformal_coverage is not None:
        shapes["prediction_set"] = (1, classes, len(ANSWERS))
    if card.out_of_distribution_threshold is not None:
        shapes["out_of_distribution"] = (1, 1)
    if "activation_map" in outputs:
        shapes["activation_map"] = (1, classes, -1, -1)
    return shapes


def _require(model: str, name: str, values: npt.NDArray[np.generic] | None, shape: tuple[int, ...]) -> None:
    if values is None:
        raise ModelError(model, f"output {name} is absent, expected {list(shape)}")
    is_of_shape = len(values.shape) == len(shape) and all(
        wanted in (-1, length) for wanted, length in zip(shape, values.shape, strict=True)
    )
    if not is_of_shape or not values.size or not np.isfinite(values.astype(np.float64)).all():
        raise ModelError(
            model, f"output {name} is {list(values.shape)}, perhaps not finite; expected finite {list(shape)}"
        )


def _score(index: int, card: ModelCard, outputs: Arrays) -> Score:
    probability, spread, entropy, mutual_information = (float(outputs[name][0, index]) for name in NUMBERS)
    low, high = (float(end) for end in outputs["interval"][0, index])
    # The graph works in float32: rounding may leave the ends a hair on the wrong side.
    probability = min(max(probability, 0.0), 1.0)
    activation = outputs.get("activation_map")
    return Score(
        code=card.classes[index].code,
        probability=probability,
        threshold=card.classes[index].threshold,
        uncertainty=Uncertainty(
            spread=max(spread, 0.0),
            interval=(max(min(low, probability), 0.0), min(max(high, probability), 1.0)),
            entropy=max(entropy, 0.0),
            mutual_information=max(mutual_information, 0.0),
            prediction_set=_prediction_set(index, card, outputs),
            out_of_distribution=_out_of_distribution(card, outputs),
        ),
        activation=None if activation is None else np.clip(activation[0, index], 0, 1).astype(np.float32),
    )


def _prediction_set(index: int, card: ModelCard, outputs: Arrays) -> PredictionSet | None:
    if card.conformal_coverage is None:
        return None
    members = zip(ANSWERS, outputs["prediction_set"][0, index], strict=True)
    return PredictionSet(tuple(answer for answer, is_in in members if is_in), card.conformal_coverage)


def _out_of_distribution(card: ModelCard, outputs: Arrays) -> OutOfDistribution | None:
    if card.out_of_distribution_threshold is None:
        return None
    return OutOfDistribution(float(outputs["out_of_distribution"][0, 0]), card.out_of_distribution_threshold)
