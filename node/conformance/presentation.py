"""Presentation states: graphics on declared layers, inside the pictures that they are drawn on."""

from collections.abc import Iterator

from pydicom.dataset import Dataset

from node.conformance.content import Floats, points, sequence, text
from node.conformance.kinds import PRESENTATIONS, of
from node.conformance.planes import picture_size
from node.conformance.rule import Rule
from node.conformance.subject import Subject

WHOLE_MATRIX = "MATRIX"
PLACES = (
    ("GraphicData", "GraphicAnnotationUnits"),
    ("BoundingBoxTopLeftHandCorner", "BoundingBoxAnnotationUnits"),
    ("BoundingBoxBottomRightHandCorner", "BoundingBoxAnnotationUnits"),
    ("AnchorPoint", "AnchorPointAnnotationUnits"),
)
"""Attributes of graphics and texts that say where they are, and those that say in which units."""


def _annotations(subject: Subject) -> list[Dataset]:
    return sequence(subject.dataset, "GraphicAnnotationSequence")


def _drawn(annotation: Dataset) -> list[Dataset]:
    return [*sequence(annotation, "GraphicObjectSequence"), *sequence(annotation, "TextObjectSequence")]


def _layers_declared(subject: Subject) -> Iterator[str]:
    declared = [text(layer, "GraphicLayer") for layer in sequence(subject.dataset, "GraphicLayerSequence")]
    if len(set(declared)) < len(declared):
        yield "declares a layer twice"
    used = {text(annotation, "GraphicLayer") for annotation in _annotations(subject)}
    for layer in sorted(used - set(declared)):
        yield f"draws on layer {layer!r}, which is not declared"


def _draws_something(subject: Subject) -> Iterator[str]:
    if not any(map(_drawn, _annotations(subject))):
        yield "shows no graphic and no text"


def _graphics_inside(subject: Subject) -> Iterator[str]:
    for annotation in _annotations(subject):
        for target in _pictures(subject, annotation):
            for keyword, units, line in _places(annotation):
                size = picture_size(target, is_frame=units != WHOLE_MATRIX)
                if not _is_inside(line, units, size):
                    uid = text(target, "SOPInstanceUID")
                    yield f"{keyword} leaves {uid}, of {size[0]} rows and {size[1]} columns"


def _pictures(subject: Subject, annotation: Dataset) -> list[Dataset]:
    """Return what an annotation is drawn on: all that the state refers to, where it names none."""
    named = [
        text(item, "ReferencedSOPInstanceUID") for item in sequence(annotation, "ReferencedImageSequence")
    ]
    uids = named or [one.sop_instance_uid for one in subject.evidence]
    return [subject.known[uid] for uid in uids if uid in subject.known]


def _places(annotation: Dataset) -> Iterator[tuple[str, str, Floats]]:
    for item in _drawn(annotation):
        for keyword, units in PLACES:
            if keyword in item:
                yield keyword, text(item, units), points(item, keyword, 2)


def _is_inside(line: Floats, units: str, size: tuple[int, int]) -> bool:
    rows, columns = (1, 1) if units == "DISPLAY" else size
    return bool(((line >= 0) & (line <= [columns, rows])).all())


def _displayed_areas(subject: Subject) -> Iterator[str]:
    """Yield the pictures that no displayed area is of, and areas that are none."""
    shown: set[str] = set()
    for area in sequence(subject.dataset, "DisplayedAreaSelectionSequence"):
        named = {text(item, "ReferencedSOPInstanceUID") for item in sequence(area, "ReferencedImageSequence")}
        shown |= named or {one.sop_instance_uid for one in subject.evidence}
        top_left = points(area, "DisplayedAreaTopLeftHandCorner", 2)
        bottom_right = points(area, "DisplayedAreaBottomRightHandCorner", 2)
        if not (top_left.size and (bottom_right > top_left).all()):
            yield "a displayed area is empty"
    for one in sorted({one.sop_instance_uid for one in subject.evidence} - shown):
        yield f"no displayed area is of {one}"


RULES = (
    Rule("layers_declared", of(PRESENTATIONS), _layers_declared),
    Rule("draws_something", of(PRESENTATIONS), _draws_something),
    Rule("graphics_inside", of(PRESENTATIONS), _graphics_inside, needs_sources=True),
    Rule("displayed_areas", of(PRESENTATIONS), _displayed_areas),
)
