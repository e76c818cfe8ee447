"""The gate that every result passes before it leaves: named rules over one object and its sources."""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.charset import convert_encodings, default_encoding, encode_string
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import (
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EnhancedSRStorage,
    SecondaryCaptureImageStorage,
)
from pydicom.valuerep import PersonName

from node.errors import ConformanceError, DatasetError
from node.read.dataset import dataset_faults

REPORTS = frozenset({Comprehensive3DSRStorage, ComprehensiveSRStorage, EnhancedSRStorage})
PICTURES = frozenset({SecondaryCaptureImageStorage})

IDENTIFIERS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
IDENTITY = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex")
STUDY = ("StudyDate", "StudyTime", "AccessionNumber", "StudyID", "ReferringPhysicianName")
"""Type 2: present, empty where the source says nothing."""

FILLED = """
    SOPClassUID SOPInstanceUID StudyInstanceUID SeriesInstanceUID Modality SeriesNumber InstanceNumber
    SeriesDescription Manufacturer ManufacturerModelName SoftwareVersions
"""
FILLED_IN_REPORTS = """
    ContentDate ContentTime CompletionFlag VerificationFlag ValueType ContinuityOfContent
    ConceptNameCodeSequence ContentTemplateSequence ContentSequence
"""
FILLED_IN_PICTURES = """
    ImageType ConversionType Rows Columns SamplesPerPixel PhotometricInterpretation BitsAllocated BitsStored
    HighBit PixelData LossyImageCompression
"""
"""Type 1, and what no result of ours goes without."""

NO_RESULT = codes.DCM.NoAlgorithmsSucceededWithoutFindings
MEASUREMENT_REPORT = "1500"
PRIVATE_SCHEME_PREFIX = "99"


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken rule, and where; UIDs and keywords, no patient."""

    rule: str
    message: str

    def __str__(self) -> str:
        """Return the rule, a colon, and what is wrong."""
        return f"{self.rule}: {self.message}"


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that must hold for the objects it applies to; `check` yields what is wrong."""

    name: str
    applies: Callable[[Dataset], bool]
    check: Callable[[Dataset, Sequence[Dataset]], Iterator[str]]
    needs_sources: bool = False


def check(dataset: Dataset, sources: Sequence[Path] = ()) -> list[Violation]:
    """Return what is wrong with an object; without sources, the rules of `skipped_rules` say nothing."""
    headers = [_read(path) for path in sources]
    rules = [rule for rule in RULES if rule.applies(dataset) and (headers or not rule.needs_sources)]
    return [violation for rule in rules for violation in _apply(rule, dataset, headers)]


def check_file(path: Path, sources: Sequence[Path] = ()) -> list[Violation]:
    """Return what is wrong with the object in a file; raises DatasetError where it cannot be read."""
    with dataset_faults(path.name):
        dataset = dcmread(path)
    return check(dataset, sources)


def verify(dataset: Dataset, sources: Sequence[Path]) -> None:
    """Raise ConformanceError with the first broken rule in front, unless the object may leave."""
    violations = check(dataset, sources)
    if violations:
        raise ConformanceError(str(dataset.get("SOPInstanceUID", "")), "; ".join(map(str, violations)))


def skipped_rules(sources: Sequence[Path] = ()) -> list[str]:
    """Return the rules that cannot be judged without the sources, where there are none."""
    return [] if sources else [rule.name for rule in RULES if rule.needs_sources]


def _read(path: Path) -> Dataset:
    keywords = ["SpecificCharacterSet", *IDENTIFIERS, *IDENTITY, *STUDY]
    with dataset_faults(path.name):
        return dcmread(path, stop_before_pixels=True, force=True, specific_tags=keywords)


def _apply(rule: Rule, dataset: Dataset, sources: Sequence[Dataset]) -> Iterator[Violation]:
    try:
        with dataset_faults(rule.name):
            messages = list(rule.check(dataset, sources))
    except DatasetError as error:
        messages = [f"cannot be judged: {error.message}"]
    yield from (Violation(rule.name, message) for message in messages)


# --- what rules look at


def _is_known(_: Dataset) -> bool:
    return True


def _is_report(dataset: Dataset) -> bool:
    return dataset.get("SOPClassUID") in REPORTS


def _is_picture(dataset: Dataset) -> bool:
    return dataset.get("SOPClassUID") in PICTURES


