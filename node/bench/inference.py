"""How fast the engine runs a model, beside a bare ONNX Runtime loop over the same files."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

import node
from node.config import EngineSettings
from node.engines.repository import ModelConfig, ModelRepository
from node.errors import ModelError
from node.imaging.intensity import prepare_radiograph
from node.interfaces import Arrays
from node.samples.thorax import thorax_radiograph

ENGINE, BARE, BARE_QUIET = "engine", "bare", "bare_without_spinning"
PEERS: Mapping[str, str] = MappingProxyType(
    {
        BARE: "bare loop, ONNX Runtime's defaults",
        BARE_QUIET: "bare loop, its threads not spinning",
    }
)
FOLDER = Path(__file__).parent
WARM_UP = 3
ROUND = 5
"""Images that one way takes in a row: many turns spread whatever else the machine does over all ways."""

PAUSE_S = 0.05
"""Between turns: threads that spin when their work is done must not burn the cores of who comes next."""

MAX_DIFFERENCE = 1e-4
"""Between the outputs of two ways: same files, same runtime, only the order of additions may differ."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What one way took: the seconds of each image, and the peak resident memory of its process."""

    seconds: tuple[float, ...] = ()
    peak_memory_bytes: int = 0

    @property
    def images_per_s(self) -> float:
        """The throughput, images one by one."""
        return len(self.seconds) / sum(self.seconds)

    def latency_ms(self, percent: float) -> float:
        """Return the latency that this share of the images did not pass."""
        return 1000 * float(np.percentile(self.seconds, percent))


@dataclass(frozen=True, slots=True)
class InferenceBench:
    """The figures of the engine and of each peer, by its name."""

    model: str
    version: str
    threads: int
    input_shape: tuple[int, ...]
    figures_by_way: Mapping[str, Figures]

    def ratio(self, peer: str) -> float:
        """Return the throughput of the engine as a multiple of that of a peer."""
        return self.figures_by_way[ENGINE].images_per_s / self.figures_by_way[peer].images_per_s


def bench_inference(
    settings: EngineSettings, model: str, images: int, *, on_round: Callable[[int], object]
) -> InferenceBench:
    """Run that many synthetic radiographs one by one through the engine and through each peer, in turns.

    `on_round` is told, after each turn of all, how many images each has had. Raises ModelError for a model
    that is missing or damaged, takes no radiograph, or answers differently in a bare loop.
    """
    repository = ModelRepository(settings.repository)
    repository.verify(model)
    card, config = repository.card(model), repository.config(model)
    _require_radiographs(config, card.input_shape)
    figures_by_way = {way: Figures() for way in (ENGINE, *PEERS)}
    with _ways(repository, config, settings.threads) as ways:
        inputs = _inputs(config, card.input_shape[-1])
        _take_turns(ways, [next(inputs) for _ in range(WARM_UP)])
        done = 0
        while done < images:
            batch = [next(inputs) for _ in range(min(ROUND, images - done))]
            # Each comes first in its turn, so that a change of load in mid-round favors none.
            ways = [*ways[1:], ways[0]]
            for way, turn in _take_turns(ways, batch).items():
                seconds = figures_by_way[way].seconds + turn.seconds
                figures_by_way[way] = Figures(seconds, turn.peak_memory_bytes)
            done += len(batch)
            on_round(done)
    return InferenceBench(model, card.version, settings.threads, card.input_shape, figures_by_way)


def _require_radiographs(config: ModelConfig, shape: tuple[int, ...]) -> None:
    is_square = len(shape) == 3 and shape[0] == 1 and shape[1] == shape[2] > 0
    is_taken = [tensor.dtype is np.float32 and tensor.takes(shape) for tensor in config.inputs] == [True]
    if not is_square or not is_taken or not config.max_batch_size:
        raise ModelError(config.name, "does not take one radiograph, [batch, 1, size, size] float32")


