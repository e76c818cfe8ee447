"""Cubes of synthetic chest CT in the shape of the nodules of LIDC-IDRI, to learn from both alike.

`python -m models.synthetic_volumes --data DIR --out FILE.npz` draws them once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from models.nodules import (
    HELD_OUT,
    SIDE,
    Nodules,
    Row,
    Voi,
    read_held_apart,
    scores_of,
)
from models.synthetic_nodules import Cube, draw_cubes


def make_cubes(directory: Path, path: Path, *, bodies: int, first: int, held_out: float) -> None:
    """Write the cubes of so many synthetic bodies to `path` (.npz).

    Real nodules among them are those of the training split of `directory`, less the patients held out.
    """
    vois, _ = read_held_apart(directory, held_out)
    made = [cube for index in range(first, first + bodies) for cube in draw_cubes(index, vois, SIDE)]
    write_cubes(path, made, vois)


def write_cubes(path: Path, made: Sequence[Cube], vois: Sequence[Voi]) -> None:
    """Write cubes as a file that `read_cubes` reads; `vois` are the real nodules that they may hold."""
    set_of = as_nodules(made, {voi.row.image.name: voi.row for voi in vois})
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **{name: getattr(set_of, name) for name in Nodules.__slots__})


def as_nodules(made: Sequence[Cube], row_by_name: Mapping[str, Row]) -> Nodules:
    """Return drawn cubes as a set to learn from: malignancy and scores are known of real nodules alone."""
    hounsfield, masks, _, diameters, bodies, sources = zip(*made, strict=True)
    rows = [row_by_name.get(source) for source in sources]
    return Nodules(
        np.stack(hounsfield),
        np.stack(masks),
        bounds=np.broadcast_to([0, SIDE], (len(made), 3, 2)).astype(np.int64),
        malign=np.array([row.is_malign if row else np.nan for row in rows], dtype=np.float32),
        diameters_mm=np.array(diameters, dtype=np.float32),
        scores=np.stack([scores_of(row) for row in rows]),
        groups=np.array(
            [row.patient if row else f"synthetic-{body}" for row, body in zip(rows, bodies, strict=True)]
        ),
        is_nodule=np.array(diameters) > 0,
    )


def read_cubes(path: Path) -> Nodules:
    """Return the cubes of a file; raises FileNotFoundError where it is not."""
    with np.load(path) as stored:
        return Nodules(**stored)


def build_parser(module: str, description: str | None, *, bodies: int) -> argparse.ArgumentParser:
    """Return the command line of what draws so many synthetic bodies with nodules of LIDC-IDRI."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    parser.add_argument("--data", type=Path, required=True, help="the folder of real nodules")
    parser.add_argument("--out", type=Path, required=True, help="the file to write (.npz)")
    parser.add_argument("--bodies", type=int, default=bodies)
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--held-out", type=float, default=HELD_OUT)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Read the command line and write the cubes."""
    options = build_parser("models.synthetic_volumes", __doc__, bodies=25).parse_args(arguments)
    make_cubes(
        options.data, options.out, bodies=options.bodies, first=options.first, held_out=options.held_out
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
