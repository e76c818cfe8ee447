"""Small networks for lesions that were never trained, and boxes for them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.detector import FasterRcnn, YoloDetector, faster_rcnn

SIDE = 128
KINDS = ("yolo", "faster_rcnn")


def boxes_of(count: int, seed: int, side: float = 100.0) -> Tensor:
    """Return boxes within a square, at least 2 pixels wide."""
    random = torch.Generator().manual_seed(seed)
    low = torch.rand((count, 2), generator=random) * (side - 30)
    return torch.cat([low, low + 2 + 28 * torch.rand((count, 2), generator=random)], dim=1)


def small(kind: str) -> FasterRcnn | YoloDetector:
    """Return a small network of a kind whose normalization has seen something."""
    torch.manual_seed(3)
    if kind == "yolo":
        network: nn.Module = YoloDetector(8, 16)
    else:
        network = faster_rcnn(width=8, channels=16, hidden=32, proposals=50)
    network.train()
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = 1.0
            # Branches that begin at zero pass nothing on to the layers before.
            nn.init.constant_(part.weight, 0.7)
    with torch.no_grad():
        image = torch.rand(2, 1, SIDE, SIDE)
        if kind == "yolo":
            network(image)
            for head in network.heads:
                head.kind[-1].bias.zero_()
        else:
            network.features(image)
    return network.eval()
