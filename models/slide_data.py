"""Bags of tiles from synthetic slides: what a slide's label is learned from, and its truth, kept apart.

Drawn once and kept below runs/; the tiles are those that serving would read.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from models.data import CACHE
from models.slide import MICROMETERS_PER_PIXEL
from models.stain import estimate_stains
from node.domain.slide import SlideLevel
from node.imaging.slide_grid import TilePlan, plan_tiles, shrink_tile
from node.imaging.tile_quality import judge_tile
from node.imaging.tissue import find_tissue
from node.samples import slide as samples
from node.samples.slide import slide_sample

# Far from the small seeds of the demo and the tests, which must show slides that no network has seen.
TRAIN_SEED, TEST_SEED, CALIBRATION_SEED, TUNING_SEED = 100_000, 200_000, 300_000, 400_000
COLORS_OF_STAINS = 200_000
# How strongly the laboratories compress, by the scale of JPEG.
QUALITIES = (75, 96)

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]


class Sample(Protocol):
    """A slide whose truth is known (node.samples.slide)."""

    @property
    def levels(self) -> tuple[int, ...]:
        """By how much each magnification is coarser than the finest, which is the first."""

    @property
    def micrometers_per_pixel(self) -> float:
        """The size of a pixel of the finest level."""

    def size(self, level: int) -> tuple[int, int]:
        """Return the columns and rows of a level."""

    def region(self, level: int, left: int, top: int, columns: int, rows: int) -> Pixels:
        """Return RGB (rows, columns, 3) of a rectangle in pixels of a level."""

    def tumor(self, level: int, left: int, top: int, columns: int, rows: int) -> Mask:
        """Return where the tumor is (rows, columns), of the same rectangle."""


@dataclass(frozen=True, slots=True)
class Shape:
    """How slides are drawn and cut: pixels along a side of the finest level, and of a tile as learned."""

    side: int = 4096
    tile: int = 128
    micrometers_per_pixel: float = MICROMETERS_PER_PIXEL


@dataclass(frozen=True, slots=True, eq=False)
class Bag:
    """What is learned from: the tiles (n, s, s, 3) of one slide, its stains (2, 3) and label."""

    tiles: Pixels
    stains: NDArray[np.float32]
    is_tumor: bool
    slide: str

    def __len__(self) -> int:
        """Return the number of tiles."""
        return len(self.tiles)


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """What no training sees: where the tumor of a slide is, on its coarsest level.

    `tumor` (rows, columns), and the corners (n, 2; left, top) and side of the bag's tiles in its pixels.
    """

    tumor: Mask
    corners: NDArray[np.floating]
    side: float

    def shares(self) -> NDArray[np.float64]:
        """Return which part of each tile is tumor (n,)."""
        return np.array([self.tumor[place].mean() for place in self.places()])

    def places(self) -> Iterator[tuple[slice, slice]]:
        """Yield which pixels of the mask each tile covers."""
        for left, top in np.round(self.corners).astype(np.int64).tolist():
            end = max(round(self.side), 1)
            yield slice(top, top + end), slice(left, left + end)


def cut_bag(sample: Sample, shape: Shape, *, is_tumor: bool, slide: str) -> tuple[Bag, Truth]:
    """Return the tiles of a slide that are fit for a network, compressed as by a scanner; and its truth."""
    levels = levels_of(sample)
    overview = levels[-1]
    whole = (len(levels) - 1, 0, 0, overview.columns, overview.rows)
    tissue = find_tissue(sample.region(*whole), sample.micrometers_per_pixel * overview.downsample)
    plan = plan_tiles(
        levels,
        tissue.mask,
        micrometers_per_pixel=sample.micrometers_per_pixel,
        side_um=shape.tile * shape.micrometers_per_pixel,
        wanted_micrometers_per_pixel=shape.micrometers_per_pixel,
    )
    digest = int.from_bytes(hashlib.sha256(slide.encode()).digest()[:4], "big")
    quality = int(np.random.default_rng(digest).integers(*QUALITIES))
    tiles = read_tiles(sample, plan, shape.tile, quality)
    is_usable = np.array([judge_tile(tile).is_usable for tile in tiles], dtype=np.bool_)
    tiles = tiles[is_usable]
    scale = levels[plan.level].downsample / overview.downsample
    truth = Truth(sample.tumor(*whole), plan.corners[is_usable] * scale, plan.side * scale)
    return Bag(tiles, stains_of(tiles), is_tumor, slide), truth


def levels_of(sample: Sample) -> list[SlideLevel]:
    """Return the levels of a slide as those of a stored one; it has no tiles of its own."""
    return [
        SlideLevel("", *sample.size(number), float(downsample), 0, 0)
        for number, downsample in enumerate(sample.levels)
    ]


def read_tiles(sample: Sample, plan: TilePlan, size: int, quality: int) -> Pixels:
    """Return the tiles of a plan (n, size, size, 3), each compressed as it is stored before it is shrunk."""
    tiles = np.empty((len(plan), size, size, 3), dtype=np.uint8)
    for tile, (left, top) in zip(tiles, plan.corners.tolist(), strict=True):
        stored = compress(sample.region(plan.level, left, top, plan.side, plan.side), quality)
        tile[:] = shrink_tile(stored, size)
    return tiles


def compress(tile: Pixels, quality: int) -> Pixels:
    """Return what JPEG leaves of a tile."""
    with io.BytesIO() as stored:
        Image.fromarray(tile).save(stored, "JPEG", quality=quality)
        return np.asarray(Image.open(stored))


def stains_of(tiles: Pixels) -> NDArray[np.float32]:
    """Return the stains (2, 3) of a slide by some of the pixels of its tiles."""
    colors = tiles.reshape(-1, 3)
    chosen = colors[:: len(colors) // COLORS_OF_STAINS + 1]
    return estimate_stains(torch.from_numpy(chosen.astype(np.float32) / 255.0)).numpy()


def load_slides(
    count: int, first_seed: int, shape: Shape, *, workers: int = 1
) -> tuple[list[Bag], list[Truth]]:
    """Return synthetic slides of consecutive seeds, every other one with a tumor, and their truth.

    Kept below runs/, so that another run only reads them; tiles stay on disk until they are asked for. So
    many `workers` are processes beside this one; a single one is this process itself.
    """
    folder = CACHE / f"slides-{shape.side}-{shape.tile}-{shape.micrometers_per_pixel:g}-{version()}"
    folder.mkdir(parents=True, exist_ok=True)
    seeds = range(first_seed, first_seed + count)
    missing = [seed for seed in seeds if not (folder / f"{seed}.npz").is_file()]
    if workers > 1 and missing:
        # Spawned, for a fork of a process that PyTorch has given threads can hang.
        with one_thread(), ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            list(pool.map(_write_slide, missing, repeat(shape), repeat(folder)))
    else:
        for seed in missing:
            _write_slide(seed, shape, folder)
    both = [read_slide(folder, seed) for seed in seeds]
    return [bag for bag, _ in both], [truth for _, truth in both]


@contextmanager
def one_thread() -> Iterator[None]:
    """Have new processes compute with one thread each: there is one for every core already."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def is_tumor(seed: int) -> bool:
    """Return whether the slide of a seed is drawn with a tumor."""
    return seed % 2 == 1


