"""What an epoch of a detector's training shows: films and pieces of films, some with lesions planted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from models.detector import LESIONS, Truth
from models.detector_data import Film
from models.detector_lessons import DetectorSettings
from models.detector_losses import area
from models.planting import Patch, plant

Item = TypeVar("Item")

# A box that is less than this much of itself inside the picture that is shown is not told.
LEAST_INSIDE = 0.5
# How much larger or smaller a whole film is shown, and a piece: of a whole one the lungs must stay on it.
WHOLE_SCALE, PIECE_SCALE = 0.12, 0.3
SHIFT = 0.06
# A piece is taken around a lesion so often; else from anywhere.
AIMED = 0.8
# Real films with boxes of lungs are few: each is shown so often in an epoch.
LUNG_TURNS = 4


@dataclass(frozen=True, slots=True)
class Look:
    """One film of an epoch by its number; of a piece perhaps the place (x, y) that deceived before."""

    number: int
    deceived_at: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Films that are shown together, as pieces of `side` pixels or, if 0, as a whole."""

    looks: tuple[Look, ...]
    side: int = 0


@dataclass(slots=True)
class Fright:
    """How sure a network was of a lesion where there is none, and where; part of what a run resumes.

    `values` (films,) is the highest score, 0 of films with lesions and of those not looked at; `places`
    (films, 2) where, x and y.
    """

    values: Tensor
    places: Tensor

    @classmethod
    def none(cls, count: int) -> Fright:
        """Return that of films that deceive no one."""
        return cls(torch.zeros(count), torch.zeros(count, 2))

    def state_dict(self) -> dict[str, Tensor]:
        """Return what a resumed run needs."""
        return {"values": self.values, "places": self.places}

    def load_state_dict(self, state_dict: dict[str, Tensor]) -> None:
        """Take it again."""
        self.values, self.places = state_dict["values"], state_dict["places"]


def epoch_batches(
    films: Sequence[Film], fright: Fright, settings: DetectorSettings, random: torch.Generator
) -> list[Batch]:
    """Return the batches of an epoch in their order: pieces of all films, and whole ones.

    Of films known to have no lesion more of those that deceive most, in the place of others, so that an epoch
    stays as long. A piece has a quarter of the pixels: there are twice as many in a batch.
    """
    told = torch.tensor([number for number, one in enumerate(films) if one.is_lesion_labelled])
    lungs = torch.tensor([number for number, one in enumerate(films) if not one.is_lesion_labelled])
    looks = [Look(int(one)) for one in told[torch.randperm(len(told), generator=random)]]
    mined = round(settings.mined * len(looks))
    if mined and fright.values.max() > 0:
        again = torch.multinomial(fright.values, mined, replacement=True, generator=random).tolist()
        deceivers = [Look(one, tuple(fright.places[one].tolist())) for one in again]
        looks = shuffled([*looks[mined:], *deceivers], random)
    whole = [Look(one.number) for one in looks]
    batches: list[Batch] = []
    if settings.crop:
        batches += in_batches(looks, 2 * settings.batch, settings.crop)
        whole = shuffled(whole, random)[: round(settings.whole * len(whole))]
    whole += [Look(int(one)) for one in lungs.repeat(LUNG_TURNS if settings.crop else 1)]
    return shuffled(batches + in_batches(shuffled(whole, random), settings.batch, 0), random)


def shuffled(items: Sequence[Item], random: torch.Generator) -> list[Item]:
    """Return items in a random order."""
    return [items[index] for index in torch.randperm(len(items), generator=random).tolist()]


def in_batches(looks: Sequence[Look], count: int, side: int) -> list[Batch]:
    """Return looks in whole batches; a rest is left out unless it is all there is."""
    starts = range(0, max(len(looks) - count, 0) + 1, count)
    return [Batch(tuple(looks[start : start + count]), side) for start in starts if looks]


def show_batch(
    films: Sequence[Film],
    batch: Batch,
    patches: Sequence[Patch],
    settings: DetectorSettings,
    random: torch.Generator,
) -> tuple[Tensor, list[Truth]]:
    """Return the images (n, 1, s, s) of a batch in 0–1, changed at random, and what is known of them."""
    shown = []
    for look in batch.looks:
        film = films[look.number]
        is_empty = film.is_lesion_labelled and not np.isin(film.labels, LESIONS).any()
        if is_empty and look.deceived_at is None and chance(random) < settings.planted * bool(patches):
            film = plant(
                film, patches, np.random.default_rng(int(torch.randint(2**40, (), generator=random)))
            )
        shown.append(film)
    if not batch.side:
        return show(shown, settings.strength, random)
    aims = [
        aim(film, look.deceived_at, batch.side, random) for film, look in zip(shown, batch.looks, strict=True)
    ]
    images, truths = show(shown, 0.0, random)
    pieces = [
        cut(*one, batch.side, settings.strength, random) for one in zip(images, truths, aims, strict=True)
    ]
    return expose(torch.stack([image for image, _ in pieces]), settings.strength, random), [
        truth for _, truth in pieces
    ]


