"""One projection radiograph as the radiologist would see it: values, polarity, padding, spacing.

Pixels stay in the stored geometry, which is what viewers show and what overlays are drawn on.
"""

import atexit
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.pixels.utils import as_pixel_options, pixel_array
from pydicom.uid import UID, RLELossless

from node.domain.image import Image
from node.domain.study import Instance
from node.errors import PixelError
from node.header import UNDEFINED
from node.read.dataset import LIBRARY_ERRORS, pixel_faults, read_with_pixels
from node.read.display import Counts, Stored, display_table
from node.read.frame import check_frame_size
from node.read.isolation import DecoderProcess

# What makes gray values of stored ones.
DISPLAY_KEYWORDS = (
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "ModalityLUTSequence",
    "RescaleIntercept",
    "RescaleSlope",
    "VOILUTSequence",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "PresentationLUTShape",
)
KEYWORDS = (
    "SpecificCharacterSet",
    "ImagerPixelSpacing",
    "NominalScannedPixelSpacing",
    "EstimatedRadiographicMagnificationFactor",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "PixelSpacing",
    "PixelSpacingCalibrationType",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    *DISPLAY_KEYWORDS,
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    "FloatPixelData",
    "DoubleFloatPixelData",
    "PixelData",
)
# The largest detector today has 20 million pixels; decoding more would only serve an attacker.
MAX_PIXELS = 100_000_000
MAX_BITS = 16
# numpy widens words to 64-bit indices: part by part these stay in the processor's cache.
ROWS_AT_A_TIME = 128

# Starts with the first compressed image, and ends with the node.
_DECODER = DecoderProcess()
atexit.register(_DECODER.close)

Words = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class _Layout:
    rows: int
    columns: int
    stored: Stored


def read_projection(instance: Instance) -> Image:
    """Return the radiograph in 0–1, bright for dense, padding at 0 (PS3.3 C.11.1, C.11.2, C.11.6).

    Raises PixelError for pixels that are absent, in color, in several frames, too many, without any contrast,
    or not decodable; DatasetError for a file that cannot be read.
    """
    uid = instance.sop_instance_uid
    dataset = read_with_pixels(instance, KEYWORDS)
    with pixel_faults(uid):
        layout = _layout(uid, dataset)
        words = _decode(uid, dataset, layout)
        counts = _count(words, 1 << layout.stored.bits_allocated)
        table = display_table(dataset, layout.stored, counts)
        shown = table[np.flatnonzero(counts)]
        if shown.size == 0 or float(shown.min()) == float(shown.max()):
            raise PixelError(uid, "all pixels have the same value after LUT and window")
        spacing_yx_mm, attribute = _spacing(dataset)
        return Image(uid, _look_up(table, words), spacing_yx_mm, attribute)


def _layout(uid: str, dataset: Dataset) -> _Layout:
    """Return the shape of the stored pixels; raises PixelError for everything that is no plain radiograph."""
    if "PixelData" not in dataset:
        raise PixelError(uid, "there is no Pixel Data")
    _check_length(uid, dataset)
    photometric = str(dataset.get("PhotometricInterpretation", "")).strip()
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise PixelError(uid, f"Photometric Interpretation is {photometric or 'absent'}, expected grayscale")
    if (samples := int(dataset.get("SamplesPerPixel") or 1)) != 1:
        raise PixelError(uid, f"{samples} samples per pixel, expected 1")
    if (frames := int(dataset.get("NumberOfFrames") or 1)) != 1:
        raise PixelError(uid, f"{frames} frames, expected 1")
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    if not 0 < rows * columns <= MAX_PIXELS:
        raise PixelError(uid, f"{rows} × {columns} pixels, expected 1 to {MAX_PIXELS} in all")
    allocated, stored = int(dataset.BitsAllocated), int(dataset.BitsStored)
    high_bit = int(dataset.get("HighBit", stored - 1))
    if allocated not in (8, 16) or not 0 < stored <= high_bit + 1 <= allocated:
        bits = f"{stored} bits stored up to bit {high_bit} of {allocated}"
        raise PixelError(uid, f"{bits}, expected at most {MAX_BITS} bits within 8 or 16")
    is_native = not UID(dataset.file_meta.TransferSyntaxUID).is_encapsulated
    # Decoders of image codecs give values; only native and RLE words carry foreign bits, such as overlays.
    has_foreign_bits = is_native or dataset.file_meta.TransferSyntaxUID == RLELossless
    is_signed = int(dataset.get("PixelRepresentation", 0)) == 1
    return _Layout(rows, columns, Stored(allocated, stored, high_bit, is_signed, has_foreign_bits))


