"""The few attributes of a DICOM file that name it, read by their tags and lengths alone.

Only values asked for are decoded, nothing is warned about, and the work is bounded: what comes over the
network is hostile. The encoding of a data set is taken from its first element, because files that contradict
their transfer syntax are common.
"""

import io
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from node import __version__
from node.errors import DatasetError

# A UID of our own under 2.25 (PS3.5 B.2), the same for every version; the version stands in the name.
IMPLEMENTATION_CLASS_UID = "2.25.265584516201433605443039517200709047181"
IMPLEMENTATION_VERSION_NAME = f"SIGHTLINE_{__version__}"[:16]

PREAMBLE_BYTES = 128
PREFIX = b"DICM"

META_GROUP = 0x0002
META_GROUP_LENGTH = 0x00020000
META_VERSION = 0x00020001
MEDIA_STORAGE_SOP_CLASS_UID = 0x00020002
MEDIA_STORAGE_SOP_INSTANCE_UID = 0x00020003
TRANSFER_SYNTAX_UID = 0x00020010
META_IMPLEMENTATION_CLASS_UID = 0x00020012
META_IMPLEMENTATION_VERSION_NAME = 0x00020013
SOURCE_APPLICATION_ENTITY_TITLE = 0x00020016
SENDING_APPLICATION_ENTITY_TITLE = 0x00020017
RECEIVING_APPLICATION_ENTITY_TITLE = 0x00020018
META_WANTED = frozenset(
    {
        MEDIA_STORAGE_SOP_CLASS_UID,
        MEDIA_STORAGE_SOP_INSTANCE_UID,
        TRANSFER_SYNTAX_UID,
        SENDING_APPLICATION_ENTITY_TITLE,
        RECEIVING_APPLICATION_ENTITY_TITLE,
    }
)
SOP_CLASS_UID = 0x00080016
SOP_INSTANCE_UID = 0x00080018
MODALITY = 0x00080060
STUDY_INSTANCE_UID = 0x0020000D
SERIES_INSTANCE_UID = 0x0020000E

ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
UNDEFINED = 0xFFFFFFFF
SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())

MAX_UID_LENGTH = 64
MAX_CODE_LENGTH = 16
MAX_VALUE_BYTES = 1024
# Far above any real header (a whole-slide image has some 10,000 elements before its pixels), 0.1 s of work.
MAX_ELEMENTS = 100_000
# Each level of items costs two.
MAX_DEPTH = 64
MAX_INFLATED_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Identifiers:
    """What names an instance in its data set; the modality is empty where the data set has none."""

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    modality: str


