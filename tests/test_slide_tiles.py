"""Tiles of a slide come in order, few at a time; the processes that decode them may end without harm."""

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from node.domain.slide import SlideLevel
from node.errors import PixelError
from node.read import tile_isolation
from node.read.matrix import CACHE_BYTES, TiledMatrix
from node.read.slide import Slide, open_slide
from node.read.slide_order import row_by_row
from node.read.tile_isolation import ROOM_BYTES, TileDecoder, TileDecoders, TileError
from node.read.tiles import AT_ONCE, stream_tiles
from tests.received import changed, colors, jpeg
from tests.slides import compress, made_of
from tests.sources import write_slide
from tests.synthetic.slide import LEVELS
from tests.synthetic.slide import TILE as TILE_PX

ROWS, COLUMNS, _ = LEVELS[0]
ALIGNED = [(left, top) for top, left in product(range(0, ROWS, TILE_PX), range(0, COLUMNS, TILE_PX))]
SHIFTED = [(left, top) for top, left in product(range(-7, ROWS, 50), range(-9, COLUMNS, 50))]


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slide]:
    folder = tmp_path_factory.mktemp("slide")
    path = write_slide(folder / "written").paths[0]
    with open_slide(made_of(changed(path, folder, compress))) as opened:
        yield opened


@pytest.fixture
def decoder() -> Iterator[TileDecoder]:
    one = TileDecoder()
    yield one
    one.close()


class Counter:
    """A slide whose tiles carry their numbers, and that counts how many exist at a time."""

    def __init__(self, delay_s: float = 0.0, faulty: int = -1) -> None:
        self.read, self.given, self.most = 0, 0, 0
        self._lock, self._delay_s, self._faulty = threading.Lock(), delay_s, faulty

    def regions(
        self, level: int, corners: Sequence[tuple[int, int]], columns: int, rows: int
    ) -> list[np.ndarray]:
        time.sleep(self._delay_s * (corners[0][0] % 3))
        if any(left == self._faulty for left, _ in corners):
            raise PixelError("1.2.3", f"tile {self._faulty}")
        with self._lock:
            self.read += len(corners)
            self.most = max(self.most, self.read - self.given)
        return [np.full((rows, columns, 3), left % 256, np.uint8) for left, _ in corners]


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize(
    ("corners", "size"), [(ALIGNED, TILE_PX), (SHIFTED, 50)], ids=["as stored", "shifted"]
)
def test_tiles_come_in_order_as_regions_would(
    corners: list[tuple[int, int]], size: int, threads: int, slide: Slide
) -> None:
    numbers = []

    for number, tile in stream_tiles(slide, 0, corners, size, threads=threads, ahead=12):
        numbers.append(number)
        assert np.array_equal(tile, slide.region(0, *corners[number], size, size))

    assert numbers == list(range(len(corners)))


@pytest.mark.parametrize(("threads", "ahead"), [(1, 1), (2, 8), (4, 64)])
def test_few_tiles_exist_at_a_time(threads: int, ahead: int) -> None:
    counter = Counter(delay_s=0.0005)

    for number, tile in stream_tiles(
        counter, 0, ((left, 0) for left in range(400)), 4, threads=threads, ahead=ahead
    ):
        assert tile[0, 0, 0] == number % 256
        counter.given = number + 1

    assert counter.read == 400
    # What is read ahead, and the part that is being given.
    assert counter.most <= ahead + AT_ONCE


def test_a_fault_is_raised_at_its_turn_and_nothing_is_read_after() -> None:
    counter = Counter(faulty=37)
    numbers = []

    with pytest.raises(PixelError, match="tile 37"):
        for number, _ in stream_tiles(
            counter, 0, ((left, 0) for left in range(10_000)), 4, threads=2, ahead=16
        ):
            numbers.append(number)

    assert numbers == list(range(32))
    assert counter.read < 100


def test_whoever_stops_early_stops_the_reading() -> None:
    counter = Counter(delay_s=0.002)
    stream = stream_tiles(counter, 0, ((left, 0) for left in range(10_000)), 4, threads=2, ahead=800)

    next(stream)
    stream.close()

    assert counter.read < 100
    assert not [one for one in threading.enumerate() if one.name.startswith("tiles")]


