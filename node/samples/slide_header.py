"""The headers of a synthetic slide's objects: VL Whole Slide Microscopy Image (PS3.3 A.32.8)."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import NAMESPACE_OID, uuid5

from PIL import ImageCms
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.tag import Tag
from pydicom.uid import UID, VLWholeSlideMicroscopyImageStorage

from node.samples.dicom import STUDY_DATE, code_item
from node.samples.slide import SlideSample
from node.samples.slide_matrix import THICKNESS_MM, Picture, SlideOptions, item, matrix_part

INDEX_POINTERS = "RowPositionInTotalImagePixelMatrix", "ColumnPositionInTotalImagePixelMatrix"


def slide_header(
    sample: SlideSample,
    options: SlideOptions,
    picture: Picture,
    *,
    places: Sequence[tuple[int, int]],
    ratio: float,
) -> FileDataset:
    """Return one object without its pixels; `places` are rows and columns of tiles that have a frame."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = VLWholeSlideMicroscopyImageStorage
    names = _Names(sample, options)
    meta.MediaStorageSOPInstanceUID = UID(names.uid(f"instance-{picture.number}"))
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    for part in (
        _patient_and_study(names),
        _series(names),
        matrix_part(picture, options, ratio),
        _specimen(names),
        _light(sample),
        _dimensions(names, options, picture, places),
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


def _light(sample: SlideSample) -> Dataset:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = item(
        OpticalPathIdentifier="1",
        OpticalPathDescription="Brightfield",
        IlluminationTypeCodeSequence=[code_item(codes.DCM.BrightfieldIllumination)],
        IlluminationColorCodeSequence=[code_item(codes.SCT.FullSpectrum)],
        # The date it was made would make every file another one.
        ICCProfile=profile[:24] + bytes(12) + profile[36:],
        ColorSpace="SRGB",
        ObjectiveLensPower=round(10 / sample.micrometers_per_pixel, 2),
    )
    return item(NumberOfOpticalPaths=1, OpticalPathSequence=[path])


def _dimensions(
    names: _Names, options: SlideOptions, picture: Picture, places: Sequence[tuple[int, int]]
) -> Dataset:
    """Return how the frames lie in the matrix; a sparse one says it of each (PS3.3 C.7.6.17.3)."""
    organization = options.organization if picture.kind == "VOLUME" else "TILED_FULL"
    organization_uid = names.uid("dimensions")
    part = item(
        NumberOfFrames=len(places),
        DimensionOrganizationType=organization,
        DimensionOrganizationSequence=[item(DimensionOrganizationUID=organization_uid)],
        SharedFunctionalGroupsSequence=[_shared_groups(picture)],
    )
    if organization == "TILED_SPARSE":
        part.DimensionIndexSequence = [
            item(
                DimensionOrganizationUID=organization_uid,
                DimensionIndexPointer=Tag(name),
                FunctionalGroupPointer=Tag("PlanePositionSlideSequence"),
                DimensionDescriptionLabel=name,
            )
            for name in INDEX_POINTERS
        ]
        part.PerFrameFunctionalGroupsSequence = [_frame_groups(picture, *place) for place in places]
    return part


def _shared_groups(picture: Picture) -> Dataset:
    spacing = [picture.spacing_mm, picture.spacing_mm]
    return item(
        PixelMeasuresSequence=[item(PixelSpacing=spacing, SliceThickness=THICKNESS_MM)],
        WholeSlideMicroscopyImageFrameTypeSequence=[item(FrameType=picture.image_type)],
        OpticalPathIdentificationSequence=[item(OpticalPathIdentifier="1")],
    )


def _frame_groups(picture: Picture, tile_row: int, tile_column: int) -> Dataset:
    column, row = tile_column * picture.tile_size[0], tile_row * picture.tile_size[1]
    x, y = picture.origin_xy_mm
    position = item(
        ColumnPositionInTotalImagePixelMatrix=column + 1,
        RowPositionInTotalImagePixelMatrix=row + 1,
        XOffsetInSlideCoordinateSystem=round(x - row * picture.spacing_mm, 6),
        YOffsetInSlideCoordinateSystem=round(y - column * picture.spacing_mm, 6),
        ZOffsetInSlideCoordinateSystem=0.0,
    )
    content = item(DimensionIndexValues=[tile_row + 1, tile_column + 1])
    return item(PlanePositionSlideSequence=[position], FrameContentSequence=[content])
