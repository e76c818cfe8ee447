"""The header of a slice, read by tags and lengths alone: a tenth of pydicom's time; and where its words are.

It reads what scanners write, explicit or implicit VR in little endian, around pixels that may be compressed;
where the words lie it says of uncompressed ones alone. Anything else is no error: it gives
None, and pydicom takes the long way, with its own limits. The bytes are hostile: each step is checked against
what was read, and the work is bounded.
"""

import math
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from node.header import (
    ITEM,
    ITEM_END,
    META_GROUP,
    PREAMBLE_BYTES,
    PREFIX,
    SEQUENCE_END,
    SHORT_VRS,
    TRANSFER_SYNTAX_UID,
    UNDEFINED,
)
from node.read.dataset import LIBRARY_ERRORS

Value = str | tuple[float, ...]
Element = tuple[int, bytes, int, int]
Found = TypeVar("Found")
Values = Mapping[str, Value]
"""By keyword: texts, several joined by backslashes, and finite numbers; nothing for what is damaged."""

TRAITS = (
    "ConvolutionKernel",
    "KVP",
    "AcquisitionNumber",
    "FrameAcquisitionNumber",
    "AcquisitionTime",
    "TemporalPositionIdentifier",
    "TemporalPositionIndex",
    "NominalPercentageOfCardiacPhase",
    "StackID",
    "ImageType",
    "FrameType",
)
"""What may tell two stacks of one series apart, the most telling first."""

KEYWORDS = (
    *TRAITS,
    "SOPClassUID",
    "SOPInstanceUID",
    "Modality",
    "FrameOfReferenceUID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "RescaleIntercept",
    "RescaleSlope",
    "RescaleType",
)
KEYWORD_BY_TAG: Mapping[int, str] = MappingProxyType({tag_for_keyword(one) or 0: one for one in KEYWORDS})
DECIMAL_VRS = frozenset({"DS", "IS"})
BINARY_FORMATS: Mapping[str, str] = MappingProxyType({"US": "<H", "US or SS": "<H", "FD": "<d"})
VR_BY_KEYWORD: Mapping[str, str] = MappingProxyType({one: dictionary_VR(one) for one in KEYWORDS})

FLOAT_PIXEL_DATA, PIXEL_DATA = 0x7FE00008, 0x7FE00010
HEAD_BYTES = (1 << 14, 1 << 20)
"""Read at once, and where the pixels begin later than that."""

MAX_VALUE_BYTES = 1024
MAX_ELEMENTS = 10_000
MAX_DEPTH = 16

_START = struct.Struct("<HH2sH")
_LONG = struct.Struct("<L")


class UnfitError(Exception):
    """Not a plain uncompressed slice, or not whole."""


@dataclass(frozen=True, slots=True)
class Scan:
    """What a file says of its one frame, and where the words of it lie."""

    values: Values
    pixel_offset: int
    pixel_bytes: int


def scan(path: Path) -> Scan | None:
    """Return the header of a file with one uncompressed little-endian frame; None for any other.

    Raises OSError where the file cannot be read.
    """
    return scan_head(path, _scan)


def scan_head(path: Path, reading: Callable[["Head"], Found]) -> Found | None:
    """Return what is read from the first bytes of a file, or from more of them; None where that fails.

    `reading` raises UnfitError for what is not for it, and struct.error where the bytes end too early.
    """
    with path.open("rb", buffering=0) as file:
        for size in HEAD_BYTES:
            data = os.pread(file.fileno(), size, 0)
            try:
                return reading(Head(data, is_whole=len(data) < size))
            except struct.error:
                if len(data) < size:
                    return None
            except UnfitError:
                return None
    return None


def values_of(dataset: Dataset) -> Values:
    """Return the same values of a data set that pydicom read."""
    values: dict[str, Value] = {}
    for keyword in KEYWORDS:
        try:
            stored = dataset.get(keyword)
            if stored in (None, ""):
                continue
            several = [stored] if isinstance(stored, str | int | float) else list(stored)
            values[keyword] = _plain(VR_BY_KEYWORD[keyword], several)
        except LIBRARY_ERRORS:
            continue
    return values


def _plain(vr: str, several: list[object]) -> Value:
    """Return what was read as text or numbers; raises ValueError where a number is none."""
    if vr not in DECIMAL_VRS and vr not in BINARY_FORMATS:
        return "\\".join(str(one).strip(" \0") for one in several)
    numbers = tuple(float(str(one)) for one in several)
    if not all(map(math.isfinite, numbers)):
        raise ValueError("not a number")
    # The same word either way, and writers mix them up.
    return tuple(one % (1 << 16) for one in numbers) if vr == "US or SS" else numbers


# Most values are the same in all slices of a series.
@lru_cache(maxsize=4096)
def _decoded(keyword: str, raw: bytes) -> Value | None:
    """Return the value of an attribute; None where it is empty or damaged."""
    if not raw:
        return None
    vr = VR_BY_KEYWORD[keyword]
    try:
        if layout := BINARY_FORMATS.get(vr):
            return _plain(vr, list(struct.unpack(layout, raw)))
        text = raw.decode("ascii", "replace").strip(" \0")
        return _plain(vr, list(text.split("\\"))) if text else None
    except (ValueError, struct.error):
        return None


