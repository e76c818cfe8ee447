"""Train a network: `python -m models.train chest_xray --data DIR`, on CPUs or on one GPU."""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor, nn
from torch.nn import functional

from models import data
from models.augmentation import augment, make_foreign, mix
from models.checkpoints import CheckpointError, load_initial
from models.losses import (
    attention_loss,
    class_balanced_weights,
    masked_binary_cross_entropy,
    masked_focal_loss,
)
from models.metrics import area_under_curve
from models.radiograph import TRUNKS, Answer, RadiographNetwork
from models.sampling import balanced_order


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that decides a training run; its checkpoint lists those of every stage, oldest first.

    Two parts of the patients are kept out of the weights: `held_out`, the same for every run, for calibration
    (nothing here looks at them), and `tuning`, others for each seed, for early stop and the printed figures.
    `margin`: images are kept this much larger than the network's input, so that a crop is no enlargement.
    `mixed` and `foreign` are the part of a batch that is blended, and the part added to it as pictures that
    are no radiograph of a chest. `patience`: stop after so many epochs without a better one; 0 never stops.
    """

    data: str
    out: str
    dataset: str = "kermany"
    epochs: int = 40
    trunk: str = "densenet121"
    size: int = 224
    margin: float = 1.0
    batch: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 0.03
    dropout: float = 0.3
    loss: str = "cross_entropy"
    sampling: str = "uniform"
    smoothing: float = 0.05
    strength: float = 1.0
    mixed: float = 0.0
    foreign: float = 0.125
    ema_decay: float = 0.998
    held_out: float = 0.1
    tuning: float = 0.05
    synthetic: int = 600
    limit: int = 0
    patience: int = 0
    seed: int = 1
    device: str = "auto"
    threads: int = 2
    init: str = ""


# Of "is this a chest radiograph" and of "did it look at the consolidation", beside 1 for the findings.
FOREIGN_WEIGHT, ATTENTION_WEIGHT = 0.3, 0.2
CHOICES = {
    "loss": ("cross_entropy", "class_balanced", "focal"),
    "sampling": ("uniform", "balanced"),
    "trunk": tuple(TRUNKS),
}


def train(settings: Settings, *, is_resumed: bool = False) -> Path:
    """Train by the settings; return the checkpoint to export (averaged weights).

    It is that of the last epoch, with `patience` that of the best one. `is_resumed` goes on after the last
    epoch that a run with the same `out` finished; raises FileNotFoundError where there is none.
    """
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    device = choose_device(settings.device)

    # Data: the training patients less those held out, and synthetic thoraxes.
    kept, tuned = training_sets(settings)
    images, labels, boxes = (
        torch.from_numpy(part).to(device) for part in (kept.pixels, kept.labels, kept.boxes)
    )
    weights = class_balanced_weights(labels) if settings.loss == "class_balanced" else None

    # Model: trained weights, and their moving average, which is what is kept.
    network = RadiographNetwork(len(data.CLASSES), settings.dropout, settings.trunk)
    stages = load_initial(network, settings.init) if settings.init else []
    stages = [*stages, asdict(settings) | {"data_version": kept.version, "commit": commit()}]
    network = network.to(device, memory_format=torch.channels_last)
    average = copy.deepcopy(network).eval()

    # Optimizer: one cycle of the learning rate over all steps.
    steps = settings.epochs * (len(kept) // settings.batch)
    optimizer = torch.optim.AdamW(
        network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=steps, pct_start=0.15, div_factor=20
    )

    run = Run(
        settings,
        stages,
        {"network": network, "average": average, "optimizer": optimizer, "schedule": schedule},
    )
    if is_resumed:
        run.resume()
    with Progress(transient=True) as progress:
        task = progress.add_task(settings.out, total=steps)
        while not run.is_over:
            started, total = time.monotonic(), torch.zeros((), device=device)
            # Seeded anew by the epoch: a resumed run then goes the way of one that was never interrupted.
            torch.manual_seed(settings.seed + 1000 * run.epoch)
            random = torch.Generator(device).manual_seed(settings.seed + 1000 * run.epoch)
            network.train()
            for index in batches(settings, kept.labels, run.epoch):
                chosen = index.to(device)
                loss = batch_loss(
                    network, (images[chosen], labels[chosen], boxes[chosen]), settings, weights, random
                )
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(network.parameters(), 2.0)
                optimizer.step()
                schedule.step()
                run.step += 1
                update_average(average, network, min(settings.ema_decay, (1 + run.step) / (10 + run.step)))
                total += loss.detach() * len(index) / len(kept)
                progress.update(task, completed=run.step)
            run.finish_epoch(total.item(), score(average, tuned, device), time.monotonic() - started)
    return run.best_path if settings.patience else run.last_path


def batch_loss(
    network: RadiographNetwork,
    batch: tuple[Tensor, Tensor, Tensor],
    settings: Settings,
    weights: Tensor | None,
    random: torch.Generator,
) -> Tensor:
    """Return the loss of one batch of pixels (n, s, s) uint8, labels (n, classes) and boxes (n, 4).

    Of three questions: the findings; whether the picture is a chest radiograph, to which pictures that are
    none are added; and, where the place of a finding is known, whether the network looked there.
    """
    pixels, labels, boxes = batch
    masks = box_masks(boxes, pixels.shape[-1])
    images, masks = augment(pixels[:, None].float() / 255.0, masks, settings.size, random, settings.strength)
    strangers = make_foreign(images[: round(settings.foreign * len(images))], random)
    images, labels, share = mix(images, labels, settings.mixed, random)

    shown = torch.cat([images, strangers]).contiguous(memory_format=torch.channels_last)
    with torch.autocast(shown.device.type, torch.bfloat16):
        answer: Answer = network(shown)
    n = len(images)
    is_foreign = (torch.arange(len(shown), device=shown.device) >= n).float()
    find = masked_focal_loss if settings.loss == "focal" else masked_binary_cross_entropy
    loss = find(answer.logits[:n].float(), labels, settings.smoothing, weights=weights)
    loss = loss + ATTENTION_WEIGHT * attention_loss(answer.attention[:n, 0], masks, share)
    return loss + FOREIGN_WEIGHT * functional.binary_cross_entropy_with_logits(answer.foreign, is_foreign)


def box_masks(boxes: Tensor, size: int) -> Tensor:
    """Return masks (n, 1, size, size) that are 1 inside boxes (n, 4: x, y, x, y in parts of the side)."""
    place = (torch.arange(size, device=boxes.device) + 0.5) / size
    left, top, right, bottom = boxes[:, :, None].unbind(dim=1)
    rows, columns = (place >= top) & (place < bottom), (place >= left) & (place < right)
    return (rows[:, :, None] & columns[:, None, :])[:, None].float()


def batches(settings: Settings, labels: np.ndarray, epoch: int) -> tuple[Tensor, ...]:
    """Return the indices of each batch of an epoch; images that fill no batch wait for another epoch."""
    generator = torch.Generator().manual_seed(settings.seed + 1000 * epoch)
    if settings.sampling == "balanced":
        order = balanced_order(torch.from_numpy(labels), generator)
    else:
        order = torch.randperm(len(labels), generator=generator)
    return order[: len(order) // settings.batch * settings.batch].split(settings.batch)


class Run:
    """How far a training has come, and its files below `out`: last.pt, best.pt, state.pt to resume from."""

    def __init__(self, settings: Plan, stages: list[dict[str, object]], parts: dict[str, Stateful]) -> None:
        """Begin at the first epoch; `parts` by name are all that a resumed run must find as it was."""
        self.settings, self.stages, self.parts = settings, stages, parts
        self.epoch, self.step, self.stale, self.best = 0, 0, 0, -1.0
        folder = Path(settings.out)
        folder.mkdir(parents=True, exist_ok=True)
        self.last_path, self.best_path, self.state_path = (
            folder / name for name in ("last.pt", "best.pt", "state.pt")
        )

    @property
    def is_over(self) -> bool:
        """Are all epochs done, or has there been no better one for too long?"""
        patience = self.settings.patience
        return self.epoch >= self.settings.epochs or 0 < patience <= self.stale

    def finish_epoch(self, loss: float, figures: dict[str, float], seconds: float) -> None:
        """Count an epoch, print its figures and write its checkpoints."""
        self.epoch += 1
        value = sum(figures.values())
        self.stale = 0 if value > self.best else self.stale + 1
        self.best = max(value, self.best)
        line = {"epoch": self.epoch, "loss": round(loss, 4), "tuning": figures, "seconds": round(seconds, 1)}
        print(json.dumps(line), flush=True)
        checkpoint = {"weights": self.parts["average"].state_dict(), "stages": self.stages, "figures": line}
        for path in [self.last_path] + [self.best_path] * (self.stale == 0):
            torch.save(checkpoint, path)
        counts = {"epoch": self.epoch, "step": self.step, "stale": self.stale, "best": self.best}
        torch.save({name: part.state_dict() for name, part in self.parts.items()} | counts, self.state_path)

    def resume(self) -> None:
        """Take every part from state.pt; raises FileNotFoundError where no epoch was finished."""
        if not self.state_path.is_file():
            raise FileNotFoundError(f"nothing to resume: no {self.state_path}")
        stored = torch.load(self.state_path, map_location="cpu", weights_only=True)
        for name, part in self.parts.items():
            part.load_state_dict(stored[name])
        self.epoch, self.step, self.stale, self.best = (
            stored[name] for name in ("epoch", "step", "stale", "best")
        )


class Plan(Protocol):
    """The settings that say how long a run goes on, and where its files go."""

    @property
    def out(self) -> str:
        """The folder of its files."""

    @property
    def epochs(self) -> int:
        """The most epochs."""

    @property
    def patience(self) -> int:
        """The most epochs without a better one; 0 is any number."""


class Stateful(Protocol):
    """A network, an optimizer or a schedule: what can be stored and taken up again."""

    def state_dict(self) -> dict[str, Any]:
        """Return everything that it remembers."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Remember it again."""


