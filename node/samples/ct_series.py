"""Synthetic CTs as DICOM files: one object for each slice, or one enhanced multi-frame object."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import NAMESPACE_OID, uuid5

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import UID, CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian

from node.samples.dicom import REGION_BY_BODY_PART, STUDY_DATE
from node.samples.tomography import CtSample
from node.slide_objects.items import code_item

INTERCEPT_HU = -1024
KERNEL_NAME = {"soft": "STANDARD", "sharp": "LUNG"}


@dataclass(frozen=True, slots=True)
class CtOptions:
    """How a CT is written.

    `left_out` slices have no file, `is_from_top` numbers the slices in falling order (their places stay what
    they are); `transfer_syntax_uid` is uncompressed or a lossless one that pydicom can encode. Without
    `study_instance_uid` all UIDs follow from the sample's seed and place and from these options.
    """

    is_multiframe: bool = False
    left_out: tuple[int, ...] = ()
    is_from_top: bool = False
    transfer_syntax_uid: str = ExplicitVRLittleEndian
    patient_id: str | None = None
    study_instance_uid: str | None = None
    series_description: str = "Chest"


def write_ct(sample: CtSample, folder: Path, *, options: CtOptions | None = None) -> list[Path]:
    """Write a CT into a folder and return its files, in the order of their slices."""
    options = options or CtOptions()
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number, dataset in enumerate(ct_datasets(sample, options=options)):
        files.append(folder / f"ct-{number:04d}.dcm")
        dataset.save_as(files[-1], enforce_file_format=True)
    return files


def ct_datasets(sample: CtSample, *, options: CtOptions | None = None) -> list[FileDataset]:
    """Return the objects that `write_ct` writes."""
    options = options or CtOptions()
    planes = [z for z in range(sample.geometry.shape_zyx[0]) if z not in options.left_out]
    if options.is_from_top:
        planes.reverse()
    make = _Series(sample, options)
    if options.is_multiframe:
        return [make.enhanced(planes)]
    return [make.single(plane, number) for number, plane in enumerate(planes, start=1)]


@dataclass(frozen=True, slots=True)
class _Series:
    """What all objects of one series share."""

    sample: CtSample
    options: CtOptions

    def single(self, plane: int, number: int) -> FileDataset:
        """Return one slice as a CT image (PS3.3 A.3)."""
        dataset = self._object(CTImageStorage, f"slice-{plane}")
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        dataset.InstanceNumber = number
        dataset.AcquisitionNumber = 1
        dataset.AcquisitionDate, dataset.AcquisitionTime = dataset.StudyDate, dataset.StudyTime
        dataset.KVP = "120"
        dataset.ConvolutionKernel = KERNEL_NAME[self.sample.scan.kernel]
        dataset.ImagePositionPatient = self._position(plane)
        dataset.ImageOrientationPatient = self._orientation()
        dataset.SliceThickness = _text(self.sample.geometry.slice_mm)
        dataset.PixelSpacing = self._pixel_spacing()
        dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = INTERCEPT_HU, 1, "HU"
        dataset.WindowCenter, dataset.WindowWidth = -600, 1500
        self._put_pixels(dataset, [plane])
        return self._compressed(dataset)

    def enhanced(self, planes: Sequence[int]) -> FileDataset:
        """Return all slices as one enhanced CT image (PS3.3 A.38)."""
        dataset = self._object(EnhancedCTImageStorage, "enhanced")
        dataset.ImageType = ["DERIVED", "PRIMARY", "VOLUME", "NONE"]
        dataset.InstanceNumber = 1
        _put_enhanced_attributes(dataset)
        dataset.NumberOfFrames = len(planes)
        dataset.SharedFunctionalGroupsSequence = [self._shared_groups()]
        frames = [self._frame(plane, number) for number, plane in enumerate(planes, start=1)]
        dataset.PerFrameFunctionalGroupsSequence = frames
        organization = self._uid("dimensions")
        dataset.DimensionOrganizationSequence = [_item(DimensionOrganizationUID=organization)]
        dataset.DimensionIndexSequence = [
            _item(
                DimensionOrganizationUID=organization,
                DimensionIndexPointer=0x00200032,
                FunctionalGroupPointer=0x00209113,
            )
        ]
        self._put_pixels(dataset, planes)
        return self._compressed(dataset)

    def _uid(self, role: str) -> str:
        if role == "study" and self.options.study_instance_uid:
            return self.options.study_instance_uid
        geometry = self.sample.geometry
        parts = ["sightline-ct", role, str(self.sample.seed), str(self.options), str(self.sample.scan)]
        parts += [str(geometry.origin_xyz_mm), str(geometry.spacing_zyx_mm), str(geometry.shape_zyx)]
        parts += [str(geometry.directions.tolist()), *(str(one.center_xyz_mm) for one in self.sample.nodules)]
        return f"2.25.{uuid5(NAMESPACE_OID, '/'.join(parts)).int}"

    def _object(self, sop_class_uid: UID, role: str) -> FileDataset:
        """Return a file with patient, study, series, equipment and frame of reference."""
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = sop_class_uid
        meta.MediaStorageSOPInstanceUID = UID(self._uid(role))
        syntax = UID(self.options.transfer_syntax_uid)
        meta.TransferSyntaxUID = ExplicitVRLittleEndian if syntax.is_encapsulated else syntax
        dataset = FileDataset(
            "",
            {},
            file_meta=meta,
            preamble=b"\0" * 128,
            is_little_endian=meta.TransferSyntaxUID.is_little_endian,
        )
        dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class_uid, meta.MediaStorageSOPInstanceUID
        self._put_patient_and_study(dataset)
        dataset.Modality = "CT"
        dataset.SeriesInstanceUID = self._uid("series")
        dataset.SeriesNumber = 1
        dataset.SeriesDescription = self.options.series_description
        dataset.BodyPartExamined = "CHEST"
        dataset.PatientPosition = "HFS"
        dataset.Manufacturer = "Sightline"
        dataset.ManufacturerModelName = "Synthetic thorax"
        dataset.DeviceSerialNumber = "0"
        dataset.SoftwareVersions = "1"
        dataset.FrameOfReferenceUID = self._uid("frame-of-reference")
        dataset.PositionReferenceIndicator = ""
        return dataset

    def _put_patient_and_study(self, dataset: Dataset) -> None:
        seed = self.sample.seed
        dataset.PatientName = "SYNTHETIC^THORAX"
        dataset.PatientID = self.options.patient_id or f"SYNTH-CT-{seed:04d}"
        dataset.PatientBirthDate = ""
        dataset.PatientSex = "O"
        dataset.PatientAge = f"{40 + seed % 40:03d}Y"
        dataset.PatientComments = "Synthetic: no such person exists"
        dataset.StudyInstanceUID = self._uid("study")
        dataset.StudyDate = dataset.ContentDate = STUDY_DATE
        dataset.StudyTime = dataset.ContentTime = f"{8 + seed % 10:02d}{seed % 60:02d}00"
        dataset.StudyID = "1"
        dataset.StudyDescription = "Synthetic chest CT"
        dataset.AccessionNumber = ""
        dataset.ReferringPhysicianName = ""

    def _position(self, plane: int) -> list[str]:
        return [_text(value) for value in self.sample.geometry.to_patient(np.asarray([[plane, 0, 0]]))[0]]

    def _orientation(self) -> list[str]:
        _, rows, columns = self.sample.geometry.directions
        return [_text(value) for value in (*columns, *rows)]

    def _pixel_spacing(self) -> list[str]:
        return [_text(value) for value in self.sample.geometry.spacing_zyx_mm[1:]]

    def _frame(self, plane: int, number: int) -> Dataset:
        content = _item(StackID="1", InStackPositionNumber=number, DimensionIndexValues=[number])
        return _item(
            FrameContentSequence=[content],
            PlanePositionSequence=[_item(ImagePositionPatient=self._position(plane))],
        )

    def _shared_groups(self) -> Dataset:
        thickness = _text(self.sample.geometry.slice_mm)
        anatomy = _item(AnatomicRegionSequence=[code_item(REGION_BY_BODY_PART["CHEST"])], FrameLaterality="U")
        kind = _item(
            FrameType=["DERIVED", "PRIMARY", "VOLUME", "NONE"],
            PixelPresentation="MONOCHROME",
            VolumetricProperties="VOLUME",
            VolumeBasedCalculationTechnique="NONE",
        )
        return _item(
            PixelMeasuresSequence=[_item(PixelSpacing=self._pixel_spacing(), SliceThickness=thickness)],
            PlaneOrientationSequence=[_item(ImageOrientationPatient=self._orientation())],
            FrameAnatomySequence=[anatomy],
            CTImageFrameTypeSequence=[kind],
            PixelValueTransformationSequence=[
                _item(RescaleIntercept=INTERCEPT_HU, RescaleSlope=1, RescaleType="HU")
            ],
            # One exposure made them all, though these images are derived from it.
            IrradiationEventIdentificationSequence=[_item(IrradiationEventUID=self._uid("exposure"))],
            FrameVOILUTSequence=[_item(WindowCenter=-600, WindowWidth=1500)],
        )

    def _put_pixels(self, dataset: Dataset, planes: Sequence[int]) -> None:
        """Put the pixels of some slices, stored as HU − INTERCEPT_HU."""
        values: NDArray[np.int16] = self.sample.hounsfield[list(planes)] - np.int16(INTERCEPT_HU)
        dataset.Rows, dataset.Columns = values.shape[1:]
        dataset.SamplesPerPixel = 1
        dataset.PhotometricInterpretation = "MONOCHROME2"
        dataset.BitsAllocated = dataset.BitsStored = 16
        dataset.HighBit = 15
        dataset.PixelRepresentation = 1
        padding = self.sample.scan.padding_hu
        if padding is not None and len(planes) == 1:
            dataset.PixelPaddingValue = padding - INTERCEPT_HU
        order = "<" if dataset.file_meta.TransferSyntaxUID.is_little_endian else ">"
        dataset.PixelData = values.astype(f"{order}i2").tobytes()
        dataset["PixelData"].VR = "OW"

    def _compressed(self, dataset: FileDataset) -> FileDataset:
        if UID(self.options.transfer_syntax_uid).is_encapsulated:
            dataset.compress(UID(self.options.transfer_syntax_uid), generate_instance_uid=False)
        return dataset


def _put_enhanced_attributes(dataset: Dataset) -> None:
    """Put what an enhanced image says of all its frames (PS3.3 C.8.15.2)."""
    dataset.PixelPresentation = "MONOCHROME"
    dataset.VolumetricProperties = "VOLUME"
    dataset.VolumeBasedCalculationTechnique = "NONE"
    dataset.ContentQualification = "RESEARCH"
    dataset.BurnedInAnnotation = "NO"
    dataset.LossyImageCompression = "00"
    dataset.PresentationLUTShape = "IDENTITY"
    dataset.AcquisitionContextSequence = Items()
    dataset.AcquisitionDateTime = f"{dataset.StudyDate}{dataset.StudyTime}"


def _item(**attributes: object) -> Dataset:
    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return item


def _text(value: float) -> str:
    """Return a decimal string (PS3.5 6.2), at most 16 characters long and exact to a billionth."""
    return f"{value:.9g}" if abs(value) >= 1 or value == 0 else f"{value:.9f}"
