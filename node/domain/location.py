"""Where in the images something is: pictures, outlines on them, masks and maps over them, marks on slides.

Points count pixels of the picture they lie on, as (x, y) = (column, row): (0, 0) is the outer corner of the
first pixel, so a box around the columns a to b runs from a to b + 1 (PS3.3 C.18.6.1.1). The picture of a
tiled slide is the total pixel matrix of its level.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from node.domain.code import Code

Points = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture of the source: an instance, and the number of the frame (from 1) where it holds several.

    A level of a tiled slide is one picture, whatever its tiles: it has no frame number.
    """

    sop_instance_uid: str
    frame_number: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Outline:
    """A closed line on one picture: (points, 2) float32, the first point not repeated at the end."""

    frame: Frame
    points_xy: Points

    def __post_init__(self) -> None:
        """Refuse what encloses nothing."""
        is_line = self.points_xy.ndim == 2 and self.points_xy.shape[1:] == (2,) and len(self.points_xy) >= 3
        if not is_line or not np.isfinite(self.points_xy).all():
            raise ValueError(f"an outline of shape {self.points_xy.shape}, expected 3 or more finite (x, y)")

    @classmethod
    def box(cls, frame: Frame, left_top: tuple[float, float], right_bottom: tuple[float, float]) -> "Outline":
        """Return the rectangle between two corners, each (x, y)."""
        (left, top), (right, bottom) = left_top, right_bottom
        corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
        return cls(frame, np.array(corners, np.float32))


@dataclass(frozen=True, slots=True)
class Segment:
    """What one label of a mask stands for; a region of the same identifier is what the segment delineates."""

    identifier: str
    code: Code


@dataclass(frozen=True, slots=True, eq=False)
class Mask:
    """Which pixels belong to what; segments of one mask do not overlap, those of several masks may.

    `labels` is (pictures, rows, columns) uint8 or uint16: 0 is nothing, n the n-th segment. Plane by plane it
    lies over `frames`, whose rows and columns it has; over a slide, one element covers `stride_px` by
    `stride_px` pixels of the level. `probability` is (segments, pictures, rows, columns) float32 in 0–1, or
    (1, pictures, rows, columns) for all segments: of it each has what lies where its label is.
    """

    frames: tuple[Frame, ...]
    segments: tuple[Segment, ...]
    labels: npt.NDArray[np.unsignedinteger]
    probability: npt.NDArray[np.float32] | None = None
    stride_px: int = 1

    def __post_init__(self) -> None:
        """Refuse an array that does not fit its pictures and segments, and a probability that is none."""
        _check_planes(self.labels, self.frames, self.stride_px)
        if self.labels.dtype not in (np.uint8, np.uint16) or not self.segments:
            raise ValueError(
                f"labels of {self.labels.dtype}, {len(self.segments)} segments; expected uint8 or uint16"
            )
        if int(self.labels.max()) > len(self.segments):
            raise ValueError(f"label {int(self.labels.max())}, expected at most {len(self.segments)}")
        expected = (len(self.segments), *self.labels.shape)
        if self.probability is not None and self.probability.shape not in (expected, (1, *expected[1:])):
            raise ValueError(f"probability of shape {self.probability.shape}, expected {expected}")
        if self.probability is not None and not 0 <= self.probability.min() <= self.probability.max() <= 1:
            raise ValueError("a probability outside 0-1")

    @property
    def shares_probability(self) -> bool:
        """Do several segments have one probability?"""
        return self.probability is not None and len(self.probability) < len(self.segments)


@dataclass(frozen=True, slots=True, eq=False)
class ValueMap:
    """A measured quantity at every pixel: (pictures, rows, columns) float32 over `frames`, as in a mask."""

    identifier: str
    quantity: Code
    unit: Code
    frames: tuple[Frame, ...]
    values: npt.NDArray[np.float32]
    stride_px: int = 1

    def __post_init__(self) -> None:
        """Refuse an array that does not fit its pictures, and values that are no numbers."""
        _check_planes(self.values, self.frames, self.stride_px)
        if self.values.dtype != np.float32 or not np.isfinite(self.values.sum(dtype=np.float64)):
            raise ValueError(f"{self.identifier}: expected finite float32, got {self.values.dtype}")


class Shape(StrEnum):
    """The form of marks; a rectangle has its four corners."""

    POINT = "point"
    RECTANGLE = "rectangle"
    POLYGON = "polygon"


@dataclass(frozen=True, slots=True, eq=False)
class Marks:
    """Many marks of one kind on a level of a slide, each (points, 2) float32; lines are closed by themselves.

    `values` is (marks,) float32, how much of `quantity` each mark has; None where nothing was measured.
    """

    identifier: str
    code: Code
    frame: Frame
    shape: Shape
    points_xy: Sequence[Points]
    quantity: Code | None = None
    unit: Code | None = None
    values: npt.NDArray[np.float32] | None = field(default=None)

    def __post_init__(self) -> None:
        """Refuse marks without points, and values that belong to no mark or to no quantity."""
        counts = {len(points) for points in self.points_xy}
        wanted = {Shape.POINT: {1}, Shape.RECTANGLE: {4}}.get(self.shape, {one for one in counts if one >= 3})
        if not counts or counts - wanted:
            raise ValueError(f"{self.identifier}: marks of {sorted(counts)} points, not each a {self.shape}")
        if self.values is None:
            return
        if self.values.shape != (len(self.points_xy),) or self.quantity is None or self.unit is None:
            raise ValueError(f"{self.identifier}: expected a value for each mark, its quantity and its unit")


def _check_planes(values: npt.NDArray[np.generic], frames: tuple[Frame, ...], stride_px: int) -> None:
    if values.ndim != 3 or not values.size or len(frames) != len(values) or len(set(frames)) != len(frames):
        raise ValueError(
            f"an array of shape {values.shape} over {len(frames)} pictures, expected one plane for each"
        )
    if stride_px < 1:
        raise ValueError(f"a stride of {stride_px} pixels, expected 1 or more")
