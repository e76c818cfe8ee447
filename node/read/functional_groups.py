"""What holds for one frame of an enhanced multi-frame object (PS3.3 C.7.6.16)."""

from collections.abc import Iterator, Sequence

from pydicom.dataset import Dataset
from pydicom.tag import Tag

from node.read.dataset import LIBRARY_ERRORS

GROUPS = (
    "PixelMeasuresSequence",
    "PlaneOrientationSequence",
    "PixelValueTransformationSequence",
    "FrameVOILUTSequence",
    "PlanePositionSequence",
    "FrameContentSequence",
    "CTImageFrameTypeSequence",
    "CTReconstructionSequence",
    "CTXRayDetailsSequence",
)
"""The groups that say how large pixels are, where they lie, what gray they become, and of what scan."""

GROUP_KEYWORDS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")


def frame_header(dataset: Dataset, frame_number: int | None, keywords: Sequence[str]) -> Dataset:
    """Return the named attributes for one frame (from 1): its own, else shared ones, else the object's.

    An object without functional groups, as a single slice is, speaks for itself. What cannot be decoded
    counts as absent.
    """
    header = Dataset()
    for holder in (dataset, *_groups(dataset, frame_number)):
        for tag in map(Tag, keywords):
            try:
                if tag in holder:
                    header[tag] = holder[tag]
            except LIBRARY_ERRORS:
                continue
    return header


def _groups(dataset: Dataset, frame_number: int | None) -> Iterator[Dataset]:
    number = 1 if frame_number is None else max(1, frame_number)
    for keyword, place in zip(GROUP_KEYWORDS, (slice(1), slice(number - 1, number)), strict=True):
        for groups in (dataset.get(keyword) or ())[place]:
            for name in GROUPS:
                yield from (groups.get(name) or ())[:1]
