"""How long a study takes from its files to its objects in an archive: by the node, and by a plain script."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from node.bench.plain_store import running_store
from node.bench.program import running
from node.bench.ways import graphs_of
from node.engines.repository import ModelRepository
from node.errors import ConfigurationError, ModelError
from node.samples.ct_series import write_ct
from node.samples.tomography import thorax_ct
from node.settings import EngineSettings

NODE, PLAIN = "node", "plain"
WAYS = (NODE, PLAIN)
PROGRAMS = {way: Path(__file__).with_name(f"latency_{way}.py") for way in WAYS}
STAGES = ("read", "headers", "prepare and interpret", "inference", "keep", "encode", "send")
INFERENCE = "inference"
MODELS_BY_PIPELINE: Mapping[str, tuple[str, str]] = {"chest_ct": ("chest_ct_nodules", "chest_ct")}
"""Per pipeline the model that draws, and the one that judges."""

SEED, NODULES, SPACING_ZYX_MM, WHOLE_CHEST = 3, 3, (1.1, 0.7, 0.7), (300, 512, 512)
WINDOWS_AT_ONCE = 2


@dataclass(frozen=True, slots=True)
class Run:
    """What one study took, stage by stage, and how much came of it."""

    seconds: Mapping[str, float]
    found: int
    objects: int
    peak_memory_bytes: int

    @property
    def without_inference_s(self) -> float:
        """Everything but the networks."""
        return sum(seconds for stage, seconds in self.seconds.items() if stage != INFERENCE)


@dataclass(frozen=True, slots=True)
class Figures:
    """A first study with the networks, and the same study several times with their answers replayed."""

    first: Run
    runs: tuple[Run, ...]

    def stage_s(self, stage: str) -> float:
        """Return the median seconds of a stage; of inference those of the first study."""
        if stage == INFERENCE:
            return self.first.seconds.get(stage, 0.0)
        return median(run.seconds.get(stage, 0.0) for run in self.runs)

    @property
    def without_inference_s(self) -> float:
        """The median of everything but the networks."""
        return median(run.without_inference_s for run in self.runs)

    @property
    def peak_memory_bytes(self) -> int:
        """The most that was resident in the process."""
        return max(run.peak_memory_bytes for run in (self.first, *self.runs))


@dataclass(frozen=True, slots=True)
class LatencyBench:
    """The figures of both ways over one series."""

    pipeline: str
    series: str
    files: int
    threads: int
    figures_by_way: Mapping[str, Figures]

    def share(self, stage: str) -> float | None:
        """Return the node's seconds of a stage as a share of the script's; None where that has no such."""
        own, other = (self.figures_by_way[way].stage_s(stage) for way in WAYS)
        return own / other if other else None

    @property
    def share_without_inference(self) -> float:
        """The node's seconds for everything but the networks, as a share of the script's."""
        own, other = (self.figures_by_way[way].without_inference_s for way in WAYS)
        return own / other


def bench_latency(
    settings: EngineSettings,
    pipeline: str,
    rounds: int,
    *,
    folder: Path | None,
    on_run: Callable[[str], object],
) -> LatencyBench:
    """Work on a series in both ways, in turns, each in a process that stays; by default a synthetic one.

    `on_run` is told of each study. Raises ConfigurationError where SimpleITK is not installed or a folder has
    no files, ModelError for a model that is missing or damaged or a process that ended.
    """
    if find_spec("SimpleITK") is None:
        raise ConfigurationError(
            ["SimpleITK is not installed, which the peer is written with (extra: train)"]
        )
    repository = ModelRepository(settings.repository)
    for model in MODELS_BY_PIPELINE[pipeline]:
        repository.verify(model)
    with TemporaryDirectory(prefix="sightline-bench-") as name, ExitStack() as stack:
        place = folder or _synthetic(Path(name) / "series")
        (Path(name) / "archive").mkdir()
        port = stack.enter_context(running_store(Path(name) / "archive"))
        plan = _plan(repository, settings, pipeline) | {"folder": str(place), "port": port}
        processes = {way: stack.enter_context(running(way, PROGRAMS[way], plan)) for way in WAYS}
        runs: dict[str, list[Run]] = {way: [] for way in WAYS}
        for number in range(rounds + 1):
            # Each comes first in its turn, so that a change of load in mid-round favors none.
            for way in WAYS[:: 1 if number % 2 else -1]:
                runs[way].append(Run(**processes[way].ask("study")))
                on_run(f"by the {way} way")
        files = len(list(place.glob("*")))
    figures = {way: Figures(done[0], tuple(done[1:])) for way, done in runs.items()}
    return LatencyBench(pipeline, str(folder or "synthetic"), files, settings.threads, figures)


def _synthetic(folder: Path) -> Path:
    """Write the chest CT that is read where no other is named."""
    sample = thorax_ct(SEED, spacing_zyx_mm=SPACING_ZYX_MM, shape_zyx=WHOLE_CHEST, nodules=NODULES)
    write_ct(sample, folder)
    return folder


def _plan(repository: ModelRepository, settings: EngineSettings, pipeline: str) -> dict[str, Any]:
    segmenter, classifier = MODELS_BY_PIPELINE[pipeline]
    return {
        "repository": str(settings.repository),
        "threads": settings.threads,
        "segmenter": _stated(repository, segmenter, WINDOWS_AT_ONCE),
        "classifier": _stated(repository, classifier, 1),
    }


def _stated(repository: ModelRepository, model: str, batch: int) -> dict[str, Any]:
    """Return what a script knows of a model: its files, what it takes, from where on it says yes."""
    card = repository.card(model)
    if card.input_spacing_zyx_mm is None or len(card.input_shape) != 4:
        raise ModelError(model, "its card states no volume and spacing")
    return {
        "graphs": graphs_of(repository, repository.config(model)),
        "shape_zyx": card.input_shape[1:],
        "spacing_zyx_mm": card.input_spacing_zyx_mm,
        "threshold": card.classes[0].threshold,
        "batch": batch,
    }


def stages_of(bench: LatencyBench) -> Sequence[str]:
    """Return the stages that took any time."""
    return [one for one in STAGES if any(each.stage_s(one) for each in bench.figures_by_way.values())]