def _is_measurement_report(dataset: Dataset) -> bool:
    template = dataset.get("ContentTemplateSequence") or [Dataset()]
    return _is_report(dataset) and template[0].get("TemplateIdentifier") == MEASUREMENT_REPORT


def _items(dataset: Dataset) -> Iterator[Dataset]:
    """Yield the content items of a tree, its root first."""
    yield dataset
    for child in dataset.get("ContentSequence") or ():
        yield from _items(child)


def _named(dataset: Dataset, name: Code) -> Iterator[Dataset]:
    """Yield the content items of that name, at any depth."""
    return (item for item in _items(dataset) if _code(item, "ConceptNameCodeSequence") == name)


def _code(dataset: Dataset, keyword: str) -> Code:
    item = (dataset.get(keyword) or [Dataset()])[0]
    return Code(str(item.get("CodeValue", "")), str(item.get("CodingSchemeDesignator", "")), "")


def _texts(dataset: Dataset, name: Code) -> set[str]:
    found = _named(dataset, name)
    return {str(item.get("TextValue") or item.get("UID") or "") for item in found}


def _groups(dataset: Dataset) -> Iterator[Dataset]:
    return _named(dataset, codes.DCM.MeasurementGroup)


def _references(dataset: Dataset) -> set[tuple[str, str]]:
    """Return (class, instance) of all that a tree or a picture refers to."""
    found = [reference for item in _items(dataset) for reference in item.get("ReferencedSOPSequence") or ()]
    return {_reference(item) for item in [*found, *(dataset.get("SourceImageSequence") or ())]}


def _evidence(dataset: Dataset) -> set[tuple[str, str]]:
    return {
        _reference(instance)
        for keyword in ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence")
        for study in dataset.get(keyword) or ()
        for series in study.get("ReferencedSeriesSequence") or ()
        for instance in series.get("ReferencedSOPSequence") or ()
    }


def _reference(item: Dataset) -> tuple[str, str]:
    return str(item.get("ReferencedSOPClassUID", "")), str(item.get("ReferencedSOPInstanceUID", ""))


def _bytes(dataset: Dataset, keyword: str) -> bytes:
    """Return a value as it stands in a file, whether or not it has been decoded meanwhile."""
    value = dataset.get_item(keyword).value if keyword in dataset else b""
    character_set = dataset.get("SpecificCharacterSet")
    encodings = convert_encodings(character_set) if character_set else [default_encoding]
    if isinstance(value, PersonName):
        value = value.encode(encodings)
    elif not isinstance(value, bytes):
        value = encode_string(str(value or ""), encodings)
    return value.strip(b" \0")


def _algorithm_equipment(dataset: Dataset) -> list[Dataset]:
    """Return the processing equipment that identifies a device."""
    items = [item for item in dataset.get("ContributingEquipmentSequence") or () if item.get("DeviceUID")]
    purpose = "PurposeOfReferenceCodeSequence"
    return [item for item in items if _code(item, purpose) == codes.DCM.ProcessingEquipment]


# --- the rules


def _same_study(dataset: Dataset, sources: Sequence[Dataset]) -> Iterator[str]:
    studies = {str(source.get("StudyInstanceUID")) for source in sources}
    if studies != {str(dataset.get("StudyInstanceUID"))}:
        yield f"is in study {dataset.get('StudyInstanceUID')}, expected {', '.join(sorted(studies))}"


def _same_patient(dataset: Dataset, sources: Sequence[Dataset]) -> Iterator[str]:
    for keyword in ("SpecificCharacterSet", *IDENTITY, *STUDY):
        if _bytes(dataset, keyword) != _bytes(sources[0], keyword):
            yield f"{keyword} is not the source's"


def _new_identifiers(dataset: Dataset, sources: Sequence[Dataset]) -> Iterator[str]:
    for keyword in ("SeriesInstanceUID", "SOPInstanceUID"):
        if dataset.get(keyword) in {source.get(keyword) for source in sources}:
            yield f"{keyword} is a source's"


def _well_formed_uids(dataset: Dataset, _: Sequence[Dataset]) -> Iterator[str]:
    for keyword in ("SeriesInstanceUID", "SOPInstanceUID"):
        uid = str(dataset.get(keyword, ""))
        if len(uid) > 64 or not re.fullmatch(r"[012](\.(0|[1-9]\d*))+", uid):
            yield f"{keyword} {uid!r} is not a UID"
    meta = getattr(dataset, "file_meta", Dataset())
    for keyword in ("SOPInstanceUID", "SOPClassUID"):
        if meta.get(f"MediaStorage{keyword}") != dataset.get(keyword):
            yield f"the file's meta information has another {keyword}"


