"""Radiographs of any shape with one bright rectangle, which detectors of the tests find by its pixels."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from node.domain.findings import Findings
from node.domain.study import Instance, Series
from node.pipelines.chest_xray import ChestXray
from node.samples.dicom import DxOptions, dx_dataset
from node.samples.thorax import Radiograph, Truth
from tests.detecting import DETECTORS, SeeingEngine
from tests.displayed import received
from tests.results import save


@dataclass(frozen=True)
class Shape:
    """A radiograph with one bright rectangle, and what its header says of its pixels."""

    rows: int
    columns: int
    box: tuple[int, int, int, int]
    photometric: str = "MONOCHROME2"
    pixel_spacing: tuple[float, float] | None = None
    imager_spacing: tuple[float, float] | None = None
    modality: str = "DX"


def write(shape: Shape, folder: Path, name: str = "radiograph") -> Instance:
    """A smooth gray picture, a little brighter below, with one bright rectangle."""
    ramp = np.linspace(0.2, 0.3, shape.rows, dtype=np.float32)[:, None]
    pixels = np.repeat(ramp, shape.columns, axis=1)
    left, top, right, bottom = shape.box
    pixels[top:bottom, left:right] = 0.9
    options = DxOptions(modality=shape.modality, photometric_interpretation=shape.photometric)
    dataset = dx_dataset(Radiograph(pixels, (0.4, 0.4), Truth("consolidation"), 5), options=options)
    for keyword, spacing in (
        ("PixelSpacing", shape.pixel_spacing),
        ("ImagerPixelSpacing", shape.imager_spacing),
    ):
        if spacing:
            setattr(dataset, keyword, list(spacing))
        elif keyword == "PixelSpacing" or shape.modality == "CR":
            del dataset[keyword]
    return received(save(dataset, folder / f"{name}.dcm"))


def analyze(instance: Instance, engine: SeeingEngine) -> Findings:
    series = Series(instance.study_instance_uid, instance.series_instance_uid, (instance,), {})
    return ChestXray(detector_model=DETECTORS).analyze(series, engine)
