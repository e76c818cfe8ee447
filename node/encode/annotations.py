"""The marks on a slide as Microscopy Bulk Simple Annotations: many points or tiles, each with its value."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from highdicom import AlgorithmIdentificationSequence
from highdicom.ann import (
    AnnotationCoordinateTypeValues,
    AnnotationGroup,
    AnnotationGroupGenerationTypeValues,
    GraphicTypeValues,
    Measurements,
    MicroscopyBulkSimpleAnnotations,
    PixelOriginInterpretationValues,
)
from highdicom.color import CIELabColor
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from node.domain.code import Code
from node.domain.location import Marks, Shape
from node.domain.profile import Kind
from node.encode.codes import ARTIFICIAL_INTELLIGENCE
from node.encode.evidence import AnySource, evidence
from node.encode.identity import LONG_STRING, Result, coded, plain, stamp
from node.encode.markings import PRESENT
from node.encode.multiframe import identity
from node.encode.source import Source
from node.encode.summary import WARNING

CATEGORY = codes.cid7150.MorphologicallyAbnormalStructure

GRAPHIC_TYPES: Mapping[Shape, GraphicTypeValues] = {
    Shape.POINT: GraphicTypeValues.POINT,
    Shape.RECTANGLE: GraphicTypeValues.RECTANGLE,
    Shape.POLYGON: GraphicTypeValues.POLYGON,
}


class _Annotations(AnySource, MicroscopyBulkSimpleAnnotations):
    pass


def encode_annotations(result: Result) -> Iterator[Dataset]:
    """Yield one object for each level of a slide that is marked; nothing for other images.

    Points count pixels of the level's total pixel matrix, as they came; none of a foreign image are kept.
    """
    source_by_uid = {one.sop_instance_uid: one for one in result.pictures}
    marks_by_uid: dict[str, list[Marks]] = defaultdict(list)
    for marks in () if result.findings.is_foreign else result.findings.marks:
        source = source_by_uid.get(marks.frame.sop_instance_uid)
        if source and source.number("TotalPixelMatrixRows") and marks.frame.frame_number is None:
            marks_by_uid[source.sop_instance_uid].append(marks)
    for number, (uid, groups) in enumerate(marks_by_uid.items(), 1):
        yield _encode(result, source_by_uid[uid], groups, number)


def _encode(result: Result, source: Source, groups: Sequence[Marks], number: int) -> Dataset:
    image = evidence(source)
    # Only compared with that of other images, of which there are none.
    image.FrameOfReferenceUID = source.text("FrameOfReferenceUID")
    annotations = _Annotations(
        source_images=[image],
        annotation_coordinate_type=AnnotationCoordinateTypeValues.SCOORD,
        pixel_origin_interpretation=PixelOriginInterpretationValues.VOLUME,
        annotation_groups=[_group(result, marks, index) for index, marks in enumerate(groups, 1)],
        content_label="AI_MARKS",
        content_description=plain(WARNING, LONG_STRING),
        **identity(result, Kind.ANNOTATIONS, number, _codes(groups)),
    )
    stamp(annotations, result, Kind.ANNOTATIONS)
    source.copy_body_part(annotations)
    return annotations


def _codes(groups: Sequence[Marks]) -> Iterator[Code]:
    return (code for marks in groups for code in (marks.code, marks.quantity, marks.unit) if code)


def _group(result: Result, marks: Marks, number: int) -> AnnotationGroup:
    return AnnotationGroup(
        number=number,
        uid=result.uid("marks", marks.identifier),
        label=plain(marks.identifier, LONG_STRING),
        annotated_property_category=CATEGORY,
        annotated_property_type=coded(marks.code),
        graphic_type=GRAPHIC_TYPES[marks.shape],
        graphic_data=marks.points_xy,
        algorithm_type=AnnotationGroupGenerationTypeValues.AUTOMATIC,
        algorithm_identification=AlgorithmIdentificationSequence(
            name=result.device.name,
            family=ARTIFICIAL_INTELLIGENCE,
            version=result.device.version,
            source=result.device.manufacturer,
        ),
        measurements=_measurements(marks),
        display_color=CIELabColor.from_rgb(*PRESENT),
    )


def _measurements(marks: Marks) -> list[Measurements] | None:
    if marks.values is None or marks.quantity is None or marks.unit is None:
        return None
    return [Measurements(coded(marks.quantity), marks.values, coded(marks.unit))]
