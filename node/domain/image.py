"""Pixels on their way from a series to a network."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from node.domain.location import Frame

PADDING_HU = -1024
"""What a voxel holds that the scanner did not measure; no voxel holds less."""


@dataclass(frozen=True, slots=True)
class Window:
    """Which values are shown from black to white, in the unit of the modality (HU); `width` is 1 or more."""

    center: float
    width: float

    def __post_init__(self) -> None:
        """Refuse what shows nothing (PS3.3 C.11.2.1.2.1)."""
        if not (math.isfinite(self.center) and 1 <= self.width < math.inf):
            raise ValueError(f"a window of {self.width} around {self.center}, expected a width of 1 or more")


@dataclass(frozen=True, slots=True)
class Image:
    """One picture of a source, as the reader would see it.

    `pixels` is (rows, columns) float32 in 0–1 after modality LUT, VOI LUT or window, with padding at 0 and
    bright for dense (the sense of MONOCHROME2); or (rows, columns, 3) in RGB. `spacing_yx_mm` is at
    the patient where Pixel Spacing gives it, else at the detector (Imager Pixel Spacing), else None;
    `spacing_attribute` is the keyword it is from.
    """

    sop_instance_uid: str
    pixels: npt.NDArray[np.float32]
    spacing_yx_mm: tuple[float, float] | None = None
    spacing_attribute: str = ""
    frame_number: int | None = None

    @property
    def frame(self) -> Frame:
        """The picture of the source that is shown."""
        return Frame(self.sop_instance_uid, self.frame_number)


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """The parallel slices of one series as they were stored, in order along the normal.

    `hounsfield` is (z, y, x) int16, PADDING_HU where nothing was measured. Plane z is `frames[z]`; the center
    of its first voxel (row 0, column 0) lies at `origins_xyz_mm[z]`, a column further is
    `row_direction_xyz * spacing_yx_mm[1]` away and a row further `column_direction_xyz * spacing_yx_mm[0]`
    (PS3.3 C.7.6.2.1.1). Planes need not be evenly spaced, and under a tilted gantry each starts at another
    place within its plane. `notes` say in plain words what was irregular and how it was met.
    """

    frames: tuple[Frame, ...]
    hounsfield: npt.NDArray[np.int16]
    origins_xyz_mm: npt.NDArray[np.float64]
    row_direction_xyz: npt.NDArray[np.float64]
    column_direction_xyz: npt.NDArray[np.float64]
    spacing_yx_mm: tuple[float, float]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse arrays that do not fit each other, and planes that do not follow each other."""
        planes = len(self.frames)
        if planes < 2 or self.hounsfield.ndim != 3 or len(self.hounsfield) != planes:
            raise ValueError(f"{planes} frames over an array of shape {self.hounsfield.shape}")
        if self.hounsfield.dtype != np.int16 or self.origins_xyz_mm.shape != (planes, 3):
            raise ValueError(
                f"voxels of {self.hounsfield.dtype}, origins of shape {self.origins_xyz_mm.shape}; "
                f"expected int16 and {(planes, 3)}"
            )
        if not (np.diff(self.positions_mm) > 0).all():
            raise ValueError("the planes do not follow each other along the normal")

    @property
    def normal_xyz(self) -> npt.NDArray[np.float64]:
        """The unit vector along which the planes follow each other: row direction × column direction."""
        return np.cross(self.row_direction_xyz, self.column_direction_xyz)

    @property
    def positions_mm(self) -> npt.NDArray[np.float64]:
        """Where each plane lies along the normal, (z,), rising."""
        return self.origins_xyz_mm @ self.normal_xyz

    @property
    def voxel_volumes_mm3(self) -> npt.NDArray[np.float64]:
        """The volume of a voxel of each plane, (z,): it reaches half way to the planes beside it.

        The first and the last voxel reach as far outward as inward.
        """
        gaps_mm = np.diff(self.positions_mm)
        thickness_mm = (np.append(gaps_mm[0], gaps_mm) + np.append(gaps_mm, gaps_mm[-1])) / 2
        return np.asarray(thickness_mm * self.spacing_yx_mm[0] * self.spacing_yx_mm[1])

    def to_patient(self, points_zyx: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Return (n, 3) patient coordinates (x, y, z) in mm of (n, 3) points (z, y, x) in voxels.

        Whole numbers are the centers of voxels. Between two planes the way is straight, and beyond the ends
        it goes on as between the last two.
        """
        points = np.asarray(points_zyx, np.float64)
        below = np.clip(np.floor(points[:, 0]).astype(int), 0, len(self.frames) - 2)
        share = (points[:, 0] - below)[:, None]
        origins = self.origins_xyz_mm[below] * (1 - share) + self.origins_xyz_mm[below + 1] * share
        along_column = points[:, 1:2] * self.spacing_yx_mm[0] * self.column_direction_xyz
        along_row = points[:, 2:3] * self.spacing_yx_mm[1] * self.row_direction_xyz
        return np.asarray(origins + along_column + along_row)
