"""What the detectors minimize: focal loss, generalized IoU, and the hardest of the many places with nothing.

Boxes are (n, 4): left, top, right, bottom in pixels; places are cells of a map, anchors or proposals.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

# Keeps the division of two boxes without any area finite.
LEAST_AREA = 1e-7


def focal_loss(logits: Tensor, wanted: Tensor, *, gamma: float = 2.0, alpha: float | None = None) -> Tensor:
    """Return the focal loss (Lin et al. 2017) of every label, shaped as `logits`; 0 where `wanted` is NaN.

    `wanted` may lie between 0 and 1, as of a box that overlaps its truth in part: the cross-entropy times
    |wanted − probability| ** gamma, the quality focal loss of Li et al. 2020. `alpha` is what a positive
    weighs, a negative 1 − alpha; None weighs both as they are.
    """
    is_known = ~torch.isnan(wanted)
    truth = torch.nan_to_num(wanted)
    loss = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    # Below gamma 1 the slope at a distance of exactly 0 is infinite, and one such place would end a training.
    loss = loss * (truth - torch.sigmoid(logits)).abs().clamp(min=1e-6) ** gamma
    if alpha is not None:
        loss = loss * (alpha * truth + (1.0 - alpha) * (1.0 - truth))
    return torch.where(is_known, loss, 0.0)


def overlaps(boxes: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Return IoU and generalized IoU (n,) of boxes (n, 4) and others (n, 4), pair by pair.

    Generalized (Rezatofighi et al. 2019): less the part of the common hull that neither covers, from −1 to 1,
    so that boxes that do not meet are drawn towards each other too.
    """
    low, high = torch.maximum(boxes[:, :2], others[:, :2]), torch.minimum(boxes[:, 2:], others[:, 2:])
    common = (high - low).clamp(min=0.0).prod(dim=1)
    union = area(boxes) + area(others) - common
    low, high = torch.minimum(boxes[:, :2], others[:, :2]), torch.maximum(boxes[:, 2:], others[:, 2:])
    hull = (high - low).clamp(min=0.0).prod(dim=1)
    overlap = common / union.clamp(min=LEAST_AREA)
    return overlap, overlap - (hull - union) / hull.clamp(min=LEAST_AREA)


def area(boxes: Tensor) -> Tensor:
    """Return the areas (n,) of boxes; 0 of one whose corners are the wrong way around."""
    return (boxes[:, 2:] - boxes[:, :2]).clamp(min=0.0).prod(dim=1)


def hardest_negatives(loss: Tensor, is_positive: Tensor, *, ratio: float = 3.0, least: int = 16) -> Tensor:
    """Return which places (n,) count: all positives, and so many negatives for each, those of the most loss.

    As of SSD (Liu et al. 2016): nearly all places hold nothing and are easy, and would drown the few that
    are mistaken for something. `least` negatives count where there are fewer positives than that.
    """
    negatives = int((~is_positive).sum())
    count = min(negatives, max(least, round(ratio * int(is_positive.sum()))))
    asked = torch.where(is_positive, -torch.inf, loss.detach())
    chosen = is_positive.clone()
    chosen[asked.topk(count).indices] = True
    return chosen


def partial_cross_entropy(logits: Tensor, labels: Tensor, is_possible: Tensor) -> Tensor:
    """Return the cross-entropy (n,) of logits (n, classes) where background may be what nobody has labelled.

    `is_possible` (n, classes) is which classes a place of label 0 may hold after all: it is asked for the sum
    of their probabilities and that of background alone. A place with a label is asked for it, as ever.
    """
    each = torch.log_softmax(logits, dim=1)
    is_wanted = functional.one_hot(labels, logits.shape[1]).bool()
    is_wanted = is_wanted | (is_possible & (labels == 0)[:, None])
    return -torch.where(is_wanted, each, -torch.inf).logsumexp(dim=1)


def kind_loss(logits: Tensor, kinds: Tensor) -> Tensor:
    """Return the mean cross-entropy of logits (n, kinds) among themselves, 0 of none.

    Beside the question whether anything is there, what it is hardly weighs: this asks of what is there alone.
    """
    return functional.cross_entropy(logits, kinds) if len(kinds) else logits.sum() * 0.0