def _known_class(dataset: Dataset, _: Sequence[Dataset]) -> Iterator[str]:
    if not (_is_report(dataset) or _is_picture(dataset)):
        yield f"SOP class {dataset.get('SOPClassUID')} is none that results have"


def _required_attributes(dataset: Dataset, _: Sequence[Dataset]) -> Iterator[str]:
    own = (FILLED_IN_REPORTS if _is_report(dataset) else "") + (
        FILLED_IN_PICTURES if _is_picture(dataset) else ""
    )
    for keyword in (FILLED + own).split():
        if dataset.get(keyword) in (None, "", [], b""):
            yield f"{keyword} has no value"
    yield from (f"{keyword} is missing" for keyword in (*IDENTITY, *STUDY) if keyword not in dataset)


def _references_exist(dataset: Dataset, sources: Sequence[Dataset]) -> Iterator[str]:
    known = {(str(source.get("SOPClassUID")), str(source.get("SOPInstanceUID"))) for source in sources}
    for _class, uid in sorted((_references(dataset) | _evidence(dataset)) - known):
        yield f"refers to {uid}, which is not a source or of another class"


def _evidence_complete(dataset: Dataset, _: Sequence[Dataset]) -> Iterator[str]:
    evidence = _evidence(dataset)
    if not evidence:
        yield "names no evidence"
    for _class, uid in sorted(_references(dataset) - evidence):
        yield f"the tree refers to {uid}, the evidence does not"


def _separate_containers(dataset: Dataset, _: Sequence[Dataset]) -> Iterator[str]:
    containers = [item for item in _items(dataset) if item.get("ValueType") == "CONTAINER"]
    if any(item.get("ContinuityOfContent") != "SEPARATE" for item in containers):
        yield "a container is not SEPARATE"


def _measured_values(dataset: Dataset, _: Sequence[Dataset]) -> Iterator[str]:
    for item in _items(dataset):
        if item.get("ValueType") != "NUM":
            continue
        values = item.get("MeasuredValueSequence") or [Dataset()]
        number = values[0].get("NumericValue")
        if number is None or not math.isfinite(float(number)):
            yield f"{_code(item, 'ConceptNameCodeSequence').value} has no value"
        elif not values[0].get("MeasurementUnitsCodeSequence"):
            yield f"{_code(item, 'ConceptNameCodeSequence').value} has no unit"


def _tracked_groups(dataset: Dataset, _: Sequence[Dataset]) -> Iterator[str]:
    for number, group in enumerate(_groups(dataset), 1):
        for name in (codes.DCM.TrackingIdentifier, codes.DCM.TrackingUniqueIdentifier):
            if not any(_texts(group, name)):
                yield f"group {number} has no {name.meaning}"


def _outcome_stated(dataset: Dataset, _: Sequence[Dataset]) -> Iterator[str]:
    summaries = [_code(item, "ConceptCodeSequence") for item in _named(dataset, codes.DCM.SummaryOfAnalyses)]
    if len(summaries) != 1:
        yield "does not say how the analysis ended"
    elif (summaries[0] == NO_RESULT) == any(True for _ in _groups(dataset)):
        yield "has results exactly where it says there are none"


def _absent_is_no_finding(dataset: Dataset, _: Sequence[Dataset]) -> Iterator[str]:
    for number, group in enumerate(_groups(dataset), 1):
        labels = [_code(finding, "ConceptCodeSequence") for finding in _named(group, codes.DCM.Finding)]
        said = [_code(item, "ConceptCodeSequence") for label in labels for item in _named(group, label)]
        if codes.SCT.Absent in said:
            yield f"group {number} names a finding that it says is absent"


def _algorithm_identified(dataset: Dataset, _: Sequence[Dataset]) -> Iterator[str]:
    named = {
        (item.get("ManufacturerModelName"), item.get("SoftwareVersions"))
        for item in _algorithm_equipment(dataset)
    }
    for number, group in enumerate(_groups(dataset), 1):
        names, versions = (
            _texts(group, name) for name in (codes.DCM.AlgorithmName, codes.DCM.AlgorithmVersion)
        )
        if {(name, version) for name in names for version in versions} - named or not (names and versions):
            yield f"group {number} does not name the algorithm of the contributing equipment"


