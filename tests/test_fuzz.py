"""A short run of the fuzzer, in a process of its own: it watches that process's memory and threads."""

import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from io import BytesIO
from mmap import PAGESIZE, mmap
from pathlib import Path

import pytest

from node.errors import DatasetError
from node.header import read_identifiers
from node.read.scan import PIXEL_DATA
from tests.fuzz import loop
from tests.fuzz.loop import keep, make, run
from tests.fuzz.network import P_DATA, SEPARATOR, Receiver
from tests.fuzz.readers import Pixels
from tests.fuzz.seeds import make_seeds
from tests.fuzz.values import elements_of
from tests.instances import EXPLICIT
from tests.peers import REPOSITORY


def fuzz(folder: Path, *, seconds: float, seed: int) -> str:
    command = [sys.executable, "-m", "tests.fuzz", "--minutes", str(seconds / 60), "--seed", str(seed)]
    ended = subprocess.run(
        [*command, "--failures", str(folder)], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_hostile_bytes_do_no_harm_for_a_moment(tmp_path: Path) -> None:
    said = fuzz(tmp_path / "failures", seconds=4, seed=1)

    names = ["headers", "pixels", "receiver", "bodies", "journal"]
    assert [line.split(":")[0] for line in said.splitlines()] == names
    assert not (tmp_path / "failures").exists()


@pytest.mark.slow
def test_hostile_bytes_do_no_harm_for_a_minute(tmp_path: Path) -> None:
    assert "receiver: " in fuzz(tmp_path / "failures", seconds=60, seed=2)


class Breaks:
    """A target that fails on every input whose number is odd."""

    def __init__(self) -> None:
        self.made = 0

    def make(self, rng: object) -> bytes:
        self.made += 1
        return str(rng.getrandbits(30)).encode()  # type: ignore[attr-defined]

    def attempt(self, data: bytes, _rng: object) -> None:
        if int(data) % 2:
            raise KeyError(data.decode())


def test_an_input_that_fails_is_kept_and_comes_again_from_its_number(tmp_path: Path) -> None:
    outcome = run("breaks", Breaks(), seed=5, seconds=0.05, failures=tmp_path)

    names = sorted(path.name for path in tmp_path.glob("*.bin"))
    assert len(names) == len(outcome.failures) > 0
    again = run("breaks", Breaks(), seed=5, seconds=0.01, failures=tmp_path / "again")
    first = sorted((tmp_path / "again").glob("*.bin"))[0]
    assert first.read_bytes() == (tmp_path / first.name).read_bytes()
    assert "KeyError" in again.failures[0]


def test_what_is_kept_says_why(tmp_path: Path) -> None:
    keep(tmp_path / "new", "a-1-2", b"\0\1", "because")

    assert (tmp_path / "new" / "a-1-2.bin").read_bytes() == b"\0\1"
    assert (tmp_path / "new" / "a-1-2.txt").read_text() == "because"


def test_an_input_that_takes_too_much_memory_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "PEAK_BYTES", 20 << 20)
    # The process of the tests has all kinds of libraries in its address space.
    monkeypatch.setattr(loop, "MEMORY_BYTES", 1 << 44)

    def take(size: int) -> None:
        memory = mmap(-1, size)  # fresh pages, where bytes may come to lie in what was freed before
        memory[::PAGESIZE] = bytes(size // PAGESIZE)

    assert loop.try_one(lambda: take(10 << 20)) == ""
    assert "MiB of memory" in loop.try_one(lambda: take(40 << 20))


# --- what is made comes to where harm could be done


def test_most_files_that_are_made_still_have_pixels(tmp_path: Path) -> None:
    target = Pixels(make_seeds(tmp_path / "seeds"), tmp_path)

    files = [make("pixels", target, seed=1, number=number)[2:] for number in range(200)]

    walked = [elements_of(file) for file in files]
    assert sum(bool(found) and found[-1][0] == PIXEL_DATA for found in walked) > 100


def test_many_data_sets_that_are_sent_have_other_names(tmp_path: Path) -> None:
    target, count = Receiver([], tmp_path), 300
    try:
        inputs = [make("receiver", target, seed=1, number=number) for number in range(count)]
    finally:
        target.close()

    names = [name for each in inputs for name in study_names(each)]

    assert len(names) > count // 3
    assert len([name for name in names if name != "1.2.3"]) > count // 30
    assert ".." in "".join(names)


def study_names(data: bytes) -> Iterator[str]:
    """The Study Instance UIDs in what is sent, of data sets that can be read."""
    for pdu in data.split(SEPARATOR):
        is_whole = len(pdu) > 12 and struct.unpack(">L", pdu[2:6])[0] == len(pdu) - 6
        if is_whole and pdu[:1] == P_DATA and not pdu[11] & 1:
            with suppress(DatasetError):
                yield read_identifiers(BytesIO(pdu[12:]), EXPLICIT, "sent").study_instance_uid
