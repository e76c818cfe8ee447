"""Pipelines of the tests' own, named in the configuration of a node."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom import Dataset, dcmread

from node.domain.code import PREDICTIVE_ENTROPY, Code
from node.domain.findings import Algorithm, Findings, Measurement, Presence, Region, Score, Uncertainty
from node.domain.location import Frame, Mask, Outline, Segment, ValueMap
from node.domain.study import Series
from node.interfaces import Engine
from node.pipelines.chest_xray import ChestXray
from node.read.picture import read_picture
from tests.results import score

NODULE = Code("27925004", "SCT", "Nodule")
BIT = Code("bit", "UCUM", "bit")
VOLUME, CUBIC_MM = Code("118565006", "SCT", "Volume"), Code("mm3", "UCUM", "cubic millimeter")


@dataclass(frozen=True)
class StallingOnce:
    """The chest radiograph pipeline, which hangs the first time: until someone kills it."""

    marker: str

    @property
    def model(self) -> str:
        return ChestXray().model

    def analyze(self, series: Series, engine: Engine) -> Findings:
        marker = Path(self.marker)
        if not marker.exists():
            marker.touch()
            time.sleep(600)
        return ChestXray().analyze(series, engine)


@dataclass(frozen=True)
class BrightLesion:
    """Whatever is bright in a CT series, as one nodule: what a site's own model for volumes gives back."""

    model: str = "lesion"
    brighter_than_hu: float = 200.0

    def analyze(self, series: Series, engine: Engine) -> Findings:
        slices = sorted(
            (dcmread(one.path) for one in series.instances), key=lambda one: int(one.InstanceNumber)
        )
        labels = np.stack([self._is_bright(one) for one in slices]).astype(np.uint8)
        frames = tuple(Frame(str(one.SOPInstanceUID)) for one in slices)
        card = engine.card(self.model)
        return Findings(
            pipeline=self.model,
            algorithm=Algorithm(card.name, card.version, card.parameters),
            study_instance_uid=series.study_instance_uid,
            series_instance_uid=series.series_instance_uid,
            sop_instance_uids=tuple(frame.sop_instance_uid for frame in frames),
            regions=(self._region(frames, labels, slices[0]),),
            masks=(
                Mask(frames, (Segment("Lesion 1", NODULE),), labels, labels[np.newaxis].astype(np.float32)),
            ),
            maps=(ValueMap("Entropy", PREDICTIVE_ENTROPY, BIT, frames, labels * np.float32(0.5)),),
        )

    def _is_bright(self, image: Dataset) -> np.ndarray:
        return image.pixel_array * image.RescaleSlope + image.RescaleIntercept > self.brighter_than_hu

    def _region(self, frames: tuple[Frame, ...], labels: np.ndarray, image: Dataset) -> Region:
        plane = int(labels.sum(axis=(1, 2)).argmax())
        rows, columns = np.nonzero(labels[plane])
        corners = ((columns.min(), rows.min()), (columns.max() + 1, rows.max() + 1))
        voxel_mm3 = float(np.prod(image.PixelSpacing)) * float(image.SliceThickness)
        return Region(
            identifier="Lesion 1",
            code=NODULE,
            outline=Outline.box(frames[plane], *corners),
            score=score(NODULE, 0.91, (0.85, 0.95), Presence.PRESENT),
            measurements=(Measurement(VOLUME, float(labels.sum()) * voxel_mm3, CUBIC_MM),),
        )


@dataclass(frozen=True)
class SlowReader:
    """Asks a model that takes so many seconds, and gives its input back; that is its one score."""

    model: str
    seconds: float
    numbers: int = 2

    def analyze(self, series: Series, engine: Engine) -> Findings:
        card = engine.card(self.model)
        asked = engine.buffer((1, self.numbers), np.float32)
        asked[:] = self.seconds
        answer = engine.infer(self.model, {"x": asked})["y"]
        probability = float((answer == np.float32(self.seconds)).mean())
        certain = Uncertainty(0.0, (probability, probability), 0.0, 0.0)
        return Findings(
            pipeline=self.model,
            algorithm=Algorithm(card.name, card.version, card.parameters),
            study_instance_uid=series.study_instance_uid,
            series_instance_uid=series.series_instance_uid,
            sop_instance_uids=tuple(one.sop_instance_uid for one in series.instances),
            scores=tuple(Score(one.code, probability, one.threshold, certain) for one in card.classes),
        )


@dataclass(frozen=True)
class Looking(SlowReader):
    """The same, with a look at the first picture of the series before."""

    def analyze(self, series: Series, engine: Engine) -> Findings:
        read_picture(series.instances[0])
        return super().analyze(series, engine)
