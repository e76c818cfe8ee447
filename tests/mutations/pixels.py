"""What lies over pictures: segmentations, maps, captures, markings and selections."""

from copy import deepcopy

from pydicom import Dataset

from tests.mutations.ways import (
    PER_FRAME,
    SHARED,
    Mutation,
    Row,
    assign,
    blank,
    change,
    cut,
    exchange,
    exchange_frames,
    find_type,
    inside,
    poke,
    recode,
    remove,
    shift_frames,
    shift_points,
)
from tests.runs import CAPTURE, KEYS, MAP, MARKS, SEGMENTATION, STATE, Run

MEASUREMENTS = "AnnotationGroupSequence/MeasurementsSequence"
VALUES = f"{MEASUREMENTS}/MeasurementValuesSequence"
MAPPING = f"{SHARED}/RealWorldValueMappingSequence"
TILE = f"{PER_FRAME}/PlanePositionSlideSequence"


def double_frame(dataset: Dataset) -> None:
    """Say of the second frame that it lies where the first does, and is of the same image."""
    one, other = dataset.PerFrameFunctionalGroupsSequence[:2]
    for keyword in ("PlanePositionSequence", "DerivationImageSequence"):
        other[keyword].value = deepcopy(one[keyword].value)


def flip(dataset: Dataset) -> None:
    orientation = dataset.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    x, y, z, *column = orientation.ImageOrientationPatient
    orientation.ImageOrientationPatient = [-x, -y, -z, *column]


def describe_segment(dataset: Dataset) -> None:
    """Describe a segment that has no frame."""
    further = deepcopy(dataset.SegmentSequence[-1])
    further.SegmentNumber += 1
    dataset.SegmentSequence = [*dataset.SegmentSequence, further]


def forget_segment(dataset: Dataset) -> None:
    dataset.SegmentSequence = dataset.SegmentSequence[:-1]


def blacken(dataset: Dataset) -> None:
    caption = dataset.PixelData[-dataset.Columns * 300 :]
    dataset.PixelData = bytes(len(dataset.PixelData) - len(caption)) + caption


def draw_nothing(dataset: Dataset) -> None:
    for annotation in dataset.GraphicAnnotationSequence:
        for keyword in ("TextObjectSequence", "GraphicObjectSequence"):
            annotation.pop(keyword, None)


def drawn(then: Mutation) -> Mutation:
    """Spoil the first line that is drawn."""

    def spoil(dataset: Dataset, run: Run) -> None:
        found = (one for one in dataset.GraphicAnnotationSequence if "GraphicObjectSequence" in one)
        then(next(found).GraphicObjectSequence[0], run)

    return spoil


def select_nothing(dataset: Dataset) -> None:
    dataset.ContentSequence = [one for one in dataset.ContentSequence if one.ValueType != "IMAGE"]


def name_image(dataset: Dataset) -> None:
    find_type(dataset, "IMAGE").ConceptNameCodeSequence = deepcopy(dataset.ConceptNameCodeSequence)


# --- the rule, the source, the object, and what is done to it


