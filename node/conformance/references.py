"""What a result refers to: all of it exists, is what it is said to be, and is listed."""

from collections.abc import Iterator

from pydicom.dataset import Dataset

from node.conformance.content import number, numbers, reference_of, sequence, text
from node.conformance.kinds import (
    ANNOTATIONS,
    DOCUMENTS,
    OVERLAYS,
    PRESENTATIONS,
    SEGMENTATIONS,
    everything,
    of,
)
from node.conformance.rule import Rule
from node.conformance.subject import Listed, Subject


def _references_exist(subject: Subject) -> Iterator[str]:
    predecessors = {one.sop_instance_uid: one.sop_class_uid for one in subject.predecessors}
    known = predecessors | {uid: text(one, "SOPClassUID") for uid, one in subject.known.items()}
    listed = {(one.sop_class_uid, one.sop_instance_uid) for one in subject.evidence}
    for sop_class, uid in sorted(listed | _referenced(subject)):
        if uid not in known:
            yield f"refers to {uid}, which is no source, no object of this run and no predecessor"
        elif sop_class != known[uid]:
            yield f"refers to {uid} as of class {sop_class}, it is of {known[uid]}"


def _referenced(subject: Subject) -> set[tuple[str, str]]:
    return {reference_of(item) for _, item in subject.references}


def _no_self_reference(subject: Subject) -> Iterator[str]:
    own = text(subject.dataset, "SOPInstanceUID")
    if own in {uid for _, uid in _referenced(subject)} | {one.sop_instance_uid for one in subject.evidence}:
        yield "refers to itself"
    for predecessor in subject.predecessors:
        if predecessor.sop_instance_uid == own or predecessor.sop_instance_uid in subject.known:
            yield f"supersedes {predecessor.sop_instance_uid}, which is no earlier result"
        if predecessor.study_instance_uid != text(subject.dataset, "StudyInstanceUID"):
            yield f"supersedes {predecessor.sop_instance_uid}, which is of another study"


def _evidence_complete(subject: Subject) -> Iterator[str]:
    """Yield what the list of all references lacks or has in the wrong place (PS3.3 C.17.2.3, C.12.2)."""
    if not subject.evidence:
        yield "names no evidence"
    listed = {(one.sop_class_uid, one.sop_instance_uid) for one in subject.evidence}
    for _class, uid in sorted(_referenced(subject) - listed):
        yield f"the content refers to {uid}, the evidence does not"
    for one in subject.evidence:
        target = subject.known.get(one.sop_instance_uid)
        if target is not None and _place(one) != _place_of(target):
            yield f"the evidence has {one.sop_instance_uid} in another series or study than it is in"


def _place(one: Listed) -> tuple[str, str]:
    return one.study_instance_uid, one.series_instance_uid


def _place_of(target: Dataset) -> tuple[str, str]:
    return text(target, "StudyInstanceUID"), text(target, "SeriesInstanceUID")


def _frame_numbers(subject: Subject) -> Iterator[str]:
    for _, item in subject.references:
        uid = text(item, "ReferencedSOPInstanceUID")
        if uid not in subject.known or "ReferencedFrameNumber" not in item:
            continue
        frames = max(1, number(subject.known[uid], "NumberOfFrames"))
        for one in numbers(item, "ReferencedFrameNumber"):
            if not 1 <= one <= frames:
                yield f"refers to frame {one:.0f} of {uid}, which has {frames}"


def _segment_numbers(subject: Subject) -> Iterator[str]:
    for keyword, item in subject.references:
        wanted = set(numbers(item, "ReferencedSegmentNumber"))
        target = subject.target(item)
        if not wanted or text(target, "SOPClassUID") not in SEGMENTATIONS:
            continue
        described = {number(one, "SegmentNumber") for one in sequence(target, "SegmentSequence")}
        for one in sorted(wanted - described):
            yield f"{keyword} refers to segment {one:.0f}, which the segmentation does not describe"


RULES = (
    Rule("references_exist", everything, _references_exist, needs_sources=True),
    Rule("no_self_reference", everything, _no_self_reference),
    Rule("evidence_complete", of(DOCUMENTS | OVERLAYS | PRESENTATIONS | ANNOTATIONS), _evidence_complete),
    Rule("frame_numbers", everything, _frame_numbers, needs_sources=True),
    Rule("segment_numbers", everything, _segment_numbers),
)
