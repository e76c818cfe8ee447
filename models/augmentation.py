"""Changes to training radiographs that a finding survives, and pictures that are no such radiograph."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def augment(
    images: Tensor, masks: Tensor, size: int, generator: torch.Generator, strength: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Return changed copies (n, 1, size, size) of images and masks (n, 1, s, s), all in 0–1.

    Positioning, exposure, markers, collimation; a mask moves with its image. `strength` scales every change.
    Never inverted: reading makes every radiograph bright = dense, and an inverted one must look foreign.
    The generator lives on the images' device.
    """
    moved, masks = _reposition(torch.cat([images, masks], dim=1), size, generator, strength).split(1, dim=1)
    exposed = _expose(moved, generator, strength)
    blanked = _collimate(exposed, generator, strength)
    return _mark(blanked, generator, strength), masks


def _uniform(low: float, high: float, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator, device=generator.device) * (high - low) + low


def _reposition(images: Tensor, size: int, generator: torch.Generator, strength: float) -> Tensor:
    """Rotate, flip, shift, and crop with another aspect ratio; what lies outside becomes black."""
    n = len(images)
    angle = _uniform(-0.14, 0.14, (n,), generator) * strength
    # The field of view as a part of the image, per axis: below 1 crops, above 1 leaves a black border.
    change = _uniform(-0.28, 0.06, (n, 1), generator) + _uniform(-0.08, 0.08, (n, 2), generator)
    field = 1.0 + strength * change
    room = (1.0 - field).abs() * 0.8 + 0.03 * strength
    shift = _uniform(-1.0, 1.0, (n, 2), generator) * room
    flip = torch.where(_uniform(0.0, 1.0, (n,), generator) < 0.5, -1.0, 1.0)
    cosine, sine = torch.cos(angle), torch.sin(angle)
    theta = torch.stack(
        [
            torch.stack([flip * cosine * field[:, 0], -sine * field[:, 1], shift[:, 0]], dim=1),
            torch.stack([flip * sine * field[:, 0], cosine * field[:, 1], shift[:, 1]], dim=1),
        ],
        dim=1,
    )
    grid = functional.affine_grid(theta, [n, images.shape[1], size, size], align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="zeros", align_corners=False)


def _expose(images: Tensor, generator: torch.Generator, strength: float) -> Tensor:
    """Change gamma, contrast, brightness and noise."""
    shape = (len(images), 1, 1, 1)
    gamma = torch.exp(_uniform(-0.35, 0.35, shape, generator) * strength)
    contrast = 1.0 + _uniform(-0.2, 0.15, shape, generator) * strength
    brightness = _uniform(-0.06, 0.06, shape, generator) * strength
    noise = _noise(images, generator) * _uniform(0.0, 0.02, shape, generator) * strength
    changed = images.clamp(1e-4, 1.0) ** gamma
    return ((changed - 0.5) * contrast + 0.5 + brightness + noise).clamp(0.0, 1.0)


