"""A volume on an even grid and back: values of known fields come out where they belong."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from node.domain.image import PADDING_HU, Volume
from node.imaging.grid import Grid, grid_over, sample, sample_back
from tests.volumes import make_volume

Floats = NDArray[np.float64]
Spacing = tuple[float, float, float]
EVEN = [1.5 * plane for plane in range(20)]
UNEVEN = [0, 1, 2.5, 4, 4.6, 6, 8, 9.5, 11, 12, 14, 15.5, 17, 18.2, 20, 21, 23, 24, 25.5, 27]
HOLED = [1.5 * plane for plane in range(20) if plane != 9]
SHAPE, SPACING = (60, 48), (0.6, 0.7)
TILT_RAD = 0.3
ROUNDING_HU = 1.01
"""The source and the result are each rounded to the next unit; weights are float32."""


def linear(points: Floats) -> Floats:
    return np.asarray(30 * points[..., 0] - 20 * points[..., 1] + 13 * points[..., 2] + 100)


def smooth(points: Floats) -> Floats:
    return np.asarray(400 * np.cos(points / 5).prod(axis=-1))


def stack(positions: list[float], field: Callable[[Floats], Floats], *, tilt_rad: float = 0) -> Volume:
    return make_volume(positions, SHAPE, SPACING, tilt_rad=tilt_rad, field=field)


def points_of(grid: Grid) -> Floats:
    """The patient coordinates of all points, (z, y, x, 3)."""
    indices = np.indices(grid.shape_zyx).reshape(3, -1).T
    return grid.to_patient(indices).reshape(*grid.shape_zyx, 3)


def is_within(volume: Volume, points: Floats, margin_mm: float) -> NDArray[np.bool_]:
    """Which points lie among the centers of the voxels, so far from the outermost ones."""
    flat = points.reshape(-1, 3)
    axes = (volume.row_direction_xyz, volume.column_direction_xyz, volume.normal_xyz)
    x, y, z = (flat @ axis for axis in axes)
    starts = volume.origins_xyz_mm @ np.stack(axes).T
    height, width = ((size - 1) * step for size, step in zip(SHAPE, SPACING, strict=True))
    inside = (z > starts[0, 2] + margin_mm) & (z < starts[-1, 2] - margin_mm)
    # A tilted stack lies as a slanted block: every plane of it must reach there.
    inside &= (x > starts[:, 0].max() + margin_mm) & (x < starts[:, 0].min() + width - margin_mm)
    inside &= (y > starts[:, 1].max() + margin_mm) & (y < starts[:, 1].min() + height - margin_mm)
    return np.asarray(inside.reshape(points.shape[:-1]))


@pytest.mark.parametrize("positions", [EVEN, UNEVEN, HOLED], ids=["even", "uneven", "holed"])
@pytest.mark.parametrize("tilt_rad", [0, TILT_RAD], ids=["straight", "tilted"])
@pytest.mark.parametrize(
    "spacing", [(1.5, 0.6, 0.7), (1, 1, 1), (3.0, 1.3, 1.1), (0.5, 0.4, 0.3), (4, 2, 2)], ids=str
)
def test_linear_field_comes_out_exactly(positions: list[float], tilt_rad: float, spacing: Spacing) -> None:
    volume = stack(positions, linear, tilt_rad=tilt_rad)
    grid = grid_over(volume, spacing)

    sampled = sample(volume, grid)

    points = points_of(grid)
    inside = is_within(volume, points, margin_mm=max(spacing) / 2)
    assert inside.sum() > 100
    np.testing.assert_allclose(sampled[inside], linear(points)[inside], atol=ROUNDING_HU)


def test_grid_covers_the_volume_from_edge_to_edge() -> None:
    volume = stack(EVEN, linear)

    grid = grid_over(volume, (1, 1, 1))

    # 20 × 1.5 mm, 60 × 0.6 mm, 48 × 0.7 mm.
    assert grid.shape_zyx == (30, 36, 34)
    low, high = grid.to_patient(np.array([[-0.5, -0.5, -0.5], [29.5, 35.5, 33.5]]))
    np.testing.assert_allclose((low + high) / 2, volume.to_patient(np.array([[9.5, 29.5, 23.5]]))[0])
    np.testing.assert_allclose(grid.to_grid(grid.to_patient(np.array([[3.0, 4, 5]]))), [[3, 4, 5]])


def test_grid_of_the_voxels_of_the_volume_gives_them_back() -> None:
    volume = stack(EVEN, smooth)

    sampled = sample(volume, grid_over(volume, (1.5, *SPACING)))

    np.testing.assert_array_equal(sampled, volume.hounsfield)


def test_box_is_covered_alone() -> None:
    volume = stack(EVEN, linear)
    box = slice(4, 10), slice(10, 30), slice(20, 40)

    grid = grid_over(volume, (1.5, *SPACING), box)

    assert grid.shape_zyx == (6, 20, 20)
    np.testing.assert_array_equal(sample(volume, grid), volume.hounsfield[box])


def test_memory_of_the_caller_is_filled() -> None:
    volume = stack(EVEN, smooth)
    grid = grid_over(volume, (2, 2, 2))
    room = np.empty(grid.shape_zyx, np.int16)

    sampled = sample(volume, grid, room)

    assert sampled is room
    np.testing.assert_array_equal(room, sample(volume, grid))


@pytest.mark.parametrize("shift", [-40, 40])
def test_beyond_the_volume_is_padding(shift: float) -> None:
    volume = stack(EVEN, linear)
    box = slice(0, 20), slice(0, 60), slice(0, 48)
    grid = grid_over(volume, (1.5, *SPACING), box)
    for axis in grid.axes_zyx:
        moved = Grid(
            grid.shape_zyx, grid.spacing_zyx_mm, grid.origin_xyz_mm + shift * axis, *grid.axes_zyx[::-1]
        )

        sampled = sample(volume, moved)

        assert (sampled == PADDING_HU).all()


def test_corners_that_a_tilted_stack_does_not_reach_are_padding() -> None:
    volume = stack(EVEN, linear, tilt_rad=TILT_RAD)
    grid = grid_over(volume, (1.5, 1, 1))

    sampled = sample(volume, grid)

    # The planes go 8.4 mm aside from the first to the last.
    assert (sampled[0, -6:] == PADDING_HU).all() != (sampled[0, :6] == PADDING_HU).all()
    assert (sampled[-1, :6] == PADDING_HU).all() != (sampled[-1, -6:] == PADDING_HU).all()


def test_coarsening_averages_the_noise_away() -> None:
    volume = stack(EVEN, linear)
    volume.hounsfield[:] = np.random.default_rng(0).normal(0, 100, volume.hounsfield.shape)

    fine, coarse = (
        sample(volume, grid_over(volume, spacing))[1:-1, 1:-1, 1:-1]
        for spacing in ((1.5, *SPACING), (4.5, 2.4, 2.8))
    )

    # 3 × 4 × 4 voxels in one, with linear weights: the root of 48 is 6.9.
    assert coarse.std() < fine.std() / 6
    assert abs(coarse.mean()) < 4


def test_coarsening_keeps_the_mean_of_steps_narrower_than_a_point() -> None:
    volume = stack(EVEN, linear)
    volume.hounsfield[:] = np.where(np.arange(48) % 2, 100, -100)

    sampled = sample(volume, grid_over(volume, (1.5, 0.6, 2.8)))

    # Taken point by point, every one of them would be 100 or -100.
    np.testing.assert_allclose(sampled[:, :, 1:-1], 0, atol=13)


@pytest.mark.parametrize("spacing", [(1, 1, 1), (2, 1.5, 1.5)], ids=str)
@pytest.mark.parametrize("tilt_rad", [0, TILT_RAD], ids=["straight", "tilted"])
@pytest.mark.parametrize("positions", [EVEN, UNEVEN], ids=["even", "uneven"])
def test_sampling_back_inverts_for_smooth_fields(
    positions: list[float], tilt_rad: float, spacing: Spacing
) -> None:
    volume = stack(positions, smooth, tilt_rad=tilt_rad)
    grid = grid_over(volume, spacing)
    box = slice(20, 40), slice(10, 40)

    back = sample_back(sample(volume, grid).astype(np.float32), grid, volume, range(4, 16, 3), box)

    assert back.shape == (4, 20, 30) and back.dtype == np.float32
    # The field bends by 1/25 a mm²: 2 mm straight leave 400 × 4 / 8 / 25 a time, along three axes twice.
    np.testing.assert_allclose(back, volume.hounsfield[4:16:3, 20:40, 10:40], atol=30)
    assert np.abs(back - volume.hounsfield[4:16:3, 20:40, 10:40]).mean() < 8


def test_linear_field_comes_back_exactly() -> None:
    volume = stack(UNEVEN, linear, tilt_rad=TILT_RAD)
    grid = grid_over(volume, (1, 1, 1))
    values = linear(points_of(grid)).astype(np.float32)

    back = sample_back(values, grid, volume, range(2, 18), (slice(2, 58), slice(2, 46)))

    np.testing.assert_allclose(back, volume.hounsfield[2:18, 2:58, 2:46], atol=0.6)


def test_sampling_back_is_zero_beyond_the_grid() -> None:
    volume = stack(EVEN, linear)
    grid = grid_over(volume, (1, 1, 1), (slice(5, 10), slice(20, 40), slice(10, 30)))

    back = sample_back(np.ones(grid.shape_zyx, np.float32), grid, volume, range(20), (slice(60), slice(48)))

    expected = np.zeros(volume.hounsfield.shape, bool)
    expected[5:10, 20:40, 10:30] = True
    # The grid may reach a part of a point beyond its box.
    assert (back[expected] == 1).all()
    assert back.sum() <= 1.35 * expected.sum()
    assert not back[:3].any() and not back[:, :18].any() and not back[:, :, 33:].any()


@pytest.mark.parametrize("tilt_rad", [0, TILT_RAD], ids=["straight", "tilted"])
@pytest.mark.parametrize("positions", [EVEN, UNEVEN, HOLED], ids=["even", "uneven", "holed"])
def test_ball_stays_in_its_place(positions: list[float], tilt_rad: float) -> None:
    center = np.array([-4.0, -1.0, 15.3]) if tilt_rad == 0 else np.array([-4.0, -1.0, 18.0])

    def ball(points: Floats) -> Floats:
        return np.asarray(1000 * np.clip(6.5 - np.linalg.norm(points - center, axis=-1), 0, 1))

    volume = stack(positions, ball, tilt_rad=tilt_rad)
    grid = grid_over(volume, (1, 1, 1))

    sampled = sample(volume, grid)
    back = sample_back(
        sampled.astype(np.float32), grid, volume, range(len(positions)), (slice(None), slice(None))
    )

    # Beside the slanted edge of a tilted stack, what is within is mixed with padding.
    sampled = np.maximum(sampled, 0)
    there = np.average(points_of(grid).reshape(-1, 3), axis=0, weights=sampled.reshape(-1))
    np.testing.assert_allclose(there, center, atol=0.1)
    voxels = volume.to_patient(np.argwhere(np.ones(back.shape, bool)))
    weights = np.maximum(back, 0) * volume.voxel_volumes_mm3[:, None, None]
    # Uneven planes know less of it along z: a hole of 3 mm in 12.
    np.testing.assert_allclose(np.average(voxels, axis=0, weights=weights.reshape(-1)), center, atol=0.15)


@pytest.mark.parametrize(
    ("spacing", "box", "reason"),
    [
        ((0, 1, 1), None, "a spacing of"),
        ((1, float("nan"), 1), None, "a spacing of"),
        ((1, -1, 1), None, "a spacing of"),
        ((1e-4, 1e-3, 1e-3), None, r"a grid of .* points, expected at most"),
        ((1, 1, 1), (slice(3, 3), slice(None), slice(None)), "a box without voxels"),
    ],
)
def test_grid_that_is_none_is_refused(spacing: Spacing, box: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        grid_over(stack(EVEN, linear), spacing, box)  # type: ignore[arg-type]


def test_arrays_of_another_shape_are_refused() -> None:
    volume = stack(EVEN, linear)
    grid = grid_over(volume, (2, 2, 2))

    with pytest.raises(ValueError, match="room of"):
        sample(volume, grid, np.empty((2, 2, 2), np.int16))
    with pytest.raises(ValueError, match="values of shape"):
        sample_back(np.zeros((2, 2, 2), np.float32), grid, volume, range(2), (slice(2), slice(2)))
