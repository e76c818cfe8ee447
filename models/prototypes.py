"""Training examples that a network takes for alike: the nearest in its feature space."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models import data
from models.train import Settings, held_out_of

BATCH = 32
# Bodies twice as many: each is there with and without its consolidation.
SYNTHETIC_EXAMPLES = 24

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """What prototypes are taken from: names of the data set, radiographs, and features (n, channels)."""

    names: tuple[str, ...]
    radiographs: data.Radiographs
    features: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Prototype:
    """One near example: pixels (s, s) uint8, its truth in words, and its cosine distance, 0 (alike) to 2."""

    name: str
    truth: str
    distance: float
    pixels: NDArray[np.uint8]


def nearest(examples: Examples, features: Floats, *, group: str, count: int = 3) -> list[Prototype]:
    """Return the `count` examples of other patients than `group` nearest to features (channels)."""
    distances = cosine_distances(examples.features, features)
    # The patient's own images are near for what they show of the patient, not of the finding.
    distances[examples.radiographs.groups == group] = np.inf
    order = [int(index) for index in np.argsort(distances, kind="stable")[:count]]
    return [
        Prototype(
            examples.names[index],
            describe_truth(examples.radiographs.labels[index]),
            float(distances[index]),
            examples.radiographs.pixels[index],
        )
        for index in order
        if np.isfinite(distances[index])
    ]


def cosine_distances(many: Floats, one: Floats) -> Floats:
    """Return 1 − cosine of the angle between each row of many (n, channels) and one (channels)."""
    lengths = np.linalg.norm(many, axis=1) * np.linalg.norm(one)
    return np.asarray(1.0 - many @ one / np.maximum(lengths, 1e-12), dtype=np.float32)


def describe_truth(targets: NDArray[np.float32]) -> str:
    """Return the truth of one radiograph in words, from its targets by class."""
    if np.isnan(targets[0]):
        return "unknown"
    if targets[0] == 0:
        return "normal"
    kinds = [name for name, value in zip(data.CLASSES[1:], targets[1:], strict=True) if value == 1]
    return kinds[0].lower() if kinds else "pneumonia of unknown kind"


def read_examples(
    network: nn.Module, checkpoint: Path, settings: Settings, *, report: Callable[[str], None] = print
) -> Examples:
    """Return the real radiographs that the weights were learned from, below `settings.data`.

    Held-out and tuning patients are left out. The features are kept below runs/, by weights and data. Raises
    DataFolderError.
    """
    kept, _ = data.hold_out(held_out_of(settings, settings.size)[0], settings.tuning, seed=settings.seed)
    patients = set(kept.groups.tolist())
    rows = data.read_rows(Path(settings.data), split="train", dataset=settings.dataset)
    names = tuple(row.file for row in rows if row.group in patients)
    weights = hashlib.sha256(checkpoint.read_bytes()).hexdigest()[:12]
    path = data.CACHE / f"features-{settings.dataset}-{settings.size}-{kept.version}-{weights}.npy"
    if path.is_file():
        return Examples(names, kept, np.load(path))
    features = read_features(network, kept.pixels, report=report)
    data.CACHE.mkdir(parents=True, exist_ok=True)
    np.save(path, features)
    return Examples(names, kept, features)


def synthetic_examples(network: nn.Module, size: int, *, report: Callable[[str], None] = print) -> Examples:
    """Return synthetic thoraxes of the seeds that trainings take theirs from, each body normal and ill.

    Both of a body have one name; their truths tell them apart.
    """
    made = data.synthetic_radiographs(SYNTHETIC_EXAMPLES, size=size, first_seed=data.SYNTHETIC_TRAIN_SEED)
    names = tuple(str(group) for group in made.groups)
    return Examples(names, made, read_features(network, made.pixels, report=report))


@torch.no_grad()
def read_features(
    network: nn.Module, pixels: NDArray[np.uint8], *, report: Callable[[str], None] = print
) -> Floats:
    """Return the features (n, channels) of pixels (n, s, s) uint8; `report` gets a line now and then."""
    device = next(network.parameters()).device
    found: list[Tensor] = []
    for start in range(0, len(pixels), BATCH):
        images = torch.from_numpy(data.to_unit(pixels[start : start + BATCH]))[:, None]
        found.append(network(images.to(device)).features.float().cpu())
        done = start + len(images)
        if done % (16 * BATCH) == 0 or done == len(pixels):
            report(f"features of training examples: {done} of {len(pixels)}")
    return torch.cat(found).numpy()
