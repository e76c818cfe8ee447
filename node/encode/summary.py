"""The summary report: TID 2000, plain text that every viewer shows."""

from collections.abc import Iterator

from highdicom.sr import ContentItem
from pydicom.dataset import Dataset

from node.domain.findings import Doubt, Findings, Outcome, Presence, Score
from node.domain.profile import Kind, ReportClass
from node.encode import codes
from node.encode.document import build_document, container, document_root, sentence
from node.encode.identity import Result

WORD_BY_PRESENCE = {
    Presence.PRESENT: "PRESENT",
    Presence.ABSENT: "absent",
    Presence.UNDETERMINED: "UNCERTAIN - needs review",
}
OUTCOME_WORDS = {
    Outcome.FINDINGS: "findings",
    Outcome.NO_FINDINGS: "no findings",
    Outcome.NOT_ELIGIBLE: "not eligible: outside the intended use of the algorithm",
    Outcome.FAILED: "failed: the algorithm gave no result",
}
NOTHING_CERTAIN = "nothing certain - needs review"
FOREIGN_WARNING = "The image is unlike those the model was made for: its scores must not be used."
WARNING = "AI result - not for primary diagnosis - unverified"
DISCLAIMER = "Investigational. Not verified by a physician. Not for primary diagnosis."


def encode_summary(result: Result) -> Iterator[Dataset]:
    """Yield the findings as sentences."""
    root = document_root(codes.IMAGING_REPORT, "2000", result.device, _content(result))
    yield build_document(root, result, Kind.SUMMARY_SR, report_class=ReportClass.ENHANCED)


def _content(result: Result) -> Iterator[ContentItem]:
    lines = [sentence(codes.FINDING, line) for line in describe_findings(result.findings)]
    yield container(codes.FINDINGS, lines)
    yield container(codes.CONCLUSIONS, [sentence(codes.CONCLUSION, line) for line in _conclusions(result)])


def describe_findings(findings: Findings) -> list[str]:
    """Return one line per score, or the reason why there is none."""
    if findings.refusal:
        return [f"Not analysed: {findings.reason}"]
    warnings = [FOREIGN_WARNING] if findings.is_foreign else []
    return [*warnings, *map(describe_score, findings.scores)] or ["No findings"]


def describe_score(score: Score) -> str:
    """Return what one score says, in words and in figures; no figure of an image unlike the model's own."""
    words = f"{score.code.meaning}: {describe_verdict(score)}"
    return words if Doubt.FOREIGN_IMAGE in score.doubts else f"{words}, {describe_probability(score)}"


def describe_verdict(score: Score) -> str:
    """Return present, absent or uncertain, and why where it is uncertain."""
    reasons = f" ({'; '.join(score.doubts)})" if score.doubts else ""
    return f"{WORD_BY_PRESENCE[score.presence]}{reasons}"


def describe_probability(score: Score) -> str:
    """Return the probability with its interval, in whole percent."""
    low, high = (round(100 * bound) for bound in score.uncertainty.interval)
    return f"probability {round(100 * score.probability)} % (95 % interval {low}-{high} %)"


def describe_outcome(findings: Findings) -> str:
    """Return the outcome in words; where every finding is uncertain, they do not claim one."""
    is_certain = any(score.presence is Presence.PRESENT for score in findings.scores)
    if findings.outcome is Outcome.FINDINGS and not is_certain:
        return NOTHING_CERTAIN
    return OUTCOME_WORDS[findings.outcome]


def _conclusions(result: Result) -> Iterator[str]:
    yield DISCLAIMER
    yield f"Outcome: {describe_outcome(result.findings)}"
    if result.findings.outcome is Outcome.FINDINGS:
        yield f"Suggested reading priority: {result.context.priority.value}"
    yield f"Algorithm: {result.device.name}, version {result.device.version}"
