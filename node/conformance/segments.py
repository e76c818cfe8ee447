"""What segmentations and maps hold: described segments with pixels, and values with a quantity and a unit."""

from collections.abc import Iterator, Mapping
from math import isfinite, prod

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from node.conformance.content import EMPTY, code_of, first, number, sequence, text
from node.conformance.kinds import LABEL_MAP_SEGMENTATION, MAPS, OVERLAYS, SEGMENTATIONS, of
from node.conformance.layout import group_of
from node.conformance.rule import Rule
from node.conformance.subject import Subject

Pixels = npt.NDArray[np.generic]

NUMBER_TYPE: Mapping[tuple[str, int], str] = {
    ("PixelData", 8): "u1",
    ("PixelData", 16): "<u2",
    ("FloatPixelData", 32): "<f4",
    ("DoubleFloatPixelData", 64): "<f8",
}
"""How values are stored, by the attribute they are in and Bits Allocated; bits are not among them."""

BACKGROUND = 0
"""The label that a label map may describe as the absence of all others."""


def stored_frames(dataset: Dataset) -> Pixels:
    """Return the stored values as (frames, values), a binary mask's packed where its frames end on a byte.

    Raises ValueError where the data is shorter than the header says, and KeyError for a type results lack.
    """
    frames, bits = max(1, number(dataset, "NumberOfFrames")), number(dataset, "BitsAllocated")
    values = number(dataset, "Rows") * number(dataset, "Columns")
    keyword = _pixel_keyword(dataset)
    data = dataset.get(keyword) or b""
    if bits > 1:
        kind = NUMBER_TYPE[keyword, bits]
        return np.frombuffer(data, kind, count=values * frames).reshape(frames, values)
    packed = np.frombuffer(data, np.uint8, count=-(-values * frames // 8))
    if values % 8 == 0:
        return packed.reshape(frames, -1)
    return np.unpackbits(packed, count=values * frames, bitorder="little").reshape(frames, values)


def _pixel_keyword(dataset: Dataset) -> str:
    return next((keyword for keyword, _ in NUMBER_TYPE if keyword in dataset), "PixelData")


def segment_frame(dataset: Dataset, frame: int, segment: int) -> npt.NDArray[np.bool_]:
    """Return where a segment is on one of its frames (from 0), (rows, columns)."""
    shape = number(dataset, "Rows"), number(dataset, "Columns")
    values = stored_frames(dataset)[frame]
    if text(dataset, "SOPClassUID") == LABEL_MAP_SEGMENTATION:
        return np.asarray(values == segment).reshape(shape)
    if values.size != prod(shape):
        values = np.unpackbits(values.astype(np.uint8), bitorder="little")
    return np.asarray(values > 0).reshape(shape)


def _pixels_complete(subject: Subject) -> Iterator[str]:
    dataset = subject.dataset
    bits = number(dataset, "BitsAllocated") * number(dataset, "Rows") * number(dataset, "Columns")
    expected = -(-bits * number(dataset, "NumberOfFrames") // 8)
    actual = len(dataset.get(_pixel_keyword(dataset)) or b"")
    syntax = getattr(dataset, "file_meta", Dataset()).get("TransferSyntaxUID")
    if syntax is not None and syntax.is_encapsulated:
        yield "is compressed, so its pixels cannot be judged"
    elif actual - expected not in (0, expected % 2) or not actual:
        yield f"has {actual} bytes of pixels, expected {expected}"


def _described(dataset: Dataset) -> list[int]:
    return [number(item, "SegmentNumber") for item in sequence(dataset, "SegmentSequence")]


def _segments_described(subject: Subject) -> Iterator[str]:
    described = _described(subject.dataset)
    wanted = [one for one in described if one != BACKGROUND]
    may_have_background = subject.sop_class_uid == LABEL_MAP_SEGMENTATION
    if wanted != list(range(1, len(wanted) + 1)) or not (wanted == described or may_have_background):
        yield f"the segments are numbered {described}, expected 1, 2, …"
    for one in sorted(_used(subject) - set(described)):
        yield f"segment {one} has pixels or frames, but is not described"


def _segments_not_empty(subject: Subject) -> Iterator[str]:
    for one in sorted(set(_described(subject.dataset)) - _marked(subject) - {BACKGROUND}):
        yield f"segment {one} is described, but has no pixel"


def _used(subject: Subject) -> set[int]:
    """Return the segments that the frames are of, or the labels in them."""
    if subject.sop_class_uid == LABEL_MAP_SEGMENTATION:
        return _marked(subject)
    return {facts.segment for facts in subject.frames}


def _marked(subject: Subject) -> set[int]:
    """Return the segments with a pixel that is not zero."""
    frames = stored_frames(subject.dataset)
    if subject.sop_class_uid == LABEL_MAP_SEGMENTATION:
        # Frame by frame, because to count needs eight bytes a pixel.
        return {int(one) for frame in frames for one in np.flatnonzero(np.bincount(frame))} - {BACKGROUND}
    return {facts.segment for facts, frame in zip(subject.frames, frames, strict=True) if frame.any()}


def _fractions_in_range(subject: Subject) -> Iterator[str]:
    """Yield where a fraction is more than a whole, or it is not said what it is a fraction of."""
    dataset = subject.dataset
    if text(dataset, "SegmentationType") != "FRACTIONAL":
        return
    largest = number(dataset, "MaximumFractionalValue")
    if text(dataset, "SegmentationFractionalType") not in ("PROBABILITY", "OCCUPANCY") or not largest:
        yield "does not say what its fractions are"
    if (found := int(stored_frames(dataset).max())) > largest:
        yield f"has a value of {found}, above the largest of {largest}"


def _segmentation_type(subject: Subject) -> Iterator[str]:
    kind, bits = text(subject.dataset, "SegmentationType"), number(subject.dataset, "BitsAllocated")
    is_map = subject.sop_class_uid == LABEL_MAP_SEGMENTATION
    allowed = {"LABELMAP": (8, 16)} if is_map else {"BINARY": (1,), "FRACTIONAL": (8,)}
    if bits not in allowed.get(kind, ()):
        yield f"{kind or 'no type'} of {bits} bits is none for SOP class {subject.sop_class_uid}"


def _values_mapped(subject: Subject) -> Iterator[str]:
    """Yield the frames whose stored values stand for nothing (PS3.3 C.7.6.16.2.11)."""
    shared = first(subject.dataset, "SharedFunctionalGroupsSequence")
    for own in sequence(subject.dataset, "PerFrameFunctionalGroupsSequence") or [EMPTY]:
        yield from _mapping_faults(group_of((own, shared), "RealWorldValueMappingSequence"))


def _mapping_faults(mapping: Dataset) -> Iterator[str]:
    slope, intercept = mapping.get("RealWorldValueSlope"), mapping.get("RealWorldValueIntercept")
    if slope is None or intercept is None or not (isfinite(slope) and isfinite(intercept)) or slope == 0:
        yield "a frame does not say what its values are in the real world"
    elif not code_of(mapping, "MeasurementUnitsCodeSequence").value:
        yield "a mapping to the real world has no unit"
    elif not sequence(mapping, "QuantityDefinitionSequence"):
        yield "a mapping to the real world does not say of what quantity"


def _values_finite(subject: Subject) -> Iterator[str]:
    frames = stored_frames(subject.dataset)
    if not all(np.isfinite(frame).all() for frame in frames):
        yield "holds values that are no numbers"


RULES = (
    Rule("pixels_complete", of(OVERLAYS), _pixels_complete),
    Rule("segmentation_type", of(SEGMENTATIONS), _segmentation_type),
    Rule("segments_described", of(SEGMENTATIONS), _segments_described),
    Rule("segments_not_empty", of(SEGMENTATIONS), _segments_not_empty),
    Rule("fractions_in_range", of(SEGMENTATIONS), _fractions_in_range),
    Rule("values_mapped", of(MAPS), _values_mapped),
    Rule("values_finite", of(MAPS), _values_finite),
)
