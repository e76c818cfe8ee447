"""The headers of the analyzed instances, read as bytes: what is copied arrives as it was sent."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from pydicom.charset import convert_encodings, default_encoding
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag

from node.domain.findings import Findings
from node.errors import DatasetError
from node.read.dataset import dataset_faults
from node.read.selected import read_selected

IDENTIFIERS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")

PATIENT = """
    PatientName PatientID IssuerOfPatientID IssuerOfPatientIDQualifiersSequence TypeOfPatientID
    PatientBirthDate PatientBirthTime PatientSex OtherPatientIDsSequence OtherPatientNames EthnicGroup
    PatientComments PatientSpeciesDescription PatientBreedDescription PatientIdentityRemoved
    DeidentificationMethod DeidentificationMethodCodeSequence QualityControlSubject ResponsiblePerson
    ResponsiblePersonRole ResponsibleOrganization ClinicalTrialSponsorName ClinicalTrialProtocolID
    ClinicalTrialProtocolName ClinicalTrialSiteID ClinicalTrialSiteName ClinicalTrialSubjectID
    ClinicalTrialSubjectReadingID
"""
STUDY = """
    StudyDate StudyTime AccessionNumber IssuerOfAccessionNumberSequence StudyID StudyDescription
    ReferringPhysicianName ConsultingPhysicianName PhysiciansOfRecord NameOfPhysiciansReadingStudy
    ProcedureCodeSequence ReferencedStudySequence AdmittingDiagnosesDescription PatientAge PatientSize
    PatientWeight MedicalAlerts Allergies Occupation SmokingStatus AdditionalPatientHistory
    LastMenstrualDate PatientSexNeutered ReasonForVisit AdmissionID ServiceEpisodeID
    ServiceEpisodeDescription PatientState ClinicalTrialTimePointID ClinicalTrialTimePointDescription
"""
PLACE = ("TimezoneOffsetFromUTC", "InstitutionName")
"""What archives sort by, and highdicom does not copy."""

COPIED = (*PATIENT.split(), *STUDY.split(), *PLACE)
REQUIRED = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "StudyID",
    "ReferringPhysicianName",
)
"""Type 2: present in every object, empty where the source says nothing."""

PICTURE = """
    Rows Columns SamplesPerPixel BitsAllocated BodyPartExamined PatientOrientation Laterality
    ImageLaterality LossyImageCompression LossyImageCompressionRatio LossyImageCompressionMethod
"""
"""What a secondary capture repeats of its picture."""

GEOMETRY = """
    Rows Columns NumberOfFrames SamplesPerPixel PhotometricInterpretation FrameOfReferenceUID
    PositionReferenceIndicator ImageType ImageOrientationPatient ImagePositionPatient PixelSpacing
    SliceThickness SpacingBetweenSlices SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence
    DimensionOrganizationSequence DimensionIndexSequence DimensionOrganizationType TotalPixelMatrixColumns
    TotalPixelMatrixRows TotalPixelMatrixOriginSequence ImageOrientationSlide ImagedVolumeWidth
    ImagedVolumeHeight ImagedVolumeDepth ContainerIdentifier IssuerOfTheContainerIdentifierSequence
    ContainerTypeCodeSequence SpecimenDescriptionSequence
"""
"""Where the pixels are, in the patient or on the slide, and what slide that is."""

SHADES = """
    RescaleIntercept RescaleSlope RescaleType ModalityLUTSequence WindowCenter WindowWidth VOILUTFunction
    VOILUTSequence PresentationLUTShape PixelRepresentation PixelAspectRatio ICCProfile OpticalPathSequence
