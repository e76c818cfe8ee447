"""The summary report: TID 2000, plain text that every viewer shows."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from highdicom.sr import ContentItem
from pydicom.dataset import Dataset

from node.domain.findings import Doubt, Findings, Measurement, Outcome, Presence, Region, Score
from node.domain.location import Frame
from node.domain.profile import Kind, ReportClass
from node.encode import codes
from node.encode.document import build_document, container, document_root, paragraph, sentence
from node.encode.identity import Result
from node.encode.pictures import describe_place

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

WORD_BY_UNIT = {"[hnsf'U]": "HU", "1": ""}
"""Where the UCUM symbol is no word that a reader knows."""

MOST_REGIONS = 20
"""As many lines are read; the report of lesions has all regions."""

NOWHERE: Mapping[Frame, str] = MappingProxyType({})


def encode_summary(result: Result) -> Iterator[Dataset]:
    """Yield the findings as sentences."""
    root = document_root(codes.IMAGING_REPORT, "2000", result.device, _content(result))
    yield build_document(root, result, Kind.SUMMARY_SR, report_class=ReportClass.ENHANCED)


def _content(result: Result) -> Iterator[ContentItem]:
    frames = {region.outline.frame for region in result.findings.regions}
    places = {frame: describe_place(result, frame) for frame in frames}
    lines = [paragraph(codes.FINDING, line) for line in describe_findings(result.findings, places)]
    yield container(codes.FINDINGS, lines)
    yield container(codes.CONCLUSIONS, [sentence(codes.CONCLUSION, line) for line in _conclusions(result)])


def describe_findings(findings: Findings, places: Mapping[Frame, str] = NOWHERE) -> list[str]:
    """Return one line per score and region, or the reason why there is none; `places` name the pictures."""
    if findings.refusal:
        return [f"Not analysed: {findings.reason}"]
    lines = [FOREIGN_WARNING] if findings.is_foreign else []
    lines += map(describe_score, findings.scores)
    for region in findings.regions[:MOST_REGIONS]:
        place = places.get(region.outline.frame)
        lines.append(", ".join(filter(None, [describe_region(region, findings), place])))
    if len(findings.regions) > MOST_REGIONS:
        lines.append(f"... and {len(findings.regions) - MOST_REGIONS} more regions")
    return lines or ["No findings"]


def describe_score(score: Score) -> str:
    """Return what one score says, in words and in figures; no figure of an image unlike the model's own."""
    words = f"{score.code.meaning}: {describe_verdict(score)}"
    if Doubt.FOREIGN_IMAGE in score.doubts:
        return words
    return ", ".join([words, describe_probability(score), *map(describe_measurement, score.measurements)])


def describe_verdict(score: Score) -> str:
    """Return present, absent or uncertain, and why where it is uncertain."""
    reasons = f" ({'; '.join(score.doubts)})" if score.doubts else ""
    return f"{WORD_BY_PRESENCE[score.presence]}{reasons}"


def describe_probability(score: Score) -> str:
    """Return the probability with its interval, in whole percent."""
    low, high = (round(100 * bound) for bound in score.uncertainty.interval)
    return f"probability {round(100 * score.probability)} % (95 % interval {low}-{high} %)"


def describe_region(region: Region, findings: Findings) -> str:
    """Return what is said of one region of these findings, as `describe_score` does."""
    judgment = findings.judgment_of(region)
    unsaid = f" {WORD_BY_PRESENCE[Presence.UNDETERMINED]}" if findings.is_foreign else ""
    verdict = f" {describe_verdict(judgment)}" if judgment else unsaid
    parts = [f"{region.identifier}: {region.code.meaning}{verdict}"]
    if not findings.is_foreign:
        parts += [describe_probability(region.score)] if region.score else []
        parts += map(describe_measurement, region.measurements)
    return ", ".join([*parts, *_site(region), *filter(None, [region.remark])])


def describe_measurement(measured: Measurement) -> str:
    """Return a quantity with its value, its unit, and its interval where one is known."""
    unit = measured.unit.value if measured.unit.scheme == "UCUM" else measured.unit.meaning
    value = f"{measured.quantity.meaning} {_rounded(measured.value)} {WORD_BY_UNIT.get(unit, unit)}".rstrip()
    if measured.interval is None:
        return value
    low, high = map(_rounded, measured.interval)
    return f"{value} (95 % interval {low} to {high})"


def _rounded(value: float) -> str:
    """Return five digits of a number, and no exponent as long as it is read more easily without."""
    return f"{float(f'{value:.5g}'):.10g}"


def _site(region: Region) -> list[str]:
    words = [code.meaning.lower() for code in (region.laterality, region.site) if code]
    return [" ".join(words)] if words else []


def describe_outcome(findings: Findings) -> str:
    """Return the outcome in words; where every finding is uncertain, they do not claim one."""
    is_certain = any(score.presence is Presence.PRESENT for score in findings.all_scores)
    if findings.outcome is Outcome.FINDINGS and not is_certain:
        return NOTHING_CERTAIN
    return OUTCOME_WORDS[findings.outcome]


def _conclusions(result: Result) -> Iterator[str]:
    yield DISCLAIMER
    yield f"Outcome: {describe_outcome(result.findings)}"
    yield from result.findings.remarks
    if result.findings.outcome is Outcome.FINDINGS:
        yield f"Suggested reading priority: {result.context.priority.value}"
    yield f"Algorithm: {result.device.name}, version {result.device.version}"
