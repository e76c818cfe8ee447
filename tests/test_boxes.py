"""Boxes: overlap and fusion by worked cases, and the way between a picture and a network's square."""

import numpy as np
import pytest

from node.imaging.boxes import Fused, Squeeze, areas, clip, pairwise_iou, weighted_boxes
from node.imaging.intensity import prepare_radiograph


def boxes(*rows: tuple[float, float, float, float]) -> np.ndarray:
    return np.array(rows, np.float32).reshape(-1, 4)


def fused(
    *members: list[tuple[tuple[float, float, float, float], float, int]],
    iou: float = 0.5,
    alike: tuple[int, ...] = (),
) -> Fused:
    """The fusion of members, each with its (box, score, label)."""
    return weighted_boxes(
        [boxes(*(box for box, _, _ in member)) for member in members],
        [np.array([score for _, score, _ in member], np.float32) for member in members],
        [np.array([label for _, _, label in member], np.int64) for member in members],
        iou,
        alike=alike,
    )


# --- overlap


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ((0, 0, 10, 10), (0, 0, 10, 10), 1),
        # They share 5 x 10 of 10 x 10 + 10 x 10 - 5 x 10.
        ((0, 0, 10, 10), (5, 0, 15, 10), 50 / 150),
        # A quarter within the whole.
        ((0, 0, 10, 10), (2, 2, 7, 7), 25 / 100),
        ((0, 0, 10, 10), (9, 8, 13, 10), 2 / (100 + 8 - 2)),
        # They touch.
        ((0, 0, 10, 10), (10, 0, 20, 10), 0),
        ((0, 0, 10, 10), (30, 40, 50, 60), 0),
        # Nothing, and what is turned inside out, overlaps with nothing.
        ((3, 3, 3, 3), (3, 3, 3, 3), 0),
        ((10, 10, 0, 0), (0, 0, 10, 10), 0),
    ],
)
def test_overlap_is_the_shared_part_of_both(one: tuple, other: tuple, expected: float) -> None:
    assert pairwise_iou(boxes(one), boxes(other)).item() == pytest.approx(expected)
    assert pairwise_iou(boxes(other), boxes(one)).item() == pytest.approx(expected)


def test_overlap_is_of_each_with_each() -> None:
    found = pairwise_iou(boxes((0, 0, 2, 2), (0, 0, 4, 4)), boxes((0, 0, 4, 4), (0, 0, 2, 2), (9, 9, 10, 10)))

    np.testing.assert_allclose(found, [[0.25, 1, 0], [1, 0.25, 0]])
    assert pairwise_iou(boxes(), boxes((0, 0, 1, 1))).shape == (0, 1)


def test_what_lies_beside_the_picture_is_cut_off() -> None:
    clipped = clip(boxes((-5, -1, 3, 4), (8, 7, 30, 40), (50, 60, 70, 80)), (20, 10))

    np.testing.assert_array_equal(clipped, [(0, 0, 3, 4), (8, 7, 10, 20), (10, 20, 10, 20)])
    assert areas(clipped).tolist() == [12, 26, 0]


# --- fusion


def test_two_members_that_agree_give_the_weighted_mean() -> None:
    one = fused([((10, 10, 20, 20), 0.9, 1)], [((12, 10, 22, 20), 0.6, 1)])

    # (0.9 * 10 + 0.6 * 12) / 1.5 and (0.9 * 20 + 0.6 * 22) / 1.5; their overlap is 80 / 120.
    np.testing.assert_allclose(one.boxes, [(10.8, 10, 20.8, 20)], rtol=1e-6)
    np.testing.assert_allclose(one.members, [(0.9, 0.6)])
    assert one.scores.item() == pytest.approx(0.75)
    assert one.spread.item() == pytest.approx(0.15)
    assert one.labels.tolist() == [1]


def test_a_place_that_one_of_three_found_counts_a_third() -> None:
    one = fused([((0, 0, 8, 8), 0.9, 1)], [], [])

    # The paper's mean · boxes / members.
    assert one.scores.item() == pytest.approx(0.9 * 1 / 3)
    np.testing.assert_allclose(one.members, [(0.9, 0, 0)])
    assert one.spread.item() == pytest.approx(np.std([0.9, 0, 0]))
    np.testing.assert_array_equal(one.boxes, [(0, 0, 8, 8)])


