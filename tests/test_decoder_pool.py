"""Frames are decoded several at a time, each in a process that it may take down with it."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders.base import get_encoder
from pydicom.uid import RLELossless

from node.read.isolation import DecoderPool

ROWS, COLUMNS, FRAMES = 32, 24, 24
OPTIONS = {
    "rows": ROWS,
    "columns": COLUMNS,
    "samples_per_pixel": 1,
    "photometric_interpretation": "MONOCHROME2",
    "bits_allocated": 16,
    "bits_stored": 16,
    "pixel_representation": 1,
    "number_of_frames": 1,
}
DECODING = {**OPTIONS, "pixel_keyword": "PixelData", "pixel_vr": "OB"}


@pytest.fixture
def pool() -> Iterator[DecoderPool]:
    pool = DecoderPool(2)
    yield pool
    pool.close()


def frame(number: int) -> np.ndarray:
    return np.full((ROWS, COLUMNS), number, np.int16)


def decode(pool: DecoderPool, number: int) -> np.ndarray:
    encoded = get_encoder(RLELossless).encode(frame(number).tobytes(), encoding_plugin="pydicom", **OPTIONS)
    return pool.decode(RLELossless, encapsulate([encoded], has_bot=False), DECODING)


def children() -> set[int]:
    """The processes that this one has started and that still run."""
    lists = Path("/proc/self/task").glob("*/children")
    return {int(pid) for one in lists for pid in one.read_text().split()}


def test_one_caller_alone_needs_one_process(pool: DecoderPool) -> None:
    before = children()

    frames = [decode(pool, number) for number in range(3)]

    np.testing.assert_array_equal(frames, [frame(number) for number in range(3)])
    assert len(children() - before) == 1


def test_callers_in_threads_get_their_own_frames(pool: DecoderPool) -> None:
    before = children()

    with ThreadPoolExecutor(8) as executor:
        frames = list(executor.map(lambda number: decode(pool, number), range(FRAMES)))

    np.testing.assert_array_equal(frames, [frame(number) for number in range(FRAMES)])
    assert len(children() - before) == pool.size


def test_a_frame_that_fails_costs_no_other(pool: DecoderPool) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        pool.decode(RLELossless, encapsulate([b"\1" * 64], has_bot=False), DECODING)

    np.testing.assert_array_equal(decode(pool, 7), frame(7))


def test_processes_end_with_the_pool(pool: DecoderPool) -> None:
    before = children()
    decode(pool, 1)

    pool.close()

    assert children() == before
