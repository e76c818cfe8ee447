"""Microscopy bulk annotations: as many marks as are counted, a value for each, all on the slide."""

from collections.abc import Iterator, Mapping

import numpy as np
from pydicom.dataset import Dataset

from node.conformance.content import Floats, code_of, first, number, sequence, text
from node.conformance.kinds import ANNOTATIONS, of
from node.conformance.planes import picture_size
from node.conformance.rule import Rule
from node.conformance.subject import Subject

POINTS: Mapping[str, int] = {"POINT": 1, "RECTANGLE": 4, "ELLIPSE": 4}
"""Points of one annotation; lines have an index of where each begins (PS3.3 C.37.1.2)."""

LINES = frozenset({"POLYGON", "POLYLINE"})
INDEX_TYPE = "<u4"


def _groups(subject: Subject) -> list[tuple[int, Dataset]]:
    return list(enumerate(sequence(subject.dataset, "AnnotationGroupSequence"), 1))


def _coordinates(group: Dataset, dimensions: int) -> Floats:
    keyword, kind = "PointCoordinatesData", "<f4"
    if "DoublePointCoordinatesData" in group:
        keyword, kind = "DoublePointCoordinatesData", "<f8"
    values = np.frombuffer(group.get(keyword) or b"", kind)
    return values.astype(np.float64).reshape(-1, dimensions)


def _dimensions(subject: Subject, group: Dataset) -> int:
    is_flat = text(subject.dataset, "AnnotationCoordinateType") == "2D" or "CommonZCoordinateValue" in group
    return 2 if is_flat else 3


def _annotations_counted(subject: Subject) -> Iterator[str]:
    for place, group in _groups(subject):
        counted, dimensions = number(group, "NumberOfAnnotations"), _dimensions(subject, group)
        coordinates = _coordinates(group, dimensions)
        if number(group, "AnnotationGroupNumber") != place:
            yield f"group {place} has number {number(group, 'AnnotationGroupNumber')}"
        if not counted:
            yield f"group {place} has no annotation"
        elif text(group, "GraphicType") in LINES:
            yield from (f"group {place} {fault}" for fault in _index_faults(group, coordinates, counted))
        elif len(coordinates) != counted * POINTS[text(group, "GraphicType")]:
            yield f"group {place} has {len(coordinates)} points for {counted} annotations"


def _index_faults(group: Dataset, coordinates: Floats, counted: int) -> Iterator[str]:
    """Yield what is wrong with the index: the first value of each line among all, from 1 and rising."""
    index = np.frombuffer(group.get("LongPrimitivePointIndexList") or b"", INDEX_TYPE).astype(np.int64)
    if len(index) != counted:
        yield f"has {len(index)} index values for {counted} annotations"
    elif index[0] != 1 or (np.diff(index) <= 0).any() or index[-1] > coordinates.size:
        yield "has an index that does not rise from 1 to within its coordinates"
    elif ((index - 1) % coordinates.shape[1]).any():
        yield "has an index that points between the values of a point"


def _values_counted(subject: Subject) -> Iterator[str]:
    for place, group in _groups(subject):
        for measurement in sequence(group, "MeasurementsSequence"):
            yield from (f"group {place} {fault}" for fault in _value_faults(group, measurement))


def _value_faults(group: Dataset, measurement: Dataset) -> Iterator[str]:
    values = first(measurement, "MeasurementValuesSequence")
    numbers = np.frombuffer(values.get("FloatingPointValues") or b"", "<f4")
    indices = values.get("AnnotationIndexList")
    counted = number(group, "NumberOfAnnotations") if indices is None else len(indices) // 4
    if len(numbers) != counted:
        yield f"has {len(numbers)} values for {counted} annotations"
    if not np.isfinite(numbers).all():
        yield "has values that are no numbers"
    if not code_of(measurement, "MeasurementUnitsCodeSequence").value:
        yield "has values without a unit"


def _annotations_inside(subject: Subject) -> Iterator[str]:
    if text(subject.dataset, "AnnotationCoordinateType") != "2D":
        return
    is_frame = text(subject.dataset, "PixelOriginInterpretation") == "FRAME"
    for _, item in subject.references:
        rows, columns = picture_size(subject.target(item), is_frame=is_frame)
        for place, group in _groups(subject):
            line = _coordinates(group, 2)
            if subject.target(item) and not ((line >= 0) & (line <= [columns, rows])).all():
                yield f"group {place} leaves the image of {rows} rows and {columns} columns"


RULES = (
    Rule("annotations_counted", of(ANNOTATIONS), _annotations_counted),
    Rule("values_counted", of(ANNOTATIONS), _values_counted),
    Rule("annotations_inside", of(ANNOTATIONS), _annotations_inside, needs_sources=True),
)
