"""Values of a data set that may hold anything: absent, empty, of another type."""

from collections.abc import Iterator
from typing import cast

import numpy as np
import numpy.typing as npt
from pydicom._dicom_dict import DicomDictionary
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.tag import BaseTag, Tag

Floats = npt.NDArray[np.float64]

SEQUENCE_TAGS = frozenset(Tag(tag) for tag, (vr, *_) in DicomDictionary.items() if vr == "SQ")


EMPTY = Dataset()
"""Stands for an item that is not there; nobody writes to it."""


def sequence(dataset: Dataset, keyword: str) -> list[Dataset]:
    """Return the items of a sequence; none where it is absent."""
    return list(dataset.get(keyword) or ())


def first(dataset: Dataset, keyword: str) -> Dataset:
    """Return the first item of a sequence, an empty one where there is none."""
    return cast(Dataset, (dataset.get(keyword) or [EMPTY])[0])


def text(dataset: Dataset, keyword: str) -> str:
    """Return a value as text, empty where there is none."""
    value = dataset.get(keyword)
    return "" if value is None else str(value)


def number(dataset: Dataset, keyword: str) -> int:
    """Return a value as an integer, 0 where there is none."""
    return int(dataset.get(keyword) or 0)


def numbers(dataset: Dataset, keyword: str) -> list[float]:
    """Return the values of an attribute, none where it is absent; one value is a list of one."""
    value = dataset.get(keyword)
    if value is None or value == "":
        return []
    return [float(one) for one in (value if hasattr(value, "__iter__") else [value])]


def points(dataset: Dataset, keyword: str, dimensions: int) -> Floats:
    """Return a list of coordinates as (points, dimensions)."""
    return np.array(numbers(dataset, keyword), np.float64).reshape(-1, dimensions)


def code_of(dataset: Dataset, keyword: str) -> Code:
    """Return the code of the first item of a sequence, without its meaning so that it compares."""
    item = first(dataset, keyword)
    return Code(text(item, "CodeValue"), text(item, "CodingSchemeDesignator"), "")


def reference_of(item: Dataset) -> tuple[str, str]:
    """Return class and instance that an item refers to."""
    return text(item, "ReferencedSOPClassUID"), text(item, "ReferencedSOPInstanceUID")


def walk(
    dataset: Dataset, leaving_out: frozenset[BaseTag] = frozenset(), keyword: str = ""
) -> Iterator[tuple[str, Dataset]]:
    """Yield a data set and every item nested in it, each after the keyword of its sequence.

    An item that several frames share is yielded once.
    """
    return _walk(dataset, leaving_out, keyword, set())


def _walk(
    dataset: Dataset, leaving_out: frozenset[BaseTag], keyword: str, seen: set[int]
) -> Iterator[tuple[str, Dataset]]:
    if id(dataset) in seen:
        return
    seen.add(id(dataset))
    yield keyword, dataset
    for tag in SEQUENCE_TAGS.intersection(dataset.keys()) - leaving_out:
        element = dataset[tag]
        for item in element.value or ():
            yield from _walk(item, leaving_out, element.keyword, seen)
