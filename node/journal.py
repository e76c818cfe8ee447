"""A write-ahead journal of small files: one sync makes all safe that wait for it, whatever they are called.

To sync each new file and its folder costs two commits of the file system's own journal for each. Here the
bytes go once, in one piece and past the page cache, into a segment whose blocks are already there, so that
the sync after them writes nothing else; while the file itself is left to the page cache. A segment is used
again when what it tells of has reached the disk by itself (`sync_file_system`). After a crash `replay`
restores what is missing.

```
segment: record, record, …      each begins at a multiple of 4096
record:  header · name · content
```
The records of a segment have its generation, a random number, in their headers: what follows the last one is
older. Each write begins after the one before it is safe, so that a record nobody could read ends a segment.
"""

import hashlib
import os
import secrets
import struct
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from mmap import PROT_READ, mmap
from pathlib import Path

import structlog

from node.disk import FILE_MODE, Sync, make_folder, new_file, sync_file_system, sync_folder

log = structlog.get_logger()

BLOCK_BYTES = 4096
MAGIC = b"SLJRNL01"
# Magic, generation, number in the segment, lengths of name, head and rest, SHA-256 of the rest; then a CRC.
HEADER = struct.Struct("<8s16sLHLL32s")
CRC = struct.Struct("<L")
RECORD_HEAD_BYTES = HEADER.size + CRC.size
SUFFIX = ".segment"
BATCH_BYTES, ZEROS_BYTES = 8 << 20, 4 << 20
# After so long without an entry nothing is left to the journal, and it need not be replayed.
IDLE_S = 5.0
# Nor for longer than this, however often entries come: what is removed later does not come back.
MAX_AGE_S = 600.0
RETRY_S = 1.0

Piece = bytes | memoryview


@dataclass(frozen=True, slots=True)
class Entry:
    """A file to keep: its name below the root, its first bytes, the rest in pieces, the rest's SHA-256."""

    name: str
    head: bytes
    pieces: Sequence[Piece]
    sha256: bytes

    @property
    def size(self) -> int:
        """The bytes of its record, filled up to the next block."""
        content = len(self.head) + sum(map(len, self.pieces))
        return _blocks(RECORD_HEAD_BYTES + len(self.name.encode()) + content)


class Journal:
    """The journal of one process, in a folder of its own; `root` is the folder that names start from."""

    def __init__(
        self,
        folder: Path,
        root: Path,
        *,
        segment_bytes: int = 64 << 20,
        max_segments: int = 4,
        sync: Sync = os.fdatasync,
    ) -> None:
        """Restore what the last process left, and be ready; no file is made before the first entry."""
        replay(folder, root)
        self._folder, self._root, self._sync = folder, root, sync
        self._segment_bytes, self._max_segments = segment_bytes, max_segments
        self._changed = threading.Condition()
        self._buffers = [memoryview(mmap(-1, BATCH_BYTES)) for _ in range(2)]
        self._open = _Batch(self._buffers.pop())
        self._is_writing = self._is_closing = self._is_used = False
        self._segments = [Segment(path, segment_bytes) for path in sorted(folder.glob(f"*{SUFFIX}"))]
        self._free = list(self._segments)
        self._current: Segment | None = None
        self._began_at = time.monotonic()
        self._full: list[Segment] = []
        self._settler = threading.Thread(target=self._settle_until_closed, name="journal", daemon=True)
        self._settler.start()

    @contextmanager
    def keeping(self, entry: Entry) -> Iterator[None]:
        """Enter the block once the entry is safe; within it the caller gives the file its name.

        Raises OSError where the entry could not be written.
        """
        segment = self._append(entry)
        try:
            yield
        finally:
            with self._changed:
                segment.unplaced -= 1
                self._changed.notify_all()

    def settle(self) -> None:
        """Return once every file that was named is safe without the journal."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_writing)
            self._retire()
            self._changed.wait_for(lambda: not self._full)

    def close(self) -> None:
        """Have every file reach its place, and leave an empty journal."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._settler.join()
        for segment in self._segments:
            segment.close()

    # --- one write for all that wait

    def _append(self, entry: Entry) -> "Segment":
        with self._changed:
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
            self._changed.wait()
            return
        batch, self._open = self._open, _Batch(self._buffers.pop())
        self._is_writing = self._is_used = True
        self._changed.release()
        try:
            batch.write(self._segment_for(batch), self._sync)
        except OSError as fault:
            batch.fault = fault
        finally:
            self._changed.acquire()
            if batch.segment and not batch.fault:
                batch.segment.unplaced += len(batch.entries)
            self._is_writing, batch.is_done = False, True
            self._buffers.append(batch.buffer)
            self._changed.notify_all()

    def _segment_for(self, batch: "_Batch") -> "Segment":
        """Return where the batch goes; where all segments are full it waits for one to be free."""
        with self._changed:
            if self._current and self._current.has_room(batch.used):
                return self._current
            self._retire()
            if not self._free and len(self._segments) >= self._max_segments:
                self._changed.wait_for(lambda: self._free)
            segment = self._free.pop(0) if self._free else None
        if segment is None:
            make_folder(self._folder)
            segment = Segment(self._folder / f"{len(self._segments)}{SUFFIX}", self._segment_bytes)
            self._segments.append(segment)
            sync_folder(self._folder)
        segment.begin()
        self._began_at = time.monotonic()
        self._current = segment
        return segment

    # --- segments become free again

    def _retire(self) -> None:
        """Have the segment in use settled."""
        if self._current:
            self._full.append(self._current)
            self._current = None
            self._changed.notify_all()

    def _settle_until_closed(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._full or self._is_closing, IDLE_S)
                is_old = time.monotonic() - self._began_at > MAX_AGE_S
                is_over = self._is_closing or is_old or not self._is_used
                if not self._full and not self._is_writing and is_over:
                    self._retire()
                self._is_used = False
                if not self._full:
                    if self._is_closing:
                        return
                    continue
                segment = self._full[0]
                self._changed.wait_for(lambda: not segment.unplaced)  # noqa: B023 - called before the next
            self._settle(segment)

    def _settle(self, segment: "Segment") -> None:
        try:
            sync_file_system(self._root)
            segment.erase(self._sync)
        except OSError as fault:
            log.error("journal_not_settled", reason=fault.strerror)  # noqa: TRY400 - the reason says it all
            if self._is_closing:  # the next start replays it
                self._full.clear()
            time.sleep(RETRY_S)
            return
        with self._changed:
            self._full.remove(segment)
            self._free.append(segment)
            self._changed.notify_all()


class _Batch:
    """Entries that are written together, and what became of it."""

    def __init__(self, buffer: memoryview) -> None:
        self.buffer = buffer
        self.used = 0
        self.entries: list[tuple[int, Entry]] = []
        self.is_done = False
        self.fault: OSError | None = None
        self.segment: Segment | None = None

    def has_room(self, entry: Entry) -> bool:
        """Does the entry fit, or is the batch still empty?"""
        return self.used + entry.size <= len(self.buffer)

    def add(self, entry: Entry) -> None:
        """Copy the content of an entry; the caller's pieces are free for other use then."""
        position = self.used + RECORD_HEAD_BYTES
        for piece in (entry.name.encode(), entry.head, *entry.pieces):
            self.buffer[position : position + len(piece)] = piece
            position += len(piece)
        self.entries.append((self.used, entry))
        self.used += entry.size

    def write(self, segment: "Segment", sync: Sync) -> None:
        """Write all of it to the segment, and sync."""
        self.segment = segment
        for number, (position, entry) in enumerate(self.entries, start=segment.records):
            self._put_header(position, entry, number, segment.generation)
        segment.write(self.buffer[: self.used], len(self.entries))
        sync(segment.descriptor)

    def _put_header(self, position: int, entry: Entry, number: int, generation: bytes) -> None:
        name, rest = len(entry.name.encode()), sum(map(len, entry.pieces))
        fields = (MAGIC, generation, number, name, len(entry.head), rest, entry.sha256)
        start, end = position + RECORD_HEAD_BYTES, position + RECORD_HEAD_BYTES + name + len(entry.head)
        HEADER.pack_into(self.buffer, position, *fields)
        checked = zlib.crc32(
            self.buffer[start:end], zlib.crc32(self.buffer[position : position + HEADER.size])
        )
        CRC.pack_into(self.buffer, position + HEADER.size, checked)


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
            os.ftruncate(self.descriptor, 0)
            zeros = mmap(-1, ZEROS_BYTES)
            for start in range(0, size, ZEROS_BYTES):
                os.pwrite(self.descriptor, memoryview(zeros)[: size - start], start)
            os.fsync(self.descriptor)

    def has_room(self, size: int) -> bool:
        """Do so many bytes fit behind what is there?"""
        return self._end + size <= self._size

    def begin(self) -> None:
        """Start over."""
        self._end = self.records = 0
        self.generation = secrets.token_bytes(16)

    def write(self, data: memoryview, records: int) -> None:
        """Append records; if it fails, the next ones go to the same place."""
        done = 0
        while done < len(data):
            done += os.pwrite(self.descriptor, data[done:], self._end + done)
        self._end += len(data)
        self.records += records

    def erase(self, sync: Sync) -> None:
        """Forget all records."""
        os.pwrite(self.descriptor, memoryview(mmap(-1, BLOCK_BYTES)), 0)
        sync(self.descriptor)

    def close(self) -> None:
        """Close the file."""
        os.close(self.descriptor)


