"""When a score decides, when it abstains, and what that makes of the run."""

import math
from dataclasses import replace

import pytest

from node.domain.code import Code
from node.domain.findings import (
    Algorithm,
    Doubt,
    Findings,
    Measurement,
    Outcome,
    OutOfDistribution,
    PredictionSet,
    Presence,
    Refusal,
    Region,
    Score,
    Uncertainty,
)
from node.domain.location import Frame, Outline

ONE, TWO = Code("1", "99TEST", "One"), Code("2", "99TEST", "Two")
ABSENT, PRESENT, UNDETERMINED = Presence.ABSENT, Presence.PRESENT, Presence.UNDETERMINED
HIGH, LOW, WIDE = (0.9, (0.8, 0.95)), (0.1, (0.05, 0.2)), (0.6, (0.4, 0.7))


def score(numbers, answers=None, strangeness=None, *, code=ONE):
    """A score over a threshold of 0.5; `answers` are its prediction set, the image is foreign above 1."""
    probability, interval = numbers
    uncertainty = Uncertainty(
        0.01,
        interval,
        0.5,
        0.1,
        None if answers is None else PredictionSet(answers, 0.95),
        None if strangeness is None else OutOfDistribution(strangeness, 1.0),
    )
    return Score(code, probability, 0.5, uncertainty)


def findings(*scores):
    return Findings("one", Algorithm("one", "1"), "1.2", "1.2.3", ("1.2.3.4",), scores)


@pytest.mark.parametrize(
    ("numbers", "answers", "strangeness", "presence", "doubts"),
    [
        (HIGH, (PRESENT,), 0.5, PRESENT, ()),
        (LOW, (ABSENT,), 0.5, ABSENT, ()),
        # What a model does not state is not asked for.
        (HIGH, None, None, PRESENT, ()),
        (LOW, None, None, ABSENT, ()),
        (HIGH, (PRESENT,), None, PRESENT, ()),
        # The threshold is passed, not met.
        (HIGH, (PRESENT,), 1.0, PRESENT, ()),
        (WIDE, (PRESENT,), 0.5, UNDETERMINED, (Doubt.THRESHOLD_IN_INTERVAL,)),
        (WIDE, None, None, UNDETERMINED, (Doubt.THRESHOLD_IN_INTERVAL,)),
        (HIGH, (ABSENT, PRESENT), 0.5, UNDETERMINED, (Doubt.BOTH_ANSWERS,)),
        (LOW, (ABSENT, PRESENT), 0.5, UNDETERMINED, (Doubt.BOTH_ANSWERS,)),
        (HIGH, (), 0.5, UNDETERMINED, (Doubt.NEITHER_ANSWER,)),
        (HIGH, (ABSENT,), 0.5, UNDETERMINED, (Doubt.OTHER_ANSWER,)),
        (LOW, (PRESENT,), 0.5, UNDETERMINED, (Doubt.OTHER_ANSWER,)),
        (HIGH, (PRESENT,), 1.5, UNDETERMINED, (Doubt.FOREIGN_IMAGE,)),
        (LOW, (ABSENT,), 1.5, UNDETERMINED, (Doubt.FOREIGN_IMAGE,)),
        (LOW, None, 1.5, UNDETERMINED, (Doubt.FOREIGN_IMAGE,)),
        (
            WIDE,
            (ABSENT, PRESENT),
            1.5,
            UNDETERMINED,
            (Doubt.FOREIGN_IMAGE, Doubt.THRESHOLD_IN_INTERVAL, Doubt.BOTH_ANSWERS),
        ),
    ],
)
def test_a_score_decides_only_where_nothing_speaks_against_it(
    numbers, answers, strangeness, presence, doubts
):
    one = score(numbers, answers, strangeness)

    assert one.doubts == doubts
    assert one.presence is presence
    assert one.is_uncertain is bool(doubts)


@pytest.mark.parametrize(
    "doubted", [((), 0.5), ((ABSENT, PRESENT), 0.5), ((PRESENT,), 0.5), ((ABSENT,), 1.5)]
)
def test_a_run_with_a_doubted_score_never_ends_without_findings(doubted):
    assert findings(score(LOW, *doubted)).outcome is Outcome.FINDINGS
    assert findings(score(LOW, (ABSENT,), 0.5)).outcome is Outcome.NO_FINDINGS


def test_a_foreign_image_makes_every_score_uncertain():
    foreign = findings(score(HIGH, (PRESENT,), 1.5), score(LOW, (ABSENT,), 1.5, code=TWO))

    assert foreign.is_foreign
    assert foreign.out_of_distribution == OutOfDistribution(1.5, 1.0)
    assert all(one.is_uncertain for one in foreign.scores)


def test_scores_of_one_image_cannot_disagree_on_how_strange_it_is():
    for other in (None, 0.5):
        with pytest.raises(ValueError, match="different out-of-distribution scores"):
            findings(score(HIGH, (PRESENT,), 1.5), score(LOW, (ABSENT,), other, code=TWO))


