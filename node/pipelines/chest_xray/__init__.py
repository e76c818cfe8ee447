"""Signs of pneumonia on one frontal chest radiograph."""

from dataclasses import dataclass

import numpy as np

from node.domain.card import ModelClass
from node.domain.findings import Algorithm, Findings, Score, Uncertainty
from node.domain.study import AttributeValue, Instance, Series
from node.errors import DatasetError, GeometryError, ModelError
from node.imaging.intensity import prepare_radiograph
from node.interfaces import Arrays, Engine
from node.read.header import read_attributes
from node.read.projection import read_projection

NUMBERS = ("probability", "spread", "interval", "entropy", "mutual_information")


@dataclass(frozen=True, slots=True)
class ChestXray:
    """One classifier ensemble on the first frontal radiograph of a series."""

    model: str = "chest_xray"

    def analyze(self, series: Series, engine: Engine) -> Findings:
        """Return one score per class of the model's card, each with its activation map.

        Raises DatasetError where no instance is a frontal radiograph, GeometryError where it does not lie
        upright, PixelError where it cannot be decoded, ModelError where the model answers no numbers.
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
            scores=to_scores(self.model, card.classes, outputs),
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


def to_scores(model: str, classes: tuple[ModelClass, ...], outputs: Arrays) -> tuple[Score, ...]:
    """Return the scores of one image in the order of the card's classes."""
    for name in NUMBERS:
        shape = (1, len(classes), 2) if name == "interval" else (1, len(classes))
        values = outputs.get(name)
        if values is None or values.shape != shape or not np.isfinite(values).all():
            found = "absent" if values is None else f"{list(values.shape)}, some perhaps not finite"
            raise ModelError(model, f"output {name} is {found}, expected finite {list(shape)}")
    return tuple(_score(index, one, outputs) for index, one in enumerate(classes))


def _score(index: int, model_class: ModelClass, outputs: Arrays) -> Score:
    probability, spread, entropy, mutual_information = (
        float(outputs[name][0, index]) for name in NUMBERS if name != "interval"
    )
    low, high = (float(end) for end in outputs["interval"][0, index])
    # The graph works in float32: rounding may leave the ends a hair on the wrong side.
    probability = min(max(probability, 0.0), 1.0)
    interval = (max(min(low, probability), 0.0), min(max(high, probability), 1.0))
    activation = outputs.get("activation_map")
    return Score(
        code=model_class.code,
        probability=probability,
        threshold=model_class.threshold,
        uncertainty=Uncertainty(max(spread, 0.0), interval, max(entropy, 0.0), max(mutual_information, 0.0)),
        activation=None if activation is None else np.clip(activation[0, index], 0, 1).astype(np.float32),
    )
