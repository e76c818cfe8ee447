"""Measure the exported model: `python -m models.evaluate chest_xray --data DIR --split NAME`.

Reads each image as the node does and runs the graphs of triton_repo/ (or, with --checkpoint, the network
before export and calibration). Intervals are 95 % bootstrap intervals over patients. In place of the figures
of each class, --out-of-distribution measures whether foreign pictures are noticed, and --robustness how far
the figures move when the pictures are changed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from models import card, data, evaluate_detector, evaluate_slide, evaluate_volume, foreign, report, robustness
from models.configuration import member_tensor
from models.measure import (
    Cases,
    Doubts,
    Predictions,
    bacterial_over_viral,
    kinds,
    measure,
)
from models.serving import EnsembleGraphs

NAME = "chest_xray"
OTHERS = (evaluate_volume, evaluate_slide, evaluate_detector)
# The same patients for every command that measures some of them.
CHOICE_SEED = 5

Json = dict[str, Any]


def read_files(options: argparse.Namespace) -> list[data.Row]:
    """Return the rows of the split, or those of so many of its patients; raises DataFolderError."""
    rows = data.read_rows(options.data, split=options.split, dataset=options.dataset)
    if not options.patients:
        return rows
    patients = np.unique([row.group for row in rows])
    chosen = set(np.random.default_rng(CHOICE_SEED).permutation(patients)[: options.patients])
    return [row for row in rows if row.group in chosen]


def read_cases(directory: Path, rows: Sequence[data.Row], *, size: int) -> Cases:
    """Return files of a data folder, prepared as the node prepares."""
    images = [data.read_prepared(directory / row.file, size) for row in rows]
    labels = np.array([row.targets for row in rows], dtype=np.float32)
    return Cases(images, labels, np.array([row.group for row in rows]))


def synthetic_cases(count: int, *, size: int) -> Cases:
    """Return synthetic thoraxes that no training has seen."""
    made = data.synthetic_radiographs(count, size=size, first_seed=data.SYNTHETIC_TEST_SEED)
    return Cases(list(data.to_unit(made.pixels)), made.labels, made.groups)


class ExportedModel:
    """The graphs of a model repository, as the node's engine runs them."""

    def __init__(self, repository: Path) -> None:
        """Open every graph; raises FileNotFoundError where the repository lacks one."""
        self._card = card.read_card(repository / NAME)
        self._graphs = EnsembleGraphs(repository, NAME)

    def predict(self, cases: Cases) -> Predictions:
        """Return what the ensemble and each of its members say."""
        tensors = {name: member_tensor("logits", name) for name in self._graphs.members}
        outputs = self._graphs.infer(cases.images, also=list(tensors.values()))
        return Predictions(
            probability=outputs["probability"],
            thresholds=[entry["threshold"] for entry in self._card["classes"]],
            source={"version": self._card["version"], "weights": self._card["weights"]},
            doubts=Doubts(
                outputs["interval"],
                outputs["mutual_information"],
                outputs["prediction_set"],
                outputs["out_of_distribution"],
                self._card["out_of_distribution"]["threshold"],
            ),
            members={name: expit(outputs[tensor]).mean(axis=1) for name, tensor in tensors.items()},
        )


def predict_checkpoint(cases: Cases, checkpoint: Path) -> Predictions:
    """Return what the network says before export: uncalibrated, mean of both views, threshold 0.5."""
    import torch  # here, for measuring the exported graphs needs no torch

    from models.export import read_checkpoint

    trained = read_checkpoint(checkpoint)
    probability = []
    with torch.no_grad():
        for start in range(0, len(cases), 16):
            image = torch.from_numpy(np.stack(cases.images[start : start + 16]))[:, None]
            views = [trained.network(view).logits for view in (image, image.flip(3))]
            probability.append(torch.stack(views).sigmoid().mean(dim=0).numpy())
    thresholds = [0.5] * len(data.CLASSES)
    return Predictions(np.concatenate(probability), thresholds, {"checkpoint": str(checkpoint)})


def input_size(options: argparse.Namespace) -> int:
    """Return the side of the images that the model takes."""
    if options.checkpoint:
        from models.export import read_checkpoint

        return read_checkpoint(options.checkpoint).settings.size
    return int(card.read_card(options.repository / NAME)["input"]["size"])


def read(options: argparse.Namespace) -> tuple[Cases, str, str]:
    """Return the cases of a command, what to call them, and the options that name them."""
    size = input_size(options)
    if options.synthetic:
        cases = synthetic_cases(options.synthetic, size=size)
        return cases, "synthetic thorax, unseen seeds", f"--synthetic {options.synthetic}"
    cases = read_cases(options.data, read_files(options), size=size)
    name, arguments = f"{options.dataset} {options.split}", f"--data {options.data} --split {options.split}"
    if options.patients:
        name, arguments = f"{name}, {options.patients} patients", f"{arguments} --patients {options.patients}"
    return cases, name, arguments


