"""What the members' boxes come to in the node, and the numbers of the card that make that honest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import logit

from models import froc
from models.calibration import Z_95
from models.detector import LABELS, LESIONS
from models.detector_calibration import GROUPS, fit_platt, fit_platts, judge
from models.detector_metrics import Boxes, matched, overlap
from node.domain.card import Fusion
from node.imaging.agreement import LEAST, weigh_agreement
from node.imaging.boxes import weighted_boxes

Reals = NDArray[np.floating]

FALSE_PER_IMAGE = 0.125
"""What the threshold of lesions allows on the calibration films."""
LUNG_THRESHOLD = 0.5
# Where there are hardly any false places nearly nothing would be enough.
LEAST_THRESHOLD = 0.05
SAME_OVERLAP = 0.5
SHARES = (0.25, 0.35, 0.45, 0.5, 0.55, 0.65, 0.75)
"""What the first of two members may count."""
COVERAGE = 0.95


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """What several detectors say together of one image; `members` (n, members), 0 where one found nothing."""

    found: Boxes
    members: Reals

    def calibrated(self, fusions: Sequence[Fusion]) -> Boxes:
        """Return the places with the probability that the node gives each."""
        scores = np.zeros(len(self.members))
        for label, fusion in enumerate(fusions, start=1):
            own = self.found.labels == label
            scores[own] = weigh_agreement(self.members[own], fusion).probability
        return replace(self.found, scores=scores)


def fuse(members: Sequence[Boxes]) -> Places:
    """Return what the node makes of the members' boxes on one image."""
    boxes, scores, labels = (
        [getattr(one, name) for one in members] for name in ("boxes", "scores", "labels")
    )
    kinds = [one.kinds for one in members if one.kinds is not None]
    fused = weighted_boxes(boxes, scores, labels, alike=LESIONS, shares_by_member=kinds)
    shares = fused.shares[:, list(LESIONS)] if kinds else None
    return Places(Boxes(fused.boxes, fused.labels, np.asarray(fused.scores, float), shares), fused.members)


def fit_fusions(
    places: Sequence[Places],
    changed: Sequence[Places],
    truths: Sequence[Boxes],
    is_labelled: Sequence[tuple[bool, bool]],
) -> list[Fusion]:
    """Return of each label what makes the mean score a probability, and its interval wide enough.

    `changed` is what is said of slightly changed copies of the same images: the interval of a place is to
    hold what is said of it there, as that of the classifiers does.
    """
    weights = [fit_weights(places, truths, is_labelled, group) for group, _ in GROUPS for _ in group]
    # The node clips scores so, before it takes their logits.
    plain: list[Fusion] = []
    for label, own in enumerate(weights, start=1):
        platt = fit_platts(judge(weighed(places, own), truths, is_labelled))[label - 1]
        plain.append(Fusion(platt.slope, platt.offset, weights=own))
    fitted = list(plain)
    for group, _ in GROUPS:
        constant = fit_constant(places, changed, plain, group)
        for label in group:
            fitted[label - 1] = replace(plain[label - 1], interval_constant=constant)
    return fitted


def weighed(places: Sequence[Places], weights: tuple[float, ...]) -> list[Boxes]:
    """Return places with the weighted mean of their members' logits as probability."""
    fusion = Fusion(weights=weights)
    return [
        Boxes(one.found.boxes, one.found.labels, weigh_agreement(one.members, fusion).probability)
        for one in places
    ]


def fit_weights(
    places: Sequence[Places],
    truths: Sequence[Boxes],
    is_labelled: Sequence[tuple[bool, bool]],
    group: Sequence[int],
) -> tuple[float, ...]:
    """Return what each of two members counts for a group of labels: what gives the least cross-entropy.

    Of another number of members, or where there is too little to tell, all count alike.
    """
    if not places or places[0].members.shape[1] != 2:
        return ()
    losses: dict[tuple[float, ...], float] = {}
    for share in SHARES:
        own = judge(weighed(places, (share, 1 - share)), truths, is_labelled).of(group)
        if not own.is_enough:
            return ()
        platt = fit_platt(own.scores, own.outcomes)
        said = platt.slope * logit(np.clip(own.scores, LEAST, 1 - LEAST)) + platt.offset
        losses[(share, round(1 - share, 2))] = float(np.mean(np.logaddexp(0.0, said) - own.outcomes * said))
    return min(losses, key=losses.__getitem__)


def fit_constant(
    places: Sequence[Places],
    changed: Sequence[Places],
    fusions: Sequence[Fusion],
    group: Sequence[int],
) -> float:
    """Return the least constant with which intervals hold COVERAGE of the logits of changed copies, or 0.

    Only places that are found in the copy too: what is lost there has no logit.
    """
    needed: list[float] = []
    for one, other in zip(places, changed, strict=True):
        own, copy = one.calibrated(fusions), other.calibrated(fusions)
        table = overlap(own.boxes, copy.boxes)
        is_own, is_copied = np.isin(own.labels, group), np.isin(copy.labels, group)
        is_pair = is_own[:, None] & is_copied & (table >= SAME_OVERLAP)
        for index in np.flatnonzero(is_pair.any(axis=1)).tolist():
            mate = int(np.argmax(np.where(is_pair[index], table[index], -1)))
            fusion = fusions[int(own.labels[index]) - 1]
            logits = fusion.slope * logit(np.clip(one.members[index], LEAST, 1 - LEAST))
            spread = float(np.var(logits, ddof=1)) if len(logits) > 1 else 0.0
            away = float(logit(own.scores[index]) - logit(copy.scores[mate]))
            needed.append((away / Z_95) ** 2 - spread)
    if not needed:
        return 0.0
    return round(float(np.sqrt(max(0.0, np.quantile(needed, COVERAGE)))), 4)


def choose_thresholds(
    found: Sequence[Boxes], truths: Sequence[Boxes], is_labelled: Sequence[tuple[bool, bool]]
) -> list[float]:
    """Return of each label the probability from which on it counts, of calibrated places."""
    told = [index for index, (are_lesions, _) in enumerate(is_labelled) if are_lesions]
    images = matched([found[index] for index in told], [truths[index] for index in told], LESIONS)
    false = froc.threshold_at(images, FALSE_PER_IMAGE) if images else LUNG_THRESHOLD
    # What reaches a threshold passes it: the last false place that is one too many must not.
    lesion = float(np.clip(np.floor(false * 1e4 + 1) / 1e4, LEAST_THRESHOLD, 1.0))
    return [lesion if label in LESIONS else LUNG_THRESHOLD for label in range(1, len(LABELS))]
