"""Write trained networks into the model repository: `python -m models.export chest_xray --checkpoint FILE…`.

The member graphs, the combine graph, the ensemble, their configurations and cards. Calibration is fitted
here, on the training patients that were held out; what is measured on others comes from models.evaluate.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections import Counter
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np
import torch

from models import card, data, policy, repository
from models.calibration import Calibration
from models.checkpoints import CheckpointError
from models.configuration import WEIGHTS, Release, combine_name, member_tensor
from models.graphs import (
    MEMBER_OUTPUTS,
    OPSET,
    OUTPUTS,
    VIEWS,
    Combination,
    CombineGraph,
    MemberGraph,
    export_graph,
)
from models.observation import Observed, calibrate, choose_pictures, observe
from models.radiograph import STRIDE, RadiographNetwork
from models.serving import EnsembleGraphs
from models.train import Settings, commit, held_out_of

NAME = "chest_xray"
COMBINE = combine_name(NAME)
SERVING = policy.Serving()
# A ResNet-50 has three times the weights of a DenseNet-121; int8 makes up for half of that.
FORM_BY_TRUNK = {"densenet121": "float16", "resnet50": "int8"}
# How far the served graphs may be from the networks as trained; measured on held-out images at each export.
PARITY_TOLERANCE = {
    "probability": 0.01,
    "interval": 0.02,
    "activation_map": 0.05,
    "out_of_distribution": 0.05,
}
PARITY_IMAGES = 24


class ExportError(RuntimeError):
    """The exported graphs do not say what the network says, or the networks make no ensemble."""


@dataclass(frozen=True, slots=True)
class Trained:
    """A checkpoint read back."""

    network: RadiographNetwork
    settings: Settings
    stages: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Ensemble:
    """The graphs to write, for images (1, size, size); members and the form of their weights by model."""

    members: dict[str, MemberGraph]
    form_by_member: dict[str, str]
    combine: CombineGraph
    size: int


def read_checkpoint(path: Path) -> Trained:
    """Return the network and what made it; raises FileNotFoundError and CheckpointError."""
    stored: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    names = {field.name for field in fields(Settings)}
    last = Settings(**{name: value for name, value in stored["stages"][-1].items() if name in names})
    network = RadiographNetwork(len(data.CLASSES), trunk=last.trunk).eval()
    try:
        network.load_state_dict(stored["weights"])
    except RuntimeError as error:
        raise CheckpointError(f"{path} is no checkpoint of a {last.trunk}: {error}") from error
    # A run that was stopped early has the settings of a whole one: say how far it came.
    reached = {"epochs_finished": stored["figures"]["epoch"]}
    return Trained(network, last, [*stored["stages"][:-1], stored["stages"][-1] | reached])


def export(checkpoints: list[Path], directory: Path, target: Path, version: str) -> None:
    """Calibrate, write every file of the ensemble below `target`, and prove that the graphs agree."""
    trained = name_members([read_checkpoint(path) for path in checkpoints])
    sizes = {one.settings.size for one in trained.values()}
    if len(sizes) > 1:
        raise ExportError(f"members take images of {sorted(sizes)} pixels, expected one size for all")
    size = sizes.pop()
    settings = [replace(one.settings, data=str(directory)) for one in trained.values()]
    # The patients of a smaller part are also in a larger one: these no member has seen.
    kept, held_out = held_out_of(min(settings, key=lambda one: one.held_out), size)
    synthetic = min(one.synthetic for one in settings)

    pictures = choose_pictures(kept, held_out, synthetic)
    observed = {}
    for name, one in trained.items():
        print(f"{name}: calibrating …", flush=True)
        observed[name] = observe(one.network, FORM_BY_TRUNK[one.settings.trunk], pictures)
    calibration = calibrate(list(observed.values()), pictures)
    ensemble = build(trained, observed, calibration, size)
    write_graphs(ensemble, target, version)
    differences = measure_parity(ensemble, data.to_unit(held_out.pixels[:PARITY_IMAGES]), target)
    too_large = {name: value for name, value in differences.items() if not value <= PARITY_TOLERANCE[name]}
    if too_large:
        raise ExportError(f"served graphs differ from PyTorch by {too_large}, allowed {PARITY_TOLERANCE}")

    document = {
        **card.input_parts(size, list(trained)),
        **card.calibrated_parts(calibration, list(trained)),
        **card.training_parts(
            count_labels(kept), synthetic, commit(), {name: one.stages for name, one in trained.items()}
        ),
        "parity": {
            "against": "PyTorch float32, weights as trained",
            "images": min(PARITY_IMAGES, len(held_out)),
            "largest_difference": differences,
            "tolerance": PARITY_TOLERANCE,
        },
    }
    write_cards(document, list(trained), target, version)
    remove_others(target, {NAME, COMBINE, *trained})


def name_members(trained: list[Trained]) -> dict[str, Trained]:
    """Return the networks by the names of their models: trunk, and a letter for each of the same trunk."""
    seen: Counter[str] = Counter()
    named = {}
    for one in trained:
        trunk = one.settings.trunk
        named[f"{NAME}_{trunk}_{ascii_lowercase[seen[trunk]]}"] = one
        seen[trunk] += 1
    return named


def build(
    trained: dict[str, Trained], observed: dict[str, Observed], calibration: Calibration, size: int
) -> Ensemble:
    """Return the graphs with everything that was fitted."""
    classes = calibration.classes
    members = {
        name: MemberGraph(
            one.network, [fitted.temperature[index] for fitted in classes], observed[name].subspace
        )
        for index, (name, one) in enumerate(trained.items())
    }
    combination = Combination(
        interval_constant=[fitted.interval_constant for fitted in classes],
        conformal_quantile=[fitted.conformal_quantile for fitted in classes],
        strangeness_mean=calibration.standards.mean,
        strangeness_deviation=calibration.standards.deviation,
    )
    forms = {name: FORM_BY_TRUNK[one.settings.trunk] for name, one in trained.items()}
    return Ensemble(members, forms, CombineGraph(combination), size)


def write_graphs(ensemble: Ensemble, target: Path, version: str) -> None:
    """Write the ONNX files and the configurations of members, combine graph and ensemble."""
    classes, side = len(data.CLASSES), ensemble.size // STRIDE
    image = {"image": [1, ensemble.size, ensemble.size]}
    answers = {"logits": [VIEWS, classes], "activation_map": [classes, side, side], "strangeness": [2]}
    joined = {
        member_tensor(output, name): answers[output] for output in MEMBER_OUTPUTS for name in ensemble.members
    }
    for name, member in ensemble.members.items():
        form = ensemble.form_by_member[name]
        export_graph(member, zeros(image), MEMBER_OUTPUTS, weights_path(target, name), form=form)
    export_graph(ensemble.combine, zeros(joined), OUTPUTS, weights_path(target, COMBINE))
    repository.write_ensemble(target, NAME, list(ensemble.members), Release(version, SERVING))


def weights_path(target: Path, name: str) -> Path:
    """Return where a graph goes; its folder is there."""
    path = target / name / "1" / WEIGHTS
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def zeros(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """Return a batch of two for each input: a batch of one would become a constant of the graph."""
    return {name: torch.zeros(2, *shape) for name, shape in shapes.items()}


@torch.no_grad()
def measure_parity(ensemble: Ensemble, images: np.ndarray, target: Path) -> dict[str, float]:
    """Return the largest difference of outputs for images (n, size, size), PyTorch against served graphs."""
    served = EnsembleGraphs(target, NAME).infer(list(images))
    shown = torch.from_numpy(images)[:, None]
    answers = zip(*(member.eval()(shown) for member in ensemble.members.values()), strict=True)
    wanted = ensemble.combine.eval()(*(tensor for output in answers for tensor in output))
    return {
        name: float(np.abs(served[name] - value.numpy()).max())
        for name, value in zip(OUTPUTS, wanted, strict=True)
        if name in PARITY_TOLERANCE
    }


def count_labels(radiographs: data.Radiographs) -> dict[str, int]:
    """Return the numbers of images by truth, and of patients."""
    labels = radiographs.labels
    return {
        "images": len(radiographs),
        "normal": int((labels[:, 0] == 0).sum()),
        "bacterial": int((labels[:, 1] == 1).sum()),
        "viral": int((labels[:, 2] == 1).sum()),
        "patients": len(np.unique(radiographs.groups)),
    }


def write_cards(document: card.Json, members: list[str], target: Path, version: str) -> None:
    """Write the cards; the ensemble's has no metrics until models.evaluate --write-card adds them."""
    common = {"version": version, "notice": card.NOTICE, "exported": datetime.now(UTC).date().isoformat()}
    weights = []
    for name in (*members, COMBINE):
        digest = repository.file_digest(target / name / "1" / WEIGHTS)
        weights.append({"model": name, "file": f"{name}/1/{WEIGHTS}", "sha256": digest})
        role = {"name": name, "part_of": NAME, **common, "sha256": digest, "opset": OPSET}
        card.write_card(target / name, role)
    described = {"name": NAME, **common, "intended_use": card.INTENDED_USE, "eligibility": card.ELIGIBILITY}
    parts = {"serving": policy.to_card(SERVING), "weights": weights, "metrics": []}
    card.write_card(target / NAME, {**described, **document, **parts})


def remove_others(target: Path, written: set[str]) -> None:
    """Remove members of an earlier ensemble, which would be shipped and never asked."""
    for folder in target.glob(f"{NAME}_*"):
        if folder.name not in written and card.read_card(folder).get("part_of") == NAME:
            shutil.rmtree(folder)


def main(arguments: list[str] | None = None) -> int:
    """Read the command line and export; 0 done, 1 failed, 2 wrong use."""
    parser = argparse.ArgumentParser(prog="python -m models.export", description=__doc__)
    parser.add_argument("model", choices=[NAME])
    parser.add_argument("--checkpoint", type=Path, required=True, nargs="+", help="one for each member")
    parser.add_argument(
        "--data", type=Path, required=True, help="the folder it was trained on (for calibration)"
    )
    parser.add_argument("--repository", type=Path, default=Path("triton_repo"))
    parser.add_argument("--version", default="2.0.0")
    options = parser.parse_args(arguments)
    try:
        export(options.checkpoint, options.data, options.repository, options.version)
    except (data.DataFolderError, CheckpointError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ExportError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(
        f"written: {options.repository / NAME}; now: python -m models.evaluate {NAME} --data DIR --write-card"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
