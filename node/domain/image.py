"""Pixels on their way from a series to a network."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Image:
    """One projection radiograph, as the radiologist would see it.

    `pixels` is (rows, columns) float32 in 0–1 after modality LUT, VOI LUT or window, with padding at 0 and
    bright for dense (the sense of MONOCHROME2). `spacing_yx_mm` is at the patient where Pixel Spacing gives
    it, else at the detector (Imager Pixel Spacing), else None; `spacing_attribute` is the keyword it is from.
    """

    sop_instance_uid: str
    pixels: npt.NDArray[np.float32]
    spacing_yx_mm: tuple[float, float] | None = None
    spacing_attribute: str = ""
