"""Where pictures lie in the patient or on the slide, from the headers that say so."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset

from node.conformance.content import Floats, first, number, numbers, sequence
from node.conformance.layout import FrameFacts, group_of, shared_facts, slide_offsets


@dataclass(frozen=True, slots=True, eq=False)
class Plane:
    """A picture in space: `origin` is the outer corner of its first pixel, `right` and `down` its sides.

    All are (x, y, z) in mm of the frame of reference.
    """

    origin: Floats
    right: Floats
    down: Floats
    rows: int
    columns: int

    @property
    def corners(self) -> Floats:
        """The outer corners at the top left, top right and bottom left, (3, 3)."""
        return np.stack(
            [self.origin, self.origin + self.columns * self.right, self.origin + self.rows * self.down]
        )

    @property
    def pixel_mm(self) -> float:
        """The longer side of a pixel."""
        return float(max(np.linalg.norm(self.right), np.linalg.norm(self.down)))

    def pixels_of(self, points_xyz_mm: Floats) -> Floats:
        """Return points as (column, row, mm above the plane) of this picture, (points, 3)."""
        across, down = np.linalg.norm(self.right), np.linalg.norm(self.down)
        normal = np.cross(self.right, self.down) / (across * down)
        axes = np.stack([self.right / across**2, self.down / down**2, normal])
        return np.asarray((points_xyz_mm - self.origin) @ axes.T, np.float64)


def is_tiled(dataset: Dataset) -> bool:
    """Return whether its frames are tiles of a slide."""
    return number(dataset, "TotalPixelMatrixRows") > 0


def picture_size(dataset: Dataset, *, is_frame: bool) -> tuple[int, int]:
    """Return rows and columns of what coordinates count the pixels of: a frame, or a slide's whole matrix."""
    prefix = "TotalPixelMatrix" if is_tiled(dataset) and not is_frame else ""
    return number(dataset, f"{prefix}Rows"), number(dataset, f"{prefix}Columns")


def plane_of(dataset: Dataset, frame: int | None = None) -> Plane | None:
    """Return where a picture lies in the patient: the object's only one, or a frame of it (from 1).

    None where the header does not say.
    """
    size = picture_size(dataset, is_frame=True)
    if "ImagePositionPatient" in dataset:
        keywords = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
        position, orientation, spacing = (numbers(dataset, keyword) for keyword in keywords)
        return make_plane(position, orientation, spacing, size)
    frames = sequence(dataset, "PerFrameFunctionalGroupsSequence")
    place = (frame or 1) - 1
    groups = [*frames[place : place + 1], first(dataset, "SharedFunctionalGroupsSequence")]
    return make_plane(
        numbers(group_of(groups, "PlanePositionSequence"), "ImagePositionPatient"),
        numbers(group_of(groups, "PlaneOrientationSequence"), "ImageOrientationPatient"),
        numbers(group_of(groups, "PixelMeasuresSequence"), "PixelSpacing"),
        size,
    )


def plane_of_frame(facts: FrameFacts, size: tuple[int, int]) -> Plane | None:
    """Return where a frame lies in the patient, by what is said of it."""
    return make_plane(facts.position, facts.orientation, facts.spacing, size)


def matrix_of(dataset: Dataset) -> Plane | None:
    """Return where the total pixel matrix of a slide lies, None where the header does not say."""
    return make_plane(
        slide_offsets(first(dataset, "TotalPixelMatrixOriginSequence")),
        numbers(dataset, "ImageOrientationSlide"),
        shared_facts(dataset).spacing,
        picture_size(dataset, is_frame=False),
    )


def make_plane(
    position: Sequence[float], orientation: Sequence[float], spacing: Sequence[float], size: tuple[int, int]
) -> Plane | None:
    """Return a plane by the center of its first pixel, its cosines and its (row, column) spacing."""
    if len(position) != 3 or len(orientation) != 6 or len(spacing) != 2:
        return None
    row, column = np.array(orientation, np.float64).reshape(2, 3)
    right, down = row * spacing[1], column * spacing[0]
    return Plane(np.array(position, np.float64) - (right + down) / 2, right, down, *size)
