"""The networks for volumes: 3-D ResNet-18 and DenseNet for one candidate, 3-D U-Net for every voxel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from models.radiograph import Answer, AttentionMapHead

# Air to dense calcification: what lies outside says nothing more about a nodule.
WINDOW_HU = (-1000.0, 600.0)
SHAPE_MEASURES = 4
BLOCKS_OF_RESNET18 = (2, 2, 2, 2)
LAYERS_OF_DENSENET = (2, 3, 4, 3)


def normalize(image: Tensor) -> Tensor:
    """Return HU of any type, as float32 in -1 to 1 over the window."""
    low, high = WINDOW_HU
    return (image.float().clamp(low, high) - low) * (2.0 / (high - low)) - 1.0


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Keep batch norms from counting a batch: one that is computed a second time was counted before."""
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm3d)]
    kept = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        norm.num_batches_tracked = norm.num_batches_tracked.clone()
    try:
        yield
    finally:
        for norm, momentum, batches in kept:
            norm.momentum, norm.num_batches_tracked = momentum, batches


def run(module: nn.Module, maps: Tensor, *, is_checkpointed: bool) -> Tensor:
    """Return module(maps); checkpointed, its inner maps are computed again for the gradients, not kept.

    Gradients and batch statistics are those of the plain way (Chen et al. 2016).
    """
    if not (is_checkpointed and module.training and torch.is_grad_enabled()):
        return module(maps)
    result: Tensor = checkpoint(
        module,
        maps,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), frozen_statistics(module)),
    )
    return result


