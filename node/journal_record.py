"""What stands in the segments of the journal (`node.journal`), and how it is put back after a crash.

```
segment: record, record, …
record:  header · name · first bytes of the file, in 4096 bytes; then the rest, up to a multiple of 4096
```
The records of a segment have its generation, a random number, in their headers: what follows the last one is
older. Each write begins after the one before it is safe, so that a record nobody could read ends a segment.
"""

import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from mmap import PROT_READ, mmap
from pathlib import Path

import structlog
from xxhash import xxh3_128

from node.disk import new_file, sync_file_system

log = structlog.get_logger()

BLOCK_BYTES = 4096
MAGIC = b"SLJRNL02"
# Magic, generation, number in the segment, lengths of name, head and rest, digest of the rest; then a CRC.
HEADER = struct.Struct("<8s16sLHLL16s")
CRC = struct.Struct("<L")
RECORD_HEAD_BYTES = HEADER.size + CRC.size
SUFFIX = ".segment"
# A larger rest is not kept here.
MAX_REST_BYTES = 4 << 20


class Slab:
    """Where the rest of a file gathers, aligned as direct writes want it, behind room for its header."""

    def __init__(self) -> None:
        """Take memory, which is used as far as it was ever filled."""
        self.memory = memoryview(mmap(-1, BLOCK_BYTES + MAX_REST_BYTES))
        self.size = 0

    def add(self, data: bytes | memoryview) -> bool:
        """Append bytes; False, and nothing is done, where they do not fit."""
        start, size = BLOCK_BYTES + self.size, len(data)
        if self.size + size > MAX_REST_BYTES:
            return False
        self.memory[start : start + size] = data
        self.size += size
        return True


@dataclass(frozen=True, slots=True)
class Entry:
    """A file to keep: its name below the root, its first bytes, the rest, and the rest's XXH3 of 128 bits."""

    name: str
    head: bytes
    slab: Slab
    digest: bytes

    @property
    def size(self) -> int:
        """The bytes of its record."""
        return BLOCK_BYTES + blocks(self.slab.size)

    @property
    def fits(self) -> bool:
        """Is there room for name and first bytes in the block of the header?"""
        return RECORD_HEAD_BYTES + len(self.name.encode()) + len(self.head) <= BLOCK_BYTES

    def record(self, generation: bytes, number: int) -> memoryview:
        """Return its record, the number-th of a segment of this generation."""
        name, memory = self.name.encode(), self.slab.memory
        fields = (MAGIC, generation, number, len(name), len(self.head), self.slab.size, self.digest)
        HEADER.pack_into(memory, 0, *fields)
        end = RECORD_HEAD_BYTES + len(name) + len(self.head)
        memory[RECORD_HEAD_BYTES:end] = name + self.head
        CRC.pack_into(memory, HEADER.size, _checksum(memory[:end]))
        return memory[: self.size]


@dataclass(frozen=True, slots=True)
class Record:
    """An entry as it was found."""

    name: str
    head: memoryview
    rest: memoryview
    digest: bytes


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
            restored += sum(_restore(record, root, path.name) for record in records_in(data))
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
    while position + BLOCK_BYTES <= len(data):
        magic, found, count, name, head, rest, digest = HEADER.unpack_from(data, position)
        start, after = position + RECORD_HEAD_BYTES, position + BLOCK_BYTES
        end, stop = start + name + head, after + rest
        if magic != MAGIC or count != number or (generation or found) != found:
            return
        if end > after or stop > len(data):
            return
        if _checksum(data[position:end]) != CRC.unpack_from(data, position + HEADER.size)[0]:
            return
        text = bytes(data[start : start + name]).decode()
        yield Record(text, data[start + name : end], data[after:stop], digest)
        position, number, generation = after + blocks(rest), number + 1, found


def _checksum(header: memoryview) -> int:
    """Return the CRC of a record's header, name and first bytes, the place of the CRC itself left out."""
    return zlib.crc32(header[RECORD_HEAD_BYTES:], zlib.crc32(header[: HEADER.size]))


def _restore(record: Record, root: Path, segment: str) -> bool:
    """Write the file of a record again, unless it is there; True where it was written."""
    if xxh3_128(record.rest).digest() != record.digest:
        log.warning("journal_record_skipped", segment=segment, path=record.name)
        return False
    path, content = root / record.name, bytes(record.head) + bytes(record.rest)
    if not path.resolve().is_relative_to(root.resolve()):
        return False
    with suppress(OSError):
        if path.stat().st_size == len(content) and path.read_bytes() == content:
            return False
    with new_file(path) as file:
        file.write(content)
    log.info("journal_record_restored", path=record.name)
    return True


def blocks(size: int) -> int:
    """Return so many bytes, filled up to the next block."""
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES
