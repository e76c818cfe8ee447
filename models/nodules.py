"""The nodules of LIDC-IDRI as cubes on the working grid: HU, the radiologists' mask, their opinions."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name its own documentation uses
from numpy.typing import NDArray

from models.data import CACHE, HOLD_OUT_SEED, DataFolderError

SPACING_ZYX_MM = (1.0, 1.0, 1.0)
"""Chosen for exact quarter turns: of the masks, a median Dice of 0.98 survives this grid and the way back."""
SIDE = 64
HELD_OUT = 0.12
CLASSES = ("Nodule", "Malignant")
SCORES = (
    "malignancy",
    "calcification",
    "lobulation",
    "margin",
    "sphericity",
    "spiculation",
    "subtlety",
    "texture",
)
LARGEST_SCORE = 6.0
COLUMNS = ("image", "mask", "patient_id", "split", "label_value", "diameter_mm")
INDETERMINATE = 3


@dataclass(frozen=True, slots=True)
class Row:
    """One nodule of labels.csv; `scores` are those of SCORES, as the radiologists gave them."""

    image: Path
    mask: Path
    patient: str
    is_malign: bool
    diameter_mm: float
    scores: tuple[float, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Voi:
    """One volume of interest as it was cut out: HU and mask (z, y, x), spacing, row."""

    row: Row
    hounsfield: NDArray[np.int16]
    mask: NDArray[np.bool_]
    spacing_zyx_mm: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Nodules:
    """Nodules on the working grid, each in the middle of a cube of SIDE voxels.

    `hounsfield` (n, s, s, s) int16; `masks` (n, s, s, s) uint8, 0 to 255 for the part of a voxel inside;
    `bounds` (n, 3, 2) the voxels that the volume of interest covers, outside of which nothing is known;
    `malign` (0 or 1), `diameters_mm`, `scores` (n, SCORES) are NaN where unknown; `groups` the patients;
    `is_nodule` whether there is one in the middle.
    """

    hounsfield: NDArray[np.int16]
    masks: NDArray[np.uint8]
    bounds: NDArray[np.int64]
    malign: NDArray[np.float32]
    diameters_mm: NDArray[np.float32]
    scores: NDArray[np.float32]
    groups: NDArray[np.str_]
    is_nodule: NDArray[np.bool_]

    def __len__(self) -> int:
        """Return the number of nodules."""
        return len(self.malign)

    def subset(self, chosen: NDArray[np.bool_] | NDArray[np.intp]) -> Nodules:
        """Return the chosen nodules."""
        return Nodules(*(getattr(self, name)[chosen] for name in self.__slots__))

    @property
    def is_indeterminate(self) -> NDArray[np.bool_]:
        """Of each whether the radiologists called its malignancy indeterminate."""
        return np.asarray(self.scores[:, SCORES.index("malignancy")] == INDETERMINATE)


def read_rows(directory: Path, *, split: str) -> list[Row]:
    """Return the nodules of one split of `directory`/labels.csv; DataFolderError says what is wrong."""
    table = directory / "labels.csv"
    if not table.is_file():
        raise DataFolderError(f"no labels.csv in {directory}")
    with table.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        wanted = [*COLUMNS, *(f"{name}_value" for name in SCORES)]
        if missing := [name for name in wanted if name not in (reader.fieldnames or [])]:
            raise DataFolderError(f"{table} lacks the columns {', '.join(missing)}")
        rows = [_row(directory, line) for line in reader if line["split"] == split]
    if not rows:
        raise DataFolderError(f"{table} has no rows of split {split!r}")
    if absent := [row.image for row in rows if not (row.image.is_file() and row.mask.is_file())]:
        raise DataFolderError(f"{len(absent)} nodules of {table} are missing, first {absent[0]}")
    return rows


def _row(directory: Path, line: dict[str, str]) -> Row:
    return Row(
        image=directory / line["image"],
        mask=directory / line["mask"],
        patient=line["patient_id"],
        is_malign=line["label_value"] == "1",
        diameter_mm=float(line["diameter_mm"]),
        scores=tuple(float(line[f"{name}_value"]) for name in SCORES),
    )


def scores_of(row: Row | None) -> NDArray[np.float32]:
    """Return the scores of a nodule, or NaN for what nobody has scored."""
    return np.array(row.scores if row else [np.nan] * len(SCORES), dtype=np.float32)


def concatenate(parts: Sequence[Nodules]) -> Nodules:
    """Return several sets as one."""
    return Nodules(*(np.concatenate([getattr(one, name) for one in parts]) for name in Nodules.__slots__))


def read_voi(row: Row) -> Voi:
    """Return one nodule as it is in its files."""
    image, mask = (sitk.ReadImage(str(path)) for path in (row.image, row.mask))
    spacing = np.array(image.GetSpacing()[::-1], dtype=np.float64)
    return Voi(
        row,
        sitk.GetArrayFromImage(image).astype(np.int16),
        sitk.GetArrayFromImage(mask) > 0,
        spacing,
    )


def center_of(voi: Voi) -> NDArray[np.float64]:
    """Return the middle of the mask's bounding box, in voxels of the volume of interest."""
    places = np.argwhere(voi.mask)
    return np.asarray((places.min(axis=0) + places.max(axis=0)) / 2.0)


