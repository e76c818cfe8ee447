"""What the card of a model says, apart from what is measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Json = dict[str, Any]

NOTICE = "Investigational. Not for clinical use. No claim of diagnostic performance is made."

CODES: dict[str, tuple[str, str, str]] = {
    "Pneumonia": ("233604007", "SCT", "Pneumonia"),
    "Bacterial pneumonia": ("53084003", "SCT", "Bacterial pneumonia"),
    "Viral pneumonia": ("75570004", "SCT", "Viral pneumonia"),
}

INTENDED_USE = (
    "Orders the reading list by signs of pneumonia on one frontal chest radiograph; a radiologist reads "
    "every image. Trained on children of 1 to 5 years from one hospital and on synthetic images; not "
    "validated for adults, lateral views, other findings, or any clinical use."
)

# What an image must be before the model may read it. `when` uses DICOM keywords in snake_case and derived
# facts (body_part, view); a list is "one of", {"min", "max"} a range, {"not": …} forbids, and what is absent
# passes a "not".
ELIGIBILITY: Json = {
    "requirements": [
        {
            "name": "modality",
            "when": {"modality": ["CR", "DX"]},
            "reason": "is not a CR or DX projection radiograph",
        },
        {"name": "body_part", "when": {"body_part": ["CHEST"]}, "reason": "is not of the chest"},
        {
            "name": "view",
            "when": {"not": {"view": ["LATERAL"]}},
            "reason": "is a lateral view; the model reads frontal (PA or AP) views",
        },
        {
            "name": "patient_age",
            "when": {"not": {"patient_age_years": {"min": 18}}},
            "reason": "is of an adult; the model was trained on children",
        },
        {
            "name": "species",
            "when": {
                "any": [
                    {"patient_species_description": {"present": False}},
                    {"patient_species_description": "homo sapiens*"},
                ]
            },
            "reason": "is of an animal",
        },
        {
            "name": "presentation_intent",
            "when": {"not": {"presentation_intent_type": "FOR PROCESSING"}},
            "reason": "is raw data for processing, not for presentation",
        },
        {
            "name": "photometric_interpretation",
            "when": {"photometric_interpretation": ["MONOCHROME1", "MONOCHROME2"]},
            "reason": "is not a grayscale image",
        },
        {
            "name": "number_of_frames",
            "when": {"number_of_frames": {"max": 1}},
            "reason": "has more than one frame",
        },
        {"name": "rows", "when": {"rows": {"min": 200}}, "reason": "has fewer than 200 rows"},
        {"name": "columns", "when": {"columns": {"min": 200}}, "reason": "has fewer than 200 columns"},
    ]
}

INTENSITY = (
    "One grayscale radiograph, MONOCHROME2 sense (bright = dense), the whole image resized to the square "
    "without keeping its aspect ratio, its 0.5th and 99.5th percentiles stretched to 0 and 1: "
    "node.imaging.intensity.prepare_radiograph"
)

TRAINING_DATA = {
    "kermany": {
        "title": "Kermany et al., Labeled Optical Coherence Tomography (OCT) and Chest X-Ray Images, "
        "doi 10.17632/rscbjbr9sj",
        "licence": "CC BY 4.0",
        "population": "children of 1 to 5 years, AP, Guangzhou Women and Children's Medical Center",
    },
    "synthetic": {
        "title": "synthetic thorax radiographs of node/samples/thorax.py, half of them with a consolidation",
        "licence": "Apache-2.0",
        "population": "none",
    },
}

INTERVAL_METHOD = (
    "Normal on the logit scale around the logit of the mean probability: half-width 1.96·sqrt(s² + c²), s "
    "the sample standard deviation (ddof 1) of the calibrated logits over members and views, c one constant "
    "per class, the least for which the interval of an image held the logits of 95 % of slightly changed "
    "copies (position, rotation, exposure, noise) of the calibration images. It says how far the score moves "
    "under harmless changes of the picture; it does not say how often such a patient is ill, and covers no "
    "change of scanner or population."
)
OUTPUTS = {
    "probability": "(classes) calibrated, 0-1",
    "spread": "(classes) standard deviation of the probability over members and views",
    "interval": "(classes, 2) low and high end of the 95 % interval, 0-1",
    "entropy": "(classes) predictive entropy in bit, 0-1",
    "mutual_information": "(classes) between members and views, in bit, 0-1",
    "activation_map": "(classes, y, x) evidence where the network attended, 0-1, over the whole image",
}
SPREAD_METHOD = "standard deviation (ddof 0) of the probabilities over members and views"


def write_card(directory: Path, card: Json) -> None:
    """Write `card` as card.json of a model's folder."""
    directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps(card, indent=2, ensure_ascii=False) + "\n"
    (directory / "card.json").write_text(text, encoding="utf-8")


def read_card(directory: Path) -> Json:
    """Return the card of a model's folder; raises FileNotFoundError where there is none."""
    card: Json = json.loads((directory / "card.json").read_text(encoding="utf-8"))
    return card
