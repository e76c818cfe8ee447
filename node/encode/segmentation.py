"""Masks as Segmentation objects: binary, fractional, or as label maps."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from io import BytesIO

import numpy as np
import numpy.typing as npt
from highdicom import AlgorithmIdentificationSequence
from highdicom.color import CIELabColor
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentDescription
from pydicom.dataset import Dataset
from pydicom.uid import UID, SegmentationStorage

from node.domain.profile import Kind, SegmentationType
from node.encode.codes import ABNORMAL_STRUCTURE, ARTIFICIAL_INTELLIGENCE
from node.encode.division import LARGEST, Part, divide, stored
from node.encode.evidence import AnySource
from node.encode.identity import LONG_STRING, Result, coded, plain
from node.encode.multiframe import complete, identity, key_of, number_in
from node.encode.place import find_place

Labels = npt.NDArray[np.unsignedinteger]

SEGMENTATION = Kind.SEGMENTATION
LABEL_MAP_STORAGE = UID("1.2.840.10008.5.1.4.1.1.66.7")
"""Label Map Segmentation Storage, younger than pydicom's dictionary; highdicom writes the same."""

GOLDEN_ANGLE = math.pi * (3 - math.sqrt(5))
"""Turned on by this, no two hues are ever alike."""

LIGHTNESS, CHROMA = (70.0, 55.0, 85.0), 70.0
LONGEST_TEXT = 1024


class _Segmentation(AnySource, Segmentation):
    pass


@dataclass(frozen=True, slots=True)
class SegmentPlace:
    """Where a segment is: the object, and its number there."""

    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    number: int


def locate_segments(result: Result) -> dict[str, SegmentPlace]:
    """Return where each segment is, by its identifier, without encoding any.

    Of one that is divided over several objects it is the part on the picture that its region is outlined on.
    """
    if SEGMENTATION not in result.context.profile.kinds:
        return {}
    outlines = {region.identifier: region.outline for region in result.findings.regions}
    places: dict[str, SegmentPlace] = {}
    for part in divide(result):
        for number, segment in enumerate(part.segments, 1):
            name = part.mask.segments[segment].identifier
            if name not in places or (name in outlines and part.shows(outlines[name], number)):
                places[name] = _place_in(result, part, number)
    return places


def _place_in(result: Result, part: Part, number: int) -> SegmentPlace:
    is_map = result.context.profile.segmentation_type is SegmentationType.LABELMAP
    return SegmentPlace(
        series_instance_uid=result.series_uid(SEGMENTATION),
        sop_class_uid=LABEL_MAP_STORAGE if is_map else SegmentationStorage,
        sop_instance_uid=result.instance_uid(SEGMENTATION, part.number),
        number=number,
    )


def encode_segmentation(result: Result) -> Iterator[Dataset]:
    """Yield an object for each mask that is not empty, or several where it needs more frames than allowed.

    A segment that is empty is left out, so the numbers of the others may be lower than in the mask.
    """
    return (_encode_part(result, part) for part in divide(result))


def _encode_part(result: Result, part: Part) -> Dataset:
    form = result.context.profile.segmentation_type
    is_binary = form is SegmentationType.BINARY
    place = find_place(part.grid, part.grid.shape if is_binary else (1, 1))
    segments = [part.mask.segments[segment] for segment in part.segments]
    dataset = _Segmentation(
        source_images=place.images,
        pixel_array=_label_map(part) if is_binary else _template(part, form),
        segmentation_type=form.upper(),
        segment_descriptions=_descriptions(result, part),
        max_fractional_value=LARGEST,
        plane_positions=place.positions,
        pixel_measures=place.measures,
        omit_empty_frames=part.omits_empty_frames,
        content_label="SEGMENTATION",
        content_description=plain(", ".join(one.identifier for one in segments), LONG_STRING),
        **identity(result, SEGMENTATION, part.number, [one.code for one in segments]),
    )
    if not is_binary:
        _fill(dataset, part)
        _correct(dataset, part)
    _settle_pixels(dataset)
    complete(dataset, result, SEGMENTATION, part.grid, place)
    return dataset


# --- what the segments are


