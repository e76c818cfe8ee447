"""What the card of the detectors of lesions says, apart from what is measured later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pydicom.sr.codedict import codes

from models import card
from models.detector import LABELS, LESIONS
from models.detector_calibration import LUNG_OVERLAP
from models.detector_fusion import FALSE_PER_IMAGE
from models.detector_graphs import COUNT, SUPPRESSED_OVERLAP, Platt
from models.detector_metrics import FOUND_OVERLAP
from models.train import commit
from node.domain.card import Fusion
from node.domain.code import CONSOLIDATION, LEFT_LUNG, RIGHT_LUNG

Json = dict[str, Any]

NAME = "chest_xray_lesions"
INTENDED_USE = (
    "Points at what may be a nodule, mass or consolidation of 4 to 60 mm on a frontal chest radiograph, and "
    "at both lungs; a radiologist reads every image. Lesions were learned from synthetic radiographs alone; "
    "not validated on lesions of any patient, for lateral views, for other findings, or for any clinical use."
)
CODES: dict[str, tuple[str, str, str]] = {
    name: (one.value, one.scheme, one.meaning)
    for name, one in (("Consolidation", CONSOLIDATION), ("Right lung", RIGHT_LUNG), ("Left lung", LEFT_LUNG))
} | {
    name: (one.value, one.scheme_designator, one.meaning)
    for name, one in (("Nodule", codes.SCT.Nodule), ("Mass", codes.SCT.Mass))
}
THRESHOLD_CHOSEN = (
    f"{FALSE_PER_IMAGE:g} false places of lesions, of all kinds together, reach it per synthetic film of the "
    "calibration"
)
TRAINING_DATA: Json = {
    "synthetic": {
        "title": "synthetic radiographs (models/detector_data.py), half of them with known lesions",
        "licence": "Apache-2.0",
        "population": "none",
    },
    "lungs": {
        "title": "radiographs with boxes of both lungs, of the licences CC0 and CC BY alone",
        "licence": "CC0, CC BY",
        "population": "as in boxes.csv and labels.csv of the folder; what lesions they show is unknown",
    },
    "normals": card.TRAINING_DATA["kermany"] | {"split": "train, normal ones, as images without a lesion"},
}
OUTPUTS = {
    "boxes": f"(members, {COUNT}, 4) left, top, right, bottom in pixels of the input; 0, 0 is its corner",
    "scores": f"(members, {COUNT}) probability that there is such a thing in the box, the highest first; "
    "0 is no box",
    "labels": f"(members, {COUNT}) place in `labels`; 0 is no box",
    "kinds": f"(members, {COUNT}, {len(LESIONS)}) how likely a lesion is each of the first labels; 0 of all "
    "where the label says it alone",
}
CALIBRATION_METHOD = (
    "Platt scaling of each label and member (slope and offset of the logit, Platt 1999), part of the graph. "
    f"A lesion counts as found where boxes overlap by {FOUND_OVERLAP:g} or more, whatever kind it is called, "
    f"a lung by {LUNG_OVERLAP:g}; a second box on a lesion that is found counts neither way."
)


def parts(
    *,
    size: int,
    platts: Mapping[str, Sequence[Platt]],
    classes: Sequence[Json],
    errors: Mapping[str, Mapping[str, float]],
    counts: Mapping[str, int],
    stages: Mapping[str, Sequence[Json]],
) -> Json:
    """Return what it is for, what goes in and out, what trained it and what made it honest."""
    return {
        "intended_use": INTENDED_USE,
        "eligibility": eligibility(),
        "input": card.input_parts(size, list(platts))["input"],
        "outputs": OUTPUTS,
        "parameters": [
            f"input_size_px={size}",
            f"members={len(platts)}",
            f"boxes={COUNT}",
            f"suppressed_overlap={SUPPRESSED_OVERLAP:g}",
        ],
        "members": list(platts),
        "labels": list(LABELS),
        "classes": list(classes),
        "calibration": {
            "method": CALIBRATION_METHOD,
            "split": "synthetic films of seeds of their own, and patients of the training split kept for it",
            "films": dict(counts),
            "slope_and_offset": {
                name: {label: [one.slope, one.offset] for label, one in zip(LABELS[1:], own, strict=True)}
                for name, own in platts.items()
            },
            "expected_calibration_error_of_lesions": {name: dict(own) for name, own in errors.items()},
        },
        "training": {
            "data": TRAINING_DATA,
            "exported_at_commit": commit(),
            "members": {name: {"stages": [shown(stage) for stage in own]} for name, own in stages.items()},
        },
    }


def classes(fusions: Sequence[Fusion], thresholds: Sequence[float]) -> list[Json]:
    """Return of each label from 1 on what the node makes of it: code, threshold and calibrated fusion."""
    return [
        {
            "name": name,
            "code": list(CODES[name]),
            "threshold": threshold,
            "threshold_chosen": THRESHOLD_CHOSEN if label in LESIONS else "the middle",
            "fusion": asdict(fusion),
        }
        for label, (name, fusion, threshold) in enumerate(
            zip(LABELS[1:], fusions, thresholds, strict=True), start=1
        )
    ]


def eligibility() -> Json:
    """Return the requirements of the classifier, less that of a child: synthetic bodies are of adults."""
    kept = [one for one in card.ELIGIBILITY["requirements"] if one["name"] != "patient_age"]
    return {"requirements": kept}


def shown(stage: Mapping[str, Any]) -> Json:
    """Return the settings of a stage without the folders of the machine that trained."""
    hidden = ("out", "device", "threads", "model", "init")
    names = ("lungs", "normals")
    kept = {name: value for name, value in stage.items() if name not in (*hidden, *names)}
    return kept | {name: bool(stage.get(name)) for name in names}
