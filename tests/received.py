"""Files as they would have been received, honest ones and others, and what they should show."""

import warnings
from collections.abc import Callable, Iterator
from io import BytesIO
from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image as Picture
from pydicom import Dataset, dcmread

from node.domain.study import Instance
from tests.results import save
from tests.synthetic.slide import LEVELS
from tests.synthetic.slide import TILE as TILE_PX
from tests.synthetic.slide import Level as SyntheticLevel


def received(path: Path) -> Instance:
    """The file as it would have been received."""
    header = dcmread(path, stop_before_pixels=True, force=True)
    syntax = str(header.file_meta.get("TransferSyntaxUID", ""))
    with warnings.catch_warnings():
        # UIDs of the real slide are too long.
        warnings.simplefilter("ignore")
        uids = (header.StudyInstanceUID, header.SeriesInstanceUID, header.SOPInstanceUID, header.SOPClassUID)
    return Instance(*map(str, uids), syntax, header.get("Modality", "CR"), path, "")


def changed(path: Path, folder: Path, change: Callable[[Dataset], object]) -> Instance:
    """The instance of a file that is like this one but for the change."""
    dataset = dcmread(path)
    change(dataset)
    return received(save(dataset, folder / f"{len(list(folder.iterdir()))}.dcm"))


def colors(number: int = 0) -> np.ndarray:
    """A level of the synthetic slide."""
    return SyntheticLevel(number, *LEVELS[number]).picture()


def assert_shows(pixels: np.ndarray, picture: np.ndarray) -> None:
    assert pixels.dtype == np.float32
    assert pixels.shape == picture.shape
    assert np.array_equal(np.rint(255 * pixels), picture)


def tile_corners(*, by_column: bool = False) -> list[tuple[int, int]]:
    rows, columns, _ = LEVELS[0]
    corners = list(product(range(0, rows, TILE_PX), range(0, columns, TILE_PX)))
    return sorted(corners, key=lambda corner: corner[::-1]) if by_column else corners


def tiles(*, by_column: bool = False) -> Iterator[np.ndarray]:
    picture = colors()
    for row, column in tile_corners(by_column=by_column):
        yield picture[row : row + TILE_PX, column : column + TILE_PX]


def jpeg(tile: np.ndarray, options: dict[str, object]) -> bytes:
    stream = BytesIO()
    Picture.fromarray(tile).save(stream, "JPEG", quality=95, **options)
    return stream.getvalue()


def without_jfif(stream: bytes) -> bytes:
    assert stream[2:4] == b"\xff\xe0"
    return stream[:2] + stream[4 + int.from_bytes(stream[4:6], "big") :]
