"""Train the networks for slides by labels of slides alone: `python -m models.train slide_tumor --out DIR`."""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from models.checkpoints import CheckpointError, read_state_dict
from models.metrics import area_under_curve
from models.slide import TRUNKS, GatedAttentionMil, SlideNetwork, TileEncoder
from models.slide_data import TRAIN_SEED, TUNING_SEED, Bag, load_slides
from models.slide_lessons import (
    SLIDES,
    SlideSettings,
    balanced_batches,
    draw_bags,
    draw_tiles,
    embed,
    falling,
    labels_of,
    slide_loss,
)
from models.train import Run, choose_device, commit, settings_parser, update_average

HEAD_LEARNING_RATE, HEAD_WEIGHT_DECAY, HEAD_BATCH = 1e-3, 0.05, 8


def make_network(settings: SlideSettings) -> SlideNetwork:
    """Return the untrained network of a run."""
    return SlideNetwork(TileEncoder(settings.trunk, settings.width), settings.heads, settings.dropout)


def train(settings: SlideSettings, *, is_resumed: bool = False) -> Path:
    """Train as the settings say: the encoder with one head, then all heads; return the checkpoint."""
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    device = choose_device(settings.device)

    # Data: the labels of slides. What is known beyond them stays where it is.
    (bags, _), (tuned, _) = (
        load_slides(count, seed, settings.shape, workers=settings.threads)
        for count, seed in ((settings.slides, TRAIN_SEED), (settings.tuning, TUNING_SEED))
    )
    tiles = sum(len(bag) for bag in bags)
    print(f"train {len(bags)} slides of {tiles} tiles, tuning {len(tuned)}", flush=True)

    # Model, first stage: the encoder, by what one head of attention makes of some tiles of each slide.
    network = make_network(settings).to(device, memory_format=settings.layout)
    if settings.init:
        load_encoder(network.encoder, Path(settings.init))
    average = train_encoder(network, settings, bags, tuned, is_resumed=is_resumed)

    # Second stage: the heads, by the embeddings of all tiles.
    figures = train_heads(average, settings, bags, tuned)
    path = Path(settings.out) / "slide.pt"
    names = asdict(settings) | {"commit": commit(), "tiles_drawn": tiles}
    torch.save({"weights": average.cpu().state_dict(), "stages": [names], "figures": figures}, path)
    return path


