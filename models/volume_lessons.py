"""What the networks for volumes learn: cubes of nodules and of what lies beside them, changed at random."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models import nodules as lidc
from models.chests import read_chests
from models.patches import Example, PatchDataset, fill_outside, tissue_beside
from models.synthetic_volumes import read_cubes
from models.volume_augmentation import expose, move

CLASSIFIER, SEGMENTER = "chest_ct", "chest_ct_nodules"
SCORES = len(lidc.SCORES) + 1
# Voxels outside of the volume of interest hold no nodule that was marked in it: true, but made up.
OUTSIDE_WEIGHT = 0.5
SHIFT = 11
# Voxels that are cut out beyond a side, to be turned in.
ROOM = 16
# The part of the patches of whole chests that is cut around nodules.
FOREGROUND = 0.4


@dataclass(frozen=True, slots=True)
class VolumeSettings:
    """Everything that decides a training run on volumes; see Settings of models.train for the common words.

    `trunk` and `width` are the network's (`unet` for the segmenter), `side` of its training cubes in voxels.
    `negatives` is the number of places without a nodule for each nodule, `synthetic` that of cubes of
    the files `cubes` (models.synthetic_volumes) and `hard` (models.mining), whose false places
    make up to half of the places without a nodule. The segmenter also learns from `patches` times as many
    patches of the whole chests of the file `chests` (models.chests) as there are real nodules. `init` is a
    checkpoint to start from.
    """

    data: str
    out: str
    model: str = CLASSIFIER
    epochs: int = 30
    trunk: str = "resnet18"
    width: int = 16
    side: int = 32
    batch: int = 32
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    dropout: float = 0.2
    smoothing: float = 0.05
    strength: float = 1.0
    negatives: float = 0.5
    synthetic: float = 0.6
    cubes: str = ""
    hard: str = ""
    chests: str = ""
    patches: float = 0.6
    init: str = ""
    foreign: float = 0.06
    ema_decay: float = 0.995
    held_out: float = lidc.HELD_OUT
    tuning: float = 0.06
    limit: int = 0
    patience: int = 0
    seed: int = 1
    device: str = "auto"
    threads: int = 0
    checkpointing: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Cubes:
    """A batch as the networks learn it.

    HU, mask 0–1 and weight of the mask's truth (n, 1, s, s, s); labels (n, classes) with NaN; scores
    (n, SCORES) 0–1 with NaN.
    """

    hounsfield: Tensor
    mask: Tensor
    weight: Tensor
    labels: Tensor
    scores: Tensor


def read_lessons(settings: VolumeSettings) -> tuple[Lessons, lidc.Nodules]:
    """Return what a run learns from, and the nodules kept for tuning; no patient in both."""
    folder = Path(settings.data)
    kept, _ = lidc.hold_out(lidc.load_nodules(folder, split="train"), settings.held_out)
    kept, tuned = lidc.hold_out(kept, settings.tuning, settings.seed)
    if settings.limit:
        kept = kept.subset(np.arange(min(settings.limit, len(kept))))
    parts = [kept]
    for path in (settings.cubes, settings.hard):
        made = read_cubes(Path(path)) if path else kept.subset(np.zeros(0, np.intp))
        parts.append(made.subset(~np.isin(made.groups, tuned.groups)))
    joined = lidc.concatenate(parts)
    number = np.arange(len(joined))
    hard = number[(number >= len(kept) + len(parts[1])) & ~joined.is_nodule]
    beside: list[NDArray[np.int64]] = []
    if settings.model == CLASSIFIER:
        beside = [tissue_beside(joined, index) for index in number.tolist()]
    patches = None
    if settings.chests and settings.model == SEGMENTER:
        patches = patches_of(read_chests(Path(settings.chests)), settings.side)
    return Lessons(joined, number >= len(kept), beside, hard, patches), tuned


def patches_of(chests: Sequence[Example], side: int) -> PatchDataset:
    """Return the patches of whole chests, with room to be turned in around cubes of a side."""
    return PatchDataset(chests, (side + ROOM,) * 3, (side,) * 3, foreground=FOREGROUND)


def empty_lung(lessons: Lessons, side: int) -> Tensor | None:
    """Return cubes (n, side, side, side) of synthetic lung without a nodule, None where there are none."""
    is_empty = lessons.is_synthetic & ~lessons.cubes.masks.any(axis=(1, 2, 3))
    if not is_empty.any():
        return None
    start = (lidc.SIDE - side) // 2
    part = slice(start, start + side)
    return torch.from_numpy(lessons.cubes.hounsfield[is_empty][:, part, part, part])


Batch = tuple[Tensor, Tensor | None]
"""Which cubes, and how far from the middle of each is looked (n, 3); or which patches, and None."""


def epoch(settings: VolumeSettings, lessons: Lessons, random: torch.Generator) -> list[Batch]:
    """Return the batches of an epoch in random order.

    Every real nodule, `synthetic` of the other cubes, and of the classifier `negatives` places beside; for
    the segmenter patches of whole chests, too.
    """
    batches = _of_cubes(settings, lessons, random)
    if lessons.patches:
        lessons.patches.reseed(int(torch.randint(2**31, (1,), generator=random)))
        wanted = round(settings.patches * lessons.real)
        items = torch.randperm(len(lessons.patches), generator=random)[:wanted]
        batches += [(one, None) for one in _split(items, settings.batch)]
    return [batches[one] for one in torch.randperm(len(batches), generator=random).tolist()]


def _split(order: Tensor, batch: int) -> tuple[Tensor, ...]:
    """Return whole batches alone, as far as there is one: a last short one would move the batch norms."""
    return order[: max(len(order) // batch, 1) * batch].split(batch)


def _of_cubes(settings: VolumeSettings, lessons: Lessons, random: torch.Generator) -> list[Batch]:
    kept = lessons.cubes
    # Of the same number of cubes in every epoch: the learning rate has its way planned.
    is_asked = kept.is_nodule if settings.model == CLASSIFIER else np.ones(len(kept), dtype=np.bool_)
    made = torch.from_numpy(np.flatnonzero(lessons.is_synthetic & is_asked))
    made = made[torch.randperm(len(made), generator=random)[: round(settings.synthetic * lessons.real)]]
    index = torch.cat([torch.from_numpy(np.flatnonzero(~lessons.is_synthetic)), made])
    # Anywhere in the window: a network that meets nodules in the middle alone finds them nowhere else.
    places = torch.randint(-SHIFT, SHIFT + 1, (len(index), 3), generator=random).float()
    if settings.model == CLASSIFIER:
        generator = np.random.default_rng(int(torch.randint(2**31, (1,), generator=random)))
        places = torch.zeros(len(index), 3)
        hard = torch.from_numpy(lessons.hard)
        wanted = round(settings.negatives * len(index))
        hard = hard[torch.randperm(len(hard), generator=random)[: wanted // 2]]
        drawn = torch.multinomial(
            torch.from_numpy(lessons.weights), wanted - len(hard), True, generator=random
        )
        beside = [generator.choice(lessons.beside[one]) for one in drawn.tolist()]
        index = torch.cat([index, drawn, hard])
        places = torch.cat([places, torch.tensor(np.array(beside)).float(), torch.zeros(len(hard), 3)])
    order = torch.randperm(len(index), generator=random)
    return [(index[one], places[one]) for one in _split(order, settings.batch)]


@dataclass(frozen=True, slots=True, eq=False)
class Lessons:
    """What is learned from: cubes, which of them are synthetic, and the tissue beside their nodules.

    `hard` are the cubes in whose middle a segmenter saw a nodule where there is none; `patches` are those of
    whole chests, None without any.
    """

    cubes: lidc.Nodules
    is_synthetic: NDArray[np.bool_]
    beside: list[NDArray[np.int64]]
    hard: NDArray[np.int64]
    patches: PatchDataset | None = None

    @property
    def real(self) -> int:
        """The number of cubes cut out of real CTs."""
        return int((~self.is_synthetic).sum())

    @property
    def weights(self) -> NDArray[np.float64]:
        """How often a cube is to give a place beside its nodule: never where there is none."""
        return np.array([float(len(places) > 0) for places in self.beside])


def draw_batch(
    lessons: Lessons,
    batch: Batch,
    settings: VolumeSettings,
    random: torch.Generator,
    background: Tensor | None = None,
) -> Cubes:
    """Return the changed cubes, or patches, of a batch."""
    index, places = batch
    if places is None:
        return draw_patches(lessons, index, settings, random)
    return draw(lessons.cubes, index, places, settings, random, background)


def draw_patches(lessons: Lessons, items: Tensor, settings: VolumeSettings, random: torch.Generator) -> Cubes:
    """Return changed patches of whole chests."""
    dataset = lessons.patches or ()
    parts = torch.stack([torch.cat(dataset[item]) for item in items.tolist()])
    known = torch.ones_like(parts[:, :1])
    moved = move(
        torch.cat([parts, known], dim=1), torch.zeros(len(items), 3), settings.side, random, settings.strength
    )
    hounsfield, mask, weight, known = moved.split(1, dim=1)
    hounsfield = fill_outside(hounsfield / known.clamp(min=1e-3), known, None, random)
    unknown = torch.full((len(items), len(lidc.CLASSES)), torch.nan)
    scores = torch.full((len(items), SCORES), torch.nan)
    return Cubes(expose(hounsfield, random, settings.strength), mask, weight, unknown, scores)


def draw(
    kept: lidc.Nodules,
    index: Tensor,
    places: Tensor,
    settings: VolumeSettings,
    random: torch.Generator,
    background: Tensor | None = None,
) -> Cubes:
    """Return changed cubes of nodules and of places beside them."""
    chosen = index.numpy()
    moved = move(*windows(kept, chosen, places, settings.side), settings.side, random, settings.strength)
    hounsfield, mask, weight = moved.split(1, dim=1)
    # Known voxels are sampled as HU above a floor, for outside is 0 and what is no volume is the floor.
    hounsfield = hounsfield / weight.clamp(min=1e-3)
    if background is not None:
        picked = torch.randint(len(background), (len(chosen),), generator=random)
        background = background[picked][:, None].float()
    hounsfield = fill_outside(hounsfield, weight, background, random)
    if settings.strength:
        hounsfield = expose(hounsfield, random, settings.strength)
    is_nodule = (places == 0).all(dim=1) & torch.from_numpy(kept.is_nodule[chosen])
    labels, scores = truths(kept, chosen, is_nodule)
    if settings.model == CLASSIFIER:
        # The mask of the candidate in the middle, not of a nodule at its side.
        mask = mask * is_nodule.view(-1, 1, 1, 1, 1)
    weight = (weight > 0.5).float().clamp(min=OUTSIDE_WEIGHT)
    return Cubes(hounsfield, mask, weight, labels, scores)


def windows(
    kept: lidc.Nodules, chosen: NDArray[np.int64], places: Tensor, side: int
) -> tuple[Tensor, Tensor]:
    """Return HU, mask and what is known (n, 3, l, l, l) around places, and what is left of the way there.

    Cut out before anything is interpolated: a whole cube costs several times as much.
    """
    length = min(side + ROOM, lidc.SIDE)
    room = lidc.SIDE - length
    corners = (places.round().long() + room // 2).clamp(0, room)
    parts = torch.zeros(len(chosen), 3, length, length, length)
    for part, one, (z, y, x) in zip(parts, chosen.tolist(), corners.tolist(), strict=True):
        box = (slice(z, z + length), slice(y, y + length), slice(x, x + length))
        known = tuple(
            slice(max(low - at, 0), max(high - at, 0))
            for (low, high), at in zip(kept.bounds[one].tolist(), (z, y, x), strict=True)
        )
        part[0] = torch.from_numpy(kept.hounsfield[one][box])
        part[1] = torch.from_numpy(kept.masks[one][box]) / 255.0
        part[2][known] = 1.0
        # Beyond the volume of interest both go on as they end there: no lung, and no nodule, is like that.
        part[:2] *= part[2]
    return parts, places - (corners - room // 2)


def known_voxels(bounds: NDArray[np.int64], side: int = lidc.SIDE) -> NDArray[np.bool_]:
    """Return which voxels (n, s, s, s) lie within bounds (n, 3, 2)."""
    place = np.arange(side)
    axes = (place >= bounds[:, :, :1]) & (place < bounds[:, :, 1:])
    z, y, x = (axes[:, axis] for axis in range(3))
    return np.asarray(z[:, :, None, None] & y[:, None, :, None] & x[:, None, None, :])


def truths(kept: lidc.Nodules, chosen: NDArray[np.int64], is_nodule: Tensor) -> tuple[Tensor, Tensor]:
    """Return labels (n, 2) and scores (n, SCORES) in 0–1; what a place without nodule has none of is NaN."""
    unknown = torch.where(is_nodule, 0.0, torch.nan)
    malign = torch.from_numpy(kept.malign[chosen]) + unknown
    opinions = torch.from_numpy((kept.scores[chosen] - 1.0) / (lidc.LARGEST_SCORE - 1.0))
    size = torch.from_numpy(np.log10(np.maximum(kept.diameters_mm[chosen], 3.0) / 3.0))[:, None]
    scores = torch.cat([opinions, size], dim=1).clamp(0.0, 1.0) + unknown[:, None]
    return torch.stack([is_nodule.float(), malign], dim=1), scores
