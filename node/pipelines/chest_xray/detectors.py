"""What detectors answer about one radiograph, fused: places in pixels of the picture, each with its score."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from node.domain.card import ModelCard
from node.domain.code import LEFT, LEFT_LUNG, RIGHT, RIGHT_LUNG, Code
from node.domain.findings import Score, Uncertainty
from node.domain.image import Image
from node.errors import ModelError
from node.imaging.agreement import weigh_agreement
from node.imaging.boxes import Boxes, Floats, Fused, Labels, Squeeze, clip, weighted_boxes
from node.imaging.intensity import prepare_radiograph
from node.interfaces import Arrays, Engine

BOXES, SCORES, LABELS, KINDS = "boxes", "scores", "labels", "kinds"

ROUNDING = 1e-4
"""By how much float32 may leave 0–1."""

LEAST_SIDE_PX = 0.01
"""A box with a shorter side would be none in the picture, once rounded to float32."""

Values = npt.NDArray[np.generic]
Answer = tuple[Boxes, Floats, Labels, Floats]
"""Boxes (n, 4) in pixels of the square, scores (n,) and labels (n,) of one detector, and how likely each kind
of lesion is (n, lesions), 0 of all where the label says it alone."""

SIDE_BY_LUNG = {RIGHT_LUNG.value: RIGHT, LEFT_LUNG.value: LEFT}
"""What is no lesion, and the side of the patient that it tells."""


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """Where the detectors see something: its box (4,) in pixels of the picture, and what it is.

    `others` are the codes that some of them have for it instead.
    """

    box: Boxes
    score: Score
    others: tuple[Code, ...] = ()

    @property
    def is_likely(self) -> bool:
        """Does its probability reach the threshold, whether or not that decides?"""
        return self.score.probability >= self.score.threshold

    @property
    def is_lung(self) -> bool:
        """Is it a lung, not a lesion?"""
        return self.score.code.value in SIDE_BY_LUNG


def find_places(image: Image, engine: Engine, model: str) -> list[Place]:
    """Return all that an ensemble of detectors sees on a radiograph, however unlikely, the surest first.

    It answers `boxes` (1, members, n, 4) in pixels of the square it is given, `scores` and `labels` (1,
    members, n), and perhaps `kinds` (1, members, n, lesions): how likely each kind of lesion is, 0 of all
    where the label says it alone. A single detector has no axis of members. Label n is the n-th class of the
    card, what has score 0 is padding. Members that call a lesion by different kinds mean the same one.
    Raises ModelError where an answer is not that.
    """
    card = engine.card(model)
    rows, columns = image.pixels.shape[:2]
    squeeze = Squeeze((rows, columns), card.input_shape[-1])
    pixels = prepare_radiograph(image.pixels, squeeze.size)
    answers = _answers(model, card, engine.infer(model, {"image": pixels[np.newaxis, np.newaxis]}))
    boxes, scores, labels, kinds = zip(*(_usable(*one, squeeze.size) for one in answers), strict=True)
    fused = weighted_boxes(boxes, scores, labels, alike=_lesions(card), shares_by_member=kinds)
    in_picture = squeeze.to_picture(fused.boxes)
    places = [_place(card, fused, index, in_picture[index]) for index in range(len(fused))]
    return sorted(places, key=lambda one: -one.score.probability)


def _lesions(card: ModelCard) -> list[int]:
    return [label for label, one in enumerate(card.classes, 1) if one.code.value not in SIDE_BY_LUNG]


def _answers(model: str, card: ModelCard, outputs: Arrays) -> Iterator[Answer]:
    """Yield what each member says; raises ModelError for what is no answer."""
    given = outputs.get(BOXES)
    counts = given.shape[1:-1] if given is not None and given.ndim in (3, 4) else (1, 0)
    _require(model, BOXES, given, (1, *counts, 4))
    _require(model, SCORES, outputs.get(SCORES), (1, *counts))
    _require(model, LABELS, outputs.get(LABELS), (1, *counts))
    lesions = len(_lesions(card))
    if KINDS in outputs:
        _require(model, KINDS, outputs[KINDS], (1, *counts, lesions))
    boxes = np.asarray(given, np.float32).reshape(-1, counts[-1], 4)
    scores = np.asarray(outputs[SCORES], np.float32).reshape(boxes.shape[:2])
    labels = np.asarray(outputs[LABELS], np.int64).reshape(boxes.shape[:2])
    none = np.zeros((*boxes.shape[:2], lesions), np.float32)
    kinds = np.asarray(outputs.get(KINDS, none), np.float32).reshape(none.shape)
    for name, values in ((SCORES, scores), (KINDS, kinds)):
        if not ((values >= -ROUNDING) & (values <= 1 + ROUNDING)).all():
            raise ModelError(model, f"output {name} holds values outside 0–1")
    if not ((labels >= 1) & (labels <= len(card.classes)))[scores > 0].all():
        raise ModelError(model, f"output {LABELS} names a class that its card does not have")
    return zip(boxes, np.clip(scores, 0, 1), labels, np.clip(kinds, 0, 1), strict=True)


def _usable(boxes: Boxes, scores: Floats, labels: Labels, kinds: Floats, size: int) -> Answer:
    """Return the boxes of one member that have a score, and some extent on the square."""
    clipped = clip(boxes, (size, size))
    is_box = (scores > 0) & ((clipped[:, 2:] - clipped[:, :2]).min(axis=1) >= LEAST_SIDE_PX)
    return clipped[is_box], scores[is_box], labels[is_box], kinds[is_box]


def _require(model: str, name: str, values: Values | None, shape: tuple[int, ...]) -> None:
    if values is None or values.shape != shape or not values.size or not _is_finite(values):
        found = "absent" if values is None else f"{list(values.shape)}, perhaps not finite"
        raise ModelError(model, f"output {name} is {found}; expected finite {list(shape)}")


def _is_finite(values: Values) -> bool:
    return bool(np.isfinite(values.astype(np.float64)).all())


def _place(card: ModelCard, fused: Fused, index: int, box: Boxes) -> Place:
    """Return one place; how far the members' scores lie apart is its uncertainty."""
    kind = card.classes[int(fused.labels[index]) - 1]
    agreed = weigh_agreement(fused.members[index : index + 1], kind.fusion)
    uncertainty = Uncertainty(
        spread=float(fused.spread[index]),
        interval=(float(agreed.low[0]), float(agreed.high[0])),
        entropy=float(agreed.entropy[0]),
        mutual_information=float(agreed.mutual_information[0]),
    )
    score = Score(kind.code, float(agreed.probability[0]), kind.threshold, uncertainty)
    called = sorted({int(label) for label in fused.kinds[index] if label})
    others = (card.classes[label - 1].code for label in called)
    return Place(box, score, tuple(code for code in others if code != kind.code))
