"""The graphs that are served: one per member, and one that joins the members' answers."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models.strangeness import Subspace
from models.weights import store

OPSET = 17
Z_95 = 1.959964
# Keeps the logit finite in float32; 1 - 1e-6 is still told from 1.
EDGE = 1e-6
Mirrors = tuple[tuple[int, ...], ...]
MIRRORED_LEFT_RIGHT: Mirrors = ((), (3,))
"""The axes (batch and channel counted) along which each view of a radiograph is mirrored: none, and x."""
MEMBER_OUTPUTS = ("logits", "activation_map", "strangeness")
OUTPUTS = (
    "probability",
    "spread",
    "interval",
    "entropy",
    "mutual_information",
    "prediction_set",
    "out_of_distribution",
    "activation_map",
)


class ViewsGraph(nn.Module):
    """A network on the image and its mirror images, before anything is calibrated."""

    def __init__(self, network: nn.Module, mirrors: Mirrors = MIRRORED_LEFT_RIGHT) -> None:
        super().__init__()
        self.network = network
        self.mirrors = mirrors

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return what the network says of images (n, 1, s, s) or volumes (n, 1, s, s, s) of any type.

        Logits (n, views, classes), and as means of all views the activation map (n, classes, h, w; of a
        volume d, h, w), the logit of being foreign (n, 1) and the features (n, channels).
        """
        image, views = image.float(), len(self.mirrors)
        answer = self.network(torch.cat([self._mirrored(image, axes) for axes in self.mirrors]))
        logits = torch.stack(answer.logits.chunk(views), dim=1)
        maps = zip(answer.activation.chunk(views), self.mirrors, strict=True)
        activation = torch.stack([self._mirrored(one, axes) for one, axes in maps]).mean(dim=0)
        foreign, features = (
            torch.stack(values.chunk(views)).mean(dim=0)
            for values in (answer.foreign[:, None], answer.features)
        )
        return logits, activation, foreign, features

    def _mirrored(self, values: Tensor, axes: tuple[int, ...]) -> Tensor:
        return values.flip(axes) if axes else values


