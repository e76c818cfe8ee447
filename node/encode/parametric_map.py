"""Measured quantities at every pixel as Parametric Maps of 32-bit floats."""

from collections.abc import Iterator

import numpy as np
from highdicom import VOILUTTransformation
from highdicom.enum import VOILUTFunctionValues
from highdicom.pm import ParametricMap, RealWorldValueMapping
from pydicom.dataset import Dataset

from node.domain.location import ValueMap
from node.domain.profile import Kind
from node.encode.evidence import AnySource
from node.encode.identity import LONG_STRING, SHORT_STRING, Result, coded, plain
from node.encode.multiframe import complete, identity
from node.encode.place import find_place
from node.encode.planes import Grid, make_grids

PARAMETRIC_MAP = Kind.PARAMETRIC_MAP


ANATOMY = ("BodyPartExamined", "Laterality", "SpecimenDescriptionSequence")


class _ParametricMap(AnySource, ParametricMap):
    pass


def encode_parametric_map(result: Result) -> Iterator[Dataset]:
    """Yield an object for each map with every frame it has, which viewers need; several over several sources.

    Nothing over a radiograph: a parametric map must be in a frame of reference (PS3.3 A.75).
    """
    number = 0
    for value_map in result.findings.maps:
        extent = (value_map.values.shape[1], value_map.values.shape[2])
        for grid in make_grids(result, value_map.frames, extent, value_map.stride_px):
            if grid.has_place:
                number += 1
                yield _encode_map(result, value_map, grid, number)


def _encode_map(result: Result, value_map: ValueMap, grid: Grid, number: int) -> Dataset:
    place = find_place(grid, grid.shape)
    lowest, highest = float(value_map.values.min()), float(value_map.values.max())
    dataset = _ParametricMap(
        source_images=place.images,
        pixel_array=grid.stack(value_map.values),
        # It shows what a model made of the image, which tells nobody's face.
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[_mapping(value_map, (lowest, highest))],
        voi_lut_transformations=[_window(lowest, highest)],
        plane_positions=place.positions,
        pixel_measures=place.measures,
        content_label="MAP",
        content_description=plain(value_map.identifier, LONG_STRING),
        **identity(result, PARAMETRIC_MAP, number, [value_map.quantity, value_map.unit]),
    )
    complete(dataset, result, PARAMETRIC_MAP, grid, place)
    if not grid.is_slide:
        _order_along_normal(dataset)
    if not any(keyword in dataset for keyword in ANATOMY):
        # Which part it is, is not known, so neither whether it has two sides (PS3.3 C.7.3.1).
        dataset.Laterality = None
    return dataset


def _order_along_normal(dataset: Dataset) -> None:
    """Let the frames run along the normal of their planes, which is right for every reader.

    OHIF 3.13 lays them over the slices in that order, whichever they refer to; highdicom's is the opposite.
    """
    frames = dataset.PerFrameFunctionalGroupsSequence
    if len(frames) < 2:
        return
    shared = dataset.SharedFunctionalGroupsSequence[0]
    cosines = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
    normal = np.cross(cosines[:3], cosines[3:])
    positions = [frame.PlanePositionSequence[0].ImagePositionPatient for frame in frames]
    order = np.argsort(np.array(positions, float) @ normal)
    values = np.frombuffer(dataset.FloatPixelData, np.float32).reshape(len(frames), -1)
    dataset.PerFrameFunctionalGroupsSequence = [frames[index] for index in order]
    dataset.FloatPixelData = b"".join(values[index].data for index in order)


def _mapping(value_map: ValueMap, extremes: tuple[float, float]) -> RealWorldValueMapping:
    """Return what the stored values are: the quantity itself, in its unit."""
    return RealWorldValueMapping(
        lut_label=plain(value_map.identifier, SHORT_STRING),
        lut_explanation=plain(value_map.quantity.meaning, LONG_STRING),
        unit=coded(value_map.unit),
        value_range=extremes,
        slope=1.0,
        intercept=0.0,
        quantity_definition=coded(value_map.quantity),
    )


def _window(lowest: float, highest: float) -> VOILUTTransformation:
    """Return the window that shows all values; a width of 0 is not allowed (PS3.3 C.11.2.1.3.2)."""
    return VOILUTTransformation(
        (lowest + highest) / 2, highest - lowest or 1.0, voi_lut_function=VOILUTFunctionValues.LINEAR_EXACT
    )
