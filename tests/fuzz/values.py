"""Spoils what a file says and leaves it a file: lengths stay true, so that readers come to what is said."""

import struct
import zlib
from collections.abc import Sequence
from contextlib import suppress
from io import BytesIO
from random import Random

from node.errors import DatasetError
from node.header import (
    SERIES_INSTANCE_UID,
    SHORT_VRS,
    SOP_INSTANCE_UID,
    STUDY_INSTANCE_UID,
    UNDEFINED,
    FileMeta,
    encode_file_meta,
    read_file_meta,
)
from node.read.scan import FLOAT_PIXEL_DATA, Element, Head, UnfitError
from tests.fuzz.mutation import ODD_16, ODD_32, ODD_TEXTS, TELLING_TAGS, mutate
from tests.instances import CT, DEFLATED, EXPLICIT

MOST_CHANGES = 3
NAMES = SOP_INSTANCE_UID, STUDY_INSTANCE_UID, SERIES_INSTANCE_UID


def spoil(rng: Random, data: bytes) -> bytes:
    """A file with one to three other values, or pixels; one that cannot be walked is spoiled blindly."""
    with suppress(DatasetError, zlib.error):
        meta, body, is_deflated = _divided(data)
        changed = bytearray(meta + body)
        for _ in range(rng.randint(1, MOST_CHANGES)):
            _spoil_one(rng, changed)
        return _deflated(changed, data) if is_deflated else bytes(changed)
    return mutate(rng, data)


def spoil_dataset(rng: Random, body: bytes, syntax: str) -> bytes:
    """A data set, or a command set, as `spoil` makes it of a file."""
    meta = encode_file_meta(FileMeta(CT, "1.2.3", syntax))
    return spoil(rng, meta + body)[len(meta) :]


def rename(rng: Random, body: bytes, uids: Sequence[bytes]) -> bytes:
    """A data set in Explicit VR with one to three other UIDs; the files of a spool are named after them."""
    meta = encode_file_meta(FileMeta(CT, "1.2.3", EXPLICIT))
    return rename_file(rng, meta + body, uids)[len(meta) :]


def rename_file(rng: Random, data: bytes, uids: Sequence[bytes]) -> bytes:
    """A file with such UIDs in its data set; its file meta is as it was."""
    changed = bytearray(data)
    for name in rng.sample(NAMES, rng.randint(1, len(NAMES))):
        for tag, vr, start, length in elements_of(bytes(changed)):
            if tag == name:
                _set_value(changed, vr, start, length, rng.choice(uids))
                break
    return bytes(changed)


def _divided(data: bytes) -> tuple[bytes, bytes, bool]:
    """File meta and data set as they can be walked: what is deflated is inflated, and said to be explicit."""
    file = BytesIO(data)
    is_deflated = read_file_meta(file).transfer_syntax_uid == DEFLATED
    meta, body = data[: file.tell()], data[file.tell() :]
    if is_deflated:
        # One as long as the other, the last padded.
        return (
            meta.replace(DEFLATED.encode(), _padded(EXPLICIT.encode(), len(DEFLATED))),
            _inflated(body),
            True,
        )
    return meta, body, False


def _inflated(body: bytes) -> bytes:
    return zlib.decompressobj(-zlib.MAX_WBITS).decompress(body)


def _deflated(changed: bytearray, data: bytes) -> bytes:
    file = BytesIO(data)
    read_file_meta(file)
    engine = zlib.compressobj(1, wbits=-zlib.MAX_WBITS)
    return data[: file.tell()] + engine.compress(changed[file.tell() :]) + engine.flush()


def _spoil_one(rng: Random, data: bytearray) -> None:
    elements = elements_of(bytes(data))
    if not elements:
        data[:] = mutate(rng, bytes(data))
        return
    if elements[-1][0] >= FLOAT_PIXEL_DATA and rng.random() < 0.4:
        _spoil_pixels(rng, data, elements[-1][2])
        return
    telling = [one for one in elements if one[0] in TELLING_TAGS and one[3] != UNDEFINED]
    number = elements.index(rng.choice(telling if telling and rng.random() < 0.6 else elements))
    _, vr, start, length = elements[number]
    if length == UNDEFINED:
        end = elements[number + 1][2] if number + 1 < len(elements) else len(data)
        data[start:end] = _scratched(rng, data[start:end])
    else:
        _set_value(data, vr, start, length, _other(rng, bytes(data[start : start + length])))


def elements_of(data: bytes) -> list[Element]:
    """The elements of a file as far as it can be walked, pixels the last; of a deflated one none."""
    found: list[Element] = []
    with suppress(UnfitError, struct.error):
        found.extend(Head(data, is_whole=True).elements())
    return found


def _set_value(data: bytearray, vr: bytes, start: int, length: int, value: bytes) -> None:
    """Put another value, and its length."""
    value += bytes(len(value) % 2)
    if vr in SHORT_VRS:
        value = value[:0xFFFE]
        data[start - 2 : start] = struct.pack("<H", len(value))
    else:
        data[start - 4 : start] = struct.pack("<L", len(value))
    data[start : start + length] = value


def _other(rng: Random, value: bytes) -> bytes:
    way = rng.randrange(6)
    if way == 0:
        return rng.choice(ODD_TEXTS)
    if way == 1:
        return _padded(rng.choice(ODD_TEXTS), len(value))
    if way == 2:
        return struct.pack("<H", rng.choice(ODD_16)) * max(1, len(value) // 2)
    if way == 3:
        return struct.pack("<L", rng.choice(ODD_32)) * max(1, len(value) // 4)
    if way == 4:
        return value * 2 if rng.random() < 0.5 else value[: len(value) // 2]
    return bytes(_scratched(rng, bytearray(value)))


def _padded(text: bytes, length: int) -> bytes:
    return text[:length].ljust(length, b"\0")


def _scratched(rng: Random, data: bytearray) -> bytearray:
    for _ in range(rng.choice((1, 1, 3))):
        if data:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data


def _spoil_pixels(rng: Random, data: bytearray, start: int) -> None:
    """Change some bytes, half of them near the beginning, where streams have their heads; or end early."""
    size = len(data) - start
    if size < 8:
        return
    if rng.random() < 0.1:
        del data[start + rng.randrange(size) :]
        return
    for _ in range(rng.choice((1, 3, 20, 200))):
        place = start + rng.randrange(min(size, 200) if rng.random() < 0.5 else size)
        if place < len(data):
            data[place] = rng.choice((0, 1, 0x7F, 0x80, 0xFE, 0xFF, rng.randrange(256)))
