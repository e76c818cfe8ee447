"""Where classifier and detectors contradict each other: then neither may decide."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from node.domain.code import BACTERIAL_PNEUMONIA, CONSOLIDATION, PNEUMONIA, VIRAL_PNEUMONIA, Code
from node.domain.findings import Doubt, Presence, Region, Score

EXPECTED_SHARE = 0.95
"""An image without any outline contradicts a disease that is outlined on such a share of images, or more."""


@dataclass(frozen=True, slots=True)
class Sign:
    """The lesion by which a disease shows, unless it is of a form that need not show so.

    `is_proof` says whether the lesion speaks for this disease, not only the disease for the lesion.
    """

    disease: Code
    lesion: Code
    unless: Code | None = None
    is_proof: bool = False


SIGNS = (
    # A viral one may be but a veil over both lungs.
    Sign(PNEUMONIA, CONSOLIDATION, unless=VIRAL_PNEUMONIA, is_proof=True),
    Sign(BACTERIAL_PNEUMONIA, CONSOLIDATION),
)


def reconcile(
    scores: Sequence[Score], regions: Sequence[Region], outlined_share: Mapping[str, float]
) -> tuple[tuple[Score, ...], tuple[Region, ...]]:
    """Return both with a doubt on each that decides against another that decides.

    A disease that is absent contradicts an outline of its sign that is certain. One that is present
    contradicts an image without any outline (detectors confuse one kind with another), if the card of the
    detectors states by `outlined_share` that it is hardly ever without. What is uncertain already contradicts
    nothing.
    """
    doubted = {
        (score.code, sign.lesion): doubt
        for score in scores
        for sign in SIGNS
        if _is(score.code, sign.disease) and (doubt := _doubt(score, sign, scores, regions, outlined_share))
    }
    doubt_by_disease = {disease: doubt for (disease, _), doubt in doubted.items()}
    refuted = [lesion for (_, lesion), doubt in doubted.items() if doubt is Doubt.OUTLINED]
    return (
        tuple(replace(one, contradiction=doubt_by_disease.get(one.code)) for one in scores),
        tuple(_doubted(one) if _is_any(one, refuted) and _is_certain(one) else one for one in regions),
    )


def unshown(
    scores: Sequence[Score], regions: Sequence[Region], outlined_share: Mapping[str, float]
) -> Iterator[str]:
    """Yield in words which disease is present, though no lesion is outlined, and how much that means."""
    for score in scores:
        share = outlined_share.get(score.code.value)
        if score.presence is Presence.PRESENT and not regions and share is not None:
            yield (
                f"No lesion is outlined that would show {score.code.meaning.lower()}: of images with it the "
                f"detectors outline one on {share:.0%}."
            )


def _doubt(
    score: Score,
    sign: Sign,
    scores: Sequence[Score],
    regions: Sequence[Region],
    outlined_share: Mapping[str, float],
) -> Doubt | None:
    """Return what the outlines say against the score of a disease."""
    is_expected = outlined_share.get(score.code.value, 0.0) >= EXPECTED_SHARE
    if score.presence is Presence.PRESENT and is_expected and not regions and not _is_excused(sign, scores):
        return Doubt.NOT_OUTLINED
    shown = [one for one in regions if _is_any(one, [sign.lesion])]
    if score.presence is Presence.ABSENT and sign.is_proof and any(map(_is_certain, shown)):
        return Doubt.OUTLINED
    return None


def _is_certain(region: Region) -> bool:
    return bool(region.score and region.score.presence is Presence.PRESENT)


def _is_any(region: Region, lesions: Sequence[Code]) -> bool:
    return any(_is(region.code, lesion) for lesion in lesions)


def _is(code: Code, other: Code) -> bool:
    """Return whether two codes mean the same, whatever words a card has for it."""
    return (code.value, code.scheme) == (other.value, other.scheme)


def _is_excused(sign: Sign, scores: Sequence[Score]) -> bool:
    """Return whether the disease may be of the form that need not show so."""
    forms = [one for one in scores if sign.unless and _is(one.code, sign.unless)]
    return any(one.presence is not Presence.ABSENT for one in forms)


def _doubted(region: Region) -> Region:
    score = region.score and replace(region.score, contradiction=Doubt.NOT_CLASSIFIED)
    return replace(region, score=score)
