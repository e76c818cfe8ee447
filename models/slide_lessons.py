"""What the networks for slides learn: some tiles of each slide, changed at random, and its label alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from models.losses import attention_entropy, masked_binary_cross_entropy
from models.slide import MICROMETERS_PER_PIXEL, TILE, MilAnswer, TileEncoder
from models.slide_data import Bag, Shape
from models.stain import vary_stains

SLIDES = "slide_tumor"
EMBED_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class SlideSettings:
    """Everything that decides a training run on slides; see Settings of models.train for the common words.

    The encoder learns with one head of attention, from `tiles` tiles of each of `batch` slides at a time.
    Then several `heads`, and one of each other pooling, learn for `head_epochs` from the embeddings of
    `views` views of all tiles: as they are, and in changed stains. `entropy` is what even attention is worth
    at first; it falls to a tenth over the epochs, so that the first ones are nearly mean pooling, and the
    last ones still look at more than one tile; so does `tile_loss`, what each tile's own answer weighs while
    the encoder learns. `slides` of `side` pixels are drawn, `tuning` more for the
    printed figures. `init` is a checkpoint whose encoder is the start.
    """

    out: str
    model: str = SLIDES
    epochs: int = 16
    trunk: str = "resnet10"
    width: int = 16
    slides: int = 160
    tuning: int = 24
    side: int = 4096
    tile: int = TILE
    micrometers_per_pixel: float = MICROMETERS_PER_PIXEL
    batch: int = 4
    tiles: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 0.03
    dropout: float = 0.2
    smoothing: float = 0.05
    strength: float = 1.0
    entropy: float = 0.3
    tile_loss: float = 1.0
    heads: int = 3
    head_epochs: int = 40
    head_tiles: int = 128
    views: int = 3
    ema_decay: float = 0.99
    patience: int = 0
    init: str = ""
    seed: int = 1
    device: str = "auto"
    threads: int = 2

    @property
    def shape(self) -> Shape:
        """How its slides are drawn and cut."""
        return Shape(self.side, self.tile, self.micrometers_per_pixel)

    @property
    def layout(self) -> torch.memory_format:
        """How weights lie in memory: colors last is faster, where it is safe.

        Of a strided convolution of 1 × 1 with fewer than 16 channels PyTorch 2.14 then writes past the end of
        the gradient on a CPU, and the process may die.
        """
        is_safe = self.trunk != "resnet10" or (self.width >= 16 and self.width % 8 == 0)
        return torch.channels_last if is_safe else torch.contiguous_format


def slide_loss(
    answer: MilAnswer, labels: Tensor, *, smoothing: float, entropy: float, tiles: float = 0.0
) -> Tensor:
    """Return the cross-entropy of slides (b,), less what even attention over their tiles is worth.

    `tiles` is the weight of asking each tile alone for its slide's label. Most answers to that are wrong of a
    slide with a tumor, but only there can a tile of tumor be: an encoder learns from it long before the
    slides' own few labels teach it anything.
    """
    loss = masked_binary_cross_entropy(answer.logits.float()[:, None], labels[:, None], smoothing)
    if tiles:
        said = answer.tile_logits.float()
        loss = loss + tiles * masked_binary_cross_entropy(said, labels[:, None].expand_as(said), smoothing)
    return loss - entropy * attention_entropy(answer.attention.float())


def falling(weight: float, done: float) -> float:
    """Return a weight that falls to a tenth, when such a part of a training is done."""
    return weight * 0.1 ** min(done, 1.0)


def balanced_batches(bags: Sequence[Bag], batch: int, random: torch.Generator) -> list[list[int]]:
    """Return whole batches of slides, each half with and half without a tumor as far as both are there."""
    kinds = [[index for index, bag in enumerate(bags) if bag.is_tumor == wanted] for wanted in (True, False)]
    turns = [[kind[one] for one in torch.randperm(len(kind), generator=random).tolist()] for kind in kinds]
    length = min(len(turn) for turn in turns) or max(len(turn) for turn in turns)
    mixed = [one for pair in zip(*(turn[:length] for turn in turns if turn), strict=True) for one in pair]
    return [mixed[start : start + batch] for start in range(0, max(len(mixed) - batch, 0) + 1, batch)]


def draw_tiles(length: int, count: int, random: torch.Generator) -> Tensor:
    """Return so many tiles out of `length`: none twice before all were drawn."""
    rounds = -(-count // length)
    return torch.cat([torch.randperm(length, generator=random) for _ in range(rounds)])[:count]


def draw_bags(bags: Sequence[Bag], settings: SlideSettings, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return changed tiles (b, n, 3, s, s) in 0–1 of slides, and their labels (b,)."""
    chosen = [bag.tiles[draw_tiles(len(bag), settings.tiles, random).numpy()] for bag in bags]
    shown = torch.stack([torch.from_numpy(part) for part in chosen])
    return change(shown, stains_of(bags), settings.strength, random), labels_of(bags)


