"""The target that is the journal: a segment of damaged records, replayed into an empty spool."""

import shutil
import zlib
from pathlib import Path
from random import Random

from xxhash import xxh3_128

from node.journal import Journal
from node.journal_record import BLOCK_BYTES, CRC, HEADER, MAGIC, Entry, Slab, replay
from tests.fuzz.mutation import mutate
from tests.fuzz.seeds import Seed

SEGMENT_BYTES = 1 << 16
# A record is ours and has a checksum: such names only a bug could write, and none may lead out of the spool.
ODD_NAMES = (b"../out.dcm", b"../../out.dcm", b"files/../../../out.dcm", b"\xff\xfe", b"\0", b"files/4.dcm")
# Where a name that climbs would come out is watched too.
DEPTH = "a/b/c/spool"


class Segments:
    """Replay of a segment in which bytes changed, half of the headers right again."""

    def __init__(self, _seeds: list[Seed], folder: Path) -> None:
        self._folder = folder / "journal"
        self._names = (*ODD_NAMES, str(self._folder / "out.dcm").encode())
        self._good = self._segment(self._folder / "good")

    def _segment(self, folder: Path) -> bytes:
        journal = Journal(folder / "journal", folder, segment_bytes=SEGMENT_BYTES, max_segments=2)
        (folder / "files").mkdir(parents=True)
        for number in range(3):
            content, slab = bytes([number]) * 3000, Slab()
            slab.add(content)
            entry = Entry(f"files/{number}.dcm", b"head", slab, xxh3_128(content).digest())
            with journal.keeping(entry):
                (folder / entry.name).write_bytes(content)
        data = (folder / "journal" / "0.segment").read_bytes()
        journal.close()
        return data

    def make(self, rng: Random) -> bytes:
        data = bytearray(self._good)
        if rng.random() < 0.5:
            data = bytearray(mutate(rng, bytes(data)))
        if rng.random() < 0.5:
            self._rename(rng, data)
        return bytes(data)

    def _rename(self, rng: Random, data: bytearray) -> None:
        """Give a record an odd name, or odd lengths, under a checksum that is right."""
        position = rng.choice((0, 2 * BLOCK_BYTES, 4 * BLOCK_BYTES))
        if len(data) < position + BLOCK_BYTES or data[position : position + len(MAGIC)] != MAGIC:
            return
        magic, generation, number, length, head, rest, digest = HEADER.unpack_from(data, position)
        start, name = position + HEADER.size + CRC.size, rng.choice(self._names)
        first = data[start + length : start + length + head]
        if rng.random() < 0.3:
            head, rest = rng.choice(((0, 0), (0xFFFF, rest), (head, 0xFFFFFFFF), (head, 5000)))
        HEADER.pack_into(data, position, magic, generation, number, len(name), head, rest, digest)
        data[start : start + len(name) + len(first)] = name + first
        checked = zlib.crc32(
            (name + first)[: len(name) + head], zlib.crc32(data[position : start - CRC.size])
        )
        CRC.pack_into(data, position + HEADER.size, checked)

    def attempt(self, data: bytes, _rng: Random) -> None:
        root = self._folder / DEPTH
        shutil.rmtree(self._folder / "a", ignore_errors=True)
        (root / "journal").mkdir(parents=True)
        (root / "journal" / "0.segment").write_bytes(data)
        before = {path for path in self._folder.rglob("*") if path.is_file()}

        replay(root / "journal", root)

        new = {path for path in self._folder.rglob("*") if path.is_file()} - before
        strays = [str(path) for path in new if not path.is_relative_to(root)]
        assert not strays, f"outside of the spool: {strays}"
