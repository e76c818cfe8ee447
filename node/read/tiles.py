"""The tiles of a slide as a stream: read ahead by threads, given in order, few in memory at a time."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Protocol, TypeVar

Corner = tuple[int, int]
Tile = TypeVar("Tile", covariant=True)

AT_ONCE = 16
"""Tiles that one thread reads in one go: a decoder is asked once for all, and they are judged together."""


class Regions(Protocol[Tile]):
    """What gives parts of a slide: `node.read.slide.Slide`, or who makes something of what that gives."""

    def regions(self, level: int, corners: list[Corner], columns: int, rows: int) -> Sequence[Tile]:
        """Return the part at each corner; of a slide itself (rows, columns, 3)."""
        ...


def stream_tiles(
    slide: Regions[Tile],
    level: int,
    corners: Iterable[Corner],
    size: int,
    *,
    threads: int = 2,
    ahead: int = 64,
) -> Iterator[tuple[int, Tile]]:
    """Yield the number of each corner (from 0) and the square of `size` there, in their order.

    Corners are first column and first row in pixels of the level. At most `ahead` tiles and those in the
    hands of the threads exist at a time, whatever the slide's size. Whoever stops early closes the iterator.
    Raises what reading raises, when it is that tile's turn.
    """
    rest = iter(corners)
    at_once = max(1, min(AT_ONCE, ahead // max(1, threads)))
    with ThreadPoolExecutor(threads, thread_name_prefix="tiles") as executor:
        waiting: deque[Future[Sequence[Tile]]] = deque()
        number = 0
        try:
            while True:
                while len(waiting) < max(1, ahead // at_once) and (part := list(islice(rest, at_once))):
                    waiting.append(executor.submit(slide.regions, level, part, size, size))
                if not waiting:
                    return
                for tile in waiting.popleft().result():
                    yield number, tile
                    number += 1
        finally:
            for future in waiting:
                future.cancel()
