"""What reports say: their trees, their groups and their outlines."""

from copy import deepcopy

from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from tests.mutations.ways import (
    GROUP,
    Mutation,
    Row,
    assign,
    assign_anyway,
    both,
    change,
    drop,
    find,
    inside,
    items,
    name_of,
    named,
    open_line,
    recode,
    remove,
    set_template,
    shift_points,
    typed,
)
from tests.runs import FINDINGS, KEYS, LESIONS, SUMMARY, Run

DERIVED_UID = "2.25.301479812609572691103386530879396769921"
NODULE = Code("27925004", "SCT", "Nodule")
QUALITATIVE = Code("C0034375", "UMLS", "")


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


def repeat_without_region(dataset: Dataset) -> None:
    """Put the values of the first group before it, in a group of their own."""
    container = find(dataset, codes.DCM.ImagingMeasurements)
    values = deepcopy(container.ContentSequence[0])
    values.ContentTemplateSequence[0].TemplateIdentifier = "1501"
    values.ContentSequence = [one for one in values.ContentSequence if one.ValueType != "SCOORD3D"]
    container.ContentSequence = [values, *container.ContentSequence]


def name_absent_finding(dataset: Dataset) -> None:
    group = find(dataset, GROUP)
    label = next(item for item in items(group) if name_of(item) == NODULE.value)
    label.ConceptCodeSequence[0].CodeValue = codes.SCT.Absent.value
    label.ConceptCodeSequence[0].CodeMeaning = codes.SCT.Absent.meaning


def claim_no_result(dataset: Dataset) -> None:
    code = codes.DCM.NoAlgorithmsSucceededWithoutFindings
    recode(code.value, code.meaning)(find(dataset, codes.DCM.SummaryOfAnalyses).ConceptCodeSequence[0])


def move_to_corner(item: Dataset) -> None:
    item.GraphicData = [0, 0, 1, 0, 1, 1, 0, 1, 0, 0]


# --- the rule, the source, the object, and what is done to it


ROWS: list[Row] = [
    ("content_items", "dx", FINDINGS, "no words", named(codes.DCM.TrackingIdentifier, remove("TextValue"))),
    ("content_items", "ct", LESIONS, "no parent", named(GROUP, remove("RelationshipType"))),
    ("content_items", "dx", SUMMARY, "no content", named(codes.DCM.Findings, assign("ContentSequence", []))),
    (
        "content_items",
        "slide",
        LESIONS,
        "no place",
        typed("SCOORD3D", remove("ReferencedFrameOfReferenceUID")),
    ),
    ("content_items", "ct", KEYS, "no type", typed("TEXT", remove("ValueType"))),
    (
        "separate_containers",
        "ct",
        LESIONS,
        "continuous",
        named(GROUP, assign("ContinuityOfContent", "CONTINUOUS")),
    ),
    (
        "measured_values",
        "dx",
        FINDINGS,
        "no value",
        named(codes.DCM.Probability, assign("MeasuredValueSequence", [])),
    ),
    (
        "measured_values",
        "dx",
        LESIONS,
        "no unit",
        named(
            codes.DCM.CertaintyOfFinding,
            inside("MeasuredValueSequence", remove("MeasurementUnitsCodeSequence")),
        ),
    ),
    (
        "measured_values",
        "ct",
        LESIONS,
        "not a number",
        named(
            codes.DCM.CertaintyOfFinding,
            inside("MeasuredValueSequence", assign_anyway("NumericValue", "DS", "NaN")),
        ),
    ),
    ("unverified", "dx", FINDINGS, "verified", assign("VerificationFlag", "VERIFIED")),
    ("unverified", "ct", SUMMARY, "final", assign("PreliminaryFlag", "FINAL")),
    ("outcome_stated", "dx", FINDINGS, "silent", drop(QUALITATIVE, codes.DCM.SummaryOfAnalyses)),
    (
        "outcome_stated",
        "dx",
        FINDINGS,
        "denied",
        both(assign("CompletionFlag", "PARTIAL"), change(claim_no_result)),
    ),
    ("completion_stated", "ct", FINDINGS, "partial", assign("CompletionFlag", "PARTIAL")),
    ("completion_stated", "ct", SUMMARY, "partial beside a whole", assign("CompletionFlag", "PARTIAL")),
    ("tracked_groups", "dx", FINDINGS, "no words", drop(GROUP, codes.DCM.TrackingIdentifier)),
    ("tracked_groups", "dx", LESIONS, "no UID", drop(GROUP, codes.DCM.TrackingUniqueIdentifier)),
    ("absent_is_no_finding", "dx", FINDINGS, "absent finding", change(name_absent_finding)),
    ("groups_have_templates", "dx", FINDINGS, "unknown", named(GROUP, change(set_template("9999")))),
    ("groups_have_templates", "slide", LESIONS, "no region", drop(GROUP, codes.DCM.ImageRegion)),
    ("groups_have_templates", "ct", LESIONS, "no segment", drop(GROUP, codes.DCM.ReferencedSegment)),
    ("one_shape_of_groups", "ct", LESIONS, "1501 beside 1411", named(GROUP, change(set_template("1501")))),
    ("tracked_geometry", "ct", LESIONS, "without", retrack_lesion(DERIVED_UID, values_only=True)),
    ("slide_groups_located", "slide", LESIONS, "values first", change(repeat_without_region)),
    ("outlines_closed", "dx", LESIONS, "open", typed("SCOORD", change(open_line))),
    ("outlines_closed", "slide", LESIONS, "open", typed("SCOORD3D", change(open_line))),
    ("outlines_closed", "ct", LESIONS, "no numbers", typed("SCOORD", change(shift_points(float("nan"))))),
    ("outlines_inside", "dx", LESIONS, "outside", typed("SCOORD", change(shift_points(300)))),
    ("outlines_inside", "enhanced", LESIONS, "before", typed("SCOORD", change(shift_points(-60)))),
    ("outlines_inside", "slide", LESIONS, "off the slide", typed("SCOORD3D", change(shift_points(5)))),
    (
        "outlines_inside",
        "slide",
        LESIONS,
        "another space",
        typed("SCOORD3D", assign("ReferencedFrameOfReferenceUID", "1.2.3")),
    ),
    ("segment_tracking", "ct", LESIONS, "another name", retrack_lesion(DERIVED_UID)),
    ("outlines_on_segments", "ct", LESIONS, "elsewhere", typed("SCOORD", change(move_to_corner))),
    ("outlines_on_segments", "dx", LESIONS, "elsewhere", typed("SCOORD", change(move_to_corner))),
    ("outlines_on_segments", "ct labelmap", LESIONS, "elsewhere", typed("SCOORD", change(move_to_corner))),
]
