"""The graph that is served for nodule masks: several U-Nets and what they say together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.graphs import binary_entropy
from models.volume import UNet

MASK_OUTPUTS = ("probability", "entropy", "mutual_information")


class MaskGraph(nn.Module):
    """The calibrated probability of each voxel, the mean of several networks, and its uncertainty."""

    def __init__(self, networks: Sequence[UNet], temperature: Sequence[float]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.temperature = tuple(temperature)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Take HU (n, 1, z, y, x) int16; return MASK_OUTPUTS, each (n, 1, z, y, x), the last two in bit."""
        each = [
            torch.sigmoid(network(image) / temperature)
            for network, temperature in zip(self.networks, self.temperature, strict=True)
        ]
        probability = torch.stack(each).mean(dim=0)
        entropy = binary_entropy(probability)
        expected = torch.stack([binary_entropy(one) for one in each]).mean(dim=0)
        return probability, entropy, (entropy - expected).clamp(min=0.0)
