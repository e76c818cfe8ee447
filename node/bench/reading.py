"""How fast the node reads an uncompressed CT series, beside SimpleITK and pydicom on the same files."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import node
from node.bench.reading_inputs import write_series
from node.errors import ConfigurationError, ConformanceError

NODE, SIMPLEITK, PYDICOM = "node", "simpleitk", "pydicom"
WAYS = (NODE, SIMPLEITK, PYDICOM)
PROGRAM = Path(__file__).with_name("reading_loop.py")
SMALL_SHAPE = 3, 16


@dataclass(frozen=True, slots=True)
class Reading:
    """What one reading took: seconds, those of a core, and memory beyond what was held before."""

    seconds: float
    cpu_s: float
    extra_memory_bytes: int
    volume_bytes: int
    voxels_sha256: str


@dataclass(frozen=True, slots=True)
class Figures:
    """The medians of several readings in one way."""

    readings: tuple[Reading, ...]

    @property
    def seconds(self) -> float:
        """The seconds from the first file to the volume."""
        return median(one.seconds for one in self.readings)

    @property
    def cpu_s(self) -> float:
        """The seconds of a core for it."""
        return median(one.cpu_s for one in self.readings)

    @property
    def extra_memory_bytes(self) -> int:
        """The peak of the resident memory beyond what was held before, the volume included."""
        return int(median(one.extra_memory_bytes for one in self.readings))

    @property
    def memory_to_volume(self) -> float:
        """That as a multiple of the volume."""
        return median(one.extra_memory_bytes / one.volume_bytes for one in self.readings)


@dataclass(frozen=True, slots=True)
class ReadingBench:
    """The figures of each way."""

    planes: int
    size: int
    rounds: int
    figures_by_way: Mapping[str, Figures]

    def ratio(self, way: str) -> float:
        """Return how many times as long as the node a way takes."""
        return self.figures_by_way[way].seconds / self.figures_by_way[NODE].seconds


def bench_reading(planes: int, size: int, rounds: int, *, on_round: Callable[[str], object]) -> ReadingBench:
    """Write a series, and read it in each way, in turns, each reading in a process of its own.

    `on_round` is told of each round. Raises ConfigurationError where SimpleITK is not installed, and
    ConformanceError where two ways do not read the same voxels.
    """
    if find_spec("SimpleITK") is None:
        raise ConfigurationError(
            ["SimpleITK is not installed, which reading is measured beside (extra: train)"]
        )
    taken: dict[str, list[Reading]] = {way: [] for way in WAYS}
    with TemporaryDirectory(prefix="sightline-bench-") as name:
        folders = Path(name) / "small", Path(name) / "series"
        write_series(folders[0], *SMALL_SHAPE)
        write_series(folders[1], planes, size)
        for number in range(rounds):
            # Each comes first in its turn, so that a change of load in mid-round favors none.
            for place in range(len(WAYS)):
                way = WAYS[(place + number) % len(WAYS)]
                taken[way].append(_read(way, folders))
            require_same_voxels(taken)
            on_round(f"{planes} slices by each way")
    figures = {way: Figures(tuple(readings)) for way, readings in taken.items()}
    return ReadingBench(planes, size, rounds, figures)


def require_same_voxels(readings: Mapping[str, Sequence[Reading]]) -> None:
    """Raise ConformanceError where two readings are not of the same voxels."""
    if len({one.voxels_sha256 for ways in readings.values() for one in ways}) > 1:
        raise ConformanceError("reading", "the voxels are not those of the other ways")


def _read(way: str, folders: tuple[Path, Path]) -> Reading:
    # -P: no module of the standard library may be taken from the program's folder.
    done = subprocess.run(  # noqa: S603 - this interpreter, a program of ours
        [sys.executable, "-P", str(PROGRAM), way, *map(str, folders)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(node.__file__).parents[1])},
        check=False,
    )
    if done.returncode:
        raise ConformanceError("reading", f"{way}: its process ended with status {done.returncode}")
    return Reading(**json.loads(done.stdout))