ROWS: list[Row] = [
    ("same_frame_of_reference", "ct", SEGMENTATION, "another", assign("FrameOfReferenceUID", "1.2.3")),
    ("same_frame_of_reference", "slide", MAP, "another", assign("FrameOfReferenceUID", "1.2.3")),
    ("same_frame_of_reference", "enhanced", SEGMENTATION, "none", remove("FrameOfReferenceUID")),
    ("frames_on_sources", "ct", SEGMENTATION, "shifted origin", change(shift_frames(0.2))),
    ("frames_on_sources", "enhanced", MAP, "shifted origin", change(shift_frames(0, -0.2))),
    ("frames_on_sources", "ct fractional", SEGMENTATION, "shifted origin", change(shift_frames(0.7))),
    (
        "frames_on_sources",
        "ct",
        SEGMENTATION,
        "wrong spacing",
        inside(f"{SHARED}/PixelMeasuresSequence", assign("PixelSpacing", [0.7, 0.7])),
    ),
    ("frames_on_sources", "ct", MAP, "flipped", change(flip)),
    (
        "frames_on_sources",
        "ct labelmap",
        SEGMENTATION,
        "exchanged places",
        change(exchange("PlanePositionSequence")),
    ),
    (
        "frames_on_sources",
        "enhanced",
        SEGMENTATION,
        "exchanged sources",
        change(exchange("DerivationImageSequence")),
    ),
    ("frames_on_sources", "dx", SEGMENTATION, "other rows", assign("Rows", 128)),
    (
        "matrix_on_source",
        "slide",
        SEGMENTATION,
        "shifted",
        inside("TotalPixelMatrixOriginSequence", assign("XOffsetInSlideCoordinateSystem", "20.0095")),
    ),
    (
        "matrix_on_source",
        "slide",
        MAP,
        "wrong spacing",
        inside(f"{SHARED}/PixelMeasuresSequence", assign("PixelSpacing", [0.002, 0.002])),
    ),
    ("matrix_on_source", "slide", SEGMENTATION, "too small", assign("TotalPixelMatrixRows", 511)),
    ("frames_have_sources", "ct", SEGMENTATION, "none", inside(PER_FRAME, remove("DerivationImageSequence"))),
    ("frames_have_sources", "slide", MAP, "none", remove("SourceImageSequence")),
    ("frames_counted", "ct", SEGMENTATION, "fewer", assign("NumberOfFrames", 3)),
    ("frames_counted", "ct", MAP, "fewer", assign("NumberOfFrames", 11)),
    ("frames_in_order", "ct", SEGMENTATION, "exchanged", change(exchange_frames)),
    ("frames_in_order", "slide", SEGMENTATION, "exchanged", change(exchange_frames)),
    ("frames_distinct", "ct", SEGMENTATION, "twice", change(double_frame)),
    (
        "tiles_in_matrix",
        "slide",
        SEGMENTATION,
        "outside",
        inside(TILE, assign("ColumnPositionInTotalImagePixelMatrix", 769)),
    ),
    (
        "tiles_in_matrix",
        "slide",
        MAP,
        "elsewhere",
        inside(TILE, assign("YOffsetInSlideCoordinateSystem", "39.0")),
    ),
    ("pixels_complete", "ct", SEGMENTATION, "cut off", change(cut("PixelData", 2))),
    ("pixels_complete", "ct", MAP, "cut off", change(cut("FloatPixelData", 4))),
    ("segmentation_type", "ct", SEGMENTATION, "another", assign("SegmentationType", "FRACTIONAL")),
    ("segmentation_type", "ct labelmap", SEGMENTATION, "another", assign("SegmentationType", "BINARY")),
    (
        "segments_described",
        "ct",
        SEGMENTATION,
        "misnumbered",
        inside("SegmentSequence.1", assign("SegmentNumber", 5)),
    ),
    (
        "segments_described",
        "dx",
        SEGMENTATION,
        "unknown",
        inside(f"{PER_FRAME}/SegmentIdentificationSequence", assign("ReferencedSegmentNumber", 7)),
    ),
    ("segments_described", "enhanced", SEGMENTATION, "one less", change(forget_segment)),
    ("segments_described", "ct labelmap", SEGMENTATION, "one less", change(forget_segment)),
    ("segments_not_empty", "ct", SEGMENTATION, "empty frames", change(blank)),
    ("segments_not_empty", "ct fractional", SEGMENTATION, "empty frames", change(blank)),
    ("segments_not_empty", "ct labelmap", SEGMENTATION, "empty frames", change(blank)),
    ("segments_not_empty", "slide", SEGMENTATION, "no frames", change(describe_segment)),
    ("fractions_in_range", "ct fractional", SEGMENTATION, "too large", assign("MaximumFractionalValue", 100)),
    ("fractions_in_range", "ct fractional", SEGMENTATION, "of what", remove("SegmentationFractionalType")),
    ("values_mapped", "ct", MAP, "not mapped", inside(SHARED, remove("RealWorldValueMappingSequence"))),
    ("values_mapped", "slide", MAP, "all alike", inside(MAPPING, assign("RealWorldValueSlope", 0.0))),
    ("values_mapped", "enhanced", MAP, "of what", inside(MAPPING, remove("QuantityDefinitionSequence"))),
    ("values_finite", "ct", MAP, "no number", change(poke("FloatPixelData", "<f", float("nan")))),
    ("marked_picture", "dx", CAPTURE, "not declared", assign("BurnedInAnnotation", "NO")),
    ("marked_picture", "ct", CAPTURE, "original", assign("ImageType", ["ORIGINAL", "PRIMARY"])),
    ("source_image_named", "slide", CAPTURE, "no source", remove("SourceImageSequence")),
    ("visible_picture", "dx", CAPTURE, "blank above the caption", change(blacken)),
    ("visible_picture", "ct", CAPTURE, "cut off", change(cut("PixelData", 1000))),
    (
        "layers_declared",
        "ct",
        STATE,
        "undeclared",
        inside("GraphicLayerSequence.1", assign("GraphicLayer", "OTHER")),
    ),
    (
        "layers_declared",
        "slide",
        STATE,
        "twice",
        inside("GraphicLayerSequence.1", assign("GraphicLayer", "AI_NOTICE")),
    ),
    ("draws_something", "ct", STATE, "nothing", change(draw_nothing)),
    ("graphics_inside", "ct", STATE, "outside", drawn(change(shift_points(50)))),
    ("graphics_inside", "slide", STATE, "outside", drawn(change(shift_points(-500)))),
    (
        "displayed_areas",
        "ct",
        STATE,
        "empty",
        inside("DisplayedAreaSelectionSequence", assign("DisplayedAreaBottomRightHandCorner", [0, 0])),
    ),
    (
        "key_object_selection",
        "ct",
        KEYS,
        "title",
        inside("ConceptNameCodeSequence", change(recode("121071", "Finding"))),
    ),
    ("key_object_selection", "dx", KEYS, "named image", change(name_image)),
    ("key_object_selection", "slide", KEYS, "no image", change(select_nothing)),
    (
        "annotations_counted",
        "slide",
        MARKS,
        "one more",
        inside("AnnotationGroupSequence", assign("NumberOfAnnotations", 97)),
    ),
    (
        "annotations_counted",
        "slide",
        MARKS,
        "cut off",
        inside("AnnotationGroupSequence", change(cut("PointCoordinatesData", 8))),
    ),
    (
        "annotations_counted",
        "slide polygons",
        MARKS,
        "index",
        inside("AnnotationGroupSequence", change(poke("LongPrimitivePointIndexList", "<I", 3))),
    ),
    ("values_counted", "slide", MARKS, "one less", inside(VALUES, change(cut("FloatingPointValues", 4)))),
    (
        "values_counted",
        "slide",
        MARKS,
        "no number",
        inside(VALUES, change(poke("FloatingPointValues", "<f", float("nan")))),
    ),
    (
        "annotations_inside",
        "slide",
        MARKS,
        "outside",
        inside("AnnotationGroupSequence", change(poke("PointCoordinatesData", "<f", -1))),
    ),
]