def _noise(images: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(images.shape, generator=generator, device=generator.device)


def _collimate(images: Tensor, generator: torch.Generator, strength: float) -> Tensor:
    """Blacken or whiten a border of some images, as a collimator or its missing shutter does."""
    n = len(images)
    place_y, place_x = _places(images)
    is_on = (_uniform(0.0, 1.0, (n, 4), generator) < 0.12 * strength).float()
    border = (_uniform(0.0, 0.12, (n, 4), generator) * is_on).view(n, 4, 1, 1, 1)
    is_open = (
        (place_y >= border[:, 0])
        & (place_y <= 1 - border[:, 1])
        & (place_x >= border[:, 2])
        & (place_x <= 1 - border[:, 3])
    )
    fill = (_uniform(0.0, 1.0, (n, 1, 1, 1), generator) < 0.15).float()
    return torch.where(is_open, images, fill)


def _mark(images: Tensor, generator: torch.Generator, strength: float) -> Tensor:
    """Draw a bright patch, as large as a technician's letter, near a corner of some images."""
    n = len(images)
    place_y, place_x = _places(images)
    is_marked, side_y, side_x, at_y, at_x, value = _uniform(0.0, 1.0, (6, n, 1, 1, 1), generator)
    rows, columns = 0.02 + 0.07 * side_y, 0.02 + 0.07 * side_x
    # Mostly the upper quarter, else the lower edge; left or right: where technicians put markers.
    top = torch.where(at_y < 0.7, 0.2 * at_y, 1 - rows - 0.1 * at_y)
    left = torch.where(at_x < 0.5, 0.2 * at_x, 1 - columns - 0.2 * (1 - at_x))
    is_inside = (place_y >= top) & (place_y < top + rows) & (place_x >= left) & (place_x < left + columns)
    return torch.where(is_inside & (is_marked < 0.25 * strength), 0.75 + 0.25 * value, images)


def _places(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows' (1, 1, h, 1) and columns' (1, 1, 1, w) places in 0–1."""
    _, _, height, width = images.shape
    place_y = torch.linspace(0.0, 1.0, height, device=images.device).view(1, 1, height, 1)
    return place_y, torch.linspace(0.0, 1.0, width, device=images.device).view(1, 1, 1, width)


def mix(
    images: Tensor, labels: Tensor, part: float, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Return images and labels, a `part` of them blended with another (Zhang et al. 2018, mixup, alpha 1).

    And each one's own share (n,) of its blend. A label unknown (NaN) in either is unknown in the blend.
    """
    n = len(images)
    is_mixed = _uniform(0.0, 1.0, (n,), generator) < part
    share = torch.where(is_mixed, _uniform(0.0, 1.0, (n,), generator), 1.0)
    # An image blended with itself is itself: NaN of a partner must not reach an image that is left alone.
    own = torch.arange(n, device=images.device)
    partner = torch.where(is_mixed, torch.randperm(n, generator=generator, device=generator.device), own)
    pixels, truth = share.view(n, 1, 1, 1), share[:, None]
    return (
        pixels * images + (1 - pixels) * images[partner],
        truth * labels + (1 - truth) * labels[partner],
        share,
    )


def make_foreign(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return pictures (n, 1, s, s) that are no upright frontal radiograph of a chest, most made of such ones.

    Upside down, turned, inverted, scrambled, a small part enlarged, or noise and shapes: what a network must
    learn to call foreign (outlier exposure, Hendrycks et al. 2019).
    """
    if len(images) == 0:
        return images
    made = torch.stack(
        [
            images.flip(2),
            images.transpose(2, 3),
            images.transpose(2, 3).flip(2),
            1.0 - images,
            1.0 - images.flip(2),
            _scramble(images, generator),
            _enlarge(images, generator),
            _shapes(images, generator),
        ]
    )
    chosen = torch.randint(len(made), (len(images),), generator=generator, device=generator.device)
    return made[chosen, torch.arange(len(images), device=images.device)]


def _scramble(images: Tensor, generator: torch.Generator, parts: int = 4) -> Tensor:
    """Cut into parts × parts tiles and put them back in another order."""
    n, _, height, width = images.shape
    rows, columns = height // parts, width // parts
    tiles = functional.unfold(images, (rows, columns), stride=(rows, columns))
    order = _uniform(0.0, 1.0, (n, parts * parts), generator).argsort(dim=1)
    mixed = tiles.gather(2, order[:, None].expand_as(tiles))
    whole = functional.fold(mixed, (rows * parts, columns * parts), (rows, columns), stride=(rows, columns))
    return functional.interpolate(whole, size=(height, width), mode="nearest")


def _enlarge(images: Tensor, generator: torch.Generator) -> Tensor:
    """Show a fifteenth to a fifth of the picture, as large as the whole."""
    n = len(images)
    field = _uniform(0.25, 0.45, (n,), generator)
    shift = _uniform(-0.5, 0.5, (n, 2), generator)
    nothing = torch.zeros_like(field)
    theta = torch.stack(
        [
            torch.stack([field, nothing, shift[:, 0]], dim=1),
            torch.stack([nothing, field, shift[:, 1]], dim=1),
        ],
        dim=1,
    )
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def _shapes(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return clouds of several coarsenesses, most inside an ellipse on black, as other body parts lie."""
    n, _, height, width = images.shape
    place_y, place_x = _places(images)
    clouds = torch.zeros_like(images)
    for cells in (3, 7, 19):
        coarse = torch.rand((n, 1, cells, cells), generator=generator, device=generator.device)
        fine = functional.interpolate(coarse, size=(height, width), mode="bicubic")
        clouds = clouds + _uniform(0.0, 1.0, (n, 1, 1, 1), generator) * fine
    low, high = clouds.amin(dim=(2, 3), keepdim=True), clouds.amax(dim=(2, 3), keepdim=True)
    clouds = (clouds - low) / (high - low).clamp(min=1e-3)
    center_y, center_x, along, across, kind = _uniform(0.0, 1.0, (5, n, 1, 1, 1), generator)
    distance = ((place_y - 0.3 - 0.4 * center_y) / (0.15 + 0.5 * along)) ** 2
    distance = distance + ((place_x - 0.3 - 0.4 * center_x) / (0.1 + 0.4 * across)) ** 2
    is_inside = (distance < 1) | (kind < 0.25)
    grain = 0.03 * _noise(images, generator)
    return torch.where(is_inside, (clouds + grain).clamp(0.0, 1.0), 0.0)


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
    noise = _noise(moved, generator) * _uniform(0.0, 0.01, shape, generator)
    changed = moved.clamp(1e-4, 1.0) ** gamma
    return ((changed - 0.5) * contrast + 0.5 + brightness + noise).clamp(0.0, 1.0)
