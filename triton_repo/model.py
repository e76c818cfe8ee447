"""Serves the model.onnx beside it by Triton's Python backend, for a server without the onnxruntime backend.

One file for all models: each version folder has a link to it. The server's scheduler puts batches together,
orders them by priority and refuses them after their time, as the configuration says; here they are only run.
"""

import ctypes
import hashlib
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import triton_python_backend_utils as pb_utils

WEIGHTS = "model.onnx"
ERRORS_ONLY = 3

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Options of glibc's mallopt (malloc.h)."""

Arrays = dict[str, npt.NDArray[Any]]


class TritonPythonModel:
    """One instance of one model, in a process of its own."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the graph and run it once; raises ValueError for other weights than config.pbtxt names."""
        config = json.loads(args["model_config"])
        parameters = {name: value["string_value"] for name, value in config["parameters"].items()}
        path = Path(args["model_repository"], args["model_version"], WEIGHTS)
        with path.open("rb") as weights:
            digest = hashlib.file_digest(weights, "sha256").hexdigest()
        if digest != parameters["sha256"]:
            raise ValueError(f"{WEIGHTS} has sha256 {digest}, the configuration says {parameters['sha256']}")
        self._is_batched = int(config["max_batch_size"]) > 0
        self._outputs = [entry["name"] for entry in config["output"]]
        self._session = _open(path, int(parameters["intra_op_thread_count"]))
        # Not by model_warmup: a warm-up that fails ends this server (2.51.0), all its models with it.
        self._run({entry["name"]: _zeros(entry, is_batched=self._is_batched) for entry in config["input"]})
        _keep_freed_memory()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer the requests that the scheduler put together by one run of the graph."""
        batches = [_arrays(request) for request in requests]
        if self._is_batched and len(batches) > 1:
            try:
                return self._answer_together(batches)
            except Exception:
                # Nobody's request may fail for the fault of another: each for itself then.
                pb_utils.Logger.log_warn(
                    f"a batch of {len(batches)} requests failed: running each for itself"
                )
        return [self._answer(batch) for batch in batches]

    def _answer_together(self, batches: Sequence[Arrays]) -> list[Any]:
        names = batches[0]
        outputs = self._run({name: np.concatenate([batch[name] for batch in batches]) for name in names})
        ends = np.cumsum([0, *(len(next(iter(batch.values()))) for batch in batches)])
        return [
            _response({name: values[start:end] for name, values in outputs.items()})
            for start, end in pairwise(ends)
        ]

    def _answer(self, batch: Arrays) -> Any:
        try:
            return _response(self._run(batch))
        except Exception as error:
            # An exception that leaves execute() fails all requests: here it fails this one.
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"{type(error).__name__}: {error}"))

    def _run(self, batch: Arrays) -> Arrays:
        return dict(zip(self._outputs, self._session.run(self._outputs, batch), strict=True))


def _open(path: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = ERRORS_ONLY
    # A thread that spins while it waits takes a core from the other members of the ensemble.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _keep_freed_memory() -> None:
    """Have what one request needed serve the next one too.

    Triton hands each input over as a copy. For a large one glibc takes new pages from the system and gives them
    back at the end: of the 45 ms that a volume of 157 MB is in here, 30 ms.
    """
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


def _zeros(entry: dict[str, Any], *, is_batched: bool) -> npt.NDArray[Any]:
    shape = [1] * is_batched + [abs(int(length)) for length in entry["dims"]]
    return np.zeros(shape, pb_utils.triton_string_to_numpy(entry["data_type"]))


def _arrays(request: Any) -> Arrays:
    return {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}


def _response(outputs: Arrays) -> Any:
    return pb_utils.InferenceResponse(
        output_tensors=[pb_utils.Tensor(name, values) for name, values in outputs.items()]
    )
