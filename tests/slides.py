"""Slides as series, whole and damaged, and with their tiles compressed."""

import struct
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.uid import JPEGBaseline8Bit

from node.domain.study import Instance, Series
from tests.received import jpeg, received
from tests.results import save


def series_of(paths: Iterable[Path]) -> Series:
    """The series that these files make."""
    instances = tuple(map(received, paths))
    return made_of(*instances)


def made_of(*instances: Instance) -> Series:
    """The series that these instances make."""
    return Series(instances[0].study_instance_uid, instances[0].series_instance_uid, instances, {})


def tiles_of(dataset: Dataset) -> list[np.ndarray]:
    """The tiles of an uncompressed level, in the order of its frames."""
    shape = -1, dataset.Rows, dataset.Columns, 3
    size = int(dataset.NumberOfFrames) * dataset.Rows * dataset.Columns * 3
    return list(np.frombuffer(dataset.PixelData[:size], np.uint8).reshape(shape))


def compress(
    dataset: Dataset,
    *,
    options: dict[str, object] | None = None,
    change: Callable[[list[bytes]], list[bytes]] = list,
    fragments: int = 1,
    has_table: bool = True,
    is_extended: bool = False,
) -> None:
    """Store the tiles as JPEG; `change` may damage the streams."""
    streams = change([jpeg(tile, options or {}) for tile in tiles_of(dataset)])
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset.PhotometricInterpretation = "YBR_FULL_422"
    if is_extended:
        pixels, dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths = encapsulate_extended(
            streams
        )
        dataset.PixelData = pixels
    elif all(streams):
        dataset.PixelData = encapsulate(streams, fragments_per_frame=fragments, has_bot=has_table)
    else:
        # By hand: pydicom writes no item without bytes.
        items = [b"", *(stream + bytes(len(stream) % 2) for stream in streams)]
        dataset.PixelData = b"".join(b"\xfe\xff\x00\xe0" + struct.pack("<I", len(one)) + one for one in items)
    dataset["PixelData"].is_undefined_length = True


def cut(path: Path, folder: Path, *, bytes_left: int) -> Instance:
    """The instance of a file that ends too early."""
    shorter = folder / f"cut-{path.name}"
    shorter.write_bytes(path.read_bytes()[:bytes_left])
    return received(shorter)


def pixel_start(path: Path) -> int:
    """Where the value of Pixel Data begins in a file in Explicit VR."""
    with path.open("rb") as file:
        dcmread(file, stop_before_pixels=True)
        return file.tell() + 12


def concatenated(path: Path, folder: Path, sizes: Sequence[int]) -> list[Instance]:
    """A level cut into parts of so many frames each (PS3.3 C.7.6.16.2.2.4)."""
    whole = dcmread(path)
    tiles = tiles_of(whole)
    first, instances = 0, []
    for number, size in enumerate(sizes, 1):
        part = dcmread(path)
        part.SOPInstanceUID = part.file_meta.MediaStorageSOPInstanceUID = (
            f"{whole.SOPInstanceUID[:50]}.{number}"
        )
        part.ConcatenationUID = f"{whole.SOPInstanceUID[:50]}.99"
        part.SOPInstanceUIDOfConcatenationSource = whole.SOPInstanceUID
        part.InConcatenationNumber, part.InConcatenationTotalNumber = number, len(sizes)
        part.ConcatenationFrameOffsetNumber, part.NumberOfFrames = first, size
        if "PerFrameFunctionalGroupsSequence" in part:
            groups = part.PerFrameFunctionalGroupsSequence[first : first + size]
            part.PerFrameFunctionalGroupsSequence = groups
        part.PixelData = b"".join(tile.tobytes() for tile in tiles[first : first + size])
        instances.append(received(save(part, folder / f"part-{number}.dcm")))
        first += size
    return instances
