"""Figures of merit as PNG files: ROC curves, reliability, counts. Nothing here opens a window."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from models import metrics
from models.metrics import Floats, Truth

# By name: truth (n) and the probability or score (n) of the same cases.
Curves = Mapping[str, tuple[Truth, Floats]]

DOTS_PER_INCH = 150
PANEL_INCHES = (5.0, 5.6)
BAR_INCHES = 0.35
LABEL_WIDTH = 36
BINS = 10


def roc_plot(curves: Curves, path: Path, title: str) -> None:
    """Write the ROC curve of each name into one picture of 900 x 900 pixels, with its AUC in the legend.

    `title` names the data and the number of patients. A curve without positives or negatives is named as
    undefined. Raises OSError where the file cannot be written.
    """
    figure = Figure(figsize=(6.0, 6.0), layout="constrained")
    axes = figure.add_subplot()
    _draw_identity(axes)
    for name, (truth, scores) in curves.items():
        area = metrics.area_under_curve(truth, scores)
        label = f"{name}: undefined" if np.isnan(area) else f"{name}: AUC {area:.3f}"
        axes.plot(*metrics.roc_curve(truth, scores), label=label)
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel="1 − specificity", ylabel="sensitivity")
    axes.set_aspect("equal")
    axes.legend(loc="lower right")
    _write(figure, path, title)


def reliability_plot(curves: Curves, path: Path, title: str) -> None:
    """Write one panel of 750 x 840 pixels for each name, side by side: what was said against what happened.

    Ten equal-width bins of the probability with the count of each, the identity line, and the expected
    calibration error over the panel. `title` and OSError as for `roc_plot`.
    """
    width, height = PANEL_INCHES
    figure = Figure(figsize=(width * len(curves), height), layout="constrained")
    panels = figure.subplots(2, len(curves), squeeze=False, sharex=True, height_ratios=(3, 1)).T
    for (name, (truth, probability)), (above, below) in zip(curves.items(), panels, strict=True):
        error = metrics.expected_calibration_error(truth, probability, BINS)
        above.set_title(f"{name}: ECE {error:.3f}, {len(truth)} cases", fontsize="medium")
        found = metrics.reliability(truth, probability, BINS)
        _draw_identity(above)
        above.plot(found.probability, found.frequency, marker="o")
        above.set(xlim=(0, 1), ylim=(-0.02, 1.02), ylabel="observed frequency")
        _draw_counts(below, found)
    _write(figure, path, title)


def _draw_identity(axes: Axes) -> None:
    axes.plot([0, 1], [0, 1], color="gray", linestyle="--", linewidth=1.0)


def _draw_counts(axes: Axes, found: metrics.Reliability) -> None:
    bars = axes.bar((found.place + 0.5) / BINS, found.count, width=0.9 / BINS)
    axes.bar_label(bars, fontsize="x-small")
    axes.margins(y=0.25)
    axes.set(xlabel="probability", ylabel="cases")


def count_plot(panels: Mapping[str, Mapping[str, int]], path: Path, title: str) -> None:
    """Write horizontal bars of counts by label, one panel below the other, 1350 pixels wide.

    Each bar says its count and its part of the panel. `title` and OSError as for `roc_plot`.
    """
    heights = [len(counts) + 2 for counts in panels.values()]
    figure = Figure(figsize=(9.0, BAR_INCHES * (sum(heights) + 2)), layout="constrained")
    rows = figure.subplots(len(panels), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0]
    for axes, (name, counts) in zip(rows, panels.items(), strict=True):
        total = max(sum(counts.values()), 1)
        bars = axes.barh([fill(label, LABEL_WIDTH) for label in counts], list(counts.values()))
        axes.bar_label(bars, [f" {count} ({count / total:.1%})" for count in counts.values()])
        axes.set_title(name, loc="left", fontsize="medium")
        axes.invert_yaxis()
        axes.margins(x=0.3)
    rows[-1].set_xlabel("images")
    _write(figure, path, title)


def _write(figure: Figure, path: Path, title: str) -> None:
    # A "$" in the name of a folder or data set is no formula.
    figure.suptitle(title, parse_math=False)
    figure.savefig(path, format="png", dpi=DOTS_PER_INCH)
