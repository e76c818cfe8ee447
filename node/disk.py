"""The one way to the disk: a file has its final name only once it is whole; file and folder are synced."""

import ctypes
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from node.errors import OutOfResourcesError, StoreError

FOLDER_MODE = 0o700
FILE_MODE = 0o600
BUFFER_BYTES = 1 << 20

_LIBC = ctypes.CDLL(None, use_errno=True)

Sync = Callable[[int], None]
"""Returns once what a descriptor stands for is on disk: `os.fsync`, but in a test or a benchmark."""


@contextmanager
def new_file(path: Path, *, sync: Sync = os.fsync) -> Iterator[BinaryIO]:
    """Give a file to fill: after a crash the path is as it was before, or whole.

    Every failure of the disk is OutOfResourcesError.
    """
    part = path.with_name(f".{path.name}")
    try:
        with disk_errors():
            make_folder(path.parent, sync=sync)
        with synced_file(part, sync=sync) as file:
            yield file
        with disk_errors():
            part.rename(path)
            sync_folder(path.parent, sync=sync)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path, *, sync: Sync = os.fsync) -> Iterator[Path]:
    """Give a folder to fill with synced files: after the block it is at its path, in place of what was there.

    Every failure of the disk is OutOfResourcesError.
    """
    part = path.with_name(f".{path.name}")
    try:
        with disk_errors():
            shutil.rmtree(part, ignore_errors=True)
            make_folder(path.parent, sync=sync)
            part.mkdir(mode=FOLDER_MODE)
        yield part
        with disk_errors():
            sync_folder(part, sync=sync)
            shutil.rmtree(path, ignore_errors=True)
            part.rename(path)
            sync_folder(path.parent, sync=sync)
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def synced_file(path: Path, *, sync: Sync = os.fsync) -> Iterator[BinaryIO]:
    """Give an empty file to fill, synced at the end of the block; its name is not."""
    with disk_errors():
        path.unlink(missing_ok=True)
        with create_file(path) as file:
            yield file
            file.flush()
            sync(file.fileno())


class FolderLock:
    """What one process at a time holds of a data folder; it ends with the process, however that ends."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "node.lock"
        self._file: BinaryIO | None = None

    def take(self) -> None:
        """Take it; raises StoreError where another process has it."""
        file = os.fdopen(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE), "r+b")
        try:
            # Not flock: a child that outlives its parent would hold it, and keep the next node from starting.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as fault:
            file.close()
            raise StoreError(str(self._path.parent), "a node is running on this data folder") from fault
        self._file = file

    def release(self) -> None:
        """Give it back, if it was taken."""
        if self._file:
            self._file.close()
            self._file = None


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a data folder for the length of a block; raises StoreError where a node has it."""
    lock = FolderLock(folder)
    lock.take()
    try:
        yield
    finally:
        lock.release()


def create_file(path: Path) -> BinaryIO:
    """Open a file that must not be there yet, to write and read, for nobody but its owner."""
    return os.fdopen(new_descriptor(path), "w+b", buffering=BUFFER_BYTES)


def new_descriptor(path: Path | str) -> int:
    """Open a file that must not be there yet, as `create_file` does, without a buffer."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write all of it: a disk that is nearly full takes a part, and says so at the next try."""
    written = os.write(descriptor, data)
    while written < len(data):
        written += os.write(descriptor, data[written:])


def make_folder(folder: Path, *, sync: Sync = os.fsync) -> None:
    """Make a folder and its parents, each synced into the one above it."""
    if folder.is_dir():
        return
    make_folder(folder.parent, sync=sync)
    folder.mkdir(mode=FOLDER_MODE, exist_ok=True)
    sync_folder(folder.parent, sync=sync)


def sync_folder(folder: Path, *, sync: Sync = os.fsync) -> None:
    """Return once the names in a folder are on disk: a file whose name is lost is lost."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


def sync_file_system(folder: Path) -> None:
    """Return once all that was written to the folder's file system is on disk, by one commit for all."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if _LIBC.syncfs(descriptor):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
    finally:
        os.close(descriptor)


@contextmanager
def disk_errors() -> Iterator[None]:
    """Raise OutOfResourcesError for every failure of the disk inside the block."""
    try:
        yield
    except OSError as fault:
        raise out_of_resources(fault) from fault


def out_of_resources(fault: OSError) -> OutOfResourcesError:
    """Return what a failure of the disk is to those above: for once in a block without `disk_errors`."""
    return OutOfResourcesError(f"cannot write to disk: {fault.strerror}")
