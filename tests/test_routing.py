"""Which pipelines want a series, and why."""

import pytest

from node.domain.conditions import parse
from node.domain.findings import Priority
from node.domain.study import Series
from node.routing import Rule, route

CHEST = Rule("chest_xray", parse({"modality": ["CR", "DX"], "not": {"view": "LATERAL"}}))
HAND = Rule("bone_age", parse({"modality": "DX", "body_part": "HAND"}), priority=Priority.URGENT)
RULES = (CHEST, HAND)
OPEN = {"SIGHTLINE": ("*",)}


def series(**attributes):
    return Series("1.2", "1.2.3", (), {"called_ae_title": ("SIGHTLINE",), "modality": "DX", **attributes})


@pytest.mark.parametrize(
    ("attributes", "pipelines"),
    [
        ({}, ("chest_xray",)),
        ({"body_part": "hand"}, ("chest_xray", "bone_age")),
        ({"body_part": "HAND", "view": "LATERAL"}, ("bone_age",)),
        ({"modality": "MR"}, ()),
    ],
)
def test_every_rule_that_matches_fires_in_the_order_declared(attributes, pipelines):
    assert route(series(**attributes), RULES, OPEN).pipelines == pipelines


def test_a_rule_that_fired_keeps_its_priority_and_destinations():
    assert route(series(body_part="HAND"), RULES, OPEN).rules == RULES


@pytest.mark.parametrize(
    ("ae_titles", "pipelines"),
    [
        (("CLINIC",), ("chest_xray",)),
        (("RESEARCH",), ("bone_age",)),
        (("CLINIC", "RESEARCH"), ("chest_xray", "bone_age")),
        (("EVERYTHING",), ("chest_xray", "bone_age")),
        (("NOTHING",), ()),
        (("REMOVED",), ()),
        ((), ("chest_xray", "bone_age")),
    ],
)
def test_an_ae_title_restricts_the_pipelines_that_its_studies_reach(ae_titles, pipelines):
    scopes = {"CLINIC": ("chest_xray",), "RESEARCH": ("bone_age",), "EVERYTHING": ("*",), "NOTHING": ()}

    routing = route(series(body_part="HAND", called_ae_title=ae_titles), RULES, scopes)

    assert routing.pipelines == pipelines


def test_a_pipeline_out_of_scope_says_of_which_ae_title():
    chest, hand = route(series(body_part="HAND"), RULES, {"SIGHTLINE": ("bone_age",)}).decisions

    assert chest.reason == "outside the scope of AE SIGHTLINE"
    assert chest.explanation.is_match
    assert not chest.is_chosen
    assert hand.is_chosen


def test_files_on_disk_are_in_the_scope_of_every_pipeline():
    on_disk = Series("1.2", "1.2.3", (), {"modality": "CR"})

    assert route(on_disk, RULES, {"SIGHTLINE": ()}).pipelines == ("chest_xray",)


def test_a_decision_says_on_which_values_it_was_made():
    chest, hand = route(series(view="LATERAL", body_part="HAND"), RULES, OPEN).decisions

    assert chest.reason == "view is LATERAL (rule: not LATERAL)"
    assert hand.reason == "modality is DX (rule: DX), body_part is HAND (rule: HAND)"


def test_a_series_that_no_rule_wants_says_why():
    routing = route(series(modality="MR"), RULES, OPEN)

    assert routing.reason == (
        "no rule wants the series – chest_xray: modality is MR (rule: CR or DX); "
        "bone_age: modality is MR (rule: DX), body_part is absent (rule: HAND)"
    )
    assert route(series(), RULES, OPEN).reason == ""
    assert route(series(), (), OPEN).reason == "no rule is declared"


def test_the_explanation_shows_rules_that_fired_and_rules_that_did_not():
    assert route(series(), RULES, OPEN).lines() == [
        "chest_xray: chosen",
        "  yes: all of",
        "    yes: modality is DX, wanted CR or DX",
        "    yes: not all of",
        "      no: view is absent, wanted LATERAL",
        "bone_age: not chosen",
        "  no: all of",
        "    yes: modality is DX, wanted DX",
        "    no: body_part is absent, wanted HAND",
    ]
