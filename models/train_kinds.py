"""Train the network that names lesions: `python -m models.train chest_xray_kinds --out DIR`."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from models.checkpoints import CheckpointError
from models.detector import LESIONS, LUNGS
from models.detector_data import Film
from models.detector_kinds import SPAN_PX, KindNetwork, pieces_of, sizes_of, span_of
from models.detector_lessons import KINDS, DetectorSettings
from models.detector_sets import training_films, tuning_films
from models.detector_views import chance, show, signed
from models.planting import Patch, draw_patches, plant
from models.train import commit

# A detector's boxes are off by so much of their sides.
JITTER = 0.08
# So often the lungs count as not found.
LOST = 0.15
BATCH = 64

Lessons = tuple[Tensor, Tensor, Tensor]
"""Pieces (n, 1, SIDE, SIDE), sizes (n, 2) and kinds (n,), from 0."""


def train_kinds(settings: DetectorSettings) -> Path:
    """Train as the settings say, as far as they concern it; return the checkpoint of the last epoch."""
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    films, tuned = training_films(settings), lessons_of(tuning_films(settings))
    patches = draw_patches(settings.patches, settings.seed + 1) if settings.planted else []
    network = KindNetwork(settings.width)
    optimizer = torch.optim.AdamW(
        network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay
    )
    # Planted lesions come and go: so many steps are about an epoch.
    steps = settings.epochs * (2 * len(films) // BATCH + 1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, total_steps=steps)
    path = Path(settings.out) / "last.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    for epoch in range(1, settings.epochs + 1):
        started, random = time.monotonic(), torch.Generator().manual_seed(settings.seed + 1000 * epoch)
        pieces, sizes, kinds = changed_lessons(films, patches, settings, random)
        network.train()
        for part in torch.randperm(len(kinds), generator=random).split(BATCH):
            loss = functional.cross_entropy(network(pieces[part], sizes[part]), kinds[part])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            if schedule.last_epoch < steps:
                schedule.step()
        figures = {"epoch": epoch, "loss": round(loss.item(), 4), "accuracy": accuracy(network, tuned)}
        print(json.dumps(figures | {"seconds": round(time.monotonic() - started, 1)}), flush=True)
        stage = asdict(settings) | {"commit": commit(), "films_shown": len(films)}
        torch.save({"weights": network.state_dict(), "stages": [stage], "figures": figures}, path)
    return path


def changed_lessons(
    films: Sequence[Film], patches: Sequence[Patch], settings: DetectorSettings, random: torch.Generator
) -> Lessons:
    """Return the lessons of an epoch: lesions as they are drawn, and planted ones on films without any."""
    shown = []
    for film in films:
        is_empty = film.is_lesion_labelled and not np.isin(film.labels, LESIONS).any()
        if is_empty and patches and chance(random) < settings.planted:
            seed = int(torch.randint(2**40, (), generator=random))
            shown.append(plant(film, patches, np.random.default_rng(seed)))
        elif not is_empty:
            shown.append(film)
    pieces, sizes, kinds = lessons_of(shown, random)
    for axis in (2, 3):
        is_turned = torch.rand(len(pieces), generator=random) < 0.5
        pieces = torch.where(is_turned[:, None, None, None], pieces.flip(axis), pieces)
    return pieces, sizes, kinds


def lessons_of(films: Sequence[Film], random: torch.Generator | None = None) -> Lessons:
    """Return the lesions of films, their boxes as they are or, with a random stream, a little off."""
    parts: list[Lessons] = []
    for film in films:
        images, (truth,) = show([film], 0.0, torch.Generator())
        is_lesion, is_lung = (torch.isin(truth.labels, torch.tensor(one)) for one in (LESIONS, LUNGS))
        if not is_lesion.any():
            continue
        boxes, span = truth.boxes[is_lesion][None], span_of(truth.boxes[None], is_lung[None])
        if random is not None:
            sides = (boxes[..., 2:] - boxes[..., :2]).repeat(1, 1, 2)
            boxes = boxes + JITTER * sides * signed(boxes.numel(), random).reshape(boxes.shape)
            span = torch.where(torch.rand(1, generator=random) < LOST, SPAN_PX, span)
        pieces = pieces_of(images, boxes)
        parts.append((pieces, sizes_of(boxes, span), truth.labels[is_lesion] - min(LESIONS)))
    pieces, sizes, kinds = (torch.cat(each) for each in zip(*parts, strict=True))
    return pieces, sizes, kinds


@torch.no_grad()
def accuracy(network: KindNetwork, lessons: Lessons) -> float:
    """Return on which part of lessons the network is right."""
    pieces, sizes, kinds = lessons
    said = network.eval()(pieces, sizes).argmax(dim=1)
    return round(float((said == kinds).float().mean()), 4)


def read_kinds(path: Path) -> tuple[KindNetwork, list[dict[str, Any]]]:
    """Return a trained network and its stages; raises FileNotFoundError and CheckpointError."""
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    stored: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    last = stored.get("stages", [{}])[-1]
    if last.get("model") != KINDS:
        raise CheckpointError(f"{path} is no checkpoint of {KINDS}")
    network = KindNetwork(int(last["width"])).eval()
    try:
        network.load_state_dict(stored["weights"])
    except RuntimeError as error:
        raise CheckpointError(f"{path} is no whole training of {KINDS}: {error}") from error
    return network, stored["stages"]