def test_no_corners_give_no_tiles(slide: Slide) -> None:
    assert list(stream_tiles(slide, 0, [], 64, threads=2, ahead=8)) == []


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("is_compressed", [True, False])
@pytest.mark.parametrize("corner", [(TILE_PX, 2 * TILE_PX), (-8, 13), (COLUMNS - 20, ROWS - 30)])
def test_regions_made_smaller_are_means_of_the_regions(
    tmp_path: Path, corner: tuple[int, int], is_compressed: bool, factor: int
) -> None:
    path = write_slide(tmp_path / "written").paths[0]
    instance = changed(path, tmp_path, compress if is_compressed else lambda _: None)

    with open_slide(made_of(instance)) as opened:
        small = opened.regions(0, [corner, corner], TILE_PX, TILE_PX, factor=factor)
        whole = opened.region(0, *corner, TILE_PX, TILE_PX).astype(float)

    means = whole.reshape(TILE_PX // factor, factor, TILE_PX // factor, factor, 3).mean(axis=(1, 3))
    for one in small:
        assert np.array_equal(one, np.floor(means + 0.5))


def test_regions_read_by_many_threads_are_right(slide: Slide) -> None:
    expected = [slide.region(0, *corner, 50, 50) for corner in SHIFTED]

    with ThreadPoolExecutor(6) as executor:
        regions = list(executor.map(lambda corner: slide.region(0, *corner, 50, 50), SHIFTED))

    for one, other in zip(regions, expected, strict=True):
        assert np.array_equal(one, other)


def test_tiles_of_which_parts_are_wanted_are_kept_up_to_a_limit() -> None:
    side, across = 512, 90
    level = SlideLevel("1.2.3", side * across, side * 2, 1.0, side, side)
    decoded = []

    def decode(frames: Sequence[int], factor: int) -> list[np.ndarray]:
        decoded.extend(frames)
        assert factor == 1
        return [np.full((side, side, 3), frame, np.uint8) for frame in frames]

    matrix = TiledMatrix(level, row_by_row(level), decode)
    for left in range(0, side * across - side, side // 2):
        matrix.regions([(left, 0)], side // 2, side // 2)

    assert sorted(decoded) == sorted(set(decoded))
    assert matrix._cache._bytes <= CACHE_BYTES
    assert len(decoded) * side**2 * 3 > CACHE_BYTES


# --- the processes that decode


def stream(value: int = 120, side: int = 64) -> bytes:
    return jpeg(np.full((side, side, 3), value, np.uint8), {})


def test_a_decoder_gives_the_tiles_in_their_order(decoder: TileDecoder) -> None:
    values = [10, 200, 90]

    tiles = decoder.decode([stream(value) for value in values], 64, 64)

    assert [int(tile.mean()) for tile in tiles] == values


def test_a_tile_is_not_changed_by_the_next_one(decoder: TileDecoder) -> None:
    (first,) = decoder.decode([stream(10)], 64, 64)
    decoder.decode([stream(200)], 64, 64)

    assert int(first.mean()) == 10


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"", "JPEG"),
        (stream()[:-30], "Premature end"),
        (stream(side=72), "72 × 72 pixels, the data set says 64 × 64"),
        (b"\xff\xd8" + bytes(50), "JPEG"),
    ],
)
def test_the_tile_that_does_not_decode_is_named(bad: bytes, reason: str, decoder: TileDecoder) -> None:
    with pytest.raises(TileError, match=reason) as caught:
        decoder.decode([stream(), stream(), bad, stream()], 64, 64)

    assert caught.value.index == 2


def test_a_decoder_that_was_killed_is_started_again(decoder: TileDecoder) -> None:
    decoder.decode([stream()], 64, 64)
    decoder._child._process.kill()
    decoder._child._process.wait()

    # What was asked for is asked again, one by one.
    tiles = decoder.decode([stream(10), stream(200)], 64, 64)

    assert [int(tile.mean()) for tile in tiles] == [10, 200]


def test_a_decoder_that_hangs_is_ended_and_the_tile_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "hangs.py"
    program.write_text("import time\ntime.sleep(60)")
    monkeypatch.setattr(tile_isolation, "PROGRAM", program)
    decoder = TileDecoder(timeout_s=0.2)

    with pytest.raises(TileError, match="longer than") as caught:
        decoder.decode([stream()], 64, 64)

    assert caught.value.index == 0
    assert decoder._child._process is None
    decoder.close()


def test_more_tiles_than_fit_are_decoded_in_turns() -> None:
    side = 2048
    fit = ROOM_BYTES // (3 * side**2)
    decoders = TileDecoders(1)

    tiles = decoders.decode([stream(number, side) for number in range(fit + 2)], side, side)

    assert [int(tile[0, 0, 0]) for tile in tiles] == list(range(fit + 2))
    decoders.close()


def test_jpeg_tiles_are_those_of_the_slide(slide: Slide) -> None:
    picture = slide.region(0, 0, 0, COLUMNS, ROWS)

    assert np.abs(picture.astype(int) - colors()).mean() < 2


def test_a_closed_slide_reads_nothing(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "slide").paths[1]
    opened = open_slide(made_of(changed(path, tmp_path, compress)))
    opened.close()

    with pytest.raises(PixelError, match="closed"):
        opened.region(0, 0, 0, 64, 64)
