"""Write the graphs, configurations and cards of an ensemble, and prove that the graphs agree with PyTorch."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from models import card, policy, repository
from models.calibration import Calibration
from models.configuration import WEIGHTS, Release, member_tensor
from models.graphs import (
    MEMBER_OUTPUTS,
    OPSET,
    OUTPUTS,
    Combination,
    CombineGraph,
    MemberGraph,
    export_graph,
)
from models.observation import Observed, Pictures, calibrate, observe
from models.serving import EnsembleGraphs
from models.tasks import Task

PARITY_IMAGES = 24
STRANGENESS_MEASURES = 2


class ExportError(RuntimeError):
    """The exported graphs do not say what the network says, or the networks make no ensemble."""


@dataclass(frozen=True, slots=True)
class Member:
    """A trained network with its kind and the stages of training that made it."""

    network: nn.Module
    trunk: str
    stages: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Ensemble:
    """The graphs to write; members and the form of their weights by model."""

    task: Task
    members: dict[str, MemberGraph]
    form_by_member: dict[str, str]
    combine: CombineGraph


def export_ensemble(
    task: Task, trained: Mapping[str, Member], pictures: Pictures, target: Path, version: str
) -> tuple[Calibration, card.Json]:
    """Calibrate, write every graph and configuration below `target`, and prove that the graphs agree.

    Return what was fitted and the part of the card that says how far they agree; the cards themselves come
    from write_cards. Raises ExportError where they differ by more than the task allows.
    """
    observed = {}
    for name, one in trained.items():
        print(f"{name}: calibrating …", flush=True)
        observed[name] = observe(one.network, task.form_by_trunk[one.trunk], pictures, task.mirrors)
    calibration = calibrate(list(observed.values()), pictures, task.classes)
    ensemble = build(task, trained, observed, calibration)
    write_graphs(ensemble, target, version)
    images = pictures.prepare(pictures.held_out[:PARITY_IMAGES])
    differences = measure_parity(ensemble, images, target)
    allowed = dict(task.parity_tolerance)
    if too_large := {name: value for name, value in differences.items() if not value <= allowed[name]}:
        raise ExportError(f"served graphs differ from PyTorch by {too_large}, allowed {allowed}")
    return calibration, {
        "against": "PyTorch float32, weights as trained",
        "images": len(images),
        "largest_difference": differences,
        "tolerance": allowed,
    }


def name_members(task_name: str, trained: list[Member]) -> dict[str, Member]:
    """Return the networks by the names of their models: trunk, and a letter for each of the same trunk."""
    seen: Counter[str] = Counter()
    named = {}
    for one in trained:
        trunk = one.trunk
        named[f"{task_name}_{trunk}_{ascii_lowercase[seen[trunk]]}"] = one
        seen[trunk] += 1
    return named


def build(
    task: Task,
    trained: Mapping[str, Member],
    observed: Mapping[str, Observed],
    calibration: Calibration,
) -> Ensemble:
    """Return the graphs with everything that was fitted."""
    classes = calibration.classes
    members = {
        name: MemberGraph(
            one.network,
            [fitted.temperature[index] for fitted in classes],
            observed[name].subspace,
            task.mirrors,
        )
        for index, (name, one) in enumerate(trained.items())
    }
    combination = Combination(
        interval_constant=[fitted.interval_constant for fitted in classes],
        conformal_quantile=[fitted.conformal_quantile for fitted in classes],
        strangeness_mean=calibration.standards.mean,
        strangeness_deviation=calibration.standards.deviation,
    )
    forms = {name: task.form_by_trunk[one.trunk] for name, one in trained.items()}
    return Ensemble(task, members, forms, CombineGraph(combination))


def write_graphs(ensemble: Ensemble, target: Path, version: str) -> None:
    """Write the ONNX files and the configurations of members, combine graph and ensemble."""
    task = ensemble.task
    classes = len(task.classes)
    shapes = {
        "logits": (len(task.mirrors), classes),
        "activation_map": (classes, *task.map_shape),
        "strangeness": (STRANGENESS_MEASURES,),
    }
    joined = {
        member_tensor(output, name): shapes[output] for output in MEMBER_OUTPUTS for name in ensemble.members
    }
    image = {"image": torch.zeros(2, *task.image_shape, dtype=task.image_type)}
    for name, member in ensemble.members.items():
        form = ensemble.form_by_member[name]
        export_graph(member, image, MEMBER_OUTPUTS, weights_path(target, name), form=form)
    export_graph(ensemble.combine, zeros(joined), OUTPUTS, weights_path(target, task.combine))
    repository.write_ensemble(target, task.name, list(ensemble.members), Release(version, task.serving))


def weights_path(target: Path, name: str) -> Path:
    """Return where a graph goes; its folder is there."""
    path = target / name / "1" / WEIGHTS
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def zeros(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Return a batch of two for each input: a batch of one would become a constant of the graph."""
    return {name: torch.zeros(2, *shape) for name, shape in shapes.items()}


@torch.no_grad()
def measure_parity(ensemble: Ensemble, images: NDArray[Any], target: Path) -> dict[str, float]:
    """Return the largest difference of outputs for images (n, …), PyTorch against the served graphs."""
    served = EnsembleGraphs(target, ensemble.task.name).infer(list(images))
    shown = torch.from_numpy(images)[:, None]
    answers = zip(*(member.eval()(shown) for member in ensemble.members.values()), strict=True)
    wanted = ensemble.combine.eval()(*(tensor for output in answers for tensor in output))
    return {
        name: float(np.abs(served[name] - value.numpy()).max())
        for name, value in zip(OUTPUTS, wanted, strict=True)
        if name in ensemble.task.parity_tolerance
    }


def write_cards(task: Task, document: card.Json, members: list[str], target: Path, version: str) -> None:
    """Write the cards; the ensemble's has no metrics until models.evaluate --write-card adds them."""
    common = {"version": version, "notice": card.NOTICE, "exported": datetime.now(UTC).date().isoformat()}
    weights = []
    for name in (*members, task.combine):
        digest = repository.file_digest(target / name / "1" / WEIGHTS)
        weights.append({"model": name, "file": f"{name}/1/{WEIGHTS}", "sha256": digest})
        role = {"name": name, "part_of": task.name, **common, "sha256": digest, "opset": OPSET}
        card.write_card(target / name, role)
    described = {"name": task.name, **common}
    parts = {"serving": policy.to_card(task.serving), "weights": weights, "metrics": []}
    card.write_card(target / task.name, {**described, **document, **parts})
    remove_others(target, task.name, {task.name, task.combine, *members})


def remove_others(target: Path, name: str, written: set[str]) -> None:
    """Remove members of an earlier ensemble, which would be shipped and never asked."""
    for folder in target.glob(f"{name}_*"):
        if folder.name not in written and card.read_card(folder).get("part_of") == name:
            shutil.rmtree(folder)
