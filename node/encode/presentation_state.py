"""The regions as a presentation state: lines and words that a PACS lays over the images themselves."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from highdicom.pr import ColorSoftcopyPresentationState, GrayscaleSoftcopyPresentationState
from pydicom.dataset import Dataset

from node.domain.location import Frame
from node.domain.profile import Kind
from node.encode import shades
from node.encode.evidence import AnySource, evidence
from node.encode.graphics import Plate, annotations, graphic_layer, used_layers
from node.encode.identity import LONG_STRING, Result, plain, stamp
from node.encode.markings import Marking, markings
from node.encode.multiframe import identity
from node.encode.source import Source
from node.encode.summary import WARNING

SIZE = """
    Rows Columns NumberOfFrames SamplesPerPixel TotalPixelMatrixRows TotalPixelMatrixColumns
"""


class _Grayscale(AnySource, GrayscaleSoftcopyPresentationState):
    pass


class _Color(AnySource, ColorSoftcopyPresentationState):
    pass


def encode_presentation_state(result: Result) -> Iterator[Dataset]:
    """Yield a presentation state for each set of marked pictures that are shown alike; none without marks.

    It is one of color for pictures in color. Frames of one image, and a level of a slide, have their own:
    points on a level count pixels of its total pixel matrix.
    """
    plates_by_likeness: dict[tuple[object, ...], list[Plate]] = defaultdict(list)
    for plate in _plates(result):
        plates_by_likeness[_likeness(plate)].append(plate)
    for number, plates in enumerate(plates_by_likeness.values(), 1):
        yield _encode(result, plates, number)


def _plates(result: Result) -> Iterator[Plate]:
    source_by_uid = {one.sop_instance_uid: one for one in result.pictures}
    marks_by_frame: dict[Frame, list[Marking]] = defaultdict(list)
    for marking in markings(result.findings):
        marks_by_frame[marking.region.outline.frame].append(marking)
    for frame, marks in marks_by_frame.items():
        if source := source_by_uid.get(frame.sop_instance_uid):
            shown = shades.shades_of(source, frame.frame_number, result.findings.window)
            yield Plate(source, frame, shown, tuple(marks))


def _likeness(plate: Plate) -> tuple[object, ...]:
    """Return what pictures must share to be in one presentation state, which shows all in one way."""
    stands_alone = plate.is_tiled or plate.frame_number is not None
    return (
        plate.source.sop_instance_uid if stands_alone else "",
        *(plate.source.number(keyword) for keyword in ("Rows", "Columns", "SamplesPerPixel")),
        shades.modality_transform(plate.shades).to_json(),
        shades.polarity(plate.shades),
        shades.pixel_shape(plate.shades).to_json(),
    )


def _encode(result: Result, plates: Sequence[Plate], number: int) -> Dataset:
    is_color = plates[0].source.number("SamplesPerPixel") == 3
    images = {plate.source.sop_instance_uid: _image(plate.source) for plate in plates}
    layers = {layer: graphic_layer(layer, order) for order, layer in enumerate(used_layers(plates), 1)}
    content: dict[str, Any] = {
        "referenced_images": list(images.values()),
        "content_label": "AI_MARKINGS",
        "content_description": plain(WARNING, LONG_STRING),
        "graphic_layers": list(layers.values()),
        "graphic_annotations": [
            annotation
            for plate in plates
            for annotation in annotations(result, plate, images[plate.source.sop_instance_uid], layers)
        ],
        **identity(result, Kind.PRESENTATION_STATE, number, ()),
    }
    if is_color:
        state: Dataset = _Color(icc_profile=shades.color_profile(plates[0].shades), **content)
    else:
        state = _Grayscale(**content)
    stamp(state, result, Kind.PRESENTATION_STATE)
    _describe(state, plates)
    return state


def _image(source: Source) -> Dataset:
    """Return what highdicom needs to know of a marked image; how it is shown is told by `_describe`."""
    image = evidence(source)
    source.copy_decoded(image, SIZE.split())
    image.SharedFunctionalGroupsSequence, image.PerFrameFunctionalGroupsSequence = [Dataset()], []
    return image


def _describe(state: Dataset, plates: Sequence[Plate]) -> None:
    """Say when it was made, how the pictures are shown, and which of their frames are meant."""
    first = plates[0]
    for event in ("Date", "Time"):
        # The same moment has another name in this class.
        state[f"PresentationCreation{event}"].value = state.pop(f"Content{event}").value
    first.source.copy_body_part(state)
    area = state.DisplayedAreaSelectionSequence[0]
    del area.PresentationPixelAspectRatio
    area.update(shades.pixel_shape(first.shades))
    if not first.is_tiled:
        del area.PixelOriginInterpretation
    if "PresentationLUTShape" in state:
        state.update(shades.modality_transform(first.shades))
        state.PresentationLUTShape = shades.polarity(first.shades)
        if items := _voi_items(plates):
            state.SoftcopyVOILUTSequence = items
    numbers = [plate.frame_number for plate in plates if plate.frame_number is not None]
    if numbers:
        (item,) = state.ReferencedSeriesSequence[0].ReferencedImageSequence
        item.ReferencedFrameNumber = numbers


def _voi_items(plates: Sequence[Plate]) -> list[Dataset]:
    """Return each window or table once, with the pictures it is for."""
    item_by_content: dict[str, Dataset] = {}
    for plate in plates:
        transform = shades.voi_transform(plate.shades)
        if transform:
            item = item_by_content.setdefault(transform.to_json(), transform)
            item.ReferencedImageSequence = [*item.get("ReferencedImageSequence", ()), _reference(plate)]
    return list(item_by_content.values())


def _reference(plate: Plate) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID = plate.source.sop_class_uid
    reference.ReferencedSOPInstanceUID = plate.source.sop_instance_uid
    if plate.frame_number is not None:
        reference.ReferencedFrameNumber = plate.frame_number
    return reference
