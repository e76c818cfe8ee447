"""One picture per explained case: the image, where the network looked, what flips it, what is like it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from models import card
from models.counterfactual import Counterfactual
from models.data import to_unit
from models.prototypes import Prototype

Floats = NDArray[np.float32]

INCHES = (13.0, 9.0)
DOTS_PER_INCH = 100
TEXT_WIDTH = 205
# Fixed, in parts of the sheet: a layout by contents would shrink the pictures for the sake of long words.
PLACES = {"left": 0.01, "right": 0.99, "top": 0.96, "bottom": 0.18, "wspace": 0.04, "hspace": 0.24}
WORDS_TOP = 0.125
# Of a map over the image: what the image still shows where the map is highest.
MAP_OPACITY = 0.6
LAYOUT = [
    ["image", "activation", "grad_cam", "counterfactual"],
    ["change", "prototype_0", "prototype_1", "prototype_2"],
]
LIMITS = (
    "The probability is that of one network on one view, not calibrated. A map shows what the network used, "
    "not where the disease is; the counterfactual is a fact about the network, not about the patient."
)


@dataclass(frozen=True, slots=True, eq=False)
class Explanation:
    """Everything about one case and one class; image and maps are (s, s) in 0–1."""

    title: str
    truth: str
    class_name: str
    threshold: float
    image: Floats
    activation: Floats
    grad_cam: Floats
    counterfactual: Counterfactual
    prototypes: tuple[Prototype, ...]

    def describe(self) -> list[str]:
        """Return the numbers in sentences."""
        probability = self.counterfactual.probability_before
        answer = "positive" if probability >= self.threshold else "negative"
        alike = "; ".join(f"{one.name} ({one.truth}, {one.distance:.4f})" for one in self.prototypes)
        return [
            f"{self.title}; truth: {self.truth}. {self.class_name}: probability {probability:.3f}, "
            f"threshold {self.threshold:.3f}: {answer}.",
            f"Counterfactual: {self.counterfactual.describe()}",
            f"Nearest training examples of other patients (cosine distance of features): {alike or 'none'}.",
        ]


def write_sheet(explanation: Explanation, path: Path) -> None:
    """Write the picture sheet (PNG, 1300 × 900 pixels); raises OSError where it cannot be written."""
    figure = Figure(figsize=INCHES)
    axes: dict[str, Any] = figure.subplot_mosaic(LAYOUT, gridspec_kw=PLACES)
    for one in axes.values():
        one.set_axis_off()
    found, name = explanation.counterfactual, explanation.class_name
    _draw_gray(axes["image"], explanation.image, "Image as the network takes it")
    _draw_map(axes["activation"], explanation, explanation.activation, f"Activation map, {name}")
    _draw_map(axes["grad_cam"], explanation, explanation.grad_cam, f"Grad-CAM, {name}")
    outcome = "flipped" if found.is_flipped else "NOT flipped"
    scores = f"{found.probability_before:.3f} → {found.probability_after:.3f}"
    _draw_gray(axes["counterfactual"], found.image, f"Counterfactual: {scores}, {outcome}")
    _draw_change(figure, axes["change"], found.change)
    for place, prototype in enumerate(explanation.prototypes):
        title = f"{prototype.name}: distance {prototype.distance:.4f}\n{prototype.truth}"
        _draw_gray(axes[f"prototype_{place}"], to_unit(prototype.pixels), title)
    lines = [*explanation.describe(), LIMITS, card.NOTICE]
    words = "\n".join(fill(line, TEXT_WIDTH) for line in lines)
    # A "$" in a file's name is no formula.
    figure.text(PLACES["left"], WORDS_TOP, words, va="top", fontsize="small", parse_math=False)
    figure.savefig(path, format="png", dpi=DOTS_PER_INCH)


def _draw_gray(axes: Any, image: Floats, title: str) -> None:
    axes.imshow(image, cmap="gray", vmin=0.0, vmax=1.0)
    axes.set_title(title, fontsize="medium", parse_math=False)


def _draw_map(axes: Any, explanation: Explanation, values: Floats, title: str) -> None:
    _draw_gray(axes, explanation.image, title)
    axes.imshow(values, cmap="inferno", vmin=0.0, vmax=1.0, alpha=MAP_OPACITY * values)


def _draw_change(figure: Figure, axes: Any, change: Floats) -> None:
    # A limit above zero, so that a change of nothing is shown as such.
    limit = max(float(np.abs(change).max()), 1e-6)
    drawn = axes.imshow(change, cmap="RdBu_r", vmin=-limit, vmax=limit)
    axes.set_title("Its change: red brighter, blue darker", fontsize="medium")
    figure.colorbar(drawn, cax=axes.inset_axes((0.0, -0.06, 1.0, 0.04)), orientation="horizontal")
