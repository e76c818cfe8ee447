"""Cubes of synthetic thorax CTs for training: nodules, and what is easily taken for one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from models.nodules import SPACING_ZYX_MM, Voi
from models.placing import draw_places, place
from node.samples import tomography
from node.samples.ct_body import MAP_MM
from node.samples.scanner import Scan
from node.samples.shapes import Point
from node.samples.tomography import CtBody, CtSample, axial, ct_body, draw_nodules, scan_box

FIRST_SEED = 500_000
"""Bodies of training; those of the tests are far from them (models.detection)."""
NODULES_EACH, REAL_EACH, NEGATIVES_EACH = 10, 6, 14
APART_MM = 14.0
"""From a nodule to the middle of a cube that is to show none."""
FORK, WALL, BRONCHUS, LUNG = "fork", "wall", "bronchus", "lung"

Points = NDArray[np.float64]

Cube = tuple[NDArray[np.int16], NDArray[np.uint8], str, np.float32, str, str]
"""HU on the working grid and a mask (0 or 255) of all nodules in it, both (s, s, s).

Then what is in the middle, a kind of nodule ("solid", "real", …) or FORK, WALL, BRONCHUS, LUNG; the nodule's
diameter in mm, 0 where there is none; the body; the file of a real nodule, else empty.
"""


def draw_cubes(index: int, vois: Sequence[Voi], side: int) -> Iterator[Cube]:
    """Yield about 30 cubes of one body, in some 3 s; without `vois` no real nodule is among them."""
    seed = FIRST_SEED + index
    body = ct_body(seed)
    random = np.random.default_rng([seed, 2])
    # Small ones are the hard ones, and the most.
    sizes = np.exp(random.uniform(np.log(3.5), np.log(25), NODULES_EACH)).tolist()
    nodules = draw_nodules(body, 0, diameters_mm=sizes)
    centers = [one.center_xyz_mm for one in nodules]
    for number, center in enumerate(centers):
        sample = _scan(body, center, random, nodules, (side, number))
        truth = sample.nodules[number]
        yield _cube(sample, truth.kind, truth.diameter_mm)
    for number, voi in enumerate(_chosen(vois, random)):
        for one in draw_places(body, [voi], random):
            sample = place(_scan(body, one.center_xyz_mm, random, (), (side, 100 + number)), [one])
            yield _cube(sample, "real", sample.nodules[-1].diameter_mm, voi.row.image.name)
    for number, (kind, center) in enumerate(_negatives(body, random, np.reshape(centers, (-1, 3)))):
        yield _cube(_scan(body, center, random, nodules, (side, 200 + number)), kind, 0.0)


def _chosen(vois: Sequence[Voi], random: np.random.Generator) -> list[Voi]:
    count = min(REAL_EACH, len(vois))
    return [vois[index] for index in random.choice(len(vois), count, replace=False)] if count else []


def draw_scan(random: np.random.Generator) -> Scan:
    """Return a kernel and a dose as they come."""
    dose = float(np.exp(random.uniform(np.log(0.15), np.log(2.0))))
    return Scan("sharp" if random.random() < 0.3 else "soft", dose)


def _scan(
    body: CtBody,
    center: Point,
    random: np.random.Generator,
    nodules: Sequence[tomography.Nodule],
    cube: tuple[int, int],
) -> CtSample:
    side, number = cube
    near = axial(body, SPACING_ZYX_MM, (side, side, side), center_xyz_mm=center)
    return scan_box(body, near, nodules=nodules, scan=draw_scan(random), noise_seed=number)


def _cube(sample: CtSample, kind: str, diameter_mm: float, source: str = "") -> Cube:
    mask = np.zeros(sample.hounsfield.shape, dtype=np.uint8)
    for truth in sample.nodules:
        mask[truth.box_zyx][truth.mask] = 255
    return sample.hounsfield, mask, kind, np.float32(diameter_mm), str(sample.seed), source


def _negatives(body: CtBody, random: np.random.Generator, nodules: Points) -> list[tuple[str, Point]]:
    """Return places that show no nodule in the middle, most of them forks of vessels and bumps of walls."""
    vessels, bronchi = body.trees.vessels, body.trees.bronchi
    is_wide = vessels.radii[:, 1] > 0.8
    pools = {
        FORK: vessels.ends[is_wide],
        BRONCHUS: bronchi.ends,
        WALL: _wall_points(body),
        LUNG: np.asarray(body.map_origin_xyz_mm) + MAP_MM * np.argwhere(body.lung_map)[:, ::-1],
    }
    places = []
    for kind in random.choice(list(pools), NEGATIVES_EACH * 3, p=[0.45, 0.15, 0.3, 0.1]):
        center = pools[kind][int(random.integers(len(pools[kind])))]
        gaps = np.linalg.norm(nodules - center, axis=1)
        if gaps.min(initial=np.inf) > APART_MM and (kind == WALL or bool(body.is_lung(center))):
            places.append((str(kind), (float(center[0]), float(center[1]), float(center[2]))))
    return places[:NEGATIVES_EACH]


def _wall_points(body: CtBody) -> Points:
    """Return the outermost points of both lungs."""
    lung = body.lung_map
    inner = lung.copy()
    for axis in range(3):
        for step in (-1, 1):
            inner &= np.roll(lung, step, axis)
    return np.asarray(np.asarray(body.map_origin_xyz_mm) + MAP_MM * np.argwhere(lung & ~inner)[:, ::-1])