def test_regions_that_were_judged_on_cut_outs_may_be_strange_each_for_itself():
    places = [
        Region(
            f"Place {number}",
            ONE,
            Outline.box(Frame("1.2.3.4"), (0, 0), (2, 2)),
            score(HIGH, (PRESENT,), strange),
        )
        for number, strange in enumerate((1.5, 0.5))
    ]

    both = replace(findings(score(HIGH, (PRESENT,), 0.5)), regions=tuple(places))

    assert not both.is_foreign
    assert [both.presence_of(one) for one in places] == [Presence.UNDETERMINED, Presence.PRESENT]


def test_findings_without_scores_are_of_no_foreign_image():
    assert findings().out_of_distribution is None
    assert not findings().is_foreign


@pytest.mark.parametrize("answers", [(PRESENT, ABSENT), (UNDETERMINED,), (PRESENT, PRESENT)])
def test_a_prediction_set_holds_answers_only(answers):
    with pytest.raises(ValueError, match="expected none, absent, present or both"):
        PredictionSet(answers, 0.95)


@pytest.mark.parametrize("coverage", [0.0, 1.0, 95.0, math.nan])
def test_a_prediction_set_states_a_coverage_between_0_and_1(coverage):
    with pytest.raises(ValueError, match="coverage"):
        PredictionSet((PRESENT,), coverage)


@pytest.mark.parametrize("numbers", [(math.nan, 1.0), (1.0, math.inf), (math.inf, 1.0)])
def test_an_image_that_cannot_be_compared_is_refused(numbers):
    with pytest.raises(ValueError, match="finite"):
        OutOfDistribution(*numbers)


def test_every_doubt_is_a_clause_of_its_own():
    assert len({doubt.value for doubt in Doubt}) == len(Doubt)
    assert all(doubt.isascii() and doubt.startswith("the ") for doubt in Doubt)


def test_a_probability_outside_its_interval_is_refused():
    with pytest.raises(ValueError, match="One"):
        replace(score(HIGH), probability=0.99)


# --- regions

IMAGE = Frame("1.2.3.4")


def region(own=None, *, code=ONE, identifier="Lesion 1", frame=IMAGE):
    return Region(identifier, code, Outline.box(frame, (1, 2), (5, 8)), own)


@pytest.mark.parametrize(
    ("of_series", "of_region", "presence", "outcome"),
    [
        (None, None, PRESENT, Outcome.FINDINGS),
        (None, score(HIGH), PRESENT, Outcome.FINDINGS),
        (None, score(LOW), ABSENT, Outcome.NO_FINDINGS),
        (None, score(WIDE), UNDETERMINED, Outcome.FINDINGS),
        # Where the region has no score of its own, that of the series for the same finding decides.
        (score(LOW), None, ABSENT, Outcome.NO_FINDINGS),
        (score(HIGH), None, PRESENT, Outcome.FINDINGS),
        (score(LOW, code=TWO), None, PRESENT, Outcome.FINDINGS),
        (score(LOW), score(HIGH), PRESENT, Outcome.FINDINGS),
    ],
)
def test_a_region_is_there_as_its_own_score_says_or_else_that_of_the_series(
    of_series, of_region, presence, outcome
):
    one = region(of_region)

    found = replace(findings(*([of_series] if of_series else [])), regions=(one,))

    assert found.presence_of(one) is presence
    assert found.outcome is outcome


def test_nobody_knows_of_a_region_on_a_foreign_image():
    one = region(score(HIGH, strangeness=2.0))

    found = replace(findings(), regions=(one,))

    assert found.is_foreign
    assert found.presence_of(one) is UNDETERMINED


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"regions": (region(), region())}, "same identifier twice"),
        ({"regions": (region(frame=Frame("9.9")),)}, "9.9"),
        ({"key_frames": (Frame("9.9"),)}, "9.9"),
        ({"regions": (region(),), "refusal": Refusal(Outcome.FAILED, "broke")}, "refusal"),
    ],
)
def test_findings_that_contradict_themselves_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        replace(findings(), **changes)


def test_a_region_takes_no_score_of_another_finding():
    with pytest.raises(ValueError, match="no score of another finding"):
        region(score(HIGH, code=TWO))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_was_measured_is_a_number(value):
    with pytest.raises(ValueError, match="finite"):
        Measurement(ONE, value, TWO)


def test_a_measurement_lies_in_its_interval():
    with pytest.raises(ValueError, match="expected 3"):
        Measurement(ONE, 2.0, TWO, (3.0, 4.0))


def test_the_pictures_to_look_at_are_those_stated_or_outlined_or_the_one_in_the_middle():
    images = tuple(f"1.{number}" for number in range(5))
    several = replace(findings(), sop_instance_uids=images)
    outlined = replace(several, regions=(region(frame=Frame("1.3")),))

    assert several.shown_frames == (Frame("1.2"),)
    assert outlined.shown_frames == (Frame("1.3"),)
    assert replace(outlined, key_frames=(Frame("1.0"), Frame("1.4"))).shown_frames == (
        Frame("1.0"),
        Frame("1.4"),
    )
    assert findings().shown_frames == (IMAGE,)
    assert replace(findings(), refusal=Refusal(Outcome.FAILED, "broke")).shown_frames == ()
