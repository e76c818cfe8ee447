"""Write trained 3-D classifiers as an ensemble: `python -m models.export chest_ct --checkpoint FILE…`."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models import nodules, volume_card
from models.candidates import Candidates, candidates_of
from models.card import calibrated_parts
from models.checkpoints import CheckpointError
from models.conformal import COVERAGE
from models.ensemble_export import ExportError, Member, export_ensemble, name_members, write_cards
from models.nodules import Nodules
from models.observation import CALIBRATION_SEED, Pictures
from models.synthetic_volumes import read_cubes
from models.tasks import candidate_task
from models.train import commit
from models.train_volume import make_network, with_epochs
from models.volume_augmentation import nudge
from models.volume_lessons import CLASSIFIER, VolumeSettings

NAME = CLASSIFIER
# Features of so many cubes make a member's subspace.
EXAMPLES = 300


def read_checkpoint(path: Path) -> tuple[Member, VolumeSettings]:
    """Return a trained classifier; raises FileNotFoundError and CheckpointError."""
    stored: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    stage = stored["stages"][-1]
    if stage.get("model") != NAME:
        raise CheckpointError(f"{path} is no checkpoint of {NAME}")
    names = {field.name for field in fields(VolumeSettings)}
    settings = VolumeSettings(**{name: value for name, value in stage.items() if name in names})
    network = make_network(settings).eval()
    try:
        network.load_state_dict(stored["weights"])
    except RuntimeError as error:
        raise CheckpointError(f"{path} is no checkpoint of a {settings.trunk}: {error}") from error
    return Member(network, settings.trunk, with_epochs(stored)), settings


def export_candidates(
    checkpoints: list[Path], directory: Path, target: Path, version: str, synthetic: Path | None
) -> None:
    """Calibrate, write every file of the ensemble below `target`, and prove that the graphs agree.

    `synthetic` are places found in bodies that no member has seen, with nodules of the patients held out.
    """
    read = [read_checkpoint(path) for path in checkpoints]
    sides = {settings.side for _, settings in read}
    if len(sides) > 1:
        raise ExportError(f"members take cubes of {sorted(sides)} voxels, expected one size for all")
    side = sides.pop()
    task = candidate_task(side)
    trained = name_members(NAME, [member for member, _ in read])
    part = min(settings.held_out for _, settings in read)
    kept, held_out = nodules.hold_out(nodules.load_nodules(directory, split="train"), part)
    unseen = read_cubes(synthetic) if synthetic else None
    seen = next((Path(settings.cubes) for _, settings in read if settings.cubes), None)
    pictures = choose_candidates(kept, held_out, read_cubes(seen) if seen and unseen else None, unseen, side)
    calibration, parity = export_ensemble(task, trained, pictures, target, version)
    members = list(trained)
    document = {
        "intended_use": volume_card.CANDIDATE_INTENDED_USE,
        "eligibility": volume_card.ELIGIBILITY,
        **volume_card.candidate_parts(task.image_shape, len(members), COVERAGE),
        **calibrated_parts(calibration, members, task.classes),
        "training": {
            "data": volume_card.training_data(kept, is_synthetic=seen is not None),
            "exported_at_commit": commit(),
            "members": {name: volume_card.member(one.stages) for name, one in trained.items()},
        },
        "parity": parity,
    }
    write_cards(task, document, members, target, version)


def choose_candidates(
    kept: Nodules, held_out: Nodules, seen: Nodules | None, unseen: Nodules | None, side: int
) -> Pictures:
    """Return what to calibrate on: cubes of training, held-out ones, and places found in unseen bodies."""
    random = np.random.default_rng(CALIBRATION_SEED)
    examples = _some(candidates_of(kept, side), EXAMPLES, random)
    asked = candidates_of(held_out, side)
    found = candidates_of(unseen or held_out.subset(np.zeros(0, np.intp)), side, is_with_beside=False)
    if seen and unseen:
        known = _some(candidates_of(seen, side), EXAMPLES // 2, random)
        examples = np.concatenate([examples, known])
    return Pictures(
        examples,
        asked.hounsfield,
        np.concatenate([asked.labels, found.labels]),
        np.concatenate([asked.groups, found.groups]),
        found.hounsfield,
        np.asarray,
        nudge,
    )


def _some(candidates: Candidates, count: int, random: np.random.Generator) -> NDArray[np.int16]:
    return candidates.hounsfield[np.sort(random.permutation(len(candidates))[:count])]
