"""Where the voxels of a volume lie, and how large they are."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from node.domain.image import Volume
from tests.volumes import make_volume


def volume_at(positions_mm: Sequence[float]) -> Volume:
    return make_volume(positions_mm, (4, 5), (0.5, 0.25))


def test_a_voxel_reaches_half_way_to_its_neighbors() -> None:
    volume = volume_at([0, 2, 3, 6])

    np.testing.assert_allclose(volume.voxel_volumes_mm3, np.array([2, 1.5, 2, 3]) * 0.5 * 0.25)


def test_between_planes_the_way_is_straight_and_beyond_it_goes_on() -> None:
    volume = volume_at([0, 2, 3, 6])

    z = volume.to_patient(np.array([[0.5, 0, 0], [2.5, 0, 0], [-1, 0, 0], [4, 0, 0]]))[:, 2]

    np.testing.assert_allclose(z, [1, 4.5, -2, 9])


def test_rows_and_columns_follow_their_directions() -> None:
    volume = make_volume([0, 2, 4], (4, 5), (0.5, 0.25), tilt_rad=0.1)

    first, other = volume.to_patient(np.array([[1.0, 0, 0], [1, 2, 4]]))

    np.testing.assert_allclose(other - first, [1, np.cos(0.1), np.sin(0.1)])


@pytest.mark.parametrize("positions", [[0, 2, 1], [0, 2, 2], [3, 2, 1]])
def test_planes_out_of_order_are_no_volume(positions: list[float]) -> None:
    with pytest.raises(ValueError, match="do not follow each other"):
        volume_at(positions)


def test_arrays_that_do_not_fit_are_no_volume() -> None:
    volume = volume_at([0, 2, 4])

    with pytest.raises(ValueError, match="2 frames over an array of shape"):
        replace(volume, frames=volume.frames[:2])
    with pytest.raises(ValueError, match="voxels of float32"):
        replace(volume, hounsfield=volume.hounsfield.astype(np.float32))
    with pytest.raises(ValueError, match="origins of shape"):
        replace(volume, origins_xyz_mm=volume.origins_xyz_mm[:2])
