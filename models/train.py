"""Train a network: `python -m models.train chest_xray --data DIR`."""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from models import data
from models.augmentation import augment
from models.losses import masked_binary_cross_entropy
from models.metrics import area_under_curve
from models.radiograph import RadiographNetwork


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that decides a training run; its checkpoint lists those of every stage, oldest first.

    `margin`: images are kept this much larger than the network's input, so that a crop is no enlargement.
    """

    data: str
    out: str
    dataset: str = "kermany"
    epochs: int = 20
    trunk: str = "densenet121"
    size: int = 128
    margin: float = 1.15
    batch: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 0.03
    dropout: float = 0.3
    smoothing: float = 0.05
    strength: float = 1.0
    ema_decay: float = 0.998
    held_out: float = 0.1
    synthetic: int = 500
    limit: int = 0
    seed: int = 1
    threads: int = 2
    init: str = ""


def train(settings: Settings) -> Path:
    """Train by the settings; return the path of the last checkpoint (averaged weights)."""
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    generator = torch.Generator().manual_seed(settings.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    # Data: the training patients less those held out for calibration, and synthetic thoraxes.
    kept = training_set(settings, round(settings.size * settings.margin))
    _, held_out = held_out_of(settings, settings.size)
    images, labels = torch.from_numpy(kept.pixels), torch.from_numpy(kept.labels)

    # Model: trained weights, and their moving average, which is what is kept.
    network = RadiographNetwork(len(data.CLASSES), settings.dropout, settings.trunk).to(
        device, memory_format=torch.channels_last
    )
    stages = load_earlier(network, settings.init) if settings.init else []
    stages = [*stages, asdict(settings) | {"data_version": kept.version, "commit": commit()}]
    average = copy.deepcopy(network).eval()

    # Optimizer: one cycle of the learning rate over all steps.
    steps = settings.epochs * (len(images) // settings.batch)
    optimizer = torch.optim.AdamW(
        network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=steps, pct_start=0.15, div_factor=20
    )

    path = Path(settings.out) / "last.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    step = 0
    for epoch in range(settings.epochs):
        started, total = time.monotonic(), 0.0
        network.train()
        order = torch.randperm(len(images), generator=generator)
        for index in order[: len(order) // settings.batch * settings.batch].split(settings.batch):
            batch = augment(
                images[index, None].float() / 255.0, settings.size, generator, settings.strength
            ).to(device)
            with torch.autocast(device.type, torch.bfloat16):
                logits, _ = network(batch.contiguous(memory_format=torch.channels_last))
            loss = masked_binary_cross_entropy(logits.float(), labels[index].to(device), settings.smoothing)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 2.0)
            optimizer.step()
            schedule.step()
            step += 1
            update_average(average, network, min(settings.ema_decay, (1 + step) / (10 + step)))
            total += loss.item()
        figures = {
            "epoch": epoch + 1,
            "loss": round(total * settings.batch / len(images), 4),
            "held_out": score(average, held_out, device),
            "seconds": round(time.monotonic() - started),
        }
        print(json.dumps(figures), flush=True)
        torch.save({"weights": average.state_dict(), "stages": stages, "figures": figures}, path)
    return path


def load_earlier(network: nn.Module, path: str) -> list[dict[str, object]]:
    """Give a network the weights of an earlier checkpoint, and return the stages that made them."""
    earlier = torch.load(path, map_location="cpu", weights_only=True)
    network.load_state_dict(earlier["weights"])
    stages: list[dict[str, object]] = earlier["stages"]
    return stages


def training_set(settings: Settings, size: int) -> data.Radiographs:
    """Return what is trained on: the real radiographs that are not held out, and synthetic ones."""
    kept, _ = held_out_of(settings, size)
    if settings.synthetic:
        made = data.synthetic_radiographs(settings.synthetic, size=size, first_seed=data.SYNTHETIC_TRAIN_SEED)
        kept = data.concatenate([kept, made])
    if settings.limit:
        chosen = np.random.default_rng(settings.seed).permutation(len(kept)) < settings.limit
        kept = kept.subset(chosen)
    return kept


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
def predict(network: nn.Module, radiographs: data.Radiographs, device: torch.device) -> Tensor:
    """Return the logits (n, classes) of a set, without augmentation."""
    network.eval()
    logits = []
    for chunk in torch.from_numpy(radiographs.pixels).split(32):
        with torch.autocast(device.type, torch.bfloat16):
            logits.append(network((chunk[:, None].float() / 255.0).to(device))[0].float().cpu())
    return torch.cat(logits)


def score(network: nn.Module, radiographs: data.Radiographs, device: torch.device) -> dict[str, float]:
    """Return AUC of pneumonia, and of bacterial against viral among the pneumonias."""
    logits = predict(network, radiographs, device).numpy()
    pneumonia, bacterial = radiographs.labels[:, 0] == 1, radiographs.labels[:, 1] == 1
    kind = logits[:, 1] - logits[:, 2]
    return {
        "pneumonia": round(area_under_curve(pneumonia, logits[:, 0]), 4),
        "bacterial_or_viral": round(area_under_curve(bacterial[pneumonia], kind[pneumonia]), 4),
    }


def commit() -> str:
    """Return the commit of the working tree, or "none" outside a repository with commits."""
    answer = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)  # noqa: S607
    return answer.stdout.strip() if answer.returncode == 0 else "none"


def main(arguments: list[str] | None = None) -> int:
    """Read the command line and train; 0 done, 1 failed, 2 wrong use."""
    parser = argparse.ArgumentParser(prog="python -m models.train", description=__doc__)
    parser.add_argument("model", choices=["chest_xray"])
    for name, default in asdict(Settings(data="", out="runs/chest_xray_densenet121_a")).items():
        kind = type(default)
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=kind, default=default, required=name == "data"
        )
    options = vars(parser.parse_args(arguments))
    options.pop("model")
    try:
        path = train(Settings(**options))
    except data.DataFolderError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"checkpoint: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
