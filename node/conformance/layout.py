"""What a multi-frame object says of each of its frames, as plain values: read once, asked by many rules."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pydicom.dataset import Dataset

from node.conformance.content import EMPTY, first, number, numbers, sequence, text

Picture = tuple[str, int | None]
"""An instance and, where it holds several, the number of the frame (from 1)."""

SLIDE_AXES = tuple(f"{axis}OffsetInSlideCoordinateSystem" for axis in "XYZ")


@dataclass(frozen=True, slots=True)
class FrameFacts:
    """The functional groups of one frame; what they do not say is empty, a number 0.

    `position`, `orientation` and `spacing` are those in the patient; `offsets` is (x, y, z) on the slide, and
    `row` and `column` (from 1) where the tile begins. `pictures` is what the frame was derived from.
    """

    indices: tuple[float, ...]
    segment: int
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]
    row: int
    column: int
    offsets: tuple[float, ...]
    pictures: tuple[Picture, ...]


def read_layout(dataset: Dataset) -> tuple[FrameFacts, ...]:
    """Return what is said of every frame, in order; nothing where frames are not described one by one."""
    shared = first(dataset, "SharedFunctionalGroupsSequence")
    return tuple(_facts(own, shared) for own in sequence(dataset, "PerFrameFunctionalGroupsSequence"))


def shared_facts(dataset: Dataset) -> FrameFacts:
    """Return what all frames have in common."""
    return _facts(EMPTY, first(dataset, "SharedFunctionalGroupsSequence"))


def _facts(own: Dataset, shared: Dataset) -> FrameFacts:
    groups = (own, shared)
    tile = group_of(groups, "PlanePositionSlideSequence")
    return FrameFacts(
        indices=_values(group_of(groups, "FrameContentSequence"), "DimensionIndexValues"),
        segment=number(group_of(groups, "SegmentIdentificationSequence"), "ReferencedSegmentNumber"),
        position=_values(group_of(groups, "PlanePositionSequence"), "ImagePositionPatient"),
        orientation=_values(group_of(groups, "PlaneOrientationSequence"), "ImageOrientationPatient"),
        spacing=_values(group_of(groups, "PixelMeasuresSequence"), "PixelSpacing"),
        row=number(tile, "RowPositionInTotalImagePixelMatrix"),
        column=number(tile, "ColumnPositionInTotalImagePixelMatrix"),
        offsets=slide_offsets(tile),
        pictures=tuple(_pictures(group_of(groups, "DerivationImageSequence"))),
    )


def group_of(groups: Sequence[Dataset], keyword: str) -> Dataset:
    """Return one functional group, the frame's own before the shared one; empty where there is none."""
    for one in groups:
        if found := one.get(keyword):
            return first(one, keyword) if found else EMPTY
    return EMPTY


def _values(dataset: Dataset, keyword: str) -> tuple[float, ...]:
    return tuple(numbers(dataset, keyword)) if dataset else ()


def _pictures(derivation: Dataset) -> Iterator[Picture]:
    for item in sequence(derivation, "SourceImageSequence"):
        yield from pictures_in(item)


def pictures_in(reference: Dataset) -> list[Picture]:
    """Return the pictures that an item refers to: an instance, or some of its frames."""
    uid = text(reference, "ReferencedSOPInstanceUID")
    frames: list[int | None] = [int(one) for one in numbers(reference, "ReferencedFrameNumber")]
    return [(uid, frame) for frame in frames or [None]]


def slide_offsets(item: Dataset) -> tuple[float, ...]:
    """Return a place on the slide as (x, y, z) in mm; nothing where the item does not say it."""
    if any(axis not in item for axis in SLIDE_AXES[:2]):
        return ()
    return tuple(float(item.get(axis) or 0) for axis in SLIDE_AXES)
