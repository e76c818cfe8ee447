"""Array functions: resampling and intensity."""

import numpy as np
import pytest

from node.imaging.intensity import prepare_radiograph, stretch
from node.imaging.resample import resize


def ramp(rows: int, columns: int) -> np.ndarray:
    return np.linspace(0.0, 1.0, rows * columns, dtype=np.float32).reshape(rows, columns)


def test_shrinking_averages_so_that_a_fine_pattern_becomes_gray() -> None:
    checkers = (np.indices((64, 64)).sum(axis=0) % 2).astype(np.float32)

    small = resize(checkers, (16, 16))

    # The triangle filter is not exactly balanced at the edges.
    np.testing.assert_allclose(small, 0.5, atol=0.02)


def test_resize_keeps_mean_range_and_type() -> None:
    small = resize(ramp(100, 80), (25, 20))

    assert small.dtype == np.float32
    assert small.shape == (25, 20)
    assert small.mean() == pytest.approx(0.5, abs=1e-3)
    assert small.min() >= 0
    assert small.max() <= 1


def test_resize_puts_rows_before_columns() -> None:
    bright_below = np.zeros((40, 40), dtype=np.float32)
    bright_below[20:] = 1

    small = resize(bright_below, (8, 4))

    assert small.shape == (8, 4)
    assert small[0].max() == 0
    assert small[-1].min() == 1


def test_resize_to_the_same_shape_gives_an_equal_copy() -> None:
    source = ramp(8, 8)

    same = resize(source, (8, 8))
    same[0, 0] = 9

    np.testing.assert_array_equal(resize(source, (8, 8)), source)
    assert source[0, 0] == 0


@pytest.mark.parametrize("shape", [(2, 3, 4), (4,), (0, 4)])
def test_resize_refuses_what_is_not_a_picture(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="two dimensions"):
        resize(np.zeros(shape, dtype=np.float32), (4, 4))


def test_resize_refuses_an_empty_target() -> None:
    with pytest.raises(ValueError, match="at least"):
        resize(ramp(4, 4), (0, 4))


def test_stretch_puts_the_percentiles_at_zero_and_one() -> None:
    values = np.arange(1001, dtype=np.int16) - 500

    stretched = stretch(values, 10, 90)

    assert stretched.dtype == np.float32
    assert stretched[100] == pytest.approx(0.0, abs=1e-6)
    assert stretched[500] == pytest.approx(0.5, abs=1e-6)
    assert stretched[900] == pytest.approx(1.0, abs=1e-6)
    assert stretched.min() == 0
    assert stretched.max() == 1


def test_stretch_is_not_moved_by_one_bright_marker() -> None:
    picture = ramp(64, 64)
    marked = picture.copy()
    marked[:3, :3] = 100.0

    np.testing.assert_allclose(stretch(marked, 0.5, 99.5)[10:], stretch(picture, 0.5, 99.5)[10:], atol=0.01)


def test_a_constant_picture_becomes_zeros() -> None:
    assert not stretch(np.full((4, 4), 7, dtype=np.uint16), 0.5, 99.5).any()


@pytest.mark.parametrize("percents", [(50, 50), (-1, 99), (1, 101), (90, 10)])
def test_stretch_refuses_percentiles_out_of_order(percents: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="percentiles"):
        stretch(ramp(4, 4), *percents)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_stretch_refuses_values_that_are_not_finite(value: float) -> None:
    picture = ramp(8, 8)
    picture[3, 3] = value

    with pytest.raises(ValueError, match="not finite"):
        stretch(picture, 0.5, 99.5)


def test_stretch_refuses_an_empty_array() -> None:
    with pytest.raises(ValueError, match="empty"):
        stretch(np.zeros((0, 4)), 1, 99)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float32, np.float64])
def test_a_radiograph_is_prepared_alike_from_any_number_type(dtype: type) -> None:
    picture = (ramp(300, 400) * 200).astype(dtype)

    prepared = prepare_radiograph(picture, 64)

    assert prepared.dtype == np.float32
    assert prepared.shape == (64, 64)
    assert prepared.min() == 0
    assert prepared.max() == 1


def test_preparing_does_not_depend_on_window_or_offset() -> None:
    picture = ramp(256, 200)

    # Float32 of values around 1000 keeps four decimals of the original range.
    np.testing.assert_allclose(
        prepare_radiograph(picture * 3000 - 1000, 96), prepare_radiograph(picture, 96), atol=1e-3
    )


def test_preparing_keeps_orientation_and_polarity() -> None:
    picture = np.zeros((120, 90), dtype=np.uint16)
    picture[:30, :20] = 4000

    prepared = prepare_radiograph(picture, 32)

    assert prepared[2, 2] == 1
    assert prepared[-3, -3] == 0
    assert prepared[2, -3] == 0
