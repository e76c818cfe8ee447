"""Changes to training radiographs that a finding survives: positioning, exposure, markers, collimation."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def augment(images: Tensor, size: int, generator: torch.Generator, strength: float = 1.0) -> Tensor:
    """Return changed copies (n, 1, size, size) of images (n, 1, s, s), both in 0–1.

    `strength` scales every change; a last stage with small ones fits the weights to images as served.
    Never inverted: reading makes every radiograph bright = dense, and an inverted one must look foreign.
    """
    moved = _reposition(images, size, generator, strength)
    exposed = _expose(moved, generator, strength)
    blanked = _collimate(exposed, generator, strength)
    return _mark(blanked, generator, strength)


def _uniform(low: float, high: float, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator) * (high - low) + low


def _reposition(images: Tensor, size: int, generator: torch.Generator, strength: float) -> Tensor:
    """Rotate, flip, shift, and crop with another aspect ratio; what lies outside becomes black."""
    n = len(images)
    angle = _uniform(-0.14, 0.14, (n,), generator) * strength
    # The field of view as a part of the image, per axis: below 1 crops, above 1 leaves a black border.
    change = _uniform(-0.28, 0.06, (n, 1), generator) + _uniform(-0.08, 0.08, (n, 2), generator)
    field = 1.0 + strength * change
    room = (1.0 - field).abs() * 0.8 + 0.03 * strength
    shift = _uniform(-1.0, 1.0, (n, 2), generator) * room
    flip = torch.where(torch.rand(n, generator=generator) < 0.5, -1.0, 1.0)
    cosine, sine = torch.cos(angle), torch.sin(angle)
    theta = torch.stack(
        [
            torch.stack([flip * cosine * field[:, 0], -sine * field[:, 1], shift[:, 0]], dim=1),
            torch.stack([flip * sine * field[:, 0], cosine * field[:, 1], shift[:, 1]], dim=1),
        ],
        dim=1,
    )
    grid = functional.affine_grid(theta, [n, 1, size, size], align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="zeros", align_corners=False)


def _expose(images: Tensor, generator: torch.Generator, strength: float) -> Tensor:
    """Change gamma, contrast, brightness and noise."""
    shape = (len(images), 1, 1, 1)
    gamma = torch.exp(_uniform(-0.35, 0.35, shape, generator) * strength)
    contrast = 1.0 + _uniform(-0.2, 0.15, shape, generator) * strength
    brightness = _uniform(-0.06, 0.06, shape, generator) * strength
    noise = torch.randn(images.shape, generator=generator) * _uniform(0.0, 0.02, shape, generator) * strength
    changed = images.clamp(1e-4, 1.0) ** gamma
    return ((changed - 0.5) * contrast + 0.5 + brightness + noise).clamp(0.0, 1.0)


def _collimate(images: Tensor, generator: torch.Generator, strength: float) -> Tensor:
    """Blacken or whiten a border of some images, as a collimator or its missing shutter does."""
    n, _, height, width = images.shape
    place_y = torch.linspace(0.0, 1.0, height).view(1, 1, height, 1)
    place_x = torch.linspace(0.0, 1.0, width).view(1, 1, 1, width)
    is_on = (torch.rand((n, 4), generator=generator) < 0.12 * strength).float()
    border = (_uniform(0.0, 0.12, (n, 4), generator) * is_on).view(n, 4, 1, 1, 1)
    is_open = (
        (place_y >= border[:, 0])
        & (place_y <= 1 - border[:, 1])
        & (place_x >= border[:, 2])
        & (place_x <= 1 - border[:, 3])
    )
    fill = (torch.rand((n, 1, 1, 1), generator=generator) < 0.15).float()
    return torch.where(is_open, images, fill)


def _mark(images: Tensor, generator: torch.Generator, strength: float) -> Tensor:
    """Draw a bright "R" or "L"-sized patch near a corner of some images."""
    n, _, height, width = images.shape
    marked = images.clone()
    is_marked = torch.rand(n, generator=generator) < 0.25 * strength
    for index in torch.nonzero(is_marked).flatten().tolist():
        side_y, side_x, at_y, at_x, value = torch.rand(5, generator=generator).tolist()
        rows, columns = 2 + int(side_y * 0.07 * height), 2 + int(side_x * 0.07 * width)
        # Upper or lower quarter, left or right edge: where technicians put markers.
        top = int(at_y * 0.2 * height) if at_y < 0.7 else height - rows - int(at_y * 0.1 * height)
        left = int(at_x * 0.2 * width) if at_x < 0.5 else width - columns - int((1 - at_x) * 0.2 * width)
        marked[index, 0, top : top + rows, left : left + columns] = 0.75 + 0.25 * value
    return marked


def nudge(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return copies (n, 1, s, s) as another exposure of the same patient a minute later might look.

    At most 2 degrees of rotation, 3 % of size and 2 % of shift, gamma within 0.9 to 1.1, contrast and
    brightness within 5 and 3 %, noise up to 1 %.
    """
    n, _, height, width = images.shape
    angle = _uniform(-0.035, 0.035, (n,), generator)
    scale = _uniform(0.97, 1.03, (n,), generator)
    shift = _uniform(-0.04, 0.04, (n, 2), generator)
    cosine, sine = torch.cos(angle) * scale, torch.sin(angle) * scale
    theta = torch.stack(
        [torch.stack([cosine, -sine, shift[:, 0]], dim=1), torch.stack([sine, cosine, shift[:, 1]], dim=1)],
        dim=1,
    )
    grid = functional.affine_grid(theta, [n, 1, height, width], align_corners=False)
    # Repeated edges, not black ones: a black border is a change of collimation, which is larger.
    moved = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    shape = (n, 1, 1, 1)
    gamma = torch.exp(_uniform(-0.1, 0.1, shape, generator))
    contrast = _uniform(0.95, 1.05, shape, generator)
    brightness = _uniform(-0.03, 0.03, shape, generator)
    noise = torch.randn(moved.shape, generator=generator) * _uniform(0.0, 0.01, shape, generator)
    changed = moved.clamp(1e-4, 1.0) ** gamma
    return ((changed - 0.5) * contrast + 0.5 + brightness + noise).clamp(0.0, 1.0)