class ResidualBlock(nn.Module):
    """Two 3×3×3 convolutions and a shortcut (BasicBlock of He et al. 2016)."""

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm3d(out_channels)
        self.conv2 = nn.Conv3d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm3d(out_channels)
        # The branch begins at zero: the identity is the better start without pre-trained weights.
        nn.init.zeros_(self.norm2.weight)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv3d(channels, out_channels, 1, stride, bias=False), nn.BatchNorm3d(out_channels)
            )

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps (n, out_channels, z, y, x), smaller by the stride."""
        branch = torch.relu(self.norm1(self.conv1(maps)))
        return torch.relu(self.norm2(self.conv2(branch)) + self.shortcut(maps))


class DenseLayer(nn.Module):
    """A bottleneck and a 3×3×3 convolution, whose maps are added to those it read (Huang et al. 2017)."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm3d(channels)
        self.conv1 = nn.Conv3d(channels, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm3d(4 * growth)
        self.conv2 = nn.Conv3d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps (n, channels + growth, z, y, x)."""
        narrow = self.conv1(torch.relu(self.norm1(maps)))
        return torch.cat([maps, self.conv2(torch.relu(self.norm2(narrow)))], dim=1)


class DenseBlock(nn.Sequential):
    """Dense layers one after the other, each reading all maps before it."""

    def __init__(self, channels: int, layers: int, growth: int) -> None:
        super().__init__(*(DenseLayer(channels + index * growth, growth) for index in range(layers)))
        self.channels = channels + layers * growth


class Transition(nn.Sequential):
    """Half the channels and half the side, between two dense blocks."""

    def __init__(self, channels: int) -> None:
        super().__init__(
            nn.BatchNorm3d(channels),
            nn.ReLU(),
            nn.Conv3d(channels, channels // 2, 1, bias=False),
            nn.AvgPool3d(2),
        )


class VolumeTrunk(nn.Module):
    """Stages of a residual or dense network for one channel.

    The first stage works at half the side, the last gives the maps of the head. With `is_checkpointed` each
    stage keeps only its input while it is trained.
    """

    def __init__(
        self, stem: nn.Module, stages: list[nn.Module], channels: tuple[int, int], *, is_checkpointed: bool
    ) -> None:
        super().__init__()
        self.stem, self.stages = stem, nn.ModuleList(stages)
        self.fine_channels, self.channels = channels
        self.is_checkpointed = is_checkpointed

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the maps of the first stage (at half the side) and of the last."""
        maps = self.stem(image)
        fine = maps
        for index, stage in enumerate(self.stages):
            maps = run(stage, maps, is_checkpointed=self.is_checkpointed)
            fine = maps if index == 0 else fine
        return fine, maps


def stem(width: int) -> nn.Module:
    """Return the first convolution, which halves the side: a nodule of 4 mm is not to vanish in it."""
    return nn.Sequential(
        nn.Conv3d(1, width, 5, stride=2, padding=2, bias=False), nn.BatchNorm3d(width), nn.ReLU()
    )


def resnet18(width: int, *, is_checkpointed: bool) -> VolumeTrunk:
    """Return the trunk of a 3-D ResNet-18 whose first stage has `width` channels; the side shrinks by 8."""
    widths = [width, width, 2 * width, 4 * width, 8 * width]
    strides = (1, 2, 2, 1)
    stages: list[nn.Module] = [
        nn.Sequential(
            ResidualBlock(before, after, stride),
            *(ResidualBlock(after, after, 1) for _ in range(blocks - 1)),
        )
        for (before, after), stride, blocks in zip(pairwise(widths), strides, BLOCKS_OF_RESNET18, strict=True)
    ]
    return VolumeTrunk(stem(width), stages, (width, widths[-1]), is_checkpointed=is_checkpointed)


def densenet(width: int, *, is_checkpointed: bool) -> VolumeTrunk:
    """Return the trunk of a 3-D DenseNet-BC of growth `width`; the side shrinks by 8."""
    channels = 2 * width
    fine_channels = channels + LAYERS_OF_DENSENET[0] * width
    stages: list[nn.Module] = []
    for index, layers in enumerate(LAYERS_OF_DENSENET):
        block = DenseBlock(channels, layers, width)
        parts: list[nn.Module] = [block]
        # The first stage stays at half the side and the last two share one, as in the residual trunk.
        if index in (1, 2):
            parts = [Transition(channels), DenseBlock(channels // 2, layers, width)]
            block = parts[1]
        channels = block.channels
        stages.append(nn.Sequential(*parts))
    stages[-1].append(nn.BatchNorm3d(channels))
    stages[-1].append(nn.ReLU())
    return VolumeTrunk(stem(2 * width), stages, (fine_channels, channels), is_checkpointed=is_checkpointed)


TRUNKS: dict[str, Callable[..., VolumeTrunk]] = {"resnet18": resnet18, "densenet": densenet}


class Lesson(NamedTuple):
    """What a classifier says while it learns: its answer, mask logits (n, 1, z, y, x), scores (n, scores)."""

    answer: Answer
    mask: Tensor
    scores: Tensor


class VolumeNetwork(nn.Module):
    """A trunk for a cube of HU with an attention-map head that also reads size and density of a soft mask.

    The mask is drawn at half the side and learned from the radiologists'; what it measures (volume, mean,
    spread and peak of the density inside) joins the features of every place. So the size, which a mean over
    places hides, is an input of the decision, and all of it is computed where the model is served.
    """

    def __init__(
        self,
        classes: int,
        *,
        trunk: str,
        width: int,
        scores: int = 0,
        dropout: float = 0.2,
        is_checkpointed: bool = False,
    ) -> None:
        super().__init__()
        self.trunk = TRUNKS[trunk](width, is_checkpointed=is_checkpointed)
        self.mask = nn.Conv3d(self.trunk.fine_channels, 1, kernel_size=1)
        joined = self.trunk.channels + self.trunk.fine_channels + SHAPE_MEASURES
        self.head = AttentionMapHead(joined, classes, dropout, dimensions=3)
        self.scores = nn.Linear(joined, scores)

    def forward(self, image: Tensor) -> Answer:
        """Return the answer to cubes (n, 1, s, s, s) of HU; its maps have an eighth of the side."""
        return self.learn(image).answer

    def learn(self, image: Tensor) -> Lesson:
        """Return the answer and what else is learned from: the mask at half the side, and scores."""
        scaled = normalize(image)
        fine, maps = self.trunk(scaled)
        mask = self.mask(fine)
        measured = measure_inside(fine, functional.avg_pool3d(scaled, 2), torch.sigmoid(mask))
        spread = measured[:, :, None, None, None].expand(-1, -1, *maps.shape[2:])
        answer: Answer = self.head(torch.cat([maps, spread.to(maps.dtype)], dim=1))
        return Lesson(answer, mask, self.scores(answer.features))


def measure_inside(fine: Tensor, density: Tensor, mask: Tensor) -> Tensor:
    """Return means of maps inside a soft mask, and its volume and density (n, channels + 4).

    The volume is in units of a tenth of the natural logarithm of voxels; density has mean, standard deviation
    and largest value inside.
    """
    volume = mask.sum(dim=(2, 3, 4))
    total = volume + 1.0
    inside = (fine * mask).sum(dim=(2, 3, 4)) / total
    mean = (density * mask).sum(dim=(2, 3, 4)) / total
    deviation = density - mean[:, :, None, None, None]
    variance = (deviation.square() * mask).sum(dim=(2, 3, 4)) / total
    peak = ((density + 1.0) * mask).amax(dim=(2, 3, 4)) - 1.0
    return torch.cat([inside, torch.log1p(volume) / 10.0, mean, (variance + 1e-4).sqrt(), peak], dim=1)


class UNet(nn.Module):
    """A 3-D U-Net (Çiçek et al. 2016): one logit for each voxel of HU, sides a multiple of 8.

    Batch norm, not instance norm: a voxel's logit must not depend on what else the window shows.
    """

    def __init__(self, width: int, levels: int = 4, *, is_checkpointed: bool = False) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(levels)]
        self.is_checkpointed = is_checkpointed
        self.down = nn.ModuleList(
            [two_convolutions(1, width), *(two_convolutions(a, b) for a, b in pairwise(widths))]
        )
        pairs = list(pairwise(widths))[::-1]
        self.grow = nn.ModuleList(nn.ConvTranspose3d(b, a, 2, stride=2) for a, b in pairs)
        self.up = nn.ModuleList(two_convolutions(2 * a, a) for a, _ in pairs)
        self.last = nn.Conv3d(width, 1, kernel_size=1)
        # Most voxels are no nodule: without this the first hundred steps only learn that.
        nn.init.constant_(self.last.bias, -3.0)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (n, 1, z, y, x) of HU (n, 1, z, y, x)."""
        maps, kept = normalize(image), []
        for level, convolve in enumerate(self.down):
            maps = functional.max_pool3d(maps, 2) if level else maps
            maps = run(convolve, maps, is_checkpointed=self.is_checkpointed)
            kept.append(maps)
        for grow, convolve, beside in zip(self.grow, self.up, kept[-2::-1], strict=True):
            joined = torch.cat([beside, grow(maps)], dim=1)
            maps = run(convolve, joined, is_checkpointed=self.is_checkpointed)
        logits: Tensor = self.last(maps)
        return logits


def two_convolutions(channels: int, out_channels: int) -> nn.Sequential:
    """Return two 3×3×3 convolutions, each with batch norm and ReLU."""
    parts: list[nn.Module] = []
    for before in (channels, out_channels):
        parts += [
            nn.Conv3d(before, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm3d(out_channels),
            nn.ReLU(),
        ]
    return nn.Sequential(*parts)
