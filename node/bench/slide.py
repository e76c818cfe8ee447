"""How fast tiles of a slide are read, prepared and inferred, beside openslide and the decoding of JPEG."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from node.bench.program import running
from node.bench.slide_inputs import draw_slide, write_dicom, write_file
from node.engines.repository import ModelRepository
from node.settings import EngineSettings

READ, PREPARE, READY, INFER, WHOLE = "read", "prepare", "read_and_prepare", "infer", "whole"
OPENSLIDE, JPEG = "openslide", "jpeg"
WAYS = (READ, PREPARE, READY, INFER, WHOLE, OPENSLIDE, JPEG)
TURNS = (READ, OPENSLIDE, READY, JPEG, PREPARE, INFER, WHOLE)
"""The order of a round: what is compared most stands side by side, so that one load is on both."""

DICOM, FILE = "dicom", "file"
CASES = (DICOM, FILE)
MODEL = "slide_tumor_tiles"
PROGRAM = Path(__file__).with_name("slide_loop.py")


@dataclass(frozen=True, slots=True)
class Case:
    """The tiles per second of each way over one slide, round by round."""

    tiles: int
    tiles_per_s_by_way: Mapping[str, tuple[float, ...]]

    def speed(self, way: str) -> float:
        """Return the median of the tiles per second of a way."""
        return median(self.tiles_per_s_by_way[way])

    def ratios(self, way: str, peer: str) -> tuple[float, float, float]:
        """Return how many times a peer's they are: the least, the median and the most of rounds."""
        own, other = (self.tiles_per_s_by_way[name] for name in (way, peer))
        each = [one / two for one, two in zip(own, other, strict=True)]
        return min(each), median(each), max(each)


@dataclass(frozen=True, slots=True)
class Memory:
    """What a process held before it opened a slide and at most, and those that decode for it at most."""

    tiles: int
    before_bytes: int
    peak_bytes: int
    decoders_bytes: int


@dataclass(frozen=True, slots=True)
class SlideBench:
    """The speeds by case at one size, and the memory by size."""

    side: int
    rounds: int
    threads: int
    engine_threads: int
    case_by_name: Mapping[str, Case]
    memory_by_side: Mapping[int, Memory]

    @property
    def memory_ratio(self) -> float:
        """The peak of the slide that took most, as a multiple of that of the one that took least."""
        peaks = [one.peak_bytes for one in self.memory_by_side.values()]
        return max(peaks) / min(peaks)


@dataclass(frozen=True, slots=True)
class Amounts:
    """The sizes of the slides in pixels a side, how often each way has its turn, the threads that read."""

    sides: tuple[int, ...]
    rounds: int
    threads: int

    @property
    def side(self) -> int:
        """The size by which speed is measured: the middle one."""
        return sorted(self.sides)[len(self.sides) // 2]


def bench_slide(
    settings: EngineSettings, amounts: Amounts, *, on_step: Callable[[str], object]
) -> SlideBench:
    """Draw slides, and work on them in each way, in turns; the memory in a process of its own for each size.

    `on_step` is told of each slide and round. Raises ModelError for a model that is missing or damaged, or a
    process that ended.
    """
    ModelRepository(settings.repository).verify(MODEL)
    memory, cases = {}, {}
    for side in amounts.sides:
        with TemporaryDirectory(prefix="sightline-bench-") as name:
            sample = draw_slide(side)
            path_by_case = {DICOM: write_dicom(sample, Path(name) / DICOM)}
            on_step(f"{side} × {side} drawn")
            plan = _plan(settings, amounts) | {"streams_from": str(path_by_case[DICOM])}
            with running(MODEL, PROGRAM, plan | {"path": str(path_by_case[DICOM])}) as program:
                memory[side] = Memory(**program.ask("memory"))
            on_step(f"memory at {side} × {side}")
            if side == amounts.side:
                path_by_case[FILE] = write_file(sample, Path(name) / FILE)
                on_step(f"{side} × {side} drawn as a file")
                for case, path in path_by_case.items():
                    cases[case] = _measure(plan | {"path": str(path)}, amounts.rounds, case, on_step)
    return SlideBench(amounts.side, amounts.rounds, amounts.threads, settings.threads, cases, memory)


def steps(amounts: Amounts) -> int:
    """Return how often `on_step` will be called."""
    return 2 * len(amounts.sides) + 1 + len(CASES) * amounts.rounds


def _plan(settings: EngineSettings, amounts: Amounts) -> dict[str, Any]:
    return {
        "repository": str(settings.repository),
        "engine_threads": settings.threads,
        "threads": amounts.threads,
    }


def _measure(plan: Mapping[str, Any], rounds: int, case: str, on_step: Callable[[str], object]) -> Case:
    taken: dict[str, list[float]] = {way: [] for way in WAYS}
    tiles = 0
    with running(MODEL, PROGRAM, plan) as program:
        program.ask("check")
        for way in WAYS:
            program.ask(way)
        for number in range(rounds):
            # Each comes first in its turn, so that a change of load in mid-round favors none.
            for way in _rotated(TURNS, number):
                answer = program.ask(way)
                taken[way].append(answer["tiles"] / answer["seconds"])
                tiles = answer["tiles"] if way == WHOLE else tiles
            on_step(f"{case} by each way")
    return Case(tiles, {way: tuple(speeds) for way, speeds in taken.items()})


def _rotated(ways: Sequence[str], number: int) -> Sequence[str]:
    place = number % len(ways)
    return [*ways[place:], *ways[:place]]
