"""Which colors the samples of a decoded frame are: labels of slides and their streams often disagree."""

import struct
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from PIL import Image as Picture
from pydicom.uid import JPEGBaseline8Bit, JPEGExtended12Bit

Colors = npt.NDArray[np.uint8]

JPEG = frozenset({JPEGBaseline8Bit, JPEGExtended12Bit})
LUMINANCE_FIRST = frozenset({"YBR_FULL", "YBR_FULL_422"})
COLOR = frozenset({"RGB", "YBR_ICT", "YBR_RCT"}) | LUMINANCE_FIRST
"""The photometric interpretations that are understood; the decoder undoes the transforms of JPEG 2000."""

START_OF_FRAME, START_OF_SCAN, APP0, APP14 = frozenset({0xC0, 0xC1, 0xC2}), 0xDA, 0xE0, 0xEE


def to_rgb(samples: Colors, encoded: bytes, photometric: str, transfer_syntax_uid: str) -> Colors:
    """Return the samples (rows, columns, 3) of a frame in RGB; `encoded` is what they were decoded from."""
    if transfer_syntax_uid in JPEG:
        is_luminance_first = _is_luminance_first(encoded, photometric)
    else:
        is_luminance_first = photometric in LUMINANCE_FIRST
    if not is_luminance_first:
        return samples
    rows, columns = samples.shape[:2]
    picture = Picture.frombytes("YCbCr", (columns, rows), samples.tobytes())
    return np.asarray(picture.convert("RGB"))


def declare_colors(stream: bytes, photometric: str) -> bytes:
    """Return a JPEG stream of three components with a marker that says of what colors it is.

    Decoders guess where JFIF and Adobe markers are silent, each in its own way; libjpeg takes what bears no
    marker for YCbCr, whatever the data set says.
    """
    segments = dict(_segments(stream))
    is_declared = segments.get(APP0, b"").startswith(b"JFIF") or segments.get(APP14, b"").startswith(b"Adobe")
    if is_declared or stream[:2] != b"\xff\xd8":
        return stream
    return stream[:2] + (_ADOBE_YCC if _is_luminance_first(stream, photometric) else _ADOBE_RGB) + stream[2:]


def is_luminance_first(stream: bytes, photometric: str) -> bool:
    """Return whether the samples of a JPEG stream are YCbCr, as its markers say, else the label."""
    adobe = dict(_segments(stream)).get(APP14, b"")
    if adobe.startswith(b"Adobe") and len(adobe) >= 12:
        return adobe[11] == 1
    return _is_luminance_first(stream, photometric)


def _is_luminance_first(stream: bytes, photometric: str) -> bool:
    """Return whether a decoded JPEG is YCbCr, as its own markers say; only where they are silent, the label.

    The decoder undoes what an Adobe marker declares and nothing else. A JFIF stream is YCbCr by definition,
    and nobody stores two colors of RGB more coarsely than the third.
    """
    segments = dict(_segments(stream))
    if segments.get(APP14, b"").startswith(b"Adobe"):
        return False
    sampling = {
        part[7 + 3 * index]
        for marker, part in segments.items()
        if marker in START_OF_FRAME
        for index in range(min(part[5], (len(part) - 6) // 3))
    }
    is_declared = segments.get(APP0, b"").startswith(b"JFIF") or len(sampling) > 1
    return is_declared or photometric in LUMINANCE_FIRST


def _segments(stream: bytes) -> Iterator[tuple[int, bytes]]:
    """Give marker and content of each segment before the first scan (ISO/IEC 10918-1 B.1.1)."""
    position = 2
    while position + 4 <= len(stream) and stream[position] == 0xFF and stream[position + 1] != START_OF_SCAN:
        (length,) = struct.unpack_from(">H", stream, position + 2)
        yield stream[position + 1], stream[position + 4 : position + 2 + length]
        position += 2 + length


_ADOBE = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"
_ADOBE_RGB, _ADOBE_YCC = _ADOBE + b"\x00", _ADOBE + b"\x01"
"""APP14 of Adobe: version 100, no flags, the transform (ISO/IEC 10918-6 6.5.3)."""
