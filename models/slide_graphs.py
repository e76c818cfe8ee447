"""The graphs that are served for slides: tiles to embeddings, and all embeddings of a slide to its answer.

Two, so that a slide of any size streams: of each tile only its embedding is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.graphs import OUTPUTS, Combination, CombineGraph
from models.slide import GatedAttentionMil, TileEncoder
from models.strangeness import Gaussian, Subspace

TILE_OUTPUTS = ("embeddings", "textures")
"""Of each tile, and both go into the second graph: what the heads weigh, and what tells strange tissue."""
# As of the other ensembles, with attention over tiles in the place of a map over pixels.
SLIDE_OUTPUTS = (*OUTPUTS[:-1], "attention", "tile_probability")
TILES_FREE = {name: {1: "tiles"} for name in (*TILE_OUTPUTS, "attention", "tile_probability")}
"""The axis of each tensor of the second graph that is as long as the slide has tiles."""


@dataclass(frozen=True, slots=True)
class Known:
    """Where the tiles of training lie, by their embeddings and by their textures."""

    embeddings: Subspace
    textures: Gaussian


class TileGraph(nn.Module):
    """The embedding and the texture of each tile, from the bytes as they were decoded."""

    def __init__(self, encoder: TileEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Take RGB (n, rows, columns, 3) uint8; return embeddings (n, d) and textures (n, t)."""
        return self.encoder.read(image.permute(0, 3, 1, 2).float() / 255.0)


class MilEnsemble(nn.Module):
    """The calibrated probability of a slide, the mean of several heads, its uncertainty and its reasons."""

    def __init__(
        self,
        heads: Sequence[GatedAttentionMil],
        temperature: Sequence[float],
        combination: Combination,
        known: Known,
    ) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)
        self.combine = CombineGraph(combination)
        self.register_buffer("temperature", torch.tensor(temperature, dtype=torch.float32))
        self.register_buffer("center", torch.from_numpy(known.embeddings.center))
        self.register_buffer("directions", torch.from_numpy(known.embeddings.directions))
        self.register_buffer("texture_center", torch.from_numpy(known.textures.center))
        self.register_buffer("whitening", torch.from_numpy(known.textures.whitening))

    def forward(self, embeddings: Tensor, textures: Tensor) -> tuple[Tensor, ...]:
        """Take embeddings (b, n, d) and textures (b, n, t) of b slides of n tiles; return SLIDE_OUTPUTS.

        All but the last two as of CombineGraph with one class. Attention (b, n), the mean over heads, sums
        to 1 over a slide's tiles; the probability of each tile (b, n) is what the heads would say of a slide
        of such tiles alone.
        """
        answers = [head(embeddings) for head in self.heads]
        scaled = zip(answers, self.temperature.unbind(), strict=True)
        logits, tiles = zip(*((one.logits / t, one.tile_logits / t) for one, t in scaled), strict=True)
        strangeness = torch.stack([self.outside(embeddings), self.unusual(textures)], dim=2).mean(dim=1)
        *said, attention = self.combine(
            *(one[:, None, None] for one in logits),
            *(one.attention for one in answers),
            *(strangeness for _ in answers),
        )
        tile_probability = torch.sigmoid(torch.stack(tiles)).mean(dim=0)
        return (*said, attention, tile_probability)

    def outside(self, embeddings: Tensor) -> Tensor:
        """Return how far each embedding lies outside the subspace of the training tiles' (b, n)."""
        deviation = embeddings - self.center
        outside = deviation - deviation @ self.directions @ self.directions.T
        return outside.square().sum(dim=2).sqrt()

    def unusual(self, textures: Tensor) -> Tensor:
        """Return the Mahalanobis distance of each texture from those of training tiles (b, n)."""
        return ((textures - self.texture_center) @ self.whitening).square().sum(dim=2).sqrt()
