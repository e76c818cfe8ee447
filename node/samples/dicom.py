"""Synthetic radiographs as DICOM files: DX or CR objects of an invented patient."""

from collections.abc import Collection
from dataclasses import dataclass, fields
from pathlib import Path
from uuid import NAMESPACE_OID, uuid4, uuid5

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
)

from node.samples.thorax import Radiograph
from node.slide_objects.items import code_item

SOP_CLASS_BY_MODALITY = {"DX": DigitalXRayImageStorageForPresentation, "CR": ComputedRadiographyImageStorage}
SHAPE_BY_PHOTOMETRIC = {"MONOCHROME1": "INVERSE", "MONOCHROME2": "IDENTITY"}
"""The presentation LUT shape that each photometric interpretation demands (PS3.3 C.8.11.3.1.2)."""

VIEW_CODE_BY_POSITION: dict[str, Code] = {
    "PA": codes.cid4010.PosteroAnterior,
    "AP": codes.cid4010.AnteroPosterior,
    "LL": codes.cid4010.LeftLateral,
    "RL": codes.cid4010.RightLateral,
}
ORIENTATION_BY_POSITION = {"PA": ["L", "F"], "AP": ["L", "F"], "LL": ["A", "F"], "RL": ["P", "F"]}

REGION_BY_BODY_PART: dict[str, Code] = {
    "CHEST": codes.cid4031.Chest,
    "ABDOMEN": codes.cid4031.Abdomen,
    "HAND": codes.cid4031.Hand,
    "KNEE": codes.cid4031.Knee,
    "SKULL": codes.cid4031.Skull,
}

STUDY_DATE = "20250102"


@dataclass(frozen=True, slots=True)
class DxOptions:
    """How a radiograph is written; the default is what a digital chest stand sends.

    `bits_stored` is 8–16; `view_position` and `body_part_examined` only label the picture, which stays a
    frontal chest; `transfer_syntax_uid` is uncompressed or a lossless one that pydicom can encode. Without
    `study_instance_uid` the study's UID follows from the seed, the finding and these options.
    """

    modality: str = "DX"
    photometric_interpretation: str = "MONOCHROME2"
    bits_stored: int = 12
    view_position: str = "AP"
    body_part_examined: str = "CHEST"
    transfer_syntax_uid: str = ExplicitVRLittleEndian
    patient_id: str | None = None
    study_instance_uid: str | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for a value that no valid object can carry."""
        allowed: dict[str, Collection[str | int]] = {
            "modality": SOP_CLASS_BY_MODALITY,
            "photometric_interpretation": SHAPE_BY_PHOTOMETRIC,
            "bits_stored": range(8, 17),
            "view_position": VIEW_CODE_BY_POSITION,
            "body_part_examined": REGION_BY_BODY_PART,
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name} {getattr(self, name)!r}, expected one of {list(values)}")


def fresh_uid() -> str:
    """Return a UID that was never used before (PS3.5 B.2)."""
    return f"2.25.{uuid4().int}"


def write_dx(radiograph: Radiograph, path: Path, *, options: DxOptions | None = None) -> Path:
    """Write one valid DX (or CR) object and return its file; in a folder it is named by its UID."""
    dataset = dx_dataset(radiograph, options=options)
    file = path / f"{dataset.SOPInstanceUID}.dcm" if path.is_dir() else path
    dataset.save_as(file, enforce_file_format=True)
    return file


def dx_dataset(radiograph: Radiograph, *, options: DxOptions | None = None) -> FileDataset:
    """Return the object that `write_dx` writes."""
    options = options or DxOptions()
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SOP_CLASS_BY_MODALITY[options.modality]
    meta.MediaStorageSOPInstanceUID = UID(_derived_uid("instance", radiograph, options))
    syntax = UID(options.transfer_syntax_uid)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian if syntax.is_encapsulated else syntax
    is_little_endian = meta.TransferSyntaxUID.is_little_endian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128, is_little_endian=is_little_endian)
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    for part in (
        _patient(radiograph, options),
        _study(radiograph, options),
        _series(radiograph, options),
        _image(radiograph, options),
        _anatomy(options),
        _pixels(radiograph, options),
    ):
        dataset.update(part)
    if syntax.is_encapsulated:
        dataset.compress(syntax, generate_instance_uid=False)
    return dataset


def _derived_uid(role: str, radiograph: Radiograph, options: DxOptions) -> str:
    """Return the UID of a role: the same inputs give the same one, all else another."""
    if role == "study" and options.study_instance_uid:
        return options.study_instance_uid
    settings = [str(getattr(options, field.name)) for field in fields(options)]
    truth = radiograph.truth
    picture = [str(radiograph.seed), str(truth.finding), str(radiograph.pixels.shape)]
    if truth.lung_boxes_xyxy_px:
        picture += [str(truth.lung_boxes_xyxy_px), str(truth.lesions)]
    return f"2.25.{uuid5(NAMESPACE_OID, '/'.join(['sightline-sample', role, *picture, *settings])).int}"


def _patient(radiograph: Radiograph, options: DxOptions) -> Dataset:
    part = Dataset()
    part.PatientName = "SYNTHETIC^THORAX"
    part.PatientID = options.patient_id or f"SYNTH-{radiograph.seed:04d}"
    part.PatientBirthDate = ""
    part.PatientSex = "O"
    part.PatientAge = f"{_age_years(radiograph):03d}Y"
    part.PatientComments = "Synthetic: no such person exists"
    return part


def _age_years(radiograph: Radiograph) -> int:
    """Return an age that fits the body's size: the field is about 2.6 half-widths of the cage."""
    half_width_mm = radiograph.spacing_yx_mm[1] * radiograph.pixels.shape[1] / 2.6
    return int(np.clip(round((half_width_mm - 75) / 55 * 16 + 1), 1, 17))


