"""What a reading room says of our results: reports as a workstation or an archive would make them."""

from collections.abc import Callable, Mapping, Sequence
from io import BytesIO

import highdicom as hd
from highdicom import sr
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from node.domain.feedback import ASSESSMENT, VERDICT_CODES, Verdict
from node.encode.identity import private_scheme
from node.feedback import MAX_BYTES, MAX_DEPTH, MAX_ITEMS, MAX_UIDS
from node.samples.dicom import fresh_uid

READER = "Reader^Rita"
ACCEPT, MODIFY, REJECT = Verdict.ACCEPT, Verdict.MODIFY, Verdict.REJECT
AGREEMENT = codes.cid3217.AgreementWithPriorFindings
DISAGREEMENT = codes.cid3217.DisagreementWithPriorFindings
COMPARISON = Code("FB-COMPARISON", "99OTHER", "Comparison with the findings of the algorithm")
SOURCE = Code("260753009", "SCT", "Source")
CONTAINS = sr.RelationshipTypeValues.CONTAINS
Results = dict[str, Dataset]


def ours(verdict: Verdict) -> Code:
    """Our own code for a verdict, as the library wants it."""
    code = VERDICT_CODES[verdict]
    return Code(code.value, code.scheme, code.meaning)


def verdict_item(value: Code, *below: sr.ContentItem) -> sr.ContentItem:
    name = Code(ASSESSMENT.value, ASSESSMENT.scheme, ASSESSMENT.meaning)
    item = sr.CodeContentItem(name, value, relationship_type=CONTAINS)
    if below:
        item.ContentSequence = sr.ContentSequence(list(below))
    return item


def reference(result: Dataset, relationship: sr.RelationshipTypeValues = CONTAINS) -> sr.ContentItem:
    kind = sr.ImageContentItem if "Rows" in result else sr.CompositeContentItem
    return kind(SOURCE, result.SOPClassUID, result.SOPInstanceUID, relationship_type=relationship)


def container(*items: sr.ContentItem, name: Code = codes.DCM.Findings) -> sr.ContentItem:
    item = sr.ContainerContentItem(name, relationship_type=CONTAINS)
    item.ContentSequence = sr.ContentSequence(list(items))
    return item


def person(role: Code | None = codes.cid7452.Consultant) -> list[sr.ContentItem]:
    who = sr.PersonObserverIdentifyingAttributes(READER, role_in_organization=role)
    return list(sr.ObserverContext(codes.DCM.Person, who))


def report(
    evidence: Sequence[Dataset],
    *items: sr.ContentItem,
    title: Code = codes.LN.DiagnosticImagingReport,
    observer: Sequence[sr.ContentItem] | None = None,
    predecessors: Sequence[Dataset] | None = None,
) -> Dataset:
    """A Comprehensive SR document of the study of its evidence, written by a person."""
    root = sr.ContainerContentItem(title)
    root.ContentSequence = sr.ContentSequence([*(person() if observer is None else observer), *items])
    document = sr.ComprehensiveSR(
        evidence=list(evidence),
        content=root,
        series_instance_uid=fresh_uid(),
        series_number=900,
        sop_instance_uid=fresh_uid(),
        instance_number=1,
        manufacturer="Reading Room",
        is_complete=True,
        previous_versions=predecessors,
    )
    document.CodingSchemeIdentificationSequence = [private_scheme()]
    return plain(document)


def plain(document: Dataset) -> Dataset:
    """The document without the library's classes, which keep it from being spoiled."""
    file = BytesIO()
    document.save_as(file, enforce_file_format=True)
    return dcmread(BytesIO(file.getvalue()))


def finding_report(result: Dataset, *judged: tuple[str, Code]) -> Dataset:
    """A TID 1500 report with a TID 1501 group for each judged finding, by its tracking unique identifier."""
    groups = [
        sr.MeasurementsAndQualitativeEvaluations(
            tracking_identifier=sr.TrackingIdentifier(uid, f"judged {number}"),
            qualitative_evaluations=[sr.QualitativeEvaluation(COMPARISON, value)],
        )
        for number, (uid, value) in enumerate(judged)
    ]
    measured = sr.MeasurementReport(
        observation_context=sr.ObservationContext(
            sr.ObserverContext(
                codes.DCM.Person,
                sr.PersonObserverIdentifyingAttributes(READER, role_in_procedure=codes.cid7453.Reader),
            )
        ),
        procedure_reported=codes.LN.XRUnspecifiedBodyRegion,
        imaging_measurements=groups,
    )
    content = measured[0]
    content.ContentSequence.append(reference(result))
    document = report([result], title=codes.DCM.ImagingMeasurementReport)
    for keyword in ("ConceptNameCodeSequence", "ContentTemplateSequence", "ContentSequence"):
        setattr(document, keyword, getattr(content, keyword))
    return document


