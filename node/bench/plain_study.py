"""The peer of the whole pipeline: one script, read to send, as somebody would write it in an afternoon.

SimpleITK reads and resamples, ONNX Runtime runs the same files, highdicom writes a segmentation and a report,
pynetdicom sends them. It takes windows that look like lung, trusts every series, and checks nothing. It needs
nothing of the node; `latency_plain.py` measures it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK
from pydicom import dcmread
from pydicom.dataset import Dataset

from node.bench.plain_encode import plain_report, plain_segmentation

Values = npt.NDArray[Any]
Infer = Callable[[Mapping[str, Values]], Mapping[str, Values]]
LUNG_HU = (-950, -500)
LUNG_SHARE = 0.1
MOST_PLACES = 24


@dataclass(frozen=True, slots=True)
class PlainModel:
    """A model as the script knows it: what it takes, and from which probability on it says yes."""

    infer: Infer
    shape_zyx: tuple[int, int, int]
    spacing_zyx_mm: tuple[float, float, float]
    threshold: float
    batch: int


@dataclass(frozen=True, slots=True)
class Finding:
    """What is reported of one component of the mask."""

    label: int
    volume_mm3: float
    diameter_mm: float
    probabilities: tuple[float, ...]


def read_image(folder: Path) -> Any:
    """Return the series of a folder, in the order that SimpleITK finds."""
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return reader.Execute()


def read_headers(folder: Path) -> list[Dataset]:
    """Return the headers of the slices in the same order."""
    names = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    return [dcmread(name, stop_before_pixels=True) for name in names]


def resample(image: Any, spacing_zyx_mm: Sequence[float]) -> Any:
    """Return an image at another spacing, int16."""
    spacing = list(spacing_zyx_mm)[::-1]
    size = [
        max(1, round(n * old / new))
        for n, old, new in zip(image.GetSize(), image.GetSpacing(), spacing, strict=True)
    ]
    outline = (image.GetOrigin(), spacing, image.GetDirection(), -1024, SimpleITK.sitkInt16)
    return SimpleITK.Resample(image, size, SimpleITK.Transform(), SimpleITK.sitkLinear, *outline)


def pad(volume: Values, shape_zyx: Sequence[int]) -> Values:
    """Return a volume with at least the shape of a window."""
    missing = [(0, max(0, least - n)) for n, least in zip(volume.shape, shape_zyx, strict=True)]
    return np.pad(volume, missing, constant_values=-1024)


def windows_over(volume: Values, shape_zyx: Sequence[int]) -> Iterator[tuple[slice, ...]]:
    """Yield windows that overlap by a quarter and look like lung."""
    starts = [
        sorted({*range(0, n - size, max(1, size * 3 // 4)), n - size})
        for n, size in zip(volume.shape, shape_zyx, strict=True)
    ]
    low, high = LUNG_HU
    for corner in product(*starts):
        window = tuple(slice(at, at + size) for at, size in zip(corner, shape_zyx, strict=True))
        part = volume[window]
        if ((part > low) & (part < high)).mean() > LUNG_SHARE:
            yield window


def segment(volume: Values, model: PlainModel) -> Values:
    """Return the mean of the windows' probabilities, (z, y, x) float32."""
    total, times = np.zeros(volume.shape, np.float32), np.zeros(volume.shape, np.float32)
    windows = list(windows_over(volume, model.shape_zyx))
    for start in range(0, len(windows), model.batch):
        batch = windows[start : start + model.batch]
        outputs = model.infer({"image": np.stack([volume[one] for one in batch])[:, None]})
        for window, probability in zip(batch, outputs["probability"], strict=True):
            total[window] += probability[0]
            times[window] += 1
    return total / np.maximum(times, 1)


def lay_back(probability: Values, resampled: Any, image: Any) -> Any:
    """Return a probability on the voxels of the image it was made of."""
    x, y, z = resampled.GetSize()
    values = SimpleITK.GetImageFromArray(probability[:z, :y, :x])
    values.CopyInformation(resampled)
    return SimpleITK.Resample(values, image, SimpleITK.Transform(), SimpleITK.sitkLinear, 0.0)


def find(
    image: Any, probability: Any, model: PlainModel, classifier: PlainModel
) -> tuple[Values, list[Finding]]:
    """Return labels (z, y, x) of the findings, 1 for the first, and what is said of each."""
    components = SimpleITK.ConnectedComponent(probability > model.threshold)
    components = SimpleITK.RelabelComponent(components)
    shapes = SimpleITK.LabelShapeStatisticsImageFilter()
    labels: Values = np.zeros(image.GetSize()[::-1], np.uint8)
    shapes.Execute(components)
    array = SimpleITK.GetArrayViewFromImage(components)
    findings: list[Finding] = []
    for label in shapes.GetLabels()[:MOST_PLACES]:
        crop = crop_around(image, shapes.GetCentroid(label), classifier)
        answer = classifier.infer({"image": crop[None, None]})["probability"][0]
        if answer[0] >= classifier.threshold:
            number = len(findings) + 1
            labels[array == label] = number
            size = shapes.GetBoundingBox(label)[3:5]
            longest = max(n * step for n, step in zip(size, image.GetSpacing(), strict=False))
            findings.append(
                Finding(number, shapes.GetPhysicalSize(label), longest, tuple(map(float, answer)))
            )
    return labels, findings


def crop_around(image: Any, center_xyz_mm: Sequence[float], model: PlainModel) -> Values:
    """Return what the classifier takes around a point, (z, y, x) int16."""
    size, spacing = list(model.shape_zyx)[::-1], list(model.spacing_zyx_mm)[::-1]
    direction = np.array(image.GetDirection()).reshape(3, 3)
    half = direction @ ((np.array(size) - 1) / 2 * spacing)
    outline = ((np.array(center_xyz_mm) - half).tolist(), spacing, image.GetDirection(), -1024)
    crop = SimpleITK.Resample(
        image, size, SimpleITK.Transform(), SimpleITK.sitkLinear, *outline, SimpleITK.sitkInt16
    )
    return np.asarray(SimpleITK.GetArrayFromImage(crop))


def encode(headers: Sequence[Dataset], labels: Values, findings: Sequence[Finding]) -> list[Dataset]:
    """Return a segmentation with a segment for each finding, and a report of them; nothing without any."""
    if not findings:
        return []
    segmentation = plain_segmentation("BINARY", headers, labels, len(findings))
    return [segmentation, plain_report(headers, segmentation, findings)]
