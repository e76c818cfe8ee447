"""Free-response ROC by hand: who finds which truth, and how many false positives are paid for it."""

import numpy as np
import pytest

from models import froc

MISSED = -np.inf


def test_the_surest_detection_chooses_first_and_takes_the_closest_truth() -> None:
    truths = np.array([[0.0, 0, 0], [6, 0, 0]])
    points = np.array([[2.5, 0, 0], [0.5, 0, 0]])

    found = froc.match([0.9, 0.8], froc.by_distance(points, truths, np.array([4.0, 4.0])))

    # Both points reach the first truth only by 2.5 and 0.5 mm, the second by 3.5: the surer takes the closer.
    assert found.found.tolist() == [0.9, MISSED]
    assert found.false.tolist() == []


def test_a_second_detection_of_one_truth_is_neither_found_nor_false() -> None:
    closeness = froc.by_distance(np.array([[0.0], [1.0]]), np.array([[0.0]]), np.array([2.0]))

    found = froc.match([0.3, 0.7], closeness)

    assert found.found.tolist() == [0.7]
    assert found.false.tolist() == []


def test_a_detection_beyond_the_radius_is_false() -> None:
    closeness = froc.by_distance(np.array([[2.1], [2.0]]), np.array([[0.0]]), np.array([2.0]))

    found = froc.match([0.6, 0.5], closeness)

    assert found.found.tolist() == [0.5]
    assert found.false.tolist() == [0.6]


def test_boxes_count_by_their_overlap() -> None:
    truths = np.array([[[0.0, 0.0], [2.0, 2.0]]])
    boxes = np.array([[[0.0, 0.0], [2.0, 1.0]], [[1.0, 1.0], [3.0, 3.0]]])

    overlap = froc.by_overlap(boxes, truths, least=0.4)

    # The first covers 2 of 4, the second 1 of 7.
    assert overlap.tolist() == [[0.5], [MISSED]]


# Two images: three truths, found at 0.9, 0.6 and never; false ones at 0.8, 0.5 and 0.4.
HAND = (
    froc.Matched(np.array([0.9, MISSED]), np.array([0.8, 0.4])),
    froc.Matched(np.array([0.6]), np.array([0.5])),
)


@pytest.mark.parametrize(
    ("false_per_image", "threshold", "sensitivity"),
    [
        (0.25, 0.8, 1 / 3),
        (0.5, 0.5, 2 / 3),
        (1.0, 0.4, 2 / 3),
        (1.5, -np.inf, 2 / 3),
        (8.0, -np.inf, 2 / 3),
    ],
)
def test_sensitivity_at_false_positives_per_image(
    false_per_image: float, threshold: float, sensitivity: float
) -> None:
    assert froc.threshold_at(HAND, false_per_image) == threshold
    assert froc.sensitivities(HAND, [false_per_image]) == pytest.approx((sensitivity,))
    assert froc.false_rate(HAND, threshold) <= false_per_image


def test_truths_that_are_left_out_change_no_false_positive() -> None:
    chosen = [HAND[0].of(np.array([True, False])), HAND[1].of(np.array([True]))]

    assert froc.sensitivities(chosen, [0.5, 8.0]) == pytest.approx((1.0, 1.0))
    assert froc.threshold_at(chosen, 0.5) == froc.threshold_at(HAND, 0.5)


def test_the_interval_is_drawn_over_images() -> None:
    alike = [HAND[1]] * 12

    estimate = froc.sensitivity_estimate(alike, 2.0, repeats=50)

    # All images are alike: drawing them anew changes nothing.
    assert (estimate.value, estimate.low, estimate.high) == (1.0, 1.0, 1.0)


def test_without_truths_there_is_no_sensitivity() -> None:
    empty = froc.match([0.5], froc.by_distance(np.array([[1.0]]), np.zeros((0, 1)), np.zeros(0)))

    assert empty.false.tolist() == [0.5]
    assert np.isnan(froc.sensitivity([empty], 0.1))
