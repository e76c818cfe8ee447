"""One piece of shared memory: made, lent to a request, and divided among its arrays."""

import ctypes
import math
import mmap
import os
import weakref
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from node.engines.tensors import Array

ALIGNMENT = 64


@dataclass(frozen=True, slots=True)
class Place:
    """Where an array lies: a region by its name, and the bytes of it."""

    region: str
    offset: int
    size_bytes: int


@dataclass(slots=True, eq=False)
class Region:
    """One piece of memory, mapped here and by the server."""

    name: str
    memory: mmap.mmap
    is_suspect: bool = False
    """A request that used it ended without an answer: the server may still read or write it."""

    is_known: bool = True
    """The server that was asked to map it still runs."""

    @property
    def address(self) -> int:
        """Where it begins in this process."""
        return ctypes.addressof(ctypes.c_char.from_buffer(self.memory))

    @property
    def size_bytes(self) -> int:
        """The whole of it."""
        return len(self.memory)


class Lease:
    """A region for one request; its arrays keep it, and it is free again when the last of them is gone."""

    def __init__(self, region: Region, freed: "deque[Region]") -> None:
        """Lend a region; it is put on `freed` in the end, from whatever thread that happens in."""
        self.region = region
        holder = (ctypes.c_char * region.size_bytes).from_buffer(region.memory)
        self._bytes = np.frombuffer(memoryview(holder), np.uint8)
        self._used_bytes = 0
        weakref.finalize(holder, freed.append, region).atexit = False

    def array(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> tuple[Array, Place]:
        """Return the next part of the region as an array, and where it lies."""
        offset, size_bytes = self._used_bytes, math.prod(shape) * np.dtype(dtype).itemsize
        self._used_bytes += room(size_bytes)
        values = self._bytes[offset : offset + size_bytes].view(dtype).reshape(shape)
        return values, Place(self.region.name, offset, size_bytes)


def allocate(path: Path, size_bytes: int) -> mmap.mmap:
    """Return memory under a new name, for this user alone; raises OSError where it is short."""
    flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(path, flags, 0o600)
    try:
        # Without it a full /dev/shm kills the process (SIGBUS) that first writes there.
        os.posix_fallocate(descriptor, 0, size_bytes)
        return mmap.mmap(descriptor, size_bytes)
    finally:
        os.close(descriptor)


def room(size_bytes: int) -> int:
    """Return what an array takes of a region."""
    return math.ceil(size_bytes / ALIGNMENT) * ALIGNMENT
