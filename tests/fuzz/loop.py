"""Tries inputs for a time: each can be made again by target, seed and number; those that fail are kept."""

import os
import resource
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

from node.bench.memory import forget_peak, peak

PATIENCE_S = 60
MEMORY_BYTES = 6 << 30
"""Address space, which C allocates on credit: what is beyond it fails at once."""

PEAK_BYTES = 1 << 29
"""By how much the process may be larger for one input than before it."""

GROWTH_BYTES = 400 << 20
"""By how much the process may be larger after all inputs than after the first hundred."""

WARM_UP = 100


class TooSlowError(BaseException):
    """An input took longer than any may; no Exception, as those may be taken for the input's own."""


@dataclass
class Outcome:
    """What came of a run of one target."""

    name: str
    inputs: int = 0
    seconds: float = 0.0
    growth_bytes: int = 0
    peak_bytes: int = 0
    failures: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        rate = self.inputs / max(self.seconds, 1e-9)
        grown, most = self.growth_bytes / (1 << 20), self.peak_bytes / (1 << 20)
        memory = f"at most {most:.0f} MiB for one, grew by {grown:.0f} MiB"
        figures = f"{self.inputs} inputs, {rate:.0f} a second, {memory}"
        return f"{self.name}: {figures}, {len(self.failures)} failed"


def run(name: str, target: Any, *, seed: int, seconds: float, failures: Path) -> Outcome:
    """Try inputs for so long; an input that fails is kept as a file, with what happened beside it."""
    outcome, started, size = Outcome(name), time.monotonic(), 0
    while (elapsed := time.monotonic() - started) < seconds:
        number, before = outcome.inputs, forget_peak()
        if fault := attempt(name, target, seed=seed, number=number):
            outcome.failures.append(f"{name} seed {seed} number {number}: {fault.splitlines()[-1]}")
            keep(failures, f"{name}-{seed}-{number}", make(name, target, seed=seed, number=number), fault)
        outcome.peak_bytes = max(outcome.peak_bytes, peak() - before)
        outcome.inputs += 1
        size = resident_bytes() if outcome.inputs == WARM_UP else size
        outcome.seconds = elapsed
    outcome.growth_bytes = resident_bytes() - size if size else 0
    if outcome.growth_bytes > GROWTH_BYTES:
        outcome.failures.append(f"{name}: memory grew by {outcome.growth_bytes >> 20} MiB")
    return outcome


def make(name: str, target: Any, *, seed: int, number: int) -> bytes:
    """The input of that number."""
    data: bytes = target.make(Random(f"{name} {seed} {number}"))
    return data


def attempt(name: str, target: Any, *, seed: int, number: int) -> str:
    """Why an input failed, with the lines it came through; empty where it did not."""
    rng = Random(f"{name} {seed} {number}")
    data = target.make(rng)
    return try_one(lambda: target.attempt(data, rng))


def try_one(call: Callable[[], object]) -> str:
    """What a call must not raise; empty where it raises nothing in time."""
    before = forget_peak()
    try:
        with _limited():
            call()
    except (Exception, TooSlowError):
        return traceback.format_exc()
    taken = peak() - before
    return f"took {taken >> 20} MiB of memory" if taken > PEAK_BYTES else ""


def keep(folder: Path, name: str, data: bytes, fault: str) -> None:
    """Write an input that failed, and why."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.bin").write_bytes(data)
    (folder / f"{name}.txt").write_text(fault)


def resident_bytes() -> int:
    """The memory of this process and of those it started."""
    pids = [os.getpid()]
    for task in Path("/proc/self/task").glob("*/children"):
        pids += map(int, task.read_text().split())
    return sum(_resident_bytes(pid) for pid in pids)


def _resident_bytes(pid: int) -> int:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0
    return pages * resource.getpagesize()


@contextmanager
def _limited() -> Iterator[None]:
    """Within so much time and memory: what takes more is a fault, not a reason to take the machine down."""
    old = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, old[1]))
    handler = signal.signal(signal.SIGALRM, _too_slow)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, old)


def _too_slow(_number: int, _frame: FrameType | None) -> None:
    raise TooSlowError(f"took longer than {PATIENCE_S} s")
