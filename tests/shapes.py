"""The four shapes of a source, and the objects made of findings with places on them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pydicom import Dataset

from node.domain.findings import Findings
from node.domain.profile import Kind, Profile
from node.encode import encode
from tests.results import FOREIGN, make_context, of
from tests.sources import Written, write_ct_series, write_enhanced_ct, write_radiograph, write_slide

WRITERS: dict[str, Callable[[Path], Written]] = {
    "radiograph": write_radiograph,
    "series": write_ct_series,
    "enhanced": write_enhanced_ct,
    "slide": write_slide,
}
IN_PATIENT = ["radiograph", "series", "enhanced"]
BOXES, SEGMENTS = (Kind.LESIONS_SR,), (Kind.LESIONS_SR, Kind.SEGMENTATION)


def encoded(
    findings: Findings, paths: list[Path], kinds: tuple[Kind, ...] = BOXES, **profile: object
) -> dict[Kind, Dataset]:
    context = make_context("lesions", profile=Profile(kinds, **profile))  # type: ignore[arg-type]
    return {one.kind: one.dataset for one in encode(findings, paths, context)}


def lesion_report(findings: Findings, paths: list[Path], **profile: object) -> Dataset:
    return encoded(findings, paths, **profile)[Kind.LESIONS_SR]  # type: ignore[arg-type]


def foreign(findings: Findings) -> Findings:
    """The findings, were their image unlike those the model was made for."""
    regions = tuple(
        replace(one, score=of(FOREIGN, one.score)[0] if one.score else None) for one in findings.regions
    )
    return replace(findings, scores=of(FOREIGN, *findings.scores), regions=regions)