def _scan(head: "Head") -> Scan:
    values: dict[str, Value] = {}
    for tag, _, start, length in head.elements():
        if head.is_compressed:
            raise UnfitError
        if tag == PIXEL_DATA:
            is_single = values.get("NumberOfFrames", (1.0,)) == (1.0,)
            if length == UNDEFINED or not is_single:
                raise UnfitError
            return Scan(values, start, length)
        keyword = KEYWORD_BY_TAG.get(tag)
        # What is longer is none of these; and the values that were decoded are kept.
        if not keyword or length > MAX_VALUE_BYTES:
            continue
        if (value := _decoded(keyword, head.data[start : start + length])) is not None:
            values[keyword] = value
    raise UnfitError


@lru_cache(maxsize=32)
def _form(raw: bytes) -> tuple[bool, bool]:
    """Return of a transfer syntax whether the header is explicit VR, and whether pixels are compressed.

    Compressed pixels are always in an explicit header (PS3.5 A.4). Raises UnfitError for big endian, deflated
    and unknown ones.
    """
    uid = UID(raw.decode("ascii", "replace").strip("\0 "), validation_mode=IGNORE)
    if uid in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
        return uid == ExplicitVRLittleEndian, False
    if uid.is_transfer_syntax and uid.is_encapsulated:
        return True, True
    raise UnfitError


class Head:
    """The first bytes of a file, explicit or implicit VR in little endian; struct.error where they end."""

    def __init__(self, data: bytes, *, is_whole: bool) -> None:
        """Take the bytes; `is_whole` where the file has no more."""
        self.data = data
        self.is_explicit = True
        self.is_compressed = False
        self._is_whole = is_whole
        self._count = 0

    def meta(self) -> Iterator[Element]:
        """Yield the elements of the file meta information."""
        if self.data[PREAMBLE_BYTES : PREAMBLE_BYTES + len(PREFIX)] != PREFIX:
            raise UnfitError
        position = PREAMBLE_BYTES + len(PREFIX)
        while _START.unpack_from(self.data, position)[0] == META_GROUP:
            element = self._element(position)
            yield element
            position = self._end(element[2], element[3])

    def elements(self) -> Iterator[Element]:
        """Yield the elements of the data set: tag, VR where it is explicit, start and length of the value.

        Pixel data is the last. The inside of sequences is passed over.
        """
        syntax, position = b"", PREAMBLE_BYTES + len(PREFIX)
        for tag, _, start, length in self.meta():
            position = start + length
            if tag == TRANSFER_SYNTAX_UID:
                syntax = self.data[start : start + min(length, MAX_VALUE_BYTES)]
        self.is_explicit = self.data[position + 4 : position + 6].isalpha()
        # A file that contradicts its transfer syntax is for pydicom to make sense of.
        is_explicit, self.is_compressed = _form(syntax)
        if self.is_explicit != is_explicit:
            raise UnfitError
        while not (self._is_whole and position == len(self.data)):
            tag, vr, start, length = self._element(position)
            yield tag, vr, start, length
            if tag >= FLOAT_PIXEL_DATA:
                return
            position = self._end(start, length)

    def _element(self, position: int) -> Element:
        self._count += 1
        if self._count > MAX_ELEMENTS:
            raise UnfitError
        group, element, vr, length = _START.unpack_from(self.data, position)
        tag = group << 16 | element
        if not self.is_explicit:
            return tag, b"", position + 8, _LONG.unpack_from(self.data, position + 4)[0]
        if vr in SHORT_VRS:
            return tag, vr, position + 8, length
        if not vr.isalpha():
            raise UnfitError
        length = _LONG.unpack_from(self.data, position + 8)[0]
        # What is inside UN of undefined length is implicit VR whatever is around it (PS3.5 6.2.2).
        if vr == b"UN" and length == UNDEFINED:
            raise UnfitError
        return tag, vr, position + 12, length

    def _end(self, start: int, length: int, depth: int = 0) -> int:
        """Return where the value that starts here ends, items of undefined length included."""
        if length != UNDEFINED:
            return start + length
        return self._past(SEQUENCE_END, start, depth + 1)

    def _past(self, end: int, position: int, depth: int) -> int:
        """Return where the item or sequence whose inside begins here ends, past its delimiter."""
        if depth > MAX_DEPTH:
            raise UnfitError
        while True:
            group, element, _, _ = _START.unpack_from(self.data, position)
            tag = group << 16 | element
            if group != ITEM >> 16:
                _, _, start, length = self._element(position)
                position = self._end(start, length, depth)
                continue
            (length,) = _LONG.unpack_from(self.data, position + 4)
            position += 8
            if tag == end:
                return position
            if tag != ITEM or end != SEQUENCE_END:
                raise UnfitError
            position = self._past(ITEM_END, position, depth + 1) if length == UNDEFINED else position + length
