"""Measure the exported model: `python -m models.evaluate chest_xray --data DIR --split NAME`.

Reads each image as the node does and runs the graphs of triton_repo/ (or, with --checkpoint, the network
before export and calibration). Intervals are 95 % bootstrap intervals over patients.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models import card, data, metrics
from models.metrics import Estimate
from models.serving import EnsembleGraphs

NAME = "chest_xray"
DECIMALS = 4

Floats = NDArray[np.float32]
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Cases:
    """What is measured on: prepared images (size, size), labels (n, classes) with NaN, patient of each."""

    images: list[Floats]
    labels: Floats
    groups: NDArray[np.str_]


@dataclass(frozen=True, slots=True)
class Predictions:
    """Probability, and interval where the graphs give one, of each case and class; thresholds by class."""

    probability: Floats
    interval: Floats | None
    thresholds: list[float]
    source: Json


def read_cases(directory: Path, *, split: str, dataset: str, size: int) -> Cases:
    """Return one split of a data folder, prepared as the node prepares; raises DataFolderError."""
    rows = data.read_rows(directory, split=split, dataset=dataset)
    images = [data.read_prepared(directory / row.file, size) for row in rows]
    labels = np.array([row.targets for row in rows], dtype=np.float32)
    return Cases(images, labels, np.array([row.group for row in rows]))


def synthetic_cases(count: int, *, size: int) -> Cases:
    """Return synthetic thoraxes that no training has seen."""
    made = data.synthetic_radiographs(count, size=size, first_seed=data.SYNTHETIC_TEST_SEED)
    return Cases(list(data.to_unit(made.pixels)), made.labels, made.groups)


def measure(cases: Cases, predictions: Predictions, repeats: int) -> Json:
    """Return the figures of each class, and of bacterial against viral among the pneumonias."""
    classes = [
        {"name": name, "code": list(card.CODES[name])} | measure_class(cases, predictions, index, repeats)
        for index, name in enumerate(data.CLASSES)
    ]
    return {
        "images": len(cases.images),
        "patients": len(np.unique(cases.groups)),
        "classes": classes,
        "bacterial_vs_viral": measure_kind(cases, predictions, repeats),
    }


def measure_class(cases: Cases, predictions: Predictions, index: int, repeats: int) -> Json:
    """Return the figures of one class over the cases whose truth is known."""
    is_known = ~np.isnan(cases.labels[:, index])
    truth, groups = cases.labels[is_known, index] == 1, cases.groups[is_known]
    probability, threshold = predictions.probability[is_known, index], predictions.thresholds[index]
    figures: dict[str, Callable[[NDArray[np.bool_], Floats], float]] = {
        "auc": metrics.area_under_curve,
        "sensitivity": lambda t, p: metrics.sensitivity(t, p, threshold),
        "specificity": lambda t, p: metrics.specificity(t, p, threshold),
        "accuracy": lambda t, p: metrics.accuracy(t, p, threshold),
        "calibration_error": metrics.expected_calibration_error,
        "brier_score": metrics.brier_score,
    }
    measured: Json = {"positives": int(truth.sum()), "negatives": int((~truth).sum()), "threshold": threshold}
    if len(truth) == 0:
        return measured
    for name, figure in figures.items():
        estimate = metrics.bootstrap(_over(figure, truth, probability), groups, repeats=repeats)
        measured[name] = as_json(estimate)
    if predictions.interval is not None:
        low, high = predictions.interval[is_known, index].T
        measured["undetermined"] = round(float(((low < threshold) & (threshold <= high)).mean()), DECIMALS)
    return measured


def measure_kind(cases: Cases, predictions: Predictions, repeats: int) -> Json:
    """Return the AUC of bacterial against viral, ranked by the difference of their logits."""
    bacterial, viral = cases.labels[:, 1] == 1, cases.labels[:, 2] == 1
    chosen = bacterial ^ viral
    if not chosen.any():
        return {"bacterial": 0, "viral": 0}
    inside = np.clip(predictions.probability[chosen].astype(float), 1e-6, 1 - 1e-6)
    logits = np.log(inside / (1 - inside))
    compare = _over(metrics.area_under_curve, bacterial[chosen], logits[:, 1] - logits[:, 2])
    estimate = metrics.bootstrap(compare, cases.groups[chosen], repeats=repeats)
    counts = {"bacterial": int((bacterial & chosen).sum()), "viral": int((viral & chosen).sum())}
    return counts | {"auc": as_json(estimate)}


def _over(
    figure: Callable[[NDArray[np.bool_], Any], float], truth: NDArray[np.bool_], scores: NDArray[np.floating]
) -> Callable[[NDArray[np.intp]], float]:
    return lambda chosen: figure(truth[chosen], scores[chosen])


def as_json(estimate: Estimate) -> list[float | None]:
    """Return [value, low, high], rounded; null where undefined."""
    values = (estimate.value, estimate.low, estimate.high)
    return [None if math.isnan(value) else round(value, DECIMALS) for value in values]


def predict_exported(cases: Cases, repository: Path) -> Predictions:
    """Return what the exported ensemble says."""
    described = card.read_card(repository / NAME)
    outputs = EnsembleGraphs(repository, NAME).infer(cases.images)
    thresholds = [entry["threshold"] for entry in described["classes"]]
    source = {"version": described["version"], "weights": described["weights"]}
    return Predictions(outputs["probability"], outputs["interval"], thresholds, source)


def predict_checkpoint(cases: Cases, checkpoint: Path) -> Predictions:
    """Return what the network says before export: uncalibrated, mean of both views, threshold 0.5."""
    import torch  # here, for measuring the exported graphs needs no torch

    from models.export import read_checkpoint

    trained = read_checkpoint(checkpoint)
    probability = []
    with torch.no_grad():
        for start in range(0, len(cases.images), 16):
            image = torch.from_numpy(np.stack(cases.images[start : start + 16]))[:, None]
            views = [trained.network(view)[0] for view in (image, image.flip(3))]
            probability.append(torch.stack(views).sigmoid().mean(dim=0).numpy())
    thresholds = [0.5] * len(data.CLASSES)
    return Predictions(np.concatenate(probability), None, thresholds, {"checkpoint": str(checkpoint)})


def input_size(options: argparse.Namespace) -> int:
    """Return the side of the images that the model takes."""
    if options.checkpoint:
        from models.export import read_checkpoint

        return read_checkpoint(options.checkpoint).settings.size
    return int(card.read_card(options.repository / NAME)["input"]["size"])


def table(result: Json) -> str:
    """Return the figures as text for people."""
    lines = [f"{NAME} {result['source'].get('version', 'checkpoint')} on {result['data']}: "]
    lines[0] += (
        f"{result['images']} images of {result['patients']} patients; 95 % bootstrap intervals over patients"
    )
    lines.append(
        f"{'class':<22}{'pos/neg':>10}{'thr':>7}" + "".join(f"{title:>22}" for title in TITLES.values())
    )
    for entry in result["classes"]:
        counts = f"{entry['positives']}/{entry['negatives']}"
        cells = "".join(f"{_cell(entry.get(key)):>22}" for key in TITLES)
        lines.append(f"{entry['name']:<22}{counts:>10}{entry['threshold']:>7.3f}{cells}")
    kind = result["bacterial_vs_viral"]
    counts = f"{kind['bacterial']}/{kind['viral']}"
    lines.append(f"{'bacterial vs viral':<22}{counts:>10}{'':>7}{_cell(kind.get('auc')):>22}")
    return "\n".join(lines)


TITLES = {
    "auc": "AUC",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "calibration_error": "ECE",
    "brier_score": "Brier",
}


def _cell(values: list[float | None] | None) -> str:
    if values is None or values[0] is None:
        return "-"
    value, low, high = ("-" if number is None else f"{number:.3f}" for number in values)
    return f"{value} ({low}-{high})"


def add_to_card(repository: Path, result: Json) -> None:
    """Put the figures into the card, in place of earlier ones on the same data."""
    described = card.read_card(repository / NAME)
    entry = {key: value for key, value in result.items() if key not in ("source", "seconds", "model")}
    others = [known for known in described["metrics"] if known["data"] != entry["data"]]
    described["metrics"] = [*others, entry]
    card.write_card(repository / NAME, described)


def evaluate(options: argparse.Namespace) -> Json:
    """Return the whole result of one command."""
    started = time.monotonic()
    size = input_size(options)
    if options.synthetic:
        cases, name = synthetic_cases(options.synthetic, size=size), "synthetic thorax, unseen seeds"
        command = f"--synthetic {options.synthetic}"
    else:
        cases = read_cases(options.data, split=options.split, dataset=options.dataset, size=size)
        name, command = f"{options.dataset} {options.split}", f"--data {options.data} --split {options.split}"
    predict = predict_checkpoint if options.checkpoint else predict_exported
    predictions = predict(cases, options.checkpoint or options.repository)
    return {
        "model": NAME,
        "data": name,
        "command": f"python -m models.evaluate {NAME} {command}",
        **measure(cases, predictions, options.repeats),
        "source": predictions.source,
        "seconds": round(time.monotonic() - started, 1),
    }


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(prog="python -m models.evaluate", description=__doc__)
    parser.add_argument("model", choices=[NAME])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, help="a folder with labels.csv")
    source.add_argument(
        "--synthetic", type=int, metavar="COUNT", help="synthetic thoraxes in place of a folder"
    )
    parser.add_argument("--split", default="val", help="rows of labels.csv with this split (default val)")
    parser.add_argument(
        "--dataset", default="kermany", help="rows of labels.csv of this dataset (default kermany)"
    )
    parser.add_argument("--repository", type=Path, default=Path("triton_repo"))
    parser.add_argument(
        "--checkpoint", type=Path, help="measure a checkpoint in place of the exported graphs"
    )
    parser.add_argument("--repeats", type=int, default=1000, help="bootstrap draws (default 1000)")
    parser.add_argument("--write-card", action="store_true", help="put the figures into the model's card")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Read the command line and measure; 0 done, 1 failed, 2 wrong use."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    if options.write_card and options.checkpoint:
        parser.error("--write-card is about the exported graphs, --checkpoint is not")
    try:
        result = evaluate(options)
    except data.DataFolderError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (FileNotFoundError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.write_card:
        add_to_card(options.repository, result)
    print(json.dumps(result, ensure_ascii=False) if options.json else table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
