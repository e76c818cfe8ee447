"""Run exported graphs as the node's engine would, for calibration, evaluation and parity."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from google.protobuf import text_format
from numpy.typing import NDArray
from tritonclient.grpc import model_config_pb2

Arrays = dict[str, NDArray[Any]]
BATCH = 16


def open_graph(path: Path, threads: int = 2) -> onnxruntime.InferenceSession:
    """Return a session on one ONNX file."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run_graph(session: onnxruntime.InferenceSession, inputs: Arrays) -> Arrays:
    """Return the named outputs of one graph."""
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def run_in_batches(session: onnxruntime.InferenceSession, images: NDArray[Any]) -> Arrays:
    """Return the named outputs for images (n, …), which may be more than fit into memory at once."""
    parts = [
        run_graph(session, {"image": images[start : start + BATCH, None]})
        for start in range(0, len(images), BATCH)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


class EnsembleGraphs:
    """The graphs of one ensemble of a model repository, run in the order that its config.pbtxt lists."""

    def __init__(self, repository: Path, name: str) -> None:
        """Open every graph; raises FileNotFoundError where the repository lacks one."""
        config = text_format.Parse(
            (repository / name / "config.pbtxt").read_text(), model_config_pb2.ModelConfig()
        )
        self.steps = list(config.ensemble_scheduling.step)
        self.outputs = [output.name for output in config.output]
        self.sessions = {step.model_name: _open(repository, step.model_name) for step in self.steps}

    @property
    def members(self) -> list[str]:
        """The models that read the image themselves."""
        return [step.model_name for step in self.steps if "image" in step.input_map]

    def infer(self, images: Iterable[NDArray[Any]], also: Sequence[str] = ()) -> Arrays:
        """Return the outputs for images without their channel axis, run in small batches.

        `also` names tensors that pass between the graphs and are wanted too.
        """
        names = [*self.outputs, *also]
        pending, answers = list(images), []
        for start in range(0, len(pending), BATCH):
            tensors = self._infer_batch(np.stack(pending[start : start + BATCH])[:, None])
            answers.append({name: tensors[name] for name in names})
        return {name: np.concatenate([answer[name] for answer in answers]) for name in names}

    def _infer_batch(self, batch: NDArray[Any]) -> Arrays:
        tensors: Arrays = {"image": batch}
        for step in self.steps:
            inputs = {key: tensors[tensor] for key, tensor in step.input_map.items()}
            answer = run_graph(self.sessions[step.model_name], inputs)
            tensors.update({tensor: answer[key] for key, tensor in step.output_map.items()})
        return tensors


def _open(repository: Path, name: str) -> onnxruntime.InferenceSession:
    path = repository / name / "1" / "model.onnx"
    if not path.is_file():
        raise FileNotFoundError(f"no {path}; write it with: python -m models.export")
    return open_graph(path)