def _write_slide(seed: int, shape: Shape, folder: Path) -> None:
    bag, truth = cut_bag(drawn(seed, shape), shape, is_tumor=is_tumor(seed), slide=f"synthetic-{seed}")
    write_slide(folder, seed, bag, truth)


def drawn(seed: int, shape: Shape) -> Sample:
    """Return the synthetic slide of a seed."""
    return slide_sample(seed, columns=shape.side, rows=shape.side, is_tumor=is_tumor(seed))


def write_slide(folder: Path, seed: int, bag: Bag, truth: Truth) -> None:
    """Write a slide to `folder`; whole or not at all, as its last file is what is looked for."""
    np.save(folder / f"{seed}.npy", bag.tiles)
    path = folder / f"{seed}.part.npz"
    np.savez(
        path,
        stains=bag.stains,
        is_tumor=bag.is_tumor,
        slide=bag.slide,
        tumor=truth.tumor,
        corners=truth.corners,
        side=truth.side,
    )
    path.replace(folder / f"{seed}.npz")


def read_slide(folder: Path, seed: int) -> tuple[Bag, Truth]:
    """Return a slide of `folder` that was written there."""
    tiles = np.load(folder / f"{seed}.npy", mmap_mode="r")
    with np.load(folder / f"{seed}.npz") as stored:
        bag = Bag(tiles, stored["stains"], bool(stored["is_tumor"]), str(stored["slide"]))
        return bag, Truth(stored["tumor"], stored["corners"], float(stored["side"]))


def version() -> str:
    """Return what changes where the code that draws and cuts slides does."""
    node = Path(samples.__file__).parents[1]
    patterns = ("samples/*.py", "imaging/slide_grid.py", "imaging/tissue.py", "imaging/tile_quality.py")
    names = sorted(name for pattern in patterns for name in node.glob(pattern))
    return hashlib.sha256(b"".join(path.read_bytes() for path in names)).hexdigest()[:12]
