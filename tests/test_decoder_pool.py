"""Frames are decoded several at a time, each in a process that it may take down with it."""

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders.base import get_encoder
from pydicom.uid import RLELossless

from node.read.child import ChildError, ChildProcess
from node.read.isolation import DecoderPool, DecoderProcess

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


def decode(pool: DecoderPool | DecoderProcess, number: int) -> np.ndarray:
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


# --- a process that does not do what it should


class BrokenOffError(BaseException):
    """What a node that stops raises in the middle of its work."""


@pytest.fixture
def decoder() -> Iterator[DecoderProcess]:
    decoder = DecoderProcess(timeout_s=2)
    yield decoder
    decoder.close()


def start(decoder: DecoderProcess) -> int:
    """Have it decode a frame; its process."""
    before = children()
    decode(decoder, 1)
    (pid,) = children() - before
    return pid


def test_a_process_that_gets_no_time_costs_no_frame(decoder: DecoderProcess) -> None:
    os.kill(start(decoder), signal.SIGSTOP)

    np.testing.assert_array_equal(decode(decoder, 2), frame(2))


def test_a_frame_that_keeps_its_process_at_work_is_refused_at_once(tmp_path: Path) -> None:
    program = tmp_path / "works.py"
    program.write_text("while True:\n    pass")
    child, began = ChildProcess(program, timeout_s=2), time.monotonic()

    with pytest.raises(ChildError, match="took longer than 2 s"):
        child.request("a frame")

    assert time.monotonic() - began < 3.5


def test_a_process_that_is_killed_costs_no_frame(decoder: DecoderProcess) -> None:
    os.kill(start(decoder), signal.SIGKILL)

    np.testing.assert_array_equal(decode(decoder, 2), frame(2))


def test_a_frame_whose_process_is_killed_each_time_is_refused(tmp_path: Path) -> None:
    program = tmp_path / "ends.py"
    program.write_text("raise SystemExit(1)")
    child = ChildProcess(program, timeout_s=5)

    with pytest.raises(ChildError, match="the decoder broke down"):
        child.request("a frame")


def test_a_frame_that_wants_all_memory_gets_none(decoder: DecoderProcess) -> None:
    start(decoder)
    bomb = DECODING | {"rows": 65535, "columns": 65535}

    began = time.monotonic()
    with pytest.raises(ValueError, match=r"\w"):
        decoder.decode(RLELossless, encapsulate([bytes(64)], has_bot=False), bomb)

    assert time.monotonic() - began < 2
    np.testing.assert_array_equal(decode(decoder, 3), frame(3))


def test_who_breaks_off_leaves_no_answer_for_the_next(decoder: DecoderProcess) -> None:
    pid = start(decoder)
    os.kill(pid, signal.SIGSTOP)

    def break_off(*_: object) -> None:
        os.kill(pid, signal.SIGCONT)
        raise BrokenOffError

    handler = signal.signal(signal.SIGALRM, break_off)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    with pytest.raises(BrokenOffError):
        decode(decoder, 2)
    signal.signal(signal.SIGALRM, handler)

    np.testing.assert_array_equal(decode(decoder, 3), frame(3))
