"""How much pydicom would make of a header, counted before it does.

An empty element has 8 bytes in a file, fewer in a deflated one, and some 300 in pydicom's memory; a decimal
of two bytes becomes an object of 150. A header made of nothing else would take the node down, and again after
each restart, as the unfinished study is taken up.
"""

import mmap
import struct
from pathlib import Path

from pydicom.datadict import dictionary_has_tag, dictionary_VR, tag_for_keyword

from node.errors import DatasetError
from node.header import (
    ITEM,
    META_GROUP,
    PREAMBLE_BYTES,
    PREFIX,
    SHORT_VRS,
    UNDEFINED,
)

# Far above any real header: a sparse slide of 150,000 tiles has 1.5 million. Takes pydicom 20 s and 700 MB.
MAX_ELEMENTS = 2_000_000
# Values become lists of objects: those longer than in real images count for many elements.
LONG_VALUE_BYTES, BYTES_PER_ELEMENT = 1024, 4
# More than explicit VR can say of these VRs (PS3.5 7.1.2). Only outlines are longer, and are never looked at.
MAX_VALUE_BYTES = 65_534
UNREAD = frozenset({tag_for_keyword("ContourData")})
LISTED_VRS = SHORT_VRS - {b"LT", b"ST"} | {b"UC", b"UR"}
# pydicom gives up at a few hundred sequences within each other, each of which has an item open too.
MAX_DEPTH = 1000
# Smaller files cannot have enough of them to do harm.
SMALL_BYTES = 4 << 20
FLOAT_PIXEL_DATA = 0x7FE00008
DELIMITING_GROUP = 0xFFFE

Bytes = bytes | mmap.mmap


def check_header_size(uid: str, path: Path) -> None:
    """Raise DatasetError where the header of a file has more elements than any that a device writes."""
    if path.stat().st_size <= SMALL_BYTES:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        has_prefix = data[PREAMBLE_BYTES : PREAMBLE_BYTES + len(PREFIX)] == PREFIX
        check_elements(uid, data, PREAMBLE_BYTES + len(PREFIX) if has_prefix else 0)


def check_elements(uid: str, data: Bytes, start: int = 0) -> None:
    """Raise DatasetError as `check_header_size` does, of the elements from `start` on, meta or data set."""
    walk, spent = _Walk(data, start), 0
    while spent <= MAX_ELEMENTS:
        cost = walk.advance()
        if not cost:
            return
        spent += cost
        if walk.depth > MAX_DEPTH:
            raise DatasetError(uid, f"has more than {MAX_DEPTH} sequences and items within each other")
    raise DatasetError(uid, f"has more than {MAX_ELEMENTS} elements or values before its pixels")


class _Walk:
    """Steps from element to element, into sequences too; nothing is kept but where those end."""

    def __init__(self, data: Bytes, position: int) -> None:
        self._data, self._position = data, position
        self._is_meta, self._order, self._is_explicit = True, "<", True
        # Where each item or sequence that is open ends at the latest, and whether a delimiter ends it before.
        self._open: list[tuple[int, bool]] = []

    @property
    def depth(self) -> int:
        """How many items and sequences are open."""
        return len(self._open)

    def advance(self) -> int:
        """Go past the next element, or into it, and return what it costs; 0 at the pixel data, or the end."""
        while self._open and self._position >= self._open[-1][0]:
            self._open.pop()
        head = self._data[self._position : self._position + 12]
        if len(head) < 8:
            return 0
        if self._is_meta and head[:2] != META_GROUP.to_bytes(2, "little"):
            self._find_encoding(head)
        group, number = struct.unpack_from(f"{self._order}HH", head)
        tag = group << 16 | number
        if group == DELIMITING_GROUP:
            self._delimit(tag, struct.unpack_from(f"{self._order}L", head, 4)[0])
            return 1
        if tag >= FLOAT_PIXEL_DATA and not self._open:
            return 0
        return self._step(tag, head)

    def _find_encoding(self, head: bytes) -> None:
        """Take the data set as it begins, whatever the meta says: so does pydicom."""
        self._is_meta = False
        self._order = ">" if head[0] == 0 and head[1] != 0 else "<"
        self._is_explicit = head[4:6].isalpha()

    def _delimit(self, tag: int, length: int) -> None:
        self._position += 8
        if tag == ITEM:
            self._enter(length)
        elif self._open and self._open[-1][1]:
            self._open.pop()

    def _step(self, tag: int, head: bytes) -> int:
        vr = head[4:6] if self._is_explicit and head[4:6].isalpha() else b""
        if vr in SHORT_VRS:
            length, size = struct.unpack_from(f"{self._order}H", head, 6)[0], 8
        else:
            size = 12 if vr else 8
            length = int.from_bytes(head[size - 4 : size], "big" if self._order == ">" else "little")
        self._position += size
        if length == UNDEFINED or vr == b"SQ" or (vr in (b"", b"UN") and self._begins_with_item()):
            self._enter(length)
            return 1
        self._position = min(self._position + length, self._limit)
        return 1 if length <= LONG_VALUE_BYTES else _cost(tag, vr, length)

    def _begins_with_item(self) -> bool:
        expected = struct.pack(f"{self._order}HH", ITEM >> 16, ITEM & 0xFFFF)
        return self._data[self._position : self._position + 4] == expected

    @property
    def _limit(self) -> int:
        return self._open[-1][0] if self._open else len(self._data)

    def _enter(self, length: int) -> None:
        is_delimited = length == UNDEFINED
        end = self._limit if is_delimited else min(self._position + length, self._limit)
        self._open.append((end, is_delimited))


def _cost(tag: int, vr: bytes, length: int) -> int:
    """Return for how many elements a long value counts."""
    if tag in UNREAD:
        return 1
    if vr in (b"", b"UN"):  # pydicom takes it for what the dictionary says
        vr = dictionary_VR(tag).encode() if dictionary_has_tag(tag) else b"UN"
    if vr not in LISTED_VRS:
        return 1
    return MAX_ELEMENTS if length > MAX_VALUE_BYTES else 1 + length // BYTES_PER_ELEMENT
