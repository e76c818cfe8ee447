"""The way to the disk: what has its final name is whole and synced, and so is the folder that names it."""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from node.disk import make_folder, new_file, new_folder, synced_file
from node.errors import OutOfResourcesError


def fail(_descriptor: int) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def write_file(path: Path, content: bytes, **sync: Callable[[int], None]) -> None:
    with new_file(path, **sync) as file:
        file.write(content)


def write_folder(path: Path, content: bytes, **sync: Callable[[int], None]) -> None:
    with new_folder(path, **sync) as part, synced_file(part / "a", **sync) as file:
        file.write(content)


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize(("write", "name"), [(write_file, "x"), (write_folder, "x/a")])
def test_a_disk_that_fails_leaves_what_was_there(
    tmp_path: Path, write: Callable[..., None], name: str
) -> None:
    write(tmp_path / "x", b"old")

    with pytest.raises(OutOfResourcesError, match="cannot write to disk"):
        write(tmp_path / "x", b"new", sync=fail)

    assert contents(tmp_path) == {name: b"old"}
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(("write", "name"), [(write_file, "x"), (write_folder, "x/a")])
def test_what_is_written_again_is_replaced(tmp_path: Path, write: Callable[..., None], name: str) -> None:
    for content in (b"old", b"new"):
        write(tmp_path / "x", content)

    assert contents(tmp_path) == {name: b"new"}


@pytest.mark.parametrize("write", [write_file, write_folder])
def test_what_a_killed_process_left_half_written_is_no_hindrance(
    tmp_path: Path, write: Callable[..., None]
) -> None:
    killed = tmp_path / ".x"
    if write is write_file:
        killed.write_bytes(b"half")
    else:
        killed.mkdir()
        (killed / "a").write_bytes(b"half")

    write(tmp_path / "x", b"whole")

    assert list(contents(tmp_path).values()) == [b"whole"]


@pytest.mark.parametrize("manager", [new_file, new_folder])
def test_a_block_that_breaks_leaves_nothing(tmp_path: Path, manager: Callable[..., object]) -> None:
    with pytest.raises(ZeroDivisionError), manager(tmp_path / "x"):
        raise ZeroDivisionError

    assert list(tmp_path.iterdir()) == []


def test_each_new_folder_is_synced_into_the_one_above(tmp_path: Path) -> None:
    synced: list[str] = []

    make_folder(tmp_path / "a" / "b", sync=lambda descriptor: synced.append(path_of(descriptor)))

    assert synced == [str(tmp_path), str(tmp_path / "a")]
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700


def path_of(descriptor: int) -> str:
    return str(Path(f"/proc/self/fd/{descriptor}").readlink())
