"""Labelled radiographs as arrays: folders with a labels.csv, and synthetic samples."""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from node.imaging.intensity import prepare_radiograph
from node.samples import thorax
from node.samples.thorax import thorax_radiograph

CLASSES = ("Pneumonia", "Bacterial pneumonia", "Viral pneumonia")
COLUMNS = ("file", "dataset", "label", "label_detail", "group", "split")
UNKNOWN = float("nan")
# (label, label_detail) of a table's row to a truth per class; rows with other labels are not used.
TARGETS_BY_LABEL: dict[tuple[str, str], tuple[float, float, float]] = {
    ("normal", "normal"): (0.0, 0.0, 0.0),
    ("pneumonia", "bacteria"): (1.0, 1.0, 0.0),
    ("pneumonia", "bacterial"): (1.0, 1.0, 0.0),
    ("pneumonia", "virus"): (1.0, 0.0, 1.0),
    ("pneumonia", "viral"): (1.0, 0.0, 1.0),
    ("pneumonia", ""): (1.0, UNKNOWN, UNKNOWN),
}
CACHE = Path("runs/cache")
# One choice of calibration patients for every run: weights of one run may then start another.
HOLD_OUT_SEED = 20
SYNTHETIC_FINDINGS = (None, "consolidation")
TARGETS_BY_FINDING: dict[str | None, tuple[float, float, float]] = {
    None: (0.0, 0.0, 0.0),
    "consolidation": (1.0, UNKNOWN, UNKNOWN),
}
SYNTHETIC_SIZE = 320
# Far from the small seeds of the demo and the tests, which must show bodies that no network has seen.
SYNTHETIC_TRAIN_SEED = 100_000
SYNTHETIC_TEST_SEED = 200_000


class DataFolderError(ValueError):
    """A data folder cannot be used; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Radiographs:
    """Prepared radiographs with their truth.

    `pixels` (n, size, size) uint8; `labels` (n, classes) and `boxes` (n, 4: x, y, x, y, parts of the image's
    side, around the finding) are NaN where unknown; `groups` (n,) names the patients.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.float32]
    boxes: NDArray[np.float32]
    groups: NDArray[np.str_]
    version: str

    def __post_init__(self) -> None:
        """Refuse parts of different lengths."""
        if not len(self.pixels) == len(self.labels) == len(self.boxes) == len(self.groups):
            raise DataFolderError("pixels, labels, boxes and groups differ in length")

    def __len__(self) -> int:
        """Return the number of radiographs."""
        return len(self.pixels)

    def subset(self, chosen: NDArray[np.bool_]) -> Radiographs:
        """Return the radiographs where `chosen` is true."""
        return Radiographs(
            self.pixels[chosen], self.labels[chosen], self.boxes[chosen], self.groups[chosen], self.version
        )


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a labels.csv that has a truth for our classes."""

    file: str
    group: str
    targets: tuple[float, float, float]


def read_rows(directory: Path, *, split: str, dataset: str) -> list[Row]:
    """Return the usable rows of `directory`/labels.csv; raises DataFolderError with what is wrong."""
    if not directory.is_dir():
        raise DataFolderError(f"no such folder: {directory}")
    table = directory / "labels.csv"
    lines = [line for line in _read_lines(table) if line["dataset"] == dataset]
    if not lines:
        raise DataFolderError(f"{table} has no rows of dataset {dataset!r}")
    splits = sorted({line["split"] for line in lines})
    if split not in splits:
        known = ", ".join(splits)
        raise DataFolderError(f"{table} has no split {split!r} of dataset {dataset!r}; it has {known}")
    rows = [
        Row(line["file"], line["group"], TARGETS_BY_LABEL[key])
        for line in lines
        if line["split"] == split and (key := _label(line)) in TARGETS_BY_LABEL
    ]
    if not rows:
        known = ", ".join(sorted({label for label, _ in TARGETS_BY_LABEL}))
        raise DataFolderError(f"{table}: no row of split {split!r} has one of the labels {known}")
    absent = [row.file for row in rows if not (directory / row.file).is_file()]
    if absent:
        raise DataFolderError(f"{len(absent)} files of {table} are missing, first {absent[0]}")
    return rows


def _read_lines(table: Path) -> list[dict[str, str]]:
    if not table.is_file():
        raise DataFolderError(f"no labels.csv in {table.parent}")
    with table.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        titles = reader.fieldnames or []
        missing = [name for name in COLUMNS if name not in titles]
        if missing:
            raise DataFolderError(
                f"{table} lacks the columns {', '.join(missing)}; it has {', '.join(titles)}"
            )
        return list(reader)


def _label(line: dict[str, str]) -> tuple[str, str]:
    return line["label"].strip().lower(), (line["label_detail"] or "").strip().lower()


def load_radiographs(directory: Path, *, split: str, size: int, dataset: str = "kermany") -> Radiographs:
    """Return one split of a data folder, prepared as for serving and kept as uint8 (cached below runs/)."""
    rows = read_rows(directory, split=split, dataset=dataset)
    version = _version(directory / "labels.csv", (f"{row.file}{row.targets}" for row in rows))
    path = CACHE / f"{dataset}-{split}-{size}-{version}.npy"
    if path.is_file():
        pixels = np.load(path)
    else:
        pixels = np.stack([to_bytes(read_prepared(directory / row.file, size)) for row in rows])
        CACHE.mkdir(parents=True, exist_ok=True)
        np.save(path, pixels)
    labels = np.array([row.targets for row in rows], dtype=np.float32)
    boxes = np.full((len(rows), 4), np.nan, dtype=np.float32)
    return Radiographs(pixels, labels, boxes, np.array([row.group for row in rows]), version)


def read_prepared(path: Path, size: int) -> NDArray[np.float32]:
    """Return one image file as the network takes it; raises OSError where it cannot be read."""
    with Image.open(path) as image:
        return prepare_radiograph(np.asarray(image.convert("L")), size)


def _version(table: Path, entries: Iterable[str]) -> str:
    digest = hashlib.sha256(table.read_bytes())
    for entry in entries:
        digest.update(entry.encode())
    return digest.hexdigest()[:12]


def to_bytes(pixels: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return 0–1 pixels as uint8."""
    return np.round(pixels * 255.0).astype(np.uint8)


