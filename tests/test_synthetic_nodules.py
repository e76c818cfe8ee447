"""Training cubes of synthetic lungs: a nodule in the middle of some, something else in that of others."""

import numpy as np

from models.synthetic_nodules import BRONCHUS, FORK, LUNG, NEGATIVES_EACH, NODULES_EACH, WALL, draw_cubes

SIDE = 32


def test_cubes_of_a_body_show_nodules_and_what_is_taken_for_one() -> None:
    cubes = list(draw_cubes(0, (), SIDE))

    middle = (slice(SIDE // 2 - 2, SIDE // 2 + 2),) * 3
    nodules = [cube for cube in cubes if cube[3] > 0]
    others = [cube for cube in cubes if cube[3] == 0]
    assert 0.8 * NODULES_EACH <= len(nodules) <= NODULES_EACH
    assert 0.6 * NEGATIVES_EACH <= len(others) <= NEGATIVES_EACH
    assert {cube[2] for cube in others} <= {FORK, WALL, BRONCHUS, LUNG}
    assert all(cube[1][middle].any() for cube in nodules)
    assert not any(cube[1][middle].any() for cube in others)
    assert {(cube[0].shape, cube[0].dtype.name) for cube in cubes} == {((SIDE,) * 3, "int16")}


def test_the_same_body_gives_the_same_cubes() -> None:
    first, again = (next(iter(draw_cubes(1, (), 16))) for _ in range(2))

    assert np.array_equal(first[0], again[0])
