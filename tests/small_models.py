"""A repository of small models that a real Triton server runs, and engines on it."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from onnx import helper

from node.engines.owner import Owner
from node.engines.repository import ModelRepository
from node.engines.triton import TritonEngine, TritonSettings
from node.telemetry import Metrics
from tests.models import (
    ONE_INSTANCE,
    arithmetic,
    batch_length,
    card,
    config,
    graph,
    serve_by_python,
    step,
    write_model,
)
from tests.peers import REPOSITORY, wait_until
from tests.peers.triton import SHARED_MEMORY

DOUBLE, ADD_ONE = arithmetic("Mul", 2.0), arithmetic("Add", 1.0)
LARGE = 1 << 19
"""Numbers of an input that goes by shared memory: 2 MiB."""

TWICE_LARGE = arithmetic("Mul", 2.0, shape=(LARGE,))
BARE = arithmetic("Add", 1.0, batch=())
ITEMS = np.arange(14, dtype=np.float32).reshape(7, 2)
IN_CLASSES = "dynamic_batching { priority_levels: 3 default_priority_level: 3 }"
IN_BATCHES = "dynamic_batching { max_queue_delay_microseconds: 300000 }"
RADIOGRAPH: dict[str, Any] = {
    "classes": [{"name": "Pneumonia", "code": ["233604007", "SCT", "Pneumonia"], "threshold": 0.25}],
    "eligibility": {
        "requirements": [{"name": "modality", "when": {"modality": ["DX"]}, "reason": "is not DX"}]
    },
}
SLOW_MODEL = REPOSITORY / "tests" / "peers" / "slow_model.py"
PROMISES = TritonSettings(url="", timeout_s=20, patience_s=40)

HOLD, HOLD_TOO = -1.0, -2.0
"""What the slow models are asked to have them wait for a file; each its own."""

Array = np.ndarray[Any, np.dtype[np.generic]]
NewEngine = Callable[..., TritonEngine]


def write_small_models(path: Path) -> Path:
    """Models that double, add one, both in a row; without batch axis; large; slow; that tell their batch."""
    write_slow(path, "slow", 2, max_batch_size=1)
    write_slow(path, "slow_large", LARGE)
    write_model(
        path,
        config("length", max_batch_size=8),
        weights=batch_length(),
        document=card("length", {"length": batch_length()}),
    )
    serve_by_python(path, f"{IN_BATCHES} {ONE_INSTANCE}")
    write_model(path, config("double"), weights=DOUBLE, document=card("double", {"double": DOUBLE}))
    write_model(path, config("add_one", max_batch_size=3), weights=ADD_ONE)
    steps = step("double", "x", "between") + step("add_one", "between", "y")
    document = card("chain", {"double": DOUBLE, "add_one": ADD_ONE})
    write_model(path, config("chain", max_batch_size=3, steps=steps), document=document)
    write_model(path, config("bare", max_batch_size=0), weights=BARE, document=card("bare", {"bare": BARE}))
    write_model(
        path,
        config("large", shape=(LARGE,)),
        weights=TWICE_LARGE,
        document=card("large", {"large": TWICE_LARGE}, input={"shape": [LARGE]}),
    )
    greatest = graph(
        [helper.make_node("ReduceMax", ["x"], ["y"], axes=[1])], {"x": ["batch", LARGE]}, {"y": ["batch", 1]}
    )
    text = config("greatest", shape=(LARGE,)).replace(
        f'name: "y" data_type: TYPE_FP32 dims: [ {LARGE} ]', 'name: "y" data_type: TYPE_FP32 dims: [ 1 ]'
    )
    document = card("greatest", {"greatest": greatest}, input={"shape": [LARGE]})
    write_model(path, text, weights=greatest, document=document)
    serve_by_python(path)
    return path


def write_slow(path: Path, model: str, numbers: int, *, max_batch_size: int = 4) -> None:
    """Write a model that takes the seconds that its input says, and gives it back as a score."""
    weights = arithmetic("Add", 0.0, shape=(numbers,))
    document = card(model, {model: weights}, input={"shape": [numbers]}, **RADIOGRAPH)
    text = config(model, max_batch_size=max_batch_size, shape=(numbers,))
    write_model(path, text, weights=weights, document=document)
    serve_by_python(path, f"{IN_CLASSES} {ONE_INSTANCE}", program=SLOW_MODEL)
    notes_of(path, model).mkdir(parents=True)


def notes_of(path: Path, model: str) -> Path:
    """Return the folder where a slow model and the test leave each other notes."""
    return path.with_name("notes") / model


def hold(path: Path, model: str) -> None:
    """Have a slow model hold what it is asked to hold, and forget in which order it was asked."""
    for pattern in ("held*", "go*", "order"):
        for file in notes_of(path, model).glob(pattern):
            file.unlink()


def wait_until_held(path: Path, model: str, gate: float = HOLD) -> None:
    """Wait until a slow model works on a request that it was asked to hold."""
    wait_until((notes_of(path, model) / f"held{gate:g}").exists, f"{model} is held")


def let_go(path: Path, model: str, gate: float = HOLD) -> None:
    """Have a slow model answer what it holds, and hold nothing more."""
    (notes_of(path, model) / f"go{gate:g}").touch()


def order_of(path: Path, model: str) -> list[float]:
    """Return the numbers that a slow model was asked for, in the order in which it began them."""
    return [float(line) for line in (notes_of(path, model) / "order").read_text().split()]


@contextmanager
def held(path: Path, model: str) -> Iterator[None]:
    """Have a slow model hold what it is asked to hold, until the end of the block."""
    hold(path, model)
    try:
        yield
    finally:
        let_go(path, model)


def regions_left(pid: int | None = None) -> list[Path]:
    """Return the names in shared memory that this process, or another node's, has left there."""
    return list(SHARED_MEMORY.glob(f"{Owner.PREFIX}*-{pid or os.getpid()}-*-*"))


def make_engine(url: str, path: Path, metrics: Metrics | None = None, **changes: Any) -> TritonEngine:
    """Return an engine that waits no longer than a test may."""
    return TritonEngine(ModelRepository(path), replace(PROMISES, url=url, **changes), metrics)


def seconds(value: float) -> Array:
    """Return the item that takes the slow model so long."""
    return np.array([[value, 0]], dtype=np.float32)


def large(value: float = 1.0, items: int = 1) -> Array:
    """Items for the large models, all of one number."""
    return np.full((items, LARGE), value, dtype=np.float32)
