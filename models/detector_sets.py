"""Which films train a detector, which calibrate it and which are looked at meanwhile; no patient in two."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from models.detector_data import (
    CALIBRATION_SEED,
    THORAX_SEED,
    TRAIN_SEED,
    TUNING_SEED,
    Film,
    load_films,
    load_thorax_films,
    read_lung_films,
    read_normal_films,
)
from models.detector_lessons import DetectorSettings

# Of the patients of real films one in so many is kept for calibration.
PARTS = 6


def training_films(settings: DetectorSettings) -> list[Film]:
    """Return the synthetic films of a training, and real ones where folders are given.

    Of each folder at most `real` of its training split, chosen at random by the seed.
    """
    films = load_films(settings.films, TRAIN_SEED, size=settings.size, workers=settings.threads)
    films += load_thorax_films(settings.thoraxes, THORAX_SEED, size=settings.size, workers=settings.threads)
    random = np.random.default_rng(settings.seed)
    for part in real_films(settings, is_held_out=False):
        order = random.permutation(len(part))[: settings.real]
        films += [part[number] for number in sorted(order.tolist())]
    return films


def tuning_films(settings: DetectorSettings) -> list[Film]:
    """Return the synthetic films of which a training prints figures."""
    return load_films(settings.tuning, TUNING_SEED, size=settings.size, workers=settings.threads)


def calibration_films(settings: DetectorSettings, count: int) -> list[Film]:
    """Return so many synthetic films and the real ones that no training sees."""
    films = load_films(count, CALIBRATION_SEED, size=settings.size, workers=settings.threads)
    return films + [film for part in real_films(settings, is_held_out=True) for film in part]


def real_films(settings: DetectorSettings, *, is_held_out: bool) -> list[list[Film]]:
    """Return those with lung boxes, then the normal ones; of the training split, one part of the patients."""
    parts: list[Sequence[Film]] = []
    if settings.lungs:
        parts.append(read_lung_films(Path(settings.lungs), split="train", size=settings.size))
    if settings.normals:
        parts.append(read_normal_films(Path(settings.normals), split="train", size=settings.size))
    return [[film for film in part if is_kept(film.group) is is_held_out] for part in parts]


def is_kept(group: str) -> bool:
    """Return whether a patient is kept for calibration, whatever the seed of a training is."""
    return int.from_bytes(hashlib.sha256(group.encode()).digest()[:4], "big") % PARTS == 0
