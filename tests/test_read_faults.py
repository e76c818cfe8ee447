from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEGBaseline8Bit,
)

from node.errors import DatasetError, PixelError
from node.read.picture import read_picture
from tests import datasets
from tests.received import changed, jpeg, received, tiles
from tests.sources import (
    Written,
    write_ct_series,
    write_enhanced_ct,
    write_slide,
)
from tests.synthetic.slide import TILE as TILE_PX


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return write_ct_series(tmp_path_factory.mktemp("series"))


@pytest.fixture(scope="module")
def enhanced(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return write_enhanced_ct(tmp_path_factory.mktemp("enhanced"))


@pytest.fixture(scope="module", params=["TILED_FULL", "TILED_SPARSE"])
def slide(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Written:
    return write_slide(tmp_path_factory.mktemp(request.param), organization=request.param)


@pytest.fixture(scope="module")
def full_slide(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return write_slide(tmp_path_factory.mktemp("full"))


SPARSE = "TILED_SPARSE"
FAULTS: dict[str, tuple[str, Callable[[Dataset], object], str]] = {
    "no pixels": ("ct", lambda ds: ds.pop("PixelData"), "no Pixel Data"),
    "no rows": ("ct", lambda ds: ds.__setattr__("Rows", 0), "0 × 48 pixels"),
    "too many rows": (
        "ct",
        lambda ds: (setattr(ds, "Rows", 65535), setattr(ds, "Columns", 65535)),
        "65535 × 65535",
    ),
    "rows that are not there": ("ct", lambda ds: ds.__setattr__("Rows", 128), "cannot be decoded"),
    "odd bits": ("ct", lambda ds: ds.__setattr__("BitsAllocated", 12), "of 12, expected at most 16 bits"),
    "more bits than words": ("ct", lambda ds: ds.__setattr__("BitsStored", 17), "17 bits stored"),
    "palette": (
        "ct",
        lambda ds: ds.__setattr__("PhotometricInterpretation", "PALETTE COLOR"),
        "PALETTE COLOR",
    ),
    "negative frames": ("enhanced", lambda ds: ds.__setattr__("NumberOfFrames", -4), "-4 frames"),
    "frames that are not there": (
        "enhanced",
        lambda ds: ds.__setattr__("NumberOfFrames", 4),
        "no frame 12, but 4",
    ),
    "more frames than data": (
        "enhanced",
        lambda ds: ds.__setattr__("PixelData", ds.PixelData[:6144]),
        "cannot be decoded",
    ),
    "no matrix": ("slide", lambda ds: ds.__setattr__("TotalPixelMatrixRows", 0), "0 × 768 pixels"),
    "tiles of one pixel": (
        "slide",
        lambda ds: (setattr(ds, "Rows", 1), setattr(ds, "Columns", 1)),
        "frames, expected at most",
    ),
    "too few tiles": ("slide", lambda ds: ds.__setattr__("NumberOfFrames", 90), "90 tiles, expected 8 × 12"),
    "deep colors": (
        "slide",
        lambda ds: deepen(ds),
        "16 of 16 bits a color",
    ),
    "a tile outside": (SPARSE, lambda ds: move(ds, 513), "a tile at row 513"),
    "a tile before the first": (SPARSE, lambda ds: move(ds, -5), "a tile at row -5"),
    "a tile without a row": (SPARSE, lambda ds: move(ds, None), "cannot be decoded"),
}
WRITERS: dict[str, Callable[[Path], Written]] = {
    "ct": write_ct_series,
    "enhanced": write_enhanced_ct,
    "slide": write_slide,
    SPARSE: lambda folder: write_slide(folder, organization=SPARSE),
}


def deepen(dataset: Dataset) -> None:
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15


def move(dataset: Dataset, row: int | None) -> None:
    position = dataset.PerFrameFunctionalGroupsSequence[3].PlanePositionSlideSequence[0]
    position.RowPositionInTotalImagePixelMatrix = row


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {shape: write(tmp_path_factory.mktemp(shape)).paths[0] for shape, write in WRITERS.items()}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_lying_header_is_named(fault: str, honest: dict[str, Path], tmp_path: Path) -> None:
    shape, spoil, message = FAULTS[fault]
    instance = changed(honest[shape], tmp_path, spoil)

    with pytest.raises(PixelError, match=message):
        read_picture(instance, 12 if shape == "enhanced" else None)


def test_a_frame_must_be_named_where_there_are_several(enhanced: Written) -> None:
    with pytest.raises(PixelError, match="12 frames, and none of them is named"):
        read_picture(received(enhanced.paths[0]))


@pytest.mark.parametrize("number", [-1, 0, 13])
def test_a_frame_that_is_not_there_is_refused(number: int, enhanced: Written) -> None:
    with pytest.raises(PixelError, match=f"no frame {number}"):
        read_picture(received(enhanced.paths[0]), number)


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (b"\xff\xd8 no jpeg at all", "cannot be decoded"),
        (bytes(2), "cannot be decoded"),
        (None, "1000 × 64 pixels"),
    ],
)
def test_a_tile_that_is_no_picture_ends_nothing_but_the_reading(
    stream: bytes | None, message: str, full_slide: Written, tmp_path: Path
) -> None:
    large = jpeg(np.zeros((1000, TILE_PX, 3), np.uint8), {})

    def spoil(dataset: Dataset) -> None:
        streams = [jpeg(tile, {}) for tile in tiles()]
        streams[40] = large if stream is None else stream
        dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
        dataset.PixelData = encapsulate(streams)
        dataset["PixelData"].is_undefined_length = True

    with pytest.raises(PixelError, match=message):
        read_picture(changed(full_slide.paths[0], tmp_path, spoil))


def test_a_file_that_is_no_dicom_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rubbish.dcm").write_bytes(b"rubbish" * 1000)

    with pytest.raises((DatasetError, PixelError)):
        read_picture(replace(datasets.instance(tmp_path / "rubbish.dcm"), modality="CT"))
