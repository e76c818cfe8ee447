"""Named arrays held against a model's configuration: what goes in fits, what comes out was promised."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from node.engines.repository import ModelConfig, Tensor
from node.errors import ModelError
from node.interfaces import Arrays

Array = npt.NDArray[np.generic]


def batch_size(config: ModelConfig, inputs: Arrays) -> int:
    """Return the length of the batch axis; raises ModelError for inputs that the model does not take."""
    expected = {tensor.name for tensor in config.inputs}
    if inputs.keys() != expected:
        given = ", ".join(sorted(inputs)) or "none"
        raise ModelError(config.name, f"inputs are {given}, expected {', '.join(sorted(expected))}")
    for tensor in config.inputs:
        array = inputs[tensor.name]
        if array.dtype != tensor.dtype or not tensor.takes(array.shape[1:]) or array.size == 0:
            raise ModelError(
                config.name, f"{tensor.name} is {list(array.shape)} {array.dtype}, expected {_wanted(tensor)}"
            )
    sizes = {array.shape[0] for array in inputs.values()}
    if len(sizes) != 1:
        raise ModelError(config.name, f"inputs have batches of {sorted(sizes)}, expected one length")
    return int(sizes.pop())


def divide(inputs: Arrays, size: int, limit: int) -> list[dict[str, Array]]:
    """Return the inputs in batches of at most `limit` items."""
    return [
        {name: array[start : start + limit] for name, array in inputs.items()}
        for start in range(0, size, limit)
    ]


def join(parts: Sequence[dict[str, Array]]) -> dict[str, Array]:
    """Return the outputs of all batches as those of one."""
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def require_outputs(config: ModelConfig, outputs: Arrays, size: int) -> None:
    """Raise ModelError unless every output is there, of its shape and type, and holds numbers."""
    for tensor in config.outputs:
        values = outputs.get(tensor.name)
        if values is None:
            raise ModelError(config.name, f"output {tensor.name} is absent")
        fits = values.ndim > 0 and values.shape[0] == size and tensor.takes(values.shape[1:])
        if not fits or values.dtype != tensor.dtype:
            raise ModelError(
                config.name,
                f"{tensor.name} is {list(values.shape)} {values.dtype}, expected {_wanted(tensor, size)}",
            )
        # A value that is not finite shows in the least or the greatest; no array as large is made to find it.
        if values.size and not (np.isfinite(values.min()) and np.isfinite(values.max())):
            raise ModelError(config.name, f"{tensor.name} holds values that are not finite")


def zeros(config: ModelConfig, card_shape: tuple[int, ...]) -> dict[str, Array]:
    """Return inputs of zeros, one in the batch; a length left open is the card's, else 1."""
    return {tensor.name: _zeros(tensor, card_shape) for tensor in config.inputs}


def _zeros(tensor: Tensor, card_shape: tuple[int, ...]) -> Array:
    shape = card_shape if tensor.takes(card_shape) else tensor.shape
    return np.zeros((1, *(max(length, 1) for length in shape)), dtype=tensor.dtype)


def _wanted(tensor: Tensor, size: int | None = None) -> str:
    lengths = ["batch" if size is None else str(size), *map(str, tensor.shape)]
    return f"[{', '.join(lengths)}] {np.dtype(tensor.dtype)}"
