"""Figures of boxes by hand, and beside the reference implementation where it is installed."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence

import numpy as np
import pytest

from models import froc
from models.detector_metrics import (
    OVERLAPS,
    Boxes,
    average_precision,
    best_overlaps,
    hits,
    largest_difference,
    matched,
    mean_average_precision,
    outcomes,
    overlap,
    sensitivity_of,
)

BOX = (0.0, 0.0, 10.0, 10.0)
FAR = (50.0, 50.0, 60.0, 60.0)


def boxes(*rows: tuple[Sequence[float], int, float]) -> Boxes:
    """Return boxes of rows of (corners, label, score)."""
    corners = np.array([row[0] for row in rows], float).reshape(-1, 4)
    labels = np.array([row[1] for row in rows], np.int64)
    return Boxes(corners, labels, np.array([row[2] for row in rows], float))


def truth(*rows: tuple[Sequence[float], int]) -> Boxes:
    return boxes(*((corners, label, 1.0) for corners, label in rows))


def test_overlap_by_hand() -> None:
    found = overlap(np.array([BOX, FAR]), np.array([(5.0, 0.0, 15.0, 10.0), BOX]))

    # Half of each is common: 50 of 150.
    np.testing.assert_allclose(found, [[1 / 3, 1], [0, 0]])


# --- mean average precision -------------------------------------------------------------------------------


def test_each_truth_is_found_once_and_by_the_surest() -> None:
    found = boxes((BOX, 1, 0.6), ((0, 0, 10, 9), 1, 0.9), (FAR, 1, 0.8))

    assert hits(found, truth((BOX, 1)), 0.5).tolist() == [False, True, False]


def test_a_box_takes_the_free_truth_it_overlaps_most() -> None:
    shifted = (4.0, 0.0, 14.0, 10.0)
    found = boxes((BOX, 1, 0.9), ((1, 0, 11, 10), 1, 0.8))

    assert hits(found, truth((shifted, 1), (BOX, 1)), 0.5).tolist() == [True, True]
    assert hits(found, truth((BOX, 1)), 0.5).tolist() == [True, False]


def test_average_precision_by_hand() -> None:
    # Three truths on two images; by score: hit, miss, hit, and the third is never found.
    truths = [truth((BOX, 1), (FAR, 1)), truth((BOX, 1))]
    found = [boxes((BOX, 1, 0.9), (FAR, 1, 0.3)), boxes((FAR, 1, 0.5))]

    value = average_precision(found, truths, 0.5)

    # Precision 1 up to a recall of 1/3 (34 of 101 points), 2/3 up to 2/3 (33 more), then 0.
    assert value == pytest.approx((34 * 1 + 33 * 2 / 3) / 101)


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        ([boxes((BOX, 1, 0.5))], 1.0),
        ([boxes()], 0.0),
        ([boxes((FAR, 1, 0.5))], 0.0),
        # A second box on the same truth is wrong, but less sure.
        ([boxes((BOX, 1, 0.5), ((0, 0, 10, 9.5), 1, 0.4))], 1.0),
        # ... and surer, but off by more than half.
        ([boxes((BOX, 1, 0.5), ((5, 5, 15, 15), 1, 0.9))], 0.5),
    ],
)
def test_average_precision_of_one_truth(found: list[Boxes], wanted: float) -> None:
    assert average_precision(found, [truth((BOX, 1))], 0.5) == pytest.approx(wanted)


def test_a_thing_of_two_kinds_is_a_box_of_each() -> None:
    here, there = (0.0, 0, 10, 10), (50.0, 50, 90, 90)
    found = Boxes(
        np.array([here, there]),
        np.array([2, 4]),
        np.array([0.8, 0.9]),
        np.array([(0.25, 0.75, 0.0), (0.0, 0, 0)]),
    )

    each = found.of_each_kind()

    assert each.boxes.tolist() == [list(there), list(here), list(here)]
    assert each.labels.tolist() == [4, 1, 2]
    np.testing.assert_allclose(each.scores, [0.9, 0.2, 0.6])
    assert found.of([4]).of_each_kind().labels.tolist() == [4]


def test_the_mean_is_over_labels_that_are_there() -> None:
    truths = [truth((BOX, 1), (FAR, 2))]
    found = [boxes((BOX, 1, 0.9), (FAR, 3, 0.9))]

    assert mean_average_precision(found, truths, (1, 2, 3), overlaps=(0.5,)) == pytest.approx(0.5)
    assert np.isnan(mean_average_precision(found, [truth()], (1, 2, 3)))


def test_better_boxes_have_more_of_the_ten_overlaps() -> None:
    # 8 of 10 rows: an overlap of 0.8, which reaches seven of 0.5, 0.55 … 0.95.
    found = [boxes(((0, 0, 10, 8), 1, 0.9))]

    assert len(OVERLAPS) == 10
    assert mean_average_precision(found, [truth((BOX, 1))], (1,)) == pytest.approx(0.7)


def test_figures_are_those_of_the_reference() -> None:
    coco = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    random = np.random.default_rng(4)
    truths, found = [], []
    for _ in range(25):
        low = random.uniform(0, 80, (random.integers(0, 5), 2))
        own = np.concatenate([low, low + random.uniform(8, 40, low.shape)], axis=1)
        labels = random.integers(1, 4, len(own))
        truths.append(Boxes.truth(own, labels))
        moved = np.repeat(own, 2, axis=0) + random.normal(0, 2.5, (2 * len(own), 4))
        strange = np.concatenate([low, low + 12], axis=1)
        every = np.concatenate([moved, strange])
        kinds = np.concatenate([np.repeat(labels, 2), random.integers(1, 4, len(strange))])
        found.append(Boxes(every, kinds, random.uniform(0, 1, len(every))))

    reference = coco.COCO()
    reference.dataset = {
        "info": {},
        "images": [{"id": number} for number in range(len(truths))],
        "categories": [{"id": label} for label in (1, 2, 3)],
        "annotations": [
            entry | {"id": number + 1, "iscrowd": 0} for number, entry in enumerate(entries_of(truths))
        ],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        reference.createIndex()
        evaluated = cocoeval.COCOeval(reference, reference.loadRes(entries_of(found)), "bbox")
        evaluated.evaluate()
        evaluated.accumulate()
        evaluated.summarize()

    values = [
        mean_average_precision(found, truths, (1, 2, 3), overlaps=least)
        for least in (OVERLAPS, (0.5,), (0.75,))
    ]
    assert 0.05 < values[0] < 0.9
    np.testing.assert_allclose(values, evaluated.stats[:3], atol=1e-9)


def entries_of(images: Sequence[Boxes]) -> list[dict[str, object]]:
    """Return boxes as COCO writes them: left, top, width, height."""
    return [
        {
            "image_id": number,
            "category_id": int(label),
            "bbox": [*box[:2], *(box[2:] - box[:2])],
            "area": float(np.prod(box[2:] - box[:2])),
            "score": float(score),
        }
        for number, one in enumerate(images)
        for box, label, score in zip(one.boxes, one.labels, one.scores, strict=True)
    ]


# --- free-response ROC ------------------------------------------------------------------------------------


def test_a_lesion_of_another_kind_is_found_all_the_same() -> None:
    truths = [truth((BOX, 1)), truth()]
    found = [boxes((BOX, 2, 0.7), (FAR, 1, 0.6), (BOX, 4, 0.9)), boxes((FAR, 3, 0.2))]

    images = matched(found, truths, (1, 2, 3))

    assert [one.found.tolist() for one in images] == [[0.7], []]
    assert [one.false.tolist() for one in images] == [[0.6], [0.2]]
    assert froc.sensitivities(images, [0.5]) == (1.0,)


def test_sensitivity_of_a_part_of_the_truths() -> None:
    truths = [truth((BOX, 1), (FAR, 1)), truth((BOX, 1))]
    images = matched([boxes((BOX, 1, 0.9)), boxes((BOX, 1, 0.4))], truths, (1,))
    is_small = [np.array([True, False]), np.array([True])]

    assert sensitivity_of(images, is_small, 0.5) == (2, 0.5)
    count, value = sensitivity_of(images, [~one for one in is_small], -np.inf)
    assert (count, value) == (1, 0.0)


def test_what_a_detection_was_is_told_for_calibration() -> None:
    found = boxes((BOX, 1, 0.5), (BOX, 2, 0.9), (FAR, 1, 0.8))

    np.testing.assert_array_equal(outcomes(found, truth((BOX, 1))), [np.nan, 1.0, 0.0])
    np.testing.assert_array_equal(outcomes(found, truth()), [0.0, 0.0, 0.0])


def test_lungs_are_judged_by_the_surest_box() -> None:
    truths = [truth((BOX, 4)), truth((BOX, 4), (FAR, 5)), truth((FAR, 5))]
    found = [boxes((BOX, 4, 0.3), ((0, 0, 10, 5), 4, 0.8)), boxes((FAR, 5, 0.9)), boxes((FAR, 5, 0.9))]

    assert best_overlaps(found, truths, 4).tolist() == [0.5, 0.0]
    assert best_overlaps(found, truths, 5).tolist() == [1.0, 1.0]


# --- agreement of graphs ----------------------------------------------------------------------------------


def test_answers_agree_in_any_order() -> None:
    one = boxes((BOX, 1, 0.5), (FAR, 1, 0.5), (FAR, 2, 0.4))
    other = boxes(((50, 50, 60, 60.25), 1, 0.5), (FAR, 2, 0.4), (BOX, 1, 0.49))

    pixels, score = largest_difference(one, other)

    assert (pixels, score) == (pytest.approx(0.25), pytest.approx(0.01))


@pytest.mark.parametrize("other", [boxes(), boxes((BOX, 2, 0.5)), boxes((BOX, 1, 0.5), (FAR, 1, 0.5))])
def test_a_box_more_or_of_another_label_is_no_agreement(other: Boxes) -> None:
    assert largest_difference(boxes((BOX, 1, 0.5)), other) == (np.inf, np.inf)
