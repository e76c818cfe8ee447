"""Train a network for volumes: `python -m models.train chest_ct|chest_ct_nodules --data DIR`."""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from models import nodules as lidc
from models.data import DataFolderError
from models.losses import dice_loss, masked_binary_cross_entropy, voxel_focal_loss
from models.metrics import area_under_curve
from models.patches import tissue_beside
from models.train import Run, choose_device, commit, update_average
from models.volume import TRUNKS, UNet, VolumeNetwork
from models.volume_augmentation import make_foreign
from models.volume_lessons import (
    CLASSIFIER,
    SCORES,
    SEGMENTER,
    Cubes,
    VolumeSettings,
    draw,
    draw_batch,
    empty_lung,
    epoch,
    read_lessons,
)

MASK_WEIGHT, SCORE_WEIGHT, FOREIGN_WEIGHT = 1.0, 1.0, 0.2


def make_network(settings: VolumeSettings) -> nn.Module:
    """Return the untrained network of a run."""
    is_checkpointed = bool(settings.checkpointing)
    if settings.model == SEGMENTER:
        return UNet(settings.width, is_checkpointed=is_checkpointed)
    return VolumeNetwork(
        len(lidc.CLASSES),
        trunk=settings.trunk,
        width=settings.width,
        scores=SCORES,
        dropout=settings.dropout,
        is_checkpointed=is_checkpointed,
    )


def train(settings: VolumeSettings, *, is_resumed: bool = False) -> Path:
    """Train as the settings say and return the checkpoint; its weights are a moving average."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    device = choose_device(settings.device)

    # Data: LIDC nodules, some patients held out for calibration and some for tuning; synthetic chests.
    lessons, tuned = read_lessons(settings)
    print(f"train {lessons.real} nodules, {len(lessons.cubes)} cubes, tuning {len(tuned)}", flush=True)
    background = empty_lung(lessons, settings.side)

    # Model: the trained weights, and their average, which is what a checkpoint keeps.
    network = make_network(settings).to(device, memory_format=torch.channels_last_3d)
    stages: list[dict[str, object]] = []
    if settings.init:
        earlier = torch.load(settings.init, map_location="cpu", weights_only=True)
        network.load_state_dict(earlier["weights"])
        stages = with_epochs(earlier)
    average = copy.deepcopy(network).eval()
    steps = settings.epochs * len(epoch(settings, lessons, torch.Generator().manual_seed(0)))
    optimizer = torch.optim.AdamW(
        network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=steps, pct_start=0.15, div_factor=20
    )
    names = {field: getattr(settings, field) for field in settings.__slots__}
    run = Run(
        settings,
        [*stages, names | {"commit": commit()}],
        {"network": network, "average": average, "optimizer": optimizer, "schedule": schedule},
    )
    if is_resumed:
        run.resume()
    loss_of, score = LESSONS[settings.model]
    while not run.is_over:
        started, total = time.monotonic(), 0.0
        # Seeded anew by the epoch: a resumed run then goes the way of one that was never interrupted.
        torch.manual_seed(settings.seed + 1000 * run.epoch)
        random = torch.Generator().manual_seed(settings.seed + 1000 * run.epoch)
        network.train()
        batches = epoch(settings, lessons, random)
        for batch in batches:
            cubes = draw_batch(lessons, batch, settings, random, background)
            loss = loss_of(network, cubes, settings, random, device)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            # On a CPU, bfloat16 convolutions over very small maps give NaN gradients once in a while.
            if nn.utils.clip_grad_norm_(network.parameters(), 2.0).isfinite():
                optimizer.step()
                schedule.step()
            run.step += 1
            update_average(average, network, min(settings.ema_decay, (1 + run.step) / (10 + run.step)))
            total += loss.item() / len(batches)
        run.finish_epoch(total, score(average, tuned, settings), time.monotonic() - started)
    return run.last_path


def with_epochs(stored: Mapping[str, Any]) -> list[dict[str, object]]:
    """Return the stages of training that made a checkpoint; of the last, how far it came."""
    *before, last = stored["stages"]
    # A run that was stopped early has the settings of a whole one.
    return [*before, last | {"epochs_finished": stored["figures"]["epoch"]}]


def classifier_loss(
    network: nn.Module,
    cubes: Cubes,
    settings: VolumeSettings,
    random: torch.Generator,
    device: torch.device,
) -> Tensor:
    """Return the loss of a batch: labels, mask at half the side, radiologists' scores, foreign cubes."""
    strangers = make_foreign(cubes.hounsfield[: round(settings.foreign * len(cubes.labels))], random)
    shown = torch.cat([cubes.hounsfield, strangers]).to(device, memory_format=torch.channels_last_3d)
    with torch.autocast(device.type, torch.bfloat16):
        lesson = network.learn(shown)
    n = len(cubes.labels)
    labels, scores = cubes.labels.to(device), cubes.scores.to(device)
    loss = masked_binary_cross_entropy(lesson.answer.logits[:n].float(), labels, settings.smoothing)
    loss = loss + SCORE_WEIGHT * masked_binary_cross_entropy(lesson.scores[:n].float(), scores)
    mask, weight = (functional.avg_pool3d(one.to(device), 2) for one in (cubes.mask, cubes.weight))
    drawn = lesson.mask[:n].float()
    loss = loss + MASK_WEIGHT * (voxel_focal_loss(drawn, mask, weight) + dice_loss(drawn, mask, weight))
    is_foreign = (torch.arange(len(shown), device=device) >= n).float()
    foreign = functional.binary_cross_entropy_with_logits(lesson.answer.foreign, is_foreign)
    return loss + FOREIGN_WEIGHT * foreign