"""
"""How its pixels become gray or color."""

READ = (
    *("SpecificCharacterSet", "Modality", "SeriesNumber", "InstanceNumber"),
    *IDENTIFIERS,
    *COPIED,
    *PICTURE.split(),
    *GEOMETRY.split(),
    *SHADES.split(),
)

TEXT_VRS = frozenset(
    {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UI", "UT"}
)
"""What is copied; the bytes of these are the same in every transfer syntax."""

SPECIFIC_CHARACTER_SET = Tag("SpecificCharacterSet")
LONGEST_TEXT_BYTES = 0xFFFE


@dataclass(frozen=True, slots=True)
class Source:
    """One analyzed instance: its identifiers, and the part of its header that results need."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    size_bytes: int
    header: Dataset

    def text(self, keyword: str) -> str:
        """Return a value of an ASCII attribute; empty where it is absent."""
        return _text(self.header, keyword)

    def number(self, keyword: str) -> int:
        """Return a value of a binary integer attribute; 0 where it is absent or damaged."""
        try:
            with dataset_faults(self.sop_instance_uid):
                value = self.header.get(keyword)
        except DatasetError:
            return 0
        return value if isinstance(value, int) else 0

    @property
    def is_picture(self) -> bool:
        """Does it have pixels, so that it can be referred to as an image?"""
        return self.number("Rows") > 0 and self.number("Columns") > 0

    def copy_identity(self, target: Dataset) -> None:
        """Copy patient and study into a fresh data set, byte for byte, with the character set they are in.

        Bytes, because to decode and encode again loses what the source declares wrongly, and invents nothing
        better. So the target's own words must be ASCII, and its VRs unambiguous: pydicom now writes it as it
        stands.
        """
        self.copy(target, ("SpecificCharacterSet", *COPIED))
        if "DeidentificationMethod" not in target and "DeidentificationMethodCodeSequence" not in target:
            # The claim without its method, which some software leaves, would make our object invalid too.
            target.pop("PatientIdentityRemoved", None)
        for keyword in REQUIRED:
            if keyword not in target:
                setattr(target, keyword, None)

    def copy_body_part(self, target: Dataset) -> None:
        """Copy body part and side; the side is left open where the source names neither (PS3.3 C.7.3.1)."""
        self.copy(target, ("BodyPartExamined", "Laterality"))
        if not self.text("BodyPartExamined") and not self.text("Laterality"):
            target.Laterality = self.text("ImageLaterality")

    def copy(self, target: Dataset, keywords: Iterable[str]) -> None:
        """Copy further attributes as `copy_identity` does."""
        with dataset_faults(self.sop_instance_uid):
            _copy(self.header, target, keywords)

    def copy_decoded(self, target: Dataset, keywords: Iterable[str]) -> None:
        """Copy attributes as values; raises DatasetError where one cannot be decoded."""
        with dataset_faults(self.sop_instance_uid):
            for keyword in keywords:
                if keyword in self.header:
                    target[keyword] = self.header[keyword]


def read_sources(paths: Sequence[Path], findings: Findings) -> tuple[Source, ...]:
    """Return the headers of the analyzed instances, those that the findings are about first.

    Raises DatasetError where one cannot be read, or where one that the findings name is not among them.
    """
    sources = {source.sop_instance_uid: source for source in map(_read_source, paths)}
    missing = [uid for uid in findings.sop_instance_uids if uid not in sources]
    if missing or not sources:
        raise DatasetError(
            missing[0] if missing else findings.series_instance_uid, "is not among the sources"
        )
    named = [sources.pop(uid) for uid in dict.fromkeys(findings.sop_instance_uids)]
    return (*named, *sources.values())


def _read_source(path: Path) -> Source:
    with dataset_faults(path.name):
        header = read_selected(path, READ)
        transfer_syntax = str(header.file_meta.get("TransferSyntaxUID", ""))
    identifiers = [_text(header, keyword) for keyword in IDENTIFIERS]
    for keyword, uid in zip(IDENTIFIERS, identifiers, strict=True):
        if not re.fullmatch(r"[0-9.]{1,64}", uid):
            raise DatasetError(path.name, f"{keyword} is not a UID")
    study, series, instance, sop_class = identifiers
    return Source(study, series, instance, sop_class, transfer_syntax, path.stat().st_size, header)


def _text(dataset: Dataset, keyword: str) -> str:
    value = dataset.get_item(keyword).value if keyword in dataset else None
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else str(value or "")
    return text.strip(" \0")


def _copy(source: Dataset, target: Dataset, keywords: Iterable[str | BaseTag]) -> None:
    """Copy text as the bytes it came in, and mark the target so that it is written without being decoded."""
    for tag in map(Tag, keywords):
        if tag not in source or (tag == SPECIFIC_CHARACTER_SET and not source[tag].value):
            continue
        element, vr = cast(DataElement | RawDataElement, source.get_item(tag)), dictionary_VR(tag)
        if vr == "SQ":
            _copy_items(source, target, tag)
        elif isinstance(element, DataElement):
            target[tag] = element
        elif vr in TEXT_VRS and len(element.value or b"") <= LONGEST_TEXT_BYTES:
            target[tag] = _raw(tag, vr, element.value or b"")
    character_set = target.get("SpecificCharacterSet")
    encodings = convert_encodings(character_set) if "SpecificCharacterSet" in target else default_encoding
    target.set_original_encoding(False, True, encodings)


def _raw(tag: BaseTag, vr: str, value: bytes) -> RawDataElement:
    padded = value + (b"\0" if vr == "UI" else b" ") if len(value) % 2 else value
    return RawDataElement(tag, vr, len(padded), padded, 0, False, True)


def _copy_items(source: Dataset, target: Dataset, tag: BaseTag) -> None:
    items = []
    for item in source[tag].value or ():
        copied = Dataset(parent_encoding=target.original_character_set or default_encoding)
        tags = [one for one in item.keys() if one.group % 2 == 0 and dictionary_has_tag(one)]  # noqa: SIM118
        _copy(item, copied, tags)
        items.append(copied)
    target.add_new(tag, "SQ", items)
