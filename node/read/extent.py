"""What the header of an instance says of its place in its series: number, position, level, part.

Read by tags and lengths alone, for it is asked of every instance of a study that may be complete.
"""

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydicom.datadict import tag_for_keyword

from node.read.scan import Head, scan_head

MAX_VALUE_BYTES = 1024
KEYWORDS = (
    "ImageType",
    "InstanceNumber",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "ConcatenationUID",
    "InConcatenationNumber",
    "InConcatenationTotalNumber",
    "NumberOfFrames",
    "TotalPixelMatrixColumns",
    "TotalPixelMatrixRows",
)
KEYWORD_BY_TAG: Mapping[int, str] = {tag_for_keyword(one) or 0: one for one in KEYWORDS}
LAST_TAG = max(KEYWORD_BY_TAG)
BINARY: Mapping[str, str] = {
    "InConcatenationNumber": "<H",
    "InConcatenationTotalNumber": "<H",
    "TotalPixelMatrixColumns": "<L",
    "TotalPixelMatrixRows": "<L",
}

Numbers = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Extent:
    """Where an instance lies in its series; what its header does not say is 0 or empty.

    `part` of `parts` are of a concatenation (PS3.3 C.7.6.16.1), `columns` and `rows` of a slide's level.
    """

    number: int = 0
    position_mm: Numbers = ()
    orientation: Numbers = ()
    frames: int = 1
    image_type: tuple[str, ...] = ()
    concatenation_uid: str = ""
    part: int = 0
    parts: int = 0
    columns: int = 0
    rows: int = 0


def read_extent(path: Path) -> Extent | None:
    """Return what a stored file says; None where it is in no plain little-endian encoding, or damaged.

    Raises OSError where it cannot be read.
    """
    return scan_head(path, _extent)


def _extent(head: Head) -> Extent:
    raw: dict[str, bytes] = {}
    for tag, _, start, length in head.elements():
        if tag > LAST_TAG:
            break
        if tag in KEYWORD_BY_TAG and length <= MAX_VALUE_BYTES:
            if start + length > len(head.data):
                raise struct.error("the value is not among these bytes")
            raw[KEYWORD_BY_TAG[tag]] = head.data[start : start + length]
    return Extent(
        number=_whole(raw, "InstanceNumber"),
        position_mm=_numbers(raw, "ImagePositionPatient", 3),
        orientation=_numbers(raw, "ImageOrientationPatient", 6),
        frames=_whole(raw, "NumberOfFrames") or 1,
        image_type=tuple(_text(raw, "ImageType").split("\\")),
        concatenation_uid=_text(raw, "ConcatenationUID"),
        part=_whole(raw, "InConcatenationNumber"),
        parts=_whole(raw, "InConcatenationTotalNumber"),
        columns=_whole(raw, "TotalPixelMatrixColumns"),
        rows=_whole(raw, "TotalPixelMatrixRows"),
    )


def _text(raw: Mapping[str, bytes], keyword: str) -> str:
    return raw.get(keyword, b"").decode("ascii", "replace").strip(" \0")


def _whole(raw: Mapping[str, bytes], keyword: str) -> int:
    """Return a number from 1 on; 0 of anything else."""
    try:
        if layout := BINARY.get(keyword):
            return int(struct.unpack(layout, raw.get(keyword, b""))[0])
        return max(0, int(_text(raw, keyword)))
    except (ValueError, struct.error):
        return 0


def _numbers(raw: Mapping[str, bytes], keyword: str, count: int) -> Numbers:
    """Return so many finite numbers, or none."""
    try:
        numbers = tuple(float(one) for one in _text(raw, keyword).split("\\"))
    except ValueError:
        return ()
    return numbers if len(numbers) == count and all(map(math.isfinite, numbers)) else ()