def _inputs(config: ModelConfig, size: int) -> Iterator[Arrays]:
    """Yield prepared radiographs, each of another body, every other one with a finding."""
    (tensor,) = config.inputs
    for seed in range(1 << 30):
        film = thorax_radiograph(seed, finding="consolidation" if seed % 2 else None, size=size)
        yield {tensor.name: prepare_radiograph(film.pixels, size)[np.newaxis, np.newaxis]}


@dataclass(frozen=True, slots=True)
class _Way:
    """One way to run the model, in a process of its own."""

    name: str
    model: str
    process: "subprocess.Popen[bytes]"
    connection: Connection

    def run(self, batch: Sequence[Arrays]) -> tuple[Figures, Arrays]:
        """Return what the inputs took, the peak memory that of all so far, and the outputs of the last."""
        try:
            self.connection.send(batch)
            seconds, outputs, peak_memory_bytes = self.connection.recv()
        except (EOFError, OSError) as error:
            status = self.process.wait()
            raise ModelError(self.model, f"{self.name}: its process ended with status {status}") from error
        return Figures(tuple(seconds), peak_memory_bytes), outputs


def _take_turns(ways: Sequence[_Way], batch: Sequence[Arrays]) -> dict[str, Figures]:
    """Return what each way took; raises ModelError where their outputs differ."""
    taken, outputs_by_way = {}, {}
    for way in ways:
        time.sleep(PAUSE_S)
        taken[way.name], outputs_by_way[way.name] = way.run(batch)
    for way in ways:
        for name, expected in outputs_by_way[ENGINE].items():
            if not np.allclose(outputs_by_way[way.name][name], expected, rtol=0, atol=MAX_DIFFERENCE):
                raise ModelError(way.model, f"{name} of the {way.name} loop is not that of the engine")
    return taken


@contextmanager
def _ways(repository: ModelRepository, config: ModelConfig, threads: int) -> Iterator[list[_Way]]:
    """Start the process of the engine and of each peer; they end with the block."""
    bare: dict[str, Any] = {"graphs": _graphs(repository, config), "threads": threads}
    plans: dict[str, tuple[str, dict[str, Any]]] = {
        ENGINE: (
            "engine_loop.py",
            {"repository": str(repository.path), "model": config.name, "threads": threads},
        ),
        BARE: ("bare_loop.py", bare | {"is_spinning": True}),
        BARE_QUIET: ("bare_loop.py", bare | {"is_spinning": False}),
    }
    with ExitStack() as stack:
        yield [
            stack.enter_context(_started(name, config.name, program, plan))
            for name, (program, plan) in plans.items()
        ]


def _graphs(
    repository: ModelRepository, config: ModelConfig
) -> list[tuple[str, dict[str, str], dict[str, str]]]:
    """Return each file in the order in which it runs, with its tensors by input and by output."""
    if not config.is_ensemble:
        names = [{tensor.name: tensor.name for tensor in each} for each in (config.inputs, config.outputs)]
        return [(str(repository.weights_path(config.name)), names[0], names[1])]
    return [
        (str(repository.weights_path(step.model)), dict(step.tensor_by_input), dict(step.tensor_by_output))
        for step in config.steps
    ]


@contextmanager
def _started(name: str, model: str, program: str, plan: dict[str, Any]) -> Iterator[_Way]:
    ours, theirs = socket.socketpair()
    with theirs:
        number = theirs.fileno()
        # -P: no module of the standard library may be taken from the program's folder.
        process = subprocess.Popen(  # noqa: S603 - this interpreter, a program of ours
            [sys.executable, "-P", str(FOLDER / program), str(number)],
            pass_fds=[number],
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(Path(node.__file__).parents[1])},
        )
    with Connection(ours.detach()) as connection:
        try:
            connection.send(plan)
            yield _Way(name, model, process, connection)
        finally:
            process.kill()
            process.wait()
