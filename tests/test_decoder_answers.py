"""A decoder that hostile pixels took over answers anything at all: that costs a frame, and runs nothing."""

import json
import os
import pickle
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from node.read import isolation, tile_isolation
from node.read.child import ChildError, ChildProcess
from node.read.isolation import DecoderProcess
from node.read.tile_isolation import TileDecoder, TileError

MIB = 1 << 20
START = """
import socket, struct, sys, time, os
connection = socket.socket(fileno=int(sys.argv[1]))
"""
LISTEN = START + "connection.recv(1000)\n"
Program = Callable[[str], Path]


@pytest.fixture
def program(tmp_path: Path) -> Program:
    def write(text: str) -> Path:
        path = tmp_path / "taken_over.py"
        path.write_text(text)
        return path

    return write


class Harm:
    """Leaves a folder where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def __reduce__(self) -> object:
        return os.mkdir, (self._path,)


def message(head: object, payload: bytes = b"") -> bytes:
    encoded = head if isinstance(head, bytes) else json.dumps(head).encode()
    return struct.pack("<LQ", len(encoded), len(payload)) + encoded + payload


def saying(data: bytes) -> str:
    return LISTEN + f"connection.sendall({data!r})\ntime.sleep(60)"


# --- no message


def test_an_answer_that_would_run_something_runs_nothing(program: Program, tmp_path: Path) -> None:
    harm = pickle.dumps(Harm(tmp_path / "harmed"))
    # As multiprocessing sends an object, and as ours do.
    for data in (struct.pack("!i", len(harm)) + harm, message(harm), message([], harm)):
        with pytest.raises(ChildError):
            ChildProcess(program(saying(data)), timeout_s=2).request("a frame")

    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("<LQ", 2, 1 << 40) + b"{}",
        struct.pack("<LQ", 0xFFFFFFFF, 0) + b"{}",
        struct.pack("<LQ", 2, MIB + 1) + b"{}",
        message(b"no JSON"),
        message(b"\xff\xfe\xfd"),
        message(b"[" * 60_000),
    ],
    ids=["terabyte", "long head", "byte too many", "words", "bytes", "deep"],
)
def test_what_is_no_answer_is_not_listened_to(program: Program, data: bytes) -> None:
    child, began = ChildProcess(program(saying(data)), timeout_s=10), time.monotonic()

    with pytest.raises(ChildError, match="broke down"):
        child.request("a frame", max_bytes=MIB)

    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "text",
    [
        START + "time.sleep(60)",
        LISTEN + f"connection.sendall({message('x' * 100)[:50]!r})\ntime.sleep(60)",
        LISTEN
        + f"for one in {message('x' * 1000)!r}:\n  connection.sendall(bytes([one]))\n  time.sleep(0.1)",
    ],
    ids=["does not listen", "stops halfway", "byte by byte"],
)
def test_who_does_not_come_to_an_end_is_ended(program: Program, text: str) -> None:
    child, began = ChildProcess(program(text), timeout_s=1), time.monotonic()

    with pytest.raises(ChildError, match="longer than 1 s"):
        child.request("a frame", bytes(16 * MIB))

    assert time.monotonic() - began < 5


# --- a message, and no frame


@pytest.mark.parametrize(
    ("head", "payload"),
    [
        ({}, b""),
        ([], b""),
        ({"reason": ["a list"]}, b""),
        ({"dtype": "|O", "shape": [1]}, bytes(8)),
        ({"dtype": "<f8", "shape": [1]}, bytes(8)),
        ({"dtype": ["<u2"], "shape": [2, 2]}, bytes(8)),
        ({"dtype": "<u2", "shape": [-1, 2]}, bytes(8)),
        ({"dtype": "<u2", "shape": [2, 2.0]}, bytes(8)),
        ({"dtype": "<u2", "shape": [1 << 60, 1 << 60]}, bytes(8)),
        ({"dtype": "<u2", "shape": [2, 3]}, bytes(8)),
        ({"dtype": "<u2", "shape": [2, 2]}, bytes(7)),
    ],
)
def test_an_answer_without_sense_is_no_frame(
    program: Program, monkeypatch: pytest.MonkeyPatch, head: object, payload: bytes
) -> None:
    monkeypatch.setattr(isolation, "PROGRAM", program(saying(message(head, payload))))
    decoder = DecoderProcess(timeout_s=10)

    with pytest.raises(ValueError, match=r"no sense|reshape|changing to a|divisor"):
        decoder.decode("1.2.3", b"", {"rows": 2, "columns": 2})

    decoder.close()


@pytest.mark.parametrize("head", [{}, [0], [7, "why"], [-1, "why"], ["0", "why"], [0, 0]])
def test_an_answer_without_sense_is_no_tile(
    program: Program, monkeypatch: pytest.MonkeyPatch, head: object
) -> None:
    monkeypatch.setattr(tile_isolation, "PROGRAM", program(saying(message(head))))
    decoder = TileDecoder(timeout_s=10)

    with pytest.raises(TileError, match="no sense"):
        decoder.decode([b"tile"], 8, 8)

    decoder.close()


def test_shared_memory_cannot_be_taken_from_under_the_node(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"""{LISTEN}
try:
    os.ftruncate(int(sys.argv[2]), 0)
    connection.sendall({message([0, "cut"])!r})
except PermissionError:
    connection.sendall({message([0, "sealed"])!r})
"""
    monkeypatch.setattr(tile_isolation, "PROGRAM", program(text))
    decoder = TileDecoder(timeout_s=10)

    with pytest.raises(TileError, match="sealed"):
        decoder.decode([b"tile"], 8, 8)

    decoder.close()
