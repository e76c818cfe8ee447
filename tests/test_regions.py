"""Regions of a map of probability: which they are, and how large in a plane."""

import numpy as np
import pytest

from node.imaging.regions import Spot, diameters_mm, find_spots, size_class, surest_spot

SHAPE = (24, 40, 44)
Z, Y, X = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
SPACING_MM = (2.0, 1.0, 1.0)


def ball(center: tuple[float, float, float], radius_mm: float, height: float = 0.95) -> np.ndarray:
    """A ball whose probability falls off over its edge; it is one half at the radius."""
    offsets = [(axis - at) * step for axis, at, step in zip((Z, Y, X), center, SPACING_MM, strict=True)]
    distance_mm = np.sqrt(sum(offset**2 for offset in offsets))
    return np.asarray(height / (1 + np.exp((distance_mm - radius_mm) * 2)), np.float32)


def spots_in(probability: np.ndarray, least_mm3: float = 8.0) -> list[Spot]:
    return find_spots(probability, low=0.2, high=0.5, spacing_zyx_mm=SPACING_MM, least_mm3=least_mm3)


def test_separate_balls_are_spots_of_their_own_the_surest_first() -> None:
    sure, unsure = ((6, 10, 10), (17, 30, 30))

    spots = spots_in(np.maximum(ball(unsure, 4, 0.4), ball(sure, 5)))

    assert [spot.center_zyx for spot in spots] == [
        pytest.approx(sure, abs=0.1),
        pytest.approx(unsure, abs=0.1),
    ]
    assert [spot.peak for spot in spots] == pytest.approx([0.95, 0.4], abs=0.01)


def test_balls_that_touch_are_divided_between_their_middles() -> None:
    # Aslant, so that the box of each holds a part of the other.
    first, second = (12, 14, 14), (12, 26, 22)
    probability = np.maximum(ball(first, 5.5), ball(second, 5.5))
    probability[11:14, 17:24, 15:22] = np.maximum(probability[11:14, 17:24, 15:22], 0.3)

    spots = sorted(spots_in(probability), key=lambda one: one.center_zyx[2])

    assert [one.center_zyx for one in spots] == [
        pytest.approx(first, abs=0.3),
        pytest.approx(second, abs=0.3),
    ]
    marks = np.zeros(SHAPE, int)
    for spot in spots:
        marks[spot.box_zyx] += spot.mask
    assert marks.max() == 1
    # What belongs to the neighbor is none of its probability.
    assert all((spot.probability[~spot.mask] < 0.5).all() for spot in spots)


def test_cores_with_a_narrow_gap_stay_together() -> None:
    whole = ball((12, 20, 20), 7)
    whole[:, :, 20] = np.minimum(whole[:, :, 20], 0.4)

    assert len(spots_in(whole)) == 1


@pytest.mark.parametrize(("least_mm3", "count"), [(8.0, 1), (2000.0, 0)])
def test_what_is_too_small_is_none(least_mm3: float, count: int) -> None:
    assert len(spots_in(ball((12, 20, 20), 5), least_mm3)) == count


def test_the_center_of_a_nodule_on_a_vessel_is_that_of_the_nodule() -> None:
    probability = ball((12, 20, 12), 5)
    probability[12, 20:22, 12:42] = 0.9

    (spot,) = spots_in(probability)

    assert spot.center_zyx == pytest.approx((12, 20, 12), abs=0.7)


def test_the_box_reaches_beyond_the_region_but_not_beyond_the_volume() -> None:
    (spot,) = spots_in(ball((0, 20, 20), 5))

    z, y, _ = spot.box_zyx
    assert z.start == 0
    assert not spot.mask[:, 0].any()
    assert spot.mask[:, 1].any()
    assert spot.probability.shape == spot.mask.shape
    assert y.stop - y.start == spot.mask.shape[1]


def test_without_any_region_the_largest_probability_is_a_spot() -> None:
    spot = surest_spot(ball((12, 20, 20), 4, 0.05), SPACING_MM)

    assert spot.peak == pytest.approx(0.05, abs=0.001)
    assert spot.center_zyx == pytest.approx((12, 20, 20), abs=0.2)
    assert 1 < spot.mask.sum() < 1000


def test_even_of_nothing_there_is_a_spot() -> None:
    assert surest_spot(np.zeros(SHAPE, np.float32), SPACING_MM).peak == 0


# --- diameters


def ellipse(long_mm: float, short_mm: float, angle: float, spacing_mm: tuple[float, float]) -> np.ndarray:
    """An ellipse in a plane, its edge one element wide."""
    rows, columns = np.mgrid[:64, :80]
    down, across = (rows - 31.3) * spacing_mm[0], (columns - 40.6) * spacing_mm[1]
    along = across * np.cos(angle) + down * np.sin(angle)
    beside = down * np.cos(angle) - across * np.sin(angle)
    radius = np.hypot(along / long_mm, beside / short_mm) * 2
    return np.asarray(1 / (1 + np.exp((radius - 1) * 20)), np.float32)


@pytest.mark.parametrize("angle", [0.0, 0.4, np.pi / 4, 1.2, np.pi / 2, 2.5])
@pytest.mark.parametrize("spacing_mm", [(0.7, 0.7), (0.5, 0.9)])
def test_diameters_are_true_in_the_plane(angle: float, spacing_mm: tuple[float, float]) -> None:
    plane = ellipse(18, 11, angle, spacing_mm)

    longest, across = diameters_mm(plane, 0.5, spacing_mm)

    # The edge is taken as straight between elements.
    assert longest == pytest.approx(18, abs=0.25)
    assert across == pytest.approx(11, abs=0.3)


def test_a_single_element_has_a_diameter_and_nothing_has_none() -> None:
    plane = np.zeros((5, 5), np.float32)
    assert diameters_mm(plane, 0.5, (1, 1)) == (0, 0)
    plane[2, 2] = 1

    assert diameters_mm(plane, 0.5, (1, 1)) == pytest.approx((1, 1))


def test_of_several_parts_the_largest_is_measured() -> None:
    plane = ellipse(18, 11, 0, (0.7, 0.7))
    plane[2:4, 2:4] = 1

    assert diameters_mm(plane, 0.5, (0.7, 0.7)) == pytest.approx((18, 11), abs=0.3)


def test_a_region_at_the_edge_of_the_picture_is_measured() -> None:
    plane = np.zeros((9, 9), np.float32)
    plane[:, :4] = 1

    assert diameters_mm(plane, 0.5, (1, 1))[0] == pytest.approx(9.5, abs=0.5)


# --- sizes


@pytest.mark.parametrize(
    ("diameter_mm", "words"),
    [
        (5.94, "below 6 mm (that of a solid nodule of Lung-RADS 2022 category 2"),
        (5.95, "6 to below 8 mm"),
        (7.9, "category 3"),
        (8.0, "8 to below 15 mm"),
        (14.9, "category 4A"),
        (15.0, "15 mm or more"),
        (40.0, "category 4B"),
    ],
)
def test_size_classes_change_at_their_bounds(diameter_mm: float, words: str) -> None:
    assert words in size_class(diameter_mm)


def test_a_size_class_claims_no_category() -> None:
    assert "no category was assigned" in size_class(9)
