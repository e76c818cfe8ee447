"""Lesions planted on films that show none: of the same shapes as drawn ones, on other and on real films.

A drawn film shows its lesions always in the same way; planted ones are new each time. And a network that
meets lesions on synthetic films alone would learn that real ones never have any.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from models.detector_data import LABEL_BY_CLASS, LEFT_LUNG, RIGHT_LUNG, Film
from node.samples.lesions import KINDS, least_subtlety
from node.samples.opacities import (
    REFERENCE_LUNG_MM,
    SIZES_MM,
    Kind,
    box_of,
    draw_opacity,
    opacity_depth_mm,
    window_mm,
)

Floats = NDArray[np.float32]
Box = tuple[int, int, int, int]

SPACINGS_MM = (0.4, 0.85)
"""The side of a pixel on prepared films: children of school age to large adults, cut close or not."""
SHARES = {"nodule": 0.42, "mass": 0.2, "consolidation": 0.38}
"""How often each kind is planted: fewer are drawn of consolidations, which take the most forms."""
PLANTED_MM: dict[Kind, tuple[float, float]] = {**SIZES_MM, "consolidation": (18.0, 110.0)}
"""Drawn lesions end at 60 mm; a pneumonia may fill a lobe."""
MOST_SUBTLETY = 4.5
BLUR_PX, STRUCTURE_PX = 0.8, 20.0
"""How soft a film is, and what counts as the place of a lesion rather than as noise beside it."""
MOST_ADDED = 0.6
FIELDS = ((0.14, 0.15, 0.42, 0.72), (0.58, 0.15, 0.86, 0.72))
"""Where the lungs lie on a film that does not say: parts of its sides, left, top, right, bottom."""
DARK = 0.65
"""A lesion's place is among the darkest such part of its lung's pixels: beside the lung it is bright."""
ATTEMPTS = 12
APART_PX = 4


@dataclass(frozen=True, slots=True, eq=False)
class Patch:
    """One lesion alone: its `depth` (rows, columns), 1 where it is deepest, its box there, label and size."""

    depth: Floats
    box: Box
    label: int
    size_mm: float


def draw_patches(count: int, seed: int) -> list[Patch]:
    """Return so many lesions as an endless lung would show them, each at a spacing of its own."""
    random = np.random.default_rng(seed)
    return [_draw_patch(random) for _ in range(count)]


def _draw_patch(random: np.random.Generator) -> Patch:
    kind = KINDS[int(random.choice(len(KINDS), p=[SHARES[one] for one in KINDS]))]
    size_mm = float(np.exp(random.uniform(*np.log(PLANTED_MM[kind]))))
    hilum = (60.0 * float(random.choice([-1, 1])), 0.0, float(random.uniform(-60, 60)))
    opacity = draw_opacity(kind, random, center_xyz_mm=(0, 0, 0), size_mm=size_mm, hilum_xyz_mm=hilum)
    spacing, reach = float(random.uniform(*SPACINGS_MM)), window_mm(opacity)
    steps = np.arange(-reach, reach, spacing, dtype=np.float32)
    x, z = np.meshgrid(steps, -steps)
    depth = opacity_depth_mm(opacity, np.full_like(x, REFERENCE_LUNG_MM), x, z)
    box = box_of(depth)
    if box is None:
        raise ValueError(f"a {kind} of {size_mm:.0f} mm that nothing shows")
    soft = gaussian_filter(depth / depth.max(), BLUR_PX)
    return Patch(np.asarray(soft, np.float32), box, LABEL_BY_CLASS[kind.capitalize()], size_mm)


def plant(film: Film, patches: Sequence[Patch], random: np.random.Generator) -> Film:
    """Return a film known to show no lesion with one to three; fewer where they find no room."""
    pixels = film.pixels.astype(np.float32) / 255.0
    planted: list[tuple[Box, Patch, float]] = []
    fields = lung_fields(film)
    for _ in range(int(random.integers(1, 4))):
        for _ in range(ATTEMPTS):
            patch = turned(patches[int(random.integers(len(patches)))], random)
            field = fields[int(random.integers(len(fields)))]
            corner = _corner(pixels, field, patch, random)
            if corner is None or any(_touch(_box_at(patch, corner), box) for box, *_ in planted):
                continue
            subtlety = float(np.exp(random.uniform(*np.log([least_subtlety(patch.size_mm), MOST_SUBTLETY]))))
            _add(pixels, patch, corner, subtlety)
            planted.append((_box_at(patch, corner), patch, subtlety))
            break
    return _with_truth(film, pixels, planted)


def lung_fields(film: Film) -> list[Box]:
    """Return the boxes of the lungs in whole pixels, about where they lie if the film does not say."""
    known = np.isin(film.labels, [LABEL_BY_CLASS[RIGHT_LUNG], LABEL_BY_CLASS[LEFT_LUNG]])
    boxes = film.boxes[known] if known.any() else np.asarray(FIELDS) * len(film.pixels)
    return [(int(left), int(top), int(right), int(bottom)) for left, top, right, bottom in boxes]


def turned(patch: Patch, random: np.random.Generator) -> Patch:
    """Return a patch turned by quarters and mirrored at random."""
    mask = np.zeros(patch.depth.shape, np.bool_)
    mask[patch.box[1] : patch.box[3], patch.box[0] : patch.box[2]] = True
    quarters, is_mirrored = int(random.integers(4)), bool(random.random() < 0.5)
    step = -1 if is_mirrored else 1
    depth, inside = np.rot90(patch.depth, quarters)[:, ::step], np.rot90(mask, quarters)[:, ::step]
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    return replace(patch, depth=depth, box=box)


def _corner(pixels: Floats, field: Box, patch: Patch, random: np.random.Generator) -> tuple[int, int] | None:
    """Return the row and column where the patch begins, so that its box lies in a field's dark part."""
    left, top, right, bottom = field
    width, height = patch.box[2] - patch.box[0], patch.box[3] - patch.box[1]
    if right - left <= width or bottom - top <= height:
        return None
    column = int(random.integers(left, right - width))
    row = int(random.integers(top, bottom - height))
    level = np.quantile(pixels[top:bottom:4, left:right:4], DARK)
    if pixels[row : row + height, column : column + width].mean() > level:
        return None
    return row - patch.box[1], column - patch.box[0]


