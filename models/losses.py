"""What training minimizes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def masked_binary_cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return the mean binary cross-entropy over known labels; NaN in `labels` is unknown and weighs nothing.

    `smoothing` moves the wanted probabilities from 0 and 1 to smoothing / 2 and 1 - smoothing / 2. A batch
    without any known label gives 0.
    """
    is_known = ~torch.isnan(labels)
    wanted = torch.nan_to_num(labels) * (1.0 - smoothing) + smoothing / 2.0
    loss = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    return (loss * is_known).sum() / is_known.sum().clamp(min=1)
