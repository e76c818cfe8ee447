"""What a received report says of our results: accepted, modified or rejected, whole or finding by finding.

IHE has a profile for these three verdicts (RAD AI Result Assessment, supplement of June 2025); how it
encodes them could not be read, and no dictionary has codes made for it. So these count, all but the last of
the standard:

    accept   CODE with the value (122775, DCM, Agreement with prior findings), CID 3217
    reject   CODE with the value (122776, DCM, Disagreement with prior findings), CID 3217
    reject   title Rejected for Quality Reasons (113001, DCM) or for Patient Safety Reasons (113037, DCM),
             CID 7010: the rejection note of IHE RAD Imaging Object Change Management
    modify   Predecessor Documents (PS3.3 C.17.2) with the purpose (121360, DCM, Replaced report), CID 7009,
             or with any, where the report is an Imaging Measurement Report (126000, DCM)
    each     CODE with the value FB-ACCEPT, FB-MODIFY or FB-REJECT, 99SIGHTLINE

A CODE is about the finding whose Tracking Unique Identifier, or the result whose reference, stands nearest
to it: below it, by-reference relationships followed; else beside it; else beside its parent, and so on
outward. Where there is none, one of our own codes is about every result that the document refers to,
evidence included; those of CID 3217 say nothing, for the prior findings may be anybody's. Title and
predecessors count only where no CODE does. A report that contradicts itself on a subject says nothing of
it. Rendering Intent (CID 6034) is a wish for the display, and Content Assessment Results are no report:
both are no verdict.
"""

import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

import structlog
from pydicom import dcmread
from pydicom.datadict import keyword_dict
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.tag import Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian, UID_dictionary  # type: ignore[attr-defined]

from node.domain.code import PRIVATE_SCHEME
from node.domain.feedback import VERDICT_CODES, Feedback, Verdict
from node.domain.study import Instance
from node.errors import DatasetError, SightlineError
from node.header import read_file_meta
from node.read.dataset import dataset_faults, read_header

# Every storage class whose objects are a content tree (PS3.4 B.5, annex O), key object selections among them.
REPORTS = frozenset(
    uid
    for uid, row in UID_dictionary.items()
    if row[1] == "SOP Class" and uid.startswith("1.2.840.10008.5.1.4.1.1.88.")
)

# A report with the image library of a series of 300 slices has 1.2 MB and 20,000 items. At these limits, the
# worst that was thought of takes 4 s of one core and 110 MB, nearly all of it in pydicom.
MAX_BYTES = 4 << 20
MAX_ITEMS = 50_000
MAX_DEPTH = 64
MAX_UIDS = 10_000
ITEM_TAGS = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")
# However many senders try it, one such report is parsed at a time, and other instances get their turn.
ONE_AT_A_TIME = Lock()
# Ours are all made of a UUID (PS3.5 B.2), as are many others.
UID = re.compile(rb"2\.25\.[0-9]{1,39}")

Concept = tuple[str, str]
Subject = tuple[str, str]
"""A result by its SOP Instance UID, and a finding in it by its tracking UID, or empty for all of it."""


def _concept(code: Code) -> Concept:
    return code.scheme_designator, code.value


VERDICT_BY_VALUE: Mapping[Concept, Verdict] = {
    _concept(codes.cid3217.AgreementWithPriorFindings): Verdict.ACCEPT,
    _concept(codes.cid3217.DisagreementWithPriorFindings): Verdict.REJECT,
    **{(code.scheme, code.value): verdict for verdict, code in VERDICT_CODES.items()},
}
REJECTING_TITLES = {
    _concept(codes.cid7010.RejectedForQualityReasons),
    _concept(codes.cid7010.RejectedForPatientSafetyReasons),
}
NEW_VERSION_TITLE = _concept(codes.DCM.ImagingMeasurementReport)
REPLACED = _concept(codes.cid7009.ReplacedReport)
TRACKING_UID = _concept(codes.DCM.TrackingUniqueIdentifier)
TRACKING_IDENTIFIER = _concept(codes.DCM.TrackingIdentifier)