def chance(random: torch.Generator) -> float:
    """Return a random number in 0–1."""
    return float(torch.rand((), generator=random))


def truth_of(film: Film) -> Truth:
    """Return what is known of a film."""
    boxes, labels = torch.from_numpy(np.array(film.boxes)), torch.from_numpy(np.array(film.labels))
    return Truth(boxes.reshape(-1, 4).float(), labels.long(), film.is_lesion_labelled, film.is_lung_labelled)


def show(films: Sequence[Film], strength: float, random: torch.Generator) -> tuple[Tensor, list[Truth]]:
    """Return whole films as images (n, 1, s, s) in 0–1, moved and exposed at random, and their truths.

    Never mirrored: a right lung would become a left one, and the heart would lie on the other side.
    """
    images = torch.stack([torch.from_numpy(np.array(one.pixels)) for one in films])[:, None].float() / 255.0
    truths = [truth_of(one) for one in films]
    if not strength:
        return images, truths
    moved = []
    for image, truth in zip(images, truths, strict=True):
        size = image.shape[-1]
        scale = 1.0 + WHOLE_SCALE * strength * signed(2, random)
        middle = size / 2 - SHIFT * strength * signed(2, random) * size
        moved.append(look_at(image, truth, middle, scale, size))
    return expose(torch.stack([one for one, _ in moved]), strength, random), [truth for _, truth in moved]


def signed(count: int, random: torch.Generator) -> Tensor:
    """Return random numbers (count,) in −1–1."""
    return 2 * torch.rand(count, generator=random) - 1


def aim(
    film: Film, deceived_at: tuple[float, float] | None, side: int, random: torch.Generator
) -> tuple[float, float]:
    """Return the middle of a piece of a film: about what deceived, mostly about a lesion, else anywhere."""
    size = len(film.pixels)
    lesions = film.boxes[np.isin(film.labels, LESIONS)]
    x, y = (float(one) for one in torch.rand(2, generator=random) * (size - side) + side / 2)
    if deceived_at is None and len(lesions) and chance(random) < AIMED:
        left, top, right, bottom = lesions[int(torch.randint(len(lesions), (), generator=random))].tolist()
        deceived_at = ((left + right) / 2, (top + bottom) / 2)
    if deceived_at is None:
        return x, y
    away = 0.35 * side * signed(2, random)
    return deceived_at[0] + float(away[0]), deceived_at[1] + float(away[1])


def cut(
    image: Tensor,
    truth: Truth,
    middle: tuple[float, float],
    side: int,
    strength: float,
    random: torch.Generator,
) -> tuple[Tensor, Truth]:
    """Return a piece (1, side, side) of an image around a place, scaled and perhaps mirrored.

    Of lungs it tells nothing: it shows too little of them. So it may be mirrored.
    """
    is_lesion = torch.isin(truth.labels, torch.tensor(LESIONS))
    lesions = truth._replace(
        boxes=truth.boxes[is_lesion], labels=truth.labels[is_lesion], is_lung_labelled=False
    )
    scale = (PIECE_SCALE * strength * signed(1, random)).exp() * (1.0 + 0.1 * strength * signed(2, random))
    if strength and chance(random) < 0.5:
        scale = scale * torch.tensor([-1.0, 1.0])
    return look_at(image, lesions, torch.tensor(middle), scale, side)


def look_at(image: Tensor, truth: Truth, middle: Tensor, scale: Tensor, side: int) -> tuple[Tensor, Truth]:
    """Return the picture (1, side, side) around a place (x, y), enlarged by `scale` (x, y), and its boxes.

    A negative scale mirrors. Beside the image all is 0; boxes mostly outside are not told.
    """
    size = image.shape[-1]
    theta = torch.zeros(1, 2, 3)
    theta[0, 0, 0], theta[0, 1, 1] = (side / (size * scale)).tolist()
    theta[0, :, 2] = 2 * middle / size - 1
    grid = functional.affine_grid(theta, [1, 1, side, side], align_corners=False)
    picture = functional.grid_sample(image[None], grid, align_corners=False)[0]
    corners = (truth.boxes.reshape(-1, 2, 2) - middle) * scale + side / 2
    boxes = torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=1)
    inside = boxes.clamp(0, side)
    kept = area(inside) >= LEAST_INSIDE * area(boxes)
    return picture, truth._replace(boxes=inside[kept], labels=truth.labels[kept])


def expose(images: Tensor, strength: float, random: torch.Generator) -> Tensor:
    """Return images of another gamma, contrast and brightness, and with some noise."""
    gamma, contrast, offset, noise = (
        strength * torch.rand((4, len(images), 1, 1, 1), generator=random)
    ).unbind()
    changed = images.clamp(0, 1) ** (0.4 * (gamma - strength / 2)).exp()
    changed = (changed - 0.5) * (0.3 * (contrast - strength / 2)).exp() + 0.5 + 0.1 * (offset - strength / 2)
    grain = torch.randn(images.shape, generator=random) * 0.02 * noise
    return (changed + grain).clamp(0, 1)