def test_the_box_of_a_place_moves_while_it_is_fused() -> None:
    # 0.8 at 0-10 and 0.4 at 3-13 give (0.4 * 3) / 1.2 = 1, so 1-11. With that, 5-15 shares 6 of 14, more than
    # 0.4; with the first alone, 5 of 15.
    chain = ([((0, 0, 10, 10), 0.8, 1)], [((3, 0, 13, 10), 0.4, 1)], [((5, 0, 15, 10), 0.2, 1)])

    together = fused(*chain, iou=0.4)
    apart = fused(*chain, iou=0.45)

    # (0.4 * 3 + 0.2 * 5) / 1.4 = 1.571
    np.testing.assert_allclose(together.boxes, [(2.2 / 1.4, 0, 10 + 2.2 / 1.4, 10)], rtol=1e-5)
    np.testing.assert_allclose(together.scores, [1.4 / 3], rtol=1e-6)
    np.testing.assert_allclose(apart.boxes, [(1, 0, 11, 10), (5, 0, 15, 10)], rtol=1e-6)
    np.testing.assert_allclose(apart.scores, [1.2 / 3, 0.2 / 3], rtol=1e-6)


def test_a_box_joins_the_place_that_it_overlaps_most() -> None:
    two = fused([((0, 0, 10, 10), 0.9, 1), ((8, 0, 18, 10), 0.7, 1)], [((5, 0, 15, 10), 0.1, 1)], iou=0.3)

    # It shares 5 of 15 with the first and 7 of 13 with the second.
    np.testing.assert_allclose(two.members, [(0.9, 0), (0.7, 0.1)])


def test_an_overlap_of_exactly_the_limit_is_not_enough() -> None:
    pair = ([((0, 0, 10, 10), 0.9, 1)], [((0, 0, 10, 5), 0.8, 1)])

    assert len(fused(*pair, iou=0.5)) == 2
    assert len(fused(*pair, iou=0.49)) == 1


def test_labels_do_not_mix() -> None:
    two = fused([((0, 0, 10, 10), 0.4, 1)], [((0, 0, 10, 10), 0.8, 2)])

    assert two.labels.tolist() == [2, 1]
    np.testing.assert_allclose(two.scores, [0.4, 0.2])


def test_labels_that_are_alike_share_their_places() -> None:
    members = (
        [((0, 0, 10, 10), 0.8, 1), ((40, 0, 50, 10), 0.4, 4)],
        [((0, 0, 10, 10), 0.5, 2), ((40, 0, 50, 10), 0.3, 2)],
        [((0, 0, 10, 10), 0.4, 2)],
    )

    found = fused(*members, alike=(1, 2, 3))

    # 0.5 + 0.4 for the second label, 0.8 for the first; the fourth is like none.
    assert found.labels.tolist() == [2, 4, 2]
    np.testing.assert_allclose(found.members, [(0.8, 0.5, 0.4), (0.4, 0, 0), (0, 0.3, 0)])
    assert found.kinds.tolist() == [[1, 2, 2], [4, 0, 0], [0, 2, 0]]


def test_a_score_is_divided_among_the_kinds_that_a_member_thinks_of() -> None:
    here, lung = boxes((0, 0, 10, 10)), boxes((0, 0, 10, 10), (40, 0, 90, 90))

    found = weighted_boxes(
        [here, lung],
        [np.array([0.6], np.float32), np.array([0.4, 0.9], np.float32)],
        [np.array([1]), np.array([2, 4])],
        alike=(1, 2, 3),
        shares_by_member=[np.array([[0.5, 0.4, 0.1]]), np.array([[0, 0.8, 0.2], [0, 0, 0]])],
    )

    # 0.6 · 0.5 for the first label, 0.6 · 0.4 + 0.4 · 0.8 for the second, the rest of 1 for the third.
    assert found.labels.tolist() == [2, 4]
    np.testing.assert_allclose(found.shares, [(0, 0.3, 0.56, 0.14, 0), (0, 0, 0, 0, 1)], atol=1e-6)
    assert found.kinds.tolist() == [[1, 2], [0, 4]]


def test_a_row_of_shares_goes_with_each_box() -> None:
    one = boxes((0, 0, 10, 10)), np.array([0.6], np.float32), np.array([1])

    with pytest.raises(ValueError, match="one row for each box"):
        weighted_boxes(*([part] for part in one), alike=(1, 2), shares_by_member=[np.zeros((2, 2))])


def test_a_member_that_repeats_itself_is_no_second_opinion() -> None:
    one = fused([((0, 0, 10, 10), 0.8, 1), ((0, 0, 10, 9), 0.6, 1)], [])

    np.testing.assert_allclose(one.members, [(0.8, 0)])
    assert one.scores.item() == pytest.approx(0.4)
    # Both still say where it is: (0.8 * 10 + 0.6 * 9) / 1.4.
    np.testing.assert_allclose(one.boxes, [(0, 0, 10, 13.4 / 1.4)], rtol=1e-6)