def to_unit(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return uint8 pixels as float32 in 0–1."""
    return pixels.astype(np.float32) / np.float32(255.0)


def concatenate(parts: Sequence[Radiographs]) -> Radiographs:
    """Return several sets as one."""
    return Radiographs(
        np.concatenate([part.pixels for part in parts]),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.boxes for part in parts]),
        np.concatenate([part.groups for part in parts]),
        "+".join(part.version for part in parts),
    )


def hold_out(radiographs: Radiographs, fraction: float, seed: int) -> tuple[Radiographs, Radiographs]:
    """Return (kept, held out): about `fraction` of the patients held out, nobody in both."""
    patients = np.unique(radiographs.groups)
    chosen = np.random.default_rng(seed).permutation(patients)[: round(fraction * len(patients))]
    is_held_out = np.isin(radiographs.groups, chosen)
    return radiographs.subset(~is_held_out), radiographs.subset(is_held_out)


def synthetic_radiographs(count: int, *, size: int, first_seed: int) -> Radiographs:
    """Return `count` synthetic thoraxes (cached below runs/), each body once normal and once consolidated.

    Twins of one body, so that only the consolidation tells them apart. Nodules are left out: whether one is
    a pneumonia is unknown. A consolidation is a pneumonia of unknown kind.
    """
    version = _generator_version()
    path = CACHE / f"synthetic-{first_seed}-{count}-{size}-{version}.npz"
    cases = [(first_seed + index // 2, SYNTHETIC_FINDINGS[index % 2], size) for index in range(count)]
    if not path.is_file():
        # Processes: a body takes a third of a second, and a training wants hundreds. Spawned, for a fork of
        # a process that PyTorch has given threads can hang.
        workers = min(os.cpu_count() or 1, 1 + count // 32)
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            made = list(pool.map(synthetic_radiograph, *zip(*cases, strict=True), chunksize=8))
        CACHE.mkdir(parents=True, exist_ok=True)
        pixels = np.stack([to_bytes(image) for image, _ in made])
        np.savez(path, pixels=pixels, boxes=np.array([box for _, box in made], dtype=np.float32))
    labels = np.array([TARGETS_BY_FINDING[finding] for _, finding, _ in cases], dtype=np.float32)
    groups = np.array([f"synthetic-{seed}" for seed, _, _ in cases])
    with np.load(path) as stored:
        return Radiographs(stored["pixels"], labels, stored["boxes"], groups, f"thorax-{version}")


def synthetic_radiograph(
    seed: int, finding: str | None, size: int
) -> tuple[NDArray[np.float32], tuple[float, ...]]:
    """Return one synthetic thorax, prepared as for serving, and the box of its finding (NaN without one)."""
    made = thorax_radiograph(seed, finding=finding, size=SYNTHETIC_SIZE)
    edges = made.truth.box_xyxy_px or (UNKNOWN,) * 4
    return prepare_radiograph(made.pixels, size), tuple(edge / SYNTHETIC_SIZE for edge in edges)


def _generator_version() -> str:
    sources = sorted(Path(thorax.__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:12]
