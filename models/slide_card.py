"""What the cards of the models for slides say, apart from what is measured later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from models import card
from models.calibration import Calibration
from models.conformal import COVERAGE
from models.slide import EMBEDDING
from models.slide_lessons import SlideSettings

CLASS = "Tumor"

Json = dict[str, Any]

INTENDED_USE = (
    "Orders the reading list by signs of tumor on one whole slide stained with hematoxylin and eosin, and "
    "points at the tiles that decided; a pathologist reads every slide. Trained on synthetic slides alone; "
    "not validated on any tissue of a patient, for any organ or stain, or for any clinical use."
)
TILES_INTENDED_USE = (
    "Turns tiles of a slide into embeddings for the model slide_tumor; says nothing of a tile by itself."
)
ELIGIBILITY: Json = {
    "requirements": [
        {"name": "modality", "when": {"modality": ["SM"]}, "reason": "is not a slide"},
        {
            "name": "photometric_interpretation",
            "when": {"not": {"photometric_interpretation": ["MONOCHROME1", "MONOCHROME2"]}},
            "reason": "is not in color; the model reads slides stained with hematoxylin and eosin",
        },
        card.OF_A_HUMAN,
    ]
}
INTENSITY = (
    "RGB as decoded, tissue dark on glass that is nearly white; read from the coarsest level that is fine "
    "enough and shrunk by the mean of the pixels: node.imaging.slide_grid. The scale is part of the graph."
)
INTERVAL_METHOD = card.INTERVAL_METHOD.replace(
    "slightly changed copies (position, rotation, exposure, noise) of the calibration images",
    "copies of the calibration slides in other stains, turned and out of focus",
)
FOREIGN_METHOD = (
    "Of two measures, each the mean over a slide's tiles and standardized on the calibration slides, the "
    "larger one, passed through softplus: how far embeddings lie outside the subspace of the first principal "
    "components of those of training tiles (the residual of Wang et al. 2022), and the Mahalanobis distance "
    "of textures, mean and standard deviation of the first layers' channels, from theirs (Lee et al. 2018)."
)
OUTPUTS = {name: text for name, text in card.OUTPUTS.items() if name != "activation_map"} | {
    "attention": "(tiles) what each tile weighed, the mean over heads; sums to 1 over the slide",
    "tile_probability": "(tiles) what the heads would say of a slide of such tiles alone, 0-1; no tile was "
    "ever labelled, so that it is calibrated for slides only",
}
TRAINING_DATA: Json = {
    "title": "synthetic slides of node/samples/slide.py, labels of slides alone",
    "licence": "Apache-2.0",
    "population": "none",
}


def documents(
    settings: SlideSettings,
    stages: Sequence[Mapping[str, Any]],
    calibration: Calibration,
    *,
    heads: int,
    commit: str,
) -> dict[str, Json]:
    """Return by model what it is for, what goes in and comes out, and what it was trained on."""
    training = {
        "training": {
            "data": {"synthetic": TRAINING_DATA | {"slides": settings.slides}},
            "exported_at_commit": commit,
            "stages": [_shown(stage) for stage in stages],
        }
    }
    return {
        f"{settings.model}_tiles": tile_parts(settings) | training,
        settings.model: slide_parts(settings, calibration, heads) | training,
    }


def _shown(stage: Mapping[str, Any]) -> Json:
    # Folders of the machine that trained say nothing to a reader.
    hidden = ("out", "device", "threads", "model", "init")
    return {name: value for name, value in stage.items() if name not in hidden}


def tile_threshold_part(probability: float, false_tiles: float) -> Json:
    """Return what the card of the heads says of when a tile counts as tumor."""
    chosen = f"{false_tiles:.1%} of the tiles of calibration slides without a tumor reach it"
    return {"tile_threshold": {"probability": probability, "chosen": chosen}}


def tile_parts(settings: SlideSettings) -> Json:
    """Return what the card of the encoder says."""
    return {
        "intended_use": TILES_INTENDED_USE,
        "eligibility": ELIGIBILITY,
        "input": {
            "name": "image",
            "shape": [settings.tile, settings.tile, 3],
            "axes": "y, x, color; the batch of tiles comes first",
            "dtype": "uint8",
            "micrometers_per_pixel": settings.micrometers_per_pixel,
            "intensity": INTENSITY,
        },
        "outputs": {
            "embeddings": f"({EMBEDDING}) of each tile",
            "textures": "mean and standard deviation of each channel of the first layers over the tile",
        },
        "parameters": [
            f"tile_px={settings.tile}",
            f"micrometers_per_pixel={settings.micrometers_per_pixel:g}",
        ],
        "classes": [],
    }


def slide_parts(settings: SlideSettings, calibration: Calibration, heads: int) -> Json:
    """Return what the card of the heads says."""
    names = [f"attention_{number}" for number in range(heads)]
    fitted = card.calibrated_parts(calibration, names, (CLASS,))
    fitted["uncertainty"] |= {
        "interval": INTERVAL_METHOD,
        "spread": "standard deviation (ddof 0) of the probabilities over heads",
    }
    fitted["calibration"] |= {"split": "synthetic slides that no training has seen"}
    fitted["out_of_distribution"] |= {
        "method": FOREIGN_METHOD,
        "threshold_chosen": "what the false alarm rate of the calibration slides passes",
    }
    return {
        "intended_use": INTENDED_USE,
        "eligibility": ELIGIBILITY,
        "input": {
            "name": "embeddings",
            "shape": [-1, EMBEDDING],
            "axes": "tile, embedding; one slide at a time",
            "dtype": "float32",
            "intensity": f"all tiles of a slide with tissue, in any order, by {settings.model}_tiles; their "
            "textures are a second input",
        },
        "outputs": OUTPUTS,
        "parameters": [
            f"heads={heads}",
            "pooling=gated attention",
            "interval=95% logit-normal of heads and stain changes",
            f"conformal=split, coverage={COVERAGE}",
        ],
        **fitted,
    }