def evaluate(options: argparse.Namespace) -> Json:
    """Return the whole result of one command."""
    started = time.monotonic()
    cases, name, arguments = read(options)
    predict: Callable[[Cases], Predictions] = (
        partial(predict_checkpoint, checkpoint=options.checkpoint)
        if options.checkpoint
        else ExportedModel(options.repository).predict
    )
    measured: Json
    if options.out_of_distribution:
        arguments += " --out-of-distribution" + (f" --foreign {options.foreign}" if options.foreign else "")
        pictures = None
        if options.foreign:
            size = cases.images[0].shape[0]
            pictures = foreign.read_foreign(options.foreign, size=size, chest=options.chest)
        measured = {"out_of_distribution": foreign.measure_foreign(cases, pictures, predict, options.repeats)}
    elif options.robustness:
        arguments += " --robustness"
        files = [options.data / row.file for row in read_files(options)]
        measured = {"robustness": robustness.measure_robustness(files, cases, predict, options.repeats)}
    else:
        predictions = predict(cases)
        measured = {**measure(cases, predictions, options.repeats), "source": predictions.source}
        if options.plots:
            draw(cases, predictions, options.plots, f"{NAME} on {name}, {measured['patients']} patients")
    command = f"python -m models.evaluate {NAME} {arguments}"
    seconds = round(time.monotonic() - started, 1)
    return {"model": NAME, "data": name, "command": command, **measured, "seconds": seconds}


def draw(cases: Cases, predictions: Predictions, folder: Path, title: str) -> None:
    """Write ROC and reliability curves of the classes, and ROC curves of the kind of pneumonia."""
    from models import plots  # here, for figures alone need no matplotlib

    folder.mkdir(parents=True, exist_ok=True)
    known = ~np.isnan(cases.labels)
    curves = {
        name: (cases.labels[known[:, index], index] == 1, predictions.probability[known[:, index], index])
        for index, name in enumerate(data.CLASSES)
    }
    plots.roc_plot(curves, folder / "roc.png", title)
    plots.reliability_plot(curves, folder / "reliability.png", title)
    chosen, is_bacterial = kinds(cases)
    by_name = {"ensemble": predictions.probability, **predictions.members}
    of_kind = {
        name: (is_bacterial, bacterial_over_viral(probability[chosen]))
        for name, probability in by_name.items()
    }
    plots.roc_plot(of_kind, folder / "roc_bacterial_vs_viral.png", f"{title}: bacterial against viral")


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(prog="python -m models.evaluate", description=__doc__)
    parser.add_argument("model", choices=[NAME, *(name for other in OTHERS for name in other.MEASURES)])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, help="a folder with labels.csv")
    source.add_argument(
        "--synthetic", type=int, metavar="COUNT", help="synthetic thoraxes in place of a folder"
    )
    parser.add_argument("--split", default="val", help="rows of labels.csv with this split (default val)")
    parser.add_argument(
        "--dataset", default="kermany", help="rows of labels.csv of this dataset (default kermany)"
    )
    parser.add_argument(
        "--patients", type=int, default=0, metavar="N", help="measure a random choice of N patients"
    )
    parser.add_argument("--repository", type=Path, default=Path("triton_repo"))
    parser.add_argument(
        "--checkpoint", type=Path, help="measure a checkpoint in place of the exported graphs"
    )
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--members", action="store_true", help="print the figures of each member too")
    kind.add_argument(
        "--out-of-distribution", action="store_true", help="measure whether foreign pictures are noticed"
    )
    kind.add_argument(
        "--robustness", action="store_true", help="measure how far figures move under changes of the picture"
    )
    parser.add_argument("--foreign", type=Path, metavar="DIR", help="a folder of DICOM files to notice")
    parser.add_argument(
        "--chest",
        nargs="*",
        default=["cr_chest_*"],
        metavar="PATTERN",
        help="names of files in it that are chest radiographs after all (default cr_chest_*)",
    )
    parser.add_argument("--plots", type=Path, metavar="DIR", help="write ROC and reliability curves there")
    parser.add_argument("--repeats", type=int, default=1000, help="bootstrap draws (default 1000)")
    parser.add_argument("--write-card", action="store_true", help="put the figures into the model's card")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def conflict(options: argparse.Namespace) -> str:
    """Return why these options do not go together, or an empty text."""
    if options.checkpoint and (options.write_card or options.out_of_distribution):
        return "--write-card and --out-of-distribution are about the exported graphs, --checkpoint is not"
    if options.robustness and options.synthetic:
        return "--robustness changes the pictures of a folder, --synthetic has none"
    if options.foreign and not options.out_of_distribution:
        return "--foreign is for --out-of-distribution"
    return ""


def main(arguments: list[str] | None = None) -> int:
    """Read the command line and measure; 0 done, 1 failed, 2 wrong use."""
    given = sys.argv[1:] if arguments is None else arguments
    for other in OTHERS:
        if given[:1] and given[0] in other.MEASURES:
            return other.main(given)
    parser = build_parser()
    options = parser.parse_args(arguments)
    if reason := conflict(options):
        parser.error(reason)
    try:
        result = evaluate(options)
    except data.DataFolderError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.write_card:
        report.add_to_card(options.repository / NAME, result)
    if options.json:
        print(json.dumps(result, ensure_ascii=False))
    else:
        print(report.table(result, is_with_members=options.members))
    return 0


if __name__ == "__main__":
    sys.exit(main())
