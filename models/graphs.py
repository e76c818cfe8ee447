"""The graphs that are served: one per member, and one that joins the members' answers."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

OPSET = 17
Z_95 = 1.959964
# Keeps the logit finite in float32; 1 - 1e-6 is still told from 1.
EDGE = 1e-6
# Smaller tensors are biases and constants: halving them saves nothing.
HALF_FROM_ELEMENTS = 1024


class MemberGraph(nn.Module):
    """A network on the image and its mirror image, with calibrated logits."""

    def __init__(self, network: nn.Module, temperature: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("temperature", torch.tensor(temperature, dtype=torch.float32))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (n, 2, classes) and the activation map (n, classes, h, w), mean of both views."""
        logits, activation = self.network(torch.cat([image, image.flip(3)]))
        plain, mirrored = logits.chunk(2)
        map_plain, map_mirrored = activation.chunk(2)
        calibrated = torch.stack([plain, mirrored], dim=1) / self.temperature
        return calibrated, (map_plain + map_mirrored.flip(3)) / 2.0


class CombineGraph(nn.Module):
    """The probability of each class and its uncertainty, from the logits of all members and views."""

    def __init__(self, interval_constant: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("interval_constant", torch.tensor(interval_constant, dtype=torch.float32))

    def forward(self, *answers: Tensor) -> tuple[Tensor, ...]:
        """Take logits (n, views, classes) of each member, then each member's map (n, classes, h, w).

        Return probability, spread (standard deviation over members and views, divisor their number), interval
        (n, classes, 2), entropy and mutual information in bit, and the mean activation map.
        """
        members = len(answers) // 2
        logits = torch.cat(answers[:members], dim=1)
        activation = torch.stack(answers[members:]).mean(dim=0)
        each = torch.sigmoid(logits)
        probability = each.mean(dim=1)
        spread = (each - probability.unsqueeze(1)).square().mean(dim=1).sqrt()
        low, high = self.interval(logits, probability)
        entropy = binary_entropy(probability)
        mutual_information = (entropy - binary_entropy(each).mean(dim=1)).clamp(min=0.0)
        interval = torch.stack([low, high], dim=2)
        return probability, spread, interval, entropy, mutual_information, activation

    def interval(self, logits: Tensor, probability: Tensor) -> tuple[Tensor, Tensor]:
        """Return the 95 % interval: normal on the logit scale, views' spread and the calibrated constant."""
        deviation = logits - logits.mean(dim=1, keepdim=True)
        variance = deviation.square().sum(dim=1) / (logits.shape[1] - 1)
        half = Z_95 * (variance + self.interval_constant.square()).sqrt()
        inside = probability.clamp(EDGE, 1.0 - EDGE)
        center = torch.log(inside) - torch.log1p(-inside)
        low, high = torch.sigmoid(center - half), torch.sigmoid(center + half)
        # Rounding must not push the probability out of its own interval.
        return torch.minimum(low, probability), torch.maximum(high, probability)


def binary_entropy(probability: Tensor) -> Tensor:
    """Return the entropy of a yes/no question in bit: 0 where certain, 1 at 0.5."""
    inside = probability.clamp(EDGE, 1.0 - EDGE)
    return -(inside * torch.log2(inside) + (1.0 - inside) * torch.log2(1.0 - inside))


def export_graph(
    graph: nn.Module, inputs: dict[str, Tensor], outputs: Sequence[str], path: Path, *, is_half_stored: bool
) -> None:
    """Write a module as ONNX, free in batch size, computed in float32; large weights as float16 if wanted."""
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
            dynamic_axes={name: {0: "batch"} for name in [*inputs, *outputs]},
            opset_version=OPSET,
            dynamo=False,
        )
    model = onnx.load(str(path))
    if is_half_stored:
        store_half(model.graph)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))


def store_half(graph: onnx.GraphProto) -> None:
    """Keep large float32 initializers as float16, each cast back where the graph begins."""
    casts = []
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.data_type != TensorProto.FLOAT or values.size < HALF_FROM_ELEMENTS:
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(to_half(values), f"{name}_half"))
        casts.append(helper.make_node("Cast", [f"{name}_half"], [name], f"{name}_cast", to=TensorProto.FLOAT))
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*casts, *rest])


def to_half(values: NDArray[np.float32]) -> NDArray[np.float16]:
    """Return float16 values; raises ValueError where one is too large for it."""
    half = values.astype(np.float16)
    if not np.isfinite(half).all():
        raise ValueError(f"weights up to {np.abs(values).max():.3g} do not fit into float16")
    return half
