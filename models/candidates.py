"""Cubes around candidates as they are served: what to calibrate and to measure a classifier on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.nodules import SIDE, Nodules
from models.patches import LUNG_HU, tissue_beside

UNKNOWN = np.float32(np.nan)


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Cubes (n, s, s, s) int16 HU, labels (n, 2; nodule, malignant; NaN is unknown), patients."""

    hounsfield: NDArray[np.int16]
    labels: NDArray[np.float32]
    groups: NDArray[np.str_]

    def __len__(self) -> int:
        """Return the number of candidates."""
        return len(self.hounsfield)


def cut_cubes(
    nodules: Nodules, index: NDArray[np.intp], places: NDArray[np.int64], side: int
) -> NDArray[np.int16]:
    """Return cubes (n, side, side, side) of whole voxels around places (n, 3; from the middle of a cube).

    Even lung stands where nothing is known.
    """
    cubes = np.full((len(index), side, side, side), LUNG_HU, dtype=np.int16)
    corners = np.clip((SIDE - side) // 2 + places, 0, SIDE - side)
    for cube, one, corner in zip(cubes, index, corners, strict=True):
        low = np.maximum(nodules.bounds[one, :, 0], corner)
        high = np.minimum(nodules.bounds[one, :, 1], corner + side)
        source = tuple(slice(*ends) for ends in zip(low, high, strict=True))
        target = tuple(slice(*ends) for ends in zip(low - corner, high - corner, strict=True))
        cube[target] = nodules.hounsfield[one][source]
    return cubes


def candidates_of(nodules: Nodules, side: int, *, is_with_beside: bool = True) -> Candidates:
    """Return each nodule (or empty middle) and a place of vessel or wall beside it, where there is one."""
    index = np.arange(len(nodules))
    places = np.zeros((len(nodules), 3), dtype=np.int64)
    if is_with_beside:
        found = {one: tissue_beside(nodules, one) for one in np.flatnonzero(nodules.is_nodule).tolist()}
        beside = [(one, around[0]) for one, around in found.items() if len(around)]
        index = np.concatenate([index, np.array([one for one, _ in beside], dtype=np.intp)])
        places = np.concatenate([places, np.array([place for _, place in beside], np.int64).reshape(-1, 3)])
    is_nodule = (places == 0).all(axis=1) & nodules.is_nodule[index]
    malign = np.where(is_nodule, nodules.malign[index], UNKNOWN)
    labels = np.stack([is_nodule.astype(np.float32), malign], axis=1).astype(np.float32)
    return Candidates(cut_cubes(nodules, index, places, side), labels, nodules.groups[index])
