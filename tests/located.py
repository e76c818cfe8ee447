"""Findings with places, for a source of any shape: regions, masks, a map, and marks on a slide."""

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.uid import VLWholeSlideMicroscopyImageStorage

from node.domain.code import ATTENTION_WEIGHT, PREDICTIVE_ENTROPY, Code
from node.domain.findings import Findings, Measurement, Presence, Region
from node.domain.location import Frame, Marks, Mask, Outline, Segment, Shape, ValueMap
from tests.results import ALGORITHM, score
from tests.sources import Written

NODULE = Code("27925004", "SCT", "Nodule")
LUNG = Code("39607008", "SCT", "Lung")
RIGHT = Code("24028007", "SCT", "Right")
BIT = Code("bit", "UCUM", "bit")
NO_UNITS = Code("1", "UCUM", "no units")
VOLUME, CUBIC_MM = Code("118565006", "SCT", "Volume"), Code("mm3", "UCUM", "cubic millimeter")
LONG_AXIS, MM = Code("103339001", "SCT", "Long Axis"), Code("mm", "UCUM", "millimeter")
ATTENUATION = Code("112031", "DCM", "Attenuation Coefficient")
HOUNSFIELD = Code("[hnsf'U]", "UCUM", "Hounsfield unit")

MEASURED = (
    Measurement(VOLUME, 512.5, CUBIC_MM, (470.0, 560.25)),
    Measurement(LONG_AXIS, 11.25, MM),
    Measurement(ATTENUATION, 35.5, HOUNSFIELD, (30.0, 41.0)),
)
TILE_PX = 16


def located_findings(written: Written) -> Findings:
    """Two regions with their segments, probabilities, a map, and on a slide some marks, on what was written.

    The first segment is the true shape, the second lies beside it.
    """
    headers = [dcmread(path, stop_before_pixels=True) for path in written.paths]
    is_slide = headers[0].SOPClassUID == VLWholeSlideMicroscopyImageStorage
    frames = frames_of(headers[:1] if is_slide else headers)
    labels = two_labels(written.mask)
    segments = (Segment("Lesion 1", NODULE), Segment("Lesion 2", NODULE))
    value_map = ValueMap("Entropy", PREDICTIVE_ENTROPY, BIT, frames, entropy_of(labels))
    return Findings(
        pipeline="chest_ct",
        algorithm=ALGORITHM,
        study_instance_uid=str(headers[0].StudyInstanceUID),
        series_instance_uid=str(headers[0].SeriesInstanceUID),
        sop_instance_uids=tuple(str(header.SOPInstanceUID) for header in headers),
        scores=(score(NODULE, 0.87, (0.78, 0.93), Presence.PRESENT),),
        regions=regions_on(frames, labels, is_slide=is_slide),
        masks=(Mask(frames, segments, labels, probability_of(labels)),),
        maps=(value_map,),
        marks=(marks_on(frames[0], labels.shape[1:]),) if is_slide else (),
    )


def frames_of(headers: list[Dataset]) -> tuple[Frame, ...]:
    """Every picture of these sources, in order; a level of a slide is one."""
    return tuple(
        Frame(str(header.SOPInstanceUID), number) for header in headers for number in numbers_of(header)
    )


def numbers_of(header: Dataset) -> list[int] | list[None]:
    if "NumberOfFrames" not in header or "TotalPixelMatrixRows" in header:
        return [None]
    return list(range(1, int(header.NumberOfFrames) + 1))


def two_labels(mask: np.ndarray) -> np.ndarray:
    """The true shape as 1, and as 2 what a shift along the columns adds to it."""
    shifted = np.roll(mask, max(2, mask.shape[2] // 8), axis=2)
    return np.where(mask, 1, np.where(shifted, 2, 0)).astype(np.uint8)


def probability_of(labels: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(7).uniform(0, 0.4, (2, *labels.shape)).astype(np.float32)
    inside = np.stack([labels == 1, labels == 2])
    return np.where(inside, np.float32(1) - noise, np.where(noise < 0.2, 0, noise)).astype(np.float32)


def entropy_of(labels: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(8).uniform(0, 0.1, labels.shape).astype(np.float32)
    return np.where(labels > 0, np.float32(0.9), noise).astype(np.float32)


def regions_on(frames: tuple[Frame, ...], labels: np.ndarray, *, is_slide: bool) -> tuple[Region, ...]:
    """A box for each label, on the picture where it is largest; on a slide they carry attention, no score."""
    certain = score(NODULE, 0.91, (0.85, 0.95), Presence.PRESENT)
    doubtful = score(NODULE, 0.58, (0.42, 0.7), Presence.ABSENT, Presence.PRESENT)
    weight = Measurement(ATTENTION_WEIGHT, 0.125, NO_UNITS)
    return tuple(
        Region(
            identifier=f"Lesion {label}",
            code=NODULE,
            outline=box_around(frames, labels == label),
            score=None if is_slide else one,
            site=LUNG,
            laterality=None if is_slide else RIGHT,
            measurements=(weight,) if is_slide else MEASURED,
        )
        for label, one in ((1, certain), (2, doubtful))
    )


def box_around(frames: tuple[Frame, ...], mask: np.ndarray) -> Outline:
    plane = int(mask.sum(axis=(1, 2)).argmax())
    rows, columns = np.nonzero(mask[plane])
    left_top = (float(columns.min()), float(rows.min()))
    return Outline.box(frames[plane], left_top, (float(columns.max()) + 1, float(rows.max()) + 1))


def marks_on(frame: Frame, shape: tuple[int, int]) -> Marks:
    """A grid of tiles with a weight each."""
    corners = [
        (x, y) for y in range(0, shape[0] - TILE_PX + 1, 64) for x in range(0, shape[1] - TILE_PX + 1, 64)
    ]
    tile = np.array([(0, 0), (TILE_PX, 0), (TILE_PX, TILE_PX), (0, TILE_PX)], np.float32)
    points = tuple(np.array(corner, np.float32) + tile for corner in corners)
    values = np.linspace(0, 1, len(points), dtype=np.float32)
    return Marks("Attended tiles", NODULE, frame, Shape.RECTANGLE, points, ATTENTION_WEIGHT, NO_UNITS, values)
