"""Tiles are prepared by the threads that read them: as they would be one by one, and in their order."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from node.errors import PixelError
from node.imaging.slide_grid import shrink_tile
from node.imaging.slide_tiles import PreparedSlide
from node.imaging.tile_quality import Quality, judge_tile, judge_tiles
from node.read.tiles import stream_tiles
from node.shrink import shrink

SIDE, SIZE = 64, 32
GLASS, STROMA, NUCLEUS, INK = (243, 242, 244), (226, 160, 200), (70, 40, 110), (40, 150, 110)
SMEAR = (180, 90, 150)


def tile(color: tuple[int, int, int], *, dots: float, noise: int, seed: int) -> np.ndarray:
    """A tile of one color with noise, and so large a part of nuclei, each of four by four pixels."""
    random = np.random.default_rng(seed)
    picture = np.full((SIDE, SIDE, 3), color, int)
    picture[np.kron(random.random((SIDE // 4, SIDE // 4)) < dots, np.ones((4, 4), bool))] = NUCLEUS
    return np.clip(picture + random.integers(-noise, noise + 1, picture.shape), 0, 255).astype(np.uint8)


KINDS: dict[Quality, Callable[[int], np.ndarray]] = {
    Quality.TISSUE: lambda seed: tile(STROMA, dots=0.2, noise=3, seed=seed),
    Quality.BLANK: lambda seed: tile(GLASS, dots=0.0, noise=3, seed=seed),
    Quality.PEN: lambda seed: tile(INK, dots=0.1, noise=3, seed=seed),
    Quality.BLURRED: lambda seed: tile(SMEAR, dots=0.0, noise=0, seed=seed),
}
MIXED = [make(seed) for seed in range(6) for make in KINDS.values()]


class Row:
    """A slide of one row of tiles, each of which can be damaged."""

    def __init__(self, damaged: int = -1) -> None:
        self._damaged = damaged

    def regions(
        self, level: int, corners: Sequence[tuple[int, int]], columns: int, rows: int, *, factor: int = 1
    ) -> list[np.ndarray]:
        numbers = [left // SIDE for left, _ in corners]
        if self._damaged in numbers:
            raise PixelError("1.2.3", f"tile {self._damaged}")
        return [shrink(MIXED[number], factor) for number in numbers]


CORNERS = [(SIDE * number, 0) for number in range(len(MIXED))]


@pytest.mark.parametrize("threads", [1, 3])
def test_prepared_tiles_come_in_order_shrunk_and_judged(threads: int) -> None:
    prepared = PreparedSlide(Row(), SIZE)

    found = list(stream_tiles(prepared, 0, CORNERS, SIDE, threads=threads))

    assert [number for number, _ in found] == list(range(len(MIXED)))
    for number, one in found:
        assert np.array_equal(one.colors, shrink_tile(MIXED[number], SIZE))
        assert one.quality is judge_tile(one.colors)
        assert one.quality is list(KINDS)[number % len(KINDS)]


def test_a_tile_that_does_not_decode_ends_the_preparation() -> None:
    stream = stream_tiles(PreparedSlide(Row(damaged=20), SIZE), 0, CORNERS, SIDE, threads=2)

    with pytest.raises(PixelError, match="tile 20"):
        list(stream)


def test_tiles_are_judged_together_as_alone() -> None:
    together = judge_tiles(MIXED)

    assert together == [judge_tile(one) for one in MIXED]
    assert set(together) == set(KINDS)


@pytest.mark.parametrize("shape", [(8, 8), (9, 13), (30, 17)])
def test_tiles_of_any_size_are_judged(shape: tuple[int, int]) -> None:
    assert judge_tile(np.full((*shape, 3), GLASS, np.uint8)) is Quality.BLANK


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 16, 17, 32])
def test_each_pixel_is_the_rounded_mean_of_its_square(factor: int) -> None:
    colors = np.random.default_rng(factor).integers(0, 256, (3 * factor, 5 * factor, 3), dtype=np.uint8)
    colors[:factor, :factor] = 255
    sums = colors.reshape(3, factor, 5, factor, 3).sum(axis=(1, 3), dtype=np.int64)

    small = shrink(colors, factor)

    assert small.dtype == np.uint8
    np.testing.assert_array_equal(small, (sums + factor**2 // 2) // factor**2)
