"""The headers of a synthetic slide's objects: VL Whole Slide Microscopy Image (PS3.3 A.32.8)."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import NAMESPACE_OID, uuid5

from pydicom.dataset import Dataset, FileDataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from node.samples.dicom import STUDY_DATE
from node.samples.slide import SlideSample
from node.samples.slide_matrix import SlideOptions
from node.slide_objects.header import (
    TILED_FULL,
    Picture,
    dimensions_part,
    light_part,
    matrix_part,
    new_object,
    srgb_profile,
)
from node.slide_objects.items import code_item, item


def slide_header(
    sample: SlideSample,
    options: SlideOptions,
    picture: Picture,
    *,
    places: Sequence[tuple[int, int]],
    ratio: float,
) -> FileDataset:
    """Return one object without its pixels; `places` are rows and columns of tiles that have a frame."""
    names = _Names(sample, options)
    dataset = new_object(names.uid(f"instance-{picture.number}"))
    objective_power = round(10 / sample.micrometers_per_pixel, 2)
    organization = options.organization if picture.kind == "VOLUME" else TILED_FULL
    for part in (
        _patient_and_study(names),
        _series(names),
        matrix_part(picture, ratio),
        _specimen(names),
        light_part(srgb_profile(), is_srgb=True, objective_power=objective_power),
        dimensions_part(picture, names.uid("dimensions"), organization=organization, places=places),
    ):
        dataset.update(part)
    return dataset


@dataclass(frozen=True, slots=True)
class _Names:
    sample: SlideSample
    options: SlideOptions

    def uid(self, role: str) -> str:
        """Return the UID of a role: the same inputs give the same one, all else another."""
        if role == "study" and self.options.study_instance_uid:
            return self.options.study_instance_uid
        sample = self.sample
        picture = (sample.seed, sample.columns, sample.rows, sample.is_tumor, sample.micrometers_per_pixel)
        text = "/".join(["sightline-slide", role, *map(str, picture), str(sample.levels), str(self.options)])
        return f"2.25.{uuid5(NAMESPACE_OID, text).int}"


def _patient_and_study(names: _Names) -> Dataset:
    seed = names.sample.seed
    return item(
        PatientName="SYNTHETIC^SLIDE",
        PatientID=names.options.patient_id or f"SYNTH-SM-{seed:04d}",
        PatientBirthDate="",
        PatientSex="O",
        PatientAge=f"{40 + seed % 40:03d}Y",
        PatientComments="Synthetic: no such person exists",
        StudyInstanceUID=names.uid("study"),
        StudyDate=STUDY_DATE,
        StudyTime=f"{8 + seed % 10:02d}{seed % 60:02d}00",
        StudyID="1",
        StudyDescription="Synthetic slide",
        AccessionNumber="",
        ReferringPhysicianName="",
    )


def _series(names: _Names) -> Dataset:
    seed = names.sample.seed
    return item(
        Modality="SM",
        SeriesInstanceUID=names.uid("series"),
        SeriesNumber=1,
        SeriesDescription="H&E",
        Manufacturer="Sightline",
        ManufacturerModelName="Synthetic slide",
        DeviceSerialNumber="0",
        SoftwareVersions="1",
        FrameOfReferenceUID=names.uid("frame-of-reference"),
        PositionReferenceIndicator="SLIDE_CORNER",
        PyramidUID=names.uid("pyramid"),
        AcquisitionDateTime=f"{STUDY_DATE}{8 + seed % 10:02d}{seed % 60:02d}10",
        ContentDate=STUDY_DATE,
        ContentTime=f"{8 + seed % 10:02d}{seed % 60:02d}30",
    )


def _specimen(names: _Names) -> Dataset:
    slide = f"S-{names.sample.seed:04d}"
    step = item(
        SpecimenPreparationStepContentItemSequence=[
            item(
                ValueType="TEXT",
                ConceptNameCodeSequence=[code_item(codes.DCM.SpecimenIdentifier)],
                TextValue=slide,
            ),
            _coded(codes.DCM.ProcessingType, codes.SCT.Staining),
            _coded(codes.SCT.UsingSubstance, codes.SCT.HematoxylinStain),
            _coded(codes.SCT.UsingSubstance, codes.SCT.WaterSolubleEosinStain),
        ]
    )
    description = item(
        SpecimenIdentifier=slide,
        SpecimenUID=names.uid("specimen"),
        IssuerOfTheSpecimenIdentifierSequence=[],
        SpecimenTypeCodeSequence=[code_item(codes.SCT.TissueSection)],
        SpecimenPreparationSequence=[step],
        PrimaryAnatomicStructureSequence=[code_item(codes.SCT.Prostate)],
    )
    return item(
        ContainerIdentifier=slide,
        IssuerOfTheContainerIdentifierSequence=[],
        ContainerTypeCodeSequence=[code_item(codes.SCT.MicroscopeSlide)],
        SpecimenDescriptionSequence=[description],
    )


def _coded(name: Code, value: Code) -> Dataset:
    return item(
        ValueType="CODE",
        ConceptNameCodeSequence=[code_item(name)],
        ConceptCodeSequence=[code_item(value)],
    )
