"""A mask drawn on sources, and where it is by their headers alone."""

from pathlib import Path

import highdicom as hd
import numpy as np
from pydicom import Dataset, dcmread

from node.domain.findings import Findings
from node.domain.location import Mask, Segment, ValueMap
from tests.located import NODULE, frames_of
from tests.results import ALGORITHM

SEGMENTS = (Segment("Lesion 1", NODULE),)


def findings_on(headers: list[Dataset], *masks: Mask, maps: tuple[ValueMap, ...] = ()) -> Findings:
    return Findings(
        pipeline="chest_ct",
        algorithm=ALGORITHM,
        study_instance_uid=str(headers[0].StudyInstanceUID),
        series_instance_uid=str(headers[0].SeriesInstanceUID),
        sop_instance_uids=tuple(str(header.SOPInstanceUID) for header in headers),
        masks=masks,
        maps=maps,
    )


def headers_of(paths: list[Path]) -> list[Dataset]:
    return [dcmread(path, stop_before_pixels=True, force=True) for path in paths]


def mask_on(headers: list[Dataset], mask: np.ndarray, stride_px: int = 1) -> Mask:
    return Mask(frames_of(headers), SEGMENTS, mask.astype(np.uint8), stride_px=stride_px)


def planes_of(headers: list[Dataset]) -> list[Dataset]:
    """The geometry of each plane as the source's headers state it."""
    if "NumberOfFrames" not in headers[0]:
        return headers
    (header,) = headers
    planes = []
    for groups in header.PerFrameFunctionalGroupsSequence:
        plane = Dataset()
        for group in (*header.SharedFunctionalGroupsSequence[0], *groups):
            plane.update(group.value[0])
        planes.append(plane)
    return planes


def centroid_xyz_mm(headers: list[Dataset], mask: np.ndarray) -> np.ndarray:
    """The center of a mask by the headers of its source alone."""
    points = []
    for header, plane in zip(planes_of(headers), mask, strict=True):
        row, column = np.reshape(header.ImageOrientationPatient, (2, 3)).astype(float)
        down_mm, across_mm = map(float, header.PixelSpacing)
        rows, columns = np.nonzero(plane)
        offsets = rows[:, None] * down_mm * column + columns[:, None] * across_mm * row
        points.append(np.array(header.ImagePositionPatient, float) + offsets)
    return np.concatenate(points).mean(axis=0)


def on_slide(path: Path, mask: np.ndarray, stride_px: int) -> np.ndarray:
    """The center of a mask by the geometry of its level alone, as highdicom reads that."""
    image = hd.imread(path)
    transformer = hd.spatial.ImageToReferenceTransformer.for_image(image, for_total_pixel_matrix=True)
    _, rows, columns = np.nonzero(mask)
    # An element covers the pixels from its number times the stride on; points count from their corners.
    points = np.stack([columns, rows], axis=1) * stride_px + stride_px / 2
    return np.asarray(transformer(points).mean(axis=0))
