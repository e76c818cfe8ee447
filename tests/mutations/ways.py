"""Ways to spoil an object: each takes the data set, and the run that it is of."""

import struct
from collections.abc import Callable, Iterator

import numpy as np
from pydicom import DataElement, Dataset
from pydicom.config import IGNORE
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from tests.runs import Run

Mutation = Callable[[Dataset, Run], object]
Row = tuple[str, str, str, str, Mutation]
"""The rule, the source, the object, what is done to it in words, and in deed."""

Change = Callable[[Dataset], object]

GROUP = codes.DCM.MeasurementGroup
SHARED, PER_FRAME = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"


# --- by keyword


def change(spoil: Change) -> Mutation:
    """A mutation that does not look at the run."""
    return lambda dataset, _: spoil(dataset)


def assign(keyword: str, value: object) -> Mutation:
    return change(lambda dataset: setattr(dataset, keyword, value))


def assign_anyway(keyword: str, vr: str, value: object) -> Mutation:
    """As `assign`, for what pydicom would warn of."""
    return change(lambda dataset: dataset.add(DataElement(keyword, vr, value, validation_mode=IGNORE)))


def remove(keyword: str) -> Mutation:
    return change(lambda dataset: delattr(dataset, keyword))


def inside(path: str, then: Mutation) -> Mutation:
    """Spoil the item at a path such as "SegmentSequence.1/…": without a number, the first of each."""

    def spoil(dataset: Dataset, run: Run) -> None:
        item = dataset
        for part in path.split("/"):
            keyword, _, number = part.partition(".")
            item = item[keyword].value[int(number or 0)]
        then(item, run)

    return spoil


def both(first: Mutation, second: Mutation) -> Mutation:
    return lambda dataset, run: (first(dataset, run), second(dataset, run))


def take_from(name: str, *keywords: str) -> Mutation:
    """Give the object values of another of the run; its file's meta information follows."""

    def spoil(dataset: Dataset, run: Run) -> None:
        for keyword in keywords:
            setattr(dataset, keyword, run.other(name)[keyword].value)
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID

    return spoil


def rename(uid: str) -> Mutation:
    """Make it another instance, its file's meta information included."""

    def spoil(dataset: Dataset, _: Run) -> None:
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid

    return spoil


# --- in a content tree


def items(dataset: Dataset) -> Iterator[Dataset]:
    yield dataset
    for child in dataset.get("ContentSequence") or ():
        yield from items(child)


def is_named(item: Dataset, name: Code) -> bool:
    concepts = item.get("ConceptNameCodeSequence") or [Dataset()]
    value, scheme = concepts[0].get("CodeValue"), concepts[0].get("CodingSchemeDesignator")
    return (value, scheme) == (name.value, name.scheme_designator)


def name_of(item: Dataset) -> str:
    return str((item.get("ConceptNameCodeSequence") or [Dataset()])[0].get("CodeValue", ""))


def find(dataset: Dataset, name: Code) -> Dataset:
    """The first content item of that name."""
    return next(item for item in items(dataset) if is_named(item, name))


def find_type(dataset: Dataset, value_type: str) -> Dataset:
    return next(item for item in items(dataset) if item.get("ValueType") == value_type)


def named(name: Code, then: Mutation) -> Mutation:
    """Spoil the first content item of that name."""
    return lambda dataset, run: then(find(dataset, name), run)


def typed(value_type: str, then: Mutation) -> Mutation:
    """Spoil the first content item of that value type."""
    return lambda dataset, run: then(find_type(dataset, value_type), run)


def drop(parent: Code, *names: Code) -> Mutation:
    """Take the items of some names out of the first item of another."""

    def spoil(dataset: Dataset, _: Run) -> None:
        container = find(dataset, parent)
        container.ContentSequence = [
            one for one in container.ContentSequence if not any(is_named(one, name) for name in names)
        ]

    return spoil


def set_template(template: str) -> Change:
    return lambda group: setattr(group.ContentTemplateSequence[0], "TemplateIdentifier", template)


def recode(value: str, meaning: str | None = None) -> Change:
    """Change a code, or its meaning too."""

    def spoil(item: Dataset) -> None:
        item.CodeValue = value
        if meaning:
            item.CodeMeaning = meaning

    return spoil


def shift_points(offset: float) -> Change:
    def spoil(item: Dataset) -> None:
        item.GraphicData = [value + offset for value in item.GraphicData]

    return spoil


def open_line(item: Dataset) -> None:
    dimensions = 3 if item.ValueType == "SCOORD3D" else 2
    item.GraphicData = list(item.GraphicData)[:-dimensions]


# --- in frames and pixels


def shift_frames(x_mm: float, y_mm: float = 0) -> Change:
    """Move all frames in the patient."""

    def spoil(dataset: Dataset) -> None:
        for frame in dataset.PerFrameFunctionalGroupsSequence:
            position = frame.PlanePositionSequence[0]
            x, y, z = position.ImagePositionPatient
            position.ImagePositionPatient = [float(x) + x_mm, float(y) + y_mm, float(z)]

    return spoil


def exchange(keyword: str) -> Change:
    """Exchange a functional group between the first two frames."""

    def spoil(dataset: Dataset) -> None:
        one, other = dataset.PerFrameFunctionalGroupsSequence[:2]
        one[keyword].value, other[keyword].value = other[keyword].value, one[keyword].value

    return spoil


def exchange_frames(dataset: Dataset) -> None:
    """Exchange what is said of the first and the last frame, not their pixels."""
    frames = list(dataset.PerFrameFunctionalGroupsSequence)
    frames[0], frames[-1] = frames[-1], frames[0]
    dataset.PerFrameFunctionalGroupsSequence = frames


def move_pixels(dataset: Dataset) -> None:
    """Move the pixels by half a frame, not what is said of the frames."""
    pixels = np.frombuffer(dataset.PixelData, np.uint8)
    frame_bytes = dataset.Rows * dataset.Columns * dataset.BitsAllocated // 8
    dataset.PixelData = np.roll(pixels, frame_bytes // 2).tobytes()


def blank(dataset: Dataset) -> None:
    dataset.PixelData = bytes(len(dataset.PixelData))


def poke(keyword: str, form: str, value: float) -> Change:
    """Change the first value of bulk data."""

    def spoil(dataset: Dataset) -> None:
        first = struct.pack(form, value)
        dataset[keyword].value = first + dataset[keyword].value[len(first) :]

    return spoil


def cut(keyword: str, size: int) -> Change:
    """Take bytes from the end of bulk data."""
    return lambda dataset: setattr(dataset, keyword, dataset[keyword].value[:-size])
