"""A short run of the fuzzer, in a process of its own: it watches that process's memory and threads."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.loop import keep, run
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

    assert [line.split(":")[0] for line in said.splitlines()] == ["headers", "pixels", "receiver", "journal"]
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
