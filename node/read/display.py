"""From a stored word to what is shown: one table for all pixels, as a word has at most 16 bits.

Working on the table instead of the image makes each step of the grayscale pipeline exact and nearly free:
65536 values in float64 in place of millions.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.uid import UID

from node.domain.image import Window
from node.read.dataset import LIBRARY_ERRORS

Values = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.intp]

# Where no window is given: what a technologist would set, without a few dead pixels or a marker.
LOW_PERCENT = 0.5
HIGH_PERCENT = 99.5


@dataclass(frozen=True, slots=True)
class Stored:
    """How a value lies in its word (PS3.5 section 8.1.1); foreign bits are overlays or rubbish beside it."""

    bits_allocated: int
    bits_stored: int
    high_bit: int
    is_signed: bool
    has_foreign_bits: bool


def display_table(dataset: Dataset, stored: Stored, counts: Counts) -> npt.NDArray[np.float32]:
    """Return what each word shows, 0–1: modality LUT, VOI LUT or window, polarity, padding at 0.

    `counts` says how many pixels have each word. Raises ValueError for a LUT or window function that cannot
    be applied.
    """
    values = stored_values(stored)
    is_padding = padding(dataset, stored, values)
    shown = apply_voi(dataset, apply_modality(dataset, values), np.where(is_padding, 0, counts))
    if is_inverse(dataset):
        shown = 1 - shown
    shown[is_padding] = 0
    return shown.astype(np.float32)


def show_in(header: Dataset, window: Window) -> None:
    """Let a window stand in a header, in place of every other one, and of VOI LUTs (PS3.3 C.11.2)."""
    for keyword in ("VOILUTSequence", "VOILUTFunction"):
        header.pop(keyword, None)
    header.WindowCenter, header.WindowWidth = window.center, window.width


def stored_values(stored: Stored) -> npt.NDArray[np.int32]:
    """Return the value of each word, 0 to the largest."""
    words = np.arange(1 << stored.bits_allocated, dtype=np.int32)
    bits = stored.bits_allocated
    if stored.has_foreign_bits:
        bits = stored.bits_stored
        words = (words >> (stored.high_bit + 1 - bits)) & ((1 << bits) - 1)
    return _signed(words, bits) if stored.is_signed else words


def padding(dataset: Dataset, stored: Stored, values: npt.NDArray[np.int32]) -> Mask:
    """Return which words are padding: Pixel Padding Value, to Range Limit where given (PS3.3 C.7.5.1.1.2)."""
    limits = [dataset.get(keyword) for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    ends = [int(limit) for limit in limits if limit is not None and limit != ""]
    if not ends or limits[0] in (None, ""):
        return np.zeros(values.shape, dtype=np.bool_)
    # Writers mix up US and SS: 63536 and -2000 are the same word.
    masked = np.array(ends, dtype=np.int64).astype(np.uint16).astype(np.int32)
    ends = list(_signed(masked, 16) if stored.is_signed else masked)
    return (values >= min(ends)) & (values <= max(ends))


def apply_modality(dataset: Dataset, values: npt.NDArray[np.int32]) -> Values:
    """Return the values after Modality LUT Sequence, or Rescale Slope and Intercept (PS3.3 C.11.1)."""
    if items := dataset.get("ModalityLUTSequence"):
        entries, _ = lookup(dataset, items[0], values.astype(np.float64))
        return entries
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    if slope in (None, "") or intercept in (None, ""):
        return values.astype(np.float64)
    return values.astype(np.float64) * float(slope) + float(intercept)


def apply_voi(dataset: Dataset, values: Values, counts: Counts) -> Values:
    """Return 0–1 after the first VOI LUT, else the first window, else percentiles (PS3.3 C.11.2)."""
    for item in dataset.get("VOILUTSequence") or ():
        if item.get("LUTDescriptor") is not None and item.get("LUTData") is not None:
            entries, bits = lookup(dataset, item, values)
            return entries / ((1 << bits) - 1)
    window = _window(dataset)
    if window is None:
        return _between_percentiles(values, counts)
    function = str(dataset.get("VOILUTFunction") or "LINEAR").strip().upper()
    if function not in WINDOW_FUNCTIONS:
        raise ValueError(f"VOI LUT Function {function} is not known")
    return WINDOW_FUNCTIONS[function](values, *window)


def linear(values: Values, center: float, width: float) -> Values:
    """Return the window of PS3.3 C.11.2.1.2.1, whose ends are half a step and one step in."""
    if width == 1:
        return np.where(values <= center - 0.5, 0.0, 1.0)
    return np.clip((values - (center - 0.5)) / (width - 1) + 0.5, 0, 1)


def linear_exact(values: Values, center: float, width: float) -> Values:
    """Return the window of PS3.3 C.11.2.1.3.2."""
    return np.clip((values - center) / width + 0.5, 0, 1)


def sigmoid(values: Values, center: float, width: float) -> Values:
    """Return the window of PS3.3 C.11.2.1.3.1."""
    # Beyond 50 the result is 0 or 1 to the last bit, and exp would overflow.
    return np.asarray(1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -50, 50))), dtype=np.float64)


WINDOW_FUNCTIONS: Mapping[str, Callable[[Values, float, float], Values]] = MappingProxyType(
    {"LINEAR": linear, "LINEAR_EXACT": linear_exact, "SIGMOID": sigmoid}
)


def is_inverse(dataset: Dataset) -> bool:
    """Return whether low values are shown bright.

    MONOCHROME1 and Presentation LUT Shape INVERSE say the same thing, so both together invert once. IDENTITY
    beside MONOCHROME1 is a known fault of some writers and does not undo it.
    """
    shape = str(dataset.get("PresentationLUTShape") or "").strip().upper()
    photometric = str(dataset.get("PhotometricInterpretation") or "").strip()
    return photometric == "MONOCHROME1" or shape == "INVERSE"


def lookup(dataset: Dataset, item: Dataset, values: Values) -> tuple[Values, int]:
    """Return the LUT's entry for each value, first and last beyond its ends, and the bits of an entry."""
    descriptor = item.LUTDescriptor
    length = int(descriptor[0]) & 0xFFFF or 1 << 16
    first, bits = int(descriptor[1]), int(descriptor[2])
    if not 1 <= bits <= 16:
        raise ValueError(f"LUT with entries of {bits} bits")
    if first >= 1 << 15 and values.min() < 0:
        first -= 1 << 16
    entries = _entries(dataset, item, length)
    return entries[np.clip(np.rint(values) - first, 0, length - 1).astype(np.intp)], bits


