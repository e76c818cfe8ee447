"""The networks for radiographs: a grayscale trunk and a head that shows where it looked."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models import densenet121, resnet50

# The mean and standard deviation of prepared kermany radiographs.
MEAN = 0.58
STANDARD_DEVIATION = 0.29
STRIDE = 32
"""Pixels of the image per place of the map."""


class Answer(NamedTuple):
    """What a network says of n images.

    `logits` (n, classes); `evidence` and `attention` (n, classes, h, w; of a volume d, h, w), the attention
    summing to 1 over the places; `features` (n, channels), the trunk's mean over the places; `foreign` (n,),
    the logit of "this is nothing that the network was made for".
    """

    logits: Tensor
    evidence: Tensor
    attention: Tensor
    features: Tensor
    foreign: Tensor

    @property
    def activation(self) -> Tensor:
        """The activation maps, shaped as `evidence`, in 0–1: high where both evidence and attention are."""
        # Relative to the most attended place, so that a map does not fade as the attention spreads.
        places = tuple(range(2, self.attention.ndim))
        return torch.sigmoid(self.evidence) * self.attention / self.attention.amax(dim=places, keepdim=True)


LAYERS_BY_DIMENSIONS: dict[int, tuple[type[nn.Module], type[nn.Module]]] = {
    2: (nn.Dropout2d, nn.Conv2d),
    3: (nn.Dropout3d, nn.Conv3d),
}


class AttentionMapHead(nn.Module):
    """Evidence per place and class, summed with learned attention: the logits and their map.

    The logit of a class is the attention-weighted mean of its evidence, so the map is the decision itself,
    not a picture drawn afterwards, and needs no gradients when served.
    """

    def __init__(self, channels: int, classes: int, dropout: float, *, dimensions: int = 2) -> None:
        super().__init__()
        drop, convolve = LAYERS_BY_DIMENSIONS[dimensions]
        self.dropout = drop(dropout)
        self.evidence = convolve(channels, classes, kernel_size=1)
        self.attention = convolve(channels, classes, kernel_size=1)
        self.foreign = nn.Linear(channels, 1)
        # Even attention at the start: training begins as plain average pooling.
        nn.init.zeros_(self.attention.weight)
        nn.init.zeros_(self.attention.bias)

    def forward(self, maps: Tensor) -> Answer:
        """Return the answer to feature maps (n, channels, h, w), or (n, channels, d, h, w) of a volume."""
        features = maps.flatten(2).mean(dim=2).float()
        dropped = self.dropout(maps)
        evidence = self.evidence(dropped).float()
        attention = self.attention(dropped).float().flatten(2).softmax(dim=2).reshape(evidence.shape)
        logits = (attention * evidence).flatten(2).sum(dim=2)
        return Answer(logits, evidence, attention, features, self.foreign(features).float()[:, 0])


class RadiographNetwork(nn.Module):
    """A trunk for one gray channel with an attention-map head, for images (n, 1, s, s) in 0–1."""

    def __init__(self, classes: int, dropout: float = 0.3, trunk: str = "densenet121") -> None:
        super().__init__()
        self.trunk, channels = TRUNKS[trunk]()
        self.head = AttentionMapHead(channels, classes, dropout)

    def forward(self, image: Tensor) -> Answer:
        """Return the answer; its maps are (s / 32, s / 32)."""
        maps = torch.relu(self.trunk((image - MEAN) / STANDARD_DEVIATION))
        answer: Answer = self.head(maps)
        return answer


def densenet121_trunk(colors: int = 1) -> tuple[nn.Module, int]:
    """Return the feature layers of a DenseNet-121 for gray or color, and how many channels they give."""
    network = densenet121(weights=None)
    network.features.conv0 = stem(colors)
    return network.features, network.classifier.in_features


def resnet50_trunk(colors: int = 1) -> tuple[nn.Module, int]:
    """Return the feature layers of a ResNet-50 for gray or color, and how many channels they give."""
    # Each residual branch begins at zero: without pre-trained weights the identity is the better start.
    network = resnet50(weights=None, zero_init_residual=True)
    network.conv1 = stem(colors)
    # Without average pooling and classifier: the head wants the map.
    return nn.Sequential(*list(network.children())[:-2]), network.fc.in_features


def stem(colors: int) -> nn.Module:
    """Return the first convolution of either trunk, for one channel or three."""
    convolution = nn.Conv2d(colors, 64, kernel_size=7, stride=2, padding=3, bias=False)
    nn.init.kaiming_normal_(convolution.weight)
    return convolution


TRUNKS = {"densenet121": densenet121_trunk, "resnet50": resnet50_trunk}
