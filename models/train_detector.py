"""Train a detector of lesions: `python -m models.train chest_xray_yolo --out DIR`."""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models import froc
from models.checkpoints import CheckpointError
from models.data import DataFolderError
from models.detector import BACKBONES, LESIONS, LUNGS, FasterRcnn, Truth, YoloDetector
from models.detector_data import Film
from models.detector_graphs import detector_graph
from models.detector_lessons import (
    FASTER_RCNN,
    KINDS,
    YOLO,
    DetectorSettings,
    detector_loss,
    make_detector,
)
from models.detector_metrics import Boxes, best_overlaps, matched, mean_average_precision
from models.detector_sets import training_films, tuning_films
from models.detector_views import Fright, epoch_batches, show, show_batch, truth_of
from models.planting import draw_patches
from models.train import Run, choose_device, commit, settings_parser, update_average
from models.train_kinds import train_kinds

LESSONS = (FASTER_RCNN, YOLO, KINDS)
CHOICES = {"backbone": tuple(BACKBONES)}
AT_ONCE = 8
# So many films without a lesion are looked at after each epoch for what deceives: all would take too long.
LOOKED_AT = 300
# So many whole films tell what the layers' statistics are: those of pieces differ.
SETTLED_ON = 64
# False positives per image at which the printed sensitivity is taken.
POINT = 0.5


def train(settings: DetectorSettings, *, is_resumed: bool = False) -> Path:
    """Train as the settings say; return the checkpoint to export (averaged weights).

    It is that of the last epoch, with `patience` that of the best one. Raises FileNotFoundError where there
    is nothing to resume or to start from, CheckpointError and DataFolderError.
    """
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    device = choose_device(settings.device)

    # Data: synthetic films with lesions, and real ones with what is known of them.
    films, tuned = training_films(settings), tuning_films(settings)
    patches = draw_patches(settings.patches, settings.seed) if settings.planted else []
    print(f"train {len(films)} films, {sum(len(one.boxes) for one in films)} boxes", flush=True)

    # Model, and its moving average, which is what is kept.
    network = make_detector(settings).to(device, memory_format=layout(settings))
    stages = load_start(network, settings) if settings.init else []
    average = copy.deepcopy(network).eval()

    # Optimizer: one cycle of the learning rate over all steps.
    fright = Fright.none(len(films))
    steps = settings.epochs * len(epoch_batches(films, fright, settings, torch.Generator()))
    optimizer = torch.optim.AdamW(
        network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=max(steps, 20), pct_start=0.1, div_factor=20
    )
    stages = [*stages, asdict(settings) | {"commit": commit(), "films_shown": len(films)}]
    parts = {"network": network, "average": average, "optimizer": optimizer, "schedule": schedule}
    run = Run(settings, stages, {**parts, "fright": fright})
    if is_resumed:
        run.resume()
    while not run.is_over:
        started, total = time.monotonic(), 0.0
        # Seeded anew by the epoch: a resumed run then goes the way of one that was never interrupted.
        torch.manual_seed(settings.seed + 1000 * run.epoch)
        random = torch.Generator().manual_seed(settings.seed + 1000 * run.epoch)
        network.train()
        batches = epoch_batches(films, fright, settings, random)
        for batch in batches:
            loss = step(network, show_batch(films, batch, patches, settings, random), settings, device)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 10.0)
            optimizer.step()
            schedule.step()
            run.step += 1
            update_average(average, network, min(settings.ema_decay, (1 + run.step) / (10 + run.step)))
            total += loss.item() / len(batches)
        if settings.crop:
            settle(average, films, settings, random)
        if settings.mined and run.epoch + 1 < settings.epochs:
            frighten(fright, average, films, settings, random)
        run.finish_epoch(total, score(average, tuned, settings), time.monotonic() - started)
    return run.best_path if settings.patience else run.last_path


def step(
    network: FasterRcnn | YoloDetector,
    shown: tuple[Tensor, list[Truth]],
    settings: DetectorSettings,
    device: torch.device,
) -> Tensor:
    """Return the loss of images and what is known of them."""
    images, truths = shown
    truths = [one._replace(boxes=one.boxes.to(device), labels=one.labels.to(device)) for one in truths]
    return detector_loss(network, images.to(device, memory_format=layout(settings)), truths)


def layout(settings: DetectorSettings) -> torch.memory_format:
    """Return how images and weights lie in memory: colors last is a fifth faster, where it is safe.

    Of a strided convolution of 1 × 1 with fewer than 16 channels PyTorch 2.14 then writes past the end of
    the gradient on a CPU, and the process dies.
    """
    is_safe = settings.width >= 16 and settings.width % 8 == 0
    return torch.channels_last if is_safe else torch.contiguous_format


@torch.no_grad()
def settle(
    network: FasterRcnn | YoloDetector,
    films: Sequence[Film],
    settings: DetectorSettings,
    random: torch.Generator,
) -> None:
    """Give the layers that normalize the statistics of whole films: a network that serves meets no pieces."""
    layers = [one for one in network.modules() if isinstance(one, nn.BatchNorm2d)]
    momenta = [one.momentum for one in layers]
    for one in layers:
        one.reset_running_stats()
        # None is the plain mean over all batches.
        one.momentum = None
    network.train()
    read = network.features if isinstance(network, FasterRcnn) else network
    for part in torch.randperm(len(films), generator=random)[:SETTLED_ON].split(settings.batch):
        images, _ = show([films[int(one)] for one in part], settings.strength, random)
        read(images.to(next(network.parameters()).device))
    network.eval()
    for one, momentum in zip(layers, momenta, strict=True):
        one.momentum = momentum


