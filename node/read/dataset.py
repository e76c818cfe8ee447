"""Open received files with pydicom: within limits, without noise, its faults as ours."""

import logging
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydicom import dcmread
from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset, FileDataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from node.domain.study import Instance
from node.errors import DatasetError, OutOfResourcesError, PixelError, StoreError
from node.header import read_file_meta
from node.read.header_size import SMALL_BYTES, check_elements, check_header_size

# pydicom and its decoders promise no exceptions of their own: damaged bytes surface as any of these.
LIBRARY_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BytesLengthException,
    EOFError,
    ImportError,
    InvalidDicomError,
    LookupError,
    OSError,
    RuntimeError,
    SystemError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
MAX_INFLATED_BYTES = 1 << 29
# No honest file of this size needs more memory than any machine has.
MODEST_BYTES = 1 << 26
MAX_REASON_CHARACTERS = 300
# Longer values stay in the file until they are asked for: pixels, private blobs.
DEFER_BYTES = 1 << 16

# What pydicom complains of may quote a value, and thus a patient; our errors say what was wrong instead.
logging.getLogger("pydicom").setLevel(logging.CRITICAL)


class _Silence:
    """Keeps Python warnings down while at least one thread reads.

    `warnings.catch_warnings` alone is not safe in threads: two that overlap keep each other's filters.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readers = 0
        self._filters = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._readers == 0:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.simplefilter("ignore")
            self._readers += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._readers -= 1
            if self._readers == 0:
                self._filters.__exit__(None, None, None)


_SILENCE = _Silence()


@contextmanager
def dataset_faults(uid: str) -> Iterator[None]:
    """Turn any fault of pydicom in the block into a DatasetError without its words: they quote values."""
    try:
        with _SILENCE:
            yield
    except FileNotFoundError as error:
        raise StoreError(uid, "the file is not in the store") from error
    except LIBRARY_ERRORS as error:
        raise DatasetError(uid, f"cannot be read as DICOM ({type(error).__name__})") from error
    except MemoryError as error:
        raise OutOfResourcesError(f"{uid}: not enough memory to read the data set") from error


@contextmanager
def pixel_faults(uid: str) -> Iterator[None]:
    """Turn any fault of a decoder in the block into a PixelError with the decoder's reason on one line."""
    try:
        with _SILENCE:
            yield
    except LIBRARY_ERRORS as error:
        # An address in memory would make the same failure look new each time.
        reason = " ".join(re.sub(r" at 0x[0-9a-fA-F]+", "", str(error)).split())[:MAX_REASON_CHARACTERS]
        raise PixelError(
            uid, f"the pixel data cannot be decoded: {reason or type(error).__name__}"
        ) from error
    except MemoryError as error:
        raise OutOfResourcesError(f"{uid}: not enough memory to decode the pixel data") from error


def read_header(instance: Instance) -> Dataset:
    """Return everything before the pixel data; raises DatasetError, or StoreError where there is no file."""
    return _read(instance, stop_before_pixels=True)


def read_with_pixels(instance: Instance, keywords: Sequence[str]) -> Dataset:
    """Return the named attributes alone; Pixel Data stays in the file until it is touched."""
    return _read(instance, keywords=keywords)


def _read(instance: Instance, *, keywords: Sequence[str] = (), stop_before_pixels: bool = False) -> Dataset:
    uid, path = instance.sop_instance_uid, instance.path
    with dataset_faults(uid):
        is_deflated = check_bounds(uid, path)
        with _lies_told(uid, path):
            dataset = dcmread(
                path,
                # pydicom looks for deferred values in the file, where a deflated one has none.
                defer_size=None if is_deflated else DEFER_BYTES,
                stop_before_pixels=stop_before_pixels,
                force=True,
                specific_tags=list(keywords) or None,
            )
        # With `force`, pydicom makes tags of any bytes; rubbish gives none that the standard knows.
        if not keywords and not any(tag.group >= 8 and keyword_for_tag(tag) for tag in list(dataset.keys())):
            raise DatasetError(uid, "holds no DICOM attributes")
        _complete_transfer_syntax(dataset, instance)
    return dataset


@contextmanager
def _lies_told(uid: str, path: Path) -> Iterator[None]:
    """Tell memory that is short from a small file that claims gigabytes, as it would on every try."""
    try:
        yield
    except MemoryError as error:
        if path.stat().st_size > MODEST_BYTES:
            raise
        raise DatasetError(uid, "an element claims to be far longer than the file") from error


def _complete_transfer_syntax(dataset: FileDataset, instance: Instance) -> None:
    """Set the transfer syntax that a file without meta information does not say, as it was read."""
    if dataset.file_meta.get("TransferSyntaxUID"):
        return
    is_implicit, is_little_endian = dataset.original_encoding
    native = ExplicitVRLittleEndian if is_little_endian else ExplicitVRBigEndian
    received = instance.transfer_syntax_uid
    dataset.file_meta.TransferSyntaxUID = UID(received or (ImplicitVRLittleEndian if is_implicit else native))


def check_bounds(uid: str, path: Path) -> bool:
    """Return whether a file is deflated; raises DatasetError where pydicom would make too much of it."""
    start = _deflated_start(path)
    if start is None:
        check_header_size(uid, path)
    else:
        _check_inflated(uid, path, start)
    return start is not None


def _deflated_start(path: Path) -> int | None:
    """Return where in the file a deflated data set begins; None for a data set that is not deflated.

    By the elements of the meta, as pydicom finds it: a group length may lie, and lead past a bomb.
    """
    with path.open("rb") as file:
        syntax = read_file_meta(file).transfer_syntax_uid
        return file.tell() if syntax == DeflatedExplicitVRLittleEndian else None


def _check_inflated(uid: str, path: Path, start: int) -> None:
    """Raise DatasetError where a few kilobytes would unfold into more than memory holds."""
    inflater, pieces, size = zlib.decompressobj(-zlib.MAX_WBITS), [], 0
    with path.open("rb") as file:
        file.seek(start)
        while not inflater.eof and (packed := inflater.unconsumed_tail or file.read(DEFER_BYTES)):
            pieces.append(inflater.decompress(packed, DEFER_BYTES))
            size += len(pieces[-1])
            if size > MAX_INFLATED_BYTES:
                raise DatasetError(uid, f"inflates to more than {MAX_INFLATED_BYTES} bytes")
    if size > SMALL_BYTES:
        check_elements(uid, b"".join(pieces))
