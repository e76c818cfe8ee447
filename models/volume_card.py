"""What the cards of the models for chest CT say, apart from what is measured later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from models import card
from models.nodules import SPACING_ZYX_MM, Nodules

Json = dict[str, object]

# As in models.card: DICOM keywords and derived facts; what is absent passes a "not".
ELIGIBILITY: Json = {
    "requirements": [
        {"name": "modality", "when": {"modality": ["CT"]}, "reason": "is not a CT"},
        {
            "name": "body_part",
            "when": {
                "any": [{"body_part": ["*CHEST*", "*THORAX*", "*LUNG*"]}, {"body_part": {"present": False}}]
            },
            "reason": "is not of the chest",
        },
        {"name": "is_localizer", "when": {"is_localizer": False}, "reason": "is a localizer"},
        {
            "name": "plane",
            "when": {"not": {"plane": ["coronal", "sagittal"]}},
            "reason": "is not axial; the model reads stacks of axial slices",
        },
        {
            "name": "number_of_slices",
            "when": {"any": [{"instance_count": {"min": 20}}, {"number_of_frames": {"min": 20}}]},
            "reason": "has fewer than 20 slices",
        },
        {
            "name": "slice_thickness",
            "when": {"not": {"slice_thickness": {"min": 5.01}}},
            "reason": "has slices thicker than 5 mm; smaller nodules are lost in them",
        },
        {
            "name": "patient_age",
            "when": {"not": {"patient_age_years": {"max": 17.99}}},
            "reason": "is of a child; the model was made for adults",
        },
        card.OF_A_HUMAN,
        *card.at_least_pixels(128),
    ]
}

MASK_INTENDED_USE = (
    "Draws nodules of 3 to 32 mm in the lungs of adults on axial chest CT, for a radiologist to confirm. "
    "Trained on nodules that radiologists had marked (LIDC-IDRI) and on synthetic lungs; not validated "
    "for children, for masses beyond 32 mm, for consolidations or any other finding, or for any clinical use."
)
MASK_INTENSITY = (
    "HU as stored, int16, on a grid of the stated spacing; what lies outside of the volume is -1024. The "
    "window (-1000 to 600 HU) is part of the graph."
)


def input_part(shape: tuple[int, ...], intensity: str) -> Json:
    """Return what goes into a model for volumes."""
    return {
        "name": "image",
        "shape": list(shape),
        "axes": "channel, z (along the normal), y (down the columns), x (along the rows); batch first",
        "dtype": "int16",
        "spacing_mm": list(SPACING_ZYX_MM),
        "intensity": intensity,
    }


def class_entry(name: str, threshold: float, rule: str) -> Json:
    """Return the entry of one class: its code, the threshold and how that was chosen."""
    return {
        "name": name,
        "code": list(card.CODES[name]),
        "threshold": round(threshold, 4),
        "threshold_chosen": rule,
    }


MASK_OUTPUTS = {
    "probability": "(1, z, y, x) calibrated, 0-1: the mean of the networks",
    "entropy": "(1, z, y, x) predictive entropy in bit, 0-1",
    "mutual_information": "(1, z, y, x) between networks, in bit, 0-1: what more training data would mend",
}
TRAINING_DATA: dict[str, Json] = {
    "lidc": {
        "title": "LIDC-IDRI nodules cut out by the Computer Vision Center, Universitat Autonoma de Barcelona "
        "(github.com/PabloLION/ct-slicing); Armato et al., doi 10.7937/K9/TCIA.2015.LO9QL9SX",
        "licence": "CC BY 3.0",
        "population": "adults, diagnostic and screening chest CT of seven academic centers",
        "split": "train, less the calibration patients; each network also left some patients out to tune on",
    },
    "synthetic": {
        "title": "synthetic chest CT of node/samples/tomography.py",
        "licence": "Apache-2.0",
        "population": "none",
    },
}


def training_data(kept: Nodules, *, is_synthetic: bool) -> Json:
    """Return the sources with their counts: nodules that no network may have seen more of."""
    counts = {
        "nodules": len(kept),
        "malign": int(kept.malign.sum()),
        "patients": len(np.unique(kept.groups)),
    }
    sources: Json = {"lidc": TRAINING_DATA["lidc"] | {"counts": counts}}
    return sources | ({"synthetic": TRAINING_DATA["synthetic"]} if is_synthetic else {})


def member(stages: Sequence[Mapping[str, object]]) -> Json:
    """Return how one network was trained, the oldest stage first."""
    # Folders of the machine that trained say nothing to a reader.
    hidden = ("data", "out", "device", "threads", "model", "init", "cubes", "hard", "chests")
    return {
        "stages": [{name: value for name, value in stage.items() if name not in hidden} for stage in stages]
    }


CANDIDATE_INTENDED_USE = (
    "Says of one place in an adult's lung on axial chest CT whether it is a nodule of 3 to 32 mm, and if "
    "radiologists would suspect malignancy, to order the reading list; a radiologist reads every study. The "
    "suspicion is an opinion of radiologists (LIDC-IDRI), not pathology. Not validated for children, for "
    "other findings, or for any clinical use."
)
CANDIDATE_INTENSITY = (
    "HU as stored, int16, in a cube of the stated spacing with the candidate in its middle; what is outside "
    "of the volume is -1024. The window (-1000 to 600 HU) is part of the graph."
)


def candidate_parts(shape: tuple[int, ...], members: int, coverage: float) -> Json:
    """Return what goes into the classifiers and comes out, and the settings that every result names."""
    maps = "(classes, z, y, x) evidence where the network attended, 0-1, over the whole cube"
    return {
        "input": input_part(shape, CANDIDATE_INTENSITY),
        "outputs": card.OUTPUTS | {"activation_map": maps},
        "parameters": [
            f"input_size_voxels={shape[-1]}",
            f"spacing_mm={SPACING_ZYX_MM[0]}",
            f"members={members}",
            "views=cube, mirrored along z, y and x",
            "interval=95% logit-normal of members, views and image changes",
            f"conformal=split, coverage={coverage}",
        ],
    }