def load_encoder(encoder: TileEncoder, path: Path) -> None:
    """Give an encoder the weights of a file: a checkpoint of a training on slides, or a bare state dict.

    Raises FileNotFoundError and CheckpointError.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    stored = torch.load(path, map_location="cpu", weights_only=True)
    weights = stored["weights"] if "weights" in stored else read_state_dict(path)
    own = {name.removeprefix("encoder."): value for name, value in weights.items() if "heads." not in name}
    try:
        encoder.load_state_dict(own)
    except RuntimeError as error:
        raise CheckpointError(f"{path} has no encoder of this kind: {error}") from error


def train_encoder(
    network: SlideNetwork,
    settings: SlideSettings,
    bags: Sequence[Bag],
    tuned: Sequence[Bag],
    *,
    is_resumed: bool,
) -> SlideNetwork:
    """Train the encoder and the first head end to end; return the moving average of the network."""
    device = next(network.parameters()).device
    average = copy.deepcopy(network).eval()
    steps = settings.epochs * len(balanced_batches(bags, settings.batch, torch.Generator()))
    learned = [*network.encoder.parameters(), *network.heads["attention"][0].parameters()]
    optimizer = torch.optim.AdamW(learned, settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=max(steps, 1), pct_start=0.15, div_factor=20
    )
    run = Run(
        settings,
        [asdict(settings) | {"commit": commit()}],
        {"network": network, "average": average, "optimizer": optimizer, "schedule": schedule},
    )
    if is_resumed:
        run.resume()
    while not run.is_over:
        started, total = time.monotonic(), 0.0
        # Seeded anew by the epoch: a resumed run then goes the way of one that was never interrupted.
        torch.manual_seed(settings.seed + 1000 * run.epoch)
        random = torch.Generator().manual_seed(settings.seed + 1000 * run.epoch)
        network.train()
        batches = balanced_batches(bags, settings.batch, random)
        for batch in batches:
            shown, labels = draw_bags([bags[one] for one in batch], settings, random)
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                answer = network(shown.to(device))
            done = run.step / steps
            loss = slide_loss(
                answer,
                labels.to(device),
                smoothing=settings.smoothing,
                entropy=falling(settings.entropy, done),
                tiles=falling(settings.tile_loss, done),
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(learned, 2.0)
            optimizer.step()
            schedule.step()
            run.step += 1
            update_average(average, network, min(settings.ema_decay, (1 + run.step) / (10 + run.step)))
            total += loss.item() / len(batches)
        tuning = {"slide": score(average, "attention", embed_all(average, tuned), tuned, heads=1)}
        run.finish_epoch(total, tuning, time.monotonic() - started)
    return average


def embed_all(network: SlideNetwork, bags: Sequence[Bag]) -> list[Tensor]:
    """Return the embeddings (n, d) of each slide, as it is."""
    return [embed(network.encoder, bag) for bag in bags]


@torch.no_grad()
def score(
    network: SlideNetwork, pooling: str, embeddings: Sequence[Tensor], bags: Sequence[Bag], heads: int = 0
) -> float:
    """Return the AUC of the mean probability of the heads of a pooling, or of the first so many of them."""
    asked = list(network.heads[pooling])[: heads or None]
    device = next(network.parameters()).device
    said = [
        [torch.sigmoid(head.eval()(one[None].to(device)).logits).item() for head in asked]
        for one in embeddings
    ]
    truth = np.array([bag.is_tumor for bag in bags])
    return round(float(np.nan_to_num(area_under_curve(truth, np.array(said).mean(axis=1)))), 4)


def train_heads(
    network: SlideNetwork, settings: SlideSettings, bags: Sequence[Bag], tuned: Sequence[Bag]
) -> dict[str, float]:
    """Train every head on the embeddings of the frozen encoder; return the AUC of each pooling on `tuned`."""
    started = time.monotonic()
    device = next(network.parameters()).device
    random = torch.Generator().manual_seed(settings.seed)
    views = [
        [
            embed(network.encoder, bag, strength=settings.strength if number else 0.0, random=random)
            for number in range(settings.views)
        ]
        for bag in bags
    ]
    heads = [head for group in network.heads.values() for head in group]
    for number, head in enumerate(heads):
        train_head(head, settings, bags, views, random=torch.Generator().manual_seed(settings.seed + number))
    network.to(device)
    shown = embed_all(network, tuned)
    figures = {pooling: score(network, pooling, shown, tuned) for pooling in network.heads}
    print(f"heads in {time.monotonic() - started:.0f} s: {figures}", flush=True)
    return figures


def train_head(
    head: GatedAttentionMil,
    settings: SlideSettings,
    bags: Sequence[Bag],
    views: Sequence[Sequence[Tensor]],
    *,
    random: torch.Generator,
) -> None:
    """Train one head anew on the views of slides; its own draws make it differ from the others."""
    head.cpu().train()
    reset(head, random)
    optimizer = torch.optim.AdamW(head.parameters(), HEAD_LEARNING_RATE, weight_decay=HEAD_WEIGHT_DECAY)
    batch = min(HEAD_BATCH, len(bags))
    steps = settings.head_epochs * len(balanced_batches(bags, batch, torch.Generator()))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    for epoch in range(settings.head_epochs):
        for index in balanced_batches(bags, batch, random):
            chosen = [views[one][int(torch.randint(settings.views, (1,), generator=random))] for one in index]
            shown = [one[draw_tiles(len(one), settings.head_tiles, random)] for one in chosen]
            weight = falling(settings.entropy, epoch / settings.head_epochs)
            labels = labels_of([bags[one] for one in index])
            loss = slide_loss(head(torch.stack(shown)), labels, smoothing=settings.smoothing, entropy=weight)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
    head.eval()


def reset(head: GatedAttentionMil, random: torch.Generator) -> None:
    """Give a head new weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=random)))
        for part in head.modules():
            if isinstance(part, nn.Linear):
                part.reset_parameters()
    if head.pooling == "attention":
        nn.init.zeros_(head.weight.weight)


LESSONS = (SLIDES,)
CHOICES = {"trunk": TRUNKS}


def main(arguments: list[str] | None = None) -> int:
    """Read the command line and train; 0 done, 1 failed, 2 wrong use."""
    parser = settings_parser(LESSONS, asdict(SlideSettings(out="runs/slide_tumor")), CHOICES, __doc__)
    options = vars(parser.parse_args(arguments))
    is_resumed = options.pop("resume")
    try:
        path = train(SlideSettings(**options), is_resumed=is_resumed)
    except (CheckpointError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"checkpoint: {path}")
    return 0
