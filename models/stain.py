"""What dye and scanner change of a slide's colors, computed in optical density: there amounts of dye add up.

By the law of Lambert and Beer the light that passes falls exponentially with the amount of dye, so that a
thicker section multiplies the density, and a stronger lamp the color.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from node.samples.stain import RUIFROK_JOHNSTON

DARKEST = 1.0 / 255.0
# Fainter pixels are glass: beta of Macenko et al. 2009, here of the mean over the colors. They ask it of
# each color, and so lose eosin, which lets nearly all of the red through.
LEAST_DENSITY = 0.15
EXTREME = 0.01
LEAST_PIXELS = 50


def optical_density(color: Tensor) -> Tensor:
    """Return -ln of colors in 0–1 of any shape; black has that of 1/255."""
    return -torch.log(color.clamp(DARKEST, 1.0))


def to_color(density: Tensor) -> Tensor:
    """Return the colors in 0–1 of optical densities."""
    return torch.exp(-density).clamp(0.0, 1.0)


def stain_matrix(stains: Tensor | None = None) -> Tensor:
    """Return rows (…, 3, 3) of length 1: two stains (…, 2, 3), and at right angles what neither explains.

    Hematoxylin and eosin of Ruifrok and Johnston 2001 where no stains are given.
    """
    known = torch.tensor(RUIFROK_JOHNSTON) if stains is None else stains
    known = functional.normalize(known, dim=-1)
    rest = torch.linalg.cross(known[..., 0, :], known[..., 1, :])
    return torch.cat([known, functional.normalize(rest, dim=-1)[..., None, :]], dim=-2)


def separate(density: Tensor, matrix: Tensor) -> Tensor:
    """Return the amount of each row of matrices (b, 3, 3) in densities (b, n, 3, h, w)."""
    return torch.einsum("bnchw,bcs->bnshw", density, torch.linalg.inv(matrix))


def estimate_stains(color: Tensor) -> Tensor:
    """Return hematoxylin and eosin (2, 3) of the pixels (n, 3) in 0–1 of one slide (Macenko et al. 2009).

    The two extreme directions of density in the plane that holds most of it. Those of the literature where
    too few pixels are stained.
    """
    density = optical_density(color)
    stained = density[density.mean(dim=1) > LEAST_DENSITY].double()
    if len(stained) < LEAST_PIXELS:
        return stain_matrix()[:2]
    _, vectors = torch.linalg.eigh(torch.cov(stained.T))
    plane = vectors[:, 1:].flip(1)
    plane = plane * torch.where(plane.sum(dim=0) < 0, -1.0, 1.0)
    across = stained @ plane
    angles = torch.atan2(across[:, 1], across[:, 0])
    ends = torch.quantile(angles[:: len(angles) // 100_000 + 1], angles.new_tensor([EXTREME, 1 - EXTREME]))
    found = torch.stack([plane @ torch.stack([end.cos(), end.sin()]) for end in ends]).float()
    # Hematoxylin takes more of the red.
    found = found[torch.argsort(found[:, 0], descending=True)]
    return functional.normalize(found.clamp(min=0.0), dim=1)


def vary_stains(
    slides: Tensor, random: torch.Generator, strength: float = 1.0, stains: Tensor | None = None
) -> Tensor:
    """Return tiles (slides, n, 3, h, w) in 0–1 as other laboratories and scanners would give them.

    One draw for each slide, as its tiles were stained and scanned together: amount and color of each dye,
    and the color of the lamp. Glass stays glass. `stains` (slides, 2, 3) are each slide's own, those of the
    literature where none are given; `strength` scales every change.
    """
    count = len(slides)
    known = stain_matrix(stains).expand(count, 3, 3)
    amount = torch.exp(_between(-0.35, 0.35, (count, 3, 1), random) * strength)
    turned = known[:, :2] + 0.04 * strength * torch.randn((count, 2, 3), generator=random)
    # Density to amounts, those scaled, and back to density: one matrix for each slide.
    mixed = torch.linalg.inv(known) @ (amount * stain_matrix(turned.clamp(min=0.0)))
    lamp = 1.0 + _between(-0.08, 0.0, (count, 1), random) * strength
    tint = 1.0 + _between(-0.03, 0.0, (count, 3), random) * strength
    density = mixed.mT[:, None] @ optical_density(slides).flatten(3)
    density = density + optical_density(lamp * tint)[:, None, :, None]
    return to_color(density).view_as(slides)


def _between(low: float, high: float, shape: tuple[int, ...], random: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=random) * (high - low) + low
