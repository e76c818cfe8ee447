"""How the weights of an exported graph are stored: smaller than they are computed with."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

# Smaller tensors are biases and constants: halving them saves nothing.
STORED_FROM_ELEMENTS = 1024
LARGEST_INT8 = 127

Floats = NDArray[np.float32]
Stored = tuple[list[onnx.TensorProto], list[onnx.NodeProto]]


def store(graph: onnx.GraphProto, form: str) -> None:
    """Keep the large float32 initializers of a graph as `form` says: a key of FORMS.

    Each is brought back to float32 where the graph begins, by operators on constants alone: ONNX Runtime
    computes them once, when it loads the file.
    """
    convolved = {node.input[1] for node in graph.node if node.op_type == "Conv"}
    tensors, operators = [], []
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.data_type != TensorProto.FLOAT or values.size < STORED_FROM_ELEMENTS:
            tensors.append(tensor)
            continue
        keep = FORMS[form] if tensor.name in convolved else keep_half
        kept, restored = keep(tensor.name, values)
        tensors += kept
        operators += restored
    nodes = [*operators, *graph.node]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(tensors)
    graph.node.extend(nodes)


def keep_half(name: str, values: Floats) -> Stored:
    """Return the initializer as float16 and its cast; raises ValueError for a weight too large for it."""
    if np.abs(values).max() > np.finfo(np.float16).max:
        raise ValueError(f"weights up to {np.abs(values).max():.3g} do not fit into float16")
    half = numpy_helper.from_array(values.astype(np.float16), f"{name}_half")
    return [half], [_cast(half.name, name)]


def keep_int8(name: str, values: Floats) -> Stored:
    """Return weights (output channels first) as int8 with a scale for each channel, and what restores them.

    Symmetric and without calibration data: only what is stored is rounded, nothing that is computed.
    """
    levels, scale = to_int8(values)
    stored = [
        numpy_helper.from_array(levels, f"{name}_int8"),
        numpy_helper.from_array(scale, f"{name}_scale"),
    ]
    wide = f"{name}_levels"
    restored = helper.make_node("Mul", [wide, stored[1].name], [name], f"{name}_mul")
    return stored, [_cast(stored[0].name, wide), restored]


def to_int8(values: Floats) -> tuple[NDArray[np.int8], Floats]:
    """Return levels in -127 to 127 and scales (channels, 1, …); their product is nearest to the values."""
    largest = np.abs(values).max(axis=tuple(range(1, values.ndim)), keepdims=True)
    # A channel of zeros has any scale.
    scale = np.where(largest > 0, largest / LARGEST_INT8, 1.0).astype(np.float32)
    return np.round(values / scale).astype(np.int8), scale


def _cast(source: str, target: str) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], f"{target}_cast", to=TensorProto.FLOAT)


FORMS: Mapping[str, Callable[[str, Floats], Stored]] = {"float16": keep_half, "int8": keep_int8}
