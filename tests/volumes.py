"""CT series to read as volumes: written small, changed slice by slice, and their truth."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset, FileDataset
from pydicom.tag import Tag

from node.domain.image import Volume
from node.domain.location import Frame
from node.domain.study import Instance, Series
from node.read.dataset import dataset_faults
from tests.sources import write_ct_series
from tests.synthetic.headers import uid
from tests.synthetic.stack import INTERCEPT_HU, make_stack

SERIES_UID = "2.25.1001"
PLANES, ROWS, COLUMNS = 12, 64, 48
Change = Callable[[Dataset], object]


def series_of(paths: Sequence[Path]) -> Series:
    """The files as a series that was received."""
    return Series("2.25.1000", SERIES_UID, tuple(map(_received, paths)), {})


def _received(path: Path) -> Instance:
    with dataset_faults(path.name):
        header = dcmread(path, stop_before_pixels=True, force=True)
    named = str(header.get("SOPInstanceUID", "")) or path.stem
    syntax = str(header.file_meta.get("TransferSyntaxUID", ""))
    return Instance(
        "2.25.1000", SERIES_UID, named, str(header.get("SOPClassUID", "")), syntax, "CT", path, ""
    )


def write_slices(folder: Path, *, arrangement: str = "axial", planes: int = PLANES) -> list[Path]:
    """A series of small slices in the order of their instance numbers."""
    return write_ct_series(folder, arrangement=arrangement, planes=planes, rows=ROWS, columns=COLUMNS).paths


def truth_hu(arrangement: str = "axial", planes: int = PLANES) -> NDArray[np.int16]:
    """The Hounsfield units of those slices, in the order of their instance numbers."""
    stack = make_stack(arrangement, planes, ROWS, COLUMNS)
    return np.stack([stack.stored(plane) + np.int16(INTERCEPT_HU) for plane in range(stack.planes)])


def change(path: Path, changing: Change | None = None, **attributes: object) -> Path:
    """Rewrite a slice with other attributes; None takes one away."""
    with dataset_faults(path.name):
        dataset = dcmread(path)
        give(dataset, **attributes)
        if changing:
            changing(dataset)
        _save(dataset, path)
    return path


def give(dataset: Dataset, **attributes: object) -> None:
    """Set attributes, padding as the signed or unsigned word that it is; None takes one away."""
    for keyword, value in attributes.items():
        if value is None:
            delattr(dataset, keyword)
        elif dictionary_VR(keyword) == "US or SS":
            dataset.add_new(Tag(keyword), "SS" if int(str(value)) < 0 else "US", value)
        else:
            setattr(dataset, keyword, value)


def change_all(paths: Sequence[Path], changing: Change | None = None, **attributes: object) -> Sequence[Path]:
    """Rewrite every slice in the same way."""
    for path in paths:
        change(path, changing, **attributes)
    return paths


def copy_of(path: Path, changing: Change | None = None, **attributes: object) -> Path:
    """Another instance beside a slice, of the same pixels unless they are changed."""
    number = len(list(path.parent.iterdir()))
    copy = path.with_name(f"{path.stem}-{number}.dcm")
    shutil.copyfile(path, copy)
    return change(copy, changing, SOPInstanceUID=uid("copy", path.name, number), **attributes)


def move(dataset: Dataset, offset_xyz_mm: Sequence[float]) -> None:
    """Shift a slice in the patient."""
    place = np.array(dataset.ImagePositionPatient, float) + offset_xyz_mm
    dataset.ImagePositionPatient = place.round(6).tolist()


def _save(dataset: FileDataset, path: Path) -> None:
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.get("SOPInstanceUID") or "2.25.1"
    dataset.save_as(path, enforce_file_format=True)


def numbers_of(volume: Volume, paths: Sequence[Path]) -> list[int]:
    """Which of these files the planes of a volume are."""
    number_by_uid = {
        str(dcmread(path, stop_before_pixels=True).SOPInstanceUID): number
        for number, path in enumerate(paths)
    }
    return [number_by_uid[frame.sop_instance_uid] for frame in volume.frames]


def make_volume(
    positions_mm: Sequence[float],
    shape_yx: tuple[int, int],
    spacing_yx_mm: tuple[float, float],
    *,
    tilt_rad: float = 0,
    field: Callable[[NDArray[np.float64]], NDArray[np.float64]] | None = None,
) -> Volume:
    """A volume along z at these positions of a field of patient points (…, 3) in Hounsfield units."""
    row, column = np.array([1.0, 0, 0]), np.array([0, np.cos(tilt_rad), np.sin(tilt_rad)])
    origins = np.array([[-20.0, -15.0, position] for position in positions_mm])
    units = np.zeros((len(origins), *shape_yx), np.int16)
    down = np.arange(shape_yx[0])[:, None, None] * spacing_yx_mm[0] * column
    across = np.arange(shape_yx[1])[None, :, None] * spacing_yx_mm[1] * row
    if field:
        for plane, origin in enumerate(origins):
            units[plane] = np.rint(field(origin + down + across))
    frames = tuple(Frame(f"2.25.{plane}") for plane in range(len(origins)))
    return Volume(frames, units, origins, row, column, spacing_yx_mm)