PERSON, DEVICE = "person", "device"
OBSERVER_NAME = _concept(codes.DCM.PersonObserverName)
OBSERVER_TYPE = _concept(codes.DCM.ObserverType)
OBSERVER_TYPES = {_concept(codes.DCM.Person): PERSON, _concept(codes.DCM.Device): DEVICE}
OBSERVER_ROLES = {
    _concept(codes.DCM.PersonObserverRoleInTheOrganization),
    _concept(codes.DCM.PersonObserverRoleInThisProcedure),
}
ROLES: Mapping[Concept, str] = {
    _concept(code): code.meaning
    for group in (codes.cid7452, codes.cid7453)
    for code in (getattr(group, keyword) for keyword in group.dir())
}
"""CID 7452 and 7453. The meaning is the dictionary's: what a report writes there may be a name."""

log = structlog.get_logger()


def read_feedback(
    instance: Instance, results: Callable[[Set[str]], Mapping[str, Path]]
) -> tuple[Feedback, ...]:
    """Return what a received instance says of our results; nothing where it says nothing of them.

    `results` returns the files of those UIDs that are results of ours. An instance that is no report is not
    opened, a report that names none of ours is not parsed, and one that cannot be read says nothing.
    """
    if instance.sop_class_uid not in REPORTS:
        return ()
    try:
        with dataset_faults(instance.sop_instance_uid):
            uids = _uids_in(instance)
        path_by_uid = results(uids) if uids else {}
        # One of our own that came back names its predecessors too: it is no verdict on them.
        if not path_by_uid or instance.sop_instance_uid in path_by_uid:
            return ()
        with ONE_AT_A_TIME, dataset_faults(instance.sop_instance_uid):
            return _Report(read_header(instance), path_by_uid).feedback()
    except SightlineError as fault:
        log.warning("feedback_unreadable", sop_instance_uid=instance.sop_instance_uid, reason=str(fault))
        return ()


def _uids_in(instance: Instance) -> frozenset[str]:
    """Return what looks like a UID of ours, wherever it stands; DatasetError for what is too big to parse."""
    data = _encoded(instance)
    items = sum(map(data.count, ITEM_TAGS))
    if items > MAX_ITEMS:
        raise DatasetError(instance.sop_instance_uid, f"a report of {items} items, at most {MAX_ITEMS}")
    uids: set[bytes] = set()
    for match in UID.finditer(data):
        uids.add(match[0])
        if len(uids) > MAX_UIDS:
            raise DatasetError(instance.sop_instance_uid, f"a report that names more than {MAX_UIDS} UIDs")
    return frozenset(uid.decode() for uid in uids)


