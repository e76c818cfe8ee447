"""The smallest change of a radiograph that flips a network's decision.

Proximal gradient (ISTA; Beck and Teboulle, SIAM J. Imaging Sci. 2, 2009) on a change of the image: the logit
is pulled over its threshold, and an L1 penalty and the total variation of the change are paid for it. The
proximal step of both is total variation first, then the soft threshold (Friedman et al., Ann. Appl. Stat. 1,
2007), then clipped so that the image stays in 0–1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Floats = NDArray[np.float32]

VISIBLE = 1.0 / 255.0
"""A change of a pixel that an image of 8 bits can hold."""
BISECTIONS = 8
DUAL_ROUNDS = 10
DUAL_RATE = 0.125
"""One by the largest eigenvalue of the grid's Laplacian: the largest step that surely converges."""


@dataclass(frozen=True, slots=True)
class Search:
    """How a change is sought.

    `sparsity` weighs its L1 size and `smoothness` its total variation, both as parts of the largest slope of
    the logit at the unchanged image: at a sparsity of 1 no pixel is worth a change. Both are halved after
    each `patience` steps without a flip. `move`: by how much a pixel changes in the first step at most.
    """

    sparsity: float = 0.05
    smoothness: float = 0.1
    move: float = 0.02
    steps: int = 120
    patience: int = 40


@dataclass(frozen=True, slots=True, eq=False)
class Counterfactual:
    """What was found: `image` (s, s) in 0–1 and `change` (s, s), its difference from the image before.

    `steps`: how many were taken to this change. Where no step flipped the decision, it is the last one's.
    """

    image: Floats
    change: Floats
    probability_before: float
    probability_after: float
    threshold: float
    steps: int
    is_flipped: bool

    @property
    def size(self) -> float:
        """The L1 size: the sum of the absolute changes of all pixels."""
        return float(np.abs(self.change).sum())

    def describe(self) -> str:
        """Return the result in a sentence."""
        scores = f"{self.probability_before:.3f} to {self.probability_after:.3f}"
        part = float((np.abs(self.change) >= VISIBLE).mean())
        change = (
            f"{part:.1%} of the pixels changed by 1/255 or more, by {np.abs(self.change).max():.2f} at most "
            f"and {np.abs(self.change).mean():.4f} on average (of a range of 1)"
        )
        if self.is_flipped:
            return f"Flipped: probability {scores} after {self.steps} steps, with {change}."
        return (
            f"NOT flipped: after {self.steps} steps the probability went from {scores} and is still on the "
            f"same side of {self.threshold:.3f}; {change}."
        )


class Dual(NamedTuple):
    """The dual variables of the total variation, between rows (…, y - 1, x) and columns (…, y, x - 1)."""

    rows: Tensor
    columns: Tensor


