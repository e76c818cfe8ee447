"""A write-ahead journal of small files: one sync makes all safe that wait for it, whatever they are called.

To sync each new file and its folder costs two commits of the file system's own journal for each. Here the
bytes go once, in one piece and past the page cache, into a segment whose blocks are already there, so that
the sync after them writes nothing else; while the file itself is left to the page cache. A segment is used
again when what it tells of has reached the disk by itself (`sync_file_system`), and not before it is needed:
one such sync makes many segments free. After a crash `replay` restores what is missing.
"""

import errno
import itertools
import os
import secrets
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from mmap import mmap
from pathlib import Path

import structlog

from node.disk import FILE_MODE, Sync, make_folder, sync_file_system, sync_folder
from node.journal_record import BLOCK_BYTES, SUFFIX, Entry, Slab, blocks, replay

log = structlog.get_logger()

BATCH_BYTES, ZEROS_BYTES = 8 << 20, 4 << 20
BATCH_ENTRIES = 512
SEGMENT_BYTES = 64 << 20
# After so long without an entry nothing is left to the journal, and it need not be replayed.
IDLE_S = 1.0
# Nor for longer than this, however often entries come: what is removed later does not come back.
MAX_AGE_S = 600.0
RETRY_S = 1.0
# Segments are made ahead of need where the disk has room for so many.
PLENTY = 100


class Journal:
    """The journal of one process, in a folder of its own; `root` is the folder that names start from."""

    def __init__(
        self,
        folder: Path,
        root: Path,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        max_segments: int = 8,
        sync: Sync = os.fdatasync,
    ) -> None:
        """Restore what the last process left, and be ready; no file is made before the first entry."""
        replay(folder, root)
        self._folder, self._root, self._sync = folder, root, sync
        self._segment_bytes, self._max_segments = blocks(segment_bytes), max_segments
        # One lock, and whoever waits is woken for what it waits for alone: each waking costs a turn.
        self._lock = threading.Lock()
        self._written, self._settled, self._settling_due = (threading.Condition(self._lock) for _ in range(3))
        self._slabs: list[Slab] = []
        self._open = _Batch()
        self._is_writing = self._is_closing = self._is_used = self._is_wanted = False
        self._free = [Segment(path, self._segment_bytes) for path in sorted(folder.glob(f"*{SUFFIX}"))]
        self._made = len(self._free)
        self._names = (f"{number}{SUFFIX}" for number in itertools.count())
        self._current: Segment | None = None
        self._began_at = time.monotonic()
        self._full: list[Segment] = []
        self._settler = threading.Thread(target=self._settle_until_closed, name="journal", daemon=True)
        self._settler.start()

    def take_slab(self) -> Slab:
        """Return an empty slab; whoever has it gives it back."""
        try:
            slab = self._slabs.pop()
        except IndexError:
            slab = Slab()
        slab.size = 0
        return slab

    def give_back(self, slab: Slab) -> None:
        """Have a slab used again."""
        self._slabs.append(slab)

    @contextmanager
    def keeping(self, entry: Entry) -> Iterator[None]:
        """Enter the block once the entry is safe; within it the caller gives the file its name.

        Raises OSError where the entry could not be written.
        """
        segment = self._append(entry)
        try:
            yield
        finally:
            with self._lock:
                segment.unplaced -= 1
                if not segment.unplaced and segment is not self._current:
                    self._settling_due.notify()

    def settle(self) -> None:
        """Return once every file that was named is safe without the journal."""
        with self._lock:
            self._written.wait_for(lambda: not self._is_writing)
            self._retire()
            self._is_wanted = bool(self._full)
            self._settling_due.notify()
            self._settled.wait_for(lambda: not self._full)

    def close(self) -> None:
        """Have every file reach its place, and leave an empty journal."""
        with self._lock:
            self._is_closing = True
            self._settling_due.notify()
        self._settler.join()
        for segment in self._free:
            segment.close()

    # --- one write for all that wait

    def _append(self, entry: Entry) -> "Segment":
        with self._lock:
            while not self._open.has_room(entry):
                self._write_or_wait()
            batch = self._open
            batch.add(entry)
            while not batch.is_done:
                self._write_or_wait()
            if batch.fault or batch.segment is None:
                raise batch.fault or OSError("the journal was closed")
            return batch.segment

    def _write_or_wait(self) -> None:
        """Write what has gathered, unless another thread is writing; then wait for that one to end."""
        if self._is_writing:
            self._written.wait()
            return
        batch, self._open = self._open, _Batch()
        self._is_writing = self._is_used = True
        self._lock.release()
        try:
            batch.write(self._segment_for(batch), self._sync)
        except OSError as fault:
            batch.fault = fault
        finally:
            self._lock.acquire()
            if batch.segment and not batch.fault:
                batch.segment.unplaced += len(batch.entries)
            self._is_writing, batch.is_done = False, True
            self._written.notify_all()

    def _segment_for(self, batch: "_Batch") -> "Segment":
        """Return where the batch goes; where all segments are full it waits for one to be free."""
        with self._lock:
            if self._current and self._current.has_room(batch.size):
                return self._current
            self._retire()
            while not self._free and not self._may_grow():
                self._settled.wait()
            segment = self._free.pop(0) if self._free else None
        segment = segment or self._new_segment()
        segment.begin()
        self._began_at = time.monotonic()
        self._current = segment
        return segment

    def _may_grow(self) -> bool:
        return self._made < self._max_segments

    def _new_segment(self) -> "Segment":
        with self._lock:
            self._made += 1
            path = next(path for path in map(self._folder.joinpath, self._names) if not path.exists())
        try:
            make_folder(self._folder)
            segment = Segment(path, self._segment_bytes)
            sync_folder(self._folder)
        except OSError:
            path.unlink(missing_ok=True)
            with self._lock:
                self._made -= 1
            raise
        return segment

    # --- segments become free again

    def _retire(self) -> None:
        """Have the segment in use settled, when it is time."""
        if self._current:
            self._full.append(self._current)
            self._current = None
            self._settling_due.notify()

    def _settle_until_closed(self) -> None:
        while True:
            with self._lock:
                self._settling_due.wait_for(self._is_settling_due, IDLE_S)
                is_old = time.monotonic() - self._began_at > MAX_AGE_S
                if not self._is_writing and (self._is_closing or is_old or not self._is_used):
                    self._retire()
                    self._is_wanted = bool(self._full)
                self._is_used = False
                if not self._full and self._is_closing:
                    return
                full = [*self._full] if self._is_settling_due() else []
                self._settling_due.wait_for(lambda: not any(one.unplaced for one in full))  # noqa: B023 - here
            if full:
                self._settle(full)
            else:
                self._grow()

    def _grow(self) -> None:
        """Make the next segment while there is time, if there was ever need of one."""
        has_room = shutil.disk_usage(self._root).free > PLENTY * self._segment_bytes
        if self._made and self._may_grow() and has_room:
            with suppress(OSError):  # it is made, or fails, when it is needed
                segment = self._new_segment()
                with self._lock:
                    self._free.append(segment)

    def _is_settling_due(self) -> bool:
        """Is there something to settle, and somebody who wants it done, or will soon?"""
        is_short = len(self._free) < 2 and not self._may_grow()
        return self._is_closing or bool(self._full and (is_short or self._is_wanted))

    def _settle(self, full: "Sequence[Segment]") -> None:
        try:
            sync_file_system(self._root)
            for segment in full:
                segment.erase(self._sync)
        except OSError as fault:
            log.error("journal_not_settled", reason=fault.strerror)  # noqa: TRY400 - the reason says it all
            if self._is_closing:  # the next start replays it
                self._full.clear()
            time.sleep(RETRY_S)
            return
        with self._lock:
            self._full = [one for one in self._full if one not in full]
            self._is_wanted = self._is_wanted and bool(self._full)
            self._free.extend(full)
            self._settled.notify_all()