def _encoded(instance: Instance) -> bytes:
    """Return the data set as it is encoded, inflated where it was deflated."""
    with instance.path.open("rb") as file:
        if instance.transfer_syntax_uid != DeflatedExplicitVRLittleEndian:
            data = file.read(MAX_BYTES + 1)
        else:
            read_file_meta(file)
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(file.read(MAX_BYTES), MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise DatasetError(instance.sop_instance_uid, f"a report of more than {MAX_BYTES} bytes")
    return data


@dataclass(eq=False, slots=True)
class _Item:
    """A content item, what it names, and where it stands in its tree."""

    dataset: Dataset
    parent: "_Item | None" = None
    depth: int = 0
    children: "list[_Item]" = field(default_factory=list)
    name: Concept = field(init=False)
    value: Concept = field(init=False)

    def __post_init__(self) -> None:
        self.name = _coded(self.dataset, "ConceptNameCodeSequence")
        self.value = _coded(self.dataset, "ConceptCodeSequence")

    @property
    def tracking_uids(self) -> set[str]:
        return {_text(self.dataset, "UID")} - {""} if self.name == TRACKING_UID else set()

    @property
    def references(self) -> set[str]:
        listed = _items(self.dataset, "ReferencedSOPSequence")
        return {_text(one, "ReferencedSOPInstanceUID") for one in listed}

    @property
    def subjects(self) -> set[str]:
        """What a verdict near it must be about: a finding or a document; a picture may only illustrate it."""
        is_document = _text(self.dataset, "ValueType") == "COMPOSITE"
        return self.tracking_uids | (self.references if is_document else set())


def _tree(document: Dataset) -> list[_Item]:
    """Return the content items of a document, the root first and level by level."""
    items = [_Item(document)]
    for item in items:  # it grows meanwhile
        if item.depth > MAX_DEPTH:
            raise DatasetError("content tree", f"is deeper than {MAX_DEPTH}")
        item.children = [
            _Item(child, item, item.depth + 1) for child in _items(item.dataset, "ContentSequence")
        ]
        items += item.children
    return items


def _value(dataset: Dataset, keyword: str) -> object:
    # By its tag, an attribute that is not there costs a tenth of what the library takes by its keyword.
    tag = Tag(keyword_dict[keyword])
    return dataset[tag].value if tag in dataset else None


def _items(dataset: Dataset, keyword: str) -> Iterable[Dataset]:
    value = _value(dataset, keyword)
    return value if isinstance(value, Sequence) else ()


def _text(dataset: Dataset, keyword: str) -> str:
    value = _value(dataset, keyword)
    return value.strip() if isinstance(value, str) else ""


def _coded(dataset: Dataset, keyword: str) -> Concept:
    for code in _items(dataset, keyword):
        return _text(code, "CodingSchemeDesignator"), _text(code, "CodeValue")
    return "", ""


class _Report:
    """A report that names results of ours, and those results' files."""

    def __init__(self, document: Dataset, path_by_uid: Mapping[str, Path]) -> None:
        self._document = document
        self._path_by_uid = path_by_uid
        self._content = _tree(document)
        self._named_by_item: dict[_Item, tuple[set[str], set[str]]] = {}
        self._tracking_by_result: dict[str, Mapping[str, str]] = {}

    def feedback(self) -> tuple[Feedback, ...]:
        """Return one verdict a subject, in the order of their UIDs."""
        verdicts: dict[Subject, set[Verdict]] = {}
        for subject, verdict in list(self._stated()) or self._implied():
            verdicts.setdefault(subject, set()).add(verdict)
        author = _author(self._document, self._content[0])
        return tuple(
            Feedback(result, verdict, uid, self._tracking(result)[uid] if uid else "", author)
            for (result, uid), said in sorted(verdicts.items())
            for verdict in said
            if len(said) == 1
        )

    def _stated(self) -> Iterator[tuple[Subject, Verdict]]:
        """Yield what the codes say, and of what."""
        for item in self._content:
            if verdict := VERDICT_BY_VALUE.get(item.value):
                yield from ((subject, verdict) for subject in self._subjects(item))

    def _implied(self) -> Iterator[tuple[Subject, Verdict]]:
        """Yield what title and predecessors say."""
        title = self._content[0].name
        if title in REJECTING_TITLES:
            named = set().union(*(item.references for item in self._content))
            yield from (((uid, ""), Verdict.REJECT) for uid in self._ours(named))
        for one in _hierarchy(self._document, "PredecessorDocumentsSequence"):
            if title == NEW_VERSION_TITLE or _coded(one, "PurposeOfReferenceCodeSequence") == REPLACED:
                named = {_text(one, "ReferencedSOPInstanceUID")}
                yield from (((uid, ""), Verdict.MODIFY) for uid in self._ours(named))

    def _subjects(self, item: _Item) -> list[Subject]:
        """Return what a verdict is about: the nearest that is named, else, by our own codes, all results."""
        for subjects, references in self._surroundings(item):
            ours = self._ours(references)
            if subjects or ours:
                results = ours or self._results()
                found = [(one, uid) for one in results for uid in subjects & self._tracking(one).keys()]
                return found or [(one, "") for one in ours]
        return [(one, "") for one in self._results()] if item.value[0] == PRIVATE_SCHEME else []

    def _surroundings(self, item: _Item) -> Iterator[tuple[set[str], set[str]]]:
        """Yield the subjects and references below an item, then beside it, and so on outward to the root."""
        below = [item]
        for one in below:  # it grows meanwhile
            below += one.children
        yield self._named(below)
        while item.parent:
            item = item.parent
            if item not in self._named_by_item:
                self._named_by_item[item] = self._named([item, *item.children])
            yield self._named_by_item[item]

    def _named(self, items: Iterable[_Item]) -> tuple[set[str], set[str]]:
        """Return the subjects and references of items, and of those that they point to."""
        subjects: set[str] = set()
        references: set[str] = set()
        for item in items:
            target = self._target(_value(item.dataset, "ReferencedContentItemIdentifier"))
            for one in [item, *([target, *target.children] if target else [])]:
                subjects |= one.subjects
                references |= one.references
        return subjects, references

    def _target(self, identifier: object) -> _Item | None:
        """Return the item that a by-reference relationship points to: positions from 1, the root's first."""
        if not isinstance(identifier, Iterable):
            return None
        item = self._content[0]
        for position in list(identifier)[1:]:
            if not 1 <= int(position) <= len(item.children):
                return None
            item = item.children[int(position) - 1]
        return item

    def _ours(self, uids: Set[str]) -> list[str]:
        return sorted(uids & self._path_by_uid.keys())

    def _results(self) -> list[str]:
        """Return every result of ours that the document refers to."""
        keywords = ("CurrentRequestedProcedureEvidence", "PertinentOtherEvidence", "PredecessorDocuments")
        named = set().union(*(item.references for item in self._content))
        for keyword in keywords:
            listed = _hierarchy(self._document, f"{keyword}Sequence")
            named |= {_text(one, "ReferencedSOPInstanceUID") for one in listed}
        return self._ours(named)

    def _tracking(self, result: str) -> Mapping[str, str]:
        if result not in self._tracking_by_result:
            self._tracking_by_result[result] = _tracking_identifiers(self._path_by_uid[result])
        return self._tracking_by_result[result]


def _hierarchy(document: Dataset, keyword: str) -> Iterator[Dataset]:
    """Yield the instances that a sequence lists by study and series (PS3.3 C.17.2.1)."""
    for study in _items(document, keyword):
        for series in _items(study, "ReferencedSeriesSequence"):
            yield from _items(series, "ReferencedSOPSequence")


def _tracking_identifiers(path: Path) -> dict[str, str]:
    """Return the findings of one of our results: tracking identifier by tracking unique identifier."""
    wanted = ["ContentSequence", "SegmentSequence"]
    result = dcmread(path, specific_tags=wanted, stop_before_pixels=True)
    segments = _items(result, "SegmentSequence")
    found = {_text(one, "TrackingUID"): _text(one, "TrackingID") for one in segments}
    for group in _tree(result):
        words = [_text(one.dataset, "TextValue") for one in group.children if one.name == TRACKING_IDENTIFIER]
        for uid in set().union(*(one.tracking_uids for one in group.children)):
            found[uid] = next(iter(words), "")
    return found


def _author(document: Dataset, root: _Item) -> str:
    """Return the observer's role (TID 1001 to 1003), or what kind of observer it is, or nothing."""
    context = [(item.name, item.value) for item in root.children]
    roles = [ROLES.get(value, "") for name, value in context if name in OBSERVER_ROLES]
    kinds = [OBSERVER_TYPES.get(value, "") for name, value in context if name == OBSERVER_TYPE]
    if any(name == OBSERVER_NAME for name, _ in context) or _items(document, "VerifyingObserverSequence"):
        kinds.append(PERSON)
    for observer in _items(document, "AuthorObserverSequence"):
        kinds.append({"PSN": PERSON, "DEV": DEVICE}.get(_text(observer, "ObserverType"), ""))
    return next(filter(None, [*roles, *kinds]), "")
