"""The networks for radiographs: a grayscale trunk and a head that shows where it looked."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models import densenet121, resnet18

# The mean and standard deviation of prepared kermany radiographs.
MEAN = 0.58
STANDARD_DEVIATION = 0.29


class AttentionMapHead(nn.Module):
    """Evidence per place and class, summed with learned attention: the logits and their map.

    The logit of a class is the attention-weighted mean of its evidence, so the map is the decision itself,
    not a picture drawn afterwards, and needs no gradients when served.
    """

    def __init__(self, channels: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout2d(dropout)
        self.evidence = nn.Conv2d(channels, classes, kernel_size=1)
        self.attention = nn.Conv2d(channels, classes, kernel_size=1)
        # Even attention at the start: training begins as plain average pooling.
        nn.init.zeros_(self.attention.weight)
        nn.init.zeros_(self.attention.bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (n, classes) and activation maps (n, classes, h, w) in 0–1."""
        features = self.dropout(features)
        evidence = self.evidence(features).float()
        attention = self.attention(features).float().flatten(2).softmax(dim=2)
        logits = (attention * evidence.flatten(2)).sum(dim=2)
        # Relative to the most attended place: a map is 1 only where evidence and attention are both high.
        weight = attention / attention.amax(dim=2, keepdim=True)
        activation = torch.sigmoid(evidence) * weight.reshape(evidence.shape)
        return logits, activation


class RadiographNetwork(nn.Module):
    """A trunk for one gray channel with an attention-map head, from images (n, 1, s, s) in 0–1."""

    def __init__(self, classes: int, dropout: float = 0.3, trunk: str = "densenet121") -> None:
        super().__init__()
        self.features, channels = TRUNKS[trunk]()
        self.head = AttentionMapHead(channels, classes, dropout)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (n, classes) and activation maps (n, classes, s / 32, s / 32) in 0–1."""
        features = self.features((image - MEAN) / STANDARD_DEVIATION)
        logits, activation = self.head(torch.relu(features))
        return logits, activation


def densenet121_trunk() -> tuple[nn.Module, int]:
    """Return the feature layers of a DenseNet-121 for one channel, and how many channels they give."""
    network = densenet121(weights=None)
    network.features.conv0 = gray_stem()
    return network.features, network.classifier.in_features


def resnet18_trunk() -> tuple[nn.Module, int]:
    """Return the feature layers of a ResNet-18 for one channel, and how many channels they give."""
    network = resnet18(weights=None)
    network.conv1 = gray_stem()
    # Without average pooling and classifier: the head wants the map.
    return nn.Sequential(*list(network.children())[:-2]), network.fc.in_features


def gray_stem() -> nn.Module:
    """Return the first convolution of either trunk, for one channel."""
    stem = nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
    nn.init.kaiming_normal_(stem.weight)
    return stem


TRUNKS = {"densenet121": densenet121_trunk, "resnet18": resnet18_trunk}
