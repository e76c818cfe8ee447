"""Signs of pneumonia on one frontal chest radiograph."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from node.domain.card import ModelCard
from node.domain.findings import (
    Algorithm,
    Findings,
    OutOfDistribution,
    PredictionSet,
    Presence,
    Score,
    Uncertainty,
)
from node.domain.study import AttributeValue, Instance, Series
from node.errors import DatasetError, GeometryError, ModelError
from node.imaging.intensity import prepare_radiograph
from node.interfaces import Arrays, Engine
from node.read.header import read_attributes
from node.read.projection import read_projection

NUMBERS = ("probability", "spread", "entropy", "mutual_information")
ANSWERS = (Presence.ABSENT, Presence.PRESENT)
"""What the last axis of a prediction set stands for."""


@dataclass(frozen=True, slots=True)
class ChestXray:
    """One classifier ensemble on the first frontal radiograph of a series."""

    model: str = "chest_xray"

    def analyze(self, series: Series, engine: Engine) -> Findings:
        """Return one score per class of the model's card, each with its activation map.

        Raises DatasetError where no instance is a frontal radiograph, GeometryError where it does not lie
        upright, PixelError where it cannot be decoded, ModelError where the model answers no numbers or less
        than its card states.
        """
        card = engine.card(self.model)
        instance = frontal_instance(series)
        image = read_projection(instance)
        pixels = prepare_radiograph(image.pixels, card.input_shape[-1])
        outputs = engine.infer(self.model, {"image": pixels[np.newaxis, np.newaxis]})
        return Findings(
            pipeline=self.model,
            algorithm=Algorithm(card.name, card.version, card.parameters),
            study_instance_uid=series.study_instance_uid,
            series_instance_uid=series.series_instance_uid,
            sop_instance_uids=(instance.sop_instance_uid,),
            scores=to_scores(self.model, card, outputs),
        )


def frontal_instance(series: Series) -> Instance:
    """Return the first instance that is neither lateral nor a localizer; it must lie upright."""
    for instance in series.instances:
        attributes = read_attributes((instance,))
        if attributes.get("view") == "LATERAL" or attributes.get("is_localizer"):
            continue
        require_upright(instance, attributes.get("patient_orientation"))
        return instance
    raise DatasetError(series.series_instance_uid, "no instance is a frontal radiograph")


def require_upright(instance: Instance, patient_orientation: AttributeValue) -> None:
    """Raise GeometryError where the image says that it is turned or mirrored (PS3.3 C.7.6.1.1.1).

    The network was trained on rows that run to the patient's left and columns that run to the feet; turned
    or mirrored it would answer all the same, and wrongly. An image that does not say is taken as upright.
    """
    if not isinstance(patient_orientation, tuple) or len(patient_orientation) != 2:
        return
    row, column = map(str, patient_orientation)
    if row and column and not (row.startswith("L") and column.startswith("F")):
        raise GeometryError(
            instance.sop_instance_uid,
            f"rows run to {row} and columns to {column}, expected L and F (upright, not mirrored)",
        )


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
