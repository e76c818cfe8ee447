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


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8])
@pytest.mark.parametrize(
    ("figure", "name", "arguments"),
    [
        (metrics.sensitivity, "recall_score", {}),
        (metrics.recall, "recall_score", {}),
        (metrics.specificity, "recall_score", {"pos_label": False}),
        (metrics.precision, "precision_score", {}),
        (metrics.accuracy, "accuracy_score", {}),
        (metrics.f1_score, "f1_score", {}),
    ],
)
def test_figure_at_a_threshold_is_that_of_scikit_learn(figure, name, arguments, threshold) -> None:
    reference = pytest.importorskip("sklearn.metrics")

    called = threshold <= SCORES

    expected = getattr(reference, name)(TRUTH, called, **arguments)
    assert figure(TRUTH, SCORES, threshold) == pytest.approx(expected)


def test_confusion_matrix_is_that_of_scikit_learn() -> None:
    reference = pytest.importorskip("sklearn.metrics")

    expected = reference.confusion_matrix(TRUTH, SCORES >= 0.5)
    np.testing.assert_array_equal(metrics.confusion_matrix(TRUTH, SCORES, 0.5), expected)


def test_average_precision_is_that_of_scikit_learn_with_ties() -> None:
    reference = pytest.importorskip("sklearn.metrics")

    expected = reference.average_precision_score(TRUTH, SCORES)
    assert metrics.average_precision(TRUTH, SCORES) == pytest.approx(expected)


def test_roc_curve_is_that_of_scikit_learn() -> None:
    reference = pytest.importorskip("sklearn.metrics")

    false_alarms, found, _ = reference.roc_curve(TRUTH, SCORES, drop_intermediate=False)
    np.testing.assert_allclose(metrics.roc_curve(TRUTH, SCORES), [false_alarms, found])


def test_area_under_the_points_of_the_curve_is_the_area() -> None:
    false_alarms, found = metrics.roc_curve(TRUTH, SCORES)

    assert np.trapezoid(found, false_alarms) == pytest.approx(metrics.area_under_curve(TRUTH, SCORES))


def test_reliability_and_calibration_error_are_those_of_scikit_learn() -> None:
    reference = pytest.importorskip("sklearn.calibration")
    # Away from the bounds of the bins, which scikit-learn counts to the bin below.
    scores = SCORES * 0.99 + 0.0012

    found = metrics.reliability(TRUTH, scores)

    frequency, probability = reference.calibration_curve(TRUTH, scores, n_bins=10)
    np.testing.assert_allclose(found.frequency, frequency)
    np.testing.assert_allclose(found.probability, probability)
    assert found.count.sum() == len(TRUTH)
    expected = np.sum(found.count * np.abs(frequency - probability)) / len(TRUTH)
    assert metrics.expected_calibration_error(TRUTH, scores) == pytest.approx(expected)


def test_figures_by_hand() -> None:
    truth = np.array([True, True, False, False])
    probability = np.array([0.9, 0.4, 0.4, 0.1])

    assert metrics.area_under_curve(truth, probability) == pytest.approx(3.5 / 4)
    assert metrics.sensitivity(truth, probability, 0.4) == 1
    assert metrics.specificity(truth, probability, 0.4) == 0.5
    assert metrics.precision(truth, probability, 0.4) == pytest.approx(2 / 3)
    assert metrics.recall(truth, probability, 0.9) == 0.5
    assert metrics.accuracy(truth, probability, 0.4) == 0.75
    # Precision 2/3 and recall 1.
    assert metrics.f1_score(truth, probability, 0.4) == pytest.approx(0.8)
    assert metrics.confusion_matrix(truth, probability, 0.4).tolist() == [[1, 1], [0, 2]]
    assert metrics.confusion_matrix(truth, probability, 0.5).tolist() == [[2, 0], [1, 1]]
    # Half of the recall at precision 1, the other half at 2/3; the last score adds none.
    assert metrics.average_precision(truth, probability) == pytest.approx((1 + 2 / 3) / 2)
    assert np.array(metrics.roc_curve(truth, probability)).T.tolist() == [[0, 0], [0, 0.5], [0.5, 1], [1, 1]]
    assert metrics.brier_score(truth, probability) == pytest.approx((0.01 + 0.36 + 0.16 + 0.01) / 4)
    # Bins 0.1, 0.4 (twice, one of two true) and 0.9: distances 0.1, 0.1 and 0.1.
    assert metrics.expected_calibration_error(truth, probability) == pytest.approx(0.1)