def find_counterfactual(
    network: nn.Module, image: Tensor, index: int, *, threshold: float = 0.5, search: Search | None = None
) -> Counterfactual:
    """Return the least change found that moves class `index` of image (1, 1, s, s) over the threshold.

    A probability at or above the threshold is positive. The network must be in eval mode and answer with
    `logits` (1, classes). Raises ValueError where the threshold is not inside 0–1.
    """
    if not 0.0 < threshold < 1.0:
        raise ValueError(f"threshold {threshold}, expected a number between 0 and 1")
    search = search or Search()
    goal = math.log(threshold / (1.0 - threshold))
    change, best, taken = torch.zeros_like(image), torch.zeros_like(image), 0
    first, slope = logit_and_slope(network, image, change, index)
    direction = -1.0 if first >= goal else 1.0
    rate = search.move / float(slope.abs().max().clamp(min=1e-12))
    sparsity, smoothness, least = search.sparsity, search.smoothness, math.inf
    dual, is_over = Dual(torch.zeros_like(image.diff(dim=2)), torch.zeros_like(image.diff(dim=3))), False
    for step in range(1, search.steps + 1):
        # Once over the threshold nothing pulls: the penalty alone shrinks the change, back to the edge.
        pulled = change if is_over else change + direction * rate * slope
        smoothed, dual = smooth(pulled, search.move * smoothness, dual)
        sparse = soft_threshold(smoothed, search.move * sparsity)
        change = torch.minimum(torch.maximum(sparse, -image), 1.0 - image)
        logit, slope = logit_and_slope(network, image, change, index)
        is_over = (logit >= goal) != (first >= goal)
        cost = penalty(change, search)
        if is_over and cost < least:
            best, least, taken = change, cost, step
        if math.isinf(least) and step % search.patience == 0:
            sparsity, smoothness = sparsity / 2.0, smoothness / 2.0
    is_flipped = math.isfinite(least)
    if is_flipped:
        change = scale_back(network, image, best, index, goal)
    after, _ = logit_and_slope(network, image, change, index)
    return Counterfactual(
        (image + change)[0, 0].cpu().numpy(),
        change[0, 0].cpu().numpy(),
        _probability(first),
        _probability(after),
        threshold,
        taken if is_flipped else search.steps,
        is_flipped,
    )


def logit_and_slope(network: nn.Module, image: Tensor, change: Tensor, index: int) -> tuple[float, Tensor]:
    """Return the logit of class `index` of the changed image, and its gradient by the change."""
    change = change.detach().requires_grad_()
    logit = network(image + change).logits[0, index]
    (slope,) = torch.autograd.grad(logit, change)
    return float(logit.detach()), slope


def penalty(change: Tensor, search: Search) -> float:
    """Return what a change costs at the weights that the search began with."""
    variation = change.diff(dim=2).abs().sum() + change.diff(dim=3).abs().sum()
    return float(search.sparsity * change.abs().sum() + search.smoothness * variation)


def soft_threshold(values: Tensor, weight: float) -> Tensor:
    """Return the values moved towards zero by `weight`, and zero where they are nearer than that."""
    return values.sign() * (values.abs() - weight).clamp(min=0.0)


def smooth(values: Tensor, weight: float, dual: Dual, rounds: int = DUAL_ROUNDS) -> tuple[Tensor, Dual]:
    """Return the u nearest to values (…, y, x) that pays `weight` for its total variation, and its dual.

    Least ½‖u − values‖² + weight · Σ|difference of neighbors in a row or column|, by projected gradient on
    the dual (Chambolle, J. Math. Imaging Vis. 20, 2004). Starting from the dual of the step before, a few
    rounds are enough.
    """
    rows, columns = dual
    for _ in range(rounds):
        smoothed = values - _divergence(rows, columns)
        rows = (rows + DUAL_RATE * smoothed.diff(dim=-2)).clamp(-weight, weight)
        columns = (columns + DUAL_RATE * smoothed.diff(dim=-1)).clamp(-weight, weight)
    return values - _divergence(rows, columns), Dual(rows, columns)


def _divergence(rows: Tensor, columns: Tensor) -> Tensor:
    """Return what the transposed differences make of the dual variables."""
    pad = nn.functional.pad
    between_rows = pad(rows, (0, 0, 1, 0)) - pad(rows, (0, 0, 0, 1))
    return between_rows + pad(columns, (1, 0)) - pad(columns, (0, 1))


@torch.no_grad()
def scale_back(network: nn.Module, image: Tensor, change: Tensor, index: int, goal: float) -> Tensor:
    """Return the change, which flips the decision, scaled down as far as it still does (by bisection)."""
    was_positive = bool(network(image).logits[0, index] >= goal)
    low, high = 0.0, 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2.0
        is_positive = bool(network(image + middle * change).logits[0, index] >= goal)
        low, high = (low, middle) if is_positive != was_positive else (middle, high)
    return high * change


def _probability(logit: float) -> float:
    return float(torch.sigmoid(torch.tensor(logit)))
