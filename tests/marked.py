"""Presentation states of findings on a source, and the lines and words in them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pydicom import Dataset, dcmread

from node.domain.findings import Findings, Presence
from node.domain.location import Outline
from node.encode.identity import Result
from node.encode.presentation_state import encode_presentation_state
from node.encode.source import read_sources
from tests.results import make_context, save, score
from tests.sources import Written


@dataclass(frozen=True)
class Case:
    written: Written
    findings: Findings


def doubtful_second(findings: Findings) -> Findings:
    """The findings whose first region is sure and whose second is not, on a slide too."""
    first, second = findings.regions
    doubtful = score(second.code, 0.58, (0.42, 0.7), Presence.ABSENT, Presence.PRESENT)
    return replace(findings, regions=(first, replace(second, score=doubtful)))


def states_of(findings: Findings, paths: list[Path], folder: Path) -> list[Dataset]:
    """The presentation states, as they are read back."""
    result = Result(findings, read_sources(paths, findings), make_context("states"))
    return [
        dcmread(save(one, folder / f"state-{number}.dcm"))
        for number, one in enumerate(encode_presentation_state(result))
    ]


def with_outline(findings: Findings, points: np.ndarray) -> Findings:
    region = findings.regions[0]
    outline = Outline(region.outline.frame, np.asarray(points, np.float32))
    return replace(findings, regions=(replace(region, outline=outline),))


def objects_of(state: Dataset) -> Iterator[tuple[str, Dataset, Dataset]]:
    """Layer, referenced image, and each line or text."""
    for annotation in state.GraphicAnnotationSequence:
        (image,) = annotation.ReferencedImageSequence
        for name in ("GraphicObjectSequence", "TextObjectSequence"):
            yield from ((annotation.GraphicLayer, image, item) for item in annotation.get(name, ()))


def lines_of(state: Dataset) -> dict[str, tuple[str, Dataset, Dataset]]:
    return {
        item.TrackingID: (layer, image, item)
        for layer, image, item in objects_of(state)
        if "GraphicData" in item
    }


def words_of(state: Dataset) -> dict[str, tuple[str, Dataset, Dataset]]:
    return {
        item.TrackingID: (layer, image, item)
        for layer, image, item in objects_of(state)
        if "TrackingID" in item and "UnformattedTextValue" in item
    }


def points_of(line: Dataset) -> np.ndarray:
    return np.array(line.GraphicData, np.float32).reshape(-1, 2)


def on_pictures(findings: Findings, *planes: int) -> Findings:
    frames = findings.masks[0].frames
    regions = tuple(
        replace(region, outline=Outline(frames[plane], region.outline.points_xy))
        for region, plane in zip(findings.regions, planes, strict=True)
    )
    return replace(findings, regions=regions)
