"""What kind a lesion is, told from the picture itself: detectors find lesions well and name them badly.

Their maps are coarse where a lesion is large, and its kind is in its edge and texture. A small network looks
at the picture around each box once more, and at how large the box is beside the lungs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from models.detector import LESIONS, LUNGS

SIDE = 48
"""Pixels of what is looked at, whatever the size of the box."""
AROUND, MORE_PX = 0.8, 3.0
"""From the middle of a box it reaches so many of its longer sides, and pixels."""
SPAN_PX = 400.0
"""How far both lungs reach across the square where they are not found."""
SURE = 0.3
NAMED = 12
"""So many lesions of an image are looked at, the surest: what comes after them is hardly ever one."""


class KindNetwork(nn.Module):
    """Logits of the kinds of lesions, of pieces of pictures and the sizes of their boxes."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 1
        for after in (width, 2 * width, 4 * width, 4 * width):
            layers += [
                nn.Conv2d(before, after, 3, padding=1),
                nn.BatchNorm2d(after),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
            before = after
        self.features = nn.Sequential(*layers)
        places = (SIDE // 16) ** 2
        self.decide = nn.Sequential(
            nn.Dropout(0.3), nn.Linear(before * places + 2, 64), nn.ReLU(), nn.Linear(64, len(LESIONS))
        )

    def forward(self, pieces: Tensor, sizes: Tensor) -> Tensor:
        """Return logits (n, kinds) of pieces (n, 1, SIDE, SIDE) in 0–1 and sizes (n, 2) of `sizes_of`."""
        middle = pieces.mean(dim=(2, 3), keepdim=True)
        spread = (pieces - middle).square().mean(dim=(2, 3), keepdim=True).sqrt()
        # Faint or plain, dark or bright: that tells no kind.
        maps = self.features((pieces - middle) / (spread + 0.02))
        return self.decide(torch.cat([maps.flatten(1), sizes], dim=1))


def pieces_of(image: Tensor, boxes: Tensor) -> Tensor:
    """Return what lies around boxes (n, k, 4) of images (n, 1, s, s): (n k, 1, SIDE, SIDE)."""
    middle = (boxes[..., :2] + boxes[..., 2:]) / 2
    reach = AROUND * (boxes[..., 2:] - boxes[..., :2]).amax(dim=2, keepdim=True) + MORE_PX
    images = torch.arange(boxes.shape[0], device=boxes.device).to(boxes.dtype)[:, None, None]
    regions = torch.cat([images.expand(-1, boxes.shape[1], 1), middle - reach, middle + reach], dim=2)
    return roi_align(image, regions.flatten(0, 1), (SIDE, SIDE), 1.0, 2)


def sizes_of(boxes: Tensor, span: Tensor) -> Tensor:
    """Return width and height (n k, 2) of boxes (n, k, 4) beside the lungs' span (n,), as logarithms."""
    sides = (boxes[..., 2:] - boxes[..., :2]).clamp(min=1.0)
    return torch.log(sides / span[:, None, None]).flatten(0, 1) + 2.0


def span_of(boxes: Tensor, is_lung: Tensor) -> Tensor:
    """Return how far the lungs among boxes (n, k, 4) reach across (n,), SPAN_PX without two sides of them."""
    left = torch.where(is_lung, boxes[..., 0], torch.inf).amin(dim=1)
    right = torch.where(is_lung, boxes[..., 2], -torch.inf).amax(dim=1)
    return torch.where((is_lung.sum(dim=1) >= 2) & (right - left > 1.0), right - left, SPAN_PX)


def seen_often(network: KindNetwork, pieces: Tensor, sizes: Tensor) -> Tensor:
    """Return the mean logits of pieces as they are, in a mirror, upside down and both.

    Of a lesion's kind that tells nothing, and several views are wrong less often.
    """
    views = (pieces, pieces.flip(3), pieces.flip(2), pieces.flip(2, 3))
    return torch.stack([network(view, sizes) for view in views]).mean(dim=0)


class KindGraph(nn.Module):
    """A detector's graph, and after it the kind of each lesion; boxes and scores stay as they are.

    Beside the likeliest kind it says how likely each is: a lesion may look like two.
    """

    def __init__(self, detector: nn.Module, kinds: KindNetwork) -> None:
        super().__init__()
        self.detector = detector
        self.kinds = kinds

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return NAMED_OUTPUTS of images (n, 1, s, s) in 0–1."""
        boxes, scores, labels = self.detector(image)
        is_lung = (labels >= min(LUNGS)) & (scores > SURE)
        span = span_of(boxes, is_lung)
        is_lesion = (labels >= min(LESIONS)) & (labels <= max(LESIONS))
        _, index = torch.where(is_lesion, scores, -1.0).topk(min(NAMED, scores.shape[1]), dim=1)
        chosen = boxes.gather(1, index[..., None].expand(-1, -1, 4))
        pieces, sizes = pieces_of(image, chosen), sizes_of(chosen, span)
        said = seen_often(self.kinds, pieces, sizes).softmax(dim=1).reshape(*index.shape, len(LESIONS))
        places = index[..., None].expand_as(said)
        shares = torch.zeros_like(boxes[..., : len(LESIONS)]).scatter(1, places, said) * is_lesion[..., None]
        named = labels.scatter(1, index, said.argmax(dim=2) + min(LESIONS))
        return boxes, scores, torch.where(is_lesion, named, labels), shares
