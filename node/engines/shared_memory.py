"""Memory that this process and a Triton server on the same host both see: large arrays need no way between.

A region loses its name in /dev/shm as soon as the server has mapped it, so that nothing is left there however
either of them ends. It is lent to one request at a time, until nothing refers to its arrays any more.
"""

import itertools
import math
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import structlog

from node.engines.owner import NOWHERE, Owner
from node.engines.regions import Lease, Place, Region, allocate
from node.engines.tensors import Array
from node.engines.triton_server import BrokenModelError, TritonServer
from node.errors import EngineUnavailableError, ModelError, SightlineError

FOLDER = Path("/dev/shm")  # noqa: S108 - where Linux keeps what shm_open opens
LARGE_BYTES = 1 << 20
"""From here on an array goes by shared memory: below, one message costs less than the bookkeeping."""

CLOSING_S = 1.0
"""How long a region that is in use is waited for when all is given back."""

MAX_REGIONS = 32
GRAIN_BYTES = 1 << 20
"""Regions are multiples of it, so that one serves inputs of about the same size."""

# Of all engines of this process: what one had to leave on a server must not be in the way of another.
NUMBERS = itertools.count(1)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is shared at most, and from which size on an array is."""

    all_bytes: int = 1 << 30
    large_bytes: int = LARGE_BYTES


DEFAULT_LIMITS = Limits()


class SharedMemory:
    """The regions of one engine: bounded in number and size, used again and again."""

    def __init__(self, server: TritonServer, limits: Limits, home: str = NOWHERE) -> None:
        """Share memory with a server, none so far; `home` stands for the node's data folder."""
        self.large_bytes = limits.large_bytes
        self._server = server
        self._limit_bytes = limits.all_bytes
        self._owner = Owner.of_this_process(home)
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
        """Have the server unmap everything; what requests go on to use is left to the next start's sweep."""
        with self._lock:
            names = list(self._region_by_name)
            self._region_by_name.clear()
            self._idle.clear()
            self._refusal = "the node stops"
        until = time.monotonic() + CLOSING_S
        # A server uses a region for a moment longer than its answer takes.
        while (names := self._return_all(names)) and time.monotonic() < until:
            time.sleep(CLOSING_S / 50)
        if names:
            log.warning("shared_memory_kept", regions=len(names))

    def _return_all(self, names: list[str]) -> list[str]:
        """Have the server unmap regions, and return those that it still uses."""
        used = []
        for name in names:
            try:
                self._server.unregister_region(name)
            except BrokenModelError:
                used.append(name)
            except SightlineError as error:
                # A server that is gone has none; one that hangs would take its time for each.
                log.warning("shared_memory_not_returned", reason=str(error))
                return []
        return used

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
        name = f"{self._owner.prefix}{next(NUMBERS)}"
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
                self._idle.remove(region)
            if not self._give_up(region.name):
                region.is_suspect = True
                self._freed.append(region)
                return False
            with self._lock:
                self._forget(region)

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
