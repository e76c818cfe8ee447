"""Write trained networks into the model repository: `python -m models.export chest_xray --checkpoint FILE…`.

The member graphs, the combine graph, the ensemble, their config.pbtxt and cards. Calibration is fitted here,
on the training patients that were held out; what is measured on other patients comes from models.evaluate.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit

from models import calibration, card, data, metrics, repository
from models.augmentation import nudge
from models.graphs import OPSET, CombineGraph, MemberGraph, export_graph
from models.radiograph import RadiographNetwork
from models.serving import EnsembleGraphs, open_graph, run_graph
from models.train import Settings, commit, held_out_of

NAME = "chest_xray"
COMBINE = "chest_xray_combine"
VIEWS = 2
NUDGES = 4
CALIBRATION_SEED = 7
# How each class's threshold is chosen: at least this sensitivity, or (None) by Youden's index.
WANTED_SENSITIVITY: dict[str, float | None] = {
    "Pneumonia": 0.95,
    "Bacterial pneumonia": None,
    "Viral pneumonia": None,
}
# float16 weights move a probability by less than this; seen on the held-out images at each export.
PARITY_TOLERANCE = 0.01

Floats = NDArray[np.float32]


class ExportError(RuntimeError):
    """The exported graphs do not say what the network says."""


@dataclass(frozen=True, slots=True)
class Trained:
    """A checkpoint read back."""

    network: RadiographNetwork
    settings: Settings
    stages: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Fitted:
    """What was fitted on the held-out patients, one value per class."""

    calibration: calibration.Calibration
    thresholds: tuple[float, ...]
    coverage: tuple[float, ...]
    images: int
    patients: int


def read_checkpoint(path: Path) -> Trained:
    """Return the network and what made it; raises FileNotFoundError."""
    stored: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    names = {field.name for field in fields(Settings)}
    last = Settings(**{name: value for name, value in stored["stages"][-1].items() if name in names})
    network = RadiographNetwork(len(data.CLASSES), trunk=last.trunk).eval()
    network.load_state_dict(stored["weights"])
    return Trained(network, last, stored["stages"])


def export(checkpoints: list[Path], directory: Path, target: Path, version: str) -> None:
    """Calibrate, write every file of the ensemble below `target`, and prove that the graphs agree."""
    trained = [read_checkpoint(path) for path in checkpoints]
    sizes = {one.settings.size for one in trained}
    if len(sizes) > 1:
        raise ExportError(f"members take images of {sorted(sizes)} pixels, expected one size for all")
    size = sizes.pop()
    kept, held_out = held_out_of(replace(trained[0].settings, data=str(directory)), size)

    fitted = fit([one.network for one in trained], held_out, size)
    members = {
        f"{NAME}_{one.settings.trunk}_{letter}": MemberGraph(one.network, temperature)
        for letter, one, temperature in zip(
            ascii_lowercase, trained, fitted.calibration.temperature, strict=False
        )
    }
    combine = CombineGraph(fitted.calibration.interval_constant)
    write_graphs(members, combine, target, size)
    difference = parity(members, combine, held_out, target)
    if not difference <= PARITY_TOLERANCE:
        raise ExportError(f"probabilities differ by {difference:.4f}, expected at most {PARITY_TOLERANCE}")
    write_cards(
        dict(zip(members, trained, strict=True)), fitted, kept, target, version=version, parity=difference
    )


def fit(networks: list[RadiographNetwork], held_out: data.Radiographs, size: int) -> Fitted:
    """Return temperatures, interval constants and thresholds from the held-out patients."""
    images = torch.from_numpy(data.to_unit(held_out.pixels))[:, None]
    generator = torch.Generator().manual_seed(CALIBRATION_SEED)
    pictures = [images, *(nudge(images, generator) for _ in range(NUDGES))]
    # By member, picture, image, view, class.
    logits = np.stack([uncalibrated_logits(network, pictures, size) for network in networks])

    temperatures, constants, thresholds, coverage = [], [], [], []
    for index, name in enumerate(data.CLASSES):
        labels = held_out.labels[:, index]
        is_known = ~np.isnan(labels)
        pooled = np.tile(labels[is_known, None], (1, VIEWS))
        of_class = logits[..., index]
        by_member = [calibration.fit_temperature(one[0][is_known], pooled) for one in of_class]
        calibrated = of_class / np.array(by_member)[:, None, None, None]
        # Members and views are one axis from here on: (picture, member and view, image).
        calibrated = calibrated.transpose(1, 0, 3, 2).reshape(len(pictures), -1, len(held_out))
        views, changed = calibrated[0], np.stack([calibration.mean_logit(one) for one in calibrated[1:]])
        temperatures.append(by_member)
        constants.append(calibration.fit_interval_constant(views, changed))
        coverage.append(calibration.interval_coverage(views, changed, constants[-1]))
        thresholds.append(choose_threshold(name, labels[is_known] == 1, expit(views).mean(axis=0)[is_known]))
    by_member_and_class = tuple(zip(*temperatures, strict=True))
    fitted = calibration.Calibration(by_member_and_class, tuple(constants))
    patients = len(np.unique(held_out.groups))
    return Fitted(fitted, tuple(thresholds), tuple(coverage), len(held_out), patients)


def uncalibrated_logits(network: RadiographNetwork, pictures: list[torch.Tensor], size: int) -> Floats:
    """Return the logits (picture, image, view, class) that a member gives before its temperature is known."""
    path = Path("runs/export/uncalibrated.onnx")
    graph, image = MemberGraph(network, [1.0] * len(data.CLASSES)), torch.zeros(2, 1, size, size)
    export_graph(graph, {"image": image}, ["logits", "activation_map"], path, is_half_stored=True)
    session = open_graph(path)
    return np.stack(
        [
            np.concatenate(
                [run_graph(session, {"image": part.numpy()})["logits"] for part in images.split(8)]
            )
            for images in pictures
        ]
    )


def choose_threshold(name: str, truth: NDArray[np.bool_], probability: Floats) -> float:
    """Return a class's threshold by WANTED_SENSITIVITY."""
    wanted = WANTED_SENSITIVITY[name]
    if wanted is None:
        return metrics.threshold_by_youden(truth, probability)
    return metrics.threshold_at_sensitivity(truth, probability, wanted)


