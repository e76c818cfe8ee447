"""The tiles of a slide as embeddings, one by one, and what the heads say of them all."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np
import numpy.typing as npt

from node.domain.findings import Outcome, Refusal, Score
from node.domain.progress import Progress
from node.errors import ModelError
from node.imaging.slide_tiles import PreparedSlide, PreparedTile
from node.imaging.tile_quality import Quality
from node.interfaces import Arrays, Engine
from node.pipelines.scores import to_scores
from node.pipelines.slide_tumor.looking import View
from node.read.slide import Slide
from node.read.tiles import stream_tiles

ATTENTION, TILE_PROBABILITY = "attention", "tile_probability"

Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]


class Reading(Protocol):
    """How tiles are read and asked about: the options of the pipeline."""

    @property
    def tile_model(self) -> str:
        """The model that makes embeddings."""

    @property
    def threads(self) -> int:
        """How many threads read."""

    @property
    def tiles_at_once(self) -> int:
        """How many tiles go into one request."""


@dataclass(frozen=True, slots=True, eq=False)
class Tiles:
    """The tiles that were fit to be read: their corners (n, 2; left, top), and features (n, …) by name."""

    corners: npt.NDArray[np.int64]
    features: Mapping[str, Floats]
    remarks: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Weighed:
    """What the heads say of a slide: its score, and of each tile its attention and probability (n,)."""

    tiles: Tiles
    score: Score
    attention: Floats
    tile_probability: Floats
    tile_threshold: float

    @property
    def relative_attention(self) -> Floats:
        """What each tile weighed, relative to the one that weighed most."""
        return np.asarray(self.attention / max(float(self.attention.max()), 1e-12), np.float32)


def embed_tiles(slide: Slide, view: View, engine: Engine, reading: Reading) -> Tiles | Refusal:
    """Return what the tile model makes of all tiles of a view that are fit for it, or that none is.

    Few tiles are in memory at a time. Raises PixelError with the place for a tile that does not decode,
    ModelError for an answer that is no number for each tile.
    """
    counts: Counter[Quality] = Counter()
    kept: list[int] = []
    buffer = engine.buffer((reading.tiles_at_once, view.tile_px, view.tile_px, 3), np.uint8)
    usable = _usable(_stream(slide, view, reading.threads), Progress(len(view.tiles), "tiles"), counts, kept)
    batches = _batches(usable, np.asarray(buffer, np.uint8))
    answers = [_embedded(engine, reading.tile_model, batch) for batch in batches]
    if not kept:
        return Refusal(Outcome.NOT_ELIGIBLE, f"no tile of the slide can be read: {_words(counts)}")
    remarks = (f"Tiles left out: {_words(counts)}.",) if len(kept) < len(view.tiles) else ()
    features = {name: np.concatenate([one[name] for one in answers]) for name in answers[0]}
    return Tiles(view.tiles.corners[kept], features, remarks)


def _stream(slide: Slide, view: View, threads: int) -> Iterator[tuple[int, PreparedTile]]:
    plan = view.tiles
    corners = ((left, top) for left, top in plan.corners.tolist())
    return stream_tiles(PreparedSlide(slide, view.tile_px), plan.level, corners, plan.side, threads=threads)


def _usable(
    stream: Iterator[tuple[int, PreparedTile]], progress: Progress, counts: Counter[Quality], kept: list[int]
) -> Iterator[Pixels]:
    """Yield the tiles that are fit for a network; `kept` gets their numbers, `counts` all."""
    for number, tile in stream:
        progress.advance()
        counts[tile.quality] += 1
        if tile.quality.is_usable:
            kept.append(number)
            yield tile.colors


def _batches(tiles: Iterator[Pixels], buffer: Pixels) -> Iterator[Pixels]:
    """Yield the tiles by as many as the buffer holds; each time it is the buffer itself, filled anew."""
    while True:
        filled = 0
        for tile in islice(tiles, len(buffer)):
            buffer[filled] = tile
            filled += 1
        if not filled:
            return
        yield buffer[:filled]


def _words(counts: Counter[Quality]) -> str:
    """Return how many tiles were left out for what."""
    return ", ".join(f"{count} {quality}" for quality, count in counts.items() if not quality.is_usable)


def _embedded(engine: Engine, model: str, batch: Pixels) -> Mapping[str, Floats]:
    answer = engine.infer(model, {"image": batch})
    for name, values in answer.items():
        if len(values) != len(batch) or not np.isfinite(values).all():
            raise ModelError(
                model, f"output {name} is {list(values.shape)} for {len(batch)} tiles, or not finite"
            )
    return {name: np.asarray(values, np.float32) for name, values in answer.items()}


def weigh(tiles: Tiles, engine: Engine, model: str) -> Weighed:
    """Return what a model says of all tiles of a slide together; raises ModelError for a wrong answer."""
    card = engine.card(model)
    if len(card.classes) != 1 or card.tile_threshold is None:
        raise ModelError(model, "card.json: expected one class and a tile_threshold")
    outputs = engine.infer(model, {name: values[np.newaxis] for name, values in tiles.features.items()})
    (score,) = to_scores(model, card, outputs)
    attention, probability = (_of_tiles(model, outputs, name, len(tiles.corners)) for name in PER_TILE)
    return Weighed(tiles, score, attention, probability, card.tile_threshold)


PER_TILE = (ATTENTION, TILE_PROBABILITY)


def _of_tiles(model: str, outputs: Arrays, name: str, count: int) -> Floats:
    values = outputs.get(name)
    if values is None or values.shape != (1, count):
        raise ModelError(model, f"output {name} is absent or not [1, {count}]")
    found = np.asarray(values[0], np.float32)
    if not (np.isfinite(found).all() and found.min() >= 0 and found.max() <= 1 + 1e-4):
        raise ModelError(model, f"output {name} holds values outside 0–1")
    return np.clip(found, 0, 1)