def training_sets(settings: Settings) -> tuple[data.Radiographs, data.Radiographs]:
    """Return what is trained on (real radiographs and synthetic ones), and the real ones kept for tuning."""
    real, _ = held_out_of(settings, round(settings.size * settings.margin))
    kept, _ = data.hold_out(real, settings.tuning, seed=settings.seed)
    _, tuned = data.hold_out(held_out_of(settings, settings.size)[0], settings.tuning, seed=settings.seed)
    if settings.synthetic:
        size = round(settings.size * settings.margin)
        made = data.synthetic_radiographs(settings.synthetic, size=size, first_seed=data.SYNTHETIC_TRAIN_SEED)
        kept = data.concatenate([kept, made])
    if settings.limit:
        chosen = np.random.default_rng(settings.seed).permutation(len(kept)) < settings.limit
        kept = kept.subset(chosen)
    return kept, tuned


def held_out_of(settings: Settings, size: int) -> tuple[data.Radiographs, data.Radiographs]:
    """Return the real training radiographs (to train on, held out for calibration), no patient in both."""
    real = data.load_radiographs(Path(settings.data), split="train", size=size, dataset=settings.dataset)
    return data.hold_out(real, settings.held_out, seed=data.HOLD_OUT_SEED)


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move the averaged weights and statistics a little towards the trained ones."""
    trained = network.state_dict()
    for name, value in average.state_dict().items():
        if value.is_floating_point():
            value.lerp_(trained[name], 1.0 - decay)
        else:
            value.copy_(trained[name])


@torch.no_grad()
def score(network: nn.Module, radiographs: data.Radiographs, device: torch.device) -> dict[str, float]:
    """Return AUC of pneumonia, and of bacterial against viral among the pneumonias (0 where undefined)."""
    parts = []
    for chunk in torch.from_numpy(radiographs.pixels).split(64):
        with torch.autocast(device.type, torch.bfloat16):
            parts.append(network(chunk[:, None].to(device).float() / 255.0).logits.float().cpu())
    logits = torch.cat(parts).numpy()
    pneumonia, bacterial = radiographs.labels[:, 0] == 1, radiographs.labels[:, 1] == 1
    kind = logits[:, 1] - logits[:, 2]
    figures = {
        "pneumonia": area_under_curve(pneumonia, logits[:, 0]),
        "bacterial_or_viral": area_under_curve(bacterial[pneumonia], kind[pneumonia]),
    }
    return {name: round(float(np.nan_to_num(value)), 4) for name, value in figures.items()}


def choose_device(name: str) -> torch.device:
    """Return the device of a name; "auto" is a GPU where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cudnn.benchmark = True
    return torch.device(name)