def labels_of(bags: Sequence[Bag]) -> Tensor:
    """Return 1 for each slide with a tumor and 0 for each other (b,)."""
    return torch.tensor([float(bag.is_tumor) for bag in bags])


def stains_of(bags: Sequence[Bag]) -> Tensor:
    """Return the stains of slides (b, 2, 3)."""
    return torch.stack([torch.from_numpy(bag.stains) for bag in bags])


def change(tiles: Tensor, stains: Tensor, strength: float, random: torch.Generator) -> Tensor:
    """Return tiles (b, n, s, s, 3) uint8 as (b, n, 3, s, s) in 0–1: stained, blurred and turned."""
    if not strength:
        return _to_unit(tiles)
    # A generator of its own: how many tiles there are must not change what is drawn for a whole slide.
    turned = turn(tiles, torch.Generator().manual_seed(int(torch.randint(2**31, (1,), generator=random))))
    return blur(vary_stains(_to_unit(turned), random, strength, stains), random, strength)


def _to_unit(tiles: Tensor) -> Tensor:
    return tiles.permute(0, 1, 4, 2, 3).float() / 255.0


def turn(tiles: Tensor, random: torch.Generator) -> Tensor:
    """Return tiles (b, n, s, s, …), each turned or mirrored at random: tissue has no upper side."""
    shape = (*tiles.shape[:2], *[1] * (tiles.ndim - 2))
    for axes in ((2,), (3,), (2, 3)):
        mirrored = tiles.flip(axes) if len(axes) == 1 else tiles.transpose(*axes)
        tiles = torch.where(torch.rand(shape, generator=random) < 0.5, mirrored, tiles)
    return tiles


def blur(tiles: Tensor, random: torch.Generator, strength: float) -> Tensor:
    """Return tiles (b, n, 3, s, s), those of each slide out of focus by up to about a pixel."""
    soft = functional.avg_pool2d(tiles.flatten(0, 1), 3, stride=1, padding=1, count_include_pad=False)
    share = torch.rand((len(tiles), 1, 1, 1, 1), generator=random) * min(strength, 1.0)
    return torch.lerp(tiles, soft.view_as(tiles), 0.8 * share)


def embed(
    encoder: TileEncoder, bag: Bag, *, strength: float = 0.0, random: torch.Generator | None = None
) -> Tensor:
    """Return the embeddings (n, d) of all tiles of a slide, changed where a strength is given."""
    return read_tiles(encoder, bag, strength=strength, random=random)[0]


@torch.no_grad()
def read_tiles(
    encoder: TileEncoder, bag: Bag, *, strength: float = 0.0, random: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Return embeddings (n, d) and textures (n, t) of all tiles of a slide, changed where asked for."""
    device = next(encoder.parameters()).device
    parts = []
    # One generator's state for all parts: a slide has one stain.
    seed = int(torch.randint(2**31, (1,), generator=random)) if random else 0
    for start in range(0, len(bag), EMBED_AT_ONCE):
        part = torch.from_numpy(np.array(bag.tiles[start : start + EMBED_AT_ONCE]))[None]
        generator = torch.Generator().manual_seed(seed)
        shown = change(part, stains_of([bag]), strength, generator)[0]
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            read = encoder.read(shown.to(device, memory_format=torch.channels_last))
        parts.append(tuple(one.float().cpu() for one in read))
    embeddings, textures = (torch.cat(one) for one in zip(*parts, strict=True))
    return embeddings, textures
