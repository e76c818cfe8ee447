"""What a segmentation or a map says, read back: values over the sources, and places in space."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from pydicom import Dataset, dcmread

from node.domain.findings import Findings
from node.domain.location import Frame
from node.domain.profile import Profile
from node.encode.identity import Result
from node.encode.source import read_sources
from node.read.dataset import dataset_faults
from tests.results import make_context, save

Place = tuple[str, int, int, int]
"""An instance, the number of its frame (0 where it has no frames), and the row and column where it begins."""


def result_of(findings: Findings, paths: Sequence[Path], **profile: object) -> Result:
    """What an encoder takes; `profile` are fields of the destination's."""
    context = make_context("places", profile=Profile(**profile))  # type: ignore[arg-type]
    return Result(findings, read_sources(paths, findings), context)


def write_objects(encoder: Callable[[Result], Iterator[Dataset]], result: Result, folder: Path) -> list[Path]:
    """The objects that an encoder makes, in the order of their instance numbers."""
    with dataset_faults("the result"):
        datasets = list(encoder(result))
    return [save(dataset, folder / f"{number}.dcm") for number, dataset in enumerate(datasets, 1)]


class Decoded:
    """An object with frames over its sources: each frame, of which segment it is, and over what it lies."""

    def __init__(self, path: Path) -> None:
        self.dataset = dcmread(path)
        pixels = self.dataset.pixel_array
        self.pixels: np.ndarray = pixels.reshape(-1, self.dataset.Rows, self.dataset.Columns)
        self.frames: list[Dataset] = list(self.dataset.PerFrameFunctionalGroupsSequence)
        assert len(self.frames) == len(self.pixels) == self.dataset.NumberOfFrames

    @property
    def shared(self) -> Dataset:
        return self.dataset.SharedFunctionalGroupsSequence[0]

    def number(self, index: int) -> int:
        """The segment of a frame; 0 where all segments are on it, or none."""
        groups = [self.frames[index], self.shared]
        found = [one for one in groups if "SegmentIdentificationSequence" in one]
        return int(found[0].SegmentIdentificationSequence[0].ReferencedSegmentNumber) if found else 0

    def place(self, index: int) -> Place:
        """Over what a frame lies."""
        frame = self.frames[index]
        if "PlanePositionSlideSequence" in frame:
            item = frame.PlanePositionSlideSequence[0]
            first = item.RowPositionInTotalImagePixelMatrix, item.ColumnPositionInTotalImagePixelMatrix
            (source,) = self.dataset.SourceImageSequence
            return str(source.ReferencedSOPInstanceUID), 0, first[0] - 1, first[1] - 1
        (source,) = frame.DerivationImageSequence[0].SourceImageSequence
        assert source.SpatialLocationsPreserved == "YES"
        return str(source.ReferencedSOPInstanceUID), int(source.get("ReferencedFrameNumber", 0)), 0, 0

    def values(self, frames: tuple[Frame, ...], shape: tuple[int, ...]) -> Mapping[int, np.ndarray]:
        """The stored values by segment, each (planes, rows, columns) over these pictures; 0 where none."""
        planes = {(one.sop_instance_uid, one.frame_number or 0): plane for plane, one in enumerate(frames)}
        values: dict[int, np.ndarray] = {}
        for index, pixels in enumerate(self.pixels):
            uid, number, row, column = self.place(index)
            whole = values.setdefault(self.number(index), np.zeros(shape, pixels.dtype))
            target = whole[
                planes[uid, number], row : row + pixels.shape[0], column : column + pixels.shape[1]
            ]
            target[:] = pixels[: target.shape[0], : target.shape[1]]
            assert not pixels[target.shape[0] :].any()
            assert not pixels[:, target.shape[1] :].any()
        return values

    def centroid_xyz_mm(self, number: int) -> np.ndarray:
        """The center of a segment, by the functional groups of its own frames alone."""
        points = [points for index in range(len(self.frames)) for points in self._points(index, number)]
        return np.concatenate(points).mean(axis=0)

    def _points(self, index: int, number: int) -> Iterator[np.ndarray]:
        if self.number(index) not in (0, number):
            return
        rows, columns = np.nonzero(self.pixels[index] == (1 if self.number(index) else number))
        row, column = np.reshape(self._orientation(), (2, 3)).astype(float)
        down_mm, across_mm = map(float, self.shared.PixelMeasuresSequence[0].PixelSpacing)
        yield self._position(index) + rows[:, None] * down_mm * column + columns[:, None] * across_mm * row

    def _orientation(self) -> list[float]:
        if "ImageOrientationSlide" in self.dataset:
            return list(self.dataset.ImageOrientationSlide)
        return list(self.shared.PlaneOrientationSequence[0].ImageOrientationPatient)

    def _position(self, index: int) -> np.ndarray:
        frame = self.frames[index]
        if "PlanePositionSequence" in frame:
            return np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
        item = frame.PlanePositionSlideSequence[0]
        return np.array([item[f"{axis}OffsetInSlideCoordinateSystem"].value for axis in "XYZ"], float)
