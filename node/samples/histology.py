"""The tissue of a synthetic slide, cell by cell of a lattice: where its glands and its nuclei are."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from node.samples.glands import WIDEST_UM, Glands, join, no_glands, shaped
from node.samples.grain import Noise
from node.samples.nuclei import LARGEST_UM, NUCLEUS, Nuclei, nuclei_at, shape_like
from node.samples.shapes import Floats, Reals
from node.samples.slide_habit import draw_grade, draw_habit
from node.samples.slide_plan import Blob, Plan, depth_in

GLANDS, NESTS, CELLS, SINGLES = 23, 24, 25, 26
CROWDING, INFLAMMATION, FIBER_BENDS, FIBER_WAVES, FIBER_CURLS = 31, 32, 33, 34, 35
"""Random streams of a slide's seed; those of the tumor are its own, so that all else stays where it is."""

CELL_UM = 160.0
"""The lattice: one place for a gland, nine for nests of tumor, and so many cells around them."""
REACH_UM = 30.0 + WIDEST_UM + LARGEST_UM
"""What a cell of the lattice holds does not lie further outside of it."""
FAR_UM = 400.0
"""By a shape's own measure of depth, rough as it is: further than a cell and its content reach."""
NESTS_A_SIDE = 3
OVERLAP_UM = 2.0

Box = tuple[float, float, float, float]


