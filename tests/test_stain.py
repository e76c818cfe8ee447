"""Colors of stained tissue as amounts of dye, and what another laboratory would make of them."""

import pytest

torch = pytest.importorskip("torch")

from models import stain  # noqa: E402


def dyed(amounts: torch.Tensor, stains: torch.Tensor | None = None) -> torch.Tensor:
    """Return colors (n, 3) of amounts (n, 2) of two dyes."""
    return stain.to_color(amounts @ stain.stain_matrix(stains)[:2])


def tiles(slides: int = 2, n: int = 3, side: int = 8) -> torch.Tensor:
    amounts = torch.rand((slides * n * side * side, 2), generator=torch.Generator().manual_seed(1))
    return dyed(amounts).view(slides, n, side, side, 3).permute(0, 1, 4, 2, 3)


def test_density_and_color_are_each_others_inverse() -> None:
    color = torch.linspace(1 / 255, 1, 255)

    torch.testing.assert_close(stain.to_color(stain.optical_density(color)), color)
    assert stain.optical_density(torch.tensor([1.0])) == 0
    assert torch.isfinite(stain.optical_density(torch.tensor([0.0])))


def test_the_third_row_is_at_right_angles_to_both_stains() -> None:
    matrix = stain.stain_matrix()

    torch.testing.assert_close(matrix[2] @ matrix[:2].T, torch.zeros(2), rtol=0, atol=1e-6)
    torch.testing.assert_close(matrix.norm(dim=1), torch.ones(3))


def test_amounts_of_dye_are_found_again() -> None:
    wanted = torch.rand((16, 2), generator=torch.Generator().manual_seed(2))
    color = dyed(wanted).T.reshape(1, 1, 3, 4, 4)

    amounts = stain.separate(stain.optical_density(color), stain.stain_matrix()[None])

    torch.testing.assert_close(amounts.reshape(3, 16)[:2].T, wanted, rtol=0, atol=1e-5)
    torch.testing.assert_close(amounts[:, :, 2], torch.zeros(1, 1, 4, 4), rtol=0, atol=1e-5)


@pytest.mark.parametrize("angle", [-0.1, 0.0, 0.1])
def test_the_stains_of_a_slide_are_found_in_its_pixels(angle: float) -> None:
    # Tissue has pixels of nearly one dye alone; these are the extremes that the method looks for.
    random = torch.Generator().manual_seed(3)
    own = stain.stain_matrix()[:2] + torch.tensor([[angle, -angle, 0.0], [0.0, 0.0, abs(angle)]])
    share = torch.rand((20_000, 1), generator=random)
    share = torch.where(share < 0.1, 0.02, torch.where(share > 0.9, 0.98, share))
    strength = 0.8 + torch.rand((20_000, 1), generator=random)
    color = dyed(torch.cat([share, 1 - share], dim=1) * strength, own)
    glass = torch.full((5_000, 3), 0.98)

    found = stain.estimate_stains(torch.cat([color, glass]))

    wanted = torch.nn.functional.normalize(own, dim=1)
    # Percentiles cut the ends off a little: 0.05 is 3 degrees.
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.05)


def test_glass_alone_has_the_stains_of_the_literature() -> None:
    found = stain.estimate_stains(torch.full((1000, 3), 0.97))

    torch.testing.assert_close(found, stain.stain_matrix()[:2])


def test_without_strength_the_colors_stay() -> None:
    plain = tiles()

    torch.testing.assert_close(stain.vary_stains(plain, torch.Generator(), 0.0), plain, rtol=0, atol=1e-4)


def test_tiles_of_one_slide_change_alike_and_slides_differ() -> None:
    plain = tiles(slides=1, n=1).expand(3, 4, -1, -1, -1)

    changed = stain.vary_stains(plain, torch.Generator().manual_seed(4))

    assert changed.shape == plain.shape
    torch.testing.assert_close(changed, changed[:, :1].expand_as(changed))
    assert (changed[0] - changed[1]).abs().mean() > 0.01
    assert (changed - plain).abs().mean() > 0.01
    assert changed.min() >= 0
    assert changed.max() <= 1


def test_glass_stays_glass() -> None:
    changed = stain.vary_stains(torch.ones(50, 1, 3, 2, 2), torch.Generator().manual_seed(5))

    # Only the lamp dims it: 8 per cent, and 3 of one color.
    assert changed.min() > 0.88


def test_more_dye_is_darker_everywhere() -> None:
    plain = tiles(slides=40, n=1)

    changed = stain.vary_stains(plain, torch.Generator().manual_seed(6))

    # Each slide's pixels keep their order: the dyes scale, they do not mix among pixels.
    darkness, other = (one.mean(dim=2).flatten(1) for one in (plain, changed))
    each = [torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(darkness, other, strict=True)]
    assert min(each) > 0.9