def _box_at(patch: Patch, corner: tuple[int, int]) -> Box:
    row, column = corner
    left, top, right, bottom = patch.box
    return left + column, top + row, right + column, bottom + row


def _touch(one: Box, other: Box) -> bool:
    return (
        one[0] < other[2] + APART_PX
        and other[0] < one[2] + APART_PX
        and one[1] < other[3] + APART_PX
        and other[1] < one[3] + APART_PX
    )


def _add(pixels: Floats, patch: Patch, corner: tuple[int, int], subtlety: float) -> None:
    """Brighten pixels (rows, columns; 0–1) by a patch of a subtlety as in node.samples.thorax."""
    left, top, right, bottom = _box_at(patch, corner)
    margins = max(4, (bottom - top) // 2), max(4, (right - left) // 2)
    around = pixels[
        max(top - margins[0], 0) : bottom + margins[0], max(left - margins[1], 0) : right + margins[1]
    ]
    noise = float(np.sqrt(np.mean((around - gaussian_filter(around, STRUCTURE_PX, mode="nearest")) ** 2)))
    peak = min(subtlety * noise / float(patch.depth[patch.depth > 0.5].mean()), MOST_ADDED)
    rows = slice(max(corner[0], 0), min(corner[0] + patch.depth.shape[0], len(pixels)))
    columns = slice(max(corner[1], 0), min(corner[1] + patch.depth.shape[1], pixels.shape[1]))
    own = patch.depth[
        rows.start - corner[0] : rows.stop - corner[0], columns.start - corner[1] : columns.stop - corner[1]
    ]
    before = pixels[rows, columns]
    # What is dense already gains less: a film saturates.
    room = (1 - before) / max(1 - float(pixels[top:bottom, left:right].mean()), 0.05)
    pixels[rows, columns] = np.clip(before + peak * own * np.clip(room, 0, 1.5), 0, 1)


def _with_truth(film: Film, pixels: Floats, planted: Sequence[tuple[Box, Patch, float]]) -> Film:
    count = len(planted)
    boxes = np.asarray([box for box, *_ in planted], np.float32).reshape(-1, 4)
    return replace(
        film,
        pixels=np.rint(pixels * 255).astype(np.uint8),
        boxes=np.concatenate([boxes, film.boxes]),
        labels=np.concatenate([np.asarray([one.label for _, one, _ in planted], np.int64), film.labels]),
        subtlety=np.concatenate([np.asarray([one for *_, one in planted], np.float32), film.subtlety]),
        size_mm=np.concatenate(
            [np.asarray([one.size_mm for _, one, _ in planted], np.float32), film.size_mm]
        ),
        places=np.concatenate([np.full(count, "planted"), film.places]),
    )
