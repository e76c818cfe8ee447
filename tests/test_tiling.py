"""Windows over a volume: each place is seen, and what is said of it is put back where it belongs."""

import numpy as np
import pytest

from node.imaging.tiling import blend, window_corners

WINDOW = (4, 8, 6)
SHAPE = (10, 21, 17)


def everywhere() -> np.ndarray:
    return np.ones(SHAPE, np.bool_)


def seen(corners: list[tuple[int, int, int]]) -> np.ndarray:
    """How many windows each element is in."""
    counts = np.zeros(SHAPE, int)
    for z, y, x in corners:
        counts[z : z + WINDOW[0], y : y + WINDOW[1], x : x + WINDOW[2]] += 1
    return counts


def buffer(batch: int = 2) -> np.ndarray:
    return np.empty((batch, 1, *WINDOW), np.int16)


def ramp() -> np.ndarray:
    return np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.9])
def test_every_element_is_in_a_window_and_none_reaches_out(overlap: float) -> None:
    corners = window_corners(SHAPE, WINDOW, everywhere(), overlap)

    assert (seen(corners) > 0).all()
    ends = np.array(corners) + WINDOW
    assert (np.array(corners) >= 0).all()
    assert (ends <= SHAPE).all()


def test_neighbors_overlap_by_as_much_as_was_asked_for() -> None:
    starts = sorted({y for _, y, _ in window_corners(SHAPE, WINDOW, everywhere(), 0.5)})

    assert np.diff(starts).max() <= 4


def test_windows_in_which_nothing_is_wanted_are_left_out() -> None:
    wanted = np.zeros(SHAPE, np.bool_)
    wanted[2, 3, 4] = True

    corners = window_corners(SHAPE, WINDOW, wanted)

    assert len(corners) == 1
    assert seen(corners)[2, 3, 4] == 1


def test_a_wanted_element_is_nowhere_at_the_edge_of_its_only_window() -> None:
    for place in np.argwhere(everywhere())[::7]:
        wanted = np.zeros(SHAPE, np.bool_)
        wanted[tuple(place)] = True

        (corner,) = window_corners(SHAPE, WINDOW, wanted, 0.5)

        margins = np.minimum(place - corner, np.array(corner) + WINDOW - 1 - place)
        is_at_border = (place < 2) | (place >= np.array(SHAPE) - 2)
        assert (margins[~is_at_border] >= 1).all()


def test_a_volume_smaller_than_the_window_is_refused() -> None:
    with pytest.raises(ValueError, match="at least"):
        window_corners((3, 21, 17), WINDOW, np.ones((3, 21, 17), np.bool_))


def test_answers_are_put_back_where_they_belong() -> None:
    volume = ramp()

    result = blend(
        volume,
        window_corners(SHAPE, WINDOW, everywhere(), 0.5),
        buffer(),
        answer=lambda windows: {"same": windows.astype(np.float32), "twice": windows * np.float32(2)},
        names=("same", "twice"),
    )

    np.testing.assert_allclose(result["same"], volume, rtol=1e-5)
    np.testing.assert_allclose(result["twice"], 2.0 * volume, rtol=1e-5)
    assert result["same"].dtype == np.float32


def test_where_windows_overlap_the_one_that_sees_it_in_its_middle_counts_most() -> None:
    volume = np.zeros((4, 8, 9), np.int16)
    answers = iter([0.0, 1.0])

    result = blend(
        volume,
        [(0, 0, 0), (0, 0, 3)],
        buffer(1),
        answer=lambda windows: {"p": np.full(windows.shape, next(answers), np.float32)},
        names=("p",),
    )

    across = result["p"][2, 4]
    assert (across[:3] == 0).all()
    assert (across[6:] == 1).all()
    assert across[3] < 0.1
    assert across[4] == pytest.approx(0.5)
    assert across[5] > 0.9


def test_there_is_nothing_where_no_window_was() -> None:
    result = blend(
        ramp(),
        [(0, 0, 0)],
        buffer(),
        answer=lambda windows: {"p": np.ones(windows.shape, np.float32)},
        names=("p",),
    )

    assert (result["p"][:4, :8, :6] == 1).all()
    assert result["p"].sum() == np.prod(WINDOW)


def test_windows_go_out_in_batches_from_the_same_buffer() -> None:
    room, sizes = buffer(3), []

    def answer(windows: np.ndarray) -> dict[str, np.ndarray]:
        assert np.shares_memory(windows, room)
        sizes.append(len(windows))
        return {"p": windows.astype(np.float32)}

    corners = window_corners(SHAPE, WINDOW, everywhere())
    blend(ramp(), corners, room, answer=answer, names=("p",))

    assert sum(sizes) == len(corners)
    assert set(sizes[:-1]) == {3}
