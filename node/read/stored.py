"""The frames of an instance as they are stored: taken from the file one by one, decoded, never read whole."""

import atexit
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames, get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import as_pixel_options
from pydicom.uid import UID, RLELossless

from node.domain.study import Instance
from node.errors import PixelError
from node.read.color import COLOR, to_rgb
from node.read.display import Stored
from node.read.frame import check_frame_size
from node.read.isolation import DecoderPool

KEYWORDS = (
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    "PixelData",
)
GRAY = frozenset({"MONOCHROME1", "MONOCHROME2"})
MAX_PIXELS = 25_000_000
"""In one frame: no slice and no tile has more, and decoding more would only serve an attacker."""

Words = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
Colors = npt.NDArray[np.uint8]

DECODERS = min(4, os.cpu_count() or 1)
"""Frames that are decoded at a time, at most; each has a process of some 60 MB."""

# Starts with the first compressed frame, and ends with the node.
_DECODER = DecoderPool(DECODERS)
atexit.register(_DECODER.close)


@dataclass(frozen=True, slots=True)
class Layout:
    """The shape of the frames: their number, their size, and how a sample lies in its word."""

    frames: int
    rows: int
    columns: int
    samples: int
    photometric: str
    stored: Stored

    @property
    def frame_bytes(self) -> int:
        """How many bytes an uncompressed frame has."""
        values = self.rows * self.columns * self.samples
        # Two pixels share their chrominance (PS3.3 C.7.6.3.1.2).
        values = values * 2 // 3 if self.photometric == "YBR_FULL_422" else values
        return values * self.stored.bits_allocated // 8


class StoredFrames:
    """The frames of one instance; `dataset` holds KEYWORDS, its pixel data may still be in the file."""

    def __init__(self, instance: Instance, dataset: Dataset) -> None:
        """Raise PixelError where the header does not describe gray words or 8-bit colors."""
        self._instance = instance
        self._dataset = dataset
        self._syntax = UID(dataset.file_meta.TransferSyntaxUID)
        self.layout = _layout(instance.sop_instance_uid, dataset, self._syntax)

    def words(self, number: int) -> Words:
        """Return the stored words (rows, columns) of a gray frame (from 1), unsigned."""
        if self.layout.samples != 1:
            raise PixelError(self._uid, "the frame is in color, expected grayscale")
        words = self._decode(self._encoded(number))
        return words.view(np.uint8) if words.dtype.itemsize == 1 else words.view(np.uint16)

    def colors(self, number: int) -> Colors:
        """Return a color frame (from 1) in RGB, (rows, columns, 3)."""
        return self.colors_of(self._encoded(number))

    def all_colors(self) -> Iterator[Colors]:
        """Yield the color frames in their order."""
        with _pixel_data(self._instance, self._dataset) as data:
            for encoded in self._all_encoded(data):
                yield self.colors_of(encoded)

    def colors_of(self, encoded: bytes) -> Colors:
        """Return what the stored bytes of a color frame decode to, in RGB."""
        if self.layout.samples != 3:
            raise PixelError(self._uid, "the frame is grayscale, expected color")
        samples = self._decode(encoded).view(np.uint8)
        return to_rgb(samples, encoded, self.layout.photometric, self._syntax)

    @property
    def _uid(self) -> str:
        return self._instance.sop_instance_uid

    def _encoded(self, number: int) -> bytes:
        if not 1 <= number <= self.layout.frames:
            raise PixelError(self._uid, f"there is no frame {number}, but {self.layout.frames} in all")
        with _pixel_data(self._instance, self._dataset) as data:
            if self._syntax.is_encapsulated:
                frames, offsets = self.layout.frames, _offsets(self._dataset)
                return get_frame(data, number - 1, number_of_frames=frames, extended_offsets=offsets)
            data.seek((number - 1) * self.layout.frame_bytes, 1)
            return data.read(self.layout.frame_bytes)

    def _all_encoded(self, data: BinaryIO) -> Iterator[bytes]:
        frames = self.layout.frames
        if self._syntax.is_encapsulated:
            offsets = _offsets(self._dataset)
            yield from generate_frames(data, number_of_frames=frames, extended_offsets=offsets)
            return
        for _ in range(frames):
            yield data.read(self.layout.frame_bytes)

    def _decode(self, encoded: bytes) -> npt.NDArray[Any]:
        """Return one frame, (rows, columns) or (rows, columns, samples), of one or two bytes a sample."""
        options = as_pixel_options(self._dataset, number_of_frames=1, correct_unused_bits=False)
        options.pop("extended_offsets", None)
        if self._syntax.is_encapsulated:
            item = encapsulate([encoded], has_bot=False)
            check_frame_size(self._uid, item, self.layout.rows, self.layout.columns)
            pixels = _DECODER.decode(self._syntax, item, options)
        else:
            options |= {
                "pixel_keyword": "PixelData",
                "pixel_vr": self._dataset.get_item("PixelData", keep_deferred=True).VR or "OW",
            }
            pixels, _ = get_decoder(self._syntax).as_array(encoded, index=0, raw=True, **options)
        expected = (self.layout.rows, self.layout.columns, self.layout.samples)[
            : 2 + (self.layout.samples > 1)
        ]
        itemsize = self.layout.stored.bits_allocated // 8
        if pixels.shape != expected or pixels.dtype.itemsize != itemsize:
            raise PixelError(self._uid, f"decoded to {pixels.shape} of {pixels.dtype}, expected {expected}")
        return pixels if pixels.dtype.isnative else pixels.astype(pixels.dtype.newbyteorder("="))


