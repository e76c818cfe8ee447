"""How long a radiograph takes from its file to its objects, and bare loops over the same networks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np

from node.bench.bare_loop import Arrays as BareArrays
from node.bench.bare_loop import open_loop
from node.bench.clock import Clock
from node.bench.latency_node import received
from node.bench.relayed import Answers, RelayedEngine
from node.bench.ways import graphs_of
from node.domain.findings import Findings, Priority
from node.domain.profile import Profile
from node.encode import EncodingContext, warm_up
from node.engines.onnx import OnnxEngine
from node.engines.repository import ModelRepository
from node.interfaces import Arrays, Engine
from node.objects import make_objects
from node.pipelines.chest_xray import ChestXray
from node.samples.dicom import write_dx
from node.samples.lesions import lesion_radiograph
from node.samples.thorax import Radiograph
from node.settings import EngineSettings

SEED = 7
ENLARGED = 4
"""The radiograph is drawn this much smaller: detail beyond the networks' own costs reading alone."""
PREPARE, CLASSIFIERS, DETECTORS, ENCODE = "prepare and interpret", "classifiers", "detectors", "encode"
BARE_CLASSIFIERS, BARE_DETECTORS = "bare classifiers", "bare detectors"
STAGES = (PREPARE, CLASSIFIERS, DETECTORS, ENCODE)
PEER_BY_STAGE = {CLASSIFIERS: BARE_CLASSIFIERS, DETECTORS: BARE_DETECTORS}


@dataclass(frozen=True, slots=True)
class RadiographBench:
    """The seconds of each stage, round by round, those of the bare loops among them."""

    side: int
    lesions: int
    outlined: int
    seconds_by_stage: Mapping[str, tuple[float, ...]]

    def stage_s(self, stage: str) -> float:
        """Return the median seconds of a stage."""
        return median(self.seconds_by_stage[stage])

    @property
    def whole_s(self) -> float:
        """The median of all stages of the node together."""
        rounds = zip(*(self.seconds_by_stage[stage] for stage in STAGES), strict=True)
        return median(map(sum, rounds))


class TimedEngine(RelayedEngine):
    """An engine whose answers count to a stage of their own, by model; it keeps what it was last asked."""

    def __init__(self, engine: Engine, stage_by_model: Mapping[str, str]) -> None:
        super().__init__(engine)
        self._stage_by_model = stage_by_model
        self.clock = Clock()
        self.asked: dict[str, Arrays] = {}

    def infer(self, model: str, inputs: Arrays) -> Answers:
        """Return what the model answers."""
        self.asked[model] = inputs
        with self.clock.stage(self._stage_by_model[model]):
            return self._engine.infer(model, inputs)


def bench_radiograph(
    settings: EngineSettings, side: int, rounds: int, *, on_round: Callable[[str], object]
) -> RadiographBench:
    """Work on a synthetic radiograph with lesions of `side` × `side` pixels, again and again.

    Each round runs the same inputs through bare ONNX Runtime loops, too. Raises ModelError for a model that
    is missing or damaged.
    """
    pipeline, repository = ChestXray(), ModelRepository(settings.repository)
    stage_by_model = {pipeline.model: CLASSIFIERS, pipeline.detector_model: DETECTORS}
    loops = {stage_by_model[model]: _bare(repository, model, settings.threads) for model in stage_by_model}
    engine = TimedEngine(OnnxEngine(repository, settings.threads), stage_by_model)
    warm_up()
    taken: dict[str, list[float]] = {stage: [] for stage in (*STAGES, *PEER_BY_STAGE.values())}
    with TemporaryDirectory(prefix="sightline-bench-") as name:
        drawn = draw(side)
        path = write_dx(drawn, Path(name) / "radiograph.dcm")
        # The first round, in which memory is taken and files are read for the first time, does not count.
        for number in range(rounds + 1):
            engine.clock = Clock()
            findings = _study(pipeline, path, engine, Path(name) / str(number))
            for model, stage in stage_by_model.items():
                with engine.clock.stage(PEER_BY_STAGE[stage]):
                    loops[stage](dict(engine.asked[model]))
            for stage, seconds in engine.clock.seconds.items() if number else ():
                taken[stage].append(seconds)
            on_round("round")
    engine.close()
    seconds_by_stage = {stage: tuple(seconds) for stage, seconds in taken.items()}
    return RadiographBench(side, len(drawn.truth.lesions), len(findings.regions), seconds_by_stage)


def _bare(repository: ModelRepository, model: str, threads: int) -> Callable[[BareArrays], BareArrays]:
    """Return the bare loop over the graphs of a model, once they are known to be whole."""
    repository.verify(model)
    graphs = graphs_of(repository, repository.config(model))
    return open_loop(graphs, threads, is_spinning=False, is_batched=True)


def draw(side: int) -> Radiograph:
    """Return a radiograph with lesions, enlarged to so many pixels a side."""
    small = lesion_radiograph(SEED, size=-(-side // ENLARGED))
    pixels = np.repeat(np.repeat(small.pixels, ENLARGED, axis=0), ENLARGED, axis=1)[:side, :side]
    down, across = small.spacing_yx_mm
    return Radiograph(pixels, (down / ENLARGED, across / ENLARGED), small.truth, small.seed)


def _study(pipeline: ChestXray, path: Path, engine: TimedEngine, folder: Path) -> Findings:
    with engine.clock.stage(PREPARE):
        findings = pipeline.analyze(received([path]), engine)
    with engine.clock.stage(ENCODE):
        context = EncodingContext(folder.name, datetime.now(UTC), Priority.ROUTINE)
        make_objects(folder, findings, [path], context=context, profiles=[Profile()])
    return findings
