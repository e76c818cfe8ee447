"""What the classifiers say of places in the lungs: is it a nodule, and how suspicious is it."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from node.domain.findings import Score
from node.domain.image import Volume
from node.errors import ModelError
from node.imaging.grid import Grid, sample
from node.interfaces import Engine
from node.pipelines.chest_ct.search import Shape, Triple, window_of
from node.pipelines.scores import to_scores

CROPS_AT_ONCE = 8

Judgment = tuple[Score, Score]
"""Whether a place is a nodule, and whether a nodule there is suspicious: the classes of the card."""


def judge(
    volume: Volume, centers_xyz_mm: npt.NDArray[np.float64], engine: Engine, model: str
) -> list[Judgment]:
    """Return what an ensemble says of the volume around each point (n, 3).

    Raises ModelError where its card has other than two classes, or its answers are not what the card states.
    """
    card = engine.card(model)
    if len(card.classes) != 2:
        raise ModelError(model, f"its card has {len(card.classes)} classes, expected nodule and suspicion")
    shape, spacing_zyx_mm = window_of(model, card)
    buffer = np.asarray(engine.buffer((CROPS_AT_ONCE, 1, *shape), np.int16), np.int16)
    judgments = []
    for start in range(0, len(centers_xyz_mm), CROPS_AT_ONCE):
        centers = centers_xyz_mm[start : start + CROPS_AT_ONCE]
        for index, center in enumerate(centers):
            sample(volume, grid_around(volume, center, shape, spacing_zyx_mm), buffer[index, 0])
        outputs = engine.infer(model, {"image": buffer[: len(centers)]})
        for index in range(len(centers)):
            # Where in a cut-out a network looked cannot be laid over a whole slice.
            own = {name: one[index : index + 1] for name, one in outputs.items() if name != "activation_map"}
            nodule, suspicion = to_scores(model, card, own)
            judgments.append((nodule, suspicion))
    return judgments


def grid_around(
    volume: Volume, center_xyz_mm: npt.NDArray[np.float64], shape: Shape, spacing: Triple
) -> Grid:
    """Return a grid with the axes of a volume and a point in its middle."""
    axes = (volume.row_direction_xyz, volume.column_direction_xyz, volume.normal_xyz)
    grid = Grid(shape, spacing, np.asarray(center_xyz_mm, np.float64), *axes)
    middle = (np.array([shape], np.float64) - 1) / 2
    return replace(grid, origin_xyz_mm=grid.to_patient(-middle)[0])
