"""The ways to run a model that are measured beside each other, each in a process of its own."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import MappingProxyType
from typing import Any

import node
from node.engines.repository import ModelConfig, ModelRepository
from node.engines.shared_memory import Limits
from node.errors import ModelError
from node.interfaces import Arrays

BARE, BARE_QUIET, ENGINE = "bare", "bare_without_spinning", "engine"
TRITON_MESSAGE, TRITON_SHARED = "triton_message", "triton_shared_memory"
TRITON_WRITTEN = "triton_written_there"
WORDS: Mapping[str, str] = MappingProxyType(
    {
        BARE: "bare loop, ONNX Runtime's defaults",
        BARE_QUIET: "bare loop, its threads not spinning",
        ENGINE: "engine in the node's process",
        TRITON_MESSAGE: "Triton, arrays in the message",
        TRITON_SHARED: "Triton, arrays copied into shared memory",
        TRITON_WRITTEN: "Triton, arrays already written there",
    }
)
FOLDER = Path(__file__).parent
STANDARD_ERROR = 2
TIMEOUT_S = 120.0
LIMITS = Limits(all_bytes=4 << 30, large_bytes=1)
"""Enough for eight of the largest inputs at a time; the smallest go that way too, to be measured."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What one way took: the seconds of each image, those of all, and the peak memory of its process."""

    seconds: tuple[float, ...] = ()
    wall_s: float = 0.0
    peak_memory_bytes: int = 0

    @property
    def images_per_s(self) -> float:
        """The throughput, however many images at a time."""
        return len(self.seconds) / self.wall_s

    @property
    def median_ms(self) -> float:
        """The latency that half of the images did not pass."""
        return self.latency_ms(50)

    def latency_ms(self, percent: float) -> float:
        """Return the latency that this share of the images did not pass."""
        ordered = sorted(self.seconds)
        place = percent / 100 * (len(ordered) - 1)
        low, part = int(place), place % 1
        high = min(low + 1, len(ordered) - 1)
        return 1000 * (ordered[low] + part * (ordered[high] - ordered[low]))

    def __add__(self, other: "Figures") -> "Figures":
        """Return the figures of both turns; the memory is that of the later one."""
        return Figures(self.seconds + other.seconds, self.wall_s + other.wall_s, other.peak_memory_bytes)


@dataclass(frozen=True, slots=True)
class Way:
    """One way to run the model."""

    name: str
    model: str
    process: "subprocess.Popen[bytes]"
    connection: Connection

    def run(self, batch: Sequence[object], concurrency: int) -> tuple[Figures, Arrays]:
        """Return what the inputs took, the peak memory of all so far, and the outputs of the last."""
        try:
            self.connection.send((batch, concurrency))
            seconds, wall_s, outputs, peak_memory_bytes = self.connection.recv()
        except (EOFError, OSError) as error:
            status = self.process.wait()
            raise ModelError(self.model, f"{self.name}: its process ended with status {status}") from error
        return Figures(tuple(seconds), wall_s, peak_memory_bytes), outputs


@contextmanager
def started(
    repository: ModelRepository, config: ModelConfig, threads: int, triton_url: str
) -> Iterator[list[Way]]:
    """Start the process of every way; they end with the block. Without a URL none of them is on Triton."""
    bare = {
        "graphs": graphs_of(repository, config),
        "threads": threads,
        "is_batched": config.max_batch_size > 0,
    }
    engine = {
        "repository": str(repository.path),
        "model": config.name,
        "threads": threads,
        "triton": None,
        "writes_into_buffers": False,
    }
    plans: dict[str, tuple[str, dict[str, Any]]] = {
        BARE: ("bare_loop.py", bare | {"is_spinning": True}),
        BARE_QUIET: ("bare_loop.py", bare | {"is_spinning": False}),
        ENGINE: ("engine_loop.py", engine),
    }
    for name in (TRITON_MESSAGE, TRITON_SHARED, TRITON_WRITTEN) if triton_url else ():
        settings = {
            "url": triton_url,
            "timeout_s": TIMEOUT_S,
            "shares_memory": name != TRITON_MESSAGE,
            "limits": LIMITS,
        }
        plan = engine | {"triton": settings, "writes_into_buffers": name == TRITON_WRITTEN}
        plans[name] = ("engine_loop.py", plan)
    with ExitStack() as stack:
        yield [
            stack.enter_context(_process(name, config.name, program, plan))
            for name, (program, plan) in plans.items()
        ]


def graphs_of(
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
def _process(name: str, model: str, program: str, plan: dict[str, Any]) -> Iterator[Way]:
    ours, theirs = socket.socketpair()
    with theirs:
        number = theirs.fileno()
        # -P: no module of the standard library may be taken from the program's folder.
        process = subprocess.Popen(  # noqa: S603 - this interpreter, a program of ours
            [sys.executable, "-P", str(FOLDER / program), str(number)],
            pass_fds=[number],
            stdin=subprocess.DEVNULL,
            # What it has to say must not get among the figures.
            stdout=STANDARD_ERROR,
            env={**os.environ, "PYTHONPATH": str(Path(node.__file__).parents[1])},
        )
    with Connection(ours.detach()) as connection:
        try:
            connection.send(plan)
            yield Way(name, model, process, connection)
        finally:
            _end(process, connection)


def _end(process: "subprocess.Popen[bytes]", connection: Connection) -> None:
    """Let the process end by itself, so that a server hears of it; kill it where it does not."""
    connection.close()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
