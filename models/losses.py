"""What training minimizes. Labels are 0 to 1, mixed ones in between; NaN is unknown and weighs nothing."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def masked_binary_cross_entropy(
    logits: Tensor, labels: Tensor, smoothing: float = 0.0, weights: Tensor | None = None
) -> Tensor:
    """Return the weighted mean binary cross-entropy over known labels, of logits and labels (n, classes).

    `smoothing` moves the wanted probabilities from 0 and 1 to smoothing / 2 and 1 - smoothing / 2. `weights`
    (2, classes) are those of a negative and of a positive of each class. A batch without any known label
    gives 0.
    """
    wanted = _smooth(labels, smoothing)
    loss = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    return _mean_over_known(loss, labels, weights)


def masked_focal_loss(
    logits: Tensor,
    labels: Tensor,
    smoothing: float = 0.0,
    gamma: float = 2.0,
    weights: Tensor | None = None,
) -> Tensor:
    """Return the weighted mean focal loss (Lin et al. 2017, sigmoid form) over known labels.

    The cross-entropy of each label times |wanted - probability| ** gamma: for a label of 0 or 1 that is the
    original loss, for one in between its extension by Li et al. 2020, whose minimum stays at the wanted
    probability. Gamma 0 is the plain cross-entropy; the other arguments are as there.
    """
    wanted = _smooth(labels, smoothing)
    loss = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    # Below gamma 1 the slope at a distance of exactly 0 is infinite, and one such case would end a training.
    distance = (wanted - torch.sigmoid(logits)).abs().clamp(min=1e-6)
    return _mean_over_known(distance**gamma * loss, labels, weights)


def class_balanced_weights(labels: Tensor, beta: float = 0.999) -> Tensor:
    """Return the weights (2, classes) of a negative and a positive of each class in labels (n, classes).

    Each is the inverse of its effective number (1 - beta**count) / (1 - beta) (Cui et al. 2019), scaled so
    that the mean over the known labels of each class is 1. A kind without cases gets the weight of a single
    one, a class without known labels 1. ValueError unless 0 <= beta < 1.
    """
    if not 0 <= beta < 1:
        raise ValueError(f"beta {beta}, expected 0 <= beta < 1")
    known, positives = (~torch.isnan(labels)).sum(dim=0), torch.nan_to_num(labels).double().sum(dim=0)
    counts = torch.stack([known - positives, positives])
    weights = (1 - beta) / (1 - beta ** counts.clamp(min=1))
    mean = (counts * weights).sum(dim=0) / known
    return torch.where(known > 0, weights / mean, 1.0).to(labels.dtype)


def attention_loss(attention: Tensor, masks: Tensor, weights: Tensor) -> Tensor:
    """Return how little of the attention (n, h, w) lies in the masks (n, 1, s, s): mean -log of its part.

    Over the images whose mask holds anything, by `weights` (n,); 0 where none does.
    """
    inside = functional.adaptive_max_pool2d(masks, attention.shape[-2:])[:, 0] > 0
    part = (attention * inside).sum(dim=(1, 2)).clamp(min=1e-6)
    counted = weights * inside.any(dim=2).any(dim=1)
    total = counted.sum()
    return -(counted * part.log()).sum() / torch.where(total > 0, total, 1.0)


def _smooth(labels: Tensor, smoothing: float) -> Tensor:
    return torch.nan_to_num(labels) * (1.0 - smoothing) + smoothing / 2.0


def _mean_over_known(loss: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
    share = (~torch.isnan(labels)).to(loss.dtype)
    if weights is not None:
        # A mixed label weighs as the mixture of its parts.
        share = share * torch.lerp(weights[0], weights[1], torch.nan_to_num(labels))
    total = share.sum()
    return (loss * share).sum() / torch.where(total > 0, total, 1.0)


def dice_loss(logits: Tensor, masks: Tensor, weights: Tensor) -> Tensor:
    """Return 1 - the soft Dice coefficient over the voxels of a batch, of logits, masks and weights alike.

    Over the batch as one, so that a volume without a nodule counts by what is found in it; the mean of the
    coefficient of each volume with one is added, so that a small nodule weighs as much as a large one.
    """
    found = torch.sigmoid(logits) * weights
    truth = masks * weights
    places = tuple(range(1, logits.ndim))
    both, sizes = (found * truth).sum(dim=places), found.sum(dim=places) + truth.sum(dim=places)
    whole = 2.0 * both.sum() / sizes.sum().clamp(min=1.0)
    has_nodule = (truth.sum(dim=places) > 0).float()
    each = 2.0 * (both + 1.0) / (sizes + 2.0)
    own = (each * has_nodule).sum() / has_nodule.sum().clamp(min=1.0)
    return 1.0 - 0.5 * (whole + own)


def voxel_focal_loss(logits: Tensor, masks: Tensor, weights: Tensor, gamma: float = 1.0) -> Tensor:
    """Return the weighted mean focal loss over voxels; masks are 0 to 1, a border voxel in between."""
    loss = functional.binary_cross_entropy_with_logits(logits, masks, reduction="none")
    distance = (masks - torch.sigmoid(logits)).abs().clamp(min=1e-6)
    return (distance**gamma * loss * weights).sum() / weights.sum().clamp(min=1.0)


def attention_entropy(attention: Tensor) -> Tensor:
    """Return the mean entropy of attention (b, n): 1 where all tiles weigh alike, 0 where one has it all."""
    # Of a single tile both are nothing: it has all there is, and evenly.
    largest = math.log(attention.shape[1]) or 1.0
    entropy = -(attention * attention.clamp(min=1e-12).log()).sum(dim=1) / largest
    return entropy.mean() if attention.shape[1] > 1 else torch.ones_like(entropy.mean())