def rejection_note(
    results: Sequence[Dataset], title: Code = codes.cid7010.RejectedForQualityReasons
) -> Dataset:
    """The key object selection with which an archive takes objects out of use (IHE RAD IOCM)."""
    note = hd.ko.KeyObjectSelectionDocument(
        evidence=list(results),
        content=hd.ko.KeyObjectSelection(title, list(results)),
        series_instance_uid=fresh_uid(),
        series_number=901,
        sop_instance_uid=fresh_uid(),
        instance_number=1,
        manufacturer="Archive",
    )
    for item in note.ContentSequence:
        if item.ValueType in ("IMAGE", "COMPOSITE"):
            del item.ConceptNameCodeSequence  # TID 2010 has none, the library writes one
    return note


def with_purpose(document: Dataset, purpose: Code) -> Dataset:
    """The document with this purpose at each of its predecessors."""
    for study in document.PredecessorDocumentsSequence:
        for series in study.ReferencedSeriesSequence:
            for one in series.ReferencedSOPSequence:
                one.PurposeOfReferenceCodeSequence = [sr.CodedConcept.from_code(purpose)]
    return document


def pointing(results: Results, *, at: int) -> Dataset:
    """A verdict inferred from the item at this place below the root, to which it points."""
    document = report(
        results.values(), container(verdict_item(ours(REJECT))), container(reference(results["findings_sr"]))
    )
    pointer = Dataset()
    pointer.RelationshipType = "INFERRED FROM"
    pointer.ReferencedContentItemIdentifier = [1, at]
    document.ContentSequence[-2].ContentSequence[0].ContentSequence = [pointer]
    return document


def tracking_uids(result: Dataset) -> dict[str, str]:
    """Tracking unique identifier by tracking identifier, as the report of a result has them."""
    groups = next(
        each.ContentSequence
        for each in result.ContentSequence
        if each.ConceptNameCodeSequence[0].CodeValue == codes.DCM.ImagingMeasurements.value
    )
    named = [
        {one.ConceptNameCodeSequence[0].CodeValue: one for one in group.ContentSequence} for group in groups
    ]
    identifier, uid = codes.DCM.TrackingIdentifier.value, codes.DCM.TrackingUniqueIdentifier.value
    return {str(one[identifier].TextValue): str(one[uid].UID) for one in named}


PNEUMONIA, VIRAL = "AI class: Pneumonia", "AI class: Viral pneumonia"


def judged(results: Results, verdicts: Mapping[str, Code]) -> Dataset:
    uids = tracking_uids(results["findings_sr"])
    return finding_report(results["findings_sr"], *((uids[name], code) for name, code in verdicts.items()))


# --- beyond every measure


def nested(document: Dataset, depth: int) -> Dataset:
    """The document with a chain of containers below it."""
    chain = Dataset()
    for _ in range(depth):
        outer = Dataset()
        outer.ContentSequence = [chain]
        chain = outer
    document.ContentSequence.append(chain)
    return document


def of_many_items(document: Dataset) -> Dataset:
    document.ReferencedStudySequence = [Dataset() for _ in range(MAX_ITEMS + 1)]
    return document


def with_text(document: Dataset, text: str) -> Dataset:
    document.TextValue = text
    return document


def with_attachment(document: Dataset, size: int) -> Dataset:
    document.EncapsulatedDocument = bytes(size)
    return document


HOSTILE: dict[str, Callable[[Dataset], Dataset]] = {
    "deep": lambda document: nested(document, MAX_DEPTH + 1),
    "of many items": of_many_items,
    "long": lambda document: with_attachment(document, MAX_BYTES),
    "of many UIDs": lambda document: with_text(
        document, " ".join(f"2.25.{number}" for number in range(MAX_UIDS + 1))
    ),
}
