"""Changes to training volumes that a nodule survives, and cubes that are no CT of a lung."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def _uniform(low: float, high: float, shape: tuple[int, ...], random: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=random) * (high - low) + low


def move(
    volumes: Tensor, centers: Tensor, side: int, random: torch.Generator, strength: float = 1.0
) -> Tensor:
    """Return cubes (n, c, side, side, side) cut around places of larger cubes, turned and mirrored at random.

    `centers` (n, 3; z, y, x) are voxels from the middle of `volumes` (n, c, s, s, s). Any turn about the
    normal, up to 15 degrees of tilt, each axis mirrored in half of them, up to 8 % of size and 3 voxels of
    shift; `strength` scales tilt, size and shift, and 0 leaves every cube as it is. Outside is 0.
    """
    n, channels, length = volumes.shape[:3]
    matrix = torch.eye(3).expand(n, 3, 3)
    offset = centers[:, [2, 1, 0]].float()
    if strength:
        matrix = _turns(n, random, strength) * _uniform(
            1 - 0.08 * strength, 1 + 0.08 * strength, (n, 1, 1), random
        )
        flips = torch.where(_uniform(0.0, 1.0, (n, 3), random) < 0.5, -1.0, 1.0)
        matrix = matrix * flips[:, None, :]
        offset = offset + _uniform(-3.0, 3.0, (n, 3), random) * strength
    # affine_grid's axes are x, y, z in -1 to 1; voxel centers are kept where nothing is moved.
    theta = torch.cat([matrix * (side / length), (offset * 2.0 / length)[:, :, None]], dim=2)
    grid = functional.affine_grid(theta, [n, channels, side, side, side], align_corners=False)
    return functional.grid_sample(volumes, grid, padding_mode="zeros", align_corners=False)


def _turns(n: int, random: torch.Generator, strength: float) -> Tensor:
    """Return rotations (n, 3, 3) in x, y, z: any angle about z, small ones about x and y."""
    about_z = _uniform(-torch.pi, torch.pi, (n,), random)
    tilts = _uniform(-0.26, 0.26, (2, n), random) * strength
    turn = _rotation(about_z, (0, 1))
    return turn @ _rotation(tilts[0], (1, 2)) @ _rotation(tilts[1], (0, 2))


def _rotation(angle: Tensor, plane: tuple[int, int]) -> Tensor:
    first, second = plane
    matrix = torch.eye(3).repeat(len(angle), 1, 1)
    matrix[:, first, first] = matrix[:, second, second] = torch.cos(angle)
    matrix[:, first, second], matrix[:, second, first] = -torch.sin(angle), torch.sin(angle)
    return matrix


def expose(hounsfield: Tensor, random: torch.Generator, strength: float = 1.0) -> Tensor:
    """Return HU (n, 1, z, y, x) as another dose, kernel and slice thickness might give them."""
    n = len(hounsfield)
    shape = (n, 1, 1, 1, 1)
    thick = functional.avg_pool3d(hounsfield, (3, 1, 1), 1, (1, 0, 0), count_include_pad=False)
    soft = functional.avg_pool3d(hounsfield, 3, 1, 1, count_include_pad=False)
    chance = _uniform(0.0, 1.0, shape, random) / max(strength, 1e-6)
    share = _uniform(0.0, 0.8, shape, random)
    blurred = torch.where(chance < 0.2, thick, torch.where(chance > 0.8, soft, hounsfield))
    sharp = torch.where((chance > 0.4) & (chance < 0.55), 1.5 * hounsfield - 0.5 * soft, hounsfield)
    changed = torch.where((chance < 0.2) | (chance > 0.8), torch.lerp(hounsfield, blurred, share), sharp)
    grain = torch.randn(hounsfield.shape, generator=random) * _uniform(0.0, 35.0, shape, random)
    gain = 1.0 + _uniform(-0.03, 0.03, shape, random) * strength
    shift = _uniform(-25.0, 25.0, shape, random) * strength
    return ((changed + 1000.0) * gain - 1000.0 + shift + grain * strength).clamp(-1024.0, 3071.0)


def make_foreign(hounsfield: Tensor, random: torch.Generator) -> Tensor:
    """Return cubes (n, 1, s, s, s) that are no CT of a lung, most made of such ones.

    Inverted, without air, as gray levels that are no HU, in shuffled pieces, or noise: what a network must
    learn to call foreign (outlier exposure, Hendrycks et al. 2019).
    """
    n = len(hounsfield)
    if n == 0:
        return hounsfield
    shape = (n, 1, 1, 1, 1)
    pieces = torch.stack([part.roll(8 * (index + 1), 1 + index % 3) for index, part in enumerate(hounsfield)])
    noise = torch.randn(hounsfield.shape, generator=random)
    made = torch.stack(
        [
            -400.0 - hounsfield,
            hounsfield * 0.2 + _uniform(0.0, 100.0, shape, random),
            (hounsfield + 1024.0) * _uniform(0.15, 0.5, shape, random),
            torch.cat([pieces[:, :, ::2], pieces[:, :, 1::2]], dim=2),
            _uniform(-800.0, 200.0, shape, random) + noise * _uniform(100.0, 500.0, shape, random),
            _uniform(-1000.0, 600.0, shape, random) + noise * 5.0,
        ]
    )
    chosen = torch.randint(len(made), (n,), generator=random)
    return made[chosen, torch.arange(n)]


def nudge(volumes: Tensor, random: torch.Generator) -> Tensor:
    """Return copies of cubes (n, 1, s, s, s) of HU as another scan a minute later might show them.

    At most 4 degrees of turn, 3 % of size and 1 voxel of shift; noise up to 15 HU. The type stays.
    """
    n, _, side = volumes.shape[:3]
    angles = _uniform(-0.07, 0.07, (3, n), random)
    turn = _rotation(angles[0], (0, 1)) @ _rotation(angles[1], (1, 2)) @ _rotation(angles[2], (0, 2))
    matrix = turn * _uniform(0.97, 1.03, (n, 1, 1), random)
    offset = _uniform(-1.0, 1.0, (n, 3), random) * 2.0 / side
    grid = functional.affine_grid(
        torch.cat([matrix, offset[:, :, None]], dim=2), list(volumes.shape), align_corners=False
    )
    moved = functional.grid_sample(volumes.float(), grid, padding_mode="border", align_corners=False)
    grain = torch.randn(moved.shape, generator=random) * _uniform(0.0, 15.0, (n, 1, 1, 1, 1), random)
    return (moved + grain).clamp(-1024.0, 3071.0).to(volumes.dtype)