def frighten(
    fright: Fright,
    network: FasterRcnn | YoloDetector,
    films: Sequence[Film],
    settings: DetectorSettings,
    random: torch.Generator,
) -> None:
    """Look at some of the films known to have no lesion, and note what a network takes for one."""
    empty = [
        number
        for number, film in enumerate(films)
        if film.is_lesion_labelled and not np.isin(film.labels, LESIONS).any()
    ]
    chosen = [empty[one] for one in torch.randperm(len(empty), generator=random)[:LOOKED_AT].tolist()]
    found = detect(network, [films[number] for number in chosen], settings)
    for number, one in zip(chosen, found, strict=True):
        lesions = one.of(LESIONS)
        fright.values[number] = float(lesions.scores.max(initial=0.0))
        if len(lesions.boxes):
            corners = torch.from_numpy(lesions.boxes[lesions.scores.argmax()]).reshape(2, 2)
            fright.places[number] = corners.mean(dim=0)


@torch.no_grad()
def detect(
    network: FasterRcnn | YoloDetector, films: Sequence[Film], settings: DetectorSettings
) -> list[Boxes]:
    """Return what a network finds on films as they are, by the graph that is served, not calibrated."""
    device = next(network.parameters()).device
    graph = detector_graph(network, settings.size).to(device)
    found = []
    for start in range(0, len(films), AT_ONCE):
        images, _ = show(films[start : start + AT_ONCE], 0.0, torch.Generator())
        found += to_boxes(*(one.cpu().numpy() for one in graph(images.to(device))))
    return found


def to_boxes(
    boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, kinds: np.ndarray | None = None
) -> list[Boxes]:
    """Return the boxes of each image without the padding, of the outputs of a detector's graph."""
    return [
        Boxes(
            own[there > 0],
            said[there > 0],
            there[there > 0],
            None if kinds is None else kinds[index][there > 0],
        )
        for index, (own, there, said) in enumerate(zip(boxes, scores, labels, strict=True))
    ]


def truths_of(films: Sequence[Film]) -> list[Boxes]:
    """Return the truths of films."""
    told = [truth_of(film) for film in films]
    return [Boxes.truth(one.boxes.numpy(), one.labels.numpy()) for one in told]


def score(
    network: FasterRcnn | YoloDetector, films: Sequence[Film], settings: DetectorSettings
) -> dict[str, float]:
    """Return mAP of lesions at 0.5, sensitivity at 0.5 false per image and mean IoU of lungs; 0 if none."""
    figures = dict.fromkeys(("lesion_map_50", "lesion_sensitivity", "lung_overlap"), float("nan"))
    told = [film for film in films if film.is_lesion_labelled]
    if told:
        found, truths = detect(network, told, settings), truths_of(told)
        figures["lesion_map_50"] = mean_average_precision(found, truths, LESIONS, overlaps=(0.5,))
        figures["lesion_sensitivity"] = froc.sensitivities(matched(found, truths, LESIONS), [POINT])[0]
    lungs = [film for film in films if film.is_lung_labelled]
    if lungs:
        found, truths = detect(network, lungs, settings), truths_of(lungs)
        each = np.concatenate([best_overlaps(found, truths, label) for label in LUNGS])
        figures["lung_overlap"] = float(each.mean()) if len(each) else float("nan")
    return {name: round(float(np.nan_to_num(value)), 4) for name, value in figures.items()}


def load_start(network: FasterRcnn | YoloDetector, settings: DetectorSettings) -> list[dict[str, Any]]:
    """Give a network the weights of a checkpoint of its kind; return the stages that made them."""
    trained, stages, _ = read_checkpoint(Path(settings.init))
    try:
        network.load_state_dict(trained.state_dict())
    except RuntimeError as error:
        raise CheckpointError(f"{settings.init} is of another form than {settings.model}: {error}") from error
    return stages


def read_checkpoint(
    path: Path,
) -> tuple[FasterRcnn | YoloDetector, list[dict[str, Any]], DetectorSettings]:
    """Return a trained network, its stages and settings; raises FileNotFoundError and CheckpointError."""
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    stored: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    last = stored.get("stages", [{}])[-1]
    if last.get("model") not in (FASTER_RCNN, YOLO):
        raise CheckpointError(f"{path} is no checkpoint of {FASTER_RCNN} or {YOLO}")
    names = {field.name for field in fields(DetectorSettings)}
    settings = DetectorSettings(**{name: value for name, value in last.items() if name in names})
    network = make_detector(settings).eval()
    try:
        network.load_state_dict(stored["weights"])
    except RuntimeError as error:
        raise CheckpointError(f"{path} is no whole training of {settings.model}: {error}") from error
    # A run that was stopped early has the settings of a whole one: say how far it came.
    reached = {"epochs_finished": stored["figures"]["epoch"]}
    return network, [*stored["stages"][:-1], last | reached], settings


def main(arguments: list[str] | None = None) -> int:
    """Read the command line and train; 0 done, 1 failed, 2 wrong use."""
    parser = settings_parser(LESSONS, asdict(DetectorSettings(out="")), CHOICES, __doc__)
    options = vars(parser.parse_args(arguments))
    is_resumed = options.pop("resume")
    if is_resumed and options["model"] == KINDS:
        parser.error(f"{KINDS} takes minutes and is trained from the start")
    options["out"] = options["out"] or f"runs/{options['model']}"
    try:
        settings = DetectorSettings(**options)
        path = train_kinds(settings) if settings.model == KINDS else train(settings, is_resumed=is_resumed)
    except (CheckpointError, DataFolderError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"checkpoint: {path}")
    return 0
