"""Whose result it is: the source's patient and study, and identifiers of our own that nothing else has."""

import re
import uuid
from collections.abc import Iterator

from pydicom.charset import convert_encodings, default_encoding, encode_string
from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.tag import Tag
from pydicom.valuerep import PersonName

from node.conformance.content import code_of, text
from node.conformance.kinds import DOCUMENTS, everything
from node.conformance.rule import Rule
from node.conformance.subject import FURTHER, IDENTITY, STUDY, Subject

OWN = ("SeriesInstanceUID", "SOPInstanceUID")
OWN_INSIDE = frozenset(
    map(Tag, ("DimensionOrganizationUID", "TrackingUID", "AnnotationGroupUID", "DeviceUID"))
)
"""What the node itself names, beside the object and its series."""

OF_A_SERIES = ("SOPClassUID", "Modality", "SeriesNumber", "SeriesDescription")
"""What the objects of one series have in common."""


def _same_study(subject: Subject) -> Iterator[str]:
    studies = {text(source, "StudyInstanceUID") for source in subject.sources}
    if studies != {text(subject.dataset, "StudyInstanceUID")}:
        yield f"is in study {subject.dataset.get('StudyInstanceUID')}, expected {', '.join(sorted(studies))}"


def _same_patient(subject: Subject) -> Iterator[str]:
    """Yield what differs, byte for byte, from the source that comes closest."""
    closest: list[str] | None = None
    for source in subject.sources:
        differing = _differing(subject.dataset, source)
        if closest is None or len(differing) < len(closest):
            closest = differing
        if not closest:
            return
    yield from (f"{keyword} is not the source's" for keyword in closest or ())


def _differing(dataset: Dataset, source: Dataset) -> list[str]:
    keywords = ("SpecificCharacterSet", *IDENTITY, *STUDY, *FURTHER)
    return [keyword for keyword in keywords if _bytes(dataset, keyword) != _bytes(source, keyword)]


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


def _new_identifiers(subject: Subject) -> Iterator[str]:
    for keyword in OWN:
        if text(subject.dataset, keyword) in {text(source, keyword) for source in subject.sources}:
            yield f"{keyword} is a source's"


def _unique_in_run(subject: Subject) -> Iterator[str]:
    for sibling in subject.siblings:
        if text(sibling, "SOPInstanceUID") == text(subject.dataset, "SOPInstanceUID"):
            yield f"another object of the run is {text(sibling, 'SOPInstanceUID')} too"
        elif _is_in_series(sibling, subject.dataset) and _is_of_another_kind(sibling, subject.dataset):
            yield f"shares its series with {text(sibling, 'SOPInstanceUID')}, an object of another kind"


def _is_in_series(one: Dataset, other: Dataset) -> bool:
    return text(one, "SeriesInstanceUID") == text(other, "SeriesInstanceUID")


def _is_of_another_kind(one: Dataset, other: Dataset) -> bool:
    """Return whether two objects must not share a series; of documents, a run has one of each kind."""
    is_document = text(one, "SOPClassUID") in DOCUMENTS
    return is_document or any(text(one, keyword) != text(other, keyword) for keyword in OF_A_SERIES)


def _well_formed_uids(subject: Subject) -> Iterator[str]:
    dataset = subject.dataset
    for keyword in OWN:
        uid = text(dataset, keyword)
        if len(uid) > 64 or not re.fullmatch(r"[012](\.(0|[1-9]\d*))+", uid):
            yield f"{keyword} {uid!r} is not a UID"
    meta = getattr(dataset, "file_meta", Dataset())
    for keyword in ("SOPInstanceUID", "SOPClassUID"):
        if meta.get(f"MediaStorage{keyword}") != dataset.get(keyword):
            yield f"the file's meta information has another {keyword}"


def _derived_uids(subject: Subject) -> Iterator[str]:
    """Yield the UIDs that were drawn by lot: the next encoding of the same result would have others."""
    found = [(keyword, subject.dataset) for keyword in OWN]
    found += [(keyword_for_tag(tag), item) for _, item in subject.items for tag in OWN_INSIDE & item.keys()]
    if subject.sop_class_uid in DOCUMENTS:
        tracked = subject.tree.named(codes.DCM.TrackingUniqueIdentifier)
        found += [("UID", item.dataset) for item in tracked]
    for keyword, item in found:
        if not is_derived(text(item, keyword)) and not _is_foreign_device(item):
            yield f"{keyword} {text(item, keyword)!r} is not derived (2.25 and a UUID of version 5)"


def is_derived(uid: str) -> bool:
    """Return whether a UID is made of a UUID that was computed from names (PS3.5 B.2, RFC 4122 4.3)."""
    number = uid.removeprefix("2.25.")
    if number == uid or not re.fullmatch(r"[1-9]\d{0,38}", number) or int(number) >= 1 << 128:
        return False
    return uuid.UUID(int=int(number)).version == 5


def _is_foreign_device(item: Dataset) -> bool:
    """Return whether it is a device that the source names as its own, such as the scanner."""
    purpose = code_of(item, "PurposeOfReferenceCodeSequence")
    return "DeviceUID" in item and purpose != codes.DCM.ProcessingEquipment


RULES = (
    Rule("same_study", everything, _same_study, needs_sources=True),
    Rule("same_patient", everything, _same_patient, needs_sources=True),
    Rule("new_identifiers", everything, _new_identifiers, needs_sources=True),
    Rule("unique_in_run", everything, _unique_in_run),
    Rule("well_formed_uids", everything, _well_formed_uids),
    Rule("derived_uids", everything, _derived_uids),
)
