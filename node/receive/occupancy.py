"""How many associations are open, in all and for each AE title on either side."""

import fcntl
import json
import os
from collections import Counter
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from node.disk import FILE_MODE
from node.receive.settings import DimseListenerSettings

MAX_BYTES = 1 << 20


class Guest(NamedTuple):
    """One association: the process that serves it, and both AE titles."""

    process: int
    called: str
    calling: str


class Occupancy:
    """Counts the associations of one listener, or of all that have the same file.

    In the file is a line for each association; those of a process that is dead do not count.
    """

    def __init__(self, settings: DimseListenerSettings, shared: Path | None = None) -> None:
        self._settings = settings
        self._lock = Lock()
        self._guests: list[Guest] = []
        self._file = os.open(shared, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE) if shared else None

    def enter(self, called: str, calling: str) -> bool:
        """Count one more; False where that is more than may be."""
        with self._lock:
            guests = self._begin()
            try:
                is_free = self._has_place(guests, called, calling)
                if is_free:
                    guests.append(Guest(os.getpid(), called, calling))
            finally:
                self._end(guests)
        return is_free

    def leave(self, called: str, calling: str) -> None:
        """Count one less."""
        with self._lock:
            guests = self._begin()
            with suppress(ValueError):
                guests.remove(Guest(os.getpid(), called, calling))
            self._end(guests)

    def _has_place(self, guests: list[Guest], called: str, calling: str) -> bool:
        entity = self._settings.entity(called)
        by_called, by_calling = Counter(one.called for one in guests), Counter(one.calling for one in guests)
        limits = (
            (len(guests), self._settings.max_associations),
            (by_called[called], entity.max_associations if entity else 0),
            (by_calling[calling], self._settings.max_associations_per_caller),
        )
        return not any(limit and count >= limit for count, limit in limits)

    def _begin(self) -> list[Guest]:
        """Return who is there; with a file, nobody else changes that until `_end`."""
        if self._file is None:
            return self._guests
        fcntl.lockf(self._file, fcntl.LOCK_EX)
        lines = os.pread(self._file, MAX_BYTES, 0).decode().splitlines()
        guests = [Guest(*json.loads(line)) for line in lines]
        living = {one.process: Path(f"/proc/{one.process}").exists() for one in guests}
        return [one for one in guests if living[one.process]]

    def _end(self, guests: list[Guest]) -> None:
        if self._file is None:
            return
        text = "".join(json.dumps(one) + "\n" for one in guests).encode()
        os.pwrite(self._file, text, 0)
        os.ftruncate(self._file, len(text))
        fcntl.lockf(self._file, fcntl.LOCK_UN)
