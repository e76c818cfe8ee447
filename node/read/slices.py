"""What the files of a CT series say of their frames: by a scan where they are plain, else by pydicom."""

from collections.abc import Iterator
from dataclasses import replace
from typing import cast

from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from node.domain.study import Instance
from node.errors import DatasetError, PixelError
from node.read import stored
from node.read.dataset import dataset_faults, read_with_pixels
from node.read.functional_groups import GROUP_KEYWORDS, frame_header
from node.read.plane import Source, is_ct, require_identity
from node.read.scan import KEYWORDS, Values, scan, values_of
from node.read.stack import MAX_PLANES

NATIVE = frozenset({ImplicitVRLittleEndian, ExplicitVRLittleEndian})


def read_headers(instance: Instance) -> Iterator[tuple[Source, Values]]:
    """Yield where each frame of an instance is, and what its header says; what is no CT image is not read.

    Raises DatasetError for an instance that cannot be read, does not say what it is, or does not describe all
    its frames; PixelError for one without pixel data, or with less than its frames take.
    """
    uid = instance.sop_instance_uid or instance.path.name
    with dataset_faults(uid):
        found = scan(instance.path)
    if found is None:
        yield from _long_headers(uid, instance)
        return
    require_identity(instance, found.values)
    if is_ct(found.values):
        _require_length(uid, found.values, 1, found.pixel_bytes)
    if _is_wide(found.values):
        yield Source(instance, offset=found.pixel_offset), found.values
    else:
        yield from _long_headers(uid, instance)


def _long_headers(uid: str, instance: Instance) -> Iterator[tuple[Source, Values]]:
    """Yield the headers as pydicom reads them: of an instance that is compressed, enhanced, or odd."""
    dataset = read_with_pixels(instance, (*KEYWORDS, *GROUP_KEYWORDS, *stored.KEYWORDS))
    with dataset_faults(uid):
        values = values_of(dataset)
        require_identity(instance, values)
        if not is_ct(values):
            yield Source(instance), values
            return
        is_enhanced = GROUP_KEYWORDS[1] in dataset
        frames = _frames(uid, dataset)
        first = _offset(uid, dataset, values, frames)
        source = Source(instance, None, first, dataset, _has_foreign_bits(dataset))
        if not is_enhanced:
            yield source, values
            return
        for number in range(1, frames + 1):
            offset = None if first is None else first + (number - 1) * _frame_bytes(values)
            own = values_of(frame_header(dataset, number, KEYWORDS))
            yield replace(source, frame_number=number, offset=offset), own


def _has_foreign_bits(dataset: Dataset) -> bool:
    """Decoders of image codecs give values; only native and RLE words carry others, as overlays."""
    syntax = UID(dataset.file_meta.TransferSyntaxUID)
    return not syntax.is_encapsulated or syntax == RLELossless


def _frames(uid: str, dataset: Dataset) -> int:
    described = len(dataset[GROUP_KEYWORDS[1]].value or ()) if GROUP_KEYWORDS[1] in dataset else 1
    stated = int(dataset.get("NumberOfFrames") or 1)
    if not 0 < described == stated <= MAX_PLANES:
        raise DatasetError(uid, f"{stated} frames of which {described} are described, at most {MAX_PLANES}")
    return stated


def _offset(uid: str, dataset: Dataset, values: Values, frames: int) -> int | None:
    """Return where the words of the first frame begin in the file; None where they have to be decoded."""
    if "PixelData" not in dataset:
        raise PixelError(uid, "there is no Pixel Data")
    element = cast(DataElement | RawDataElement, dataset.get_item("PixelData", keep_deferred=True))
    if dataset.file_meta.TransferSyntaxUID not in NATIVE or not _is_wide(values):
        return None
    if not isinstance(element, RawDataElement) or not element.is_little_endian:
        return None
    _require_length(uid, values, frames, element.length)
    return element.value_tell


def _is_wide(values: Values) -> bool:
    return values.get("BitsAllocated") == (16.0,)


def _require_length(uid: str, values: Values, frames: int, length: int) -> None:
    if length < (expected := frames * _frame_bytes(values)):
        raise PixelError(uid, f"Pixel Data has {length} bytes, expected {expected}")


def _frame_bytes(values: Values) -> int:
    sizes = (values.get(keyword, (0.0,)) for keyword in ("Rows", "Columns", "BitsAllocated"))
    rows, columns, bits = (int(size[0]) if isinstance(size, tuple) else 0 for size in sizes)
    return rows * columns * bits // 8
