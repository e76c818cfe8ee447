"""Content trees: each item has what its value type asks for, and nothing claims to be verified."""

import math
from collections.abc import Iterator, Mapping

from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from node.conformance.content import code_of, first, text
from node.conformance.kinds import DOCUMENTS, REPORTS, is_findings_report, of
from node.conformance.rule import Rule
from node.conformance.subject import Subject
from node.conformance.tree import Item, read_tree

NEEDED: Mapping[str, tuple[str, ...]] = {
    "CONTAINER": ("ContinuityOfContent",),
    "TEXT": ("TextValue",),
    "CODE": ("ConceptCodeSequence",),
    "NUM": (),
    "UIDREF": ("UID",),
    "DATETIME": ("DateTime",),
    "DATE": ("Date",),
    "TIME": ("Time",),
    "PNAME": ("PersonName",),
    "IMAGE": ("ReferencedSOPSequence",),
    "COMPOSITE": ("ReferencedSOPSequence",),
    "SCOORD": ("GraphicType", "GraphicData"),
    "SCOORD3D": ("GraphicType", "GraphicData", "ReferencedFrameOfReferenceUID"),
}
"""What an item must have by its value type (PS3.3 C.17.3.2); of numbers, a rule of their own."""

UNNAMED = frozenset({"IMAGE", "COMPOSITE", "CONTAINER"})
"""Value types whose items may go without a concept name."""

NO_RESULT = codes.DCM.NoAlgorithmsSucceededWithoutFindings
PARTIAL, COMPLETE = "PARTIAL", "COMPLETE"


def _content_items(subject: Subject) -> Iterator[str]:
    for item in subject.tree.walk():
        faults = _faults(item, is_root=item is subject.tree)
        yield from (f"{item.value_type or 'an item'} {item.name.value} {fault}" for fault in faults)


def _faults(item: Item, *, is_root: bool) -> Iterator[str]:
    if item.value_type not in NEEDED:
        yield "has no value type that results use"
    for keyword in NEEDED.get(item.value_type, ()):
        if item.dataset.get(keyword) in (None, "", []):
            yield f"has no {keyword}"
    if item.value_type not in UNNAMED and not item.name.value:
        yield "has no name"
    if not is_root and not text(item.dataset, "RelationshipType"):
        yield "has no relationship to its parent"
    if "ContentSequence" in item.dataset and not item.children:
        yield "has an empty list of children"


def _separate_containers(subject: Subject) -> Iterator[str]:
    containers = subject.tree.typed("CONTAINER")
    if any(text(item.dataset, "ContinuityOfContent") != "SEPARATE" for item in containers):
        yield "a container is not SEPARATE"


def _measured_values(subject: Subject) -> Iterator[str]:
    for item in subject.tree.typed("NUM"):
        value = first(item.dataset, "MeasuredValueSequence")
        if not _is_finite(value.get("NumericValue")):
            yield f"{item.name.value} has no value"
        elif not code_of(value, "MeasurementUnitsCodeSequence").value:
            yield f"{item.name.value} has no unit"


def _is_finite(value: object) -> bool:
    try:
        return math.isfinite(float(str(value)))
    except ValueError:
        return False


def _unverified(subject: Subject) -> Iterator[str]:
    dataset = subject.dataset
    if text(dataset, "VerificationFlag") != "UNVERIFIED" or "VerifyingObserverSequence" in dataset:
        yield "claims to be verified"
    if text(dataset, "PreliminaryFlag") != "PRELIMINARY":
        yield "is not preliminary"


def _outcome_stated(subject: Subject) -> Iterator[str]:
    summaries = subject.tree.codes(codes.DCM.SummaryOfAnalyses)
    if len(summaries) != 1:
        yield "does not say how the analysis ended"
    elif summaries[0] == NO_RESULT and subject.groups:
        yield "has results where it says there are none"
    elif summaries[0] == NO_RESULT and any(
        text(one, "SOPClassUID") not in REPORTS for one in subject.siblings
    ):
        yield "says that there are no results, which other objects of the run have"


def _completion_stated(subject: Subject) -> Iterator[str]:
    """Yield where an analysis that failed calls itself complete, or one that did not calls itself partial.

    What does not say how the analysis ended has the flag of the report of the same run that does.
    """
    flag = text(subject.dataset, "CompletionFlag")
    if flag not in (PARTIAL, COMPLETE):
        yield f"the completion flag is {flag!r}"
    for summary in _summaries(subject):
        if flag != (PARTIAL if summary == NO_RESULT else COMPLETE):
            yield f"is {flag}, which is not how the analysis ended"


def _summaries(subject: Subject) -> list[Code]:
    """Return how the analysis ended, by the report itself, else by those of the same run."""
    own = subject.tree.codes(codes.DCM.SummaryOfAnalyses)
    reports = [one for one in subject.siblings if text(one, "SOPClassUID") in REPORTS]
    trees = [] if own else map(read_tree, reports)
    return own or [code for tree in trees for code in tree.codes(codes.DCM.SummaryOfAnalyses)]


RULES = (
    Rule("content_items", of(DOCUMENTS), _content_items),
    Rule("separate_containers", of(REPORTS), _separate_containers),
    Rule("measured_values", of(REPORTS), _measured_values),
    Rule("unverified", of(REPORTS), _unverified),
    Rule("outcome_stated", is_findings_report, _outcome_stated),
    Rule("completion_stated", of(REPORTS), _completion_stated),
)
