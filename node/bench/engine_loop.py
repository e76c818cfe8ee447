"""The engine, called as a pipeline calls it, in a process of its own; `inference.py` talks to it."""

from functools import partial
from pathlib import Path

from node.bench.bare_loop import connect, serve
from node.engines.onnx import OnnxEngine
from node.engines.repository import ModelRepository

if __name__ == "__main__":
    ours = connect()
    plan = ours.recv()
    engine = OnnxEngine(ModelRepository(Path(plan["repository"])), plan["threads"])
    serve(ours, partial(engine.infer, plan["model"]))
