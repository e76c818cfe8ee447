"""What differs from one synthetic slide to the next in its cells: its tissue's habit, its tumor's grade."""

from dataclasses import dataclass

import numpy as np

HABIT, GRADE = 21, 22
"""Random streams of a slide's seed."""


@dataclass(frozen=True, slots=True)
class Habit:
    """How the tissue of one slide is, tumor or not."""

    crowding: float
    gland_um: float
    wall_um: float
    stromal_per_mm2: float
    inflammation: float
    fibers_rad: float


@dataclass(frozen=True, slots=True)
class Grade:
    """How far a tumor is from the tissue that it came from."""

    nucleus_um: float
    pleomorphism: float
    spacing_um: float
    density: float
    singles_per_mm2: float
    lumen: float


def draw_habit(seed: int) -> Habit:
    """Return how the tissue of a seed is."""
    random = np.random.default_rng([seed, HABIT])
    return Habit(
        crowding=float(random.uniform(-0.2, 0.3)),
        gland_um=float(random.uniform(36, 48)),
        wall_um=float(random.uniform(16, 21)),
        stromal_per_mm2=float(random.uniform(900, 2000)),
        inflammation=float(random.uniform(0.25, 0.7)),
        fibers_rad=float(random.uniform(0, np.pi)),
    )


def draw_grade(seed: int) -> Grade:
    """Return how the tumor of a seed is, if it has one."""
    random = np.random.default_rng([seed, GRADE])
    return Grade(
        nucleus_um=float(random.uniform(4.6, 5.9)),
        pleomorphism=float(random.uniform(0.16, 0.3)),
        spacing_um=float(random.uniform(9.5, 12.0)),
        density=float(random.uniform(0.65, 0.85)),
        singles_per_mm2=float(random.uniform(300, 2500)),
        lumen=float(random.uniform(0.1, 0.8)),
    )
