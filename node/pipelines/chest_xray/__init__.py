"""Signs of pneumonia on one frontal chest radiograph, and where lesions are."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from node.domain.findings import Algorithm, Findings
from node.domain.image import Image
from node.domain.study import AttributeValue, Instance, Series
from node.errors import DatasetError, GeometryError
from node.imaging.intensity import prepare_radiograph
from node.interfaces import Engine
from node.pipelines.chest_xray.contradictions import reconcile, unshown
from node.pipelines.chest_xray.lesions import detect_lesions
from node.pipelines.scores import to_scores
from node.read.header import read_attributes
from node.read.projection import read_projection


@dataclass(frozen=True, slots=True)
class ChestXray:
    """One classifier ensemble on the first frontal radiograph of a series, and one of detectors.

    Without a `detector_model` nothing is outlined.
    """

    model: str = "chest_xray"
    detector_model: str = "chest_xray_lesions"

    def analyze(self, series: Series, engine: Engine) -> Findings:
        """Return one score per class of the model's card, each with its activation map, and the lesions seen.

        Raises DatasetError where no instance is a frontal radiograph, GeometryError where it does not lie
        upright, PixelError where it cannot be decoded, ModelError where the model answers no numbers or less
        than its card states.
        """
        card = engine.card(self.model)
        instance = frontal_instance(series)
        image = read_projection(instance)
        pixels = prepare_radiograph(image.pixels, card.input_shape[-1])
        outputs = engine.infer(self.model, {"image": pixels[np.newaxis, np.newaxis]})
        scores = to_scores(self.model, card, outputs)
        if not self.detector_model:
            return self._findings(series, image, engine, scores=scores)
        strangeness = next((one.uncertainty.out_of_distribution for one in scores), None)
        detected = detect_lesions(image, engine, self.detector_model, strangeness)
        shares = engine.card(self.detector_model).outlined_share
        scores, regions = reconcile(scores, detected.regions, shares)
        remarks = (*detected.remarks, *unshown(scores, regions, shares))
        return self._findings(series, image, engine, scores=scores, regions=regions, remarks=remarks)

    def _findings(self, series: Series, image: Image, engine: Engine, **found: Any) -> Findings:
        card = engine.card(self.model)
        helpers = [engine.card(name) for name in (self.detector_model,) if name]
        detectors = (f"detectors={helper.name} {helper.version}" for helper in helpers)
        return Findings(
            pipeline=self.model,
            algorithm=Algorithm(card.name, card.version, (*card.parameters, *detectors)),
            study_instance_uid=series.study_instance_uid,
            series_instance_uid=series.series_instance_uid,
            sop_instance_uids=(image.sop_instance_uid,),
            **found,
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
