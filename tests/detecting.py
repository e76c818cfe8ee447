"""Engines for radiographs whose answers can be worked out: detectors that say what they were told or see."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import DTypeLike, NDArray

from node.domain.card import Fusion, ModelCard, ModelClass
from node.domain.code import (
    BACTERIAL_PNEUMONIA,
    CONSOLIDATION,
    LEFT_LUNG,
    PNEUMONIA,
    RIGHT_LUNG,
    VIRAL_PNEUMONIA,
    Code,
)
from node.domain.findings import Priority
from node.interfaces import Arrays

DETECTORS = "chest_xray_lesions"
NODULE, MASS = Code("27925004", "SCT", "Nodule"), Code("4147007", "SCT", "Mass")
KINDS = (NODULE, MASS, CONSOLIDATION, RIGHT_LUNG, LEFT_LUNG)
"""What labels stand for, from 1 on."""

A_NODULE, A_MASS, A_CONSOLIDATION, A_RIGHT_LUNG, A_LEFT_LUNG = range(1, 6)
SIZE_PX, MOST = 512, 8
BOTH_LUNGS = (((30, 60, 230, 450), 0.99, A_RIGHT_LUNG), ((270, 60, 480, 450), 0.99, A_LEFT_LUNG))

Said = tuple[tuple[float, float, float, float], float, int]
"""A box in pixels of the square, its score, its label."""


@dataclass
class DetectingEngine:
    """Its classifiers answer with these numbers; each of its detectors with the boxes it is given."""

    members: Sequence[Sequence[Said]] = ()
    probability: tuple[float, float, float] = (0.95, 0.9, 0.05)
    strangeness: float = 0.5
    activation: NDArray[np.float32] | None = None
    fusion: Fusion = field(default_factory=Fusion)
    outlined_share: dict[str, float] = field(default_factory=dict)
    changed: dict[str, NDArray[np.generic] | None] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def infer(self, model: str, inputs: Arrays) -> dict[str, NDArray[np.generic]]:
        self.asked.append(model)
        image = inputs["image"]
        assert image.dtype == np.float32
        assert image.shape == (1, *self.card(model).input_shape)
        if model != DETECTORS:
            return self._classified()
        members = [padded(said) for said in self.detected(np.asarray(image[0, 0], np.float32))]
        answers = {name: np.stack([one[name] for one in members], axis=1) for name in members[0]}
        return {name: one for name, one in (answers | self.changed).items() if one is not None}

    def detected(self, picture: NDArray[np.float32]) -> Sequence[Sequence[Said]]:
        """What each member says of a picture."""
        return self.members

    def _classified(self) -> dict[str, NDArray[np.generic]]:
        probability = np.array([self.probability], np.float32)
        answers = {
            "probability": probability,
            "interval": np.stack([probability - 0.02, probability + 0.02], axis=-1),
            "out_of_distribution": np.array([[self.strangeness]], np.float32),
            **{
                name: np.full((1, 3), 0.01, np.float32)
                for name in ("spread", "entropy", "mutual_information")
            },
        }
        if self.activation is not None:
            answers["activation_map"] = np.repeat(self.activation[None, None], 3, axis=1)
        return answers

    def card(self, model: str) -> ModelCard:
        is_detector = model == DETECTORS
        codes = KINDS if is_detector else (PNEUMONIA, BACTERIAL_PNEUMONIA, VIRAL_PNEUMONIA)
        return ModelCard(
            name=model,
            version="1.0",
            intended_use="tests",
            input_shape=(1, SIZE_PX, SIZE_PX) if is_detector else (1, 64, 64),
            classes=tuple(ModelClass(code, 0.5, self.fusion) for code in codes),
            requirements=(),
            parameters=("size=64",),
            out_of_distribution_threshold=None if is_detector else 1.0,
            outlined_share=self.outlined_share if is_detector else {},
        )

    def check(self, model: str) -> None:
        """Nothing can be wrong with it."""

    def prioritized(self, priority: Priority) -> "DetectingEngine":
        return self

    def buffer(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[np.generic]:
        return np.empty(shape, dtype)

    def close(self) -> None:
        """It holds nothing."""


@dataclass
class SeeingEngine(DetectingEngine):
    """Its two detectors find the one bright rectangle of a picture by its pixels, and halves as lungs."""

    label: int = A_CONSOLIDATION

    def detected(self, picture: NDArray[np.float32]) -> Sequence[Sequence[Said]]:
        box = bright_box(picture)
        lungs = [((0, 0, 256, 512), 0.99, A_RIGHT_LUNG), ((256, 0, 512, 512), 0.99, A_LEFT_LUNG)]
        return [(box, 0.95, self.label), *lungs], [(box, 0.9, self.label), *lungs]


def bright_box(picture: NDArray[np.float32]) -> tuple[float, float, float, float]:
    """The edges of the one rectangle that is much brighter than all else, between pixels too."""
    is_bright = picture > (picture.min() + picture.max()) / 2
    down = edges(picture[:, is_bright.sum(axis=0) > 0.9 * is_bright.sum(axis=0).max()].mean(axis=1))
    across = edges(picture[is_bright.sum(axis=1) > 0.9 * is_bright.sum(axis=1).max()].mean(axis=0))
    return across[0], down[0], across[1], down[1]


def edges(profile: NDArray[np.float32]) -> tuple[float, float]:
    """Where a profile rises and falls through the middle between its dark and its bright part."""
    middle = (float(np.median(profile)) + float(profile.max())) / 2
    bright = np.flatnonzero(profile > middle)
    return tuple(crossing(profile, int(at), step, middle) for at, step in ((bright[0], -1), (bright[-1], 1)))  # type: ignore[return-value]


def crossing(profile: NDArray[np.float32], index: int, step: int, middle: float) -> float:
    """Where the line through the middles of a bright pixel and its dark neighbor has a value."""
    if not 0 <= index + step < len(profile):
        return index + (1.0 if step > 0 else 0.0)
    bright, dark = float(profile[index]), float(profile[index + step])
    return index + 0.5 + step * (bright - middle) / (bright - dark)


def padded(said: Sequence[Said]) -> dict[str, NDArray[np.generic]]:
    """The answer of one member: as many boxes as every answer has, those beyond its own with score 0."""
    boxes, scores = np.zeros((1, MOST, 4), np.float32), np.zeros((1, MOST), np.float32)
    labels = np.zeros((1, MOST), np.int64)
    for index, (box, score, label) in enumerate(said):
        boxes[0, index], scores[0, index], labels[0, index] = box, score, label
    return {"boxes": boxes, "scores": scores, "labels": labels}
