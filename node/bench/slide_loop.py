"""One slide read, prepared and inferred by the node and by its peers; `slide.py` starts it and asks."""

import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from node.bench.memory import forget_peak, peak, peak_of_children
from node.bench.plain_slide import decode_streams, open_with_openslide, read_tile, read_with_openslide
from node.bench.slide_inputs import find_level, find_series, stored_streams
from node.engines.onnx import OnnxEngine
from node.engines.repository import ModelRepository
from node.errors import ConformanceError
from node.imaging.slide_tiles import PreparedSlide, prepare_tiles
from node.pipelines.slide_tumor import SlideTumor
from node.pipelines.slide_tumor.looking import View, look_at
from node.pipelines.slide_tumor.weighing import embed_tiles
from node.read.slide import Slide, open_slide, open_slide_file
from node.read.tiles import AT_ONCE, Regions, stream_tiles

KEPT = 256
"""So many tiles are held to be prepared, and to be inferred, over and over."""

MOST_DIFFERENCE = 2.0
"""Between the tiles of the node and of openslide, in the mean: two builds of one decoder may round apart."""

Colors = npt.NDArray[np.uint8]


class Loop:
    """A slide that is worked on in several ways, each of which returns how many tiles that were."""

    def __init__(self, plan: Mapping[str, Any]) -> None:
        """Open the engine; the slide is opened when it is first needed."""
        self._path, self._threads = Path(plan["path"]), int(plan["threads"])
        self._pipeline = SlideTumor(threads=self._threads)
        self._engine = OnnxEngine(ModelRepository(Path(plan["repository"])), plan["engine_threads"])
        self._card = self._engine.card(self._pipeline.tile_model)
        self._streams_from = Path(plan["streams_from"])
        # Weights are loaded and buffers grown by the first call; the node does that once.
        self._infer(np.zeros((self._pipeline.tiles_at_once, *self._card.input_shape), np.uint8))

    def read(self) -> int:
        """Read the tiles."""
        return self._count(self._slide)

    def prepare(self) -> int:
        """Prepare tiles that are in memory."""
        parts = [self._tiles[first : first + AT_ONCE] for first in range(0, len(self._tiles), AT_ONCE)]
        with ThreadPoolExecutor(self._threads) as pool:
            return sum(map(len, pool.map(lambda part: prepare_tiles(part, self._size), parts)))

    def read_and_prepare(self) -> int:
        """Read the tiles and prepare them: the pipeline without its networks."""
        return self._count(PreparedSlide(self._slide, self._size))

    def infer(self) -> int:
        """Infer tiles that are in memory and prepared, in batches."""
        step = self._pipeline.tiles_at_once
        for first in range(0, len(self._prepared), step):
            self._infer(self._prepared[first : first + step])
        return len(self._prepared)

    def whole(self) -> int:
        """Do what the pipeline does with the tiles."""
        embed_tiles(self._slide, self._view, self._engine, self._pipeline)
        return len(self._corners)

    def openslide(self) -> int:
        """Read the tiles by a bare loop over openslide."""
        return read_with_openslide(self._peer, self._corners, self._view.tiles.side, self._threads)

    def jpeg(self) -> int:
        """Decode the JPEG streams of the same tiles, which are in memory."""
        return decode_streams(self._streams, self._threads)

    def memory(self) -> Mapping[str, int]:
        """Return what the whole takes, from opening the slide on; of a process that did nothing else."""
        before = forget_peak()
        tiles = self.whole()
        return {
            "tiles": tiles,
            "before_bytes": before,
            "peak_bytes": peak(),
            "decoders_bytes": peak_of_children(),
        }

    def require_same_tiles(self) -> None:
        """Raise ConformanceError where the node's tiles are not those of openslide."""
        side = self._view.tiles.side
        for number, tile in zip(range(0, KEPT, 16), self._tiles[::16], strict=False):
            other = read_tile(self._peer, self._corners[number], side)
            if np.abs(other.astype(np.int16) - tile).mean() > MOST_DIFFERENCE:
                raise ConformanceError("slide", f"tile {number} is not that of openslide")

    @cached_property
    def _slide(self) -> Slide:
        return open_slide(find_series(self._path)) if self._path.is_dir() else open_slide_file(self._path)

    @cached_property
    def _peer(self) -> Any:
        return open_with_openslide(find_level(self._path) if self._path.is_dir() else self._path)

    @cached_property
    def _view(self) -> View:
        view = look_at(self._slide, self._card)
        if not isinstance(view, View):
            raise ConformanceError("slide", view.reason)
        return view

    @cached_property
    def _corners(self) -> list[tuple[int, int]]:
        return [(left, top) for left, top in self._view.tiles.corners.tolist()]

    @property
    def _size(self) -> int:
        return self._view.tile_px

    @cached_property
    def _tiles(self) -> list[Colors]:
        return [tile for _, tile in islice(self._stream(self._slide), KEPT)]

    @cached_property
    def _prepared(self) -> Colors:
        return np.stack([one.colors for one in prepare_tiles(self._tiles, self._size)])

    @cached_property
    def _streams(self) -> list[bytes]:
        return stored_streams(self._streams_from, self._corners)

    def _stream(self, slide: Regions[Any]) -> Iterator[tuple[int, Any]]:
        plan = self._view.tiles
        return stream_tiles(slide, plan.level, self._corners, plan.side, threads=self._threads)

    def _count(self, slide: Regions[Any]) -> int:
        return sum(1 for _ in self._stream(slide))

    def _infer(self, batch: Colors) -> None:
        self._engine.infer(self._pipeline.tile_model, {"image": batch})


def measure(work: Callable[[], int]) -> dict[str, float]:
    """Return how many tiles, and in how many seconds."""
    started = time.perf_counter()
    tiles = work()
    return {"tiles": tiles, "seconds": time.perf_counter() - started}


def answer(loop: Loop, asked: str) -> Mapping[str, float]:
    """Return what one line asks for: a way, or the memory."""
    if asked == "memory":
        return loop.memory()
    if asked == "check":
        loop.require_same_tiles()
        return {}
    return measure(getattr(loop, asked))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    opened = Loop(json.loads(sys.argv[1]))
    for line in sys.stdin:
        sys.stdout.write(json.dumps(answer(opened, line.strip())) + "\n")
        sys.stdout.flush()
