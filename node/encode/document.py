"""What every structured report has: the observer, the evidence, the flags, and a tree of separate items."""

import re
from collections.abc import Iterable, Mapping
from textwrap import wrap

from highdicom import SOPClass
from highdicom.sr import (
    CodedConcept,
    Comprehensive3DSR,
    ComprehensiveSR,
    ContainerContentItem,
    ContentItem,
    ContentSequence,
    DeviceObserverIdentifyingAttributes,
    EnhancedSR,
    LanguageOfContentItemAndDescendants,
    ObserverContext,
    RelationshipTypeValues,
    TextContentItem,
)
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import EnhancedSRStorage

from node.domain.profile import Kind, ReportClass
from node.encode.codes import DEVICE
from node.encode.evidence import AnySource, evidence, reference
from node.encode.identity import Device, Predecessor, Result, contributing_equipment, plain, stamp

LONGEST_WORDS = 1024
LINE_WIDTH = 96
LANGUAGE = CodedConcept("en-US", "RFC5646", "English (United States)")
CONTAINS = RelationshipTypeValues.CONTAINS


class _Comprehensive3D(AnySource, Comprehensive3DSR):
    pass


class _Comprehensive(AnySource, ComprehensiveSR):
    pass


class _Enhanced(AnySource, EnhancedSR):
    pass


Document = type[_Comprehensive3D] | type[_Comprehensive] | type[_Enhanced]
DOCUMENT_BY_CLASS: Mapping[ReportClass, Document] = {
    ReportClass.COMPREHENSIVE_3D: _Comprehensive3D,
    ReportClass.COMPREHENSIVE: _Comprehensive,
    ReportClass.ENHANCED: _Enhanced,
}


def build_document(
    root: ContainerContentItem,
    result: Result,
    kind: Kind,
    *,
    report_class: ReportClass,
    siblings: Iterable[Dataset] = (),
) -> Dataset:
    """Return the report with its content, in a series of its own; it may refer to `siblings` of the run.

    It is complete if the analysis was, preliminary, and never verified: only a physician verifies. That the
    evidence has all that the tree refers to is for the caller to see to.
    """
    separate(root)
    # highdicom copies, converts and searches the tree it is given: two thirds of the time, for nothing here.
    tree = root.ContentSequence
    root.ContentSequence = ContentSequence()
    document = DOCUMENT_BY_CLASS[report_class](
        evidence=[*map(evidence, result.sources), *siblings],
        content=root,
        series_instance_uid=result.series_uid(kind),
        series_number=result.series_number(kind),
        sop_instance_uid=result.instance_uid(kind),
        instance_number=1,
        manufacturer=result.device.manufacturer,
        is_complete=result.findings.refusal is None,
        previous_versions=[superseded(one) for one in result.predecessors(kind)] or None,
        contributing_equipment=[contributing_equipment(result.device)],
        specific_character_set=None,
    )
    document.ContentSequence = tree
    stamp(document, result, kind)
    return document


def superseded(predecessor: Predecessor) -> Dataset:
    """Return what highdicom needs to name an earlier document as the one that this supersedes."""
    return reference(
        predecessor.study_instance_uid,
        predecessor.series_instance_uid,
        predecessor.sop_class_uid,
        predecessor.sop_instance_uid,
    )


def warm_up() -> None:
    """Have highdicom read its tables of attributes (0.4 s), so that the first study need not wait for it."""
    SOPClass("2.25.1", "2.25.2", 1, "2.25.3", EnhancedSRStorage, 1, "SR")


def observer(device: Device) -> ObserverContext:
    """Return who observed: the algorithm, as a device (TID 1001, 1004)."""
    return ObserverContext(
        observer_type=DEVICE,
        observer_identifying_attributes=DeviceObserverIdentifyingAttributes(
            uid=device.uid,
            name=device.name,
            manufacturer_name=device.manufacturer,
            model_name=device.name,
        ),
    )


def document_root(
    title: Code, template_id: str, device: Device, children: Iterable[ContentItem]
) -> ContainerContentItem:
    """Return the root of a tree: its title, language and observer, then the children."""
    root = ContainerContentItem(name=title, template_id=template_id)
    root.ContentSequence = ContentSequence(
        [*LanguageOfContentItemAndDescendants(LANGUAGE), *observer(device), *children]
    )
    return root


def container(
    name: Code, children: Iterable[ContentItem], *, template_id: str | None = None
) -> ContainerContentItem:
    """Return a container with its children."""
    item = ContainerContentItem(name=name, relationship_type=CONTAINS, template_id=template_id)
    item.ContentSequence = ContentSequence(list(children))
    return item


def sentence(name: Code, text: str) -> TextContentItem:
    """Return a line of text, in characters that the source's character set is sure to have."""
    return TextContentItem(name=name, value=plain(text, LONGEST_WORDS), relationship_type=CONTAINS)


def paragraph(name: Code, text: str) -> TextContentItem:
    """Return text as lines that fit on a screen: viewers cut what is longer at the edge."""
    lines = [""]
    # A line ends with a clause, that no figure stands without its unit.
    for clause in re.split(r"(?<=[,;]) ", plain(text, LONGEST_WORDS)):
        if lines[-1] and len(f"{lines[-1]} {clause}") > LINE_WIDTH:
            lines.append("  " + clause)
        else:
            lines[-1] = f"{lines[-1]} {clause}" if lines[-1] else clause
    value = "\r\n".join(part for line in lines for part in wrap(line, LINE_WIDTH, subsequent_indent="  "))
    return TextContentItem(name=name, value=value, relationship_type=CONTAINS)


def separate(item: ContentItem) -> None:
    """Mark every container as a list; the default makes viewers print one run-on paragraph."""
    if isinstance(item, ContainerContentItem):
        item.ContinuityOfContent = "SEPARATE"
    for child in item.get("ContentSequence", ()):
        separate(child)
