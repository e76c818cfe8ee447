"""The key object selection: TID 2010, the pictures that a reader should look at first."""

from collections.abc import Iterator

from highdicom.ko import KeyObjectSelection, KeyObjectSelectionDocument
from highdicom.sr import ContainerContentItem, ContentItem
from pydicom.dataset import Dataset

from node.domain.findings import Findings, Outcome
from node.domain.profile import Kind
from node.encode import codes
from node.encode.document import CONTAINS, document_root, sentence, separate
from node.encode.evidence import evidence
from node.encode.identity import Result, contributing_equipment, stamp
from node.encode.pictures import Picture, refer, shown_pictures
from node.encode.summary import WARNING, describe_findings, describe_outcome


def encode_key_objects(result: Result) -> Iterator[Dataset]:
    """Yield the selection of the pictures that show a finding; nothing where nothing is found, or selected.

    Its kind names no predecessors: the standard has no place for them (PS3.3 C.17.6.2).
    """
    pictures = shown_pictures(result)
    if not pictures or not _is_selected(result.findings):
        return
    root = document_root(codes.KEY_OBJECTS, "2010", result.device, _content(pictures, result.findings))
    yield _document(root, pictures, result)


def _is_selected(findings: Findings) -> bool:
    """Return whether there are pictures of interest; a picture from the middle of a series is none."""
    has_choice = bool(findings.key_frames or findings.regions) or len(findings.sop_instance_uids) == 1
    return findings.outcome is Outcome.FINDINGS and has_choice and not findings.is_foreign


def _content(pictures: tuple[Picture, ...], findings: Findings) -> Iterator[ContentItem]:
    words = [WARNING, f"Outcome: {describe_outcome(findings)}", *describe_findings(findings)]
    yield sentence(codes.KEY_OBJECT_DESCRIPTION, ". ".join(words))
    yield from (refer(codes.SOURCE, picture, CONTAINS) for picture in pictures)


def _document(root: ContainerContentItem, pictures: tuple[Picture, ...], result: Result) -> Dataset:
    separate(root)
    document = KeyObjectSelectionDocument(
        evidence=[evidence(picture.source) for picture in pictures],
        content=KeyObjectSelection.from_sequence([root]),
        series_instance_uid=result.series_uid(Kind.KEY_OBJECTS),
        series_number=result.series_number(Kind.KEY_OBJECTS),
        sop_instance_uid=result.instance_uid(Kind.KEY_OBJECTS),
        instance_number=1,
        manufacturer=result.device.manufacturer,
        contributing_equipment=[contributing_equipment(result.device)],
        specific_character_set=None,
    )
    for item in document.ContentSequence:
        if item.ValueType == "IMAGE":
            # TID 2010 has pictures without a name; highdicom cannot make an item without one.
            del item.ConceptNameCodeSequence
    stamp(document, result, Kind.KEY_OBJECTS)
    return document
