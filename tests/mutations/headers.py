"""What every object has: whose it is, what it refers to, its modules, its equipment and its codes."""

from pydicom import Dataset
from pydicom.sr.codedict import codes

from tests.mutations.ways import (
    GROUP,
    PER_FRAME,
    SHARED,
    Mutation,
    Row,
    assign,
    assign_anyway,
    change,
    drop,
    find,
    inside,
    items,
    name_of,
    named,
    recode,
    remove,
    rename,
    take_from,
    typed,
)
from tests.runs import CAPTURE, FINDINGS, KEYS, LESIONS, MAP, MARKS, SEGMENTATION, STATE, SUMMARY, Run

EVIDENCE = "CurrentRequestedProcedureEvidenceSequence/ReferencedSeriesSequence"
DERIVATION = f"{PER_FRAME}/DerivationImageSequence/SourceImageSequence"
ALGORITHM = "SegmentSequence/SegmentationAlgorithmIdentificationSequence"
MEASUREMENTS = "AnnotationGroupSequence/MeasurementsSequence"
MAPPING = f"{SHARED}/RealWorldValueMappingSequence"
EQUIPMENT = "ContributingEquipmentSequence"
DERIVED_UID = "2.25.301479812609572691103386530879396769921"
RANDOM_UID = "2.25.329800735698586629295641978511506172918"
ENCAPSULATED_PDF = "1.2.840.10008.5.1.4.1.1.104.1"


def supersede(uid: str | None = None, study: str | None = None) -> Mutation:
    """Name a predecessor: itself, where no other is given."""

    def spoil(dataset: Dataset, _: Run) -> None:
        instance, series, listed = Dataset(), Dataset(), Dataset()
        instance.ReferencedSOPClassUID = dataset.SOPClassUID
        instance.ReferencedSOPInstanceUID = uid or dataset.SOPInstanceUID
        series.SeriesInstanceUID = "1.2.3"
        series.ReferencedSOPSequence = [instance]
        listed.StudyInstanceUID = study or dataset.StudyInstanceUID
        listed.ReferencedSeriesSequence = [series]
        dataset.PredecessorDocumentsSequence = [listed]

    return spoil


def supersede_sibling(dataset: Dataset, run: Run) -> None:
    supersede(run.other(SUMMARY).SOPInstanceUID)(dataset, run)


def take_source(keyword: str) -> Mutation:
    """Take an identifier of a source; the file's meta information follows."""

    def spoil(dataset: Dataset, run: Run) -> None:
        setattr(dataset, keyword, next(iter(run.sources))[keyword].value)
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID

    return spoil


def forget_segmentation(dataset: Dataset) -> None:
    """Leave the segmentation out of the evidence."""
    study = dataset.CurrentRequestedProcedureEvidenceSequence[0]
    study.ReferencedSeriesSequence = [
        series for series in study.ReferencedSeriesSequence if len(series.ReferencedSOPSequence) > 1
    ]


def change_class(dataset: Dataset) -> None:
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = ENCAPSULATED_PDF


def retrack_lesion(uid: str, *, values_only: bool = False) -> Mutation:
    """Track the first lesion under another identifier, in all of its groups or in that of its values."""

    def spoil(dataset: Dataset, _: Run) -> None:
        name = codes.DCM.TrackingUniqueIdentifier
        groups = [item for item in items(dataset) if name_of(item) == GROUP.value]
        lesion = find(groups[0], name).UID
        for group in groups[:1] if values_only else groups:
            if lesion == find(group, name).UID:
                find(group, name).UID = uid

    return spoil


# --- the rule, the source, the object, and what is done to it


