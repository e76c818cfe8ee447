"""What the benchmark reads: an uncompressed CT series with headers of the size that scanners write."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from node.domain.study import Instance, Series

STUDY, SERIES, FRAME_OF_REFERENCE = "2.25.201", "2.25.202", "2.25.203"
SPACING_MM, STEP_MM = 0.7, 1.0
INTERCEPT_HU = -1024
TEXTS = """
    SpecificCharacterSet StudyID AccessionNumber InstitutionName StationName StudyDescription
    SeriesDescription ManufacturerModelName ProtocolName DeviceSerialNumber SoftwareVersions BodyPartExamined
    ContrastBolusAgent ScanOptions ConvolutionKernel FilterType PatientPosition RotationDirection
"""
NUMBERS = """
    KVP DataCollectionDiameter ReconstructionDiameter DistanceSourceToDetector DistanceSourceToPatient
    GantryDetectorTilt TableHeight ExposureTime XRayTubeCurrent Exposure GeneratorPower FocalSpots
    SingleCollimationWidth TotalCollimationWidth TableSpeed TableFeedPerRotation SpiralPitchFactor CTDIvol
    AcquisitionNumber WindowCenter WindowWidth SliceThickness SliceLocation PatientWeight PatientSize
"""
PRIVATE_GROUPS, PRIVATE_ELEMENTS = (0x0009, 0x0019, 0x0043), 15


def write_series(folder: Path, planes: int, size: int) -> Series:
    """Write so many slices of that many rows and columns, and return them as if they had been received."""
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).normal(0, 12, (size, size))
    instances = []
    for plane in range(planes):
        path = folder / f"{plane:04d}.dcm"
        dataset = _slice(plane, _pixels(plane, planes, noise))
        dataset.save_as(path, enforce_file_format=True)
        instances.append(_instance(path, plane))
    return Series(STUDY, SERIES, tuple(instances), {})


def find_series(folder: Path) -> Series:
    """Return the series that was written into a folder."""
    paths = sorted(folder.glob("*.dcm"))
    return Series(STUDY, SERIES, tuple(_instance(path, int(path.stem)) for path in paths), {})


def _instance(path: Path, plane: int) -> Instance:
    syntax = str(ExplicitVRLittleEndian)
    return Instance(STUDY, SERIES, f"2.25.204.{plane}", CTImageStorage, syntax, "CT", path, "")


def _pixels(plane: int, planes: int, noise: npt.NDArray[np.float64]) -> npt.NDArray[np.int16]:
    """Return a body of water with two lungs of air, and noise, as stored."""
    rows, columns = (np.linspace(-1, 1, size)[:, None] for size in noise.shape)
    height = 1 - abs(2 * plane / planes - 1)
    distance = np.hypot(rows / 0.7, columns.T / 0.9)
    side = np.hypot(rows / 0.45, (abs(columns.T) - 0.42) / 0.3)
    units = np.where(distance > 1, -1000, np.where(side < height, -850, 40))
    return np.asarray(
        np.rint(np.maximum(units + np.roll(noise, plane, 1), INTERCEPT_HU)) - INTERCEPT_HU, np.int16
    )


def _slice(plane: int, pixels: npt.NDArray[np.int16]) -> FileDataset:
    header = FileDataset("", {}, preamble=b"\0" * 128, file_meta=FileMetaDataset())
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for keyword in NUMBERS.split():
        setattr(header, keyword, 100)
    for keyword in TEXTS.split():
        setattr(header, keyword, "BENCH" if keyword != "SpecificCharacterSet" else "ISO_IR 100")
    header.SOPClassUID, header.SOPInstanceUID = CTImageStorage, f"2.25.204.{plane}"
    header.StudyInstanceUID, header.SeriesInstanceUID = STUDY, SERIES
    header.FrameOfReferenceUID, header.Modality, header.SeriesNumber = FRAME_OF_REFERENCE, "CT", 2
    header.PatientName, header.PatientID, header.PatientBirthDate, header.PatientSex = (
        "BENCH^MARK",
        "BENCH",
        "",
        "",
    )
    header.StudyDate, header.StudyTime, header.ReferringPhysicianName = "20260101", "120000", ""
    header.ImageType, header.InstanceNumber = ["ORIGINAL", "PRIMARY", "AXIAL"], plane + 1
    header.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    header.ImagePositionPatient = [-180.0, -180.0, plane * STEP_MM]
    header.PixelSpacing = [SPACING_MM, SPACING_MM]
    header.Rows, header.Columns = pixels.shape
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 16, 15, 1
    header.RescaleIntercept, header.RescaleSlope, header.RescaleType = INTERCEPT_HU, 1, "HU"
    header.ReferencedImageSequence = [_reference(number) for number in range(2)]
    _add_private(header)
    header.PixelData = pixels.tobytes()
    return header


def _reference(number: int) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = CTImageStorage, f"2.25.205.{number}"
    return item


def _add_private(header: Dataset) -> None:
    """Add what makers keep for themselves: a good third of the elements of a real header."""
    for group in PRIVATE_GROUPS:
        block = header.private_block(group, "BENCH", create=True)
        for element in range(PRIVATE_ELEMENTS):
            block.add_new(element, "DS", str(element * 1.5))
