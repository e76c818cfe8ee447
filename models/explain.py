"""Explain a network's answers: `python -m models.explain chest_xray --checkpoint FILE --data DIR --out DIR`.

Writes one picture sheet per case: where the network looked (its activation map and Grad-CAM), the smallest
change that flips its decision, and the nearest training examples.
"""

from __future__ import annotations

import argparse
import json
import pickle
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from models import card, data, prototypes
from models.checkpoints import CheckpointError
from models.counterfactual import Search, find_counterfactual
from models.export import read_checkpoint
from models.sheets import Explanation, write_sheet
from models.train import choose_device

NAME = "chest_xray"
DEFAULT_THRESHOLD = 0.5
PROTOTYPES = 3

Floats = NDArray[np.float32]


class ChoiceError(ValueError):
    """A case, a threshold or a card that was asked for is not there; the message says what is."""


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """What is explained: image (s, s) in 0–1, its truth by class, its patient, the name of its sheet."""

    image: Floats
    targets: Floats
    group: str
    title: str
    sheet: str


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of each case: the decision on one class at a threshold, and how to seek its flip."""

    class_name: str
    threshold: float
    search: Search


def grad_cam(network: nn.Module, images: Tensor, index: int) -> Tensor:
    """Return the Grad-CAM (n, s, s) in 0–1 of class `index` for images (n, 1, s, s), network in eval mode.

    Of the feature maps that enter the network's head: their sum, each weighed by the mean slope of the logit
    over its places, negative sums as 0, relative to the highest (Selvaraju et al., ICCV 2017). All zero where
    nothing speaks for the class.
    """
    taken: list[Tensor] = []

    def keep(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        taken.append(inputs[0])

    hook = network.head.register_forward_pre_hook(keep)
    try:
        # By the images, for the slope must be known even where the weights are frozen.
        logits = network(images.detach().requires_grad_()).logits[:, index]
    finally:
        hook.remove()
    (slope,) = torch.autograd.grad(logits.sum(), taken[0])
    maps = (slope.mean(dim=(2, 3), keepdim=True) * taken[0]).sum(dim=1).relu().detach()
    highest = maps.amax(dim=(1, 2), keepdim=True).clamp(min=1e-12)
    return enlarge(maps / highest, images.shape[-1])


def enlarge(maps: Tensor, size: int) -> Tensor:
    """Return maps (n, h, w) resized to (n, size, size), linearly."""
    return F.interpolate(maps[:, None], (size, size), mode="bilinear", align_corners=False)[:, 0]


def explain(network: nn.Module, case: Case, question: Question, examples: prototypes.Examples) -> Explanation:
    """Return everything that the sheet of one case shows."""
    device = next(network.parameters()).device
    image = torch.from_numpy(case.image)[None, None].to(device)
    index = data.CLASSES.index(question.class_name)
    with torch.no_grad():
        answer = network(image)
    activation = enlarge(answer.activation[:, index], image.shape[-1])[0].cpu().numpy()
    features = answer.features[0].float().cpu().numpy()
    return Explanation(
        title=case.title,
        truth=prototypes.describe_truth(case.targets),
        class_name=question.class_name,
        threshold=question.threshold,
        image=case.image,
        activation=activation,
        grad_cam=grad_cam(network, image, index)[0].cpu().numpy(),
        counterfactual=find_counterfactual(
            network, image, index, threshold=question.threshold, search=question.search
        ),
        prototypes=tuple(prototypes.nearest(examples, features, group=case.group, count=PROTOTYPES)),
    )


def read_cases(directory: Path, chosen: Sequence[str], *, split: str, dataset: str, size: int) -> list[Case]:
    """Return the cases named by file or by index within the split; raises DataFolderError, ChoiceError."""
    rows = data.read_rows(directory, split=split, dataset=dataset)
    index_by_file = {row.file: index for index, row in enumerate(rows)}
    cases = []
    for name in chosen:
        index = int(name) if name.isdecimal() else index_by_file.get(name, len(rows))
        if index >= len(rows):
            raise ChoiceError(
                f"no case {name!r} in split {split!r} of {dataset!r}: "
                f"it has 0 to {len(rows) - 1}, the first of them {rows[0].file}"
            )
        row = rows[index]
        image, targets = data.read_prepared(directory / row.file, size), np.array(row.targets, np.float32)
        title = f"Case {index} of {dataset} {split}, {row.file}"
        cases.append(Case(image, targets, row.group, title, f"case-{index}.png"))
    return cases


def synthetic_case(seed: int, size: int) -> Case:
    """Return the synthetic thorax of a seed, with a consolidation."""
    image, _ = data.synthetic_radiograph(seed, "consolidation", size)
    targets = np.array(data.TARGETS_BY_FINDING["consolidation"], np.float32)
    title = f"Synthetic thorax {seed} with a consolidation"
    return Case(image, targets, f"synthetic-{seed}", title, f"synthetic-{seed}.png")


def read_network(path: Path) -> Any:
    """Return a checkpoint read back (`network`, `settings`); raises CheckpointError and OSError."""
    try:
        return read_checkpoint(path)
    except (pickle.UnpicklingError, EOFError, KeyError, RuntimeError, TypeError) as error:
        raise CheckpointError(f"{path} is no checkpoint of models.train: {type(error).__name__}") from error


def choose_threshold(options: argparse.Namespace) -> float:
    """Return the threshold of the command line, of the card it names, or 0.5; raises ChoiceError, OSError."""
    if options.card is None:
        threshold = float(options.threshold)
    else:
        try:
            classes = card.read_card(options.card)["classes"]
            threshold = {entry["name"]: float(entry["threshold"]) for entry in classes}[options.class_name]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ChoiceError(
                f"card.json in {options.card} has no threshold of {options.class_name}"
            ) from error
    if not 0.0 < threshold < 1.0:
        raise ChoiceError(f"threshold {threshold}, expected a number between 0 and 1")
    return threshold


def run(options: argparse.Namespace) -> None:
    """Write the sheets of one command, and print what they say."""
    question = Question(options.class_name, choose_threshold(options), Search(steps=options.steps))
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ChoiceError("no CUDA device here; --device cpu takes longer")
    trained = read_network(options.checkpoint)
    settings, network = trained.settings, trained.network.to(choose_device(options.device))
    if options.data is None:
        cases = [synthetic_case(options.synthetic, settings.size)]
    else:
        folder = {"split": options.split, "dataset": options.dataset}
        cases = read_cases(options.data, options.case or ["0"], **folder, size=settings.size)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.data is None:
        examples = prototypes.synthetic_examples(network, settings.size)
    else:
        learned = replace(settings, data=str(options.data))
        examples = prototypes.read_examples(network, options.checkpoint, learned)
    for number, case in enumerate(cases, start=1):
        explanation = explain(network, case, question, examples)
        write_sheet(explanation, options.out / case.sheet)
        print(f"{number} of {len(cases)}: {options.out / case.sheet}")
        print("\n".join(f"  {line}" for line in explanation.describe()), flush=True)


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(prog="python -m models.explain", description=__doc__)
    parser.add_argument("model", choices=[NAME])
    parser.add_argument("--checkpoint", type=Path, required=True, help="what models.train wrote")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--data", type=Path, help="a folder with labels.csv: the cases and the training images"
    )
    source.add_argument(
        "--synthetic", type=int, metavar="SEED", help="a synthetic thorax in place of a folder's cases"
    )
    parser.add_argument("--split", default="val", help="the cases are of this split (default val)")
    parser.add_argument("--dataset", default="kermany", help="and of this dataset (default kermany)")
    parser.add_argument(
        "--case", nargs="+", metavar="FILE_OR_INDEX", help="which of them (default 0, the first)"
    )
    parser.add_argument(
        "--class", dest="class_name", choices=data.CLASSES, default=data.CLASSES[0], help="default Pneumonia"
    )
    threshold = parser.add_mutually_exclusive_group()
    threshold.add_argument(
        "--threshold", type=float, default=DEFAULT_THRESHOLD, help="positive from here on (default 0.5)"
    )
    threshold.add_argument("--card", type=Path, help="a model's folder: its card's threshold in place of 0.5")
    parser.add_argument(
        "--steps", type=int, default=Search().steps, help=f"of the counterfactual (default {Search().steps})"
    )
    parser.add_argument("--device", default="auto", help="auto (default), cpu or cuda")
    parser.add_argument("--out", type=Path, required=True, help="the folder for the sheets")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Read the command line and explain; 0 done, 2 wrong use."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    if options.case and options.data is None:
        parser.error("--case is one of a folder, and --synthetic has none")
    if options.steps < 1:
        parser.error("--steps must be 1 or more")
    try:
        run(options)
    except (data.DataFolderError, CheckpointError, ChoiceError, OSError) as error:
        # A checkpoint of another network differs in hundreds of lines: the first says what is wrong.
        print(f"error: {str(error).splitlines()[0]}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
