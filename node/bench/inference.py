"""How fast a model is run: by the node's engines, and by a bare ONNX Runtime loop over the same files."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from node.bench.volume_model import NAME, PROGRAM, loaded_on, write_volume_model
from node.bench.ways import BARE, BARE_QUIET, ENGINE, TRITON_MESSAGE, TRITON_SHARED, Figures, Way, started
from node.engines.agreement import require_agreement
from node.engines.repository import ModelConfig, ModelRepository
from node.engines.triton_server import TritonServer
from node.errors import ModelError, SightlineError
from node.imaging.intensity import prepare_radiograph
from node.samples.thorax import thorax_radiograph
from node.settings import EngineSettings

CONCURRENCIES = (1, 8)
"""Studies at a time: one, and as many as a busy hour brings."""

VOLUME_SHAPE = (300, 512, 512)
WARM_UP = 3
ROUND = 5
"""Images that one way takes in a row: many turns spread whatever else the machine does over all ways."""

PAUSE_S = 0.05
"""Between turns: threads that spin when their work is done must not burn the cores of who comes next."""

MAX_DIFFERENCE = 1e-4
"""Between the outputs of two ways: same files, same runtime, only the order of additions may differ."""


@dataclass(frozen=True, slots=True)
class Case:
    """The figures of every way for one kind of input, so many at a time; and why Triton is not among them."""

    name: str
    input_shape: tuple[int, ...]
    concurrency: int
    figures_by_way: Mapping[str, Figures]
    without_triton: str

    def slowdown(self, way: str) -> float:
        """Return the median latency of a way as a multiple of that of the faster bare loop."""
        return self.figures_by_way[way].median_ms / min(one.median_ms for one in self._bare)

    def gain(self, way: str) -> float:
        """Return the throughput of a way as a multiple of that of the faster bare loop."""
        return self.figures_by_way[way].images_per_s / max(one.images_per_s for one in self._bare)

    @property
    def _bare(self) -> list[Figures]:
        """Both: threads that spin are faster on an idle machine, and slower on one that others use too."""
        return [self.figures_by_way[way] for way in (BARE, BARE_QUIET) if way in self.figures_by_way]

    @property
    def gain_by_shared_memory(self) -> float | None:
        """How many times faster than by messages an answer comes by shared memory; None without Triton."""
        if TRITON_SHARED not in self.figures_by_way:
            return None
        return self.figures_by_way[TRITON_MESSAGE].median_ms / self.figures_by_way[TRITON_SHARED].median_ms


@dataclass(frozen=True, slots=True)
class Amounts:
    """How many images of each kind every way gets for each number at a time; no volumes is none at all."""

    radiographs: int
    volumes: int = 0
    volume_shape: tuple[int, ...] = VOLUME_SHAPE


@dataclass(frozen=True, slots=True)
class InferenceBench:
    """Every case that was measured."""

    model: str
    version: str
    threads: int
    cases: tuple[Case, ...]


def bench_inference(
    settings: EngineSettings, model: str, amounts: Amounts, *, on_turn: Callable[[str], object]
) -> InferenceBench:
    """Run synthetic radiographs through the model, and volumes through one that does nothing, in turns.

    `on_turn` is told what each turn of all ways was. Raises ModelError for a model that is missing or
    damaged, takes no radiograph, or answers differently by two ways.
    """
    repository = ModelRepository(settings.repository)
    repository.verify(model)
    card, config = repository.card(model), repository.config(model)
    _require_radiographs(config, card.input_shape)
    (tensor,) = config.inputs
    radiographs = _radiographs(tensor.name, card.input_shape[-1])
    with closing(TritonServer(settings.url)) as server:
        without_triton = _reason(lambda: require_agreement(server, repository, model))
        plan = _Plan("radiograph", repository, config, card.input_shape, amounts.radiographs, without_triton)
        cases = [*_measure(plan, settings, radiographs, on_turn)]
        if amounts.volumes:
            with _volume_plan(settings, server, amounts) as plan:
                cases += _measure(plan, settings, _volumes(amounts.volume_shape), on_turn)
    return InferenceBench(model, card.version, settings.threads, tuple(cases))


def turns(amounts: Amounts) -> int:
    """Return how often `on_turn` will be called."""
    return sum(
        -(-images // _round(concurrency))
        for images in (amounts.radiographs, amounts.volumes)
        for concurrency in CONCURRENCIES
    )


@dataclass(frozen=True, slots=True)
class _Plan:
    """One kind of input, and the model that takes it."""

    name: str
    repository: ModelRepository
    config: ModelConfig
    shape: tuple[int, ...]
    images: int
    without_triton: str


def _reason(look: Callable[[], object]) -> str:
    try:
        look()
    except SightlineError as error:
        return str(error)
    return ""


@contextmanager
def _volume_plan(settings: EngineSettings, server: TritonServer, amounts: Amounts) -> Iterator[_Plan]:
    """Yield the plan for large inputs, with a model made for it here and, where it can be, on the server."""
    with TemporaryDirectory(prefix="sightline-bench-") as folder, ExitStack() as stack:
        repository = ModelRepository(Path(folder))
        write_volume_model(repository.path, amounts.volume_shape)
        loading = loaded_on(server, repository.path, settings.repository / PROGRAM)
        reason = _reason(lambda: stack.enter_context(loading))
        yield _Plan(
            "volume", repository, repository.config(NAME), amounts.volume_shape, amounts.volumes, reason
        )


def _measure(
    plan: _Plan, settings: EngineSettings, inputs: Iterator[object], on_turn: Callable[[str], object]
) -> Iterator[Case]:
    url = "" if plan.without_triton else settings.url
    with started(plan.repository, plan.config, settings.threads, url) as ways:
        for concurrency in CONCURRENCIES:
            _take_turns(ways, [next(inputs) for _ in range(max(WARM_UP, concurrency))], concurrency)
            case = Case(plan.name, plan.shape, concurrency, {}, plan.without_triton)
            done = 0
            while done < plan.images:
                batch = [next(inputs) for _ in range(min(_round(concurrency), plan.images - done))]
                # Each comes first in its turn, so that a change of load in mid-round favors none.
                ways = [*ways[1:], ways[0]]
                case = _with_turn(case, _take_turns(ways, batch, concurrency))
                done += len(batch)
                on_turn(f"{done} {plan.name}s, {concurrency} at a time")
            yield case


def _round(concurrency: int) -> int:
    return max(ROUND, concurrency)


def _with_turn(case: Case, turn: Mapping[str, Figures]) -> Case:
    figures = {way: case.figures_by_way.get(way, Figures()) + taken for way, taken in turn.items()}
    return replace(case, figures_by_way=figures)


def _require_radiographs(config: ModelConfig, shape: tuple[int, ...]) -> None:
    is_square = len(shape) == 3 and shape[0] == 1 and shape[1] == shape[2] > 0
    is_taken = [tensor.dtype is np.float32 and tensor.takes(shape) for tensor in config.inputs] == [True]
    if not is_square or not is_taken or not config.max_batch_size:
        raise ModelError(config.name, "does not take one radiograph, [batch, 1, size, size] float32")


def _radiographs(name: str, size: int) -> Iterator[object]:
    """Yield prepared radiographs, each of another body, every other one with a finding."""
    for seed in range(1 << 30):
        film = thorax_radiograph(seed, finding="consolidation" if seed % 2 else None, size=size)
        yield {name: prepare_radiograph(film.pixels, size)[np.newaxis, np.newaxis]}


def _volumes(shape: tuple[int, ...]) -> Iterator[object]:
    """Yield what describes a volume: each process makes it for itself, once."""
    while True:
        yield "x", shape, 0


def _take_turns(ways: Sequence[Way], batch: Sequence[object], concurrency: int) -> dict[str, Figures]:
    """Return what each way took; raises ModelError where their outputs differ."""
    taken, outputs_by_way = {}, {}
    for way in ways:
        time.sleep(PAUSE_S)
        taken[way.name], outputs_by_way[way.name] = way.run(batch, concurrency)
    for way in ways:
        for name, expected in outputs_by_way[ENGINE].items():
            if not np.allclose(outputs_by_way[way.name][name], expected, rtol=0, atol=MAX_DIFFERENCE):
                raise ModelError(way.model, f"{name} of the {way.name} loop is not that of the engine")
    return taken