def test_reliability_by_hand() -> None:
    truth = np.array([True, False, False, True, True])
    # 0.5 opens the upper of two bins, and 1 still belongs to it.
    found = metrics.reliability(truth, np.array([0.2, 0.4, 0.45, 0.5, 1.0]), bins=2)

    assert found.place.tolist() == [0, 1]
    assert found.count.tolist() == [3, 2]
    np.testing.assert_allclose(found.probability, [0.35, 0.75])
    np.testing.assert_allclose(found.frequency, [1 / 3, 1])


def test_empty_bins_are_left_out() -> None:
    found = metrics.reliability(np.array([True, False]), np.array([0.95, 0.05]))

    assert found.place.tolist() == [0, 9]


def test_calibration_error_of_honest_probabilities_is_small() -> None:
    random = np.random.default_rng(3)
    probability = random.random(20_000)
    truth = random.random(20_000) < probability

    # Twenty thousand coin throws in ten bins: each bin is known to about 0.01.
    assert metrics.expected_calibration_error(truth, probability) < 0.012
    assert metrics.expected_calibration_error(truth, 1 - probability) > 0.4


# Cases that are all positive, or none of them; each at or above the threshold.
@pytest.mark.parametrize(
    ("figure", "kind", "is_undefined"),
    [
        (metrics.area_under_curve, "all", True),
        (metrics.area_under_curve, "none", True),
        (metrics.average_precision, "all", False),
        (metrics.average_precision, "none", True),
        (metrics.sensitivity, "none", True),
        (metrics.specificity, "all", True),
        (metrics.precision, "none", False),
        (metrics.f1_score, "none", False),
        (metrics.accuracy, "none", False),
    ],
)
def test_a_figure_without_one_kind_of_case(figure, kind, is_undefined) -> None:
    truth = np.full(3, kind == "all")
    threshold = [] if figure in (metrics.area_under_curve, metrics.average_precision) else [0.5]

    assert np.isnan(figure(truth, np.full(3, 0.7), *threshold)) == is_undefined


def test_precision_is_undefined_where_nothing_is_called() -> None:
    assert np.isnan(metrics.precision(np.array([True, False]), np.array([0.1, 0.2]), 0.5))


def test_f1_score_is_0_where_no_positive_is_found_and_undefined_where_there_is_nothing_to_find() -> None:
    low = np.array([0.1, 0.2])

    assert metrics.f1_score(np.array([True, False]), low, 0.5) == 0
    assert np.isnan(metrics.f1_score(np.array([False, False]), low, 0.5))


def test_a_roc_curve_without_positives_has_no_sensitivity() -> None:
    false_alarms, found = metrics.roc_curve(np.zeros(2, bool), np.array([0.1, 0.2]))

    assert false_alarms.tolist() == [0, 0.5, 1]
    assert np.isnan(found).all()


def test_figures_of_no_cases_are_undefined() -> None:
    truth, probability = np.zeros(0, bool), np.zeros(0)

    for figure in (metrics.brier_score, metrics.expected_calibration_error, metrics.average_precision):
        assert np.isnan(figure(truth, probability))
    for figure in (metrics.accuracy, metrics.precision, metrics.recall, metrics.f1_score):
        assert np.isnan(figure(truth, probability, 0.5))
    assert metrics.confusion_matrix(truth, probability, 0.5).tolist() == [[0, 0], [0, 0]]


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
