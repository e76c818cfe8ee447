"""What makes scores of detectors honest: slopes and offsets, wide intervals, thresholds that are kept."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("torchvision")

from models.detector import LESIONS
from models.detector_calibration import Judged, calibration_error, fit_platt, fit_platts, judge
from models.detector_fusion import choose_thresholds, fit_constant, fuse
from models.detector_graphs import Platt
from models.detector_metrics import Boxes
from node.domain.card import Fusion
from node.imaging.agreement import weigh_agreement

HERE, THERE = (10.0, 10.0, 20.0, 20.0), (50.0, 50.0, 60.0, 60.0)


def said(*rows: tuple[tuple[float, ...], int, float]) -> Boxes:
    """Return what one member says: corners, label, score."""
    corners = np.array([row[0] for row in rows]).reshape(-1, 4)
    return Boxes(corners, np.array([row[1] for row in rows], np.int64), np.array([row[2] for row in rows]))


def test_members_that_differ_in_kind_mean_one_lesion() -> None:
    places = fuse([said((HERE, 1, 0.8)), said((HERE, 2, 0.4), (THERE, 3, 0.6))])

    assert places.found.labels.tolist() == [1, 3]
    np.testing.assert_allclose(places.members, [[0.8, 0.4], [0, 0.6]], atol=1e-6)
    np.testing.assert_allclose(places.found.scores, [0.6, 0.3], atol=1e-6)


def test_the_interval_holds_what_is_said_of_changed_copies() -> None:
    fusions = [Fusion()] * 5
    plain = [fuse([said((HERE, 1, 0.5)), said((HERE, 1, 0.5))])] * 20
    copies = [fuse([said((HERE, 1, 0.8)), said((HERE, 1, 0.8))])] * 20

    constant = fit_constant(plain, copies, fusions, LESIONS)

    # Both members agree: the constant alone must reach the logit of 0.8, which is ln 4.
    assert constant == pytest.approx(np.log(4) / 1.96, abs=1e-3)
    agreed = weigh_agreement(plain[0].members, Fusion(interval_constant=constant + 1e-3))
    assert agreed.high[0] >= 0.8
    assert fit_constant(plain, plain, fusions, LESIONS) == 0
    # Members that differ make an interval that is wide enough by itself.
    apart = [fuse([said((HERE, 1, 0.3)), said((HERE, 1, 0.7))])] * 20
    assert fit_constant(apart, copies, fusions, LESIONS) == 0
    assert fit_constant(plain, copies, fusions, (4,)) == 0


def test_the_threshold_lets_an_eighth_of_a_false_place_per_film_through() -> None:
    found = [said((THERE, 1, score)) for score in (0.9, 0.6, 0.5, *[0.3] * 5)] + [said((HERE, 2, 0.8))]
    truths = [Boxes.truth(np.empty((0, 4)), np.empty(0, np.int64))] * 9
    flags = [(True, True)] * 8 + [(False, True)]

    lesion, *_, lung = choose_thresholds(found, truths, flags)

    # Of the eight films that tell, one false place may reach it; the ninth says nothing of lesions.
    assert lesion == pytest.approx(0.6001)
    assert lung == 0.5
    assert choose_thresholds(found[:1], truths[:1], flags[:1])[0] == pytest.approx(0.9001)
    assert choose_thresholds([said()], truths[:1], flags[:1])[0] == pytest.approx(0.05)


# --- calibration ------------------------------------------------------------------------------------------


def test_scores_that_are_too_sure_are_made_honest() -> None:
    random = np.random.default_rng(1)
    logits = random.normal(0, 2, 4000)
    became = (random.random(4000) < 1 / (1 + np.exp(-(0.5 * logits - 1)))).astype(float)

    fitted = fit_platt(1 / (1 + np.exp(-logits)), became)

    assert fitted.slope == pytest.approx(0.5, abs=0.06)
    assert fitted.offset == pytest.approx(-1.0, abs=0.1)
    said = Judged(np.ones(4000, np.int64), 1 / (1 + np.exp(-(fitted.slope * logits + fitted.offset))), became)
    assert calibration_error(said) < 0.03


def test_a_label_with_few_cases_takes_what_its_group_says() -> None:
    random = np.random.default_rng(2)
    labels = np.repeat([1, 2, 4], [400, 5, 5])
    scores, became = random.uniform(0.01, 0.99, 410), (random.random(410) < 0.3).astype(float)

    fitted = fit_platts(Judged(labels, scores, became))

    group = fit_platt(scores[labels < 4], became[labels < 4])
    assert fitted[0] == fit_platt(scores[:400], became[:400])
    assert fitted[1:3] == [group, group]
    # Of lungs there is too little to tell.
    assert fitted[3:] == [Platt(), Platt()]


def test_no_slope_turns_the_order_around() -> None:
    scores = np.linspace(0.05, 0.95, 40)

    assert fit_platt(scores, (scores < 0.5).astype(float)).slope > 0


def test_what_is_not_known_of_a_film_judges_no_detection() -> None:
    found = [Boxes(np.array([[0.0, 0, 9, 9], [0, 0, 50, 90]]), np.array([1, 4]), np.array([0.5, 0.9]))] * 3
    truths = [Boxes.truth(np.array([[0, 0, 50, 80]]), np.array([4]))] * 3

    judged = judge(found, truths, [(True, True), (False, True), (True, False)])

    assert judged.of(LESIONS).outcomes.tolist() == [0, 0]
    assert judged.of((4,)).outcomes.tolist() == [1, 1]
