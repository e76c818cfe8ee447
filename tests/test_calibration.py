"""What makes the scores of an ensemble honest: temperatures, prediction sets, strangeness."""

import numpy as np
import pytest

pytest.importorskip("scipy")

from scipy.special import expit

from models import calibration, conformal, metrics, strangeness


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(8)


# --- temperatures ----------------------------------------------------------------------------------------


def test_the_mean_of_the_members_is_honest_after_their_common_factor(random: np.random.Generator) -> None:
    honest = random.normal(0, 2, 20_000)
    truth = random.random(len(honest)) < expit(honest)
    # Each member sees the truth through noise of its own, and is twice or four times too sure.
    seen = honest + random.normal(0, 1.5, (2, 2, len(honest)))
    logits = seen * np.array([2.0, 4.0])[:, None, None]

    temperature = calibration.ensemble_temperatures(logits, truth)

    alone = [calibration.fit_temperature(member, np.tile(truth, (2, 1)).astype(float)) for member in logits]
    assert temperature[1] / temperature[0] == pytest.approx(2, rel=0.05)

    def loss(by_member: np.ndarray) -> float:
        views = (logits / np.asarray(by_member)[:, None, None]).reshape(4, -1)
        return calibration.negative_log_likelihood(calibration.mean_logit(views), truth)

    # Members honest alone are too cautious together: the common factor is below 1.
    assert (temperature < alone).all()
    assert loss(temperature) < loss(alone)
    for factor in (0.9, 1.1):
        assert loss(temperature) < loss(temperature * factor)


def test_a_class_is_calibrated_on_known_truth_alone(random: np.random.Generator) -> None:
    honest = random.normal(0, 2, 2_000)
    labels = np.where(np.arange(2_000) % 2, random.random(2_000) < expit(honest), np.nan)
    # (members, pictures, views, n): one member, the image and one copy, two views.
    logits = honest + random.normal(0, 0.2, (1, 2, 2, 2_000))

    fitted = calibration.calibrate_class(logits, labels, calibration.choose_threshold(0.9))

    probability = expit(logits[0, 0] / fitted.temperature[0]).mean(axis=0)
    is_known = ~np.isnan(labels)
    truth = labels[is_known] == 1
    # The standard error of a temperature from a thousand cases is about 7 %.
    assert fitted.temperature == pytest.approx((1,), rel=0.25)
    assert fitted.interval_coverage == pytest.approx(0.95, abs=0.01)
    assert metrics.sensitivity(truth, probability[is_known], fitted.threshold) >= 0.9
    assert fitted.conformal_quantile == conformal.fit_quantile(truth, probability[is_known])


# --- conformal prediction sets ---------------------------------------------------------------------------


def test_the_conformal_quantile_by_hand() -> None:
    truth = np.array([True] * 10 + [False] * 9)
    # Nonconformities 0.01 to 0.19, whatever the truth is.
    nonconformity = np.arange(1, 20) / 100
    probability = np.where(truth, 1 - nonconformity, nonconformity)

    # ceil(20 · 0.95) = 19th smallest of 19, ceil(20 · 0.5) = 10th.
    assert conformal.fit_quantile(truth, probability, 0.95) == pytest.approx(0.19)
    assert conformal.fit_quantile(truth, probability, 0.5) == pytest.approx(0.10)


def test_too_few_images_for_a_coverage_make_sets_of_both_answers() -> None:
    truth, probability = np.array([True] * 18), np.full(18, 0.99)

    quantile = conformal.fit_quantile(truth, probability, 0.95)

    assert quantile == 1
    assert conformal.prediction_set(probability, quantile).all()


def test_a_quantile_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="needs images"):
        conformal.fit_quantile(np.zeros(0, bool), np.zeros(0))


@pytest.mark.parametrize("exponent", [1.0, 0.3, 3.0])
def test_sets_hold_the_truth_as_often_as_stated_even_of_dishonest_probabilities(
    exponent: float, random: np.random.Generator
) -> None:
    truth = random.random(6_000) < 0.5
    probability = expit(random.normal(np.where(truth, 1, -1), 1.5)) ** exponent
    half = len(truth) // 2

    quantile = conformal.fit_quantile(truth[:half], probability[:half], 0.9)
    sets = conformal.prediction_set(probability[half:], quantile)
    covered = conformal.is_covered(truth[half:], sets)

    # Standard error of both halves together: 0.0077.
    assert covered.mean() == pytest.approx(0.9, abs=0.025)


# --- strangeness -----------------------------------------------------------------------------------------


def test_features_like_those_of_training_are_near_and_others_far(random: np.random.Generator) -> None:
    directions = np.linalg.qr(random.normal(size=(50, 5)))[0]
    known = random.normal(size=(200, 5)) @ directions.T + 3

    subspace = strangeness.fit_subspace(known, directions=5)

    new = random.normal(size=(10, 5)) @ directions.T + 3
    step = random.normal(size=50)
    outside = step - directions @ (directions.T @ step)
    # float32 leaves about 1e-6 of values around 3.
    np.testing.assert_allclose(subspace.distance(new), 0, atol=1e-4)
    np.testing.assert_allclose(subspace.distance(new + outside), np.linalg.norm(outside), rtol=1e-5)


def test_a_subspace_has_no_more_directions_than_images_can_tell(random: np.random.Generator) -> None:
    few = strangeness.fit_subspace(random.normal(size=(6, 50)))

    assert few.directions.shape == (50, 5)
    np.testing.assert_allclose(few.directions.T @ few.directions, np.eye(5), atol=1e-6)


def test_strangeness_is_measured_in_standard_deviations_of_the_usual(random: np.random.Generator) -> None:
    usual = random.normal([[[5.0, 100.0]], [[-7.0, 1.0]]], [[[2.0, 10.0]], [[1.0, 0.1]]], (2, 5_000, 2))
    standards = strangeness.fit_standards(usual)

    # Three deviations in the first part for both members, one in the second.
    strange = np.array([[[11.0, 110.0]], [[-4.0, 1.1]]])
    assert strangeness.score(strange, standards) == pytest.approx(np.log1p(np.exp(3)), rel=0.05)


def test_a_part_that_never_varies_makes_nothing_strange(random: np.random.Generator) -> None:
    usual = np.stack([np.zeros(100), random.normal(size=100)], axis=1)[None]

    scores = strangeness.score(usual, strangeness.fit_standards(usual))

    assert np.isfinite(scores).all()
    assert scores.max() < 5


def test_the_threshold_spares_the_images_of_every_source(random: np.random.Generator) -> None:
    real, synthetic = random.normal(1, 1, 5_000), random.normal(5, 0.1, 300)

    threshold = strangeness.fit_threshold([real, synthetic, real[:0]])

    assert (real > threshold).mean() <= 0.01
    assert (synthetic > threshold).mean() == pytest.approx(0.01, abs=0.004)
