"""Places that a search found become cubes: nodules where it centers them, false places, nodules it missed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("SimpleITK")

from models.mining import FALSE, MISSED, find_places, mine
from models.nodules import SIDE
from node.engines.onnx import OnnxEngine
from node.engines.repository import ModelRepository
from node.pipelines.chest_ct import ChestCt
from node.samples.tomography import CtSample, NoduleTruth
from tests import ct_models, ct_phantom
from tests.ct_phantom import BALLS, Ball

MIDDLE = SIDE // 2
HIDDEN = Ball((-29.0, 3.3, 14.0), 6.0)
"""A nodule of the truth that the picture does not show."""


def test_a_found_point_belongs_to_the_nearest_nodule_that_it_lies_in() -> None:
    centers = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 8.0], [50.0, 0.0, 0.0]])
    found = np.array([[0.0, 0.0, 5.0], [0.0, 2.0, 0.0], [0.0, 30.0, 0.0]])

    places = find_places(found, centers, np.array([6.0, 4.0, 1.0]))

    assert [(place.nodule, place.is_found) for place in places] == [
        (1, True),
        (0, True),
        (None, True),
        (2, False),
    ]
    assert places[3].center_xyz_mm.tolist() == [50.0, 0.0, 0.0]


def test_a_point_as_near_as_the_least_radius_is_a_small_nodule() -> None:
    (place,) = find_places(np.array([[2.9, 0.0, 0.0]]), np.zeros((1, 3)), np.array([1.0]))

    assert place.nodule == 0


def test_without_nodules_everything_found_is_false() -> None:
    places = find_places(np.ones((2, 3)), np.zeros((0, 3)), np.zeros(0))

    assert [place.nodule for place in places] == [None, None]


def test_each_place_of_a_chest_is_cut_out_with_the_truth_around_it(tmp_path: Path) -> None:
    ct_models.write_ct_models(tmp_path)
    engine = OnnxEngine(ModelRepository(tmp_path), threads=1)
    drawn = ct_phantom.scan(ct_phantom.stack((1.5, 0.9, 0.9)))
    # Of the three balls two count as nodules, the second of them a real one; the third is a false place.
    drawn = replace(drawn, nodules=tuple(truth(drawn, ball) for ball in (HIDDEN, BALLS[0], BALLS[1])))

    cubes = list(mine(drawn, ["image/3.nii.gz"], engine, ChestCt()))

    told = {kind: (float(diameter), source) for _, _, kind, diameter, _, source in cubes}
    assert [cube[2] for cube in cubes].count("ball") == 2
    assert told[FALSE] == (0.0, "")
    assert told[MISSED] == (6.0, "")
    assert {cube[5] for cube in cubes if cube[2] == "ball"} == {"", "image/3.nii.gz"}
    for hounsfield, mask, kind, diameter, _, _ in cubes:
        assert hounsfield.shape == mask.shape == (SIDE, SIDE, SIDE)
        is_nodule = mask[MIDDLE, MIDDLE, MIDDLE] == 255
        assert is_nodule == (kind != FALSE)
        if kind == "ball":
            assert hounsfield[MIDDLE, MIDDLE, MIDDLE] == pytest.approx(ct_phantom.NODULE_HU, abs=1)
            assert (mask > 127).sum() == pytest.approx(np.pi / 6 * diameter**3, rel=0.1)


def truth(drawn: CtSample, ball: Ball) -> NoduleTruth:
    window = drawn.geometry.window_around(ball.place_xyz_mm, ball.diameter_mm / 2)
    offsets = drawn.geometry.points(window) - np.array(ball.place_xyz_mm)
    mask = (offsets**2).sum(axis=-1) <= (ball.diameter_mm / 2) ** 2
    return NoduleTruth(
        ball.place_xyz_mm, ball.diameter_mm, ball.volume_mm3, "ball", None, window, np.asarray(mask)
    )
