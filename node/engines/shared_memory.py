"""Memory that this process and a Triton server on the same host both see: large arrays need no way between.

A region loses its name in /dev/shm as soon as the server has mapped it, so that nothing is left there however
either of them ends. It is lent to one request at a time, until nothing refers to its arrays any more.
"""

import ctypes
import itertools
import math
import mmap
import os
import threading
import weakref
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import structlog

from node.engines.owner import NOWHERE, Owner
from node.engines.tensors import Array
from node.engines.triton_server import BrokenModelError, TritonServer
from node.errors import EngineUnavailableError, ModelError, SightlineError

FOLDER = Path("/dev/shm")  # noqa: S108 - where Linux keeps what shm_open opens
LARGE_BYTES = 1 << 20
"""From here on an array goes by shared memory: below, one message costs less than the bookkeeping."""

MAX_REGIONS = 32
GRAIN_BYTES = 1 << 20
"""Regions are multiples of it, so that one serves inputs of about the same size."""

ALIGNMENT = 64

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is shared at most, and from which size on an array is."""

    all_bytes: int = 1 << 30
    large_bytes: int = LARGE_BYTES


DEFAULT_LIMITS = Limits()


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


class SharedMemory:
    """The regions of one engine: bounded in number and size, used again and again."""

    def __init__(self, server: TritonServer, limits: Limits, home: str = NOWHERE) -> None:
        """Share memory with a server, none so far; `home` stands for the node's data folder."""
        self.large_bytes = limits.large_bytes
        self._server = server
        self._limit_bytes = limits.all_bytes
        self._owner = Owner.of_this_process(home)
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._region_by_name: dict[str, Region] = {}
        self._idle: list[Region] = []
        self._promised: list[int] = []
        # Filled where arrays are collected, which may be in the middle of anything: no lock is taken there.
        self._freed: deque[Region] = deque()
        self._refusal = ""

    def lease(self, size_bytes: int) -> Lease | None:
        """Return room for so many bytes; None where the server cannot see it, or it is none or too much."""
        if not size_bytes or self._refusal or size_bytes > self._limit_bytes:
            return None
        self._sort_out()
        region = self._take_idle(size_bytes) or self._make(size_bytes)
        return None if region is None else Lease(region, self._freed)

    def find(self, array: Array) -> Place | None:
        """Return where an array lies that was written into a region, and is whole there."""
        if not array.flags.c_contiguous:
            return None
        address = array.__array_interface__["data"][0]
        with self._lock:
            regions = [one for one in self._region_by_name.values() if one.is_known]
        for region in regions:
            offset = address - region.address
            if offset >= 0 and offset + array.nbytes <= region.size_bytes:
                return Place(region.name, offset, array.nbytes)
        return None

    def suspect(self, places: list[Place]) -> None:
        """Have no other request use these regions before the server says that none does."""
        with self._lock:
            for place in places:
                if place.region in self._region_by_name:
                    self._region_by_name[place.region].is_suspect = True

    def require(self) -> None:
        """Raise EngineUnavailableError where the server cannot see memory of this host."""
        lease = self.lease(GRAIN_BYTES)
        if lease is None and self._refusal:
            raise EngineUnavailableError(
                self._server.url, f"cannot use shared memory of this host ({self._refusal})"
            )

    def renew(self) -> None:
        """Forget what a restarted server does not know, try again what it refused, and sweep.

        What nodes of this host left when they were killed goes: names that were not yet taken away, and
        memory that the server still holds for them.
        """
        self._refusal = ""
        for path in FOLDER.glob(f"{Owner.PREFIX}*"):
            if self._owner.has_outlived(path.name):
                path.unlink(missing_ok=True)
        with self._lock:
            before = list(self._region_by_name.values())
        names = self._server.region_names()
        with self._lock:
            for region in before:
                if region.name not in names:
                    self._forget(region)
        for name in names:
            if self._owner.has_outlived(name):
                self._give_up(name)

    def close(self) -> None:
        """Have the server unmap everything; what a request still uses it unmaps when it ends."""
        with self._lock:
            names = list(self._region_by_name)
            self._region_by_name.clear()
            self._idle.clear()
            self._refusal = "the node stops"
        for name in names:
            self._give_up(name)

    def _sort_out(self) -> None:
        """Take back what is free; of the suspect ones give one up, or try that again another time."""
        suspects: list[Region] = []
        with self._lock:
            while self._freed:
                region = self._freed.popleft()
                if region.is_known:
                    (suspects if region.is_suspect else self._idle).append(region)
        for place, region in enumerate(suspects):
            # One, for a server that hangs takes its time.
            if place == 0 and self._give_up(region.name):
                with self._lock:
                    self._forget(region)
            else:
                self._freed.append(region)

    def _take_idle(self, size_bytes: int) -> Region | None:
        with self._lock:
            fitting = [one for one in self._idle if one.size_bytes >= size_bytes]
            if not fitting:
                return None
            region = min(fitting, key=lambda one: one.size_bytes)
            self._idle.remove(region)
            return region

    def _make(self, size_bytes: int) -> Region | None:
        size_bytes = math.ceil(size_bytes / GRAIN_BYTES) * GRAIN_BYTES
        if not self._make_room(size_bytes):
            return None
        region = self._registered(size_bytes)
        with self._lock:
            self._promised.remove(size_bytes)
            if region:
                self._region_by_name[region.name] = region
        return region

    def _registered(self, size_bytes: int) -> Region | None:
        """Return a new region that the server has mapped, or None, and say why."""
        name = f"{self._owner.prefix}{next(self._numbers)}"
        path = FOLDER / name
        try:
            region = Region(name, allocate(path, size_bytes))
            self._server.register_region(name, size_bytes)
        except OSError as error:
            log.warning("shared_memory_short", size_bytes=size_bytes, reason=error.strerror)
        except (BrokenModelError, ModelError) as error:
            # No such memory there: the server is on another host, in another container, another user's.
            self._refusal = str(error)
            log.warning("shared_memory_refused", reason=self._refusal)
        except SightlineError as error:
            log.warning("shared_memory_postponed", reason=str(error))
        else:
            return region
        finally:
            path.unlink(missing_ok=True)
        return None

    def _make_room(self, size_bytes: int) -> bool:
        """Return whether a region of that size may be made, and promise it; for it idle ones go."""
        while True:
            with self._lock:
                taken = [*(one.size_bytes for one in self._region_by_name.values()), *self._promised]
                if sum(taken) + size_bytes <= self._limit_bytes and len(taken) < MAX_REGIONS:
                    self._promised.append(size_bytes)
                    return True
                if not self._idle:
                    return False
                region = max(self._idle, key=lambda one: one.size_bytes)
                self._forget(region)
            self._give_up(region.name)

    def _give_up(self, name: str) -> bool:
        """Return whether the server has unmapped a region, or has it no more."""
        try:
            self._server.unregister_region(name)
        except SightlineError:
            return False
        return True

    def _forget(self, region: Region) -> None:
        region.is_known = False
        self._region_by_name.pop(region.name, None)
        if region in self._idle:
            self._idle.remove(region)


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
