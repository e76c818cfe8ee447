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

from node.domain.findings import Outcome, OutOfDistribution, PredictionSet, Presence, Score
from node.domain.profile import Kind
from node.encode import codes
from node.encode.document import CONTAINS, build_document, container, document_root, sentence
from node.encode.identity import LONG_STRING, Result, coded, plain, private_scheme
from node.encode.source import Source
from node.encode.summary import FOREIGN_WARNING, describe_verdict

INTERVAL_PERCENT = 95
PERCENT_DIGITS, NUMBER_DIGITS = 4, 6
"""Decimals kept, or digits where the scale is not known: float32 holds no more."""


def encode_report(result: Result) -> Iterator[Dataset]:
    """Yield the findings report; without scores it holds the reason alone, never a number."""
    root = document_root(codes.MEASUREMENT_REPORT, "1500", result.device, _content(result))
    report_class = result.context.profile.report_class
    document = build_document(root, result, Kind.FINDINGS_SR, report_class=report_class)
    document.CodingSchemeIdentificationSequence = [private_scheme()]
    yield document


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
        yield container(codes.IMAGING_MEASUREMENTS, _groups(result))
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
    # The codes of priorities say "actionable finding", which a foreign image has none of.
    if findings.outcome is Outcome.FINDINGS and not findings.is_foreign:
        yield _evaluation(codes.PRIORITY, codes.PRIORITY_CATEGORY[result.context.priority])
    if findings.out_of_distribution:
        yield _evaluation(codes.OUT_OF_DISTRIBUTION, codes.YES_NO[findings.is_foreign])
    if findings.is_foreign:
        yield sentence(codes.COMMENT, FOREIGN_WARNING)
    if findings.refusal:
        yield sentence(codes.REASON, findings.reason)


def _evaluation(name: Code, value: Code) -> CodeContentItem:
    return CodeContentItem(name=name, value=value, relationship_type=CONTAINS)


def _groups(result: Result) -> Iterator[ContentItem]:
    yield from (_group(score, result) for score in result.findings.scores)
    if result.findings.out_of_distribution:
        yield _out_of_distribution(result.findings.out_of_distribution, result)


def _group(score: Score, result: Result) -> ContentItem:
    """Return what the model says of one class, and why where it abstains."""
    label = coded(score.code)
    prediction_set = score.uncertainty.prediction_set
    group = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(
            uid=result.uid("tracking", score.code.scheme, score.code.value),
            identifier=f"AI class: {label.meaning}",
        ),
        finding_type=label if _is_named(score, result) else None,
        algorithm_id=_algorithm(
            result, f"decision_threshold={score.threshold:.4g}", f"interval={INTERVAL_PERCENT}%"
        ),
        measurements=[
            _probability(score),
            _measurement(codes.ENTROPY, score.uncertainty.entropy),
            _measurement(codes.MUTUAL_INFORMATION, score.uncertainty.mutual_information),
            *_coverage(prediction_set),
        ],
        qualitative_evaluations=[
            QualitativeEvaluation(label, codes.PRESENCE[score.presence]),
            *_members(prediction_set),
        ],
        source_images=_source_images(result),
    )
    item = cast(ContentItem, group[0])
    if score.doubts:
        item.ContentSequence.append(sentence(codes.COMMENT, describe_verdict(score)))
    return item


def _is_named(score: Score, result: Result) -> bool:
    """Return whether the class stands there as a finding: viewers list those, whatever their presence.

    So an absent one never does, nor any class of an image that the model was not made for.
    """
    return score.presence is not Presence.ABSENT and not result.findings.is_foreign


def _coverage(prediction_set: PredictionSet | None) -> list[Measurement]:
    """Return the coverage where there is a set: without members beside it, the set is empty."""
    if prediction_set is None:
        return []
    return [Measurement(codes.CONFORMAL_COVERAGE, _percent(prediction_set.coverage), codes.PERCENT)]


def _members(prediction_set: PredictionSet | None) -> list[QualitativeEvaluation]:
    answers = prediction_set.answers if prediction_set else ()
    return [QualitativeEvaluation(codes.PREDICTION_SET_MEMBER, codes.PRESENCE[one]) for one in answers]


def _out_of_distribution(value: OutOfDistribution, result: Result) -> ContentItem:
    """Return the number behind the report's flag; it is the image's, so it has a group of its own."""
    # Its scale is the model's own: digits are counted from the first that is not 0.
    score = float(f"{value.score:.{NUMBER_DIGITS}g}")
    group = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(
            uid=result.uid("tracking", "out_of_distribution"),
            identifier="AI image: out-of-distribution score",
        ),
        algorithm_id=_algorithm(result, f"out_of_distribution_threshold={value.threshold:.{NUMBER_DIGITS}g}"),
        measurements=[Measurement(codes.OUT_OF_DISTRIBUTION_SCORE, score, codes.NO_UNITS)],
        source_images=_source_images(result),
    )
    return cast(ContentItem, group[0])


def _source_images(result: Result) -> list[SourceImageForMeasurementGroup]:
    return [
        SourceImageForMeasurementGroup(one.sop_class_uid, one.sop_instance_uid) for one in result.pictures
    ]


def _algorithm(result: Result, *parameters: str) -> AlgorithmIdentification:
    stated = (*parameters, *result.findings.algorithm.parameters)
    return AlgorithmIdentification(
        name=result.device.name,
        version=result.device.version,
        parameters=[plain(parameter, LONG_STRING) for parameter in stated],
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
    return Measurement(name, round(float(value_bit), NUMBER_DIGITS), codes.BIT)


def _percent(probability: float) -> float:
    return round(100 * float(probability), PERCENT_DIGITS)
