"""Ways to spoil bytes: some know how DICOM is written, others nothing; every choice is the generator's."""

import struct
from collections.abc import Callable, Sequence
from random import Random

from pydicom.datadict import tag_for_keyword

Mutate = Callable[[Random, bytearray], None]

MOST_CHANGES = 6
# Values that parsers stumble on: ends of ranges, undefined lengths, and those just before and after.
ODD_16 = (0, 1, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF)
ODD_32 = (0, 1, 7, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFC, 0xFFFFFFFE, 0xFFFFFFFF)
VRS = (b"SQ", b"UN", b"OB", b"OW", b"UI", b"US", b"DS", b"IS", b"PN", b"OV", b"XX", b"\0\0")
# Numbers of attributes that decide how much memory and work a data set costs.
TELLING = (
    "TransferSyntaxUID",
    "FileMetaInformationGroupLength",
    "SpecificCharacterSet",
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "RescaleSlope",
    "RescaleType",
    "TotalPixelMatrixColumns",
    "PixelData",
    "PerFrameFunctionalGroupsSequence",
    "SharedFunctionalGroupsSequence",
)
TELLING_TAGS = tuple(tag_for_keyword(keyword) or 0 for keyword in TELLING)
ODD_TEXTS = (
    b"../../../etc/passwd", b"1.2.3/4", b"1.2\0.3", b"1.2\n{}", b"-1", b"1e999", b"9" * 60, b"nan", b"\\\\\\",
    b"\x1b$B\xff", b"ISO 2022 IR 87", b"\xff" * 16, b"1.2.840.10008.1.2.4.90", b"1.2.840.10008.1.2.1.99", b"",
)  # fmt: skip
ITEM, ITEM_END = b"\xfe\xff\x00\xe0\xff\xff\xff\xff", b"\xfe\xff\x0d\xe0\0\0\0\0"


def mutate(rng: Random, data: bytes) -> bytes:
    """The bytes with one to a few changes."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, MOST_CHANGES)):
        rng.choice(WAYS)(rng, changed)
    return bytes(changed)


def _place(rng: Random, data: Sequence[int], room: int = 1) -> int:
    # Headers come first and decide most: half of the changes are there.
    end = max(1, len(data) - room + 1)
    return rng.randrange(min(end, 2048) if rng.random() < 0.5 else end)


def _bytes_of(tag: int) -> bytes:
    return struct.pack("<HH", tag >> 16, tag & 0xFFFF)


def _flip_bit(rng: Random, data: bytearray) -> None:
    if data:
        data[_place(rng, data)] ^= 1 << rng.randrange(8)


def _set_byte(rng: Random, data: bytearray) -> None:
    if data:
        data[_place(rng, data)] = rng.choice((0, 1, 0x7F, 0x80, 0xFE, 0xFF, rng.randrange(256)))


def _set_number(rng: Random, data: bytearray) -> None:
    order = rng.choice("<>")
    number = struct.pack(f"{order}H", rng.choice(ODD_16))
    if rng.random() < 0.5:
        number = struct.pack(f"{order}L", rng.choice(ODD_32))
    place = _place(rng, data, len(number))
    data[place : place + len(number)] = number


def _cut(rng: Random, data: bytearray) -> None:
    del data[_place(rng, data) :]


def _remove(rng: Random, data: bytearray) -> None:
    place = _place(rng, data)
    del data[place : place + rng.choice((1, 2, 4, 8, rng.randint(1, 512)))]


def _repeat(rng: Random, data: bytearray) -> None:
    place = _place(rng, data)
    part = data[place : place + rng.choice((1, 2, 8, 64, 512))]
    data[place:place] = part * rng.choice((1, 2, 30))


def _rubbish(rng: Random, data: bytearray) -> None:
    place = _place(rng, data)
    data[place:place] = rng.randbytes(rng.choice((1, 2, 8, 100)))


def _spoil_element(rng: Random, data: bytearray) -> None:
    """Change VR, length or value of an element whose tag tells how much there is, or what it is."""
    tag = _bytes_of(rng.choice(TELLING_TAGS))
    place = data.find(tag)
    if place < 0:
        return
    way = rng.randrange(4)
    if way == 0:
        data[place + 4 : place + 6] = rng.choice(VRS)
    elif way == 1:
        data[place + 6 : place + 8] = struct.pack("<H", rng.choice(ODD_16))
    elif way == 2:
        data[place + 8 : place + 12] = struct.pack("<L", rng.choice(ODD_32))
    else:
        (length,) = struct.unpack_from("<H", data.ljust(place + 8, b"\0"), place + 6)
        text = rng.choice(ODD_TEXTS)
        keep = rng.random() < 0.5  # the length as it was, or the true one
        value = text[:length].ljust(length) if keep and length < 1024 else text
        data[place + 6 : place + 8 + length] = struct.pack("<H", len(value)) + value


def _nest(rng: Random, data: bytearray) -> None:
    """Put sequences within sequences, ended or not."""
    depth = rng.choice((3, 70, 1200))
    head = (
        b"\x40\x00\x75\xa7SQ\0\0\xff\xff\xff\xff"
        if rng.random() < 0.7
        else b"\x40\x00\x75\xa7\xff\xff\xff\xff"
    )
    place = data.find(_bytes_of(rng.choice(TELLING_TAGS)))
    deep = (head + ITEM) * depth + ITEM_END * (depth if rng.random() < 0.5 else 0)
    data[max(0, place) : max(0, place)] = deep


def _many_elements(rng: Random, data: bytearray) -> None:
    """Put thousands of elements that say nothing before the pixels."""
    count = rng.choice((10, 5000, 50_000))
    place = data.find(_bytes_of(tag_for_keyword("Rows") or 0))
    elements = b"".join(struct.pack("<HH2sH", 0x0027, n & 0xFFFF, b"SH", 0) for n in range(count))
    data[max(0, place) : max(0, place)] = elements


WAYS: tuple[Mutate, ...] = (
    _flip_bit, _flip_bit, _set_byte, _set_byte, _set_number, _set_number, _cut, _remove, _repeat, _rubbish,
    _spoil_element, _spoil_element, _spoil_element, _spoil_element, _nest, _many_elements,
)  # fmt: skip