class Histology:
    """The glands and nuclei of one slide; each part is drawn when it is first asked for."""

    def __init__(self, seed: int, plan: Plan) -> None:
        self.seed, self.plan = seed, plan
        self.habit, self.grade = draw_habit(seed), draw_grade(seed)
        self._crowding = Noise(seed, CROWDING, 520.0)
        self._inflammation = Noise(seed, INFLAMMATION, 240.0)
        self._bends, self._waves = Noise(seed, FIBER_BENDS, 320.0), Noise(seed, FIBER_WAVES, 60.0)
        self._curls = Noise(seed, FIBER_CURLS, 15.0)
        # Small values in bounded number: a slide of 20 000² has some 4000 cells of the lattice.
        self._benign = lru_cache(maxsize=8192)(self._draw_benign)
        self._nests = lru_cache(maxsize=8192)(self._draw_nests)
        self.glands_of = lru_cache(maxsize=8192)(self._glands_of)
        self.nuclei_of = lru_cache(maxsize=8192)(self._nuclei_of)

    def glands_in(self, box: Box) -> Glands:
        """Return the glands that can reach into a box (left, top, right, bottom)."""
        glands = join([self.glands_of(*cell) for cell in _cells(box, REACH_UM)])
        left, top, right, bottom = box
        x, y = glands.x_um, glands.y_um
        near = (
            (x > left - WIDEST_UM)
            & (x < right + WIDEST_UM)
            & (y > top - WIDEST_UM)
            & (y < bottom + WIDEST_UM)
        )
        return glands.only(near)

    def nuclei_in(self, box: Box) -> Nuclei:
        """Return the nuclei that can reach into a box (left, top, right, bottom)."""
        left, top, right, bottom = box
        nuclei = np.concatenate([self.nuclei_of(*cell) for cell in _cells(box, REACH_UM)])
        x, y = nuclei["x_um"], nuclei["y_um"]
        near = (x > left - LARGEST_UM) & (x < right + LARGEST_UM)
        return np.asarray(nuclei[near & (y > top - LARGEST_UM) & (y < bottom + LARGEST_UM)])

    def fibers_um(self, y_um: Reals, x_um: Reals) -> Floats:
        """Return how far across the fibers the points of a grid lie: along a fiber it stays the same."""
        bends, waves = self._bends.on_grid(y_um, x_um), self._waves.on_grid(y_um, x_um)
        across = self._across(y_um[:, np.newaxis], x_um[np.newaxis, :], bends, waves)
        across += np.float32(1.7) * self._curls.on_grid(y_um, x_um)
        return across

    def _across(self, y_um: Reals, x_um: Reals, bends: Floats, waves: Floats) -> Floats:
        cosine, sine = np.cos(self.habit.fibers_rad), np.sin(self.habit.fibers_rad)
        straight = (y_um * cosine - x_um * sine).astype(np.float32)
        return np.asarray(straight + 110 * bends + 9 * waves, dtype=np.float32)

    def _direction(self, y_um: Reals, x_um: Reals) -> Floats:
        """Return the direction of the fibers at points (n,)."""
        steps = []
        for y, x in ((y_um, x_um), (y_um, x_um + 4), (y_um + 4, x_um)):
            steps.append(self._across(y, x, self._bends.at(y, x), self._waves.at(y, x)))
        return np.asarray(np.arctan2(-(steps[1] - steps[0]), steps[2] - steps[0]), dtype=np.float32)

    # --- glands

    def _glands_of(self, row: int, column: int) -> Glands:
        if self._is_far_from(self.plan.tissue, row, column):
            return no_glands()
        return join([self._benign(row, column), self._nests(row, column)])

    def _is_far_from(self, blobs: tuple[Blob, ...], row: int, column: int) -> bool:
        """Return whether nothing that belongs to a cell of the lattice can lie in some shapes."""
        middle = np.array([(row + 0.5) * CELL_UM]), np.array([(column + 0.5) * CELL_UM])
        return bool(depth_in(blobs, *middle)[0] < -FAR_UM)

    def _draw_benign(self, row: int, column: int) -> Glands:
        """Return the gland of a cell, if it has one and no tumor took its place."""
        random = _random(self.seed, GLANDS, row, column)
        radius = np.clip(self.habit.gland_um * np.exp(random.normal(0, 0.22, 1)), 22, 64)
        x, y = (np.array([part + 0.5 + random.uniform(-0.3, 0.3)]) * CELL_UM for part in (column, row))
        glands = shaped(
            random, x, y, radius, wall_um=self.habit.wall_um * random.uniform(0.85, 1.15, 1), roughness=0.09
        )
        crowding = 0.5 + self.habit.crowding + 0.8 * self._crowding.at(y, x)
        is_there = random.random(1) < np.clip(crowding, 0.05, 0.95)
        is_there &= depth_in(self.plan.tissue, y, x) > 1.25 * radius + 10
        is_there &= depth_in(self.plan.tumor, y, x) < 0
        return glands.only(is_there)

    def _draw_nests(self, row: int, column: int) -> Glands:
        """Return the nests of tumor in a cell: crowded, irregular, with a small lumen or none."""
        if self._is_far_from(self.plan.tumor, row, column):
            return no_glands()
        places = (np.arange(NESTS_A_SIDE**2) % NESTS_A_SIDE, np.arange(NESTS_A_SIDE**2) // NESTS_A_SIDE)
        random = _random(self.seed, NESTS, row, column)
        pitch = CELL_UM / NESTS_A_SIDE
        jitter = random.uniform(0.2, 0.8, (2, NESTS_A_SIDE**2))
        x, y = (
            column * CELL_UM + (places[0] + jitter[0]) * pitch,
            row * CELL_UM + (places[1] + jitter[1]) * pitch,
        )
        radius = random.uniform(15, 34, len(x))
        is_there = depth_in(self.plan.tumor, y, x) > 0.4 * radius
        is_there &= (depth_in(self.plan.tissue, y, x) > radius + 4) & (random.random(len(x)) < 0.9)
        wall = np.where(random.random(len(x)) < self.grade.lumen, random.uniform(11, 18, len(x)), 99.0)
        return shaped(random, x, y, radius, wall_um=wall, roughness=0.16).only(is_there)

    # --- nuclei

    def _nuclei_of(self, row: int, column: int) -> Nuclei:
        if self._is_far_from(self.plan.tissue, row, column):
            return np.zeros(0, dtype=NUCLEUS)
        box = (column * CELL_UM, row * CELL_UM, (column + 1) * CELL_UM, (row + 1) * CELL_UM)
        around = self.glands_in((box[0] - REACH_UM, box[1] - REACH_UM, box[2] + REACH_UM, box[3] + REACH_UM))
        parts = [
            self._lining(row, column),
            self._stroma(row, column, around),
            self._tumor(row, column, around),
        ]
        nuclei = np.concatenate(parts)
        if not len(nuclei):
            return nuclei
        y, x = nuclei["y_um"], nuclei["x_um"]
        rim, lumen = around.depths_um(y, x)
        inside = depth_in(self.plan.tissue, y, x) > 0.5 * nuclei["long_um"]
        # Where glands overlap, the nuclei are those of the one that a place lies deeper in.
        is_own = rim < nuclei["depth_um"] + OVERLAP_UM
        return np.asarray(nuclei[inside & is_own & (lumen < -1)])

    def _lining(self, row: int, column: int) -> Nuclei:
        """Return the nuclei of benign epithelium: one row along the base, here and there a second one."""
        glands, random = self._benign(row, column), _random(self.seed, GLANDS + 100, row, column)
        rows = [np.zeros(0, dtype=NUCLEUS)]
        for number in range(len(glands)):
            for depth, spacing in ((5.0, 6.3), (11.5, 16.0)):
                rows.append(_ring(random, glands, number, (depth, 0.9), spacing))
        nuclei = np.concatenate(rows)
        return shape_like(
            random, nuclei, long_um=4.1, spread=0.08, roundness=(0.68, 0.85), density=(0.5, 0.68)
        )

    def _stroma(self, row: int, column: int, around: Glands) -> Nuclei:
        """Return spindle nuclei along the fibers, and lymphocytes where there is inflammation."""
        random = _random(self.seed, CELLS, row, column)
        area_mm2 = (CELL_UM / 1000) ** 2
        y, x = _scatter(random, self.habit.stromal_per_mm2 * area_mm2, row, column)
        spindles = nuclei_at(y, x, self._direction(y, x) + random.normal(0, 0.2, len(x)))
        spindles = shape_like(
            random, spindles, long_um=5.6, spread=0.2, roundness=(0.17, 0.36), density=(0.5, 0.85)
        )
        y, x = _scatter(random, 6500 * area_mm2, row, column)
        share = np.clip((self._inflammation.at(y, x) - self.habit.inflammation) * 3, 0.01, 1)
        stays = random.random(len(x)) < share
        round_ones = nuclei_at(y[stays], x[stays], random.uniform(0, np.pi, int(stays.sum())))
        round_ones = shape_like(
            random, round_ones, long_um=3.1, spread=0.07, roundness=(0.85, 1.0), density=(0.8, 1.0)
        )
        nuclei = np.concatenate([spindles, round_ones])
        return np.asarray(nuclei[around.depths_um(nuclei["y_um"], nuclei["x_um"])[0] < -2])

    def _tumor(self, row: int, column: int, around: Glands) -> Nuclei:
        """Return the nuclei of a tumor: in its nests layer under layer, and single ones between them."""
        if self._is_far_from(self.plan.tumor, row, column):
            return np.zeros(0, dtype=NUCLEUS)
        nests, random = self._nests(row, column), _random(self.seed, SINGLES, row, column)
        rows = [np.zeros(0, dtype=NUCLEUS)]
        for number in range(len(nests)):
            radius = float(nests.rim_um[number].mean())
            for depth in np.arange(4.5, radius, self.grade.spacing_um):
                rows.append(_ring(random, nests, number, (float(depth), 1.8), self.grade.spacing_um))
        y, x = _scatter(random, self.grade.singles_per_mm2 * (CELL_UM / 1000) ** 2, row, column)
        free = (depth_in(self.plan.tumor, y, x) > 0) & (around.depths_um(y, x)[0] < -2)
        rows.append(nuclei_at(y[free], x[free], np.zeros(int(free.sum()))))
        nuclei = np.concatenate(rows)
        nuclei["turn_rad"] += random.normal(0, 1.2, len(nuclei))
        nuclei = shape_like(
            random,
            nuclei,
            long_um=self.grade.nucleus_um,
            spread=self.grade.pleomorphism,
            roundness=(0.6, 0.95),
            density=(0.55 * self.grade.density, 1.15 * self.grade.density),
        )
        nuclei["lobes"] = np.clip(random.normal(0, 0.07, len(nuclei)), -0.15, 0.15)
        nuclei["nucleolus"] = np.where(
            random.random(len(nuclei)) < 0.5, random.uniform(0.2, 0.6, len(nuclei)), 0
        )
        return nuclei


def _ring(
    random: np.random.Generator, glands: Glands, number: int, depth_um: tuple[float, float], spacing_um: float
) -> Nuclei:
    """Return nuclei around a gland at a depth (mean, spread), pointing to its middle."""
    radius = float(glands.rim_um[number].mean()) - depth_um[0]
    count = max(1, round(2 * np.pi * radius / spacing_um))
    angle = 2 * np.pi * (np.arange(count) + random.uniform(-0.3, 0.3, count) + random.random()) / count
    radii = glands.towards(number, angle) - depth_um[0] + random.normal(0, depth_um[1], count)
    x, y = glands.x_um[number] + radii * np.cos(angle), glands.y_um[number] + radii * np.sin(angle)
    nuclei = nuclei_at(y, x, angle)
    nuclei["depth_um"] = glands.towards(number, angle) - radii
    return nuclei


def _scatter(
    random: np.random.Generator, mean: float, row: int, column: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the heights and widths of points spread over a cell of the lattice."""
    places = (random.random((2, int(random.poisson(mean)))) + np.array([[row], [column]])) * CELL_UM
    return places[0], places[1]


def _random(seed: int, stream: int, row: int, column: int) -> np.random.Generator:
    # The lattice starts one cell before the slide does, and a seed knows no negative numbers.
    return np.random.default_rng([seed, stream, row + 16, column + 16])


def _cells(box: Box, reach_um: float) -> list[tuple[int, int]]:
    """Return the rows and columns of the lattice's cells whose content can reach into a box."""
    left, top, right, bottom = (
        int(np.floor(edge / CELL_UM))
        for edge in (box[0] - reach_um, box[1] - reach_um, box[2] + reach_um, box[3] + reach_um)
    )
    return [(row, column) for row in range(top, bottom + 1) for column in range(left, right + 1)]