def _descriptions(result: Result, part: Part) -> list[SegmentDescription]:
    device = result.device
    algorithm = AlgorithmIdentificationSequence(
        name=device.name,
        family=ARTIFICIAL_INTELLIGENCE,
        version=device.version,
        source=device.manufacturer,
    )
    if parameters := result.findings.algorithm.parameters:
        algorithm[0].AlgorithmParameters = plain(", ".join(parameters), LONGEST_TEXT)
    names = [segment.identifier for mask in result.findings.masks for segment in mask.segments]
    return [
        SegmentDescription(
            segment_number=number,
            segment_label=plain(segment.identifier, LONG_STRING),
            segmented_property_category=ABNORMAL_STRUCTURE,
            segmented_property_type=coded(segment.code),
            algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
            tracking_uid=result.tracking_uid(segment.identifier),
            tracking_id=plain(segment.identifier, LONG_STRING),
            display_color=_color(names.index(segment.identifier)),
        )
        for number, segment in enumerate((part.mask.segments[index] for index in part.segments), 1)
    ]


def _color(index: int) -> CIELabColor:
    """Return the color of the n-th segment of a result, the same in each form of it."""
    angle = index * GOLDEN_ANGLE
    a, b = CHROMA * math.cos(angle), CHROMA * math.sin(angle)
    return CIELabColor(LIGHTNESS[index % len(LIGHTNESS)], a, b)


# --- what their pixels are


def _label_map(part: Part) -> Labels:
    """Return the frames with the numbers that the segments have in the object, (frames, rows, columns)."""
    labels, grid = part.mask.labels, part.grid
    is_written = part.peaks.any(axis=1)
    is_whole = not grid.is_slide and len(grid.cuts) == len(labels)
    if is_whole and len(part.segments) == len(part.mask.segments) and not labels[~is_written].any():
        return labels
    numbers = _numbers(part)
    frames = np.zeros((len(grid.cuts), *grid.shape), labels.dtype)
    for index in np.flatnonzero(is_written).tolist():
        frames[index] = numbers[grid.frame(labels, index)]
    return frames


def _numbers(part: Part) -> Labels:
    """Return the number in the object by the label in the mask."""
    numbers = np.zeros(len(part.mask.segments) + 1, part.mask.labels.dtype)
    numbers[np.array(part.segments) + 1] = range(1, len(part.segments) + 1)
    return numbers


def _template(part: Part, form: SegmentationType) -> npt.NDArray[np.generic]:
    """Return the frames as single pixels: highdicom describes them as it would whole ones, in no time."""
    if form is SegmentationType.LABELMAP:
        return np.asarray(part.peaks.max(axis=1) > 0, np.uint8)[:, None, None]
    return part.peaks[:, None, None, :]


def _fill(dataset: Dataset, part: Part) -> None:
    """Replace the pixels of the template by the whole frames, one by one: nothing is held twice."""
    index_by_key = {key: index for index, key in enumerate(part.grid.keys)}
    pixels = BytesIO()
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        pixels.write(_pixels(dataset, part, index_by_key[key_of(frame)], number_in(frame)).tobytes())
    dataset.Rows, dataset.Columns = part.grid.shape
    dataset.PixelData = pixels.getvalue()


def _pixels(dataset: Dataset, part: Part, index: int, number: int) -> Labels:
    """Return one frame of one segment; of a label map, of all."""
    frame = partial(part.grid.frame, index=index)
    if dataset.SegmentationType == "LABELMAP":
        return np.asarray(_numbers(part)[frame(part.mask.labels)], f"<u{dataset.BitsAllocated // 8}")
    segment = part.segments[number - 1]
    if part.mask.probability is None:
        return np.where(frame(part.mask.labels) == segment + 1, np.uint8(LARGEST), np.uint8(0))
    if part.mask.shares_probability:
        own = frame(part.mask.labels) == segment + 1
        return np.where(own, stored(frame(part.mask.probability[0])), np.uint8(0))
    return stored(frame(part.mask.probability[segment]))


def _correct(dataset: Dataset, part: Part) -> None:
    """Say of the segments what highdicom does not know of the template, or says to the viewers' confusion."""
    if (
        part.mask.probability is None
        or part.mask.shares_probability
        or dataset.SegmentationType == "LABELMAP"
    ):
        dataset.SegmentsOverlap = "NO"
    # The background as a segment of its own makes viewers give every segment the color of the one before.
    dataset.SegmentSequence = [item for item in dataset.SegmentSequence if item.SegmentNumber > 0]


def _settle_pixels(dataset: Dataset) -> None:
    """Settle how the pixels are written: the value representation, and the byte that makes them even."""
    bits = dataset.NumberOfFrames * dataset.Rows * dataset.Columns * dataset.BitsAllocated
    size = (bits + 7) // 8
    if size % 2:
        # highdicom adds the character "0".
        dataset.PixelData = dataset.PixelData[:size] + b"\0"
    if "PixelPaddingValue" in dataset:
        dataset["PixelPaddingValue"].VR = "US"
    dataset["PixelData"].VR = "OB" if dataset.BitsAllocated <= 8 else "OW"
