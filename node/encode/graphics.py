"""The marks of one picture as graphics: lines and words in layers, each of one meaning and color."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from highdicom.color import CIELabColor
from highdicom.pr import (
    AnnotationUnitsValues,
    GraphicAnnotation,
    GraphicLayer,
    GraphicObject,
    GraphicTypeValues,
    TextObject,
)
from highdicom.pr.enum import TextJustificationValues
from pydicom.dataset import Dataset

from node.domain.location import Frame
from node.encode.identity import LONG_STRING, Result, plain
from node.encode.markings import PRESENT, REVIEW, Color, Marking
from node.encode.source import Source
from node.encode.summary import WARNING

NOTICE_BOX = (0.01, 0.95, 0.99, 0.99)
"""Where the warning stands, in parts of the displayed area: left, top, right, bottom."""

LONGEST_LINE = 8000
"""Points in one line: a value of this type has at most 64 KiB (PS3.5 7.1.2)."""

WHITEST = 0xFFFF


@dataclass(frozen=True, slots=True)
class Layer:
    """Marks of one meaning: their color, and how bright they are on a gray display (0–1)."""

    name: str
    description: str
    color: Color
    brightness: float


NOTICE = Layer("AI_NOTICE", WARNING, REVIEW, 0.6)
NEEDS_REVIEW = Layer("AI_REVIEW", "Uncertain findings of an algorithm - need review", REVIEW, 0.8)
FINDINGS = Layer("AI_FINDINGS", "Findings of an algorithm - unverified", PRESENT, 1)
LAYERS = (NOTICE, NEEDS_REVIEW, FINDINGS)
"""The later ones are drawn over the earlier."""


@dataclass(frozen=True, slots=True, eq=False)
class Plate:
    """One picture, the marks on it, and what `shades_of` tells of it."""

    source: Source
    frame: Frame
    shades: Dataset
    marks: tuple[Marking, ...]

    @property
    def is_tiled(self) -> bool:
        """Is it a level of a slide?"""
        return self.source.number("TotalPixelMatrixRows") > 0 and self.frame.frame_number is None

    @property
    def frame_number(self) -> int | None:
        """The frame that is meant; None where the image is one picture."""
        return self.frame.frame_number if "NumberOfFrames" in self.source.header else None


def used_layers(plates: Sequence[Plate]) -> list[Layer]:
    """Return the layers that these pictures need, in the order of drawing."""
    marked = {_layer_of(marking) for plate in plates for marking in plate.marks}
    return [layer for layer in LAYERS if layer is NOTICE or layer in marked]


def _layer_of(marking: Marking) -> Layer:
    return NEEDS_REVIEW if marking.is_doubtful else FINDINGS


def graphic_layer(layer: Layer, order: int) -> GraphicLayer:
    """Return a layer with its color, for displays of color and of gray."""
    item = GraphicLayer(
        layer_name=layer.name,
        order=order,
        description=plain(layer.description, LONG_STRING),
        display_color=CIELabColor.from_rgb(*layer.color),
    )
    item.GraphicLayerRecommendedDisplayGrayscaleValue = round(layer.brightness * WHITEST)
    return item


def annotations(
    result: Result, plate: Plate, image: Dataset, layers: Mapping[Layer, GraphicLayer]
) -> Iterator[GraphicAnnotation]:
    """Yield the graphics of one picture in each layer: outlines with their words, and the warning."""
    anchors = _anchors(plate)
    for layer, item in layers.items():
        marks = [marking for marking in plate.marks if _layer_of(marking) is layer]
        words = [_words(result, plate, marking, anchors[marking.number]) for marking in marks]
        if layer is NOTICE:
            words = [_notice()]
        if words:
            yield GraphicAnnotation(
                referenced_images=[image],
                referenced_frame_number=plate.frame_number,
                graphic_layer=item,
                graphic_objects=[_line(result, plate, marking) for marking in marks],
                text_objects=words,
            )


def _line(result: Result, plate: Plate, marking: Marking) -> GraphicObject:
    points = _inside(plate, marking)
    return GraphicObject(
        graphic_type=GraphicTypeValues.POLYLINE,
        graphic_data=np.vstack([points, points[:1]]),
        units=_units(plate),
        tracking_id=plain(marking.region.identifier, LONG_STRING),
        tracking_uid=result.tracking_uid(marking.region.identifier),
    )


def _words(result: Result, plate: Plate, marking: Marking, anchor_xy: tuple[float, float]) -> TextObject:
    """Return what the region is, and how sure that is."""
    lines = (plain(line, LONG_STRING) for line in (marking.title, *marking.figures[:1]))
    return TextObject(
        text_value="\r\n".join(lines),
        units=_units(plate),
        anchor_point=anchor_xy,
        anchor_point_visible=False,
        tracking_id=plain(marking.region.identifier, LONG_STRING),
        tracking_uid=result.tracking_uid(marking.region.identifier),
    )


def _anchors(plate: Plate) -> dict[int, tuple[float, float]]:
    """Return for each marking the corner, at best the lower left, that is farthest from all other words."""
    anchors: dict[int, tuple[float, float]] = {}
    for marking in plate.marks:
        points = _inside(plate, marking)
        (left, top), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
        corners = [(left, bottom), (left, top), (right, bottom), (right, top)]
        distances = [
            min((math.dist(corner, one) for one in anchors.values()), default=0.0) for corner in corners
        ]
        anchors[marking.number] = corners[distances.index(max(distances))]
    return anchors


def _notice() -> TextObject:
    return TextObject(
        text_value=plain(WARNING, LONG_STRING),
        units=AnnotationUnitsValues.DISPLAY,
        bounding_box=NOTICE_BOX,
        text_justification=TextJustificationValues.LEFT,
    )


def _units(plate: Plate) -> AnnotationUnitsValues:
    return AnnotationUnitsValues.MATRIX if plate.is_tiled else AnnotationUnitsValues.PIXEL


def _inside(plate: Plate, marking: Marking) -> npt.NDArray[np.float32]:
    """Return the outline, moved where it leaves the picture: no point may lie there (PS3.3 C.10.5.1.2)."""
    prefix = "TotalPixelMatrix" if plate.is_tiled else ""
    limits = [plate.source.number(f"{prefix}{side}") for side in ("Columns", "Rows")]
    points = marking.region.outline.points_xy
    points = points[:: -(-len(points) // LONGEST_LINE)]
    return np.clip(points, 0, np.array(limits, np.float32))
