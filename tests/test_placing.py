"""Real nodules in synthetic lungs: where and as large as they were cut out, and nothing else changed."""

from pathlib import Path

import numpy as np
import pytest

from models.nodules import Row, Voi, read_rows, read_voi
from models.placing import GAP_MM, Placed, draw_places, place
from node.samples.tomography import CtBody, CtSample, Scan, axial, ct_body, scan_box

DATA = Path(__file__).parents[2] / "shared" / "data" / "ct_voi"
SEED = 4


def ball(
    diameter_mm: float, spacing_zyx_mm: tuple[float, float, float], *, wall_hu: float | None = None
) -> Voi:
    """A nodule of 50 HU in a box of lung, with a wall of soft tissue at one side where asked."""
    shape = tuple(int(26 / step) for step in spacing_zyx_mm)
    axes = [
        (np.arange(size) - (size - 1) / 2) * step for size, step in zip(shape, spacing_zyx_mm, strict=True)
    ]
    distance = np.sqrt(axes[0][:, None, None] ** 2 + axes[1][:, None] ** 2 + axes[2] ** 2)
    hounsfield = np.where(distance < diameter_mm / 2, 50, -850).astype(np.int16)
    if wall_hu is not None:
        hounsfield[:, :, axes[2] > diameter_mm / 2 + 0.5] = wall_hu
    row = Row(Path("ball.nii.gz"), Path("ball.nii.gz"), "nobody", False, diameter_mm, (3.0,) * 8)
    return Voi(row, hounsfield, distance < diameter_mm / 2, np.array(spacing_zyx_mm))


@pytest.fixture(scope="module")
def body() -> CtBody:
    return ct_body(SEED)


def stack(body: CtBody, placed: Placed, spacing: tuple[float, float, float] = (1.25, 1.0, 1.0)) -> CtSample:
    shape = tuple(int(44 / step) for step in spacing)
    return scan_box(body, axial(body, spacing, shape, center_xyz_mm=placed.center_xyz_mm), scan=Scan(dose=4))


def whole_mask(sample: CtSample) -> np.ndarray:
    mask = np.zeros(sample.hounsfield.shape, bool)
    mask[sample.nodules[0].box_zyx] = sample.nodules[0].mask
    return mask


@pytest.mark.parametrize("spacing", [(2.5, 0.7, 0.7), (1.25, 0.6, 0.6), (0.6, 0.8, 0.8)])
def test_a_nodule_keeps_its_size_and_lies_where_it_was_put(
    body: CtBody, spacing: tuple[float, float, float]
) -> None:
    (placed,) = draw_places(body, [ball(10, spacing)], np.random.default_rng(1))
    before = stack(body, placed)

    sample = place(before, [placed])

    truth, mask = sample.nodules[0], whole_mask(sample)
    center = sample.geometry.to_patient(np.argwhere(mask)).mean(axis=0)
    assert np.linalg.norm(center - truth.center_xyz_mm) < 0.4
    # So symmetric a ball has many voxels with the same part inside: all of them count, or none.
    assert mask.sum() * 1.25 == pytest.approx(truth.volume_mm3, rel=0.12)
    assert truth.diameter_mm == pytest.approx(10, rel=0.05)
    assert sample.hounsfield[mask].mean() > -250
    # Beyond the rim nothing changed.
    away = np.linalg.norm(sample.geometry.points(tuple(slice(0, n) for n in mask.shape)) - center, axis=-1)
    assert np.array_equal(sample.hounsfield[away > 9.5], before.hounsfield[away > 9.5])


def test_the_wall_beside_a_nodule_stays_behind(body: CtBody) -> None:
    voi = ball(10, (1.25, 0.7, 0.7), wall_hu=60)
    (placed,) = draw_places(body, [voi], np.random.default_rng(2))

    sample = place(stack(body, placed), [placed])

    center = np.array(placed.center_xyz_mm)
    away = np.linalg.norm(
        sample.geometry.points(tuple(slice(0, n) for n in sample.hounsfield.shape)) - center, axis=-1
    )
    shell = sample.hounsfield[(away > 7) & (away < 8.5)]
    assert np.percentile(shell, 98) < -600


def test_places_are_free_and_apart(body: CtBody) -> None:
    vois = [ball(size, (1.25, 0.8, 0.8)) for size in (18, 12, 8, 6, 5)]

    placed = draw_places(body, vois, np.random.default_rng(3), taken=[((50.0, 0.0, 100.0), 10.0)])

    assert len(placed) == 5
    centers = np.array([one.center_xyz_mm for one in placed] + [(50.0, 0.0, 100.0)])
    radii = np.array([one.voi.row.diameter_mm / 2 for one in placed] + [10.0])
    gaps = np.linalg.norm(centers[:, None] - centers, axis=-1) - radii[:, None] - radii
    assert gaps[~np.eye(6, dtype=bool)].min() > GAP_MM
    assert body.is_lung(centers[:5]).all()


def test_a_nodule_outside_of_the_stack_changes_nothing(body: CtBody) -> None:
    (placed,) = draw_places(body, [ball(8, (1.0, 1.0, 1.0))], np.random.default_rng(4))
    before = stack(body, Placed(placed.voi, (0.0, 0.0, 900.0)))

    sample = place(before, [placed])

    assert np.array_equal(sample.hounsfield, before.hounsfield)
    assert not sample.nodules[0].mask.any()


@pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data/ct_voi")
def test_real_nodules_come_as_large_as_their_masks(body: CtBody) -> None:
    vois = [read_voi(row) for row in read_rows(DATA, split="val")[:40:8]]

    for placed in draw_places(body, vois, np.random.default_rng(5)):
        sample = place(stack(body, placed), [placed])

        mask = whole_mask(sample)
        center = sample.geometry.to_patient(np.argwhere(mask)).mean(axis=0)
        # Slices of up to 2.5 mm become slices of 1.25 mm.
        assert mask.sum() * 1.25 == pytest.approx(sample.nodules[0].volume_mm3, rel=0.2)
        assert np.linalg.norm(center - sample.nodules[0].center_xyz_mm) < 0.6
