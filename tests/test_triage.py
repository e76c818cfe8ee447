"""Findings to a priority class."""

from dataclasses import replace

import pytest

from node.config import load
from node.domain.code import Code
from node.domain.findings import (
    Algorithm,
    Doubt,
    Findings,
    Outcome,
    OutOfDistribution,
    PredictionSet,
    Presence,
    Priority,
    Refusal,
    Region,
    Score,
    Uncertainty,
)
from node.domain.location import Frame, Outline
from node.triage import TriageRule, prioritize

PNEUMONIA = Code("233604007", "SCT", "Pneumonia")
VIRAL = Code("75570004", "SCT", "Viral pneumonia")
DEFAULT_RULES = load(None).triage


def score(code, probability, *, threshold=0.5, half_width=0.0, **stated):
    interval = (max(0.0, probability - half_width), min(1.0, probability + half_width))
    return Score(code, probability, threshold, Uncertainty(0.0, interval, 0.0, 0.0, **stated))


def findings(*scores, refusal=None):
    return Findings(
        "chest_xray", Algorithm("chest_xray", "1"), "1.2", "1.2.3", ("1.2.3.4",), scores, refusal=refusal
    )


@pytest.mark.parametrize(
    ("scores", "priority"),
    [
        ([], Priority.ROUTINE),
        ([score(PNEUMONIA, 0.1)], Priority.ROUTINE),
        ([score(PNEUMONIA, 0.5)], Priority.URGENT),
        ([score(PNEUMONIA, 0.89)], Priority.URGENT),
        ([score(PNEUMONIA, 0.9)], Priority.STAT),
        ([score(VIRAL, 0.99)], Priority.ROUTINE),
        ([score(VIRAL, 0.99), score(PNEUMONIA, 0.6)], Priority.URGENT),
        ([score(PNEUMONIA, 0.6, threshold=0.7)], Priority.ROUTINE),
        ([score(PNEUMONIA, 0.4, threshold=0.3)], Priority.URGENT),
    ],
)
def test_the_highest_class_that_a_present_finding_earns_counts(scores, priority):
    assert prioritize(findings(*scores), DEFAULT_RULES) is priority


@pytest.mark.parametrize(
    ("doubt", "changes"),
    [
        (Doubt.THRESHOLD_IN_INTERVAL, {"threshold": 0.93, "half_width": 0.05}),
        (
            Doubt.BOTH_ANSWERS,
            {"prediction_set": PredictionSet((Presence.ABSENT, Presence.PRESENT), 0.95)},
        ),
        (Doubt.NEITHER_ANSWER, {"prediction_set": PredictionSet((), 0.95)}),
        (Doubt.OTHER_ANSWER, {"prediction_set": PredictionSet((Presence.ABSENT,), 0.95)}),
        (Doubt.FOREIGN_IMAGE, {"out_of_distribution": OutOfDistribution(2.0, 1.0)}),
    ],
)
def test_an_uncertain_finding_never_escalates(doubt, changes):
    uncertain = score(PNEUMONIA, 0.95, **changes)

    assert uncertain.doubts == (doubt,)
    assert prioritize(findings(uncertain), DEFAULT_RULES) is Priority.ROUTINE


def test_a_refusal_never_escalates():
    refused = findings(refusal=Refusal(Outcome.NOT_ELIGIBLE, "outside intended use"))

    assert prioritize(refused, DEFAULT_RULES) is Priority.ROUTINE


@pytest.mark.parametrize("name", ["Viral pneumonia", "viral PNEUMONIA", "75570004"])
def test_a_rule_names_a_finding_by_meaning_or_code_value(name):
    rule = TriageRule(finding=name, at_least=0.5, priority=Priority.STAT)

    assert prioritize(findings(score(VIRAL, 0.6)), (rule,)) is Priority.STAT


def test_the_order_of_rules_does_not_count():
    assert prioritize(findings(score(PNEUMONIA, 0.95)), DEFAULT_RULES[::-1]) is Priority.STAT


def test_without_rules_every_study_is_routine():
    assert prioritize(findings(score(PNEUMONIA, 1.0)), ()) is Priority.ROUTINE


def test_a_region_that_is_present_counts_as_a_score_does():
    region = Region(
        "Lesion 1", PNEUMONIA, Outline.box(Frame("1.2.3.4"), (0, 0), (1, 1)), score(PNEUMONIA, 0.9)
    )

    found = replace(findings(), regions=(region,))

    assert prioritize(found, DEFAULT_RULES) is Priority.STAT
