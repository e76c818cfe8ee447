"""The engine in this process: ONNX Runtime on the CPU."""

from collections.abc import Mapping
from pathlib import Path
from threading import Lock

import numpy as np
import numpy.typing as npt
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as runtime_errors

from node.domain.card import ModelCard
from node.engines.repository import ModelConfig, ModelRepository, Tensor
from node.errors import ModelError, OutOfResourcesError
from node.interfaces import Arrays

Array = npt.NDArray[np.generic]

RUNTIME_ERRORS = (
    runtime_errors.EPFail,
    runtime_errors.EngineError,
    runtime_errors.Fail,
    runtime_errors.InvalidArgument,
    runtime_errors.InvalidGraph,
    runtime_errors.InvalidProtobuf,
    runtime_errors.ModelLoaded,
    runtime_errors.NoModel,
    runtime_errors.NoSuchFile,
    runtime_errors.NotFound,
    runtime_errors.NotImplemented,
    runtime_errors.RuntimeException,
    RuntimeError,
    ValueError,
)
ERRORS_ONLY = 3
# ONNX Runtime has no exception of its own for it.
OUT_OF_MEMORY_WORDS = ("bad_alloc", "Failed to allocate", "out of memory")


class OnnxEngine:
    """Runs the models of one repository in this process; calls from several threads are safe."""

    def __init__(self, repository: ModelRepository, threads: int) -> None:
        """Use at most `threads` threads a call; weights are loaded by the first call that needs them."""
        self._repository = repository
        self._threads = threads
        self._sessions: dict[str, onnxruntime.InferenceSession] = {}
        self._lock = Lock()
        onnxruntime.disable_telemetry_events()

    def infer(self, model: str, inputs: Arrays) -> dict[str, Array]:
        """Return the named outputs, batch first; a batch the model cannot take is divided.

        Raises ModelError for an unknown model or an input of another shape or type than it takes.
        """
        config = self._repository.config(model)
        size = _batch_size(config, inputs)
        limit = config.max_batch_size or (size if config.is_ensemble else 1)
        parts = [
            self._run(config, {name: array[start : start + limit] for name, array in inputs.items()})
            for start in range(0, size, limit)
        ]
        if len(parts) == 1:
            return parts[0]
        return {
            tensor.name: np.concatenate([part[tensor.name] for part in parts]) for tensor in config.outputs
        }

    def card(self, model: str) -> ModelCard:
        """Return the card of a model; raises ModelError where there is none."""
        return self._repository.card(model)

    def check(self, model: str) -> None:
        """Raise ModelError unless the model is there, whole (sha256), and answers with numbers."""
        self._repository.verify(model)
        config, shape = self._repository.config(model), self.card(model).input_shape
        outputs = self.infer(model, {tensor.name: _zeros(tensor, shape) for tensor in config.inputs})
        for tensor in config.outputs:
            values = outputs[tensor.name]
            if not tensor.takes(values.shape[1:]):
                raise ModelError(
                    model, f"{tensor.name} is {list(values.shape)}, expected {list(tensor.shape)}"
                )
            if not np.isfinite(values.astype(np.float64)).all():
                raise ModelError(model, f"{tensor.name} holds values that are not finite")

    def _run(self, config: ModelConfig, inputs: Arrays) -> dict[str, Array]:
        return self._run_ensemble(config, inputs) if config.is_ensemble else self._run_graph(config, inputs)

    def _run_graph(self, config: ModelConfig, inputs: Arrays) -> dict[str, Array]:
        session = self._session(config.name)
        names = [tensor.name for tensor in config.outputs]
        # A graph without batch axis gets its one item bare, and its answers are given the axis back.
        is_batched = config.max_batch_size > 0
        feeds = {
            name: np.ascontiguousarray(array if is_batched else array[0]) for name, array in inputs.items()
        }
        try:
            answers = session.run(names, feeds)
        except MemoryError as error:
            raise OutOfResourcesError(f"{config.name}: not enough memory to run the model") from error
        except RUNTIME_ERRORS as error:
            raise _translated(config.name, error) from error
        return {
            name: answer if is_batched else np.asarray(answer)[np.newaxis]
            for name, answer in zip(names, answers, strict=True)
        }

    def _run_ensemble(self, config: ModelConfig, inputs: Arrays) -> dict[str, Array]:
        tensors: dict[str, Array] = dict(inputs)
        for step in config.steps:
            # Through infer: a member may take smaller batches than the ensemble.
            answer = self.infer(step.model, {name: tensors[of] for name, of in step.tensor_by_input.items()})
            tensors |= {tensor: answer[name] for name, tensor in step.tensor_by_output.items()}
        return {tensor.name: tensors[tensor.name] for tensor in config.outputs}

    def _session(self, model: str) -> onnxruntime.InferenceSession:
        # One lock for all: two callers must not load the same weights twice, and loading is rare.
        with self._lock:
            if model not in self._sessions:
                self._sessions[model] = _open(model, self._repository.weights_path(model), self._threads)
            return self._sessions[model]


def _open(model: str, path: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = ERRORS_ONLY
    # A spinning thread burns a core that the receiver needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except MemoryError as error:
        raise OutOfResourcesError(f"{model}: not enough memory to load the weights") from error
    except RUNTIME_ERRORS as error:
        raise _translated(model, error) from error


def _translated(model: str, error: Exception) -> ModelError | OutOfResourcesError:
    text = " ".join(str(error).split())[:300]
    if any(words in text for words in OUT_OF_MEMORY_WORDS):
        return OutOfResourcesError(f"{model}: {text}")
    return ModelError(model, f"ONNX Runtime: {text}")


def _batch_size(config: ModelConfig, inputs: Mapping[str, Array]) -> int:
    """Return the length of the batch axis; raises ModelError for inputs that the model does not take."""
    expected = {tensor.name for tensor in config.inputs}
    if inputs.keys() != expected:
        given = ", ".join(sorted(inputs)) or "none"
        raise ModelError(config.name, f"inputs are {given}, expected {', '.join(sorted(expected))}")
    for tensor in config.inputs:
        array = inputs[tensor.name]
        if array.dtype != tensor.dtype or not tensor.takes(array.shape[1:]) or array.size == 0:
            wanted = f"[batch, {', '.join(map(str, tensor.shape))}] {np.dtype(tensor.dtype)}"
            raise ModelError(
                config.name, f"{tensor.name} is {list(array.shape)} {array.dtype}, expected {wanted}"
            )
    sizes = {array.shape[0] for array in inputs.values()}
    if len(sizes) != 1:
        raise ModelError(config.name, f"inputs have batches of {sorted(sizes)}, expected one length")
    return int(sizes.pop())


def _zeros(tensor: Tensor, card_shape: tuple[int, ...]) -> Array:
    """Return an input of zeros, one in the batch; a length left open is the card's, else 1."""
    shape = card_shape if tensor.takes(card_shape) else tuple(max(length, 1) for length in tensor.shape)
    return np.zeros((1, *shape), dtype=tensor.dtype)
