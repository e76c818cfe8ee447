"""Write trained networks into the model repository: `python -m models.export MODEL --checkpoint FILE…`.

The member graphs, the combine graph, the ensemble, their configurations and cards. Calibration is fitted
here, on the training patients that were held out; what is measured on others comes from models.evaluate.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models import card, data
from models.checkpoints import CheckpointError
from models.ensemble_export import (
    ExportError,
    Member,
    export_ensemble,
    name_members,
    write_cards,
)
from models.observation import choose_pictures
from models.radiograph import RadiographNetwork
from models.tasks import radiograph_task
from models.train import Settings, commit, held_out_of

NAME = "chest_xray"
VERSIONS = {"chest_ct": "1.0.0", "chest_ct_nodules": "1.0.0", "slide_tumor": "1.0.0"}


@dataclass(frozen=True, slots=True)
class Trained:
    """A checkpoint read back."""

    network: RadiographNetwork
    settings: Settings
    stages: list[dict[str, Any]]


def read_checkpoint(path: Path) -> Trained:
    """Return the network and what made it; raises FileNotFoundError and CheckpointError."""
    stored: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    names = {field.name for field in fields(Settings)}
    last = Settings(**{name: value for name, value in stored["stages"][-1].items() if name in names})
    network = RadiographNetwork(len(data.CLASSES), trunk=last.trunk).eval()
    try:
        network.load_state_dict(stored["weights"])
    except RuntimeError as error:
        raise CheckpointError(f"{path} is no checkpoint of a {last.trunk}: {error}") from error
    # A run that was stopped early has the settings of a whole one: say how far it came.
    reached = {"epochs_finished": stored["figures"]["epoch"]}
    return Trained(network, last, [*stored["stages"][:-1], stored["stages"][-1] | reached])


def export(checkpoints: list[Path], directory: Path, target: Path, version: str) -> None:
    """Calibrate, write every file of the ensemble below `target`, and prove that the graphs agree."""
    read = [read_checkpoint(path) for path in checkpoints]
    sizes = {one.settings.size for one in read}
    if len(sizes) > 1:
        raise ExportError(f"members take images of {sorted(sizes)} pixels, expected one size for all")
    size = sizes.pop()
    task = radiograph_task(size)
    settings = [replace(one.settings, data=str(directory)) for one in read]
    # The patients of a smaller part are also in a larger one: these no member has seen.
    kept, held_out = held_out_of(min(settings, key=lambda one: one.held_out), size)
    synthetic = min(one.synthetic for one in settings)

    trained = name_members(NAME, [Member(one.network, one.settings.trunk, one.stages) for one in read])
    pictures = choose_pictures(kept, held_out, synthetic)
    calibration, parity = export_ensemble(task, trained, pictures, target, version)
    document = {
        "intended_use": card.INTENDED_USE,
        "eligibility": card.ELIGIBILITY,
        **card.input_parts(size, list(trained)),
        **card.calibrated_parts(calibration, list(trained)),
        **card.training_parts(
            count_labels(kept), synthetic, commit(), {name: one.stages for name, one in trained.items()}
        ),
        "parity": parity,
    }
    write_cards(task, document, list(trained), target, version)


def count_labels(radiographs: data.Radiographs) -> dict[str, int]:
    """Return the numbers of images by truth, and of patients."""
    labels = radiographs.labels
    return {
        "images": len(radiographs),
        "normal": int((labels[:, 0] == 0).sum()),
        "bacterial": int((labels[:, 1] == 1).sum()),
        "viral": int((labels[:, 2] == 1).sum()),
        "patients": len(np.unique(radiographs.groups)),
    }


def export_others(options: argparse.Namespace) -> None:
    """Write a model for chest CT or for slides."""
    from models import export_candidates, export_masks, export_slide  # here, for radiographs need none of it

    if options.model == export_slide.NAME:
        (checkpoint,) = options.checkpoint
        export_slide.export_slides(checkpoint, options.repository, options.version, slides=options.slides)
    elif options.model == export_masks.NAME:
        export_masks.export_masks(options.checkpoint, options.data, options.repository, options.version)
    else:
        export_candidates.export_candidates(
            options.checkpoint, options.data, options.repository, options.version, options.synthetic
        )


def conflict(options: argparse.Namespace) -> str:
    """Return why these options do not go together, or an empty text."""
    is_of_slides = options.model.startswith("slide_")
    if not is_of_slides and options.data is None:
        return "--data is required"
    if is_of_slides and len(options.checkpoint) != 1:
        return f"{options.model} is exported from one checkpoint, which holds all of its heads"
    return ""


def main(arguments: list[str] | None = None) -> int:
    """Read the command line and export; 0 done, 1 failed, 2 wrong use."""
    from models import detector_card, export_detector  # here, for classifiers need none of it

    given = sys.argv[1:] if arguments is None else arguments
    if given[:1] == [detector_card.NAME]:
        return export_detector.main(given)
    parser = argparse.ArgumentParser(prog="python -m models.export", description=__doc__)
    parser.add_argument("model", choices=[NAME, *VERSIONS, detector_card.NAME])
    parser.add_argument("--checkpoint", type=Path, required=True, nargs="+", help="one for each member")
    parser.add_argument(
        "--data", type=Path, help="the folder it was trained on (for calibration); slides need none"
    )
    parser.add_argument(
        "--synthetic",
        type=Path,
        help="of chest_ct: places in unseen bodies (models.mining --held-out-patients)",
    )
    parser.add_argument("--slides", type=int, default=80, help="of slide_tumor: so many to calibrate on")
    parser.add_argument("--repository", type=Path, default=Path("triton_repo"))
    parser.add_argument("--version", default="")
    options = parser.parse_args(arguments)
    if reason := conflict(options):
        parser.error(reason)
    options.version = options.version or VERSIONS.get(options.model, "2.0.0")
    try:
        if options.model == NAME:
            export(options.checkpoint, options.data, options.repository, options.version)
        else:
            export_others(options)
    except (data.DataFolderError, CheckpointError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ExportError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    written = options.repository / options.model
    data_needed = "" if options.model.startswith("slide_") else " --data DIR"
    print(f"written: {written}; now: python -m models.evaluate {options.model}{data_needed} --write-card")
    return 0


if __name__ == "__main__":
    sys.exit(main())
