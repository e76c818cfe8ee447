"""What size and density alone say of malignancy: the score that a network has to be compared with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import GradientBoostingClassifier

from models.nodules import Row, read_rows, read_voi

SEED = 0


def measures(row: Row) -> NDArray[np.float64]:
    """Return size and density of a nodule inside the radiologists' mask.

    Volume, its logarithm, the diameter of the ball of that volume, the extents of the bounding box in mm, and
    mean, standard deviation and the 5th, 25th, 50th, 75th and 95th percentile of HU.
    """
    voi = read_voi(row)
    inside = voi.hounsfield[voi.mask].astype(np.float64)
    volume = float(voi.mask.sum() * voi.spacing_zyx_mm.prod())
    places = np.argwhere(voi.mask)
    extents = (np.ptp(places, axis=0) + 1) * voi.spacing_zyx_mm
    ball = (6.0 * volume / np.pi) ** (1.0 / 3.0)
    percentiles = np.percentile(inside, [5, 25, 50, 75, 95])
    return np.array([volume, np.log(volume), ball, *extents, inside.mean(), inside.std(), *percentiles])


def baseline_probability(directory: Path, *, train: str, test: str) -> NDArray[np.float64]:
    """Return the probability of malignancy of each nodule of a split, by gradient boosting on the other."""
    learned, asked = (read_rows(directory, split=split) for split in (train, test))
    boosting = GradientBoostingClassifier(random_state=SEED)
    boosting.fit(np.stack([measures(row) for row in learned]), [row.is_malign for row in learned])
    return np.asarray(boosting.predict_proba(np.stack([measures(row) for row in asked]))[:, 1])