def _layout(uid: str, dataset: Dataset, syntax: UID) -> Layout:
    if "PixelData" not in dataset:
        raise PixelError(uid, "there is no Pixel Data")
    photometric = str(dataset.get("PhotometricInterpretation", "")).strip()
    samples = int(dataset.get("SamplesPerPixel") or 1)
    if (samples, photometric) not in {(1, one) for one in GRAY} | {(3, one) for one in COLOR}:
        raise PixelError(uid, f"{samples} samples per pixel in {photometric or 'no known color'}")
    frames, rows, columns = int(dataset.get("NumberOfFrames") or 1), int(dataset.Rows), int(dataset.Columns)
    if frames < 1 or not 0 < rows * columns <= MAX_PIXELS:
        raise PixelError(
            uid, f"{frames} frames of {rows} × {columns} pixels, expected 1 to {MAX_PIXELS} in each"
        )
    stored = _stored(uid, dataset, syntax)
    if samples == 3 and (stored.bits_allocated, stored.bits_stored) != (8, 8):
        raise PixelError(uid, f"{stored.bits_stored} of {stored.bits_allocated} bits a color, expected 8")
    return Layout(frames, rows, columns, samples, photometric, stored)


def _stored(uid: str, dataset: Dataset, syntax: UID) -> Stored:
    allocated, stored = int(dataset.BitsAllocated), int(dataset.BitsStored)
    high_bit = int(dataset.get("HighBit", stored - 1))
    if allocated not in (8, 16) or not 0 < stored <= high_bit + 1 <= allocated:
        bits = f"{stored} bits stored up to bit {high_bit} of {allocated}"
        raise PixelError(uid, f"{bits}, expected at most 16 bits within 8 or 16")
    # Decoders of image codecs give values; only native and RLE words carry foreign bits, such as overlays.
    has_foreign_bits = not syntax.is_encapsulated or syntax == RLELossless
    return Stored(
        allocated, stored, high_bit, int(dataset.get("PixelRepresentation", 0)) == 1, has_foreign_bits
    )


def _offsets(dataset: Dataset) -> tuple[bytes, bytes] | None:
    if "ExtendedOffsetTable" not in dataset or "ExtendedOffsetTableLengths" not in dataset:
        return None
    return dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths


@contextmanager
def _pixel_data(instance: Instance, dataset: Dataset) -> Iterator[BinaryIO]:
    """Give the value of Pixel Data as a stream from its first byte, from the file where it was left there."""
    element = cast(DataElement | RawDataElement, dataset.get_item("PixelData", keep_deferred=True))
    if isinstance(element, DataElement) or element.value is not None:
        yield BytesIO(element.value or b"")
        return
    with instance.path.open("rb") as file:
        file.seek(element.value_tell)
        yield file