def _entries(dataset: Dataset, item: Dataset, length: int) -> Values:
    """Return `length` LUT entries, from numbers (US) or from bytes (OW), one or two bytes each."""
    data = item.LUTData
    if isinstance(data, bytes):
        order = "<" if UID(dataset.file_meta.TransferSyntaxUID).is_little_endian else ">"
        is_wide = len(data) >= 2 * length
        entries = np.frombuffer(data, dtype=f"{order}u2" if is_wide else "u1", count=length)
    else:
        entries = np.atleast_1d(np.array(data, dtype=np.int64))[:length] & 0xFFFF
    if len(entries) != length:
        raise ValueError(f"LUT with {len(entries)} entries, its descriptor says {length}")
    return entries.astype(np.float64)


def _window(dataset: Dataset) -> tuple[float, float] | None:
    """Return center and width of the first window; None where there is none that can be applied."""
    try:
        center, width = (_first(dataset.get(keyword)) for keyword in ("WindowCenter", "WindowWidth"))
    except LIBRARY_ERRORS:
        return None
    is_linear = str(dataset.get("VOILUTFunction") or "LINEAR").strip().upper() == "LINEAR"
    is_usable = np.isfinite([center, width]).all() and width > 0 and (width >= 1 or not is_linear)
    return (center, width) if is_usable else None


def _first(value: object) -> float:
    """Return the first of one or several numbers; raises TypeError or ValueError where there is none."""
    return float(value[0] if hasattr(value, "__getitem__") and not isinstance(value, str) else value)  # type: ignore[arg-type]


def _between_percentiles(values: Values, counts: Counts) -> Values:
    order = np.argsort(values, kind="stable")
    share = np.cumsum(counts[order]) / max(int(counts.sum()), 1)
    low, high = (
        values[order[np.searchsorted(share, percent / 100)]] for percent in (LOW_PERCENT, HIGH_PERCENT)
    )
    return np.clip((values - low) / (high - low), 0, 1) if high > low else np.zeros(values.shape)


def _signed(words: npt.NDArray[np.int32], bits: int) -> npt.NDArray[np.int32]:
    """Return two's complement of `bits` bits."""
    sign = np.int32(1 << (bits - 1))
    return ((words & np.int32((1 << bits) - 1)) ^ sign) - sign
