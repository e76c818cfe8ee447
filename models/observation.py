"""What the members of an ensemble say of the pictures that calibrate them."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models import card, data
from models.augmentation import nudge
from models.calibration import Calibration, ClassCalibration, calibrate_class, choose_threshold
from models.graphs import MIRRORED_LEFT_RIGHT, Mirrors, ViewsGraph, export_graph
from models.serving import open_graph, run_in_batches
from models.strangeness import Subspace, fit_standards, fit_subspace, fit_threshold, score

NUDGES = 2
CALIBRATION_SEED = 7
# Features of so many training images make a member's subspace; more change nothing.
EXAMPLES = 800
SYNTHETIC_IMAGES = 120
SYNTHETIC_CALIBRATION_SEED = 300_000

Floats = NDArray[np.float32]
Pixels = NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """What the members are asked before anything is calibrated; pixels (n, …) as they are kept.

    `examples` are training images. `held_out` and `synthetic` were never trained on; the latter may be empty.
    `labels` (n, classes; NaN is unknown) and `groups` are those of the held-out images, and of the synthetic
    ones after them where their truth is of the kind that calibrates. `prepare` makes of pixels what a
    network takes, `nudge` slightly changed copies of that (n, 1, …).
    """

    examples: Pixels
    held_out: Pixels
    labels: Floats
    groups: NDArray[np.str_]
    synthetic: Pixels
    prepare: Callable[[Pixels], NDArray[np.generic]]
    nudge: Callable[[Tensor, torch.Generator], Tensor]

    @property
    def asked(self) -> tuple[Pixels, Pixels]:
        """The examples; and everything never trained on, real images first."""
        return self.examples, np.concatenate([self.held_out, self.synthetic])


@dataclass(frozen=True, slots=True)
class Observed:
    """What one member says of them.

    Logits (1 + NUDGES, views, classes, n) of the images with labels and of nudged copies of them, strangeness
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
    return Pictures(examples, held_out.pixels, held_out.labels, held_out.groups, unseen, data.to_unit, nudge)


def observe(
    network: nn.Module, form: str, pictures: Pictures, mirrors: Mirrors = MIRRORED_LEFT_RIGHT
) -> Observed:
    """Return what a member says of the pictures, its weights stored as they will be served."""
    started = time.monotonic()
    shown, unseen = pictures.asked
    images = torch.from_numpy(pictures.prepare(unseen[: len(pictures.labels)]))[:, None]
    outputs = ("logits", "activation_map", "foreign", "features")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "views.onnx"
        image = {"image": torch.zeros_like(images[:1]).repeat(2, *[1] * (images.ndim - 1))}
        export_graph(ViewsGraph(network, mirrors), image, outputs, path, form=form)
        session = open_graph(path)
    examples, plain = (run_in_batches(session, pictures.prepare(pixels)) for pixels in (shown, unseen))
    # The same copies for every member.
    random = torch.Generator().manual_seed(CALIBRATION_SEED)
    nudged = [run_in_batches(session, pictures.nudge(images, random)[:, 0].numpy()) for _ in range(NUDGES)]
    count = len(shown) + len(unseen) + NUDGES * len(images)
    print(f"{count} pictures in {time.monotonic() - started:.0f} s", flush=True)

    subspace = fit_subspace(examples["features"])
    logits = np.stack([one["logits"][: len(images)] for one in (plain, *nudged)]).transpose(0, 2, 3, 1)
    strangeness = np.column_stack([plain["foreign"], subspace.distance(plain["features"])])
    return Observed(logits, strangeness, subspace)


def calibrate(
    observed: Sequence[Observed], pictures: Pictures, names: Sequence[str] = data.CLASSES
) -> Calibration:
    """Return what the ensemble of these members needs for the named classes, and print it for each."""
    held_out = pictures.held_out
    logits = np.stack([one.logits for one in observed])
    classes = []
    for index, name in enumerate(names):
        choose = choose_threshold(card.WANTED_SENSITIVITY[name])
        classes.append(calibrate_class(logits[:, :, :, index], pictures.labels[:, index], choose))
        print(f"{name}: {describe(classes[-1])}", flush=True)
    strangeness = np.stack([one.strangeness for one in observed])
    standards = fit_standards(strangeness)
    scores = score(strangeness, standards)
    threshold = fit_threshold([scores[: len(held_out)], scores[len(held_out) :]])
    print(f"out of distribution: from {threshold:.3f} on", flush=True)
    patients = len(np.unique(pictures.groups))
    return Calibration(tuple(classes), standards, threshold, len(held_out), patients, len(pictures.synthetic))


def describe(fitted: ClassCalibration) -> str:
    """Return what was fitted for a class as text for people."""
    temperatures = ", ".join(f"{value:.3f}" for value in fitted.temperature)
    return (
        f"temperatures {temperatures}; interval constant {fitted.interval_constant:.3f}; "
        f"conformal quantile {fitted.conformal_quantile:.3f}; threshold {fitted.threshold:.3f}"
    )
