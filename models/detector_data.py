"""Films for the detectors: synthetic with lesions, real with lung boxes, real and normal.

What a film says nothing of is marked on it: a real one with lung boxes is not known to be free of lesions.
Synthetic films are drawn once and kept below runs/; all are prepared as for serving.
"""

from __future__ import annotations

import csv
import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models import film_clutter
from models.data import CACHE, DataFolderError, read_prepared, read_rows, to_bytes
from models.film_clutter import Field, add_clutter, draw_field
from models.slide_data import one_thread
from node.imaging import intensity
from node.imaging.intensity import prepare_radiograph
from node.samples import anatomy, lesion_places, lesions, opacities, projection, shapes, thorax
from node.samples.lesions import lesion_radiograph
from node.samples.thorax import Radiograph, thorax_radiograph

LESIONS = ("Nodule", "Mass", "Consolidation")
RIGHT_LUNG, LEFT_LUNG = "Right lung", "Left lung"
CLASSES = (*LESIONS, RIGHT_LUNG, LEFT_LUNG)
LABEL_BY_CLASS = {name: number for number, name in enumerate(CLASSES, start=1)}
"""0 is the background, and the padding of a detector's answer."""

SIZE = 512
# Far from each other and from the small seeds of the demo and the tests.
TRAIN_SEED, TEST_SEED, CALIBRATION_SEED, TUNING_SEED = 810_000, 820_000, 830_000, 840_000
THORAX_SEED = 850_000
DRAWING = (shapes, anatomy, projection, thorax, opacities, lesion_places, lesions, intensity, film_clutter)

FREE_LICENCES = ("CC0", "CC BY", "CC BY 3.0", "CC BY 4.0")
"""Of the images that may train what is shipped."""
LUNG_BY_CLASS = {"right_lung": RIGHT_LUNG, "left_lung": LEFT_LUNG}


@dataclass(frozen=True, slots=True, eq=False)
class Film:
    """One square picture and what is known to be on it.

    `pixels` (s, s) uint8; `boxes` (n, 4) float32, left, top, right, bottom in its pixels, and `labels` (n,)
    int64 of `LABEL_BY_CLASS`, the lesions first; `subtlety`, `size_mm` (n,) float32 and `places` (n,) as in
    node.samples.thorax.LesionTruth, NaN and "" for lungs. `group` names the patient, or the body.
    """

    pixels: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    subtlety: NDArray[np.float32]
    size_mm: NDArray[np.float32]
    places: NDArray[np.str_]
    is_lesion_labelled: bool
    is_lung_labelled: bool
    group: str

    def __post_init__(self) -> None:
        """Refuse parts of different lengths and boxes that hold nothing or leave the picture."""
        lengths = {len(part) for part in (self.boxes, self.labels, self.subtlety, self.size_mm, self.places)}
        if len(lengths) != 1 or self.boxes.shape[1:] != (4,):
            raise DataFolderError(f"{self.group}: boxes of shape {self.boxes.shape}, parts of {lengths}")
        is_whole = (self.boxes[:, 2:] > self.boxes[:, :2]).all() and (self.boxes >= 0).all()
        if not is_whole or (self.boxes > self.pixels.shape[0]).any():
            raise DataFolderError(f"{self.group}: a box is empty or leaves the picture")

    def __len__(self) -> int:
        """Return the number of boxes."""
        return len(self.boxes)

    @property
    def is_lesion(self) -> NDArray[np.bool_]:
        """Which boxes (n,) are lesions."""
        return self.labels <= len(LESIONS)


def load_films(count: int, first_seed: int, *, size: int = SIZE, workers: int = 1) -> list[Film]:
    """Return synthetic films of consecutive seeds, every other one with 1–4 lesions, all with lung boxes.

    Kept below runs/, so that another run only reads them. So many `workers` are processes beside this one; a
    single one is this process itself.
    """
    return _load("films", range(first_seed, first_seed + count), size, workers)