def write_graphs(members: dict[str, MemberGraph], combine: CombineGraph, target: Path, size: int) -> None:
    """Write the ONNX files and the config.pbtxt of members, combine graph and ensemble."""
    classes, side = len(data.CLASSES), size // 32
    answers = {"logits": [VIEWS, classes], "activation_map": [classes, side, side]}
    joined = {f"{key}_{repository.suffix(name)}": answers[key] for key in answers for name in members}
    results = {
        "probability": [classes],
        "spread": [classes],
        "interval": [classes, 2],
        "entropy": [classes],
        "mutual_information": [classes],
        "activation_map": answers["activation_map"],
    }
    for name, member in members.items():
        folder = repository.write_config(
            target, repository.graph_config(name, {"image": [1, size, size]}, answers)
        )
        inputs = {"image": torch.zeros(2, 1, size, size)}
        export_graph(member, inputs, list(answers), folder / "1" / "model.onnx", is_half_stored=True)
    folder = repository.write_config(target, repository.graph_config(COMBINE, joined, results))
    inputs = {tensor: torch.zeros(2, *shape) for tensor, shape in joined.items()}
    export_graph(combine, inputs, list(results), folder / "1" / "model.onnx", is_half_stored=False)
    folder = repository.write_config(
        target, repository.ensemble_config(NAME, list(members), COMBINE, results, size)
    )
    # Triton wants a version folder for an ensemble too, and git keeps no empty one.
    (folder / "1" / ".gitkeep").touch()


def parity(
    members: dict[str, MemberGraph], combine: CombineGraph, held_out: data.Radiographs, target: Path
) -> float:
    """Return the largest difference of a probability, interval bound or map value, PyTorch against ONNX."""
    images = data.to_unit(held_out.pixels[:24])
    served = EnsembleGraphs(target, NAME).infer(list(images))
    with torch.no_grad():
        answers = [member.eval()(torch.from_numpy(images)[:, None]) for member in members.values()]
        joined = combine.eval()(
            *(logits for logits, _ in answers), *(activation for _, activation in answers)
        )
    probability, _, interval, _, _, activation = (answer.numpy() for answer in joined)
    wanted = {"probability": probability, "interval": interval, "activation_map": activation}
    return max(float(np.abs(served[name] - value).max()) for name, value in wanted.items())


