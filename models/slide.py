"""The networks for whole slides: an encoder of color tiles, and attention over all tiles of a slide."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, conv1x1

from models.radiograph import densenet121_trunk, resnet50_trunk

TILE = 128
"""Pixels along a side of a tile."""
MICROMETERS_PER_PIXEL = 1.0
EMBEDDING = 128
COLORS = 3
# Near the mean and standard deviation of stained tissue in 0–1.
MEAN = (0.80, 0.62, 0.76)
STANDARD_DEVIATION = 0.18
POOLINGS = ("attention", "max", "mean")
TEXTURE_LAYERS = (2, 3)
"""Of every trunk: what the stem gives, and what comes next; colors and fine structure, and no meaning yet."""


def resnet10_trunk(colors: int, width: int) -> tuple[nn.Module, int]:
    """Return the feature layers of a residual network of one block per stage, and its channels.

    The first stage has `width` channels and the last eight times as many; the side shrinks by 32.
    """
    stem = nn.Conv2d(colors, width, kernel_size=5, stride=2, padding=2, bias=False)
    nn.init.kaiming_normal_(stem.weight)
    layers: list[nn.Module] = [stem, nn.BatchNorm2d(width), nn.ReLU()]
    for before, after in pairwise([width, width, 2 * width, 4 * width, 8 * width]):
        shortcut = nn.Sequential(conv1x1(before, after, stride=2), nn.BatchNorm2d(after))
        block = BasicBlock(before, after, stride=2, downsample=shortcut)
        # As in the other residual networks: the branch begins at zero.
        nn.init.zeros_(block.bn2.weight)
        layers.append(block)
    return nn.Sequential(*layers), 8 * width


Trunk = Callable[[], tuple[nn.Module, int]]


def trunks(width: int) -> Mapping[str, Trunk]:
    """Return how to make each kind of trunk; `width` is that of the small one alone."""
    return {
        "resnet10": partial(resnet10_trunk, COLORS, width),
        "resnet50": partial(resnet50_trunk, COLORS),
        "densenet121": partial(densenet121_trunk, COLORS),
    }


TRUNKS = tuple(trunks(1))


class TileEncoder(nn.Module):
    """A trunk for color tiles whose maps become one embedding of length 1 in the mean square."""

    def __init__(self, trunk: str = "resnet10", width: int = 16, embedding: int = EMBEDDING) -> None:
        super().__init__()
        self.trunk, channels = trunks(width)[trunk]()
        self.project = nn.Linear(channels, embedding)
        # Attention compares embeddings: without a common length the darkest tile would win.
        self.norm = nn.LayerNorm(embedding)
        self.register_buffer("mean", torch.tensor(MEAN).view(1, COLORS, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Return embeddings (n, embedding) of RGB tiles (n, 3, s, s) in 0–1."""
        return self.embed(self.trunk(self.scale(image)))

    def scale(self, image: Tensor) -> Tensor:
        """Return RGB tiles in the units of the trunk."""
        return (image - self.mean) / STANDARD_DEVIATION

    def embed(self, maps: Tensor) -> Tensor:
        """Return embeddings of the maps (n, channels, …) of the last layer."""
        return self.norm(self.project(torch.relu(maps).mean(dim=(2, 3)).float()))

    def read(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return embeddings as `forward` does, and the textures (n, t) of the same tiles.

        A texture is the mean and the standard deviation over the tile of each channel of TEXTURE_LAYERS: it
        tells tissue that was never seen much better than embeddings do, which learned to leave such out.
        """
        maps, textures = self.scale(image), []
        for number, layer in enumerate(self.trunk):
            maps = layer(maps)
            if number in TEXTURE_LAYERS:
                mean = maps.mean(dim=(2, 3), keepdim=True)
                textures += [mean.flatten(1), (maps - mean).square().mean(dim=(2, 3)).sqrt()]
        return self.embed(maps), torch.cat(textures, dim=1).float()


class MilAnswer(NamedTuple):
    """What a head says of b slides of n tiles.

    `logits` (b,) of the slides; `attention` (b, n), summing to 1 over the tiles of a slide; `tile_logits`
    (b, n), of which each slide's logit is the mean weighted by attention.
    """

    logits: Tensor
    attention: Tensor
    tile_logits: Tensor


class GatedAttentionMil(nn.Module):
    """Multiple-instance learning over the embeddings of a slide (Ilse et al. 2018).

    `pooling`: "attention" learns what each tile weighs, by a gate of tanh and sigmoid; "max" is the most
    suspicious tile alone; "mean" all tiles alike. The last layer is linear, so that the slide's logit is the
    weighted mean of what it says of each tile.
    """

    def __init__(
        self,
        pooling: str = "attention",
        *,
        embedding: int = EMBEDDING,
        hidden: int = 64,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise ValueError(f"pooling {pooling!r}, expected one of {', '.join(POOLINGS)}")
        self.pooling = pooling
        self.features = nn.Sequential(nn.Linear(embedding, hidden), nn.ReLU(), nn.Dropout(dropout))
        self.evidence = nn.Linear(hidden, 1)
        if pooling == "attention":
            self.content, self.gate = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
            self.weight = nn.Linear(hidden, 1)
            # All tiles weigh alike at first: attention then grows where it helps, not where it began.
            nn.init.zeros_(self.weight.weight)

    def forward(self, embeddings: Tensor) -> MilAnswer:
        """Return the answer to embeddings (b, n, embedding) of b slides of n tiles each."""
        features = self.features(embeddings)
        tile_logits = self.evidence(features)[..., 0]
        attention = self.attend(features, tile_logits)
        return MilAnswer((attention * tile_logits).sum(dim=1), attention, tile_logits)

    def attend(self, features: Tensor, tile_logits: Tensor) -> Tensor:
        """Return what each tile weighs (b, n), by features (b, n, hidden)."""
        if self.pooling == "attention":
            gated = torch.tanh(self.content(features)) * torch.sigmoid(self.gate(features))
            return torch.softmax(self.weight(gated)[..., 0], dim=1)
        if self.pooling == "mean":
            return torch.softmax(torch.zeros_like(tile_logits), dim=1)
        largest = (tile_logits >= tile_logits.amax(dim=1, keepdim=True)).to(tile_logits.dtype)
        return largest / largest.sum(dim=1, keepdim=True)


class SlideNetwork(nn.Module):
    """An encoder, and heads on its embeddings: an ensemble of attention, and one of each other pooling."""

    def __init__(self, encoder: TileEncoder, heads: int, dropout: float = 0.2) -> None:
        super().__init__()
        self.encoder = encoder
        embedding = encoder.norm.normalized_shape[0]
        counts = {"attention": heads, "max": 1, "mean": 1}
        self.heads = nn.ModuleDict(
            {
                pooling: nn.ModuleList(
                    GatedAttentionMil(pooling, embedding=embedding, dropout=dropout) for _ in range(count)
                )
                for pooling, count in counts.items()
            }
        )

    def forward(self, bags: Tensor) -> MilAnswer:
        """Return what the first head of attention says of tiles (b, n, 3, s, s) in 0–1."""
        embeddings = self.encoder(bags.flatten(0, 1)).unflatten(0, bags.shape[:2])
        return self.heads["attention"][0](embeddings)
