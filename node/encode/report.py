"""The findings report: TID 1500 with one TID 1501 group per score."""

from collections.abc import Iterator
from typing import cast

from highdicom.sr import (
    AlgorithmIdentification,
    CodeContentItem,
    ContainerContentItem,
    ContentItem,
    ImageContentItem,
    Measurement,
    MeasurementsAndQualitativeEvaluations,
    NumContentItem,
    QualitativeEvaluation,
    RelationshipTypeValues,
    SourceImageForMeasurementGroup,
    TrackingIdentifier,
)
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from node.domain.findings import Outcome, Presence, Score
from node.encode import codes
from node.encode.document import CONTAINS, build_document, container, document_root, sentence
from node.encode.identity import LONG_STRING, Kind, Result, coded, plain, private_scheme
from node.encode.source import Source

INTERVAL_PERCENT = 95
PERCENT_DIGITS, BIT_DIGITS = 4, 6
"""Decimals kept: float32 holds no more."""


def encode_report(result: Result) -> Dataset:
    """Return the findings report; without scores it holds the reason alone, never a number."""
    root = document_root(codes.MEASUREMENT_REPORT, "1500", result.device, _content(result))
    document = build_document(root, result, Kind.FINDINGS_SR, result.context.report_class)
    document.CodingSchemeIdentificationSequence = [private_scheme()]
    return document


def _content(result: Result) -> Iterator[ContentItem]:
    modality = result.source.text("Modality")
    yield CodeContentItem(
        name=codes.PROCEDURE_REPORTED,
        value=codes.PROCEDURE_BY_MODALITY.get(modality, codes.IMAGING_PROCEDURE),
        relationship_type=RelationshipTypeValues.HAS_CONCEPT_MOD,
    )
    if result.pictures:
        yield _image_library(result.pictures)
    if result.findings.scores:
        yield container(
            codes.IMAGING_MEASUREMENTS, (_group(score, result) for score in result.findings.scores)
        )
    yield container(codes.QUALITATIVE_EVALUATIONS, _evaluations(result))


def _image_library(pictures: tuple[Source, ...]) -> ContainerContentItem:
    """Return the images the report is about (TID 1600); highdicom's own refuses incomplete headers."""
    entries = (
        ImageContentItem(codes.SOURCE, one.sop_class_uid, one.sop_instance_uid, relationship_type=CONTAINS)
        for one in pictures
    )
    return container(codes.IMAGE_LIBRARY, [container(codes.IMAGE_LIBRARY_GROUP, entries)])


def _evaluations(result: Result) -> Iterator[ContentItem]:
    """Yield what holds for the whole report; only codes and text may stand here."""
    findings = result.findings
    yield _evaluation(codes.SUMMARY_OF_ANALYSES, codes.SUMMARY_BY_OUTCOME[findings.outcome])
    if findings.outcome is Outcome.FINDINGS:
        yield _evaluation(codes.PRIORITY, codes.PRIORITY_CATEGORY[result.context.priority])
    if findings.refusal:
        yield sentence(codes.REASON, findings.reason)


def _evaluation(name: Code, value: Code) -> CodeContentItem:
    return CodeContentItem(name=name, value=value, relationship_type=CONTAINS)


def _group(score: Score, result: Result) -> ContentItem:
    """Return what the model says of one class. An absent finding is never named as one: viewers list it."""
    label = coded(score.code)
    group = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(
            uid=result.uid("tracking", score.code.scheme, score.code.value),
            identifier=f"AI class: {label.meaning}",
        ),
        finding_type=None if score.presence is Presence.ABSENT else label,
        algorithm_id=_algorithm(score, result),
        measurements=[
            _probability(score),
            _measurement(codes.ENTROPY, score.uncertainty.entropy),
            _measurement(codes.MUTUAL_INFORMATION, score.uncertainty.mutual_information),
        ],
        qualitative_evaluations=[QualitativeEvaluation(label, codes.PRESENCE[score.presence])],
        source_images=[
            SourceImageForMeasurementGroup(one.sop_class_uid, one.sop_instance_uid) for one in result.pictures
        ],
    )
    return cast(ContentItem, group[0])


def _algorithm(score: Score, result: Result) -> AlgorithmIdentification:
    parameters = (
        f"decision_threshold={score.threshold:.4g}",
        f"interval={INTERVAL_PERCENT}%",
        *result.findings.algorithm.parameters,
    )
    return AlgorithmIdentification(
        name=result.device.name,
        version=result.device.version,
        parameters=[plain(parameter, LONG_STRING) for parameter in parameters],
        family=codes.ARTIFICIAL_INTELLIGENCE,
    )


def _probability(score: Score) -> Measurement:
    """Return the probability in percent; what qualifies it hangs below it, as distances from the value."""
    value = _percent(score.probability)
    low, high = map(_percent, score.uncertainty.interval)
    measurement = Measurement(codes.PROBABILITY, value, codes.PERCENT, derivation=codes.MEAN)
    qualifiers = {
        codes.UPPER_UNCERTAINTY: round(high - value, PERCENT_DIGITS),
        codes.LOWER_UNCERTAINTY: round(value - low, PERCENT_DIGITS),
        codes.INTERVAL_LEVEL: INTERVAL_PERCENT,
        codes.STANDARD_DEVIATION: _percent(score.uncertainty.spread),
    }
    for name, qualifier in qualifiers.items():
        item = NumContentItem(
            name, qualifier, codes.PERCENT, relationship_type=RelationshipTypeValues.HAS_PROPERTIES
        )
        measurement[0].ContentSequence.append(item)
    return measurement


def _measurement(name: Code, value_bit: float) -> Measurement:
    return Measurement(name, round(float(value_bit), BIT_DIGITS), codes.BIT)


def _percent(probability: float) -> float:
    return round(100 * float(probability), PERCENT_DIGITS)
