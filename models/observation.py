"""What the members of an ensemble say of the pictures that calibrate them."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from models import card, data
from models.augmentation import nudge
from models.calibration import Calibration, ClassCalibration, calibrate_class, choose_threshold
from models.graphs import ViewsGraph, export_graph
from models.radiograph import RadiographNetwork
from models.serving import open_graph, run_in_batches
from models.strangeness import Subspace, fit_standards, fit_subspace, fit_threshold, score

NUDGES = 2
CALIBRATION_SEED = 7
# Features of so many training images make a member's subspace; more change nothing.
EXAMPLES = 800
SYNTHETIC_IMAGES = 120
SYNTHETIC_CALIBRATION_SEED = 300_000

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Pictures:
    """What the members are asked before anything is calibrated; pixels (n, size, size) uint8.

    `examples` are training images. `held_out` and `synthetic` were never trained on; the latter may be empty.
    """

    examples: NDArray[np.uint8]
    held_out: data.Radiographs
    synthetic: NDArray[np.uint8]

    @property
    def asked(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """The examples; and everything never trained on, real images first."""
        return self.examples, np.concatenate([self.held_out.pixels, self.synthetic])


@dataclass(frozen=True, slots=True)
class Observed:
    """What one member says of them.

    Logits (1 + NUDGES, views, classes, n) of the held-out images and of nudged copies of them, strangeness
    (n, parts) of the held-out and then the synthetic images.
    """

    logits: Floats
    strangeness: Floats
    subspace: Subspace


def choose_pictures(kept: data.Radiographs, held_out: data.Radiographs, synthetic: int) -> Pictures:
    """Return what to calibrate on, from the radiographs that were trained on and those held out.

    Synthetic bodies too, but no more than the members were trained on.
    """
    size = held_out.pixels.shape[-1]
    chosen = np.random.default_rng(CALIBRATION_SEED).permutation(len(kept))[:EXAMPLES]
    examples, unseen = kept.pixels[np.sort(chosen)], held_out.pixels[:0]
    if count := min(synthetic, SYNTHETIC_IMAGES):
        known, new = (
            data.synthetic_radiographs(count, size=size, first_seed=seed).pixels
            for seed in (data.SYNTHETIC_TRAIN_SEED, SYNTHETIC_CALIBRATION_SEED)
        )
        examples, unseen = np.concatenate([examples, known]), new
    return Pictures(examples, held_out, unseen)


def observe(network: RadiographNetwork, form: str, pictures: Pictures) -> Observed:
    """Return what a member says of the pictures, its weights stored as they will be served."""
    started, size = time.monotonic(), pictures.held_out.pixels.shape[-1]
    outputs = ("logits", "activation_map", "foreign", "features")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "views.onnx"
        image = {"image": torch.zeros(2, 1, size, size)}
        export_graph(ViewsGraph(network), image, outputs, path, form=form)
        session = open_graph(path)
    examples, plain = (run_in_batches(session, data.to_unit(pixels)) for pixels in pictures.asked)
    images = torch.from_numpy(data.to_unit(pictures.held_out.pixels))[:, None]
    # The same copies for every member.
    random = torch.Generator().manual_seed(CALIBRATION_SEED)
    nudged = [run_in_batches(session, nudge(images, random)[:, 0].numpy()) for _ in range(NUDGES)]
    count = sum(map(len, pictures.asked)) + NUDGES * len(images)
    print(f"{count} pictures in {time.monotonic() - started:.0f} s", flush=True)

    subspace = fit_subspace(examples["features"])
    logits = np.stack([one["logits"][: len(images)] for one in (plain, *nudged)]).transpose(0, 2, 3, 1)
    strangeness = np.column_stack([plain["foreign"], subspace.distance(plain["features"])])
    return Observed(logits, strangeness, subspace)


def calibrate(observed: Sequence[Observed], pictures: Pictures) -> Calibration:
    """Return what the ensemble of these members needs, and print it for each class."""
    held_out = pictures.held_out
    logits = np.stack([one.logits for one in observed])
    classes = []
    for index, name in enumerate(data.CLASSES):
        choose = choose_threshold(card.WANTED_SENSITIVITY[name])
        classes.append(calibrate_class(logits[:, :, :, index], held_out.labels[:, index], choose))
        print(f"{name}: {describe(classes[-1])}", flush=True)
    strangeness = np.stack([one.strangeness for one in observed])
    standards = fit_standards(strangeness)
    scores = score(strangeness, standards)
    threshold = fit_threshold([scores[: len(held_out)], scores[len(held_out) :]])
    print(f"out of distribution: from {threshold:.3f} on", flush=True)
    patients = len(np.unique(held_out.groups))
    return Calibration(tuple(classes), standards, threshold, len(held_out), patients, len(pictures.synthetic))


def describe(fitted: ClassCalibration) -> str:
    """Return what was fitted for a class as text for people."""
    temperatures = ", ".join(f"{value:.3f}" for value in fitted.temperature)
    return (
        f"temperatures {temperatures}; interval constant {fitted.interval_constant:.3f}; "
        f"conformal quantile {fitted.conformal_quantile:.3f}; threshold {fitted.threshold:.3f}"
    )
