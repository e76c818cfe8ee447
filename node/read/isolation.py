"""Compressed pixel data is decoded in a process of its own: what ends a decoder costs one instance.

Decoders are C and C++ that meet bytes from anywhere. GDCM calls abort() on some damaged JPEG streams; in the
node's own process that would end it, and again after each restart, as the unfinished study is taken up.
"""

from collections.abc import Mapping
from pathlib import Path
from queue import LifoQueue
from threading import Lock
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.uid import (
    JPEG2000,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from node.read.child import ChildProcess
from node.read.messages import Bytes

# One decoder each, the most robust on damaged data; where none is named GDCM is the only one.
PLUGIN_BY_TRANSFER_SYNTAX: Mapping[str, str] = MappingProxyType(
    {
        JPEGBaseline8Bit: "pillow",
        JPEGExtended12Bit: "pillow",
        JPEGLSLossless: "pyjpegls",
        JPEGLSNearLossless: "pyjpegls",
        JPEG2000Lossless: "pylibjpeg",
        JPEG2000: "pylibjpeg",
        RLELossless: "pydicom",
    }
)
# Time for a process to start on a busy machine; some damaged streams of JPEG 2000 have no end.
TIMEOUT_S = 20.0
# The slowest seen, 20 million pixels of JPEG 2000, takes 3 s on one core: more than ten times that.
TIMEOUT_S_PER_PIXEL = 2e-6
# Three samples of four bytes.
MAX_PIXEL_BYTES = 12
DTYPES = frozenset(
    {"|u1", "|i1"} | {f"{order}{kind}{size}" for order in "<>" for kind in "iu" for size in (2, 4)}
)
PROGRAM = Path(__file__).with_name("decoder.py")


class DecoderProcess:
    """A decoder in another process, started by the first call and again after it ended; safe in threads."""

    def __init__(self, timeout_s: float = TIMEOUT_S) -> None:
        """Give each frame `timeout_s` seconds, and some for its size."""
        self._lock = Lock()
        self._child = ChildProcess(PROGRAM, timeout_s)

    def decode(
        self, transfer_syntax_uid: str, pixel_data: bytes, options: Mapping[str, Any]
    ) -> npt.NDArray[np.generic]:
        """Return the decoded frame; raises ValueError with the reason where that fails in whatever way."""
        plugin = PLUGIN_BY_TRANSFER_SYNTAX.get(transfer_syntax_uid, "")
        pixels = options.get("rows", 0) * options.get("columns", 0)
        # Where frames lie among others is of no use to who gets one alone, and is in bytes.
        plain = {name: value for name, value in options.items() if name != "extended_offsets"}
        job = {"syntax": str(transfer_syntax_uid), "plugin": plugin, "options": plain}
        with self._lock:
            answer, frame = self._child.request(
                job, pixel_data, max_bytes=MAX_PIXEL_BYTES * pixels, extra_s=TIMEOUT_S_PER_PIXEL * pixels
            )
        return _as_array(answer, frame)

    def close(self) -> None:
        """End the process; the next call starts another."""
        self._child.close()


def _as_array(answer: Any, frame: Bytes) -> npt.NDArray[np.generic]:
    """Return the frame of an answer, which may be anything at all; ValueError where there is none."""
    match answer:
        case {"reason": str(reason)}:
            raise ValueError(reason)
        case {"dtype": str(dtype), "shape": [*shape]} if dtype in DTYPES and all(
            type(side) is int and 0 < side < 1 << 16 for side in shape
        ):
            return frame.view(dtype).reshape(shape)
    raise ValueError("the decoder's answer makes no sense")


class DecoderPool:
    """Several such processes: as many frames are decoded at a time as there are threads that ask.

    One caller alone is always served by the same one, so that no other is started.
    """

    def __init__(self, size: int) -> None:
        """Start at most `size` processes."""
        self.size = size
        self._decoders = [DecoderProcess() for _ in range(size)]
        self._idle: LifoQueue[DecoderProcess] = LifoQueue()
        for decoder in reversed(self._decoders):
            self._idle.put(decoder)

    def decode(
        self, transfer_syntax_uid: str, pixel_data: bytes, options: Mapping[str, Any]
    ) -> npt.NDArray[np.generic]:
        """Return the decoded frame as `DecoderProcess` does, once one of them is free."""
        decoder = self._idle.get()
        try:
            return decoder.decode(transfer_syntax_uid, pixel_data, options)
        finally:
            self._idle.put(decoder)

    def close(self) -> None:
        """End the processes; the next call starts one again."""
        for decoder in self._decoders:
            decoder.close()
