"""Count what a data folder holds of each kind: `python -m models.imbalance --data DIR --split NAME`.

The imbalance factor is the largest count divided by the smallest. Counted are images, by label pattern (what
`models.sampling` draws equally often) and by class (what the class-balanced loss weighs).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models import data

DECIMALS = 2


@dataclass(frozen=True, slots=True)
class Pattern:
    """One combination of labels: its count of images and its part of all, in percent."""

    name: str
    images: int
    percent: float


@dataclass(frozen=True, slots=True)
class ClassCount:
    """The labels of one class; the percentage is of positives among the known.

    None where there is nothing to divide by: without known labels, or without one of the two kinds.
    """

    name: str
    positives: int
    negatives: int
    unknown: int
    positive_percent: float | None
    imbalance_factor: float | None


@dataclass(frozen=True, slots=True)
class Imbalance:
    """How unevenly a data set is made up; patterns with the most images first."""

    data: str
    images: int
    patients: int
    patterns: list[Pattern]
    imbalance_factor: float
    classes: list[ClassCount]


def count_labels(labels: NDArray[np.floating], groups: Sequence[str], name: str) -> Imbalance:
    """Return the counts of at least one image: labels (n, classes) with NaN, patient of each (n)."""
    # NaN differs from itself, so every row with one would be a pattern of its own.
    rows, counts = np.unique(np.nan_to_num(labels, nan=-1.0), axis=0, return_counts=True)
    patterns = [
        Pattern(pattern_name(rows[index]), int(counts[index]), _percent(counts[index], len(labels)))
        for index in np.argsort(-counts, kind="stable")
    ]
    factor = round(float(counts.max() / counts.min()), DECIMALS)
    classes = [count_class(data.CLASSES[index], labels[:, index]) for index in range(labels.shape[1])]
    return Imbalance(name, len(labels), len(set(groups)), patterns, factor, classes)


def pattern_name(row: NDArray[np.floating]) -> str:
    """Return in words what a row of labels says, -1 for unknown: "Pneumonia (unknown: Viral pneumonia)"."""
    present, unknown = (
        [name for name, label in zip(data.CLASSES, row, strict=True) if label == wanted] for wanted in (1, -1)
    )
    said = " + ".join(present) or "none"
    return f"{said} (unknown: {', '.join(unknown)})" if unknown else said


def count_class(name: str, labels: NDArray[np.floating]) -> ClassCount:
    """Return the counts of one class: labels (n) of 0, 1 or NaN."""
    positives, negatives = int((labels == 1).sum()), int((labels == 0).sum())
    known, smaller = positives + negatives, min(positives, negatives)
    percent = _percent(positives, known) if known else None
    factor = round(max(positives, negatives) / smaller, DECIMALS) if smaller else None
    return ClassCount(name, positives, negatives, len(labels) - known, percent, factor)


def _percent(count: int, whole: int) -> float:
    return round(100.0 * float(count) / whole, DECIMALS)


def heading(found: Imbalance) -> str:
    """Return the data and the number of patients."""
    return f"{found.data}: {found.images} images of {found.patients} patients"


def table(found: Imbalance) -> str:
    """Return the counts as text for people."""
    patterns = [(entry.name, str(entry.images), f"{entry.percent:.1f}") for entry in found.patterns]
    classes = [
        (
            entry.name,
            *(str(count) for count in (entry.positives, entry.negatives, entry.unknown)),
            _cell(entry.positive_percent, 1),
            _cell(entry.imbalance_factor, DECIMALS),
        )
        for entry in found.classes
    ]
    return "\n".join(
        [
            heading(found),
            "",
            *_align([("label pattern", "images", "%"), *patterns]),
            f"imbalance factor {found.imbalance_factor:.{DECIMALS}f}",
            "",
            *_align([("class", "positive", "negative", "unknown", "% positive", "factor"), *classes]),
        ]
    )


def _align(rows: Sequence[tuple[str, ...]]) -> list[str]:
    first = max(len(row[0]) for row in rows)
    return [row[0].ljust(first) + "".join(cell.rjust(12) for cell in row[1:]) for row in rows]


def _cell(value: float | None, decimals: int) -> str:
    return "-" if value is None else f"{value:.{decimals}f}"


def plot(found: Imbalance, path: Path) -> None:
    """Write the counts as bars into a PNG; raises OSError where it cannot be written."""
    from models.plots import count_plot  # here, for counting needs no matplotlib

    title = f"label patterns, imbalance factor {found.imbalance_factor:.{DECIMALS}f}"
    panels = {title: {entry.name: entry.images for entry in found.patterns}}
    for entry in found.classes:
        title = f"{entry.name}, imbalance factor {_cell(entry.imbalance_factor, DECIMALS)}"
        panels[title] = {
            "positive": entry.positives,
            "negative": entry.negatives,
            "unknown": entry.unknown,
        }
    count_plot(panels, path, heading(found))


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(prog="python -m models.imbalance", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="a folder with labels.csv")
    parser.add_argument("--split", required=True, help="rows of labels.csv with this split")
    parser.add_argument(
        "--dataset", default="kermany", help="rows of labels.csv of this dataset (default kermany)"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write the counts as a bar plot (PNG)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Read the command line and count; 0 done, 1 failed, 2 wrong use."""
    options = build_parser().parse_args(arguments)
    try:
        rows = data.read_rows(options.data, split=options.split, dataset=options.dataset)
        labels = np.array([row.targets for row in rows], dtype=np.float32)
        name = f"{options.dataset} {options.split}"
        found = count_labels(labels, [row.group for row in rows], name)
        if options.plot:
            plot(found, options.plot)
    except data.DataFolderError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(asdict(found), ensure_ascii=False) if options.json else table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
