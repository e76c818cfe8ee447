"""The pictures that a result points to."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from highdicom.sr import ImageContentItem, RelationshipTypeValues
from pydicom.sr.coding import Code

from node.domain.location import Frame
from node.encode.identity import Result
from node.encode.source import Source


@dataclass(frozen=True, slots=True)
class Picture:
    """An image, and those of its frames that are meant; all of it where none is named."""

    source: Source
    frame_numbers: tuple[int, ...] = ()


def pictures_of(result: Result, frames: Iterable[Frame]) -> tuple[Picture, ...]:
    """Return the images of these frames, each once, in order; what has no pixels is none."""
    numbers_by_uid: dict[str, list[int]] = {}
    for frame in dict.fromkeys(frames):
        numbers = numbers_by_uid.setdefault(frame.sop_instance_uid, [])
        numbers += [] if frame.frame_number is None else [frame.frame_number]
    source_by_uid = {one.sop_instance_uid: one for one in result.sources}
    return tuple(
        Picture(source_by_uid[uid], tuple(numbers))
        for uid, numbers in numbers_by_uid.items()
        if source_by_uid[uid].is_picture
    )


def shown_pictures(result: Result) -> tuple[Picture, ...]:
    """Return what a reader should look at; of what could not be analyzed, the first image."""
    if result.findings.refusal:
        return tuple(map(Picture, result.pictures[:1]))
    return pictures_of(result, result.findings.shown_frames)


def refer(name: Code, picture: Picture, relationship: RelationshipTypeValues) -> ImageContentItem:
    """Return the reference to a picture in a report's tree."""
    return ImageContentItem(
        name,
        picture.source.sop_class_uid,
        picture.source.sop_instance_uid,
        referenced_frame_numbers=list(picture.frame_numbers) or None,
        relationship_type=relationship,
    )


def describe_place(result: Result, frame: Frame) -> str:
    """Return the number under which a viewer shows a picture, in words; empty where there is but one."""
    if frame.frame_number is not None:
        return f"frame {frame.frame_number}"
    pictures = pictures_of(result, [frame]) if len(result.findings.sop_instance_uids) > 1 else ()
    number = pictures[0].source.text("InstanceNumber") if pictures else ""
    return f"image {number}" if re.fullmatch(r"\d{1,9}", number) else ""
