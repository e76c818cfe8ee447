"""Pixels on their way from a series to a network."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from node.domain.location import Frame


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
