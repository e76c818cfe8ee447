"""How fast instances come in: by the node, DCMTK's storescp and Orthanc, from the same sender in turns."""

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from node.bench.ingest_files import KINDS, Batch
from node.bench.ingest_receivers import (
    AE_TITLE,
    ENVIRONMENT,
    LOOPBACK,
    RECEIVERS,
    Receiver,
    find_program,
    running_receivers,
)
from node.bench.memory import forget_peak_of, peak_of, resident_of
from node.errors import DestinationUnreachableError
from node.read.child import cpu_s

SEND_TIMEOUT_S = 600
# Orthanc works for a while after it has answered; the next receiver must not pay for it.
SETTLED_S, LONGEST_SETTLING_S = 0.3, 20.0


@dataclass(frozen=True, slots=True)
class Amounts:
    """What is sent how often: kinds of `KINDS`, associations at a time, rounds, and a share of each count."""

    kinds: Sequence[str] = tuple(KINDS)
    associations: Sequence[int] = (1, 4)
    rounds: int = 5
    share: float = 1.0
    receivers: Sequence[str] = RECEIVERS

    def count(self, kind: str, associations: int) -> int:
        """Return how many instances of a kind one run sends: at least one on each association."""
        return max(associations, int(KINDS[kind].count * self.share))


@dataclass(frozen=True, slots=True)
class Case:
    """One kind on so many associations: of each receiver, every rate, and what its memory grew by at most."""

    kind: str
    associations: int
    count: int
    rates_by_receiver: Mapping[str, Sequence[float]]
    memory_by_receiver: Mapping[str, int]

    def rate(self, receiver: str) -> float:
        """Return the median of the instances that a receiver took in a second."""
        return median(self.rates_by_receiver[receiver])

    def ratio(self, receiver: str, peer: str) -> float | None:
        """Return the rate of one as a multiple of that of another; None where that was not measured."""
        if peer not in self.rates_by_receiver:
            return None
        return self.rate(receiver) / self.rate(peer)

    def memory_per_association(self, receiver: str) -> float:
        """Return the bytes by which its processes grew at most, per association."""
        return self.memory_by_receiver[receiver] / self.associations


def bench_ingest(amounts: Amounts, folder: Path | None, on_run: Callable[[str], object]) -> list[Case]:
    """Send everything to every receiver; `on_run` is told of each run.

    Files and spools are in a folder of their own below `folder`, so that the disk which is measured can be
    chosen. Raises ConfigurationError where a peer is not installed.
    """
    cases = []
    with TemporaryDirectory(prefix="sightline-bench-", dir=folder) as place:
        for kind in amounts.kinds:
            for associations in amounts.associations:
                cases.append(_bench_case(Path(place), kind, associations, amounts, on_run))
    return cases


def _bench_case(
    folder: Path, kind: str, associations: int, amounts: Amounts, on_run: Callable[[str], object]
) -> Case:
    count = amounts.count(kind, associations)
    batch = Batch(KINDS[kind], count, folder / "send", seed=associations)
    rates: dict[str, list[float]] = {name: [] for name in amounts.receivers}
    grown = dict.fromkeys(amounts.receivers, 0)
    with running_receivers(folder / kind, amounts.receivers, associations) as receivers:
        for number in range(amounts.rounds + 1):
            # Each comes first in its turn, so that a change of load in mid-round favors none.
            for name in amounts.receivers[:: 1 if number % 2 else -1]:
                batch.renew()
                _settle([process for one in receivers.values() for process in one.processes()])
                rate, memory = _measure(receivers[name], batch, associations)
                receivers[name].clean()
                if number:  # the first round fills caches, and the journal's segments
                    rates[name].append(rate)
                    grown[name] = max(grown[name], memory)
                on_run(f"{KINDS[kind].title} to {name}")
    for path in batch.paths:
        path.unlink()
    return Case(kind, associations, count, rates, grown)


def _measure(receiver: Receiver, batch: Batch, associations: int) -> tuple[float, int]:
    """Return instances in a second, and the bytes by which the receiver grew."""
    processes = receiver.processes()
    before = sum(resident_of(process) for process in processes)
    for process in processes:
        forget_peak_of(process)
    started = time.perf_counter()
    send(receiver.port, batch.shares(associations))
    seconds = time.perf_counter() - started
    grown = sum(peak_of(process) for process in processes) - before
    return len(batch.paths) / seconds, max(0, grown)


def _settle(processes: Sequence[int]) -> None:
    """Return once all is on the disk, and no receiver does anything any more."""
    deadline = time.monotonic() + LONGEST_SETTLING_S
    worked_s = -1.0
    while worked_s != (now_s := sum(map(cpu_s, processes))) and time.monotonic() < deadline:
        worked_s = now_s
        os.sync()
        time.sleep(SETTLED_S)


def send(port: int, shares: Sequence[Sequence[Path]]) -> None:
    """Send files by DCMTK's storescu, each share on an association of its own, all at once.

    Raises DestinationUnreachableError where one of them fails.
    """
    program = find_program("storescu", "dcmtk")
    processes = [
        subprocess.Popen(  # noqa: S603 - the sender that stands above
            [program, "-aec", AE_TITLE, LOOPBACK, str(port), *map(str, share)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=os.environ | ENVIRONMENT,
        )
        for share in shares
    ]
    said = [process.communicate(timeout=SEND_TIMEOUT_S)[1] for process in processes]
    for process, complaint in zip(processes, said, strict=True):
        if process.returncode:
            last = complaint.decode(errors="replace").strip().splitlines()[-1:]
            raise DestinationUnreachableError(f"port {port}", f"storescu failed: {''.join(last)}")