def _check_length(uid: str, dataset: Dataset) -> None:
    """Raise PixelError where the pixels would be longer than the file: room would be made for all of them."""
    element = cast(DataElement | RawDataElement, dataset.get_item("PixelData", keep_deferred=True))
    if not isinstance(element, RawDataElement) or element.value is not None or element.length == UNDEFINED:
        return
    size = Path(str(getattr(dataset, "filename", ""))).stat().st_size
    if element.length > size:
        reason = f"the pixel data cannot be decoded: {element.length} bytes in a file of {size}"
        raise PixelError(uid, reason)


def _decode(uid: str, dataset: Dataset, layout: _Layout) -> Words:
    """Return the stored words (rows, columns), unsigned: signs and unused bits are the table's matter."""
    syntax = UID(dataset.file_meta.TransferSyntaxUID)
    if syntax.is_encapsulated:
        check_frame_size(uid, dataset.PixelData, layout.rows, layout.columns)
        options = as_pixel_options(dataset, correct_unused_bits=False)
        pixels = _DECODER.decode(syntax, dataset.PixelData, options)
    else:
        pixels = pixel_array(dataset, raw=True, view_only=True, correct_unused_bits=False)
    if pixels.shape != (layout.rows, layout.columns) or pixels.dtype.itemsize not in (1, 2):
        found = f"{' × '.join(map(str, pixels.shape))} of {pixels.dtype}"
        raise PixelError(uid, f"decoded to {found}, expected {layout.rows} × {layout.columns}")
    if not pixels.dtype.isnative:
        pixels = pixels.astype(pixels.dtype.newbyteorder("="))
    return pixels.view(np.uint8) if pixels.dtype.itemsize == 1 else pixels.view(np.uint16)


def _count(words: Words, size: int) -> Counts:
    """Return how many pixels have each word."""
    counts = np.zeros(size, dtype=np.intp)
    for start in range(0, len(words), ROWS_AT_A_TIME):
        counts += np.bincount(words[start : start + ROWS_AT_A_TIME].reshape(-1), minlength=size)
    return counts


def _look_up(table: npt.NDArray[np.float32], words: Words) -> npt.NDArray[np.float32]:
    shown = np.empty(words.shape, dtype=np.float32)
    for start in range(0, len(words), ROWS_AT_A_TIME):
        part = slice(start, start + ROWS_AT_A_TIME)
        np.take(table, words[part], out=shown[part], mode="clip")
    return shown


def _spacing(dataset: Dataset) -> tuple[tuple[float, float] | None, str]:
    """Return (row, column) spacing in mm and the attributes it came from (PS3.3 10.7.1.3).

    Pixel Spacing that repeats Imager Pixel Spacing was not corrected for magnification and counts as the
    latter; that is divided by Estimated Radiographic Magnification Factor where it is given.
    """
    at_patient = _pair(dataset, "PixelSpacing")
    at_detector = _pair(dataset, "ImagerPixelSpacing")
    is_calibrated = bool(dataset.get("PixelSpacingCalibrationType"))
    if at_patient and (is_calibrated or at_patient != at_detector):
        return at_patient, "PixelSpacing"
    if at_detector:
        (factor,) = _numbers(dataset, "EstimatedRadiographicMagnificationFactor", 1) or (0.0,)
        if factor < 1:
            return at_detector, "ImagerPixelSpacing"
        y, x = at_detector
        return (y / factor, x / factor), "ImagerPixelSpacing/EstimatedRadiographicMagnificationFactor"
    scanned = _pair(dataset, "NominalScannedPixelSpacing")
    return scanned, "NominalScannedPixelSpacing" if scanned else ""


def _pair(dataset: Dataset, keyword: str) -> tuple[float, float] | None:
    numbers = _numbers(dataset, keyword, 2)
    return (numbers[0], numbers[1]) if numbers and min(numbers) > 0 else None


def _numbers(dataset: Dataset, keyword: str, count: int) -> Sequence[float] | None:
    """Return exactly `count` finite numbers, or None: a damaged spacing is an unknown one."""
    try:
        value = dataset.get(keyword)
        values = [float(one) for one in ([value] if count == 1 else value)]
    except LIBRARY_ERRORS:
        return None
    return values if len(values) == count and all(map(math.isfinite, values)) else None
