"""A model that looks at a large volume and does next to nothing with it: what is measured is the way there.

Written here byte by byte, for the node itself does without the package that writes ONNX files.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from node.engines.triton_server import TritonServer
from node.errors import EngineUnavailableError, SightlineError

NAME = "sightline_bench_volume"
WEIGHTS = "model.onnx"
VERSION = "1"
IR_VERSION, OPSET = 8, 17
FLOAT, INT16, INT64 = 1, 5, 7
"""Element types (onnx.proto, TensorProto.DataType)."""

INT_ATTRIBUTE = 2
PROGRAM = "model.py"
"""What serves an ONNX file by Triton's Python backend; it lies in the repository beside the models."""


def write_volume_model(repository: Path, shape: tuple[int, ...]) -> None:
    """Write a model that adds up the first, the middle and the last slice of a volume (z, y, x) of int16."""
    folder = repository / NAME
    (folder / VERSION).mkdir(parents=True)
    weights = _model(shape)
    (folder / VERSION / WEIGHTS).write_bytes(weights)
    (folder / "config.pbtxt").write_text(_config_text(shape))
    card = {
        "name": NAME,
        "version": VERSION,
        "intended_use": "to measure how a volume gets to a model",
        "input": {"shape": list(shape)},
        "classes": [],
        "eligibility": {"requirements": []},
        "sha256": hashlib.sha256(weights).hexdigest(),
    }
    (folder / "card.json").write_text(json.dumps(card))


@contextmanager
def loaded_on(server: TritonServer, repository: Path, program: Path) -> Iterator[None]:
    """Have a server in explicit mode serve the model from these files, until the end of the block.

    `program` serves it where the server has no onnxruntime backend. Raises EngineUnavailableError where the
    server loads nothing that it is not told of at its start.
    """
    weights = (repository / NAME / VERSION / WEIGHTS).read_bytes()
    card = json.loads((repository / NAME / "card.json").read_text())
    config = _server_config(tuple(card["input"]["shape"]), card["sha256"])
    files = {f"file:{VERSION}/{WEIGHTS}": weights}
    try:
        server.load(NAME, config=json.dumps(config | {"backend": "onnxruntime"}), files=files)
    except SightlineError as error:
        if not program.is_file():
            raise EngineUnavailableError(server.url, f"cannot load {NAME}: {error}") from error
        files[f"file:{VERSION}/{PROGRAM}"] = program.read_bytes()
        server.load(NAME, config=json.dumps(config | {"backend": "python"}), files=files)
    try:
        yield
    finally:
        server.unload(NAME)


def _server_config(shape: tuple[int, ...], digest: str) -> dict[str, Any]:
    parameters = {
        "sha256": digest,
        "version": VERSION,
        "intra_op_thread_count": "1",
        "inter_op_thread_count": "1",
    }
    return {
        "name": NAME,
        "max_batch_size": 0,
        "input": [{"name": "x", "data_type": "TYPE_INT16", "dims": list(shape)}],
        "output": [{"name": "y", "data_type": "TYPE_FP32", "dims": [1] * len(shape)}],
        "instance_group": [{"count": 1, "kind": "KIND_CPU"}],
        "parameters": {name: {"string_value": value} for name, value in parameters.items()},
    }


def _config_text(shape: tuple[int, ...]) -> str:
    sides = [("input", "x", "TYPE_INT16", shape), ("output", "y", "TYPE_FP32", (1,) * len(shape))]
    tensors = "".join(
        f'{side} {{ name: "{name}" data_type: {kind} dims: {list(dims)} }}\n'
        for side, name, kind, dims in sides
    )
    return f'name: "{NAME}"\nbackend: "onnxruntime"\nmax_batch_size: 0\n{tensors}'


# --- the ONNX file: fields by their numbers in onnx.proto


def _model(shape: tuple[int, ...]) -> bytes:
    slices = (0, shape[0] // 2, shape[0] - 1)
    indices = _field(1, len(slices)) + _field(2, INT64) + b"".join(_field(7, one) for one in slices)
    nodes = (
        _node("Gather", ("x", "slices"), "some", axis=0),
        _node("Cast", ("some",), "numbers", to=FLOAT),
        _node("ReduceSum", ("numbers",), "y", keepdims=1),
    )
    graph = b"".join(_field(1, node) for node in nodes) + _field(2, NAME)
    graph += _field(5, indices + _field(8, "slices"))
    graph += _field(11, _value("x", INT16, shape)) + _field(12, _value("y", FLOAT, (1,) * len(shape)))
    return _field(1, IR_VERSION) + _field(7, graph) + _field(8, _field(1, "") + _field(2, OPSET))


def _node(operator: str, inputs: tuple[str, ...], output: str, **attributes: int) -> bytes:
    content = b"".join(_field(1, name) for name in inputs) + _field(2, output) + _field(4, operator)
    for name, value in attributes.items():
        content += _field(5, _field(1, name) + _field(3, value) + _field(20, INT_ATTRIBUTE))
    return content


def _value(name: str, kind: int, shape: tuple[int, ...]) -> bytes:
    dims = b"".join(_field(1, _field(1, length)) for length in shape)
    return _field(1, name) + _field(2, _field(1, _field(1, kind) + _field(2, dims)))


def _field(number: int, value: int | str | bytes) -> bytes:
    """Return one field of a protobuf message: a varint, or a length and that many bytes."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    content = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    parts = [value & 0x7F]
    while value := value >> 7:
        parts.append(value & 0x7F)
    return bytes([*(part | 0x80 for part in parts[:-1]), parts[-1]])