class MemberGraph(nn.Module):
    """A network on the image and its mirror images: calibrated logits and two measures of strangeness."""

    def __init__(
        self,
        network: nn.Module,
        temperature: Sequence[float],
        subspace: Subspace,
        mirrors: Mirrors = MIRRORED_LEFT_RIGHT,
    ) -> None:
        super().__init__()
        self.views = ViewsGraph(network, mirrors)
        self.register_buffer("temperature", torch.tensor(temperature, dtype=torch.float32))
        self.register_buffer("center", torch.from_numpy(subspace.center))
        self.register_buffer("directions", torch.from_numpy(subspace.directions))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits (n, views, classes), the activation map and strangeness (n, 2).

        Strangeness is the network's logit of being foreign, and how far its features lie outside the subspace
        of the training images' features.
        """
        logits, activation, foreign, features = self.views(image)
        deviation = features - self.center
        outside = deviation - deviation @ self.directions @ self.directions.T
        distance = outside.square().sum(dim=1, keepdim=True).sqrt()
        return logits / self.temperature, activation, torch.cat([foreign, distance], dim=1)


@dataclass(frozen=True, slots=True)
class Combination:
    """What the members are joined with.

    By class the constant of the interval and the conformal quantile; by member and part (foreign logit,
    feature distance) the mean and standard deviation of strangeness.
    """

    interval_constant: Sequence[float]
    conformal_quantile: Sequence[float]
    strangeness_mean: NDArray[np.float32]
    strangeness_deviation: NDArray[np.float32]


class CombineGraph(nn.Module):
    """The probability of each class and its uncertainty, from the answers of all members and views."""

    def __init__(self, combination: Combination) -> None:
        super().__init__()
        self.register_buffer("interval_constant", torch.tensor(combination.interval_constant))
        self.register_buffer("conformal_quantile", torch.tensor(combination.conformal_quantile))
        self.register_buffer("strangeness_mean", torch.from_numpy(combination.strangeness_mean))
        self.register_buffer("strangeness_deviation", torch.from_numpy(combination.strangeness_deviation))

    def forward(self, *answers: Tensor) -> tuple[Tensor, ...]:
        """Take the logits of each member, then the maps of each, then the strangeness of each.

        Return OUTPUTS: probability (n, classes), spread (standard deviation over members and views, divisor
        their number), interval (n, classes, 2), entropy and mutual information in bit, prediction set
        (n, classes, 2; absent, present), out-of-distribution score (n, 1), mean activation map.
        """
        members = len(answers) // len(MEMBER_OUTPUTS)
        logits = torch.cat(answers[:members], dim=1)
        activation = torch.stack(answers[members : 2 * members]).mean(dim=0)
        strangeness = torch.stack(answers[2 * members :], dim=1)
        each = torch.sigmoid(logits)
        probability = each.mean(dim=1)
        spread = (each - probability.unsqueeze(1)).square().mean(dim=1).sqrt()
        entropy = binary_entropy(probability)
        mutual_information = (entropy - binary_entropy(each).mean(dim=1)).clamp(min=0.0)
        return (
            probability,
            spread,
            self.interval(logits, probability),
            entropy,
            mutual_information,
            self.prediction_set(probability),
            self.out_of_distribution(strangeness),
            activation,
        )

    def interval(self, logits: Tensor, probability: Tensor) -> Tensor:
        """Return the 95 % interval: normal on the logit scale, views' spread and the calibrated constant."""
        deviation = logits - logits.mean(dim=1, keepdim=True)
        variance = deviation.square().sum(dim=1) / (logits.shape[1] - 1)
        half = Z_95 * (variance + self.interval_constant.square()).sqrt()
        inside = probability.clamp(EDGE, 1.0 - EDGE)
        center = torch.log(inside) - torch.log1p(-inside)
        low, high = torch.sigmoid(center - half), torch.sigmoid(center + half)
        # Rounding must not push the probability out of its own interval.
        return torch.stack([torch.minimum(low, probability), torch.maximum(high, probability)], dim=2)

    def prediction_set(self, probability: Tensor) -> Tensor:
        """Return 1 for each answer whose nonconformity (1 - its probability) is within the quantile."""
        nonconformity = torch.stack([probability, 1.0 - probability], dim=2)
        return (nonconformity <= self.conformal_quantile[:, None]).float()

    def out_of_distribution(self, strangeness: Tensor) -> Tensor:
        """Return the larger of both parts of strangeness, each standardized and averaged over members.

        Softplus keeps the order and is never negative.
        """
        standardized = (strangeness - self.strangeness_mean) / self.strangeness_deviation
        return functional.softplus(standardized.mean(dim=1).amax(dim=1, keepdim=True))


def binary_entropy(probability: Tensor) -> Tensor:
    """Return the entropy of a yes/no question in bit: 0 where certain, 1 at 0.5."""
    inside = probability.clamp(EDGE, 1.0 - EDGE)
    return -(inside * torch.log2(inside) + (1.0 - inside) * torch.log2(1.0 - inside))


def export_graph(
    graph: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    path: Path,
    *,
    form: str = "",
    free: Mapping[str, Mapping[int, str]] = MappingProxyType({}),
) -> None:
    """Write a module as ONNX, free in batch size, computed in float32.

    `form` says how large weights are stored (a key of models.weights.FORMS); as they are where it is empty.
    `free` names further axes of any length, by tensor.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        # The exporter that needs no extra package says on each call that another one is newer.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph.eval(),
            tuple(inputs.values()),
            str(path),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes={name: {0: "batch", **free.get(name, {})} for name in [*inputs, *outputs]},
            opset_version=OPSET,
            dynamo=False,
        )
    model = onnx.load(str(path))
    if form:
        store(model.graph, form)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))
