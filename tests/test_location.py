"""What masks, maps, outlines and marks refuse to be."""

import numpy as np
import pytest

from node.domain.code import Code
from node.domain.location import Frame, Marks, Mask, Outline, Segment, Shape, ValueMap

CODE = Code("1", "99TEST", "One")
FRAMES = (Frame("1.1"), Frame("1.2"))
SEGMENTS = (Segment("Lesion 1", CODE),)
LABELS = np.zeros((2, 4, 3), np.uint8)
SQUARE = np.array([(0, 0), (2, 0), (2, 2), (0, 2)], np.float32)


def test_a_box_has_the_corners_between_its_two() -> None:
    box = Outline.box(FRAMES[0], (1, 2), (5, 8))

    assert box.points_xy.tolist() == [[1, 2], [5, 2], [5, 8], [1, 8]]


@pytest.mark.parametrize("points", [np.zeros((2, 2)), np.zeros((3, 3)), np.full((3, 2), np.nan)])
def test_an_outline_encloses_something(points: np.ndarray) -> None:
    with pytest.raises(ValueError, match="outline"):
        Outline(FRAMES[0], points.astype(np.float32))


@pytest.mark.parametrize(
    ("labels", "frames", "words"),
    [
        (np.zeros((3, 4, 3), np.uint8), FRAMES, "plane for each"),
        (np.zeros((4, 3), np.uint8), FRAMES, "plane for each"),
        (np.zeros((2, 0, 3), np.uint8), FRAMES, "plane for each"),
        (LABELS, (FRAMES[0], FRAMES[0]), "plane for each"),
        (LABELS.astype(np.int32), FRAMES, "expected uint8 or uint16"),
        (LABELS + np.uint8(2), FRAMES, "at most 1"),
    ],
)
def test_a_mask_fits_its_pictures_and_its_segments(
    labels: np.ndarray, frames: tuple[Frame, ...], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        Mask(frames, SEGMENTS, labels)


def test_a_mask_has_a_probability_for_each_segment() -> None:
    with pytest.raises(ValueError, match="probability of shape"):
        Mask(FRAMES, SEGMENTS, LABELS, LABELS.astype(np.float32))


@pytest.mark.parametrize(("segments", "is_shared"), [(1, False), (2, True)])
def test_a_mask_may_have_one_probability_for_all_segments(segments: int, is_shared: bool) -> None:
    named = tuple(Segment(f"Lesion {number}", CODE) for number in range(segments))

    mask = Mask(FRAMES, named, LABELS, LABELS[np.newaxis].astype(np.float32))

    assert mask.shares_probability is is_shared


@pytest.mark.parametrize("values", [np.zeros((2, 4, 3)), np.full((2, 4, 3), np.nan, np.float32)])
def test_a_map_holds_finite_numbers(values: np.ndarray) -> None:
    with pytest.raises(ValueError, match="finite float32"):
        ValueMap("Entropy", CODE, CODE, FRAMES, values)


@pytest.mark.parametrize(
    ("shape", "points"),
    [
        (Shape.RECTANGLE, [SQUARE, SQUARE[:3]]),
        (Shape.POLYGON, [SQUARE[:2]]),
        (Shape.POINT, [SQUARE]),
        (Shape.POINT, []),
    ],
)
def test_marks_have_the_points_of_their_shape(shape: Shape, points: list[np.ndarray]) -> None:
    with pytest.raises(ValueError, match=f"not each a {shape}"):
        Marks("Tiles", CODE, FRAMES[0], shape, points)


@pytest.mark.parametrize("values", [np.zeros(2, np.float32), np.zeros(1, np.float32)])
def test_marks_have_a_value_each_of_a_stated_quantity(values: np.ndarray) -> None:
    with pytest.raises(ValueError, match="a value for each mark"):
        Marks("Tiles", CODE, FRAMES[0], Shape.RECTANGLE, [SQUARE], values=values)
