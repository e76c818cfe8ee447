"""Whole synthetic chests on the working grid, with the truth of every voxel: what patches are cut from.

`python -m models.chests --data DIR --out FILE.npz` draws them, every other one with nodules of LIDC-IDRI.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from models.detection import NODULES_EACH, REAL, SYNTHETIC, as_volume, draw_case, truth_of
from models.nodules import SPACING_ZYX_MM, Voi, read_held_apart
from models.patches import Example
from models.synthetic_volumes import build_parser
from node.imaging.grid import grid_over, sample
from node.samples.tomography import CtSample

FIRST_SEED = 600_000
"""Bodies of these chests; those of cubes begin at 500 000, of mining at 700 000, of the tests at 900 000."""
AROUND_LUNGS = 10
"""Voxels around the lungs that count, too: a search looks a little beyond them."""


def draw_chests(vois: Sequence[Voi], *, bodies: int, first: int) -> Iterator[Example]:
    """Yield so many chests; those with an odd number hold real nodules, the others drawn ones."""
    order = np.random.default_rng(FIRST_SEED + first).permutation(len(vois))
    for number in range(first, first + bodies):
        kind = (SYNTHETIC, REAL)[number % 2]
        start = NODULES_EACH * (number - first)
        chosen = [vois[one] for one in order[start : start + NODULES_EACH]] if kind == REAL else []
        drawn, _ = draw_case(FIRST_SEED + number, kind, chosen)
        yield as_example(drawn)


def as_example(drawn: CtSample) -> Example:
    """Return a chest on the working grid; voxels in the lungs and close to them count."""
    volume = as_volume(drawn)
    grid = grid_over(volume, SPACING_ZYX_MM)
    near = ndimage.binary_dilation(drawn.lung, iterations=AROUND_LUNGS)
    mask, counts = (
        sample(replace(volume, hounsfield=field.astype(np.int16)), grid) > 0
        for field in (truth_of(drawn) > 0, near)
    )
    return Example(sample(volume, grid), mask, counts)


def write_chests(path: Path, chests: Sequence[Example]) -> None:
    """Write chests as a file that `read_chests` reads."""
    arrays: dict[str, NDArray[np.generic]] = {}
    for number, chest in enumerate(chests):
        for name in Example.__slots__:
            arrays[f"{name}_{number}"] = getattr(chest, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)  # type: ignore[arg-type]


def read_chests(path: Path) -> list[Example]:
    """Return the chests of a file; raises FileNotFoundError where it is not."""
    with np.load(path) as stored:
        count = len(stored.files) // len(Example.__slots__)
        return [
            Example(*(stored[f"{name}_{number}"] for name in Example.__slots__)) for number in range(count)
        ]


def main(arguments: list[str] | None = None) -> int:
    """Read the command line and write the chests."""
    options = build_parser("models.chests", __doc__, bodies=12).parse_args(arguments)
    kept, _ = read_held_apart(options.data, options.held_out)
    write_chests(options.out, list(draw_chests(kept, bodies=options.bodies, first=options.first)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
