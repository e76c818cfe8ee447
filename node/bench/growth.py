"""What one instance more costs, and what memory is held, when so many are stored already."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from node.bench.ingest import send
from node.bench.ingest_files import Batch, Kind
from node.bench.ingest_receivers import Receiver, running_node
from node.bench.memory import resident_of
from node.read.child import cpu_s

SIZES = (100, 1_000, 10_000, 100_000)
SMALL = Kind("8 KB CT", "1.2.840.10008.5.1.4.1.1.2", "CT", 64, 64, 1, 500)
STEP, PROBE, PROBES = 500, 100, 9


@dataclass(frozen=True, slots=True)
class Point:
    """So many instances stored: seconds and processor seconds for one more, and what memory is held."""

    stored: int
    seconds: float
    cpu_seconds: float
    receiver_bytes: int
    node_bytes: int


def bench_growth(sizes: Sequence[int], folder: Path | None, on_step: Callable[[str], object]) -> list[Point]:
    """Fill a spool and its index, and stop at each size to send some more; `on_step` is told of each step.

    They are small, in studies of 500: what grows with their number is asked for, and not the disk's rate.
    """
    with TemporaryDirectory(prefix="sightline-bench-", dir=folder) as name, running_node(Path(name)) as node:
        probe = Batch(SMALL, PROBE, Path(name) / "probe", seed=1)
        step = Batch(SMALL, STEP, Path(name) / "step", seed=2)
        filler = _Filler(node, step, probe, on_step)
        filler.warm_up()
        return [filler.measure_at(size) for size in sorted(sizes)]


class _Filler:
    """A receiver that is filled."""

    def __init__(
        self, receiver: Receiver, step: Batch, probe: Batch, on_step: Callable[[str], object]
    ) -> None:
        self._receiver, self._step, self._probe, self._on_step = receiver, step, probe, on_step
        self._stored = self._studies = 0

    def warm_up(self) -> None:
        """Send some, which are deleted, so that no first time is measured."""
        for _ in range(3):
            self._send(self._probe)
        self._receiver.clean()
        self._stored = 0

    def measure_at(self, size: int) -> Point:
        """Fill up to a size, and measure there."""
        while self._stored < size:
            self._send(self._step if size - self._stored >= STEP else self._probe)
            self._on_step(f"to {size}")
        at, costs = self._stored, [self._probed() for _ in range(PROBES)]
        return Point(
            at,
            median(seconds for seconds, _ in costs) / PROBE,
            median(seconds for _, seconds in costs) / PROBE,
            sum(map(resident_of, self._receiver.processes())),
            resident_of(os.getpid()),
        )

    def _probed(self) -> tuple[float, float]:
        processes = [os.getpid(), *self._receiver.processes()]
        before, started = sum(map(cpu_s, processes)), time.perf_counter()
        self._send(self._probe)
        return time.perf_counter() - started, sum(map(cpu_s, processes)) - before

    def _send(self, batch: Batch) -> None:
        self._studies += 1
        batch.renew(study=self._studies)
        send(self._receiver.port, batch.shares(1))
        self._stored += len(batch.paths)


def steps_to(sizes: Sequence[int]) -> int:
    """Return how many steps there are up to the largest size, about."""
    return max(sizes) // STEP + len(sizes)
