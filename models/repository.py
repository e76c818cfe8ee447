"""What Triton and the embedded engine read of the models, written from their cards and graphs.

`python -m models.repository triton_repo` writes it all anew; weights and cards stay as they are.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as config_pb2

from models import card, policy
from models.configuration import (
    WEIGHTS,
    Graph,
    Release,
    Tensor,
    combine_name,
    ensemble_config,
    graph_config,
    python_config,
    tensorrt_config,
)

SHIPPED = Path(__file__).resolve().parents[1] / "triton_repo"
PYTHON_MODEL = "model.py"
HEADER = "# Written by `python -m models.repository` from card.json and the graph: change the card.\n"
DATA_TYPES = {
    onnx.TensorProto.BOOL: config_pb2.TYPE_BOOL,
    onnx.TensorProto.UINT8: config_pb2.TYPE_UINT8,
    onnx.TensorProto.UINT16: config_pb2.TYPE_UINT16,
    onnx.TensorProto.INT8: config_pb2.TYPE_INT8,
    onnx.TensorProto.INT16: config_pb2.TYPE_INT16,
    onnx.TensorProto.INT32: config_pb2.TYPE_INT32,
    onnx.TensorProto.INT64: config_pb2.TYPE_INT64,
    onnx.TensorProto.FLOAT16: config_pb2.TYPE_FP16,
    onnx.TensorProto.FLOAT: config_pb2.TYPE_FP32,
    onnx.TensorProto.DOUBLE: config_pb2.TYPE_FP64,
}


class RepositoryError(RuntimeError):
    """A graph and its card do not belong together, or cannot be served."""


def read_graph(repository: Path, name: str) -> Graph:
    """Return what the ONNX file says; raises RepositoryError where a tensor has no batch axis first."""
    path = repository / name / "1" / WEIGHTS
    graph = onnx.load(path, load_external_data=False).graph
    constants = {initializer.name for initializer in graph.initializer}
    inputs = {value.name: _tensor(name, value) for value in graph.input if value.name not in constants}
    outputs = {value.name: _tensor(name, value) for value in graph.output}
    return Graph(name, inputs, outputs, file_digest(path))


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_graph(repository: Path, graph: Graph, release: Release) -> None:
    """Write all that a server needs beside the graph: three configurations, and a link to model.py."""
    folder = repository / graph.name
    _write(folder / "config.pbtxt", graph_config(graph, release))
    _write(folder / "configs" / "tensorrt.pbtxt", tensorrt_config(graph, release))
    _write(folder / "configs" / "python.pbtxt", python_config(graph, release))
    shared = repository / PYTHON_MODEL
    if repository.resolve() != SHIPPED:
        shutil.copyfile(SHIPPED / PYTHON_MODEL, shared)
    link = folder / "1" / PYTHON_MODEL
    link.unlink(missing_ok=True)
    link.symlink_to(Path("..", "..", PYTHON_MODEL))


def write_ensemble(repository: Path, name: str, members: Sequence[str], release: Release) -> None:
    """Write the configurations of an ensemble whose graphs are there already, and those of its graphs."""
    graphs = [read_graph(repository, model) for model in (*members, combine_name(name))]
    for graph in graphs:
        write_graph(repository, graph, release)
    # Triton wants a version folder for an ensemble too, and git keeps no empty one.
    folder = repository / name
    (folder / "1").mkdir(parents=True, exist_ok=True)
    (folder / "1" / ".gitkeep").touch()
    _write(folder / "config.pbtxt", ensemble_config(name, graphs[:-1], graphs[-1], release))


def write_all(repository: Path) -> list[str]:
    """Write the configurations of every model that has a card; return their names.

    Raises RepositoryError where the weights are not those that a card names, PolicyError for a bad card.
    """
    written = []
    for name, document in _cards(repository):
        release = Release(document["version"], policy.from_card(document.get("serving", {})))
        own = [{"model": name, "sha256": document.get("sha256")}]
        digests = {entry["model"]: entry["sha256"] for entry in document.get("weights", own)}
        for model, digest in digests.items():
            _compare(repository / model / "1" / WEIGHTS, digest)
        members = [model for model in digests if model not in (name, combine_name(name))]
        if members:
            write_ensemble(repository, name, members, release)
        else:
            write_graph(repository, read_graph(repository, name), release)
        written += sorted({name, *digests})
    return written


def _cards(repository: Path) -> Iterator[tuple[str, card.Json]]:
    """Yield the models that are asked by name, with their cards; their members are `part_of` them."""
    for path in sorted(repository.glob("*/card.json")):
        document = card.read_card(path.parent)
        if "part_of" not in document:
            yield path.parent.name, document


def _compare(path: Path, digest: str) -> None:
    if (actual := file_digest(path)) != digest:
        raise RepositoryError(f"{path} has sha256 {actual}, the card says {digest}")


def _tensor(model: str, value: onnx.ValueInfoProto) -> Tensor:
    described = value.type.tensor_type
    batch, *rest = described.shape.dim or [onnx.TensorShapeProto.Dimension(dim_value=1)]
    if not batch.dim_param:
        raise RepositoryError(f"{model}: {value.name} has no batch axis first, which batching needs")
    shape = tuple(axis.dim_value if axis.HasField("dim_value") else -1 for axis in rest)
    return Tensor(DATA_TYPES[described.elem_type], shape)


def _write(path: Path, config: config_pb2.ModelConfig) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(HEADER + text_format.MessageToString(config), encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Read the command line and write; 0 done, 1 failed."""
    parser = argparse.ArgumentParser(prog="python -m models.repository", description=__doc__)
    parser.add_argument("repository", type=Path)
    options = parser.parse_args(arguments)
    try:
        written = write_all(options.repository)
    except (FileNotFoundError, RepositoryError, policy.PolicyError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"written: the configurations of {', '.join(written)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
