"""What the detectors minimize: by hand, and as torchvision has it."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")

from torchvision.ops import (  # noqa: E402
    box_iou,
    generalized_box_iou,
    generalized_box_iou_loss,
    sigmoid_focal_loss,
)

from models.detector_losses import (  # noqa: E402
    focal_loss,
    hardest_negatives,
    kind_loss,
    overlaps,
    partial_cross_entropy,
)
from tests.small_detectors import boxes_of  # noqa: E402


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def test_the_focal_loss_is_that_of_torchvision() -> None:
    logits = torch.linspace(-6, 6, 24).reshape(4, 6)
    labels = (torch.arange(24).reshape(4, 6) % 3 == 0).float()

    for gamma, alpha in ((2.0, 0.25), (1.0, 0.6)):
        torch.testing.assert_close(
            focal_loss(logits, labels, gamma=gamma, alpha=alpha),
            sigmoid_focal_loss(logits, labels, alpha=alpha, gamma=gamma),
        )


def test_the_focal_loss_by_hand() -> None:
    found = focal_loss(torch.zeros(3), torch.tensor([1.0, 0.5, torch.nan]))

    # At a probability of 1/2: ln 2 times (1/2)²; nothing at the wanted probability; nothing where unknown.
    torch.testing.assert_close(found, torch.tensor([0.25 * np.log(2), 0.0, 0.0], dtype=torch.float32))


@pytest.mark.parametrize(
    ("one", "other", "iou", "giou"),
    [
        ([0, 0, 2, 2], [0, 0, 2, 2], 1.0, 1.0),
        ([0, 0, 2, 2], [1, 0, 3, 2], 1 / 3, 1 / 3),
        # The hull is 3 × 3, the union 7: two ninths of it are of neither.
        ([0, 0, 2, 2], [1, 1, 3, 3], 1 / 7, 1 / 7 - 2 / 9),
        # Apart: the hull of 4 × 1 holds two boxes of 1.
        ([0, 0, 1, 1], [3, 0, 4, 1], 0.0, -0.5),
        ([1, 1, 1, 1], [1, 1, 1, 1], 0.0, 0.0),
    ],
)
def test_overlaps_by_hand(one: list[float], other: list[float], iou: float, giou: float) -> None:
    found = overlaps(*(torch.tensor([box], dtype=torch.float32) for box in (one, other)))

    assert [value.item() for value in found] == pytest.approx([iou, giou], abs=1e-6)


def test_overlaps_are_those_of_torchvision() -> None:
    boxes, others = boxes_of(50, 1), boxes_of(50, 2)

    overlap, generalized = overlaps(boxes, others)

    torch.testing.assert_close(overlap, box_iou(boxes, others).diag())
    torch.testing.assert_close(generalized, generalized_box_iou(boxes, others).diag())
    torch.testing.assert_close(1 - generalized, generalized_box_iou_loss(boxes, others))


def test_boxes_that_do_not_meet_are_drawn_together() -> None:
    box = torch.tensor([[0.0, 0, 1, 1]], requires_grad=True)

    overlaps(box, torch.tensor([[3.0, 0, 4, 1]]))[1].sum().backward()

    assert box.grad is not None
    assert box.grad[0, 2] > 0


def test_the_hardest_negatives_count() -> None:
    loss = torch.tensor([0.1, 5.0, 0.3, 4.0, 0.2, 9.0])
    is_positive = torch.tensor([False, False, False, False, False, True])

    kept = hardest_negatives(loss, is_positive, ratio=2.0, least=1)

    assert kept.tolist() == [False, True, False, True, False, True]
    # Without a positive some count all the same: an image without a lesion teaches too.
    assert int(hardest_negatives(loss[:5], is_positive[:5], least=3).sum()) == 3
    assert int(hardest_negatives(loss, ~is_positive, least=16).sum()) == 6


def test_background_may_be_what_nobody_has_labelled() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2], [0.5, 0.3, 0.2]]))
    labels = torch.tensor([0, 0, 1])
    is_possible = torch.tensor([[False, False, False], [False, True, False], [False, True, True]])

    found = partial_cross_entropy(logits, labels, is_possible)

    torch.testing.assert_close(found, -torch.log(torch.tensor([0.5, 0.8, 0.3])))


def test_kinds_are_told_from_each_other_alone() -> None:
    logits, kinds = (
        torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.5, 0.5]], requires_grad=True),
        torch.tensor([0, 2]),
    )

    loss = kind_loss(logits, kinds)

    exponents = np.exp([2.0, 0.0, -1.0])
    assert loss.item() == pytest.approx((np.log(exponents.sum()) - 2.0 + np.log(3)) / 2)
    # That all are likely or unlikely together is no matter of kinds.
    assert kind_loss(logits + 5.0, kinds).item() == pytest.approx(loss.item())
    none = kind_loss(logits[:0], kinds[:0])
    none.backward()
    assert none.item() == 0
