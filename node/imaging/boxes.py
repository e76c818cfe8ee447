"""Boxes on pictures: how far two agree, those of several detectors as one, from one picture to another.

Boxes are (n, 4) float32: left, top, right, bottom in pixels of the picture that they lie on; (0, 0) is the
outer corner of its first pixel.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.float32]
Floats = NDArray[np.float32]
Labels = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Squeeze:
    """How `prepare_radiograph` lays a picture of `shape_yx` pixels over a square of `size`, and the way back.

    The whole picture fills the square, each axis by a factor of its own; outer corners lie on outer corners.
    """

    shape_yx: tuple[int, int]
    size: int

    def __post_init__(self) -> None:
        """Refuse a picture or a square without pixels."""
        if min(*self.shape_yx, self.size) < 1:
            raise ValueError(f"a picture of {self.shape_yx} in a square of {self.size}, expected 1 or more")

    def to_square(self, boxes: Boxes) -> Boxes:
        """Return boxes of the picture in pixels of the square."""
        return np.asarray(np.asarray(boxes, np.float64).reshape(-1, 4) * self._factors, np.float32)

    def to_picture(self, boxes: Boxes) -> Boxes:
        """Return boxes of the square in pixels of the picture, as far as they lie on it."""
        unclipped = np.asarray(boxes, np.float64).reshape(-1, 4) / self._factors
        return clip(np.asarray(unclipped, np.float32), self.shape_yx)

    @property
    def _factors(self) -> NDArray[np.float64]:
        rows, columns = self.shape_yx
        return np.array([self.size / columns, self.size / rows] * 2)


def clip(boxes: Boxes, shape_yx: tuple[int, int]) -> Boxes:
    """Return the parts of boxes that lie on a picture; of one beside it a line on its edge is left."""
    rows, columns = shape_yx
    limits = np.array([columns, rows, columns, rows], np.float32)
    return np.clip(np.asarray(boxes, np.float32).reshape(-1, 4), 0, limits)


def areas(boxes: Boxes) -> Floats:
    """Return the area (n,) of each box; 0 where its sides are in the wrong order."""
    width, height = (np.maximum(boxes[:, end] - boxes[:, end - 2], 0) for end in (2, 3))
    return np.asarray(width * height, np.float32)


def shared_areas(boxes: Boxes, others: Boxes) -> Floats:
    """Return the area (n, m) that each of n boxes has in common with each of m others."""
    starts = np.maximum(boxes[:, None, :2], others[None, :, :2])
    ends = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    return np.asarray(np.prod(np.maximum(ends - starts, 0), axis=2), np.float32)


def pairwise_iou(boxes: Boxes, others: Boxes) -> Floats:
    """Return (n, m) intersection over union, 0–1; of a box without area 0."""
    shared = shared_areas(boxes, others)
    union = areas(boxes)[:, None] + areas(others)[None, :] - shared
    return np.asarray(shared / np.where(union > 0, union, 1), np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Fused:
    """What several detectors say together: one box (n, 4) and label (n,) for each place, the surest first.

    `members` (n, members) is what each of them says of a place: its highest score there, 0 where it found
    nothing; `kinds` (n, members) the label that has it, else 0. `scores` (n,) are the means of `members`,
    `spread` (n,) their standard deviations (ddof 0). `shares` (n, labels) is how much of all that is said of
    a place is said of each label, from 0 on; together 1.
    """

    boxes: Boxes
    scores: Floats
    labels: Labels
    spread: Floats
    members: Floats
    kinds: Labels
    shares: Floats

    def __len__(self) -> int:
        """Return the number of places."""
        return len(self.boxes)


def weighted_boxes(
    boxes_by_member: Sequence[Boxes],
    scores_by_member: Sequence[Floats],
    labels_by_member: Sequence[Labels],
    iou: float = 0.55,
    *,
    alike: Collection[int] = (),
    shares_by_member: Sequence[Floats] = (),
) -> Fused:
    """Return the fusion of several detectors' boxes (weighted boxes fusion, Solovyev et al. 2021).

    The surest box comes first. Each joins the place of its label whose box it overlaps most, by more than
    `iou`, or opens one; a place's box is the mean of those in it, weighted by their scores. Boxes of score 0
    are none. Labels that are `alike` share their places: the label is then that of the largest sum of scores.
    The score of a box counts for its label, or, where its row of shares (n, alike) is not 0, for all that are
    alike by their shares, in the order of the labels.
    Where a detector has one box at a place, the score is the paper's, mean · boxes / members; of several it
    counts the best alone, or one that repeats itself would look like two that agree. Raises ValueError for
    arrays that do not fit each other.
    """
    boxes, scores, labels, members = _joined(boxes_by_member, scores_by_member, labels_by_member)
    if shares_by_member and [len(one) for one in shares_by_member] != [len(one) for one in scores_by_member]:
        raise ValueError(f"shares of {[len(one) for one in shares_by_member]}, expected one row for each box")
    there = [one[own > 0] for one, own in zip(shares_by_member, scores_by_member, strict=False)]
    votes = _votes(labels, sorted(alike), there)
    groups = np.where(np.isin(labels, list(alike)), min(alike, default=0), labels)
    places: list[_Place] = []
    for index in np.argsort(-scores, kind="stable").tolist():
        place = _place_of(boxes[index], int(groups[index]), places, iou)
        if place is None:
            place = _Place.empty(int(groups[index]), len(boxes_by_member), votes.shape[1])
            places.append(place)
        place.add(boxes[index], float(scores[index]), int(labels[index]), int(members[index]), votes[index])
    return _as_arrays(places, len(boxes_by_member), votes.shape[1])


@dataclass(slots=True, eq=False)
class _Place:
    """The boxes of one group of labels that are taken for the same thing."""

    group: int
    best: Floats
    kinds: Labels
    sums: NDArray[np.float64]
    box: NDArray[np.float64] = field(default_factory=lambda: np.zeros(4))

    @classmethod
    def empty(cls, group: int, member_count: int, label_count: int) -> _Place:
        members = np.zeros(member_count, np.float32), np.zeros(member_count, np.int64)
        return cls(group, *members, np.zeros(label_count))

    def add(self, box: Boxes, score: float, label: int, member: int, votes: Floats) -> None:
        weight = float(self.sums.sum())
        self.box = (self.box * weight + box * score) / (weight + score)
        self.sums = self.sums + score * votes.astype(np.float64)
        # The boxes come by falling score.
        if not self.best[member]:
            self.best[member], self.kinds[member] = score, label

    @property
    def label(self) -> int:
        return int(self.sums.argmax())


def _joined(
    boxes_by_member: Sequence[Boxes], scores_by_member: Sequence[Floats], labels_by_member: Sequence[Labels]
) -> tuple[Boxes, Floats, Labels, Labels]:
    """Return all boxes that have a score, with their scores, labels, and members' numbers."""
    counts = [len(boxes) for boxes in boxes_by_member]
    given = [[len(one) for one in lists] for lists in (scores_by_member, labels_by_member)]
    if not counts or any(one != counts for one in given):
        raise ValueError(f"boxes of {counts}, scores and labels of {given}; expected as many of each")
    boxes = np.concatenate([np.asarray(one, np.float32).reshape(-1, 4) for one in boxes_by_member])
    scores = np.concatenate([np.asarray(one, np.float32) for one in scores_by_member])
    labels = np.concatenate([np.asarray(one, np.int64) for one in labels_by_member])
    members = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
    if not (np.isfinite(boxes).all() and ((scores >= 0) & (scores <= 1)).all()):
        raise ValueError("expected finite boxes and scores of 0–1")
    is_box = scores > 0
    return boxes[is_box], scores[is_box], labels[is_box], members[is_box]