def test_padding_is_no_box_and_the_surest_place_comes_first() -> None:
    padding = ((0.0, 0.0, 0.0, 0.0), 0.0, 0)
    found = fused(
        [((0, 0, 4, 4), 0.2, 3), ((50, 50, 60, 60), 0.7, 1), padding], [((50, 50, 60, 60), 0.5, 1), padding]
    )

    assert found.labels.tolist() == [1, 3]
    np.testing.assert_allclose(found.scores, [0.6, 0.1])


def test_the_order_of_members_and_of_boxes_does_not_matter() -> None:
    random = np.random.default_rng(3)
    corners, sides = random.uniform(0, 200, (12, 2)), random.uniform(20, 40, (12, 2))
    members = [
        [
            ((x, y, x + width, y + height), score, index % 2 + 1)
            for index, ((x, y), (width, height), score) in enumerate(
                zip(
                    (corners + random.normal(0, 3, corners.shape)).tolist(),
                    sides.tolist(),
                    random.uniform(0.1, 0.9, 12).tolist(),
                    strict=True,
                )
            )
        ]
        for _ in range(2)
    ]

    first = fused(*members)
    second = fused(*(member[::-1] for member in reversed(members)))

    assert 12 <= len(first) < 18
    np.testing.assert_array_equal(first.boxes, second.boxes)
    np.testing.assert_array_equal(first.members, second.members[:, ::-1])


def test_nothing_found_is_no_place() -> None:
    none = fused([], [])

    assert len(none) == 0
    assert none.boxes.shape == (0, 4)
    assert none.members.shape == (0, 2)


@pytest.mark.parametrize(
    ("rows", "scores", "labels", "words"),
    [
        (1, [0.5, 0.4], [1], "as many of each"),
        (1, [0.5], [], "as many of each"),
        (1, [1.5], [1], "scores of 0–1"),
        (1, [np.nan], [1], "scores of 0–1"),
    ],
)
def test_what_does_not_fit_is_refused(rows: int, scores: list, labels: list, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        weighted_boxes([np.ones((rows, 4), np.float32)], [np.array(scores)], [np.array(labels)])


def test_without_members_there_is_nothing_to_fuse() -> None:
    with pytest.raises(ValueError, match="as many of each"):
        weighted_boxes([], [], [])


# --- between a picture and the square

SHAPES = [(512, 512), (300, 900), (3000, 3000), (2022, 1111), (200, 201)]


@pytest.mark.parametrize("shape_yx", SHAPES)
def test_a_box_goes_to_the_square_and_comes_back(shape_yx: tuple[int, int]) -> None:
    squeeze = Squeeze(shape_yx, 512)
    rows, columns = shape_yx
    there = boxes((0, 0, columns, rows), (columns / 4, rows / 2, columns / 3, rows / 1.5))

    square = squeeze.to_square(there)

    np.testing.assert_allclose(square, [(0, 0, 512, 512), (128, 256, 512 / 3, 512 / 1.5)], rtol=1e-6)
    np.testing.assert_allclose(squeeze.to_picture(square), there, rtol=1e-6)


def test_what_leaves_the_square_ends_at_the_edge_of_the_picture() -> None:
    back = Squeeze((100, 300), 512).to_picture(boxes((-40, -1, 513, 600)))

    assert back.tolist() == [[0, 0, 300, 100]]


@pytest.mark.parametrize("shape_yx", SHAPES)
def test_the_square_is_where_the_pixels_are(shape_yx: tuple[int, int]) -> None:
    rows, columns = shape_yx
    picture = np.zeros(shape_yx, np.float32)
    left, top, right, bottom = columns // 5, rows // 2, columns // 5 + columns // 6, rows // 2 + rows // 4
    picture[top:bottom, left:right] = 1

    prepared = prepare_radiograph(picture, 512)

    found = Squeeze(shape_yx, 512).to_square(boxes((left, top, right, bottom)))[0]
    # The sum over a bright box with blurred edges is its area, and its moments are those of the box.
    down, across = np.mgrid[:512, :512] + 0.5
    assert prepared.sum() == pytest.approx(areas(found[None]).item(), rel=5e-3)
    assert (prepared * across).sum() / prepared.sum() == pytest.approx((found[0] + found[2]) / 2, abs=0.05)
    assert (prepared * down).sum() / prepared.sum() == pytest.approx((found[1] + found[3]) / 2, abs=0.05)


@pytest.mark.parametrize(("shape_yx", "size"), [((0, 5), 8), ((5, 5), 0)])
def test_there_is_no_way_without_pixels(shape_yx: tuple[int, int], size: int) -> None:
    with pytest.raises(ValueError, match="expected 1 or more"):
        Squeeze(shape_yx, size)
