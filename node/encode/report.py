"""The findings report: TID 1500 with one TID 1501 group per score."""

from collections.abc import Iterator

from highdicom.sr import ContentItem
from pydicom.dataset import Dataset

from node.domain.findings import Outcome, OutOfDistribution, Presence, Score
from node.domain.profile import Kind
from node.encode import codes
from node.encode.document import build_document, container, sentence
from node.encode.groups import (
    Items,
    algorithm,
    evaluation,
    finding,
    flat,
    image_flags,
    measurement_group,
    measurement_report,
    members,
    score_parameters,
    sources_of_measurement,
    tracking,
)
from node.encode.identity import Result, coded, private_scheme
from node.encode.measurements import NUMBER_DIGITS, doubts, probability, quantity, strangeness
from node.encode.pictures import shown_pictures
from node.encode.summary import describe_verdict


def encode_report(result: Result) -> Iterator[Dataset]:
    """Yield the findings report; without scores it holds the reason alone, never a number."""
    root = measurement_report(result, shown_pictures(result), _content(result))
    report_class = result.context.profile.report_class
    document = build_document(root, result, Kind.FINDINGS_SR, report_class=report_class)
    document.CodingSchemeIdentificationSequence = [private_scheme()]
    yield document


def _content(result: Result) -> Iterator[ContentItem]:
    if result.findings.scores:
        yield container(codes.IMAGING_MEASUREMENTS, _groups(result))
    yield container(codes.QUALITATIVE_EVALUATIONS, _evaluations(result))


def _evaluations(result: Result) -> Iterator[ContentItem]:
    """Yield what holds for the whole report; only codes and text may stand here."""
    findings = result.findings
    yield evaluation(codes.SUMMARY_OF_ANALYSES, codes.SUMMARY_BY_OUTCOME[findings.outcome])
    # The codes of priorities say "actionable finding", which a foreign image has none of.
    if findings.outcome is Outcome.FINDINGS and not findings.is_foreign:
        yield evaluation(codes.PRIORITY, codes.PRIORITY_CATEGORY[result.context.priority])
    yield from image_flags(findings)
    yield from (sentence(codes.COMMENT, remark) for remark in findings.remarks)
    if findings.refusal:
        yield sentence(codes.REASON, findings.reason)


def _groups(result: Result) -> Iterator[ContentItem]:
    yield from (_group(score, result) for score in result.findings.scores)
    if result.findings.out_of_distribution:
        yield _out_of_distribution(result.findings.out_of_distribution, result)


def _group(score: Score, result: Result) -> ContentItem:
    """Return what the model says of one class, and why where it abstains."""
    label = coded(score.code)
    tracking_uid = result.uid("tracking", score.code.scheme, score.code.value)
    parts: tuple[Items, ...] = (
        tracking(tracking_uid, f"AI class: {label.meaning}"),
        [finding(label)] if _is_named(score, result) else [],
        algorithm(result, *score_parameters(score)),
        probability(codes.PROBABILITY, score),
        *(() if result.findings.is_foreign else map(quantity, score.measurements)),
        *doubts(score.uncertainty),
        [evaluation(label, codes.PRESENCE[score.presence])],
        members(score.uncertainty.prediction_set),
        sources_of_measurement(shown_pictures(result)),
        [sentence(codes.COMMENT, describe_verdict(score))] if score.doubts else [],
    )
    return measurement_group("1501", flat(parts))


def _is_named(score: Score, result: Result) -> bool:
    """Return whether the class stands there as a finding: viewers list those, whatever their presence.

    So an absent one never does, nor any class of an image that the model was not made for.
    """
    return score.presence is not Presence.ABSENT and not result.findings.is_foreign


def _out_of_distribution(image: OutOfDistribution, result: Result) -> ContentItem:
    """Return the number behind the report's flag; it is the image's, so it has a group of its own."""
    parts: tuple[Items, ...] = (
        tracking(result.uid("tracking", "out_of_distribution"), "AI image: out-of-distribution score"),
        algorithm(result, f"out_of_distribution_threshold={image.threshold:.{NUMBER_DIGITS}g}"),
        strangeness(image),
        sources_of_measurement(shown_pictures(result)),
    )
    return measurement_group("1501", flat(parts))
