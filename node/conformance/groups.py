"""Measurement groups (TID 1500): what viewers and validators stumble over."""

from collections.abc import Iterator

from pydicom.sr.codedict import codes

from node.conformance.kinds import (
    PLAIN_GROUP,
    PLANAR_GROUP,
    VOLUME_GROUP,
    is_lesions_report,
    is_measurement_report,
)
from node.conformance.rule import Rule
from node.conformance.subject import Subject
from node.conformance.tree import Item

TEMPLATES = frozenset({PLAIN_GROUP, PLANAR_GROUP, VOLUME_GROUP})


def _numbered(subject: Subject) -> list[tuple[int, Item]]:
    return list(enumerate(subject.groups, 1))


def _tracked_groups(subject: Subject) -> Iterator[str]:
    for number, group in _numbered(subject):
        for name in (codes.DCM.TrackingIdentifier, codes.DCM.TrackingUniqueIdentifier):
            if not any(group.texts(name)):
                yield f"group {number} has no {name.meaning}"


def _absent_is_no_finding(subject: Subject) -> Iterator[str]:
    """Yield the groups that viewers would list as found though they say the finding is absent."""
    for number, group in _numbered(subject):
        said = [answer for label in group.codes(codes.DCM.Finding) for answer in group.codes(label)]
        if codes.SCT.Absent in said:
            yield f"group {number} names a finding that it says is absent"


def _groups_have_templates(subject: Subject) -> Iterator[str]:
    for number, group in _numbered(subject):
        has_segment = bool(group.named(codes.DCM.ReferencedSegment))
        if group.template not in TEMPLATES:
            yield f"group {number} has no template"
        elif group.template == PLANAR_GROUP and not (group.has_graphics or has_segment):
            yield f"group {number} is of TID 1410, but has no region"
        elif group.template == VOLUME_GROUP and not has_segment:
            yield f"group {number} is of TID 1411, but has no segment"


def _one_shape_of_groups(subject: Subject) -> Iterator[str]:
    """Yield the groups that a validator would take for one of a volume that lacks its region."""
    if any(group.template == VOLUME_GROUP for group in subject.groups):
        for number, group in _numbered(subject):
            if group.template == PLAIN_GROUP and not group.has_graphics:
                yield f"group {number} of TID 1501 stands beside groups of TID 1411"


def _tracked_geometry(subject: Subject) -> Iterator[str]:
    """Yield what is tracked and has no coordinates: a viewer may fail to open the report at all."""
    located, tracked = set(), set()
    for group in subject.groups:
        uids = group.texts(codes.DCM.TrackingUniqueIdentifier)
        tracked |= uids
        located |= uids if group.has_graphics else set()
    for uid in sorted(tracked - located):
        yield f"{uid} is tracked, but has no coordinates"


def _slide_groups_located(subject: Subject) -> Iterator[str]:
    """Yield the groups of a slide without a region: where it is the first, a viewer drops the report."""
    if subject.tree.typed("SCOORD3D"):
        for number, group in _numbered(subject):
            if not group.has_graphics:
                yield f"group {number} has no region, as each group of a slide must"


RULES = (
    Rule("tracked_groups", is_measurement_report, _tracked_groups),
    Rule("absent_is_no_finding", is_measurement_report, _absent_is_no_finding),
    Rule("groups_have_templates", is_measurement_report, _groups_have_templates),
    Rule("one_shape_of_groups", is_lesions_report, _one_shape_of_groups),
    Rule("tracked_geometry", is_lesions_report, _tracked_geometry),
    Rule("slide_groups_located", is_lesions_report, _slide_groups_located),
)