class _Batch:
    """Entries that are written together, and what became of it."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.size = 0
        self.is_done = False
        self.fault: OSError | None = None
        self.segment: Segment | None = None

    def has_room(self, entry: Entry) -> bool:
        """Does the entry fit, or is the batch still empty?"""
        is_small = len(self.entries) < BATCH_ENTRIES and self.size + entry.size <= BATCH_BYTES
        return is_small or not self.entries

    def add(self, entry: Entry) -> None:
        """Take an entry, whose slab must not change before this is done."""
        self.entries.append(entry)
        self.size += entry.size

    def write(self, segment: "Segment", sync: Sync) -> None:
        """Write all of it to the segment, and sync."""
        self.segment = segment
        numbered = enumerate(self.entries, start=segment.records)
        segment.write([entry.record(segment.generation, number) for number, entry in numbered])
        sync(segment.descriptor)


class Segment:
    """One file of the journal, as large as it will ever be."""

    def __init__(self, path: Path, size: int) -> None:
        """Open it, and make it where it is missing; its blocks are written once, so that no sync needs to."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        try:
            self.descriptor = os.open(path, flags | os.O_DIRECT, FILE_MODE)
        except OSError:  # the file system knows no direct writes: they go through the page cache
            self.descriptor = os.open(path, flags, FILE_MODE)
        self._size = size
        self._end = 0
        self.records = 0
        self.unplaced = 0
        self.generation = b""
        if os.fstat(self.descriptor).st_size != size:
            self._fill()

    def _fill(self) -> None:
        """Have it be of its size; raises OSError, and closes it, where the disk has no room."""
        try:
            os.ftruncate(self.descriptor, 0)
            zeros = memoryview(mmap(-1, ZEROS_BYTES))
            for start in range(0, self._size, ZEROS_BYTES):
                os.pwrite(self.descriptor, zeros[: self._size - start], start)
            os.fsync(self.descriptor)
        except OSError:
            os.close(self.descriptor)
            raise

    def has_room(self, size: int) -> bool:
        """Do so many bytes fit behind what is there?"""
        return self._end + size <= self._size

    def begin(self) -> None:
        """Start over."""
        self._end = self.records = 0
        self.generation = secrets.token_bytes(16)

    def write(self, records: Sequence[memoryview]) -> None:
        """Append records; if it fails, the next ones go to the same place."""
        size = sum(map(len, records))
        if os.pwritev(self.descriptor, records, self._end) < size:
            raise OSError(errno.EIO, "the journal took a part of what was written")
        self._end += size
        self.records += len(records)

    def erase(self, sync: Sync) -> None:
        """Forget all records."""
        os.pwrite(self.descriptor, memoryview(mmap(-1, BLOCK_BYTES)), 0)
        sync(self.descriptor)

    def close(self) -> None:
        """Close the file."""
        os.close(self.descriptor)
