"""A model repository made on the spot: tiny ONNX graphs, their configurations and a card."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

from tests.peers.triton import TRITON_REPO

OPSET = 17
# The oldest that knows OPSET: newer ones are refused by older runtimes.
IR_VERSION = 8
VERSION = "1.2.3"
ONE_INSTANCE = "instance_group { count: 1 kind: KIND_CPU }"


def graph(nodes: Sequence[onnx.NodeProto], inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> bytes:
    """Return an ONNX model of float32 tensors, each name with its shape."""
    values = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in tensors.items()]
        for tensors in (inputs, outputs)
    ]
    model = helper.make_model(
        helper.make_graph(list(nodes), "test", *values),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    return bytes(model.SerializeToString())


def constant(name: str, value: float) -> onnx.NodeProto:
    """Return a node that gives one number."""
    tensor = helper.make_tensor("value", TensorProto.FLOAT, [], [value])
    return helper.make_node("Constant", [], [name], value=tensor)


def arithmetic(
    operator: str, value: float, *, batch: Sequence[object] = ("batch",), shape: Sequence[int] = (2,)
) -> bytes:
    """Return the graph y = x `operator` value, for x of [batch, shape]."""
    nodes = [constant("c", value), helper.make_node(operator, ["x", "c"], ["y"])]
    return graph(nodes, {"x": [*batch, *shape]}, {"y": [*batch, *shape]})


def batch_length() -> bytes:
    """Return a graph whose every answer is the length of the batch it came in."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"], end=1),
        helper.make_node("Cast", ["shape"], ["length"], to=TensorProto.FLOAT),
        constant("zero", 0.0),
        helper.make_node("Mul", ["x", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "length"], ["y"]),
    ]
    return graph(nodes, {"x": ["batch", 2]}, {"y": ["batch", 2]})


def config(name: str, *, max_batch_size: int = 4, steps: str = "", shape: Sequence[int] = (2,)) -> str:
    """Return the text of config.pbtxt for x to y, both of this shape."""
    kind = f'platform: "ensemble"\nensemble_scheduling {{ {steps} }}' if steps else 'backend: "onnxruntime"'
    dims = ", ".join(map(str, shape))
    tensor = f'{{{{ name: "{{}}" data_type: TYPE_FP32 dims: [ {dims} ] }}}}'
    entries = f"input {tensor.format('x')}\noutput {tensor.format('y')}"
    version = parameters({"version": VERSION})
    return f'name: "{name}"\nmax_batch_size: {max_batch_size}\n{entries}\n{kind}\n{version}'


def parameters(values: Mapping[str, str]) -> str:
    """Return the text of config.pbtxt for these parameters."""
    entry = 'parameters {{ key: "{}" value {{ string_value: "{}" }} }}\n'
    return "".join(entry.format(key, value) for key, value in values.items())


def step(model: str, source: str, target: str) -> str:
    """Return one step of an ensemble, from its tensor `source` to its tensor `target`."""
    maps = f'input_map {{ key: "x" value: "{source}" }} output_map {{ key: "y" value: "{target}" }}'
    return f'step {{ model_name: "{model}" model_version: -1 {maps} }}'


def card(model: str, weights: Mapping[str, bytes], **changes: object) -> dict[str, Any]:
    """Return a card for a model with one class."""
    return {
        "name": model,
        "version": VERSION,
        "intended_use": "tests",
        "input": {"name": "x", "shape": [2]},
        "eligibility": {
            "requirements": [{"name": "modality", "when": {"modality": ["CR"]}, "reason": "is not CR"}]
        },
        "classes": [{"name": "One", "code": ["1", "99TEST", "One"], "threshold": 0.25}],
        "parameters": ["size=2"],
        "weights": [
            {"model": member, "sha256": hashlib.sha256(content).hexdigest()}
            for member, content in weights.items()
        ],
        **changes,
    }


def write_model(
    repository: Path, text: str, *, weights: bytes | None = None, document: dict[str, Any] | None = None
) -> None:
    """Write one model's folder; its name is the one in the configuration."""
    folder = repository / text.split('"')[1]
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(text)
    if weights is not None:
        (folder / "1" / "model.onnx").write_bytes(weights)
    if document is not None:
        (folder / "card.json").write_text(json.dumps(document))


def serve_by_python(repository: Path, text: str = "", *, program: Path = TRITON_REPO / "model.py") -> None:
    """Give each model what a server without the onnxruntime backend needs of it; `text` is put behind it.

    Models that have it already keep it.
    """
    for path in repository.glob("*/config.pbtxt"):
        folder = path.parent / "1"
        folder.mkdir(exist_ok=True)
        weights, form = folder / "model.onnx", path.parent / "configs" / "python.pbtxt"
        if not weights.is_file() or form.exists():
            continue
        digest = hashlib.sha256(weights.read_bytes()).hexdigest()
        stated = parameters(
            {
                "sha256": digest,
                "weights": weights.name,
                "intra_op_thread_count": "1",
                "inter_op_thread_count": "1",
            }
        )
        by_python = path.read_text().replace("onnxruntime", "python")
        form.parent.mkdir()
        form.write_text(f"{by_python}{stated}{text or ONE_INSTANCE}\n")
        (folder / "model.py").write_text(program.read_text())
