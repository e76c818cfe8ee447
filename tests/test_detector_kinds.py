"""The network that names lesions looks around each box, and at its size beside the lungs."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")

from torch import Tensor, nn  # noqa: E402

from models.detector_kinds import (  # noqa: E402
    NAMED,
    SIDE,
    SPAN_PX,
    KindGraph,
    KindNetwork,
    pieces_of,
    seen_often,
    sizes_of,
    span_of,
)


def test_a_piece_holds_the_box_in_its_middle() -> None:
    image = torch.zeros(2, 1, 128, 128)
    image[1, 0, 30:50, 60:80] = 1.0

    pieces = pieces_of(image, torch.tensor([[[60.0, 30, 80, 50]], [[60.0, 30, 80, 50]]]))

    assert pieces.shape == (2, 1, SIDE, SIDE)
    assert not pieces[0].any()
    # 20 pixels of the 2 · (0.8 · 20 + 3) that are shown.
    rows, columns = (np.flatnonzero((pieces[1, 0] > 0.5).any(dim=axis)) for axis in (1, 0))
    for place in (rows, columns):
        assert (place[0] + place[-1]) / 2 == pytest.approx((SIDE - 1) / 2, abs=0.6)
        assert len(place) == pytest.approx(SIDE * 20 / 38, abs=1)


def test_a_size_is_told_beside_the_lungs() -> None:
    boxes = torch.tensor([[[0.0, 0, 40, 20]], [[0.0, 0, 80, 40]]])

    sizes = sizes_of(boxes, torch.tensor([200.0, 400.0]))

    torch.testing.assert_close(sizes[0], sizes[1])
    torch.testing.assert_close(
        sizes[0], torch.tensor([np.log(0.2) + 2, np.log(0.1) + 2], dtype=torch.float32)
    )


def test_the_lungs_reach_from_the_one_to_the_other() -> None:
    boxes = torch.tensor([[[30.0, 9, 200, 400], [260, 9, 450, 400], [100, 100, 120, 120]]] * 3)
    is_lung = torch.tensor([[True, True, False], [True, False, False], [False, False, False]])

    assert span_of(boxes, is_lung).tolist() == [420, SPAN_PX, SPAN_PX]


class Said(nn.Module):
    """A detector that says what it is told."""

    def __init__(self, *answers: Tensor) -> None:
        super().__init__()
        self.answers = answers

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        del image
        return self.answers


def test_lesions_alone_are_named_anew() -> None:
    boxes = torch.tensor([[[10.0, 10, 30, 30], [5, 5, 50, 90], [60, 5, 90, 90], [0, 0, 0, 0]]])
    scores, labels = torch.tensor([[0.9, 0.8, 0.7, 0.0]]), torch.tensor([[1, 4, 5, 0]])
    namer = KindNetwork(8).eval()
    with torch.no_grad():
        namer.decide[-1].bias.copy_(torch.tensor([0.0, 0.0, 99.0]))

    found = KindGraph(Said(boxes, scores, labels), namer)(torch.rand(1, 1, 96, 96))

    assert found[2].tolist() == [[3, 4, 5, 0]]
    assert found[0] is boxes
    assert found[1] is scores
    # What is no lesion has no kind.
    torch.testing.assert_close(found[3], torch.tensor([[[0.0, 0, 1], [0, 0, 0], [0, 0, 0], [0, 0, 0]]]))


def test_a_lesion_beyond_those_that_are_looked_at_keeps_its_label() -> None:
    boxes = torch.tensor([[[10.0, 10, 30, 30]] * (NAMED + 1)])
    scores = torch.linspace(0.9, 0.1, NAMED + 1)[None]
    namer = KindNetwork(8).eval()
    with torch.no_grad():
        namer.decide[-1].bias.copy_(torch.tensor([0.0, 0.0, 99.0]))

    found = KindGraph(Said(boxes, scores, torch.full((1, NAMED + 1), 2)), namer)(torch.rand(1, 1, 96, 96))

    assert found[2][0].tolist() == [3] * NAMED + [2]
    assert not found[3][0, NAMED].any()


def test_a_lesion_looks_alike_from_both_sides() -> None:
    namer, piece, sizes = KindNetwork(8).eval(), torch.rand(1, 1, SIDE, SIDE), torch.zeros(1, 2)

    with torch.no_grad():
        plain, mirrored = (seen_often(namer, one, sizes) for one in (piece, piece.flip(3)))

    torch.testing.assert_close(plain, mirrored, atol=1e-5, rtol=1e-4)


def test_brightness_and_contrast_tell_no_kind() -> None:
    namer, sizes = KindNetwork(8).eval(), torch.zeros(1, 2)
    piece = torch.rand(1, 1, SIDE, SIDE)

    plain, other = namer(piece, sizes), namer(0.8 * piece + 0.15, sizes)

    torch.testing.assert_close(plain, other, atol=0.05, rtol=0.05)
