"""What the card of a model says, apart from what is measured later."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.conformal import COVERAGE
from models.data import CLASSES
from models.strangeness import DIRECTIONS, FALSE_ALARM_RATE

if TYPE_CHECKING:  # a card can be read without scipy, which calibration needs
    from models.calibration import Calibration

Json = dict[str, Any]

NOTICE = "Investigational. Not for clinical use. No claim of diagnostic performance is made."

CODES: dict[str, tuple[str, str, str]] = {
    "Pneumonia": ("233604007", "SCT", "Pneumonia"),
    "Bacterial pneumonia": ("53084003", "SCT", "Bacterial pneumonia"),
    "Viral pneumonia": ("75570004", "SCT", "Viral pneumonia"),
    "Nodule": ("27925004", "SCT", "Nodule"),
    "Malignant": ("21594007", "SCT", "Malignant"),
    "Tumor": ("108369006", "SCT", "Tumor"),
}

INTENDED_USE = (
    "Orders the reading list by signs of pneumonia on one frontal chest radiograph; a radiologist reads "
    "every image. Trained on children of 1 to 5 years from one hospital and on synthetic images; not "
    "validated for adults, lateral views, other findings, or any clinical use."
)

OF_A_HUMAN: Json = {
    "name": "species",
    "when": {
        "any": [
            {"patient_species_description": {"present": False}},
            {"patient_species_description": "homo sapiens*"},
        ]
    },
    "reason": "is of an animal",
}


def at_least_pixels(least: int) -> list[Json]:
    """Return the requirements that an image has so many pixels along each side."""
    return [
        {"name": side, "when": {side: {"min": least}}, "reason": f"has fewer than {least} {side}"}
        for side in ("rows", "columns")
    ]


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
        OF_A_HUMAN,
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
        *at_least_pixels(200),
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
CALIBRATION_METHOD = (
    "Temperature scaling of each member and class, least negative log-likelihood, both views pooled; then "
    "one factor per class for all members, so that their mean probability has the least negative "
    "log-likelihood."
)
CALIBRATION_SPLIT = (
    "a part of the training patients, held out from every member's weights; never the val split"
)
CONFORMAL_METHOD = (
    "Split conformal prediction for each class on its own, answers absent and present (Angelopoulos and "
    "Bates 2021): the set holds each answer whose nonconformity, 1 - its probability, is at most the "
    "quantile, the ceil((n + 1) · coverage)-th smallest nonconformity of the true answers of n calibration "
    "images. It holds the true answer on that part of images like those. The temperatures were fitted on "
    "the same images, which the guarantee does not foresee and which hardly matters for so few numbers."
)
FOREIGN_METHOD = (
    'Of each member, two measures: the logit of its own output "nothing that the network was made for" '
    "(outlier exposure, Hendrycks et al. 2019), and the distance of its features from the subspace of the "
    f"first {DIRECTIONS} principal components of training features (the residual of Wang et al. 2022). Each "
    "is standardized on the calibration images and averaged over members; the larger of both, through "
    "softplus, is the score."
)
FOREIGN_THRESHOLD = (
    "the larger of two scores: what the false alarm rate of the real calibration images passes, and what "
    "that of the synthetic ones does"
)
ABSTENTION = (
    "A score decides only if (1) its threshold lies outside its 95 % interval, (2) its prediction set "
    "holds exactly the answer that the threshold gives, and (3) the image's out-of-distribution score does "
    "not pass the threshold. Otherwise it is uncertain: it needs review, never escalates and is never shown "
    "as negative."
)
OUTPUTS = {
    "probability": "(classes) calibrated, 0-1",
    "spread": "(classes) standard deviation of the probability over members and views",
    "interval": "(classes, 2) low and high end of the 95 % interval, 0-1",
    "entropy": "(classes) predictive entropy in bit, 0-1",
    "mutual_information": "(classes) between members and views, in bit, 0-1",
    "prediction_set": "(classes, 2) 1 where the answer is in the split-conformal set: absent, present",
    "out_of_distribution": "(1) 0 or more, larger is stranger; to be compared with the threshold",
    "activation_map": "(classes, y, x) evidence where the network attended, 0-1, over the whole image",
}
SPREAD_METHOD = "standard deviation (ddof 0) of the probabilities over members and views"


# How each class's threshold is chosen: at least this sensitivity, or (None) by Youden's index.
WANTED_SENSITIVITY: dict[str, float | None] = {
    "Pneumonia": 0.95,
    "Bacterial pneumonia": None,
    "Viral pneumonia": None,
    "Nodule": 0.95,
    "Malignant": None,
    "Tumor": 0.95,
}


def calibrated_parts(calibration: Calibration, members: list[str], classes: Sequence[str] = CLASSES) -> Json:
    """Return the parts of the card that calibration decides: classes, and what makes their scores honest."""

    def by_class(attribute: str) -> dict[str, float]:
        return {
            name: round(getattr(one, attribute), 4)
            for name, one in zip(classes, calibration.classes, strict=True)
        }

    counts = {"images": calibration.images, "patients": calibration.patients}
    temperature = {
        member: {
            name: round(one.temperature[index], 4)
            for name, one in zip(classes, calibration.classes, strict=True)
        }
        for index, member in enumerate(members)
    }
    return {
        "classes": [
            {"name": name, "code": list(CODES[name]), "threshold": threshold, "threshold_chosen": _rule(name)}
            for name, threshold in by_class("threshold").items()
        ],
        "calibration": {
            "method": CALIBRATION_METHOD,
            "split": CALIBRATION_SPLIT,
            **counts,
            "temperature": temperature,
            "interval_constant": by_class("interval_constant"),
            "interval_coverage_of_changed_images": by_class("interval_coverage"),
        },
        "uncertainty": {"interval": INTERVAL_METHOD, "level": 0.95, "spread": SPREAD_METHOD},
        "conformal": {
            "coverage": COVERAGE,
            "quantile": by_class("conformal_quantile"),
            "method": CONFORMAL_METHOD,
            **counts,
        },
        "out_of_distribution": {
            "threshold": round(calibration.foreign_threshold, 4),
            "false_alarm_rate": FALSE_ALARM_RATE,
            "threshold_chosen": FOREIGN_THRESHOLD,
            "method": FOREIGN_METHOD,
            **counts,
            "synthetic_images": calibration.synthetic,
        },
        "abstention": ABSTENTION,
    }


def _rule(name: str) -> str:
    wanted = WANTED_SENSITIVITY[name]
    rule = "Youden's index" if wanted is None else f"highest with a sensitivity of at least {wanted}"
    return f"{rule} on the calibration patients"


def input_parts(size: int, members: list[str]) -> Json:
    """Return what goes in and comes out, and the settings that every result names."""
    return {
        "input": {
            "name": "image",
            "shape": [1, size, size],
            "axes": "channel, y, x; the batch comes first",
            "size": size,
            "dtype": "float32",
            "spacing": "any: the whole image is resized",
            "intensity": INTENSITY,
        },
        "outputs": OUTPUTS,
        "parameters": [
            f"input_size_px={size}",
            f"members={len(members)}",
            "views=image and mirror image",
            "interval=95% logit-normal of members, views and image changes",
            f"conformal=split, coverage={COVERAGE}",
        ],
    }


def training_parts(
    counts: Mapping[str, int], synthetic: int, commit: str, stages_by_member: Mapping[str, list[Json]]
) -> Json:
    """Return what the members were trained on, and how.

    `counts` are of the real images that no member may have seen more of; each member kept some for tuning.
    """
    sources: dict[str, Json] = {name: dict(text) for name, text in TRAINING_DATA.items()}
    sources["kermany"] |= {
        "split": "train, less the calibration patients; each member also left some patients out to tune on",
        "counts": dict(counts),
    }
    sources["synthetic"] |= {"images": synthetic}
    members = {name: _member(stages) for name, stages in stages_by_member.items()}
    return {"training": {"data": sources, "exported_at_commit": commit, "members": members}}


def _member(stages: list[Json]) -> Json:
    # Folders of the machine that trained say nothing to a reader.
    hidden = ("data", "out", "init", "trunk", "device", "threads", "started_from")
    return {
        "architecture": f"{stages[-1].get('trunk', 'densenet121')}, one gray channel, attention-map head",
        "started_from": stages[0].get("started_from", "random weights"),
        "seed": stages[-1]["seed"],
        "stages": [
            {name: value for name, value in stage.items() if name not in hidden}
            for stage in stages
            if "epochs" in stage
        ],
    }


def write_card(directory: Path, card: Json) -> None:
    """Write `card` as card.json of a model's folder."""
    directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps(card, indent=2, ensure_ascii=False) + "\n"
    (directory / "card.json").write_text(text, encoding="utf-8")


def read_card(directory: Path) -> Json:
    """Return the card of a model's folder; raises FileNotFoundError where there is none."""
    card: Json = json.loads((directory / "card.json").read_text(encoding="utf-8"))
    return card
