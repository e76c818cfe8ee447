"""Whole chests on the working grid, written, read, and learned from beside the cubes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("SimpleITK")

import torch

from models import nodules, volume_lessons
from models.chests import as_example, read_chests, write_chests
from models.patches import Example
from models.volume_lessons import SEGMENTER, Lessons, VolumeSettings, draw_batch, epoch
from tests import ct_phantom
from tests.ct_phantom import BALLS
from tests.test_mining import truth


@pytest.fixture(scope="module")
def chest() -> Example:
    drawn = ct_phantom.scan(ct_phantom.stack((2.5, 0.8, 0.8)))
    return as_example(replace(drawn, nodules=(truth(drawn, BALLS[0]),)))


def test_a_chest_is_on_the_grid_with_its_nodules_and_where_lung_is(chest: Example) -> None:
    wanted = np.array(ct_phantom.SIZE_XYZ_MM[::-1])
    lung = chest.hounsfield < -500

    np.testing.assert_allclose(chest.hounsfield.shape, wanted, atol=3)
    assert chest.mask.sum() == pytest.approx(BALLS[0].volume_mm3, rel=0.15)
    assert np.median(chest.hounsfield[chest.mask]) == pytest.approx(ct_phantom.NODULE_HU, abs=10)
    assert chest.weight[chest.mask].all()
    assert chest.weight.mean() < 1
    # Around lung more counts than lung, and what is far from it does not.
    assert chest.weight[lung & (chest.hounsfield > -900)].all()


def test_what_is_written_is_read(chest: Example, tmp_path: Path) -> None:
    write_chests(tmp_path / "chests.npz", [chest, replace(chest, mask=~chest.mask)])

    first, second = read_chests(tmp_path / "chests.npz")

    assert np.array_equal(first.hounsfield, chest.hounsfield)
    assert np.array_equal(second.mask, ~chest.mask)


def test_an_epoch_of_the_segmenter_holds_patches_of_chests_too(chest: Example) -> None:
    settings = VolumeSettings("", "", model=SEGMENTER, side=16, batch=4, patches=2.0)
    patches = volume_lessons.patches_of([chest], settings.side)
    lessons = Lessons(cubes(8), np.zeros(8, bool), [], np.zeros(0, np.int64), patches)

    batches = epoch(settings, lessons, torch.Generator().manual_seed(1))

    of_chests = [batch for batch in batches if batch[1] is None]
    assert (len(batches), len(of_chests)) == (2 + 4, 4)
    shown = [draw_batch(lessons, batch, settings, torch.Generator().manual_seed(2)) for batch in of_chests]
    for one in shown:
        assert one.hounsfield.shape == one.mask.shape == (4, 1, 16, 16, 16)
        assert one.labels.isnan().all()
        assert one.scores.isnan().all()
        assert one.hounsfield.isfinite().all()
    assert any(one.mask.any() for one in shown)
    nodule = torch.cat([one.hounsfield[one.mask > 0.9] for one in shown])
    assert nodule.mean().item() == pytest.approx(ct_phantom.NODULE_HU, abs=100)


def cubes(count: int) -> nodules.Nodules:
    side = nodules.SIDE
    return nodules.Nodules(
        np.full((count, side, side, side), -850, np.int16),
        np.zeros((count, side, side, side), np.uint8),
        np.broadcast_to([0, side], (count, 3, 2)).astype(np.int64),
        malign=np.zeros(count, np.float32),
        diameters_mm=np.full(count, 5, np.float32),
        scores=np.stack([nodules.scores_of(None)] * count),
        groups=np.array(["P"] * count),
        is_nodule=np.ones(count, bool),
    )
