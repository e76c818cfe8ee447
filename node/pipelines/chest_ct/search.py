"""Where in the lungs a network sees nodules: its probability on a grid, and the places to look at."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from node.domain.card import ModelCard
from node.domain.image import Volume
from node.errors import ModelError
from node.imaging.grid import Grid, grid_over, sample
from node.imaging.lungs import LungField
from node.imaging.regions import Spot, find_spots, surest_spot
from node.imaging.tiling import blend, window_corners
from node.interfaces import Arrays, Engine

PROBABILITY, ENTROPY = "probability", "entropy"
SMALLEST_MM3 = 8.0
"""A ball of 2.5 mm: what is smaller is noise, or too small to matter."""

LOW_SHARE = 0.5
"""A place is looked at from this share of the threshold on: the classifiers have the last word."""

CORE = 0.5
"""A region is divided at cores that reach this, however low the threshold: else vessels join all nodules."""

SHARE_IN_LUNGS = 0.25
CUT = "Lung reaches the edge of the images: what lies beyond was not read."

Floats = npt.NDArray[np.float32]
Shape = tuple[int, int, int]
Triple = tuple[float, float, float]


@dataclass(frozen=True, slots=True, eq=False)
class Search:
    """What the network said: probability and entropy (bit) on a grid over the lungs, 0 where it did not look.

    `threshold` is the probability from which the card counts an element as nodule.
    """

    grid: Grid
    is_lung: npt.NDArray[np.bool_]
    probability: Floats
    entropy: Floats
    threshold: float
    remarks: tuple[str, ...] = ()

    def spots(self) -> list[Spot]:
        """Return the places that may be nodules, the surest first; without any, the most nodule-like one."""
        found = find_spots(
            self.probability,
            low=LOW_SHARE * self.threshold,
            high=max(self.threshold, CORE),
            spacing_zyx_mm=self.grid.spacing_zyx_mm,
            least_mm3=SMALLEST_MM3,
        )
        inside = [one for one in found if self.is_lung[one.box_zyx][one.mask].mean() >= SHARE_IN_LUNGS]
        if inside:
            return inside
        in_lungs = np.where(self.is_lung, self.probability, np.float32(0))
        return [surest_spot(in_lungs, self.grid.spacing_zyx_mm)]


def search(volume: Volume, lungs: LungField, engine: Engine, model: str, windows_at_once: int) -> Search:
    """Return what a segmentation model says of the lungs, window by window.

    Raises ModelError where its card states no spacing or no window, or its answers are no probabilities.
    """
    card = engine.card(model)
    window, spacing_zyx_mm = window_of(model, card)
    grid = _grid(volume, lungs, spacing_zyx_mm, window)
    is_lung = lungs.on_grid(volume, grid)
    buffer = engine.buffer((windows_at_once, 1, *window), np.int16)
    answers = blend(
        sample(volume, grid),
        window_corners(grid.shape_zyx, window, is_lung),
        np.asarray(buffer, np.int16),
        answer=lambda windows: _asked(engine, model, windows),
        names=(PROBABILITY, ENTROPY),
    )
    probability = np.clip(answers[PROBABILITY], 0, 1, out=answers[PROBABILITY])
    remarks = (CUT,) if lungs.is_cut else ()
    return Search(grid, is_lung, probability, answers[ENTROPY], card.classes[0].threshold, remarks)


def _asked(engine: Engine, model: str, windows: npt.NDArray[np.int16]) -> Arrays:
    """Return what a model says of windows; raises ModelError unless that is a value for each element."""
    outputs = engine.infer(model, {"image": windows})
    for name in (PROBABILITY, ENTROPY):
        shape = outputs[name].shape if name in outputs else None
        if shape != windows.shape:
            raise ModelError(model, f"output {name} is {shape or 'absent'}, expected {windows.shape}")
    return outputs


def window_of(model: str, card: ModelCard) -> tuple[Shape, Triple]:
    """Return shape and spacing of what the model takes, (z, y, x)."""
    if card.input_spacing_zyx_mm is None or len(card.input_shape) != 4 or min(card.input_shape) < 1:
        raise ModelError(model, f"its card states no spacing, or no volume: {list(card.input_shape)}")
    _, z, y, x = card.input_shape
    return (z, y, x), card.input_spacing_zyx_mm


def _grid(volume: Volume, lungs: LungField, spacing: Triple, window: Shape) -> Grid:
    """Return the grid over the lungs, no smaller than a window."""
    z, y, x = (
        slice(axis.start, min(axis.stop, size))
        for axis, size in zip(lungs.box_zyx, volume.hounsfield.shape, strict=True)
    )
    return widened(grid_over(volume, spacing, (z, y, x)), window)


def widened(grid: Grid, least_zyx: Shape) -> Grid:
    """Return a grid with at least so many points along each axis, added at both ends alike."""
    z, y, x = (max(pair) for pair in zip(grid.shape_zyx, least_zyx, strict=True))
    before = -((np.array([z, y, x]) - grid.shape_zyx) // 2)
    return replace(grid, shape_zyx=(z, y, x), origin_xyz_mm=grid.to_patient(before[None])[0])