def load_thorax_films(count: int, first_seed: int, *, size: int = SIZE, workers: int = 1) -> list[Film]:
    """Return films as the classifiers learn from, every other with one consolidation, also large ones.

    Their lungs have no boxes. Kept and drawn as those of `load_films`.
    """
    return _load("thoraxes", range(first_seed, first_seed + count), size, workers)


def _load(kind: str, seeds: Sequence[int], size: int, workers: int) -> list[Film]:
    folder = CACHE / f"{kind}-{size}-{version()}"
    folder.mkdir(parents=True, exist_ok=True)
    missing = [seed for seed in seeds if not (folder / f"{seed}.npz").is_file()]
    write = partial(_write_film, kind, size=size, folder=folder)
    if workers > 1 and missing:
        # Spawned, for a fork of a process that PyTorch has given threads can hang.
        with one_thread(), ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            list(pool.map(write, missing, chunksize=4))
    else:
        for seed in missing:
            write(seed)
    return [read_film(folder / f"{seed}.npz") for seed in seeds]


def has_lesions(seed: int) -> bool:
    """Return whether the film of a seed is drawn with lesions."""
    return seed % 2 == 1


def draw_film(seed: int, size: int = SIZE) -> Film:
    """Return the synthetic film of a seed: cut to a field as they come, with letters and cables on some."""
    radiograph = lesion_radiograph(seed, count=None if has_lesions(seed) else 0)
    random = np.random.default_rng([seed, 1])
    field = draw_field(random, radiograph)
    rows, columns = field.slices()
    pixels = add_clutter(random, radiograph, field)[rows, columns]
    return as_film(prepare_radiograph(pixels, size), radiograph, field)


def draw_thorax_film(seed: int, size: int = SIZE) -> Film:
    """Return the synthetic film of a seed with a consolidation or nothing, whole, with letters on some."""
    radiograph = thorax_radiograph(seed, finding="consolidation" if has_lesions(seed) else None, size=size)
    rows, columns = radiograph.pixels.shape
    pixels = add_clutter(np.random.default_rng([seed, 1]), radiograph, Field(0, 0, columns, rows))
    box = radiograph.truth.box_xyxy_px
    count = int(box is not None)
    return Film(
        pixels=to_bytes(prepare_radiograph(pixels, size)),
        boxes=np.asarray(box or [], np.float32).reshape(-1, 4),
        labels=np.full(count, LABEL_BY_CLASS["Consolidation"], np.int64),
        subtlety=np.full(count, np.nan, np.float32),
        size_mm=np.full(count, radiograph.truth.diameter_mm or np.nan, np.float32),
        places=np.full(count, "thorax"),
        is_lesion_labelled=True,
        is_lung_labelled=False,
        group=f"synthetic-{seed}",
    )


def as_film(prepared: NDArray[np.float32], radiograph: Radiograph, field: Field) -> Film:
    """Return a prepared radiograph, of which only a field was taken, with its truth."""
    truth = radiograph.truth
    lungs = truth.lung_boxes_xyxy_px or ()
    edges = [one.box_xyxy_px for one in truth.lesions] + list(lungs)
    names = [one.kind.capitalize() for one in truth.lesions] + [RIGHT_LUNG, LEFT_LUNG][: len(lungs)]
    unknown = [np.nan] * len(lungs)
    return Film(
        pixels=to_bytes(prepared),
        boxes=field.scale_boxes(np.asarray(edges, np.float32).reshape(-1, 4), len(prepared)),
        labels=np.asarray([LABEL_BY_CLASS[name] for name in names], np.int64),
        subtlety=np.asarray([one.subtlety for one in truth.lesions] + unknown, np.float32),
        size_mm=np.asarray([one.size_mm for one in truth.lesions] + unknown, np.float32),
        places=np.asarray([one.place for one in truth.lesions] + [""] * len(lungs), np.str_),
        is_lesion_labelled=True,
        is_lung_labelled=bool(lungs),
        group=f"synthetic-{radiograph.seed}",
    )