def commit() -> str:
    """Return the commit of the working tree, "-dirty" where files differ, or "none" outside a repository."""
    command = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    return answer.stdout.strip() if answer.returncode == 0 else "none"


def settings_parser(
    models: Sequence[str],
    defaults: Mapping[str, Any],
    choices: Mapping[str, Sequence[str]],
    about: str | None,
) -> argparse.ArgumentParser:
    """Return a command line with `--resume` and a flag for each setting of a training but its model."""
    parser = argparse.ArgumentParser(prog="python -m models.train", description=about)
    parser.add_argument("model", choices=models)
    parser.add_argument("--resume", action="store_true", help="go on with the run that wrote to --out")
    for name, default in defaults.items():
        if name != "model":
            flag = f"--{name.replace('_', '-')}"
            parser.add_argument(flag, type=type(default), default=default, choices=choices.get(name))
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Read the command line and train; 0 done, 1 failed, 2 wrong use."""
    from models import (  # here: they are made of parts of this module
        train_detector,
        train_slide,
        train_volume,
    )

    given = sys.argv[1:] if arguments is None else arguments
    others = (train_volume, train_slide, train_detector)
    for other in others:
        if given[:1] and given[0] in other.LESSONS:
            return other.main(given)
    parser = argparse.ArgumentParser(prog="python -m models.train", description=__doc__)
    parser.add_argument(
        "model", choices=["chest_xray", *(name for other in others for name in other.LESSONS)]
    )
    parser.add_argument("--resume", action="store_true", help="go on with the run that wrote to --out")
    for name, default in asdict(Settings(data="", out="runs/chest_xray")).items():
        flag, choices = f"--{name.replace('_', '-')}", CHOICES.get(name)
        parser.add_argument(
            flag, type=type(default), default=default, required=name == "data", choices=choices
        )
    options = vars(parser.parse_args(arguments))
    is_resumed, _ = options.pop("resume"), options.pop("model")
    try:
        path = train(Settings(**options), is_resumed=is_resumed)
    except (data.DataFolderError, CheckpointError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"checkpoint: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
