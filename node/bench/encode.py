"""How fast the node encodes a mask and a map, beside highdicom's plain call over the same values."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import node
from node.errors import ConformanceError

NODE, PLAIN = "node", "plain"
WAYS = (NODE, PLAIN)
PROGRAM = Path(__file__).with_name("encode_loop.py")


@dataclass(frozen=True, slots=True)
class Case:
    """What is encoded: a form of a segmentation with so many segments, or a map, which has none."""

    form: str
    segments: int = 0

    @property
    def name(self) -> str:
        """Both in one word."""
        return f"{self.form}_{self.segments}" if self.segments else self.form


CASES = (
    *(Case(form, segments) for form in ("binary", "fractional", "labelmap") for segments in (1, 5)),
    Case("parametric_map"),
)


@dataclass(frozen=True, slots=True)
class Encoding:
    """What one encoding took: seconds to build and to save the object, memory beyond its input, the file.

    `cpu_s` are those of both that a core was at work: what else the machine does leaves them alone.
    """

    build_s: float
    save_s: float
    cpu_s: float
    extra_memory_bytes: int
    file_bytes: int
    pixels_sha256: str


@dataclass(frozen=True, slots=True)
class Figures:
    """The medians of several encodings of one case in one way."""

    encodings: tuple[Encoding, ...]

    @property
    def build_s(self) -> float:
        """The seconds to build the object."""
        return median(one.build_s for one in self.encodings)

    @property
    def save_s(self) -> float:
        """The seconds to save it."""
        return median(one.save_s for one in self.encodings)

    @property
    def total_s(self) -> float:
        """The seconds for both."""
        return median(one.build_s + one.save_s for one in self.encodings)

    @property
    def cpu_s(self) -> float:
        """The seconds of a core for both."""
        return median(one.cpu_s for one in self.encodings)

    @property
    def extra_memory_bytes(self) -> int:
        """The peak of the resident memory beyond what the headers and values already take."""
        return int(median(one.extra_memory_bytes for one in self.encodings))

    @property
    def file_bytes(self) -> int:
        """The size of the file."""
        return self.encodings[-1].file_bytes


@dataclass(frozen=True, slots=True)
class EncodingBench:
    """The figures of each case in each way."""

    planes: int
    size: int
    rounds: int
    figures: Mapping[Case, Mapping[str, Figures]]

    def ratio(self, case: Case) -> float:
        """Return how many times as long as the node the plain call takes."""
        ways = self.figures[case]
        return ways[PLAIN].total_s / ways[NODE].total_s

    def memory_ratio(self, case: Case) -> float:
        """Return how many times as much memory as the node the plain call takes beyond its input."""
        ways = self.figures[case]
        return ways[PLAIN].extra_memory_bytes / max(1, ways[NODE].extra_memory_bytes)


def bench_encoding(
    planes: int, size: int, rounds: int, *, cases: Sequence[Case] = CASES, on_case: Callable[[Case], object]
) -> EncodingBench:
    """Encode each case in both ways, in turns, each encoding in a process of its own.

    `on_case` is told of each case when a round of it is done. Raises ConformanceError where the pixels of the
    two ways differ.
    """
    taken: dict[Case, dict[str, list[Encoding]]] = {case: {way: [] for way in WAYS} for case in cases}
    for number in range(rounds):
        for case in cases:
            # Each comes first in its turn, so that a change of load in mid-round favors none.
            for way in WAYS[:: 1 if number % 2 else -1]:
                taken[case][way].append(_encode(case, way, planes, size))
            require_same_pixels(case, taken[case])
            on_case(case)
    figures = {
        case: {way: Figures(tuple(encodings)) for way, encodings in ways.items()}
        for case, ways in taken.items()
    }
    return EncodingBench(planes, size, rounds, figures)


def require_same_pixels(case: Case, encodings: Mapping[str, Sequence[Encoding]]) -> None:
    """Raise ConformanceError where two encodings of a case are not of the same pixels."""
    pixels = {one.pixels_sha256 for ways in encodings.values() for one in ways}
    if len(pixels) > 1:
        raise ConformanceError(case.name, "the pixels are not those of the plain call")


def _encode(case: Case, way: str, planes: int, size: int) -> Encoding:
    plan = {"form": case.form, "segments": case.segments, "way": way, "planes": planes, "size": size}
    with TemporaryDirectory(prefix="sightline-bench-") as folder:
        # -P: no module of the standard library may be taken from the program's folder.
        done = subprocess.run(  # noqa: S603 - this interpreter, a program of ours
            [sys.executable, "-P", str(PROGRAM), json.dumps(plan), folder],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(Path(node.__file__).parents[1])},
            check=False,
        )
    if done.returncode:
        raise ConformanceError(case.name, f"{way}: its process ended with status {done.returncode}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return Encoding(**answer)
