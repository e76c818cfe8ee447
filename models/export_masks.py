"""Write trained U-Nets as one graph: `python -m models.export chest_ct_nodules --checkpoint FILE…`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models import card, nodules, policy, repository, volume_card
from models.calibration import ensemble_temperatures
from models.checkpoints import CheckpointError
from models.configuration import WEIGHTS, Release
from models.ensemble_export import ExportError
from models.graphs import OPSET, export_graph
from models.patches import LUNG_HU
from models.serving import open_graph, run_graph
from models.train import commit
from models.train_volume import with_epochs
from models.volume import UNet
from models.volume_graphs import MASK_OUTPUTS, MaskGraph
from models.volume_lessons import SEGMENTER, known_voxels

NAME = SEGMENTER
WINDOW_ZYX = (64, 96, 96)
# Its maps take 0.1 GB for each window.
SERVING = policy.Serving(max_batch_size=4, preferred_batch_sizes=(1, 2, 4))
# float16 weights move a probability of 0.5 at a border by so much at most; measured at each export.
PARITY_TOLERANCE = {"probability": 0.02, "entropy": 0.05, "mutual_information": 0.02}
PARITY_WINDOWS = 2
# No nodule reaches so far from the middle of its cube: these voxels only cost time.
MARGIN = 8
THRESHOLDS = np.linspace(0.05, 0.8, 31)
THRESHOLD_RULE = "highest median Dice on the calibration patients"
CALIBRATION_METHOD = (
    "Temperature scaling of each network on the voxels around held-out nodules, least negative "
    "log-likelihood, then one factor for both, so that their mean is honest. Calibrated where a nodule is "
    "near; far from any, in the rest of the lung, the same probability is right less often."
)

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Trained:
    """A checkpoint read back: the network, and the stages of training that made it."""

    network: UNet
    stages: list[Json]


def read_checkpoint(path: Path) -> Trained:
    """Return a trained U-Net; raises FileNotFoundError and CheckpointError."""
    stored: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    last = stored["stages"][-1]
    if last.get("model") != SEGMENTER:
        raise CheckpointError(f"{path} is no checkpoint of {SEGMENTER}")
    network = UNet(last["width"]).eval()
    network.load_state_dict(stored["weights"])
    return Trained(network, with_epochs(stored))


def export_masks(checkpoints: list[Path], directory: Path, target: Path, version: str) -> None:
    """Calibrate, write the graph, its configuration and card, and prove that it agrees with PyTorch."""
    trained = [read_checkpoint(path) for path in checkpoints]
    networks = [one.network for one in trained]
    held_out_part = min(one.stages[-1]["held_out"] for one in trained)
    kept, held_out = nodules.hold_out(nodules.load_nodules(directory, split="train"), held_out_part)
    temperatures, threshold = calibrate(networks, held_out)
    graph = MaskGraph(networks, temperatures).eval()
    path = target / NAME / "1" / WEIGHTS
    image = {"image": torch.zeros(2, 1, *WINDOW_ZYX, dtype=torch.int16)}
    export_graph(graph, image, MASK_OUTPUTS, path, form="float16")
    differences = measure_parity(graph, path, held_out)
    if any(not value <= PARITY_TOLERANCE[name] for name, value in differences.items()):
        raise ExportError(f"the graph differs from PyTorch by {differences}, allowed {PARITY_TOLERANCE}")
    document = {
        "name": NAME,
        "version": version,
        "notice": card.NOTICE,
        "exported": datetime.now(UTC).date().isoformat(),
        **described(trained, kept, threshold),
        "calibration": {
            "method": CALIBRATION_METHOD,
            "temperature": [round(float(value), 4) for value in temperatures],
            "images": len(held_out),
            "patients": len(np.unique(held_out.groups)),
        },
        "parity": {
            "against": "PyTorch float32, weights as trained",
            "images": PARITY_WINDOWS,
            "largest_difference": differences,
            "tolerance": PARITY_TOLERANCE,
        },
        "opset": OPSET,
        "serving": policy.to_card(SERVING),
        "weights": [{"model": NAME, "file": f"{NAME}/1/{WEIGHTS}", "sha256": repository.file_digest(path)}],
        "metrics": [],
    }
    card.write_card(target / NAME, document)
    repository.write_graph(target, repository.read_graph(target, NAME), Release(version, SERVING))


def described(trained: list[Trained], kept: nodules.Nodules, threshold: float) -> Json:
    """Return what the model is for, what goes in and comes out, and what it was trained on."""
    is_synthetic = any(one.stages[-1].get("cubes") for one in trained)
    return {
        "intended_use": volume_card.MASK_INTENDED_USE,
        "eligibility": volume_card.ELIGIBILITY,
        "input": volume_card.input_part((1, *WINDOW_ZYX), volume_card.MASK_INTENSITY),
        "outputs": volume_card.MASK_OUTPUTS,
        "parameters": [f"networks={len(trained)}", f"spacing_mm={nodules.SPACING_ZYX_MM[0]}"],
        "classes": [volume_card.class_entry("Nodule", threshold, THRESHOLD_RULE)],
        "training": {
            "data": volume_card.training_data(kept, is_synthetic=is_synthetic),
            "exported_at_commit": commit(),
            "members": [volume_card.member(one.stages) for one in trained],
        },
    }


@torch.no_grad()
def calibrate(networks: list[UNet], held_out: nodules.Nodules) -> tuple[NDArray[np.floating], float]:
    """Return the temperature of each network and the threshold with the best median Dice."""
    known = known_voxels(held_out.bounds)
    truth = held_out.masks > 127
    hounsfield = np.where(known, held_out.hounsfield, np.int16(LUNG_HU))
    logits = np.stack([logits_of(network, hounsfield) for network in networks])
    chosen = np.flatnonzero(known.ravel())
    chosen = np.random.default_rng(0).permutation(chosen)[:200_000]
    temperatures = ensemble_temperatures(
        logits.reshape(len(networks), 1, -1)[:, :, chosen], truth.ravel()[chosen]
    )
    scaled = logits / temperatures[:, None, None, None, None]
    probability = (1.0 / (1.0 + np.exp(-scaled))).mean(axis=0)
    medians = [float(np.median(dices(probability > value, truth))) for value in THRESHOLDS]
    best = int(np.argmax(medians))
    print(
        f"temperatures {temperatures}, threshold {THRESHOLDS[best]:.3f}: Dice {medians[best]:.4f}", flush=True
    )
    return temperatures, float(THRESHOLDS[best])


def logits_of(network: UNet, hounsfield: NDArray[np.int16]) -> NDArray[np.float32]:
    """Return logits (n, s, s, s) of cubes (n, s, s, s)."""
    network = network.to(memory_format=torch.channels_last_3d)
    parts = []
    for one in torch.from_numpy(hounsfield).float().split(8):
        shown = one[:, None].contiguous(memory_format=torch.channels_last_3d)
        parts.append(network(shown)[:, 0].numpy())
    return np.concatenate(parts)


def dices(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the Dice coefficient of each pair of masks (n, z, y, x)."""
    places = tuple(range(1, found.ndim))
    sizes = found.sum(axis=places) + truth.sum(axis=places)
    return np.asarray(2.0 * (found & truth).sum(axis=places) / np.maximum(sizes, 1))


@torch.no_grad()
def measure_parity(graph: MaskGraph, path: Path, held_out: nodules.Nodules) -> dict[str, float]:
    """Return the largest difference of each output on held-out nodules, PyTorch against the written graph."""
    windows = np.full((PARITY_WINDOWS, 1, *WINDOW_ZYX), LUNG_HU, dtype=np.int16)
    for window, one in zip(windows[:, 0], held_out.hounsfield, strict=False):
        window[:, : one.shape[1], : one.shape[2]] = one
    served = run_graph(open_graph(path), {"image": windows})
    wanted = graph(torch.from_numpy(windows))
    return {
        name: float(np.abs(served[name] - value.numpy()).max())
        for name, value in zip(MASK_OUTPUTS, wanted, strict=True)
    }
