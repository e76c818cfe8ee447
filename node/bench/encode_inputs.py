"""What the benchmark encodes: the headers of a CT series, and segments or values over all its slices."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from node.domain.code import PREDICTIVE_ENTROPY, Code
from node.domain.findings import Algorithm, Findings
from node.domain.location import Frame, Mask, Segment, ValueMap

STUDY, SERIES, FRAME_OF_REFERENCE = "2.25.101", "2.25.102", "2.25.103"
NODULE = Code("27925004", "SCT", "Nodule")
BIT = Code("bit", "UCUM", "bit")

SHARE_WITH_SEGMENT = 0.9
"""Of the slices; the rest, half at each end, are empty."""


def write_series(folder: Path, planes: int, size: int) -> list[Path]:
    """Write that many slices without pixels, and return their paths in order."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{plane:04d}.dcm" for plane in range(planes)]
    for plane, path in enumerate(paths):
        _slice(plane, size).save_as(path, enforce_file_format=True)
    return paths


def _slice(plane: int, size: int) -> FileDataset:
    header = FileDataset("", {}, preamble=b"\0" * 128, file_meta=FileMetaDataset())
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.SOPClassUID, header.SOPInstanceUID = CTImageStorage, uid_of(plane)
    header.StudyInstanceUID, header.SeriesInstanceUID = STUDY, SERIES
    header.FrameOfReferenceUID, header.Modality, header.SeriesNumber = FRAME_OF_REFERENCE, "CT", 2
    header.PatientName, header.PatientID, header.BodyPartExamined = "BENCH^MARK", "BENCH", "CHEST"
    for keyword in ("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"):
        setattr(header, keyword, None)
    header.AccessionNumber = header.ReferringPhysicianName = None
    header.Rows = header.Columns = size
    header.PixelSpacing, header.SliceThickness = [0.7, 0.7], 1.0
    header.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    header.ImagePositionPatient = [-180.0, -180.0, float(plane)]
    header.InstanceNumber = plane + 1
    return header


def uid_of(plane: int) -> str:
    """Return the UID of a slice."""
    return f"2.25.104.{plane}"


def make_mask(planes: int, size: int, segments: int, *, has_probability: bool) -> Mask:
    """Return discs beside each other, each on nine slices of ten; their probability falls off at the rim."""
    labels = np.zeros((planes, size, size), np.uint8)
    probability = np.zeros((segments, *labels.shape), np.float32) if has_probability else None
    empty = round(planes * (1 - SHARE_WITH_SEGMENT) / 2)
    noise = np.random.default_rng(0).uniform(0.9, 1, (size, size)).astype(np.float32)
    for segment in range(segments):
        depth = _depth(size, segment, segments)
        for plane in range(empty, planes - empty):
            labels[plane][depth > 0.5] = segment + 1
            if probability is not None:
                probability[segment, plane] = depth * np.roll(noise, plane, axis=0)
    names = tuple(Segment(f"Segment {number}", NODULE) for number in range(1, segments + 1))
    return Mask(_frames(planes), names, labels, probability)


def _depth(size: int, segment: int, segments: int) -> npt.NDArray[np.float32]:
    """Return 1 in the middle of a disc, falling to 0 beyond its rim."""
    angle = 2 * np.pi * segment / segments
    row, column = size / 2 + size / 4 * np.sin(angle), size / 2 + size / 4 * np.cos(angle)
    rows, columns = np.ogrid[:size, :size]
    distance = np.hypot(rows - row, columns - column) / size
    return np.asarray(np.clip((0.15 - distance) * 20, 0, 1), np.float32)


def make_map(planes: int, size: int) -> ValueMap:
    """Return a value for every pixel, none of them alike."""
    values = np.random.default_rng(1).random((planes, size, size), np.float32)
    return ValueMap("Entropy", PREDICTIVE_ENTROPY, BIT, _frames(planes), values)


def findings_of(masks: tuple[Mask, ...], maps: tuple[ValueMap, ...], planes: int) -> Findings:
    """Return them as the findings of the series."""
    return Findings(
        pipeline="bench",
        algorithm=Algorithm("bench", "1"),
        study_instance_uid=STUDY,
        series_instance_uid=SERIES,
        sop_instance_uids=tuple(map(uid_of, range(planes))),
        masks=masks,
        maps=maps,
    )


def _frames(planes: int) -> tuple[Frame, ...]:
    return tuple(Frame(uid_of(plane)) for plane in range(planes))