def read_lung_films(
    directory: Path, *, split: str, size: int = SIZE, licences: Sequence[str] | None = FREE_LICENCES
) -> list[Film]:
    """Return the real radiographs with lung boxes drawn by people; whether they show lesions is not known.

    `directory` holds labels.csv and boxes.csv; raises DataFolderError where it does not. Those of any licence
    where `licences` is None: they may be measured on, but train nothing that is shipped.
    """
    lines = {line["file"]: line for line in _read_table(directory / "labels.csv")}
    boxes: dict[str, dict[str, Mapping[str, str]]] = defaultdict(dict)
    for line in _read_table(directory / "boxes.csv"):
        is_free = licences is None or lines[line["file"]]["licence"] in licences
        if line["split"] == split and is_free:
            boxes[line["file"]][LUNG_BY_CLASS[line["class"]]] = line
    return [_lung_film(directory / file, both, lines[file]["group"], size) for file, both in boxes.items()]


def _lung_film(path: Path, box_by_lung: Mapping[str, Mapping[str, str]], group: str, size: int) -> Film:
    with Image.open(path) as image:
        columns, rows = image.size
    names = [name for name in (RIGHT_LUNG, LEFT_LUNG) if name in box_by_lung]
    corners = [[float(box_by_lung[name][key]) for key in ("x", "y", "width", "height")] for name in names]
    left, top, width, height = np.asarray(corners, np.float32).reshape(-1, 4).T
    edges = np.stack([left, top, left + width, top + height], axis=1)
    boxes = Field(0, 0, columns, rows).scale_boxes(edges, size)
    labels = np.asarray([LABEL_BY_CLASS[name] for name in names], np.int64)
    return _real_film(path, group, boxes, labels, size=size)


def read_normal_films(directory: Path, *, split: str, size: int = SIZE) -> list[Film]:
    """Return the kermany radiographs of a split that readers found normal: no lesion, lungs unmarked."""
    return _kermany_films(directory, split, size, is_normal=True)


def read_pneumonia_films(directory: Path, *, split: str, size: int = SIZE) -> list[Film]:
    """Return the kermany radiographs of a split with pneumonia; where it is nobody has marked."""
    films = _kermany_films(directory, split, size, is_normal=False)
    return [replace(film, is_lesion_labelled=False) for film in films]


def _kermany_films(directory: Path, split: str, size: int, *, is_normal: bool) -> list[Film]:
    none = np.empty((0, 4), np.float32), np.empty(0, np.int64)
    return [
        _real_film(directory / row.file, row.group, *none, size=size)
        for row in read_rows(directory, split=split, dataset="kermany")
        if is_normal is not any(row.targets)
    ]


def _real_film(
    path: Path, group: str, boxes: NDArray[np.float32], labels: NDArray[np.int64], *, size: int
) -> Film:
    unknown = np.full(len(boxes), np.nan, np.float32)
    return Film(
        pixels=to_bytes(read_prepared(path, size)),
        boxes=boxes,
        labels=labels,
        subtlety=unknown,
        size_mm=unknown,
        places=np.full(len(boxes), "", np.str_),
        is_lesion_labelled=not len(boxes),
        is_lung_labelled=len(boxes) == len(LUNG_BY_CLASS),
        group=group,
    )


def _read_table(table: Path) -> list[dict[str, str]]:
    if not table.is_file():
        raise DataFolderError(f"no {table.name} in {table.parent}")
    with table.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def _write_film(kind: str, seed: int, *, size: int, folder: Path) -> None:
    draw = draw_film if kind == "films" else draw_thorax_film
    write_film(folder / f"{seed}.npz", draw(seed, size))


def write_film(path: Path, film: Film) -> None:
    """Write a film; whole or not at all."""
    part = path.with_suffix(".part.npz")
    np.savez(part, **{name: getattr(film, name) for name in Film.__slots__})
    part.replace(path)


def read_film(path: Path) -> Film:
    """Return a film that was written by `write_film`."""
    with np.load(path) as stored:
        values = {name: stored[name] for name in Film.__slots__}
    flags = {name: bool(values[name]) for name in ("is_lesion_labelled", "is_lung_labelled")}
    return Film(**{**values, **flags, "group": str(values["group"])})


def version() -> str:
    """Return what changes where the code that draws films does."""
    sources = [Path(str(module.__file__)) for module in DRAWING]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]
