"""The lung field: found in any picture of a chest, and nowhere else."""

import numpy as np
import pytest

from node.domain.image import PADDING_HU
from node.imaging.grid import grid_over
from node.imaging.lungs import LungField, find_lungs
from node.read.volume import read_volume
from tests import ct_phantom
from tests.ct_phantom import volume_of
from tests.sources import real_ct_series, real_small_ct_series
from tests.volumes import series_of

SPACING_MM = (2.5, 2.0, 2.0)
BALL = ct_phantom.BALLS[0]
Z, Y, X = np.ogrid[:27, :41, :63]


@pytest.fixture
def chest() -> np.ndarray:
    """Two lungs in a body in air, with three nodules, (z, y, x)."""
    return ct_phantom.scan(ct_phantom.stack(SPACING_MM)).hounsfield.copy()


def found(hounsfield: np.ndarray) -> LungField:
    field = find_lungs(hounsfield, SPACING_MM)
    assert field is not None
    return field


def whole(field: LungField, shape: tuple[int, ...]) -> np.ndarray:
    """The field at every voxel."""
    full = field.mask
    for axis, stride in enumerate(field.stride_zyx):
        full = np.repeat(full, stride, axis=axis)
    return full[tuple(slice(0, length) for length in shape)]


def test_both_lungs_with_their_nodules_are_the_field(chest: np.ndarray) -> None:
    field = whole(found(chest), chest.shape)

    lungs = chest < -600
    lungs[:, (0, -1)] = False
    in_body = (X - 31) ** 2 / 26**2 + (Y - 20) ** 2 / 15**2 < 1
    assert field[lungs & in_body].mean() > 0.99
    place = ct_phantom.stack(SPACING_MM).to_voxels(np.array(BALL.place_xyz_mm))
    assert field[tuple(np.rint(place).astype(int))]


def test_the_air_around_the_body_is_none(chest: np.ndarray) -> None:
    field = whole(found(chest), chest.shape)

    assert not field[:, :2].any()
    assert not field[:, :, :2].any()


def test_padding_beside_the_body_does_not_make_its_air_lung(chest: np.ndarray) -> None:
    outside = (X - 31) ** 2 / 30**2 + (Y - 20) ** 2 / 19**2 > 1
    padded = np.where(outside, PADDING_HU, chest).astype(np.int16)

    np.testing.assert_array_equal(found(padded).mask, found(chest).mask)


def test_a_blanket_beside_the_body_is_no_lung(chest: np.ndarray) -> None:
    folds = np.where((Y + Z) % 3 == 0, -700, -910)
    blanket = np.where((Y > 36) & (chest < -900), folds, chest).astype(np.int16)
    blanket[:, 36][blanket[:, 36] < -900] = 0  # a sheet, which keeps it apart from the air above

    field = whole(found(blanket), chest.shape)

    assert not field[:, 38:].any()


def test_gas_in_the_stomach_is_no_lung(chest: np.ndarray) -> None:
    gas = np.concatenate([chest, np.full((30, *chest.shape[1:]), 40, np.int16)])
    bubble = (X - 28) ** 2 + (Y - 20) ** 2 + (np.arange(57)[:, None, None] - 42) ** 2 < 9**2
    gas[bubble] = -990

    field = found(gas)

    assert not whole(field, gas.shape)[42].any()
    assert not field.is_cut


def test_a_trachea_is_not_followed_out_of_the_lungs(chest: np.ndarray) -> None:
    neck = np.concatenate([chest, np.full((20, *chest.shape[1:]), 40, np.int16)])
    neck[13:, 18:23, 27:31] = -1000

    assert found(neck).box_zyx[0].stop <= 13 + 20


def test_a_dense_nodule_on_the_wall_is_in_the_field(chest: np.ndarray) -> None:
    wall = ((X - 6) * 2) ** 2 + ((Y - 20) * 2) ** 2 + ((Z - 13) * 2.5) ** 2 < 7**2
    chest[wall] = 40

    field = whole(found(chest), chest.shape)

    assert field[wall & (X > 6)].mean() > 0.9


@pytest.mark.parametrize("cut", [np.s_[:, :, 12:], np.s_[:, 10:], np.s_[10:]])
def test_lung_at_the_edge_of_a_cropped_picture_is_lung_and_said_to_be_cut(
    chest: np.ndarray, cut: tuple[slice, ...]
) -> None:
    lungs = whole(found(chest), chest.shape)[cut]

    field = found(np.ascontiguousarray(chest[cut]))

    assert field.is_cut
    assert whole(field, lungs.shape)[lungs].mean() > 0.9


@pytest.mark.parametrize("value", [40, -1000, PADDING_HU])
def test_a_picture_without_lungs_has_no_field(value: int) -> None:
    assert find_lungs(np.full((20, 64, 64), value, np.int16), SPACING_MM) is None


def test_an_abdomen_with_gas_in_it_has_no_field(chest: np.ndarray) -> None:
    abdomen = np.where(chest < -600, -1000, chest).astype(np.int16)

    assert find_lungs(abdomen, SPACING_MM) is None


@pytest.mark.parametrize("arrangement", ["axial", "oblique", "tilted"])
def test_the_field_on_a_grid_is_where_it_is_in_the_patient(arrangement: str) -> None:
    volume = volume_of(ct_phantom.scan(ct_phantom.stack((2.5, 1.5, 1.5), arrangement)))
    field = find_lungs(volume.hounsfield, (2.5, *volume.spacing_yx_mm))
    assert field is not None
    grid = grid_over(volume, (2.0, 2.0, 2.0))

    on_grid = field.on_grid(volume, grid)

    points = grid.to_patient(np.argwhere(on_grid)) - ct_phantom.CENTER_XYZ_MM
    sides = np.abs(points) - [ct_phantom.LUNG_X_MM, 0, 0]
    assert (((sides / ct_phantom.LUNG_RADII_MM) ** 2).sum(axis=1) ** 0.5).max() < 1.6
    lungs = grid.to_grid(np.array([[x, 0, 0] for x in (-30, 30)]) + ct_phantom.CENTER_XYZ_MM)
    assert all(on_grid[tuple(np.rint(place).astype(int))] for place in lungs)


# --- real lungs


def test_the_lungs_of_a_real_chest_have_a_believable_size_and_no_stomach() -> None:
    # Every fourth slice: decoding takes the time.
    volume = read_volume(series_of(real_ct_series()[::4]))

    field = find_lungs(volume.hounsfield, (5.0, *volume.spacing_yx_mm))

    assert field is not None
    assert not field.is_cut
    litres = field.mask.sum() * np.prod(field.stride_zyx) * 5.0 * np.prod(volume.spacing_yx_mm) / 1e6
    assert 3.0 < litres < 4.5
    assert (field.box_zyx[0].start, field.box_zyx[0].stop) == pytest.approx((8, 55), abs=3)


def test_the_lung_of_a_cropped_real_chest_is_found_and_said_to_be_cut() -> None:
    volume = read_volume(series_of(real_small_ct_series()))

    field = find_lungs(volume.hounsfield, (3.0, *volume.spacing_yx_mm))

    assert field is not None
    assert field.is_cut
