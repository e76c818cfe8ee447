"""What objects with frames over their sources have in common: segmentations and parametric maps."""

from collections.abc import Iterable
from typing import Any

from pydicom.dataset import Dataset

import node
from node.domain.code import PRIVATE_SCHEME, Code
from node.domain.profile import Kind
from node.encode.identity import Result, contributing_equipment, private_scheme, stamp
from node.encode.place import Place
from node.encode.planes import Grid, Key
from node.encode.secondary_capture import declare_loss

SPECIMEN = (
    "ContainerIdentifier",
    "IssuerOfTheContainerIdentifierSequence",
    "ContainerTypeCodeSequence",
    "SpecimenDescriptionSequence",
)

WHOLE_SPECIMEN = ("ContainerIdentifier", "SpecimenDescriptionSequence")
"""Without these, type 1, the module as a whole is wrong: better none (PS3.3 C.7.6.22)."""

ANATOMY = ("BodyPartExamined", "Laterality")


def identity(result: Result, kind: Kind, number: int, codes: Iterable[Code]) -> dict[str, Any]:
    """Return what highdicom asks of the n-th object of a kind beside its content, in which `codes` appear."""
    is_private = any(code.scheme == PRIVATE_SCHEME for code in codes)
    return {
        "series_instance_uid": result.series_uid(kind),
        "series_number": result.series_number(kind),
        "sop_instance_uid": result.instance_uid(kind, number),
        "instance_number": number,
        "manufacturer": result.device.manufacturer,
        "manufacturer_model_name": result.device.name,
        "software_versions": node.__version__,
        "device_serial_number": result.device.uid,
        "contributing_equipment": [contributing_equipment(result.device)],
        "coding_schemes": [private_scheme()] if is_private else None,
        "specific_character_set": None,
    }


def complete(dataset: Dataset, result: Result, kind: Kind, grid: Grid, place: Place) -> None:
    """Give an object what highdicom does not copy, and names for what it names by lot."""
    stamp(dataset, result, kind)
    uid = result.uid("dimensions", str(dataset.SOPInstanceUID))
    for item in (*dataset.DimensionOrganizationSequence, *dataset.get("DimensionIndexSequence", ())):
        item.DimensionOrganizationUID = uid
    grid.source.copy(dataset, [one for one in ANATOMY if grid.source.text(one)])
    if all(grid.source.header.get(keyword) for keyword in WHOLE_SPECIMEN):
        grid.source.copy(dataset, SPECIMEN)
    declare_loss(dataset, grid.source)
    if grid.numbers:
        _restore_numbers(dataset, grid)
    if place.positions:
        _describe_matrix(dataset, grid, place.positions[0][0])
    elif not grid.has_place:
        dataset.PatientOrientation = None
        grid.source.copy(dataset, ("PatientOrientation",))


def _restore_numbers(dataset: Dataset, grid: Grid) -> None:
    """Refer to the frames by the numbers that they have in the source, which highdicom saw a part of."""
    items = {
        id(item): item
        for frame in dataset.PerFrameFunctionalGroupsSequence
        for derivation in frame.DerivationImageSequence
        for item in derivation.SourceImageSequence
    }
    for item in items.values():
        item.ReferencedFrameNumber = grid.numbers[item.ReferencedFrameNumber - 1]


def _describe_matrix(dataset: Dataset, grid: Grid, origin: Dataset) -> None:
    """Say what of the total pixel matrix is not tile, and where it begins."""
    dataset.TotalPixelMatrixRows, dataset.TotalPixelMatrixColumns = grid.extent
    item = Dataset()
    for axis in "XYZ":
        keyword = f"{axis}OffsetInSlideCoordinateSystem"
        setattr(item, keyword, origin[keyword].value)
    dataset.TotalPixelMatrixOriginSequence = [item]
    dataset.PatientOrientation = None


def key_of(frame: Dataset) -> Key:
    """Return what tells a frame of a fresh object from the others: see `Grid.keys`."""
    if "PlanePositionSlideSequence" in frame:
        item = frame.PlanePositionSlideSequence[0]
        return item.RowPositionInTotalImagePixelMatrix, item.ColumnPositionInTotalImagePixelMatrix
    item = frame.DerivationImageSequence[0].SourceImageSequence[0]
    return item.ReferencedSOPInstanceUID, item.get("ReferencedFrameNumber", 0)


def number_in(frame: Dataset) -> int:
    """Return the number of the segment that a frame is of: 1 where they have one in common."""
    identification = frame.get("SegmentIdentificationSequence")
    return int(identification[0].ReferencedSegmentNumber) if identification else 1