@dataclass(frozen=True, slots=True)
class FileMeta:
    """The file meta information (PS3.10 7.1) that the node writes and needs again."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    calling_ae_title: str = ""
    called_ae_title: str = ""


def encode_file_meta(meta: FileMeta) -> bytes:
    """Return preamble, prefix and group 2 of a file written by this node."""
    texts = (
        (MEDIA_STORAGE_SOP_CLASS_UID, b"UI", meta.sop_class_uid),
        (MEDIA_STORAGE_SOP_INSTANCE_UID, b"UI", meta.sop_instance_uid),
        (TRANSFER_SYNTAX_UID, b"UI", meta.transfer_syntax_uid),
        (META_IMPLEMENTATION_CLASS_UID, b"UI", IMPLEMENTATION_CLASS_UID),
        (META_IMPLEMENTATION_VERSION_NAME, b"SH", IMPLEMENTATION_VERSION_NAME),
        (SOURCE_APPLICATION_ENTITY_TITLE, b"AE", meta.calling_ae_title),
        (SENDING_APPLICATION_ENTITY_TITLE, b"AE", meta.calling_ae_title),
        (RECEIVING_APPLICATION_ENTITY_TITLE, b"AE", meta.called_ae_title),
    )
    group = _encode_element(META_VERSION, b"OB", b"\x00\x01")
    group += b"".join(
        _encode_element(tag, vr, text.encode("ascii", "replace")) for tag, vr, text in texts if text
    )
    length = _encode_element(META_GROUP_LENGTH, b"UL", struct.pack("<L", len(group)))
    return bytes(PREAMBLE_BYTES) + PREFIX + length + group


def _encode_element(tag: int, vr: bytes, value: bytes) -> bytes:
    if len(value) % 2:
        value += b"\x00" if vr == b"UI" else b" "
    length = struct.pack("<H", len(value)) if vr in SHORT_VRS else struct.pack("<HL", 0, len(value))
    return struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr + length + value


def read_file_meta(file: BinaryIO) -> FileMeta:
    """Return the file meta of a DICOM file, and stop at its data set.

    A file without preamble, or without meta, gives empty values. Raises DatasetError where meta is damaged.
    """
    if file.read(PREAMBLE_BYTES + len(PREFIX))[PREAMBLE_BYTES:] != PREFIX:
        file.seek(0)
    elements = _Elements(file, EXPLICIT)
    values: dict[int, bytes] = {}
    start = file.tell()
    try:
        while (element := elements.next()).tag >> 16 == META_GROUP:
            if element.tag in META_WANTED:
                values[element.tag] = elements.value(element)
            else:
                elements.skip(element)
            start = file.tell()
    except EOFError:
        pass
    file.seek(start)
    return FileMeta(
        _text(values, MEDIA_STORAGE_SOP_CLASS_UID),
        _text(values, MEDIA_STORAGE_SOP_INSTANCE_UID),
        _text(values, TRANSFER_SYNTAX_UID),
        _text(values, SENDING_APPLICATION_ENTITY_TITLE)[:MAX_CODE_LENGTH],
        _text(values, RECEIVING_APPLICATION_ENTITY_TITLE)[:MAX_CODE_LENGTH],
    )


def read_identifiers(file: BinaryIO, transfer_syntax_uid: str, name: str) -> Identifiers:
    """Return what names the instance whose data set begins here, reading no further than needed.

    `name` stands in the error. Raises DatasetError where a UID is missing, blank, longer than 64 characters
    or not printable, or where this is no data set at all.
    """
    values = _values(file, transfer_syntax_uid, name)
    return Identifiers(
        _uid(values, SOP_CLASS_UID, "SOP Class UID", name),
        _uid(values, SOP_INSTANCE_UID, "SOP Instance UID", name),
        _uid(values, STUDY_INSTANCE_UID, "Study Instance UID", name),
        _uid(values, SERIES_INSTANCE_UID, "Series Instance UID", name),
        "".join(filter(str.isprintable, _text(values, MODALITY)))[:MAX_CODE_LENGTH],
    )


def read_sop_uids(file: BinaryIO, transfer_syntax_uid: str, name: str) -> tuple[str, str]:
    """Return SOP Class and SOP Instance UID of the data set that begins here, empty where it has none.

    Raises DatasetError where this is no data set at all.
    """
    values = _values(file, transfer_syntax_uid, name)
    return _text(values, SOP_CLASS_UID), _text(values, SOP_INSTANCE_UID)


def guess_transfer_syntax(file: BinaryIO) -> str:
    """Return the uncompressed transfer syntax that the data set beginning here seems to be in."""
    encoding = _detect(file)
    if encoding.order == ">":
        return str(ExplicitVRBigEndian)
    return str(ExplicitVRLittleEndian if encoding.is_explicit else ImplicitVRLittleEndian)


def _values(file: BinaryIO, transfer_syntax_uid: str, name: str) -> dict[int, bytes]:
    values: dict[int, bytes] = {}
    try:
        is_deflated = transfer_syntax_uid == DeflatedExplicitVRLittleEndian
        _collect(_inflate(file) if is_deflated else file, values)
    except EOFError:
        pass  # what was found before the end may be enough
    except DatasetError as fault:
        raise DatasetError(name, fault.message) from fault
    return values


def _inflate(file: BinaryIO) -> BinaryIO:
    """Return the first 4 MiB of a deflated data set (PS3.5 A.5): enough for headers, no room for a bomb."""
    engine = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        return io.BytesIO(engine.decompress(file.read(MAX_INFLATED_BYTES), MAX_INFLATED_BYTES))
    except zlib.error as fault:
        raise DatasetError("data set", "cannot be inflated") from fault


def _collect(file: BinaryIO, values: dict[int, bytes]) -> None:
    """Put the raw values of the identifying elements into `values`; EOFError where the data ends first."""
    wanted = {SOP_CLASS_UID, SOP_INSTANCE_UID, MODALITY, STUDY_INSTANCE_UID, SERIES_INSTANCE_UID}
    elements = _Elements(file, _detect(file))
    while lacking := wanted - values.keys():
        element = elements.next()
        # Ascending order is the rule, not the fact: look further while more than the modality lacks.
        if element.tag > SERIES_INSTANCE_UID and lacking == {MODALITY}:
            return
        if element.tag in wanted:
            values[element.tag] = elements.value(element)
        else:
            elements.skip(element)


def _uid(values: Mapping[int, bytes], tag: int, keyword: str, name: str) -> str:
    uid = _text(values, tag)
    if not uid:
        raise DatasetError(name, f"{keyword} is {'blank' if tag in values else 'missing'}")
    if len(uid) > MAX_UID_LENGTH or not uid.isascii() or not uid.isprintable():
        raise DatasetError(name, f"{keyword} is no UID of at most 64 characters")
    return uid


def _text(values: Mapping[int, bytes], tag: int) -> str:
    return values.get(tag, b"").decode("ascii", "replace").strip("\0 ")


class _Encoding(NamedTuple):
    order: str
    is_explicit: bool


EXPLICIT = _Encoding("<", True)
IMPLICIT = _Encoding("<", False)


def _detect(file: BinaryIO) -> _Encoding:
    """Return the encoding that the element here is in, without moving on."""
    start = file.tell()
    head = file.read(6)
    file.seek(start)
    # No standard data set begins above group 0x00FF; one that seems to is in the other byte order.
    is_big_endian = len(head) > 1 and head[0] == 0 and head[1] != 0
    return _Encoding(">" if is_big_endian else "<", _is_vr(head[4:6]))


def _is_vr(code: bytes) -> bool:
    return len(code) == 2 and code.isalpha() and code.isupper()


class _Element(NamedTuple):
    tag: int
    length: int
    nested: _Encoding


class _Elements:
    """The elements of one data set, one after another; EOFError at the end."""

    def __init__(self, file: BinaryIO, encoding: _Encoding) -> None:
        self._file = file
        self._encoding = encoding
        self._count = 0

    def next(self, encoding: _Encoding | None = None) -> _Element:
        """Return the head of the next element and stop at its value."""
        self._count += 1
        if self._count > MAX_ELEMENTS:
            raise DatasetError("data set", f"has no identifiers within {MAX_ELEMENTS} elements")
        encoding = encoding or self._encoding
        head = self._read(8)
        group, number = struct.unpack(f"{encoding.order}HH", head[:4])
        vr = head[4:6] if encoding.is_explicit and group != ITEM >> 16 else b""
        if vr in SHORT_VRS:
            length = struct.unpack(f"{encoding.order}H", head[6:])[0]
        elif _is_vr(vr):
            length = struct.unpack(f"{encoding.order}L", self._read(4))[0]
        else:  # implicit VR, or an element of it gone astray among explicit ones: seen in real files
            length = struct.unpack(f"{encoding.order}L", head[4:])[0]
        # UN of undefined length holds implicit VR whatever is around it (PS3.5 6.2.2).
        return _Element(group << 16 | number, length, IMPLICIT if vr == b"UN" else encoding)

    def value(self, element: _Element) -> bytes:
        """Return the value of the element just begun; none of those ever asked for is long."""
        if element.length > MAX_VALUE_BYTES:
            raise DatasetError("data set", f"an identifier of {element.length} bytes")
        return self._read(element.length)

    def skip(self, element: _Element, depth: int = 0) -> None:
        """Go past the value of the element just begun, nested items included."""
        if element.length != UNDEFINED:
            self._file.seek(element.length, io.SEEK_CUR)
            return
        if depth > MAX_DEPTH:
            raise DatasetError("data set", f"has sequences nested deeper than {MAX_DEPTH}")
        # An item holds elements up to its delimiter, a sequence holds items up to its own.
        end = ITEM_END if element.tag == ITEM else SEQUENCE_END
        while (inner := self.next(element.nested)).tag != end:
            self.skip(inner, depth + 1)

    def _read(self, count: int) -> bytes:
        data = self._file.read(count)
        if len(data) < count:
            raise EOFError
        return data