def _device_identified(dataset: Dataset, _: Sequence[Dataset]) -> Iterator[str]:
    equipment = _algorithm_equipment(dataset)
    if not equipment:
        yield "no contributing equipment has a Device UID"
    for item in equipment:
        if not all(map(item.get, ("Manufacturer", "ManufacturerModelName", "SoftwareVersions"))):
            yield "the contributing equipment lacks manufacturer, model or version"
    devices = {str(item.DeviceUID) for item in equipment}
    if _is_report(dataset) and _texts(dataset, codes.DCM.DeviceObserverUID) != devices:
        yield "the Device Observer UID is not the Device UID of the contributing equipment"


def _unverified(dataset: Dataset, _: Sequence[Dataset]) -> Iterator[str]:
    if dataset.get("VerificationFlag") != "UNVERIFIED" or "VerifyingObserverSequence" in dataset:
        yield "claims to be verified"
    if dataset.get("PreliminaryFlag") != "PRELIMINARY":
        yield "is not preliminary"


def _schemes_declared(dataset: Dataset, _: Sequence[Dataset]) -> Iterator[str]:
    declared = {
        item.get("CodingSchemeDesignator")
        for item in dataset.get("CodingSchemeIdentificationSequence") or ()
        if item.get("CodingSchemeUID")
    }
    used = {
        str(element.value) for element in dataset.iterall() if element.keyword == "CodingSchemeDesignator"
    }
    for scheme in sorted(used - declared):
        if scheme.startswith(PRIVATE_SCHEME_PREFIX):
            yield f"coding scheme {scheme} is used, but not declared with a UID"


def _marked_picture(dataset: Dataset, _: Sequence[Dataset]) -> Iterator[str]:
    if dataset.get("BurnedInAnnotation") != "YES":
        yield "Burned In Annotation is not YES"
    if list(dataset.get("ImageType") or ())[:2] != ["DERIVED", "SECONDARY"]:
        yield "Image Type is not DERIVED, SECONDARY"


def _source_image_named(dataset: Dataset, _: Sequence[Dataset]) -> Iterator[str]:
    items = dataset.get("SourceImageSequence") or ()
    purposes = {_code(item, "PurposeOfReferenceCodeSequence") for item in items}
    if purposes != {codes.DCM.SourceImageForImageProcessingOperation}:
        yield "does not name its source image"


def _visible_picture(dataset: Dataset, _: Sequence[Dataset]) -> Iterator[str]:
    shape = (
        int(dataset.get("Rows") or 0),
        int(dataset.get("Columns") or 0),
        int(dataset.get("SamplesPerPixel") or 0),
    )
    pixels = np.frombuffer(dataset.get("PixelData") or b"", np.uint8)
    if pixels.size - math.prod(shape) not in (0, math.prod(shape) % 2) or not pixels.size:
        yield f"has {pixels.size} bytes of pixels, expected {math.prod(shape)}"
        return
    # The caption is below: were the anatomy blank, the text alone would still look like a picture.
    upper = pixels[: math.prod(shape)].reshape(shape)[: max(1, shape[0] // 2)]
    if upper.min() == upper.max():
        yield "the picture above the caption is blank"


RULES: tuple[Rule, ...] = (
    Rule("known_class", _is_known, _known_class),
    Rule("required_attributes", _is_known, _required_attributes),
    Rule("well_formed_uids", _is_known, _well_formed_uids),
    Rule("same_study", _is_known, _same_study, needs_sources=True),
    Rule("same_patient", _is_known, _same_patient, needs_sources=True),
    Rule("new_identifiers", _is_known, _new_identifiers, needs_sources=True),
    Rule("references_exist", _is_known, _references_exist, needs_sources=True),
    Rule("device_identified", _is_known, _device_identified),
    Rule("schemes_declared", _is_known, _schemes_declared),
    Rule("evidence_complete", _is_report, _evidence_complete),
    Rule("separate_containers", _is_report, _separate_containers),
    Rule("measured_values", _is_report, _measured_values),
    Rule("unverified", _is_report, _unverified),
    Rule("tracked_groups", _is_measurement_report, _tracked_groups),
    Rule("outcome_stated", _is_measurement_report, _outcome_stated),
    Rule("absent_is_no_finding", _is_measurement_report, _absent_is_no_finding),
    Rule("algorithm_identified", _is_measurement_report, _algorithm_identified),
    Rule("marked_picture", _is_picture, _marked_picture),
    Rule("source_image_named", _is_picture, _source_image_named),
    Rule("visible_picture", _is_picture, _visible_picture),
)