@dataclass(frozen=True, slots=True)
class Record:
    """An entry as it was found: where file and rest of it begin, where it ends, and where the next begins."""

    name: str
    start: int
    content: int
    stop: int
    next: int
    sha256: bytes


def replay(folder: Path, root: Path) -> int:
    """Put every file of a journal that is missing or damaged back under `root`; return how many those were.

    After it the journal is empty. A record that does not match its checksum is one that nobody was told of,
    or its segment is damaged; either way the others count.
    """
    restored = 0
    paths = sorted(folder.glob(f"*{SUFFIX}"))
    for path in paths:
        with path.open("rb") as file, suppress(ValueError):  # of an empty file no map can be made
            data = memoryview(mmap(file.fileno(), 0, prot=PROT_READ))
            restored += sum(_restore(record, data, root, path.name) for record in records_in(data))
    if paths:
        sync_file_system(root)
    for path in paths:
        with path.open("r+b") as file:
            file.write(bytes(BLOCK_BYTES))
            file.flush()
            os.fsync(file.fileno())
    return restored


def records_in(data: memoryview) -> Iterator[Record]:
    """Yield the records of a segment, up to the first whose header is none."""
    position, number, generation = 0, 0, None
    while position + RECORD_HEAD_BYTES <= len(data):
        magic, found, count, name, head, rest, sha256 = HEADER.unpack_from(data, position)
        start = position + RECORD_HEAD_BYTES
        content, stop = start + name + head, start + name + head + rest
        if magic != MAGIC or count != number or (generation or found) != found or stop > len(data):
            return
        checked = zlib.crc32(data[start:content], zlib.crc32(data[position : position + HEADER.size]))
        if checked != CRC.unpack_from(data, position + HEADER.size)[0]:
            return
        next_ = position + _blocks(stop - position)
        yield Record(bytes(data[start : start + name]).decode(), start + name, content, stop, next_, sha256)
        position, number, generation = next_, number + 1, found


def _restore(record: Record, data: memoryview, root: Path, segment: str) -> bool:
    """Write the file of a record again, unless it is there; True where it was written."""
    if hashlib.sha256(data[record.content : record.stop]).digest() != record.sha256:
        log.warning("journal_record_skipped", segment=segment, path=record.name)
        return False
    path, content = root / record.name, data[record.start : record.stop]
    if not path.resolve().is_relative_to(root.resolve()):
        return False
    with suppress(OSError):
        if path.stat().st_size == len(content) and path.read_bytes() == content:
            return False
    with new_file(path) as file:
        file.write(content)
    log.info("journal_record_restored", path=record.name)
    return True


def _blocks(size: int) -> int:
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES
