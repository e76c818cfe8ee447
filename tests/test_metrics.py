"""Figures of merit and calibration, against scikit-learn and by hand."""

import numpy as np
import pytest

from models import metrics

RANDOM = np.random.default_rng(5)
TRUTH = RANDOM.random(300) < 0.4
# Two decimals make ties, which an AUC must count half.
SCORES = np.round(np.clip(0.3 * TRUTH + RANDOM.random(300) * 0.7, 0, 1), 2)


def test_area_under_curve_is_that_of_scikit_learn_with_ties() -> None:
    reference = pytest.importorskip("sklearn.metrics")

    assert metrics.area_under_curve(TRUTH, SCORES) == pytest.approx(reference.roc_auc_score(TRUTH, SCORES))


def test_brier_score_is_that_of_scikit_learn() -> None:
    reference = pytest.importorskip("sklearn.metrics")

    assert metrics.brier_score(TRUTH, SCORES) == pytest.approx(reference.brier_score_loss(TRUTH, SCORES))


def test_sensitivity_specificity_and_accuracy_are_those_of_scikit_learn() -> None:
    reference = pytest.importorskip("sklearn.metrics")
    called = SCORES >= 0.5

    assert metrics.sensitivity(TRUTH, SCORES, 0.5) == pytest.approx(reference.recall_score(TRUTH, called))
    specificity = reference.recall_score(TRUTH, called, pos_label=False)
    assert metrics.specificity(TRUTH, SCORES, 0.5) == pytest.approx(specificity)
    assert metrics.accuracy(TRUTH, SCORES, 0.5) == pytest.approx(reference.accuracy_score(TRUTH, called))


def test_figures_by_hand() -> None:
    truth = np.array([True, True, False, False])
    probability = np.array([0.9, 0.4, 0.4, 0.1])

    assert metrics.area_under_curve(truth, probability) == pytest.approx(3.5 / 4)
    assert metrics.sensitivity(truth, probability, 0.4) == 1
    assert metrics.specificity(truth, probability, 0.4) == 0.5
    assert metrics.brier_score(truth, probability) == pytest.approx((0.01 + 0.36 + 0.16 + 0.01) / 4)
    # Bins 0.1, 0.4 (twice, one of two true) and 0.9: distances 0.1, 0.1 and 0.1.
    assert metrics.expected_calibration_error(truth, probability) == pytest.approx(0.1)


def test_calibration_error_of_honest_probabilities_is_small() -> None:
    random = np.random.default_rng(3)
    probability = random.random(20_000)
    truth = random.random(20_000) < probability

    # Twenty thousand coin throws in ten bins: each bin is known to about 0.01.
    assert metrics.expected_calibration_error(truth, probability) < 0.012
    assert metrics.expected_calibration_error(truth, 1 - probability) > 0.4


def test_figures_without_positives_or_negatives_are_undefined() -> None:
    assert np.isnan(metrics.area_under_curve(np.ones(3, bool), np.ones(3)))
    assert np.isnan(metrics.sensitivity(np.zeros(3, bool), np.ones(3), 0.5))
    assert np.isnan(metrics.specificity(np.ones(3, bool), np.ones(3), 0.5))


@pytest.mark.parametrize("wanted", [0.5, 0.9, 0.95, 1.0])
def test_threshold_reaches_the_wanted_sensitivity_and_no_higher_one_does(wanted: float) -> None:
    threshold = metrics.threshold_at_sensitivity(TRUTH, SCORES, wanted)

    assert metrics.sensitivity(TRUTH, SCORES, threshold) >= wanted
    assert metrics.sensitivity(TRUTH, SCORES, threshold + 0.005) < wanted


def test_threshold_by_youden_is_the_best_of_all() -> None:
    threshold = metrics.threshold_by_youden(TRUTH, SCORES)

    best = max(
        metrics.sensitivity(TRUTH, SCORES, t) + metrics.specificity(TRUTH, SCORES, t)
        for t in np.unique(SCORES)
    )
    found = metrics.sensitivity(TRUTH, SCORES, threshold) + metrics.specificity(TRUTH, SCORES, threshold)
    assert found == pytest.approx(best)


def test_bootstrap_draws_patients_not_images() -> None:
    # Twenty patients with fifty equal images each: what is known is known of twenty, not of a thousand.
    outcomes = np.random.default_rng(1).random(20) < 0.5
    values, groups = np.repeat(outcomes, 50), np.repeat(np.arange(20).astype(str), 50)

    by_patient = metrics.bootstrap(lambda chosen: float(values[chosen].mean()), groups, repeats=400)
    by_image = metrics.bootstrap(
        lambda chosen: float(values[chosen].mean()), np.arange(1000).astype(str), repeats=400
    )

    expected = 1.96 * np.sqrt(by_patient.value * (1 - by_patient.value) / 20)
    assert (by_patient.high - by_patient.low) / 2 == pytest.approx(expected, rel=0.25)
    assert (by_image.high - by_image.low) / 2 == pytest.approx(expected / np.sqrt(50), rel=0.25)
    assert by_patient.low <= by_patient.value <= by_patient.high


def test_temperature_undoes_overconfidence() -> None:
    pytest.importorskip("scipy")
    from models import calibration

    random = np.random.default_rng(2)
    honest = random.normal(0, 2, 20_000)
    labels = (random.random(20_000) < 1 / (1 + np.exp(-honest))).astype(float)

    # The standard error of T at this size is about 2 %.
    assert calibration.fit_temperature(honest * 3, labels) == pytest.approx(3, rel=0.06)


def test_temperature_of_one_kind_of_label_is_refused() -> None:
    pytest.importorskip("scipy")
    from models import calibration

    with pytest.raises(ValueError, match="positives and negatives"):
        calibration.fit_temperature(np.ones(4), np.ones(4))


def test_interval_constant_covers_what_it_was_fitted_on() -> None:
    pytest.importorskip("scipy")
    from models import calibration

    random = np.random.default_rng(4)
    views = random.normal(0, 2, (2, 500))
    changed = calibration.mean_logit(views) + random.normal(0, 1.5, (4, 500))
    constant = calibration.fit_interval_constant(views, changed)

    assert calibration.interval_coverage(views, changed, constant) == pytest.approx(0.95, abs=0.002)