def _study(radiograph: Radiograph, options: DxOptions) -> Dataset:
    part = Dataset()
    part.StudyInstanceUID = _derived_uid("study", radiograph, options)
    part.StudyDate = STUDY_DATE
    part.StudyTime = f"{8 + radiograph.seed % 10:02d}{radiograph.seed % 60:02d}00"
    part.StudyID = "1"
    part.StudyDescription = f"Synthetic {options.body_part_examined.lower()} radiograph"
    part.AccessionNumber = ""
    part.ReferringPhysicianName = ""
    return part


def _series(radiograph: Radiograph, options: DxOptions) -> Dataset:
    part = Dataset()
    part.Modality = options.modality
    part.SeriesInstanceUID = _derived_uid("series", radiograph, options)
    part.SeriesNumber = 1
    part.SeriesDescription = options.view_position
    part.Manufacturer = "Sightline"
    part.ManufacturerModelName = "Synthetic thorax"
    part.DeviceSerialNumber = "0"
    part.SoftwareVersions = "1"
    if options.modality == "DX":
        part.PresentationIntentType = "FOR PRESENTATION"
    return part


def _image(radiograph: Radiograph, options: DxOptions) -> Dataset:
    part = Dataset()
    part.InstanceNumber = 1
    part.ImageType = ["ORIGINAL", "PRIMARY"]
    part.AcquisitionDate = part.ContentDate = STUDY_DATE
    part.AcquisitionTime = part.ContentTime = f"{8 + radiograph.seed % 10:02d}{radiograph.seed % 60:02d}30"
    part.PatientOrientation = ORIENTATION_BY_POSITION[options.view_position]
    part.BurnedInAnnotation = "NO"
    part.LossyImageCompression = "00"
    spacing = [round(value, 6) for value in radiograph.spacing_yx_mm]
    # The beam is parallel: what is measured at the detector is what is measured in the patient.
    part.ImagerPixelSpacing = part.PixelSpacing = spacing
    if options.modality == "CR":
        return part
    part.AcquisitionContextSequence = []
    is_inverted = options.photometric_interpretation == "MONOCHROME1"
    part.PixelIntensityRelationship = "LOG"
    part.PixelIntensityRelationshipSign = 1 if is_inverted else -1
    part.PresentationLUTShape = SHAPE_BY_PHOTOMETRIC[options.photometric_interpretation]
    part.RescaleIntercept, part.RescaleSlope, part.RescaleType = 0, 1, "US"
    part.DetectorType = "DIRECT"
    part.PositionerType = "NONE"
    return part


def _anatomy(options: DxOptions) -> Dataset:
    part = Dataset()
    part.BodyPartExamined = options.body_part_examined
    part.ViewPosition = options.view_position
    if options.modality == "CR":
        return part
    is_paired = options.body_part_examined in ("HAND", "KNEE")
    part.ImageLaterality = "R" if is_paired else "U"
    part.AnatomicRegionSequence = [code_item(REGION_BY_BODY_PART[options.body_part_examined])]
    view = code_item(VIEW_CODE_BY_POSITION[options.view_position])
    view.ViewModifierCodeSequence = []
    part.ViewCodeSequence = [view]
    return part


def _pixels(radiograph: Radiograph, options: DxOptions) -> Dataset:
    part = Dataset()
    top = 2**options.bits_stored - 1
    values = np.rint(radiograph.pixels * top)
    if options.photometric_interpretation == "MONOCHROME1":
        values = top - values
    order = ">" if options.transfer_syntax_uid == ExplicitVRBigEndian else "<"
    part.Rows, part.Columns = radiograph.pixels.shape
    part.SamplesPerPixel = 1
    part.PhotometricInterpretation = options.photometric_interpretation
    part.BitsAllocated = 8 if options.bits_stored == 8 else 16
    part.BitsStored = options.bits_stored
    part.HighBit = options.bits_stored - 1
    part.PixelRepresentation = 0
    part.WindowCenter, part.WindowWidth = (top + 1) / 2, top + 1
    data = values.astype("u1" if options.bits_stored == 8 else f"{order}u2").tobytes()
    part.PixelData = data + b"\0" * (len(data) % 2)
    part["PixelData"].VR = "OB" if options.bits_stored == 8 else "OW"
    return part