def write_cards(
    trained: dict[str, Trained],
    fitted: Fitted,
    kept: data.Radiographs,
    target: Path,
    *,
    version: str,
    parity: float,
) -> None:
    """Write the cards; the ensemble's has no metrics until models.evaluate --write-card adds them."""
    weights = [
        {
            "model": name,
            "file": f"{name}/1/model.onnx",
            "sha256": file_digest(target / name / "1" / "model.onnx"),
        }
        for name in (*trained, COMBINE)
    ]
    common = {"version": version, "notice": card.NOTICE, "exported": datetime.now(UTC).date().isoformat()}
    for entry in weights:
        role = {"name": entry["model"], "part_of": NAME, **common, "sha256": entry["sha256"], "opset": OPSET}
        card.write_card(target / entry["model"], role)
    size = next(iter(trained.values())).settings.size
    settings = {
        "name": NAME,
        **common,
        "intended_use": card.INTENDED_USE,
        "eligibility": card.ELIGIBILITY,
        "input": {
            "name": "image",
            "shape": [1, size, size],
            "axes": "channel, y, x; the batch comes first",
            "size": size,
            "dtype": "float32",
            "intensity": card.INTENSITY,
        },
        "outputs": card.OUTPUTS,
        "parameters": [
            f"input_size_px={size}",
            f"members={len(trained)}",
            "views=image and mirror image",
            "interval=95% logit-normal of views and image changes",
        ],
        "classes": _classes(fitted),
        "calibration": _calibration(fitted, list(trained)),
        "uncertainty": {"interval": card.INTERVAL_METHOD, "level": 0.95, "spread": card.SPREAD_METHOD},
        "training": _training(trained, kept),
        "weights": weights,
        "parity": {
            "against": "PyTorch float32",
            "largest_difference": parity,
            "tolerance": PARITY_TOLERANCE,
        },
        "metrics": [],
    }
    card.write_card(target / NAME, settings)
    shutil.rmtree("runs/export", ignore_errors=True)


def _classes(fitted: Fitted) -> list[card.Json]:
    return [
        {
            "name": name,
            "code": list(card.CODES[name]),
            "threshold": round(threshold, 4),
            "threshold_chosen": _rule(name) + " on the calibration patients",
        }
        for name, threshold in zip(data.CLASSES, fitted.thresholds, strict=True)
    ]


def _rule(name: str) -> str:
    wanted = WANTED_SENSITIVITY[name]
    return "Youden's index" if wanted is None else f"highest with a sensitivity of at least {wanted}"


def _calibration(fitted: Fitted, members: list[str]) -> card.Json:
    def by_class(values: tuple[float, ...]) -> dict[str, float]:
        return {name: round(value, 4) for name, value in zip(data.CLASSES, values, strict=True)}

    return {
        "method": "temperature scaling per class, least negative log-likelihood, both views pooled",
        "split": "a tenth of the training patients, held out from the weights; never the val split",
        "images": fitted.images,
        "patients": fitted.patients,
        "temperature": {
            name: by_class(values)
            for name, values in zip(members, fitted.calibration.temperature, strict=True)
        },
        "interval_constant": by_class(fitted.calibration.interval_constant),
        "interval_coverage_of_changed_images": by_class(fitted.coverage),
    }


def _training(trained: dict[str, Trained], kept: data.Radiographs) -> card.Json:
    labels = kept.labels
    counts = {
        "normal": int((labels[:, 0] == 0).sum()),
        "bacterial": int((labels[:, 1] == 1).sum()),
        "viral": int((labels[:, 2] == 1).sum()),
        "patients": len(np.unique(kept.groups)),
    }
    sources: dict[str, card.Json] = {name: dict(text) for name, text in card.TRAINING_DATA.items()}
    sources["kermany"] |= {
        "split": "train, less the calibration patients",
        "images": len(kept),
        "counts": counts,
    }
    sources["synthetic"] |= {"images": max(one.settings.synthetic for one in trained.values())}
    return {
        "data": sources,
        "exported_at_commit": commit(),
        "members": {name: _member(one) for name, one in trained.items()},
    }


def _member(trained: Trained) -> card.Json:
    hidden = ("data", "out", "init", "trunk")
    return {
        "architecture": f"{trained.settings.trunk}, one gray channel, attention-map head",
        "started_from": "random weights",
        "seed": trained.settings.seed,
        "stages": [{name: stage[name] for name in stage if name not in hidden} for stage in trained.stages],
    }


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main(arguments: list[str] | None = None) -> int:
    """Read the command line and export; 0 done, 1 failed, 2 wrong use."""
    parser = argparse.ArgumentParser(prog="python -m models.export", description=__doc__)
    parser.add_argument("model", choices=[NAME])
    parser.add_argument("--checkpoint", type=Path, required=True, nargs="+", help="one for each member")
    parser.add_argument(
        "--data", type=Path, required=True, help="the folder it was trained on (for calibration)"
    )
    parser.add_argument("--repository", type=Path, default=Path("triton_repo"))
    parser.add_argument("--version", default="1.0.0")
    options = parser.parse_args(arguments)
    try:
        export(options.checkpoint, options.data, options.repository, options.version)
    except (data.DataFolderError, FileNotFoundError) as error:
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
