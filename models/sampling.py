"""Which images an epoch shows, so that a rare kind is seen as often as a frequent one."""

from __future__ import annotations

import torch
from torch import Tensor


def balanced_order(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Return the indices (n) of one epoch over labels (n, classes): every label pattern equally often.

    A pattern is a distinct row of labels; NaN counts as a value of its own, so an illness of unknown kind is
    one more pattern. Images are drawn with replacement within their pattern, and the counts of two patterns
    differ by at most one.
    """
    # NaN differs from itself, so every row with one would be a pattern of its own.
    patterns, pattern_of = torch.unique(labels.nan_to_num(nan=-1.0), dim=0, return_inverse=True)
    quotas = torch.bincount(torch.arange(len(labels)) % len(patterns), minlength=len(patterns))
    drawn = []
    for pattern, quota in enumerate(quotas.tolist()):
        members = torch.nonzero(pattern_of == pattern).flatten()
        drawn.append(members[torch.randint(len(members), (quota,), generator=generator)])
    order = torch.cat(drawn)
    return order[torch.randperm(len(order), generator=generator)]
