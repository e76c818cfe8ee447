"""One window of a synthetic slide: its colors at any magnification."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from node.samples.grain import FIBER_STEP_UM, GRAIN_SIZE, PERIOD, Noise, fiber_table, grain_plate
from node.samples.histology import Histology
from node.samples.nuclei import draw_nuclei
from node.samples.shapes import Floats, Reals
from node.samples.slide_plan import Plan, Stroke, depth_in
from node.samples.stain import Colors, Stain

EDGE, RAGGED, LOOSENESS, BREAKS, THICKNESS, INK = 41, 42, 43, 44, 45, 46
"""Random streams of a slide's seed."""

NODE_UM = 2.0
"""What changes slowly is computed at points this far apart and interpolated between them."""
CHROMATIN_UM, TEXTURED_UM = 0.4, 1.5
"""How fine chromatin is, and the size of pixels that no longer show it."""


@dataclass(frozen=True, slots=True)
class Window:
    """A box of pixels of one magnification, by its first row and column on the slide."""

    top: int
    left: int
    rows: int
    columns: int
    pixel_um: float

    def centers_um(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the heights (rows,) and widths (columns,) of the pixels' centers."""
        return self._um(np.arange(self.top, self.top + self.rows)), self._um(
            np.arange(self.left, self.left + self.columns)
        )

    def box_um(self) -> tuple[float, float, float, float]:
        """Return its edges: left, top, right, bottom."""
        edges = (self.left, self.top, self.left + self.columns, self.top + self.rows)
        left, top, right, bottom = (edge * self.pixel_um for edge in edges)
        return left, top, right, bottom

    @property
    def step(self) -> int:
        """How many pixels lie between two nodes; nodes are counted from the slide's corner."""
        return max(1, round(NODE_UM / self.pixel_um))

    def nodes_um(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the heights and widths of the nodes that the window lies between."""
        return self._nodes(self.top, self.rows), self._nodes(self.left, self.columns)

    def spread(self, nodes: Floats) -> Floats:
        """Return for each pixel what lies between the nodes around it."""
        if self.step == 1:
            return nodes
        row, down = self._between(self.top, self.rows)
        lines = nodes[row] + (nodes[row + 1] - nodes[row]) * down[:, np.newaxis]
        column, across = self._between(self.left, self.columns)
        slope = np.take(np.diff(lines, axis=1), column, axis=1)
        slope *= across
        slope += np.take(lines, column, axis=1)
        return np.asarray(slope)

    def plate(self, plate: Floats) -> Floats:
        """Return the part of a plate, laid edge to edge over the slide, that the window shows."""
        rows = np.arange(self.top, self.top + self.rows) % GRAIN_SIZE
        columns = np.arange(self.left, self.left + self.columns) % GRAIN_SIZE
        return np.asarray(np.take(plate[rows], columns, axis=1))

    def _um(self, pixels: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.asarray((pixels + 0.5) * self.pixel_um, dtype=np.float64)

    def _nodes(self, first: int, count: int) -> NDArray[np.float64]:
        if self.step == 1:
            return self._um(np.arange(first, first + count))
        return self._um(np.arange(first // self.step, (first + count - 1) // self.step + 2) * self.step)

    def _between(self, first: int, count: int) -> tuple[NDArray[np.int64], Floats]:
        pixels = np.arange(first, first + count)
        return pixels // self.step - first // self.step, (pixels % self.step / self.step).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Brush:
    """All that the pictures of one slide are drawn from."""

    seed: int
    plan: Plan
    histology: Histology
    stain: Stain

    def draw(self, window: Window) -> Colors:
        """Return the colors (rows, columns, 3) of a window."""
        y, x = window.nodes_um()
        depth = self.tissue_depth(y, x)
        if depth.max() > -window.pixel_um:
            hematoxylin, eosin = self._stains(window, depth)
            colors = self.stain.colors(hematoxylin, eosin)
        else:
            colors = np.empty((window.rows, window.columns, 3), dtype=np.uint8)
            colors[:] = np.rint(self.stain.glass).astype(np.uint8)
        for mark in self.plan.marks:
            if mark.touches(y, x):
                colors = self._inked(colors, window, mark)
        return _grainy(colors, window, self.seed)

    def tissue_depth(self, y_um: Reals, x_um: Reals) -> Floats:
        """Return how deep the points of a grid (rows,), (columns,) lie in tissue with its ragged edge."""
        depth = depth_in(self.plan.tissue, y_um[:, np.newaxis], x_um[np.newaxis, :])
        if depth.max() > -40 and depth.min() < 40:
            depth += 14 * Noise(self.seed, EDGE, 75.0).on_grid(y_um, x_um)
            depth += 4 * Noise(self.seed, RAGGED, 11.0).on_grid(y_um, x_um)
        return depth

    def _stains(self, window: Window, depth: Floats) -> tuple[Floats, Floats]:
        """Return hematoxylin and eosin (rows, columns) of a window that has tissue."""
        y, x = window.nodes_um()
        hematoxylin, eosin = self._stroma(window, y, x)
        box = window.box_um()
        glands = self.histology.glands_in(box)
        if len(glands):
            for nodes, shade in zip(glands.draw(y, x), ((0.17, 0.29), (0.0, 0.025)), strict=True):
                if nodes.max() > -window.pixel_um:
                    cover = _cover(window.spread(nodes), window.pixel_um)
                    hematoxylin += (np.float32(shade[0]) - hematoxylin) * cover
                    eosin += (np.float32(shade[1]) - eosin) * cover
        first = (window.top, window.left)
        nuclei = draw_nuclei(
            self.histology.nuclei_in(box), first, (window.rows, window.columns), window.pixel_um
        )
        eosin *= 1 - np.float32(0.55) * np.minimum(nuclei, 1)
        # What lets light through counts more in a large pixel than what does not.
        even = np.float32(1 - 0.07 * window.pixel_um / (window.pixel_um + 6))
        strength = even * window.spread(self._strength(y, x))
        if depth.min() < window.pixel_um:
            strength = strength * _cover(window.spread(depth), window.pixel_um)
        if window.pixel_um < TEXTURED_UM:
            texture = window.plate(grain_plate(self.seed, round(CHROMATIN_UM / window.pixel_um, 3)))
            strength = strength * (1 + np.float32(0.07) * texture)
            nuclei *= 1 + np.float32(0.17) * texture
        hematoxylin += nuclei
        hematoxylin *= strength
        eosin *= strength
        return hematoxylin, eosin

    def _stroma(self, window: Window, y: Reals, x: Reals) -> tuple[Floats, Floats]:
        """Return the stains of connective tissue: fibers, looser here than there, with gaps between them."""
        across = window.spread(self.histology.fibers_um(y, x)) * np.float32(1 / FIBER_STEP_UM)
        steps = across.astype(np.int32)
        table = fiber_table(self.seed, window.pixel_um)
        fibers = np.take(table, steps & (PERIOD - 1))
        wide = np.take(fiber_table(self.seed + 1, max(window.pixel_um, 3.0)), (steps >> 1) & (PERIOD - 1))
        loose = 0.3 * Noise(self.seed, LOOSENESS, 210.0).on_grid(y, x)
        loose += 0.22 * Noise(self.seed, BREAKS, 26.0).on_grid(y, x)
        sharpness = np.float32(9 / (1 + window.pixel_um / 10))
        solid = np.clip(
            (np.float32(0.905) - wide - window.spread(loose)) * sharpness + np.float32(0.5), 0.04, 1
        )
        eosin = (np.float32(0.2) + np.float32(0.24) * fibers) * solid
        return np.float32(0.12) * eosin, eosin

    def _strength(self, y: Reals, x: Reals) -> Floats:
        """Return how much thicker than usual the section is, 1 where it is not; about twice in a fold."""
        strength = 1 + np.float32(0.14) * Noise(self.seed, THICKNESS, 700.0).on_grid(y, x)
        for fold in self.plan.folds:
            if fold.touches(y, x):
                depth = fold.depth_um(y[:, np.newaxis], x[np.newaxis, :])
                strength *= 1 + np.float32(0.95) * np.clip(depth / 5 + np.float32(0.5), 0, 1)
        return np.asarray(strength, dtype=np.float32)

    def _inked(self, colors: Colors, window: Window, mark: Stroke) -> Colors:
        """Return colors under a pen's line, thin where the pen was dry."""
        y, x = window.nodes_um()
        depth = mark.depth_um(y[:, np.newaxis], x[np.newaxis, :])
        depth += 9 * Noise(self.seed, INK, 40.0).on_grid(y, x)
        cover: Floats = np.clip(depth / 8 + np.float32(0.5), 0, 1)
        if not cover.any():
            return colors
        cover *= np.float32(0.82) + np.float32(0.16) * Noise(self.seed, INK + 1, 90.0).on_grid(y, x)
        light = 1 - window.spread(np.asarray(cover, dtype=np.float32))[..., np.newaxis] * (
            1 - np.asarray(mark.color, dtype=np.float32)
        )
        return np.asarray(np.rint(colors * light), dtype=np.uint8)


def _cover(depth_um: Floats, pixel_um: float) -> Floats:
    """Return how much of each pixel an edge leaves inside, 0–1."""
    return np.asarray(np.clip(depth_um * np.float32(1 / pixel_um) + np.float32(0.5), 0, 1))


def _grainy(colors: Colors, window: Window, seed: int) -> Colors:
    """Return colors with the noise of a camera, as far as pixels of this size still have it."""
    height = 0.9 / window.pixel_um
    if height < 0.3:
        return colors
    plate = np.clip(np.rint(grain_plate(seed + 1, 0.0) * np.float32(min(height, 1.6))), -5, 5)
    np.clip(colors, 6, 249, out=colors)
    colors += window.plate(plate.astype(np.int8)).view(np.uint8)[..., np.newaxis]
    return colors
