"""Outlines in reports: closed, inside their image, and over the segment that they are drawn around."""

from collections.abc import Iterator, Sequence

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from node.conformance.content import (
    Floats,
    first,
    number,
    numbers,
    points,
    sequence,
    text,
)
from node.conformance.kinds import REPORTS, SEGMENTATIONS, is_lesions_report, of
from node.conformance.layout import FrameFacts, pictures_in, read_layout
from node.conformance.planes import Plane, is_tiled, matrix_of, picture_size, plane_of
from node.conformance.rule import Rule
from node.conformance.segments import segment_frame
from node.conformance.subject import Subject
from node.conformance.tree import Item

DIMENSIONS = {"SCOORD": 2, "SCOORD3D": 3}
LINES = frozenset({"POLYLINE", "POLYGON"})
FEWEST_POINTS = 4
"""Of a closed line, the first point twice."""

PIXEL_TOLERANCE = 0.5
HEIGHT_TOLERANCE_MM = 1.0


def _lines(tree: Item) -> Iterator[tuple[Item, Floats]]:
    """Yield the content items with coordinates, and these."""
    for item in tree.typed(*DIMENSIONS):
        yield item, points(item.dataset, "GraphicData", DIMENSIONS[item.value_type])


def _outlines_closed(subject: Subject) -> Iterator[str]:
    for item, line in _lines(subject.tree):
        graphic = text(item.dataset, "GraphicType")
        if graphic in LINES and (len(line) < FEWEST_POINTS or not (line[0] == line[-1]).all()):
            yield f"a {graphic} of {len(line)} points is not closed"


def _outlines_inside(subject: Subject) -> Iterator[str]:
    for item, line in _lines(subject.tree):
        outside = _outside_picture if item.value_type == "SCOORD" else _outside_space
        yield from outside(subject, item, line)


def _outside_picture(subject: Subject, item: Item, line: Floats) -> Iterator[str]:
    images = item.typed("IMAGE")
    if not images:
        yield "an outline is on no image"
    for image in images:
        reference = first(image.dataset, "ReferencedSOPSequence")
        target = subject.target(reference)
        rows, columns = picture_size(target, is_frame="ReferencedFrameNumber" in reference)
        if target and not ((line >= 0) & (line <= [columns, rows])).all():
            uid = text(reference, "ReferencedSOPInstanceUID")
            yield f"an outline leaves {uid}, which has {rows} rows and {columns} columns"


def _outside_space(subject: Subject, item: Item, line: Floats) -> Iterator[str]:
    uid = text(item.dataset, "ReferencedFrameOfReferenceUID")
    targets = [one for one in subject.sources if text(one, "FrameOfReferenceUID") == uid]
    if not targets:
        yield f"an outline is in frame of reference {uid}, which no source has"
    elif not any(_holds(planes, line) for planes in _stacks(targets)):
        yield "an outline leaves the space that the sources fill"


def _stacks(targets: list[Dataset]) -> Iterator[list[Plane]]:
    """Yield the planes that fill a space together: each level of a slide, or all slices and frames."""
    levels = [plane for one in targets if is_tiled(one) and (plane := matrix_of(one))]
    yield from ([level] for level in levels)
    slices = [plane_of(one, frame) for one in targets if not is_tiled(one) for frame in _frames(one)]
    if planes := [plane for plane in slices if plane]:
        yield planes


def _frames(target: Dataset) -> range:
    """Return the numbers of the frames that are described; of one that only counts them, the first."""
    return range(1, max(1, len(sequence(target, "PerFrameFunctionalGroupsSequence"))) + 1)


def _holds(planes: list[Plane], line: Floats) -> bool:
    """Return whether the space between the first and the last plane holds all points."""
    plane = planes[0]
    heights = plane.pixels_of(np.stack([one.origin for one in planes]))[:, 2]
    pixels = plane.pixels_of(line)
    tolerance = np.array([PIXEL_TOLERANCE, PIXEL_TOLERANCE, HEIGHT_TOLERANCE_MM])
    low = np.array([0, 0, heights.min()]) - tolerance
    high = np.array([plane.columns, plane.rows, heights.max()]) + tolerance
    return bool(((pixels >= low) & (pixels <= high)).all())


# --- the segment that an outline belongs to


def _segments_of(subject: Subject, group: Item) -> Iterator[tuple[Dataset, int]]:
    """Yield the segmentations and segments that a group refers to."""
    for item in group.named(codes.DCM.ReferencedSegment):
        reference = first(item.dataset, "ReferencedSOPSequence")
        target = subject.target(reference)
        if text(target, "SOPClassUID") in SEGMENTATIONS:
            yield from ((target, int(one)) for one in numbers(reference, "ReferencedSegmentNumber"))


def _groups_with_segments(subject: Subject) -> Iterator[tuple[set[str], Dataset, int]]:
    """Yield what each group tracks with the segmentation and the segment that delineates it."""
    for group in subject.groups:
        tracked = group.texts(codes.DCM.TrackingUniqueIdentifier)
        yield from ((tracked, target, segment) for target, segment in _segments_of(subject, group))


def _segment_tracking(subject: Subject) -> Iterator[str]:
    """Yield the groups whose segment is tracked under another identifier."""
    for tracked, target, segment in _groups_with_segments(subject):
        for item in sequence(target, "SegmentSequence"):
            if number(item, "SegmentNumber") == segment and {text(item, "TrackingUID")} != tracked:
                yield f"segment {segment} has another tracking UID than the group that refers to it"


def _outlines_on_segments(subject: Subject) -> Iterator[str]:
    """Yield the outlines inside which their segment has no pixel: one of the two is in the wrong place."""
    lines = [
        (group.texts(codes.DCM.TrackingUniqueIdentifier), item, line)
        for group in subject.groups
        for item, line in _lines(group)
        if item.value_type == "SCOORD"
    ]
    layouts: dict[int, tuple[FrameFacts, ...]] = {}
    for tracked, target, segment in _groups_with_segments(subject):
        if id(target) not in layouts:
            layouts[id(target)] = read_layout(target)
        for tracked_here, item, line in lines:
            places = _places(item, layouts[id(target)], segment)
            if tracked_here == tracked and not _is_marked(line, target, segment, places):
                yield f"segment {segment} has no pixel inside the outline of the same tracking UID"


def _places(item: Item, layout: Sequence[FrameFacts], segment: int) -> list[int]:
    """Return the frames (from 0) of a segment that lie over the pictures that an outline is on."""
    wanted = {
        picture
        for image in item.typed("IMAGE")
        for reference in sequence(image.dataset, "ReferencedSOPSequence")
        for picture in pictures_in(reference)
    }
    # A label map has all its segments on one frame, which then is of none.
    of_segment = [place for place, facts in enumerate(layout) if facts.segment in (segment, 0)]
    return [place for place in of_segment if not wanted.isdisjoint(layout[place].pictures)]


def _is_marked(line: Floats, target: Dataset, segment: int, places: Sequence[int]) -> bool:
    left, top = np.floor(line.min(axis=0)).astype(int)
    right, bottom = np.ceil(line.max(axis=0)).astype(int)
    frames = (segment_frame(target, place, segment) for place in places)
    return any(frame[top:bottom, left:right].any() for frame in frames)


RULES = (
    Rule("outlines_closed", of(REPORTS), _outlines_closed),
    Rule("outlines_inside", of(REPORTS), _outlines_inside, needs_sources=True),
    Rule("segment_tracking", is_lesions_report, _segment_tracking),
    Rule("outlines_on_segments", is_lesions_report, _outlines_on_segments),
)
