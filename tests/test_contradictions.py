"""Where classifier and detectors contradict each other, neither decides."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from node.domain import code
from node.domain.findings import Algorithm, Doubt, Findings, Presence, Region, Score
from node.domain.location import Frame, Outline
from node.pipelines.chest_xray.contradictions import reconcile, unshown
from node.results import load_findings, save_findings
from tests.detecting import NODULE
from tests.peers import REPOSITORY
from tests.results import score

PRESENT, UNDETERMINED = Presence.PRESENT, Presence.UNDETERMINED
CERTAIN, UNSURE, NOT = (0.9, (0.8, 0.95)), (0.55, (0.4, 0.7)), (0.1, (0.05, 0.2))
ALWAYS = {code.PNEUMONIA.value: 0.97, code.BACTERIAL_PNEUMONIA.value: 0.95}
"""On which share of images with them lesions are outlined."""
DISEASES = (code.PNEUMONIA, code.BACTERIAL_PNEUMONIA, code.VIRAL_PNEUMONIA)


def said(kind: code.Code, numbers: tuple[float, tuple[float, float]]) -> Score:
    made = score(kind, *numbers)
    return replace(made, uncertainty=replace(made.uncertainty, prediction_set=None))


def region(kind: code.Code, numbers: tuple[float, tuple[float, float]], number: int = 1) -> Region:
    return Region(f"Lesion {number}", kind, Outline.box(Frame("1"), (0, 0), (5, 5)), said(kind, numbers))


@pytest.mark.parametrize(
    ("of_image", "outlined", "doubts", "doubts_of_region"),
    [
        # Both see it, or neither.
        ((CERTAIN, CERTAIN, NOT), CERTAIN, (None, None, None), None),
        ((NOT, NOT, NOT), None, (None, None, None), None),
        ((NOT, NOT, NOT), NOT, (None, None, None), None),
        # The classifier alone.
        ((CERTAIN, CERTAIN, NOT), None, (Doubt.NOT_OUTLINED, Doubt.NOT_OUTLINED, None), None),
        # A viral pneumonia need not show as a consolidation, a bacterial one does.
        ((CERTAIN, NOT, CERTAIN), None, (None, None, None), None),
        ((CERTAIN, NOT, UNSURE), None, (None, None, None), None),
        ((CERTAIN, CERTAIN, CERTAIN), None, (None, Doubt.NOT_OUTLINED, None), None),
        # The detectors alone.
        ((NOT, NOT, NOT), CERTAIN, (Doubt.OUTLINED, None, None), Doubt.NOT_CLASSIFIED),
        # What is uncertain contradicts nothing.
        ((NOT, NOT, NOT), UNSURE, (None, None, None), None),
        ((CERTAIN, CERTAIN, NOT), UNSURE, (None, None, None), None),
        ((UNSURE, UNSURE, UNSURE), None, (None, None, None), None),
        ((UNSURE, UNSURE, UNSURE), CERTAIN, (None, None, None), None),
    ],
)
def test_neither_decides_against_the_other(
    of_image: tuple, outlined: tuple | None, doubts: tuple, doubts_of_region: Doubt | None
) -> None:
    scores = [said(kind, numbers) for kind, numbers in zip(DISEASES, of_image, strict=True)]
    regions = [region(code.CONSOLIDATION, outlined)] if outlined else []

    changed, judged = reconcile(scores, regions, ALWAYS)

    assert tuple(one.contradiction for one in changed) == doubts
    assert [one.score.contradiction for one in judged if one.score] == [doubts_of_region] * len(regions)
    for one in (*changed, *(one.score for one in judged if one.score)):
        assert (one.presence is UNDETERMINED) == bool(one.contradiction or one.probability == UNSURE[0])


def test_a_nodule_says_nothing_of_pneumonia() -> None:
    scores = [said(code.PNEUMONIA, NOT)]
    nodule, consolidation = region(NODULE, CERTAIN), region(code.CONSOLIDATION, CERTAIN, 2)
    unsure = region(code.CONSOLIDATION, UNSURE, 3)

    alone, _ = reconcile(scores, [nodule], ALWAYS)
    _, (first, second, third) = reconcile(scores, [nodule, consolidation, unsure], ALWAYS)

    assert alone[0].contradiction is None
    assert first.score is not None
    assert second.score is not None
    assert (first.score.presence, second.score.presence) == (PRESENT, UNDETERMINED)
    # What is in doubt by itself needs no second reason.
    assert third == unsure


@pytest.mark.parametrize("share", [None, 0.4, 0.9499])
def test_what_is_often_not_outlined_contradicts_nothing_but_is_told(share: float | None) -> None:
    scores = [said(code.PNEUMONIA, CERTAIN), said(code.VIRAL_PNEUMONIA, NOT)]
    shares = {} if share is None else {code.PNEUMONIA.value: share}

    changed, _ = reconcile(scores, [], shares)
    told = list(unshown(changed, [], shares))

    assert [one.contradiction for one in changed] == [None, None]
    assert [f"{share:.0%}" in one for one in told] == ([] if share is None else [True])
    assert not list(unshown(changed, [region(NODULE, CERTAIN)], shares))


def test_an_outline_of_another_kind_shows_it_too() -> None:
    (changed,), _ = reconcile([said(code.PNEUMONIA, CERTAIN)], [region(NODULE, CERTAIN)], ALWAYS)

    assert changed.contradiction is None


def test_a_card_may_call_a_disease_by_other_words() -> None:
    renamed = replace(code.PNEUMONIA, meaning="Pneumonia (any)")

    (changed,), _ = reconcile([said(renamed, CERTAIN)], [], ALWAYS)

    assert changed.contradiction is Doubt.NOT_OUTLINED


def test_a_contradiction_survives_between_two_steps(tmp_path: Path) -> None:
    (contradicted,), _ = reconcile([said(code.PNEUMONIA, CERTAIN)], [], ALWAYS)
    findings = Findings("x", Algorithm("x", "1"), "1", "2", ("1.2.3",), (contradicted,))

    loaded = load_findings(save_findings(tmp_path, findings))

    assert loaded.scores[0].contradiction is Doubt.NOT_OUTLINED
    assert loaded.scores[0].doubts == (Doubt.NOT_OUTLINED,)


def test_the_diseases_are_the_classes_of_the_shipped_classifier() -> None:
    shipped = json.loads((REPOSITORY / "triton_repo" / "chest_xray" / "card.json").read_text())

    classes = [code.Code(*one["code"]) for one in shipped["classes"]]

    assert classes == list(DISEASES)
