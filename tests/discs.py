"""Films whose lesions are bright discs: a small detector learns them in seconds."""

from __future__ import annotations

import numpy as np

from models.detector_data import Film

SIDE = 96
LUNGS = np.array([[6.0, 10, 44, 86], [52, 10, 90, 86]], np.float32)


def disc_film(seed: int, size: int = SIDE) -> Film:
    """Return dark lungs on gray, and on every other film discs of 7 or 12 pixels as lesions of two kinds."""
    random = np.random.default_rng(seed)
    pixels = random.normal(140, 6, (size, size))
    for left, top, right, bottom in LUNGS.astype(int):
        pixels[top:bottom, left:right] -= 60
    boxes, labels = [], []
    y, x = np.mgrid[:size, :size] + 0.5
    for lung in LUNGS if seed % 2 else ():
        label = int(random.integers(1, 3))
        radius = 3.5 if label == 1 else 6.0
        column, row = random.uniform(lung[:2] + 10, lung[2:] - 10)
        pixels[np.hypot(x - column, y - row) <= radius] += 90
        boxes.append([column - radius, row - radius, column + radius, row + radius])
        labels.append(label)
    count = len(boxes)
    return Film(
        pixels=np.clip(pixels, 0, 255).astype(np.uint8),
        boxes=np.array([*boxes, *LUNGS], np.float32),
        labels=np.array([*labels, 4, 5], np.int64),
        subtlety=np.array([2.5] * count + [np.nan] * 2, np.float32),
        size_mm=np.array([5.0 if label == 1 else 10.0 for label in labels] + [np.nan] * 2, np.float32),
        places=np.array(["lung"] * count + [""] * 2),
        is_lesion_labelled=True,
        is_lung_labelled=True,
        group=f"disc-{seed}",
    )


def load_discs(count: int, first_seed: int, *, size: int = SIDE, workers: int = 1) -> list[Film]:
    """Stand for the synthetic thoraxes, which take longer to draw."""
    return [disc_film(first_seed + number, SIDE) for number in range(count)]
