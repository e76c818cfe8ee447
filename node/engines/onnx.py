"""The engine in this process: ONNX Runtime on the CPU."""

from collections.abc import Callable
from pathlib import Path
from threading import Lock

import numpy as np
import numpy.typing as npt
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as runtime_errors

from node.domain.card import ModelCard
from node.domain.findings import Priority
from node.engines.repository import ModelConfig, ModelRepository
from node.engines.tensors import Array, batch_size, divide, join, require_outputs, zeros
from node.errors import ModelError, OutOfResourcesError
from node.interfaces import Arrays
from node.telemetry import Metrics

Run = Callable[[ModelConfig, Arrays], dict[str, Array]]

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

    def __init__(self, repository: ModelRepository, threads: int, metrics: Metrics | None = None) -> None:
        """Use at most `threads` threads a call; weights are loaded by the first call that needs them."""
        self._repository = repository
        self._threads = threads
        self._metrics = metrics or Metrics()
        self._sessions: dict[str, onnxruntime.InferenceSession] = {}
        self._lock = Lock()
        onnxruntime.disable_telemetry_events()

    def infer(self, model: str, inputs: Arrays) -> dict[str, Array]:
        """Return the named outputs, batch first; a batch the model cannot take is divided.

        Raises ModelError for an unknown model, an input of another shape or type than it takes, and an
        answer that is not what its configuration promises or holds no numbers.
        """
        return self._divided(self._repository.config(model), inputs, self._observed)

    def prioritized(self, priority: Priority) -> "OnnxEngine":
        """Return this engine: work does not queue here, so there is nothing to overtake."""
        del priority
        return self

    def buffer(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        """Return an array to be filled and given to `infer`."""
        return np.empty(shape, dtype)

    def card(self, model: str) -> ModelCard:
        """Return the card of a model; raises ModelError where there is none."""
        return self._repository.card(model)

    def check(self, model: str) -> None:
        """Raise ModelError unless the model is there, whole (sha256), and answers with numbers."""
        self._repository.verify(model)
        self.infer(model, zeros(self._repository.config(model), self.card(model).input_shape))

    def close(self) -> None:
        """Let the weights go."""
        with self._lock:
            self._sessions.clear()

    def _divided(self, config: ModelConfig, inputs: Arrays, run: Run) -> dict[str, Array]:
        size = batch_size(config, inputs)
        limit = config.max_batch_size or (size if config.is_ensemble else 1)
        return join([run(config, part) for part in divide(inputs, size, limit)])

    def _observed(self, config: ModelConfig, inputs: Arrays) -> dict[str, Array]:
        size = len(next(iter(inputs.values())))
        with self._metrics.observed_inference(config.name, size):
            outputs = self._run(config, inputs)
        require_outputs(config, outputs, size)
        return outputs

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
            # A member may take smaller batches than the ensemble.
            feeds = {name: tensors[tensor] for name, tensor in step.tensor_by_input.items()}
            answer = self._divided(self._repository.config(step.model), feeds, self._run)
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
