"""Patches of volumes: where to cut them, and what stands outside of what is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from models.nodules import SIDE, Nodules

Shape = tuple[int, int, int]
Values = NDArray[np.bool_ | np.floating]
# Lung of usual inflation: what stands outside of a volume of interest when nothing better is known.
LUNG_HU = -860.0
TISSUE_HU, AIR_HU = -500, -650
PLACES = 40


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """A volume with its truth: HU, mask 0–1, and `weight`, 0 where that does not count (all (z, y, x))."""

    hounsfield: NDArray[np.int16]
    mask: Values
    weight: Values


def starts(length: int, patch: int, stride: int) -> list[int]:
    """Return where patches begin along an axis so that all of it is covered, the last one flush with the end.

    An axis shorter than the patch has one, from 0.
    """
    last = max(length - patch, 0)
    return sorted({*range(0, last + 1, stride), last})


class PatchDataset(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Every patch of a stride over several volumes, and as many around foreground as `foreground` asks.

    An item is HU, mask and weight (1, z, y, x) float32. Neighbors overlap by patch - stride; patches in which
    nothing counts are left out. Of the items
    the part `foreground` is cut around a random voxel of a mask, anew in each epoch; the rest is the grid.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        patch: Shape,
        stride: Shape,
        *,
        foreground: float = 0.0,
        seed: int = 0,
    ) -> None:
        if not 0.0 <= foreground < 1.0:
            raise ValueError(f"foreground {foreground}, expected 0 <= foreground < 1")
        self.examples, self.patch = examples, patch
        self.corners = [
            (index, corner)
            for index, example in enumerate(examples)
            for corner in product(*map(starts, example.hounsfield.shape, patch, stride))
            if part(example.weight, corner, patch).any()
        ]
        self.inside = {
            index: places
            for index, example in enumerate(examples)
            if len(places := np.argwhere(example.mask > 0.5))
        }
        added = len(self.corners) * foreground / (1.0 - foreground)
        self.added = round(added) if self.inside else 0
        self.reseed(seed)

    def reseed(self, seed: int) -> None:
        """Begin anew the random course of the patches around foreground, as another epoch or the same one."""
        self.random = np.random.default_rng(seed)

    def __len__(self) -> int:
        """Return the number of patches of one epoch."""
        return len(self.corners) + self.added

    def __getitem__(self, item: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return a patch of the grid, or, beyond them, one with foreground in it."""
        if not 0 <= item < len(self):
            raise IndexError(item)
        index, corner = self.corners[item] if item < len(self.corners) else self._around_foreground()
        example = self.examples[index]
        hounsfield, mask, weight = (
            cut(values, corner, self.patch, outside)
            for values, outside in (
                (example.hounsfield, LUNG_HU),
                (example.mask, 0.0),
                (example.weight, 0.0),
            )
        )
        return hounsfield, mask, weight

    def _around_foreground(self) -> tuple[int, Shape]:
        index = int(self.random.choice(list(self.inside)))
        place = self.random.choice(self.inside[index])
        # Anywhere in the patch, not in its middle: a network must not learn where nodules are in patches.
        offset = self.random.integers(0, self.patch)
        room = np.maximum(np.array(self.examples[index].hounsfield.shape) - self.patch, 0)
        z, y, x = np.clip(place - offset, 0, room).tolist()
        return index, (z, y, x)


def cut(values: NDArray[np.generic], corner: Sequence[int], patch: Shape, outside: float) -> Tensor:
    """Return a patch (1, z, y, x) float32 that begins at a corner; `outside` fills what the volume lacks."""
    known = part(values, corner, patch)
    whole = np.full(patch, outside, dtype=np.float32)
    begins = [max(-at, 0) for at in corner]
    whole[tuple(slice(at, at + size) for at, size in zip(begins, known.shape, strict=True))] = known
    return torch.from_numpy(whole)[None]


def part(values: NDArray[Any], corner: Sequence[int], patch: Shape) -> NDArray[Any]:
    """Return what a volume has of the patch that begins at a corner."""
    return values[tuple(slice(max(at, 0), at + size) for at, size in zip(corner, patch, strict=True))]


def fill_outside(
    hounsfield: Tensor, weight: Tensor, background: Tensor | None, random: torch.Generator
) -> Tensor:
    """Return HU (n, 1, z, y, x) with other lung where `weight` is 0, that is, where nothing is known.

    Half of them with even lung of random density and grain, half with the cubes of `background` where given:
    a network that always saw the same emptiness around a nodule would take its edge for a sign.
    """
    n = len(hounsfield)
    shape = (n, 1, 1, 1, 1)
    level = LUNG_HU + 40.0 * torch.randn(shape, generator=random)
    coarse = torch.randn((n, 1, 6, 6, 6), generator=random)
    clouds = functional.interpolate(coarse, size=hounsfield.shape[2:], mode="trilinear", align_corners=False)
    grain = torch.randn(hounsfield.shape, generator=random) * torch.rand(shape, generator=random) * 40.0
    is_plain = torch.rand(shape, generator=random) < 0.35
    outside = torch.where(is_plain, level.new_tensor(LUNG_HU), level + 25.0 * clouds + grain)
    if background is not None:
        is_lung = torch.rand(shape, generator=random) < 0.5
        outside = torch.where(is_lung, outside, background)
    return torch.where(weight > 0.5, hounsfield, outside)


def tissue_beside(cubes: Nodules, index: int) -> NDArray[np.int64]:
    """Return places (n, 3; voxels from the middle) of vessel or wall near air, at least 4 from masks."""
    low = np.maximum(cubes.bounds[index, :, 0], SIDE // 4)
    high = np.minimum(cubes.bounds[index, :, 1], SIDE - SIDE // 4)
    inside = tuple(slice(*bound) for bound in zip(low, high, strict=True))
    hounsfield = cubes.hounsfield[index][inside]
    near = ndimage.maximum_filter(cubes.masks[index][inside], size=9) > 0
    is_open = ndimage.minimum_filter(hounsfield, size=5) < AIR_HU
    places = np.argwhere((hounsfield > TISSUE_HU) & is_open & ~near)
    chosen = np.random.default_rng(index).permutation(len(places))[:PLACES]
    return np.asarray(places[chosen] + low - SIDE // 2)
