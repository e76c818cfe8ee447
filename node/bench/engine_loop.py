"""An engine, called as a pipeline calls it, in a process of its own; `ways.py` talks to it."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from node.bench.bare_loop import Arrays, connect, serve
from node.engines.onnx import OnnxEngine
from node.engines.repository import ModelRepository
from node.engines.triton import TritonEngine, TritonSettings
from node.interfaces import Engine


def open_engine(plan: dict[str, Any]) -> Engine:
    """Return the engine of this plan: in this process, or on a server."""
    repository = ModelRepository(Path(plan["repository"]))
    if plan["triton"]:
        return TritonEngine(repository, TritonSettings(**plan["triton"]))
    return OnnxEngine(repository, plan["threads"])


def write_into_buffers(engine: Engine, inputs: Arrays) -> Arrays:
    """Return the inputs as a reader would have left them that writes where the engine has its buffers."""
    buffers = {name: engine.buffer(array.shape, array.dtype) for name, array in inputs.items()}
    for name, array in inputs.items():
        np.copyto(buffers[name], array)
    return buffers


if __name__ == "__main__":
    ours = connect()
    told = ours.recv()
    opened = open_engine(told)
    infer = partial(opened.infer, told["model"])
    if told["writes_into_buffers"]:
        serve(ours, infer, partial(write_into_buffers, opened))
    else:
        serve(ours, infer)
    opened.close()