def to_grid(
    values: NDArray[np.generic],
    voi: Voi,
    center: NDArray[np.float64],
    shape: tuple[int, int, int] = (SIDE,) * 3,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return values on the working grid in a window around a place, and the bounds of what is known there.

    Linear between voxels. Beyond the volume of interest, by half a voxel at most, its edge goes on.
    """
    spacing, start = np.array(SPACING_ZYX_MM), _start(voi, center, shape)
    sampled = _resample(values, (voi.spacing_zyx_mm, np.zeros(3)), (spacing, start), shape)
    ends = np.stack([np.full(3, -0.5), np.array(values.shape) - 0.5], axis=1)
    known = (ends * voi.spacing_zyx_mm[:, None] - start[:, None]) / spacing[:, None]
    bounds = np.clip(np.ceil(known - 1e-6), 0, np.array(shape)[:, None]).astype(np.int64)
    return sampled, bounds


def from_grid(values: NDArray[np.generic], voi: Voi, center: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return values of a window around a place on the voxels of the volume of interest, linear between."""
    shape = (values.shape[0], values.shape[1], values.shape[2])
    window = (np.array(SPACING_ZYX_MM), _start(voi, center, shape))
    z, y, x = voi.hounsfield.shape
    return _resample(values, window, (voi.spacing_zyx_mm, np.zeros(3)), (z, y, x))


def _start(voi: Voi, center: NDArray[np.float64], shape: tuple[int, int, int]) -> NDArray[np.float64]:
    """Return where a window's first voxel is, in mm from the first voxel of the volume of interest."""
    return np.asarray(center * voi.spacing_zyx_mm - (np.array(shape) - 1) / 2.0 * SPACING_ZYX_MM)


Placement = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Spacing and place of the first voxel, both z, y, x in mm."""


def _resample(
    values: NDArray[np.generic], source: Placement, target: Placement, shape: tuple[int, int, int]
) -> NDArray[np.float32]:
    image = sitk.GetImageFromArray(values.astype(np.float32))
    image.SetSpacing(source[0][::-1].tolist())
    image.SetOrigin(source[1][::-1].tolist())
    resampler = sitk.ResampleImageFilter()
    resampler.SetSize(shape[::-1])
    resampler.SetOutputSpacing(target[0][::-1].tolist())
    resampler.SetOutputOrigin(target[1][::-1].tolist())
    resampler.SetInterpolator(sitk.sitkLinear)
    resampler.UseNearestNeighborExtrapolatorOn()
    return np.asarray(sitk.GetArrayFromImage(resampler.Execute(image)))


def load_nodules(directory: Path, *, split: str) -> Nodules:
    """Return one split of the folder on the working grid (cached below runs/)."""
    rows = read_rows(directory, split=split)
    grid = repr((SPACING_ZYX_MM, SIDE, "masks end with the volume of interest")).encode()
    digest = hashlib.sha256((directory / "labels.csv").read_bytes() + grid)
    path = CACHE / f"nodules-{split}-{digest.hexdigest()[:12]}.npz"
    if not path.is_file():
        made = [_cube(read_voi(row)) for row in rows]
        hounsfield, masks, bounds = (np.stack(part) for part in zip(*made, strict=True))
        CACHE.mkdir(parents=True, exist_ok=True)
        np.savez(path, hounsfield=hounsfield, masks=masks, bounds=bounds)
    with np.load(path) as stored:
        return Nodules(
            stored["hounsfield"],
            stored["masks"],
            stored["bounds"],
            malign=np.array([row.is_malign for row in rows], dtype=np.float32),
            diameters_mm=np.array([row.diameter_mm for row in rows], dtype=np.float32),
            scores=np.stack([scores_of(row) for row in rows]),
            groups=np.array([row.patient for row in rows]),
            is_nodule=np.ones(len(rows), dtype=np.bool_),
        )


def _cube(voi: Voi) -> tuple[NDArray[np.int16], NDArray[np.uint8], NDArray[np.int64]]:
    center = center_of(voi)
    hounsfield, bounds = to_grid(voi.hounsfield, voi, center)
    mask, _ = to_grid(voi.mask, voi, center)
    known = tuple(slice(*ends) for ends in bounds)
    # A nodule that touches the last slice of its volume of interest ends there.
    cut = np.zeros_like(mask)
    cut[known] = mask[known]
    return np.round(hounsfield).astype(np.int16), np.round(cut * 255.0).astype(np.uint8), bounds


def hold_out(nodules: Nodules, fraction: float, seed: int = HOLD_OUT_SEED) -> tuple[Nodules, Nodules]:
    """Return (kept, held out): about `fraction` of the patients held out, nobody in both."""
    patients = np.unique(nodules.groups)
    chosen = np.random.default_rng(seed).permutation(patients)[: round(fraction * len(patients))]
    is_held_out = np.isin(nodules.groups, chosen)
    return nodules.subset(~is_held_out), nodules.subset(is_held_out)


def read_held_apart(directory: Path, fraction: float) -> tuple[list[Voi], list[Voi]]:
    """Return the nodules of the training split as they are in their files: (kept, held out)."""
    parts = hold_out(load_nodules(directory, split="train"), fraction)
    rows = read_rows(directory, split="train")
    kept, held_out = ([read_voi(row) for row in rows if row.patient in set(part.groups)] for part in parts)
    return kept, held_out
