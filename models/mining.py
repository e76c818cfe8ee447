"""What a trained segmenter makes of whole chests: where it is wrong, and how it centers what it finds.

`python -m models.mining --data DIR --out FILE.npz` lets the node search synthetic chests that no test uses,
half of them with nodules of LIDC-IDRI put in. It keeps a cube around each place that the classifiers would be
asked about, nodule or not (hard negatives; Felzenszwalb et al. 2010), and around each nodule that was missed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.detection import LEAST_RADIUS_MM, NODULES_EACH, REAL, SYNTHETIC, as_volume, draw_case, truth_of
from models.nodules import SIDE, SPACING_ZYX_MM, Voi, read_held_apart
from models.synthetic_nodules import Cube
from models.synthetic_volumes import build_parser, write_cubes
from node.domain.image import Volume
from node.engines.onnx import OnnxEngine
from node.engines.repository import ModelRepository
from node.imaging.grid import sample
from node.pipelines.chest_ct import ChestCt
from node.pipelines.chest_ct.judging import grid_around
from node.samples.tomography import CtSample

FIRST_SEED = 700_000
"""Bodies of mining; those of the cubes begin at 500 000, those of the tests at 900 000."""
FALSE, MISSED = "false", "missed"

Points = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """A point in the patient that was found, or missed; `nodule` is the number of the one there, or None."""

    center_xyz_mm: Points
    nodule: int | None
    is_found: bool


def find_places(found_xyz_mm: Points, centers_xyz_mm: Points, radii_mm: NDArray[np.float64]) -> list[Place]:
    """Return what was found, in its order, and then the nodules that nothing found lies within."""
    apart = np.linalg.norm(found_xyz_mm[:, None] - centers_xyz_mm[None], axis=2)
    is_hit = apart <= np.maximum(radii_mm, LEAST_RADIUS_MM)
    found = [
        Place(point, int(distances.argmin()) if hits.any() else None, is_found=True)
        for point, distances, hits in zip(found_xyz_mm, apart, is_hit, strict=True)
    ]
    missed = [
        Place(centers_xyz_mm[number], int(number), is_found=False)
        for number in np.flatnonzero(~is_hit.any(axis=0))
    ]
    return found + missed


def mine(drawn: CtSample, names: list[str], engine: OnnxEngine, pipeline: ChestCt) -> Iterator[Cube]:
    """Yield the cubes of one chest; `names` are the files of its real nodules, the last ones of its truth."""
    volume = as_volume(drawn)
    found = pipeline.search(volume, engine)
    if found is None:
        return
    truths = drawn.nodules
    spots = found.spots()[: pipeline.most_places]
    places = find_places(
        found.grid.to_patient(np.array([spot.center_zyx for spot in spots])),
        np.reshape([truth.center_xyz_mm for truth in truths], (-1, 3)),
        np.array([truth.diameter_mm / 2 for truth in truths]),
    )
    masks = replace(volume, hounsfield=255 * truth_of(drawn).astype(np.int16))
    sources = [""] * (len(truths) - len(names)) + names
    for place in places:
        kind = FALSE if place.nodule is None else truths[place.nodule].kind if place.is_found else MISSED
        diameter = 0.0 if place.nodule is None else truths[place.nodule].diameter_mm
        source = "" if place.nodule is None else sources[place.nodule]
        hounsfield, mask = (around(one, place.center_xyz_mm) for one in (volume, masks))
        inside = np.clip(mask, 0, 255).astype(np.uint8)
        yield hounsfield, inside, kind, np.float32(diameter), str(drawn.seed), source


def around(volume: Volume, center_xyz_mm: Points) -> NDArray[np.int16]:
    """Return a cube of SIDE voxels on the working grid around a point."""
    return sample(volume, grid_around(volume, center_xyz_mm, (SIDE, SIDE, SIDE), SPACING_ZYX_MM))


def mine_bodies(vois: list[Voi], repository: Path, *, bodies: int, first: int) -> Iterator[Cube]:
    """Yield the cubes of so many chests, every other one with real nodules, each nodule in one of them."""
    engine, pipeline = OnnxEngine(ModelRepository(repository), threads=1), ChestCt()
    order = np.random.default_rng(FIRST_SEED + first).permutation(len(vois)).tolist()
    for index in range(first, first + bodies):
        kind = (SYNTHETIC, REAL)[index % 2]
        chosen = [vois[order.pop()] for _ in range(NODULES_EACH if kind == REAL else 0)]
        drawn, placed = draw_case(FIRST_SEED + index, kind, chosen)
        cubes = list(mine(drawn, [one.voi.row.image.name for one in placed], engine, pipeline))
        kinds = [cube[2] for cube in cubes]
        print(
            f"{index} {kind}: {len(drawn.nodules)} nodules, missed {kinds.count(MISSED)}; "
            f"{kinds.count(FALSE)} false places",
            file=sys.stderr,
            flush=True,
        )
        yield from cubes


def main(arguments: list[str] | None = None) -> int:
    """Read the command line and write the cubes."""
    parser = build_parser("models.mining", __doc__, bodies=30)
    parser.add_argument("--repository", type=Path, default=Path("triton_repo"), help="holds the segmenter")
    parser.add_argument(
        "--held-out-patients",
        action="store_true",
        help="put in nodules of the patients held out: to calibrate",
    )
    options = parser.parse_args(arguments)
    vois = read_held_apart(options.data, options.held_out)[options.held_out_patients]
    made = list(mine_bodies(vois, options.repository, bodies=options.bodies, first=options.first))
    write_cubes(options.out, made, vois)
    return 0


if __name__ == "__main__":
    sys.exit(main())
