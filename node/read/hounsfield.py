"""From stored words to Hounsfield units: by arithmetic in place where that is exact, else by a table."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from node.domain.image import PADDING_HU
from node.read.display import Stored, stored_values

HIGHEST_HU = 32767
WORD_VALUES = 1 << 16
PLAIN_INTERCEPT = 16384
"""Up to here neither end of what is added to leaves 16 bits."""

Voxels = npt.NDArray[np.int16]
Words = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class Scale:
    """How a word becomes Hounsfield units; `padding` are the lowest and highest stored value of padding."""

    stored: Stored
    slope: float
    intercept: float
    padding: tuple[int, int] | None = None

    @property
    def is_plain(self) -> bool:
        """Is an addition to 16-bit words all there is to do?"""
        is_shift = self.slope == 1 and self.intercept.is_integer() and abs(self.intercept) <= PLAIN_INTERCEPT
        bits = self.stored.bits_stored if self.stored.has_foreign_bits else self.stored.bits_allocated
        return is_shift and self.stored.bits_allocated == 16 and not self._pads_beyond(bits)

    def _pads_beyond(self, bits: int) -> bool:
        """Return whether padding lies outside what so many bits hold, so that it is a whole word."""
        if self.padding is None:
            return False
        low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if self.stored.is_signed else (0, (1 << bits) - 1)
        return self.padding[0] < low or self.padding[1] > high


def padding_range(stored: Stored, value: float | None, limit: float | None) -> tuple[int, int] | None:
    """Return the stored values of padding, from Pixel Padding Value to Range Limit (PS3.3 C.7.5.1.1.2).

    Writers mix up US and SS: 63536 and -2000 are the same word.
    """
    if value is None:
        return None
    ends = [int(one) & 0xFFFF for one in (value, value if limit is None else limit)]
    if stored.is_signed:
        ends = [one - WORD_VALUES if one >= WORD_VALUES // 2 else one for one in ends]
    return min(ends), max(ends)


def rescale(voxels: Voxels, scale: Scale) -> None:
    """Turn the 16-bit words of a plane, where they lie, into Hounsfield units.

    Fractions are rounded to the nearest unit; padding becomes PADDING_HU, and what is lower too; what is
    higher than HIGHEST_HU becomes that.
    """
    if not scale.is_plain:
        voxels[...] = table(scale)[voxels.view(np.uint16)]
        return
    values = voxels if scale.stored.is_signed else voxels.view(np.uint16)
    if scale.stored.has_foreign_bits and scale.stored.bits_stored < 16:
        # Up and down again: what is beside the value goes, and its sign is spread.
        np.left_shift(values, 15 - scale.stored.high_bit, out=values)
        np.right_shift(values, 16 - scale.stored.bits_stored, out=values)
    intercept, limits = int(scale.intercept), np.iinfo(values.dtype)
    low, high = PADDING_HU - intercept, HIGHEST_HU - intercept
    # Mostly padding is lower than anything that is kept, and goes the same way.
    is_padding = None
    if scale.padding and scale.padding[1] > low:
        is_padding = (values >= scale.padding[0]) & (values <= scale.padding[1])
    if low > limits.min:
        np.maximum(values, values.dtype.type(low), out=values)
    if high < limits.max:
        np.minimum(values, values.dtype.type(high), out=values)
    np.add(voxels, np.int16(intercept), out=voxels)
    if is_padding is not None:
        voxels[is_padding] = PADDING_HU


def convert(words: Words, scale: Scale, out: Voxels) -> None:
    """Fill a plane with the Hounsfield units of decoded words of one or two bytes."""
    if words.dtype == np.uint16:
        out.view(np.uint16)[...] = words
        rescale(out, scale)
    else:
        out[...] = table(scale)[words]


@lru_cache(maxsize=16)
def table(scale: Scale) -> Voxels:
    """Return the Hounsfield units of each word."""
    values = stored_values(scale.stored)
    units = np.rint(values * scale.slope + scale.intercept)
    units = np.clip(units, PADDING_HU, HIGHEST_HU).astype(np.int16)
    if scale.padding is not None:
        words = np.arange(len(values))
        if scale.stored.is_signed:
            words = np.where(words >= len(words) // 2, words - len(words), words)
        low, high = scale.padding
        units[((values >= low) & (values <= high)) | ((words >= low) & (words <= high))] = PADDING_HU
    units.setflags(write=False)
    return np.asarray(units)
