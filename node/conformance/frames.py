"""Segmentations and maps lie over their sources: frame by frame the same plane, on a slide the same area."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from pydicom.dataset import Dataset

from node.conformance.content import number, sequence, text
from node.conformance.kinds import OVERLAYS, of
from node.conformance.layout import FrameFacts
from node.conformance.planes import (
    Plane,
    is_tiled,
    matrix_of,
    picture_size,
    plane_of,
    plane_of_frame,
)
from node.conformance.rule import Rule
from node.conformance.subject import Subject

TOLERANCE_MM = 0.1
HALF_PIXEL = 0.5


def _frames_counted(subject: Subject) -> Iterator[str]:
    frames, described = number(subject.dataset, "NumberOfFrames"), len(subject.frames)
    is_full = text(subject.dataset, "DimensionOrganizationType") == "TILED_FULL"
    if frames != described and not (is_full and not described):
        yield f"has {frames} frames, but describes {described}"


def _frames_in_order(subject: Subject) -> Iterator[str]:
    """Yield frames that are not where their dimension indices say: then pixels and places are mixed up.

    The indices rise from frame to frame, or they fall: the standard asks for neither, our encoders keep one.
    """
    indices = [facts.indices for facts in subject.frames]
    if not all(indices):
        yield "a frame has no dimension index values"
    is_falling = len(indices) > 1 and indices[-1] < indices[0]
    for place, (one, other) in enumerate(pairwise(indices), 2):
        if not (other < one if is_falling else one < other):
            yield f"frame {place} does not follow the frame before it in its dimensions"


def _frames_distinct(subject: Subject) -> Iterator[str]:
    """Yield frames of the same segment at the same place."""
    seen: set[tuple[object, ...]] = set()
    for place, facts in enumerate(subject.frames, 1):
        key = (facts.segment, facts.position, facts.offsets)
        if (facts.position or facts.offsets) and key in seen:
            yield f"frame {place} is where another frame of the same segment is"
        seen.add(key)


def _same_frame_of_reference(subject: Subject) -> Iterator[str]:
    own = text(subject.dataset, "FrameOfReferenceUID")
    for target in _targets(subject):
        is_placed = is_tiled(target) or plane_of(target) is not None
        if (own or is_placed) and own != text(target, "FrameOfReferenceUID"):
            yield f"is not in the frame of reference of {text(target, 'SOPInstanceUID')}"


def _targets(subject: Subject) -> list[Dataset]:
    """Return the sources that the frames are derived from, each once."""
    items = [item for keyword, item in subject.references if keyword == "SourceImageSequence"]
    uids = dict.fromkeys(text(item, "ReferencedSOPInstanceUID") for item in items)
    return [subject.known[uid] for uid in uids if uid in subject.known]


def _frames_have_sources(subject: Subject) -> Iterator[str]:
    """Yield the frames that do not say what they lie over; of a slide, the object does for all its tiles."""
    if is_tiled(subject.dataset):
        if not sequence(subject.dataset, "SourceImageSequence"):
            yield "does not say which image it was derived from"
        return
    for place, facts in enumerate(subject.frames, 1):
        if not facts.pictures:
            yield f"frame {place} does not say which image it was derived from"


def _frames_on_sources(subject: Subject) -> Iterator[str]:
    """Yield the frames that are not where the image is that they were derived from, to 0.1 mm."""
    seen: set[tuple[object, ...]] = set()
    size = picture_size(subject.dataset, is_frame=True)
    for place, facts in enumerate(subject.frames, 1):
        for uid, frame in facts.pictures:
            # The frames of several segments lie on the same planes.
            key = (uid, frame, facts.position, facts.orientation, facts.spacing)
            target = subject.known.get(uid)
            if key in seen or target is None or is_tiled(target):
                continue
            seen.add(key)
            if fault := _misplacement(facts, size, target, frame):
                yield f"frame {place} {fault} {uid}"


def _misplacement(facts: FrameFacts, size: tuple[int, int], target: Dataset, frame: int | None) -> str:
    """Return how a frame lies beside its source, nothing where it lies on it."""
    if size != picture_size(target, is_frame=True):
        return "has other rows and columns than"
    own, other = plane_of_frame(facts, size), plane_of(target, frame)
    if own is None and other is None:
        return ""
    if own is None or other is None:
        return "has a place and the other none:"
    distance_mm = np.linalg.norm(own.corners - other.corners, axis=1).max()
    # As "not within", so that a position that is no number is refused.
    return "" if distance_mm <= TOLERANCE_MM else f"lies {distance_mm:.2f} mm off"


def _matrix_on_source(subject: Subject) -> Iterator[str]:
    """Yield where the total pixel matrix does not cover the area of the level that it is of.

    A coarser grid begins at the same corner, and ends within one of its own pixels.
    """
    own = matrix_of(subject.dataset)
    for target in filter(is_tiled, _targets(subject)):
        other = matrix_of(target)
        if own is None or other is None:
            yield "does not say where the total pixel matrix lies"
            continue
        near_mm, *far_mm = np.linalg.norm(own.corners - other.corners, axis=1)
        tolerance_mm = min(TOLERANCE_MM, HALF_PIXEL * other.pixel_mm)
        if not near_mm <= tolerance_mm:
            yield f"the total pixel matrix begins {near_mm:.4f} mm off {text(target, 'SOPInstanceUID')}"
        elif not max(far_mm) <= own.pixel_mm - other.pixel_mm + tolerance_mm:
            yield f"the total pixel matrix ends {max(far_mm):.4f} mm off {text(target, 'SOPInstanceUID')}"


def _tiles_in_matrix(subject: Subject) -> Iterator[str]:
    matrix = matrix_of(subject.dataset) if is_tiled(subject.dataset) else None
    if matrix is None:
        return
    for place, tile in enumerate(subject.frames, 1):
        if not (1 <= tile.column <= matrix.columns and 1 <= tile.row <= matrix.rows):
            yield f"tile {place} begins at column {tile.column}, row {tile.row}, outside the matrix"
        elif not _is_at(tile, matrix):
            yield f"tile {place} is not where its row and column are on the slide"


def _is_at(tile: FrameFacts, matrix: Plane) -> bool:
    if not tile.offsets:
        return False
    across, along = tile.column - HALF_PIXEL, tile.row - HALF_PIXEL
    center = matrix.origin + across * matrix.right + along * matrix.down
    return bool(np.linalg.norm(center - tile.offsets) <= min(TOLERANCE_MM, HALF_PIXEL * matrix.pixel_mm))


RULES = (
    Rule("same_frame_of_reference", of(OVERLAYS), _same_frame_of_reference, needs_sources=True),
    Rule("frames_on_sources", of(OVERLAYS), _frames_on_sources, needs_sources=True),
    Rule("matrix_on_source", of(OVERLAYS), _matrix_on_source, needs_sources=True),
    Rule("frames_have_sources", of(OVERLAYS), _frames_have_sources),
    Rule("frames_counted", of(OVERLAYS), _frames_counted),
    Rule("frames_in_order", of(OVERLAYS), _frames_in_order),
    Rule("frames_distinct", of(OVERLAYS), _frames_distinct),
    Rule("tiles_in_matrix", of(OVERLAYS), _tiles_in_matrix),
)