def _votes(labels: Labels, alike: Sequence[int], shares_by_member: Sequence[Floats]) -> Floats:
    """Return how a box's score is divided among the labels (n, labels), from 0 on."""
    votes = np.zeros((len(labels), 1 + max([*labels.tolist(), *alike], default=0)), np.float32)
    votes[np.arange(len(labels)), labels] = 1
    if shares_by_member:
        shares = np.concatenate([np.asarray(one, np.float32) for one in shares_by_member])
        sums = shares.sum(axis=1)
        is_divided = np.isin(labels, alike) & (sums > 0)
        votes[np.ix_(is_divided, alike)] = shares[is_divided] / sums[is_divided, None]
    return votes


def _place_of(box: Boxes, group: int, places: Sequence[_Place], iou: float) -> _Place | None:
    same = [place for place in places if place.group == group]
    if not same:
        return None
    overlaps = pairwise_iou(box[None], np.stack([place.box for place in same]).astype(np.float32))[0]
    nearest = int(overlaps.argmax())
    return same[nearest] if overlaps[nearest] > iou else None


def _as_arrays(places: Sequence[_Place], member_count: int, label_count: int) -> Fused:
    members = np.array([place.best for place in places], np.float32).reshape(-1, member_count)
    kinds = np.array([place.kinds for place in places], np.int64).reshape(-1, member_count)
    order = np.argsort(-members.mean(axis=1), kind="stable")
    boxes = np.array([place.box for place in places], np.float32).reshape(-1, 4)
    labels = np.array([place.label for place in places], np.int64)
    sums = np.array([place.sums for place in places], np.float64).reshape(-1, label_count)
    shares = np.asarray(sums / sums.sum(axis=1, keepdims=True), np.float32)
    members = members[order]
    return Fused(
        boxes=boxes[order],
        scores=members.mean(axis=1),
        labels=labels[order],
        spread=members.std(axis=1),
        members=members,
        kinds=kinds[order],
        shares=shares[order],
    )