ROWS: list[Row] = [
    ("known_class", "dx", CAPTURE, "another class", change(change_class)),
    ("same_study", "ct", SEGMENTATION, "other study", assign("StudyInstanceUID", "1.2.3")),
    ("same_study", "dx", FINDINGS, "other study", assign("StudyInstanceUID", "1.2.3")),
    ("same_study", "slide", MARKS, "other study", assign("StudyInstanceUID", "1.2.3")),
    ("same_patient", "dx", FINDINGS, "other patient", assign("PatientID", "4711")),
    ("same_patient", "enhanced", SEGMENTATION, "other name", assign("PatientName", "Somebody^Else")),
    ("same_patient", "slide", MAP, "other accession", assign("AccessionNumber", "4711")),
    ("same_patient", "ct", KEYS, "other characters", assign("SpecificCharacterSet", "ISO_IR 101")),
    ("same_patient", "ct", STATE, "other words", assign("StudyDescription", "4711")),
    ("new_identifiers", "ct", SEGMENTATION, "source's series", take_source("SeriesInstanceUID")),
    ("new_identifiers", "dx", CAPTURE, "source's instance", take_source("SOPInstanceUID")),
    ("unique_in_run", "ct", MAP, "same instance", take_from(SEGMENTATION, "SOPInstanceUID")),
    ("unique_in_run", "ct", MAP, "same series", take_from(SEGMENTATION, "SeriesInstanceUID")),
    ("unique_in_run", "ct", LESIONS, "findings' series", take_from(FINDINGS, "SeriesInstanceUID")),
    ("well_formed_uids", "ct", MAP, "zero", assign_anyway("SeriesInstanceUID", "UI", "2.25.0123")),
    ("well_formed_uids", "dx", KEYS, "long", assign_anyway("SeriesInstanceUID", "UI", "2.25." + "1" * 60)),
    ("well_formed_uids", "dx", SUMMARY, "meta disagrees", assign("SOPInstanceUID", DERIVED_UID)),
    ("derived_uids", "ct", SEGMENTATION, "by lot", rename(RANDOM_UID)),
    ("derived_uids", "ct", LESIONS, "another root", assign("SeriesInstanceUID", "1.2.3")),
    (
        "derived_uids",
        "slide",
        SEGMENTATION,
        "dimensions",
        inside("DimensionOrganizationSequence", assign("DimensionOrganizationUID", RANDOM_UID)),
    ),
    ("derived_uids", "dx", LESIONS, "tracking", retrack_lesion(RANDOM_UID)),
    ("derived_uids", "dx", SUMMARY, "device", inside(EQUIPMENT, assign("DeviceUID", "1.2.3"))),
    (
        "references_exist",
        "dx",
        FINDINGS,
        "evidence of a stranger",
        inside(f"{EVIDENCE}/ReferencedSOPSequence", assign("ReferencedSOPInstanceUID", "1.2.3")),
    ),
    (
        "references_exist",
        "ct",
        SEGMENTATION,
        "unknown source",
        inside(DERIVATION, assign("ReferencedSOPInstanceUID", "1.2.3")),
    ),
    (
        "references_exist",
        "ct",
        LESIONS,
        "unknown segmentation",
        named(
            codes.DCM.ReferencedSegment,
            inside("ReferencedSOPSequence", assign("ReferencedSOPInstanceUID", DERIVED_UID[:-1])),
        ),
    ),
    (
        "references_exist",
        "slide",
        MARKS,
        "another class",
        inside("ReferencedImageSequence", assign("ReferencedSOPClassUID", "1.2.840.10008.5.1.4.1.1.2")),
    ),
    (
        "references_exist",
        "ct",
        STATE,
        "unknown image",
        inside(
            "GraphicAnnotationSequence/ReferencedImageSequence", assign("ReferencedSOPInstanceUID", "1.2.3")
        ),
    ),
    (
        "references_exist",
        "dx",
        CAPTURE,
        "unknown image",
        inside("SourceImageSequence", assign("ReferencedSOPInstanceUID", "1.2.3")),
    ),
    ("no_self_reference", "dx", SUMMARY, "itself", supersede()),
    ("no_self_reference", "ct", FINDINGS, "of the same run", supersede_sibling),
    ("no_self_reference", "ct", FINDINGS, "of another study", supersede("1.2.3", "1.2.4")),
    ("evidence_complete", "dx", FINDINGS, "none", remove("CurrentRequestedProcedureEvidenceSequence")),
    ("evidence_complete", "ct", LESIONS, "without the segmentation", change(forget_segmentation)),
    ("evidence_complete", "ct", SEGMENTATION, "none", remove("ReferencedSeriesSequence")),
    (
        "evidence_complete",
        "enhanced",
        KEYS,
        "another series",
        inside(EVIDENCE, assign("SeriesInstanceUID", "1.2.3")),
    ),
    (
        "frame_numbers",
        "enhanced",
        SEGMENTATION,
        "past the end",
        inside(DERIVATION, assign("ReferencedFrameNumber", 13)),
    ),
    (
        "frame_numbers",
        "enhanced",
        LESIONS,
        "zero",
        typed("SCOORD", inside("ContentSequence/ReferencedSOPSequence", assign("ReferencedFrameNumber", 0))),
    ),
    (
        "frame_numbers",
        "ct",
        KEYS,
        "of a single frame",
        typed("IMAGE", inside("ReferencedSOPSequence", assign("ReferencedFrameNumber", 2))),
    ),
    (
        "segment_numbers",
        "ct",
        LESIONS,
        "absent segment",
        named(
            codes.DCM.ReferencedSegment, inside("ReferencedSOPSequence", assign("ReferencedSegmentNumber", 9))
        ),
    ),
    ("required_attributes", "dx", FINDINGS, "type 1", remove("CompletionFlag")),
    ("required_attributes", "ct", SEGMENTATION, "type 2", remove("ReferringPhysicianName")),
    ("required_attributes", "ct", SEGMENTATION, "nested", inside("SegmentSequence", remove("SegmentLabel"))),
    (
        "required_attributes",
        "ct labelmap",
        SEGMENTATION,
        "deeper",
        inside(ALGORITHM, remove("AlgorithmName")),
    ),
    ("required_attributes", "enhanced", MAP, "nested in a group", inside(MAPPING, assign("LUTLabel", ""))),
    ("required_attributes", "ct", STATE, "no date", remove("PresentationCreationDate")),
    ("required_attributes", "slide", STATE, "no color", remove("ICCProfile")),
    (
        "required_attributes",
        "slide",
        MARKS,
        "nested",
        inside("AnnotationGroupSequence", remove("AnnotationGroupLabel")),
    ),
    ("required_attributes", "dx", KEYS, "no number", remove("InstanceNumber")),
    ("required_attributes", "dx", CAPTURE, "no rows", remove("Rows")),
    ("required_attributes", "dx", SUMMARY, "no description", assign("SeriesDescription", " ")),
    ("device_identified", "dx", CAPTURE, "no equipment", remove(EQUIPMENT)),
    ("device_identified", "ct", SEGMENTATION, "no device", inside(EQUIPMENT, remove("DeviceUID"))),
    ("device_identified", "slide", MARKS, "no version", inside(EQUIPMENT, remove("SoftwareVersions"))),
    ("observer_identified", "dx", SUMMARY, "other UID", inside(EQUIPMENT, assign("DeviceUID", DERIVED_UID))),
    (
        "observer_identified",
        "ct",
        KEYS,
        "other name",
        named(codes.DCM.DeviceObserverName, assign("TextValue", "other")),
    ),
    ("algorithm_identified", "dx", FINDINGS, "no name", drop(GROUP, codes.DCM.AlgorithmName)),
    (
        "algorithm_identified",
        "ct",
        LESIONS,
        "other version",
        named(codes.DCM.AlgorithmVersion, assign("TextValue", "2")),
    ),
    (
        "algorithm_of_parts",
        "ct",
        SEGMENTATION,
        "other version",
        inside(ALGORITHM, assign("AlgorithmVersion", "2")),
    ),
    (
        "algorithm_of_parts",
        "dx",
        SEGMENTATION,
        "none",
        inside("SegmentSequence.1", remove("SegmentationAlgorithmIdentificationSequence")),
    ),
    (
        "algorithm_of_parts",
        "slide",
        MARKS,
        "other name",
        inside(
            "AnnotationGroupSequence/AnnotationGroupAlgorithmIdentificationSequence",
            assign("AlgorithmName", "other"),
        ),
    ),
    ("same_device_in_run", "ct", MAP, "other device", inside(EQUIPMENT, assign("DeviceUID", DERIVED_UID))),
    (
        "known_codes",
        "ct",
        SEGMENTATION,
        "check digit",
        inside("SegmentSequence/SegmentedPropertyTypeCodeSequence", change(recode("27925005"))),
    ),
    (
        "known_codes",
        "dx",
        FINDINGS,
        "unknown",
        named(codes.DCM.ImagingMeasurements, inside("ConceptNameCodeSequence", change(recode("126999")))),
    ),
    (
        "known_codes",
        "ct",
        LESIONS,
        "wrong meaning",
        named(codes.DCM.Finding, inside("ConceptCodeSequence", assign("CodeMeaning", "Pneumothorax"))),
    ),
    (
        "known_codes",
        "dx",
        SUMMARY,
        "check digit of LOINC",
        inside("ConceptNameCodeSequence", change(recode("18748-5"))),
    ),
    (
        "known_codes",
        "enhanced",
        MAP,
        "unknown scheme",
        inside(f"{MAPPING}/MeasurementUnitsCodeSequence", assign("CodingSchemeDesignator", "XYZ")),
    ),
    (
        "known_codes",
        "slide",
        MARKS,
        "no code",
        inside(f"{MEASUREMENTS}/MeasurementUnitsCodeSequence", assign("CodeValue", "")),
    ),
    ("schemes_declared", "dx", FINDINGS, "undeclared", remove("CodingSchemeIdentificationSequence")),
    ("schemes_declared", "ct", MAP, "undeclared", remove("CodingSchemeIdentificationSequence")),
    (
        "schemes_declared",
        "slide",
        MARKS,
        "without UID",
        inside("CodingSchemeIdentificationSequence", remove("CodingSchemeUID")),
    ),
]
