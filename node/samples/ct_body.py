"""A body with all that a CT shows of it and a radiograph does not: tissues, vessels, bronchi."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from node.samples.anatomy import Thorax, thorax_body
from node.samples.sections import Box
from node.samples.shapes import Point
from node.samples.tissue import Contents, draw_contents, draw_sections
from node.samples.vasculature import Trees, grow_trees

CT_BODY = 4
"""Random stream of a seed, apart from those of the radiograph."""
MAP_MM = 3.0
TIPS = 7000


@dataclass(frozen=True, slots=True, eq=False)
class CtBody:
    """A body with all that a CT shows of it and a radiograph does not.

    `lung_map` (z, y, x) is its lung on a grid of MAP_MM whose first voxel is at `map_origin_xyz_mm`.
    """

    seed: int
    thorax: Thorax
    contents: Contents
    trees: Trees
    lung_map: NDArray[np.bool_]
    map_origin_xyz_mm: Point

    def is_lung(self, points_xyz_mm: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return whether each point (..., 3) lies in a lung, to within MAP_MM."""
        steps = np.rint((np.asarray(points_xyz_mm) - self.map_origin_xyz_mm) / MAP_MM).astype(np.intp)
        x, y, z = np.moveaxis(steps, -1, 0)
        depth, rows, columns = self.lung_map.shape
        is_inside = (z >= 0) & (z < depth) & (y >= 0) & (y < rows) & (x >= 0) & (x < columns)
        z, y, x = (np.where(is_inside, index, 0) for index in (z, y, x))
        return np.asarray(self.lung_map[z, y, x] & is_inside)


@lru_cache(maxsize=48)
def ct_body(seed: int, *, scale_mm: float | None = None) -> CtBody:
    """Return the body of a seed: an adult, unless `scale_mm`, half the cage's width, says another size."""
    random = np.random.default_rng([seed, CT_BODY])
    drawn = float(random.uniform(105, 138))
    thorax = thorax_body(seed, scale_mm=scale_mm or drawn)
    contents = draw_contents(random, thorax.scale_mm)
    lung_map, origin = _lung_map(thorax, contents)
    points = np.argwhere(lung_map)
    chosen = points[random.choice(len(points), min(TIPS, len(points)), replace=False)][:, ::-1]
    tips = np.asarray(origin) + MAP_MM * (chosen + random.uniform(-0.5, 0.5, chosen.shape))
    trees = grow_trees(random, tips, thorax.scale_mm)
    return CtBody(seed, thorax, contents, trees, lung_map, origin)


def _lung_map(thorax: Thorax, contents: Contents) -> tuple[NDArray[np.bool_], Point]:
    cage = thorax.lungs.cage
    width, depth = cage.half_width_mm + 6, 1.25 * cage.half_depth_mm + 6
    low = min(dome.top_xyz_mm[2] - dome.height_mm for dome in thorax.lungs.domes) - thorax.scale_mm
    x, y = np.arange(-width, width, MAP_MM), np.arange(-depth, depth, MAP_MM)
    levels = np.arange(low, cage.apex_z_mm, MAP_MM)
    box = Box(levels.astype(np.float32), y.astype(np.float32), x.astype(np.float32), MAP_MM)
    lung = draw_sections(thorax, contents, box).lung > 0.5
    return lung, (float(x[0]), float(y[0]), float(levels[0]))
