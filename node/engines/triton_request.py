"""One inference request as a message: small arrays in its body, large ones by the place where they lie."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from tritonclient.grpc import service_pb2
from tritonclient.utils import np_to_triton_dtype

from node.engines.regions import Lease, Place, room
from node.engines.repository import ModelConfig, Tensor
from node.engines.shared_memory import SharedMemory
from node.engines.tensors import Array
from node.errors import ModelError
from node.interfaces import Arrays

LARGEST_BODY_BYTES = (1 << 31) - (1 << 20)
"""What a message can carry: 2 GiB, less what stands around the arrays."""

STRIDE = 1024
"""Of an output in shared memory every so manieth number is NaN until the server has written it."""


class Exchange:
    """A request, and what is needed to read its answer; the arrays have their batch axis, of `size` items."""

    def __init__(self, config: ModelConfig, inputs: Arrays, size: int, memory: SharedMemory | None) -> None:
        """Put the inputs into a message, and into shared memory where there is some and they are large."""
        self.request = service_pb2.ModelInferRequest(model_name=config.name)
        self.places: list[Place] = []
        self._config = config
        self._size = size
        # Held as long as the request is: then the region goes to another.
        self._lease: Lease | None = None
        self._output_by_name = self._share_outputs(memory) if memory else {}
        self._fill(inputs, self._share_inputs(inputs, memory) if memory else {})

    def outputs(self, response: Any) -> dict[str, Array]:
        """Return the arrays of an answer; raises ModelError where it is not what was asked for."""
        entries = {entry.name: (index, entry) for index, entry in enumerate(response.outputs)}
        outputs = {}
        for tensor in self._config.outputs:
            if tensor.name not in entries:
                raise ModelError(self._config.name, f"output {tensor.name} is absent")
            index, entry = entries[tensor.name]
            shape = tuple(entry.shape) if self._config.max_batch_size else (1, *entry.shape)
            if entry.datatype != _kind(tensor):
                raise ModelError(
                    self._config.name, f"{tensor.name} is {entry.datatype}, expected {_kind(tensor)}"
                )
            content = (*response.raw_output_contents[index : index + 1], b"")[0]
            if tensor.name in self._output_by_name and not content:
                outputs[tensor.name] = self._shared(tensor, shape)
            else:
                outputs[tensor.name] = self._carried(tensor, shape, content)
        return outputs

    def _fill(self, inputs: Arrays, places: Mapping[str, Place]) -> None:
        for tensor in self._config.inputs:
            array = inputs[tensor.name]
            shape = array.shape if self._config.max_batch_size else array.shape[1:]
            entry = self.request.inputs.add(name=tensor.name, datatype=_kind(tensor), shape=shape)
            if tensor.name in places:
                self._point(entry, places[tensor.name])
            else:
                self.request.raw_input_contents.append(array.tobytes())
        for tensor in self._config.outputs:
            entry = self.request.outputs.add(name=tensor.name)
            if tensor.name in self._output_by_name:
                self._point(entry, self._output_by_name[tensor.name][1])
        if sum(map(len, self.request.raw_input_contents)) > LARGEST_BODY_BYTES:
            raise ModelError(
                self._config.name, "inputs above 2 GiB cannot be sent: divide them, or share memory"
            )

    def _share_inputs(self, inputs: Arrays, memory: SharedMemory) -> dict[str, Place]:
        """Return where the large inputs lie: where they were written, or where they are copied to."""
        places = {name: place for name, array in inputs.items() if (place := memory.find(array))}
        large = {
            name: array
            for name, array in inputs.items()
            if name not in places and array.nbytes >= memory.large_bytes
        }
        lease = self._lease = memory.lease(sum(room(array.nbytes) for array in large.values()))
        if lease:
            for name, array in large.items():
                values, places[name] = lease.array(array.shape, array.dtype)
                np.copyto(values, array)
        return places

    def _share_outputs(self, memory: SharedMemory) -> dict[str, tuple[Array, Place]]:
        """Return where the large outputs will lie: not with the inputs, which nobody keeps so long."""
        shapes = {
            tensor: shape
            for tensor in self._config.outputs
            if (shape := self._expected_shape(tensor)) and _nbytes(tensor, shape) >= memory.large_bytes
        }
        lease = memory.lease(sum(room(_nbytes(tensor, shape)) for tensor, shape in shapes.items()))
        if lease is None:
            return {}
        outputs = {tensor.name: lease.array(shape, tensor.dtype) for tensor, shape in shapes.items()}
        for values, _ in outputs.values():
            # What another request left here must never be taken for this one's answer.
            values.reshape(-1)[::STRIDE] = np.nan
        return outputs

    def _point(self, entry: Any, place: Place) -> None:
        entry.parameters["shared_memory_region"].string_param = place.region
        entry.parameters["shared_memory_byte_size"].int64_param = place.size_bytes
        entry.parameters["shared_memory_offset"].int64_param = place.offset
        self.places.append(place)

    def _expected_shape(self, tensor: Tensor) -> tuple[int, ...]:
        """Return the shape of an output that can be shared, with its batch axis; else nothing.

        Numbers without a NaN are carried in the message: one could not tell that none were written.
        """
        shape = (self._size, *tensor.shape)
        return shape if min(shape) > 0 and issubclass(tensor.dtype, np.floating) else ()

    def _shared(self, tensor: Tensor, shape: tuple[int, ...]) -> Array:
        values, _ = self._output_by_name[tensor.name]
        if values.shape != shape:
            raise ModelError(
                self._config.name, f"{tensor.name} is {list(shape)}, expected {list(values.shape)}"
            )
        return values

    def _carried(self, tensor: Tensor, shape: tuple[int, ...], content: bytes) -> Array:
        if min(shape, default=0) < 0 or len(content) != _nbytes(tensor, shape):
            raise ModelError(
                self._config.name, f"{tensor.name} is {list(shape)}, but came with {len(content)} bytes"
            )
        # A copy: the caller may write into its outputs, and a message cannot be written into.
        return np.frombuffer(content, tensor.dtype).reshape(shape).copy()


def _nbytes(tensor: Tensor, shape: tuple[int, ...]) -> int:
    return math.prod(shape) * np.dtype(tensor.dtype).itemsize


def _kind(tensor: Tensor) -> str:
    return str(np_to_triton_dtype(tensor.dtype))