def segmenter_loss(
    network: nn.Module,
    cubes: Cubes,
    settings: VolumeSettings,
    random: torch.Generator,
    device: torch.device,
) -> Tensor:
    """Return the loss of a batch: Dice and focal cross-entropy over the voxels."""
    shown = cubes.hounsfield.to(device, memory_format=torch.channels_last_3d)
    with torch.autocast(device.type, torch.bfloat16):
        logits = network(shown)
    logits, mask, weight = logits.float(), cubes.mask.to(device), cubes.weight.to(device)
    return dice_loss(logits, mask, weight) + 2.0 * voxel_focal_loss(logits, mask, weight, gamma=1.0)


@torch.no_grad()
def score_classifier(network: nn.Module, tuned: lidc.Nodules, settings: VolumeSettings) -> dict[str, float]:
    """Return the AUC of malignancy, and of a nodule against the tissue beside it."""
    random = torch.Generator().manual_seed(0)
    beside = [(one, tissue_beside(tuned, one)) for one in range(len(tuned))]
    negatives = [(one, places[0]) for one, places in beside if len(places)]
    index = torch.tensor([*range(len(tuned)), *(one for one, _ in negatives)])
    places = torch.cat(
        [torch.zeros(len(tuned), 3), torch.tensor(np.array([p for _, p in negatives])).float()]
    )
    still = _still(settings)
    parts = []
    for part in torch.arange(len(index)).split(64):
        shown = draw(tuned, index[part], places[part], still, random).hounsfield
        with torch.autocast("cpu", torch.bfloat16):
            parts.append(network(shown.contiguous(memory_format=torch.channels_last_3d)).logits)
    logits = torch.cat(parts).float().numpy()
    is_nodule = (places == 0).all(dim=1).numpy()
    return {
        "nodule": round(area_under_curve(is_nodule, logits[:, 0]), 4),
        "malignant": round(
            float(np.nan_to_num(area_under_curve(tuned.malign == 1, logits[: len(tuned), 1]))), 4
        ),
    }


@torch.no_grad()
def score_segmenter(network: nn.Module, tuned: lidc.Nodules, settings: VolumeSettings) -> dict[str, float]:
    """Return the median and mean Dice of masks on the working grid."""
    random, still, dices = torch.Generator().manual_seed(0), _still(settings), []
    for part in torch.arange(len(tuned)).split(16):
        cubes = draw(tuned, part, torch.zeros(len(part), 3), still, random)
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(cubes.hounsfield.contiguous(memory_format=torch.channels_last_3d))
        found, truth = logits > 0, cubes.mask > 0.5
        both = (found & truth).sum(dim=(1, 2, 3, 4))
        sizes = found.sum(dim=(1, 2, 3, 4)) + truth.sum(dim=(1, 2, 3, 4))
        dices.append(2.0 * both / sizes.clamp(min=1))
    dice = torch.cat(dices)
    return {"median_dice": round(dice.median().item(), 4), "mean_dice": round(dice.mean().item(), 4)}


def _still(settings: VolumeSettings) -> VolumeSettings:
    return replace(settings, strength=0.0, side=48 if settings.model == SEGMENTER else settings.side)


Loss = Callable[[nn.Module, Cubes, VolumeSettings, torch.Generator, torch.device], Tensor]
Score = Callable[[nn.Module, lidc.Nodules, VolumeSettings], dict[str, float]]
LESSONS: dict[str, tuple[Loss, Score]] = {
    CLASSIFIER: (classifier_loss, score_classifier),
    SEGMENTER: (segmenter_loss, score_segmenter),
}
CHOICES = {"trunk": [*TRUNKS, "unet"]}


def main(arguments: list[str] | None = None) -> int:
    """Read the command line and train; 0 done, 1 failed, 2 wrong use."""
    parser = argparse.ArgumentParser(prog="python -m models.train", description=__doc__)
    parser.add_argument("model", choices=list(LESSONS))
    parser.add_argument("--resume", action="store_true", help="go on with the run that wrote to --out")
    for name, default in asdict(VolumeSettings(data="", out="runs/chest_ct")).items():
        if name != "model":
            flag, choices = f"--{name.replace('_', '-')}", CHOICES.get(name)
            is_needed = name == "data"
            parser.add_argument(
                flag, type=type(default), default=default, required=is_needed, choices=choices
            )
    options = vars(parser.parse_args(arguments))
    is_resumed = options.pop("resume")
    try:
        path = train(VolumeSettings(**options), is_resumed=is_resumed)
    except (DataFolderError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"checkpoint: {path}")
    return 0
