"""The networks for lesions on radiographs: which places are asked for what, and that every part learns."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")

from torch import Tensor  # noqa: E402
from torchvision.ops import (  # noqa: E402
    box_iou,
)

from models.detector import (  # noqa: E402
    ANCHOR_SIDES,
    LESION_SIDE,
    STRIDES,
    FasterRcnn,
    Truth,
    YoloDetector,
    decode,
    faster_rcnn,
    places_of,
)
from models.detector_graphs import (  # noqa: E402
    FasterRcnnGraph,
    SelectGraph,
)
from models.detector_lessons import assign, wanted_of, yolo_loss  # noqa: E402
from tests.small_detectors import KINDS, SIDE, boxes_of, small  # noqa: E402


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


# --- places and anchors -----------------------------------------------------------------------------------


def test_places_lie_in_the_middle_of_what_they_stand_for() -> None:
    places = places_of(64, 32)

    assert len(places) == sum((64 // stride) * (32 // stride) for stride in STRIDES)
    assert places[0].tolist() == [2, 2, 4]
    assert places[1].tolist() == [6, 2, 4]
    assert places[8].tolist() == [2, 6, 4]
    assert places[-1].tolist() == [16, 48, 32]


def test_a_place_says_middle_and_size_by_its_stride() -> None:
    offsets = torch.tensor([[[0.5, -1.0, np.log(2.0), 0.0]]], dtype=torch.float32)

    found = decode(offsets, torch.tensor([[12.0, 20.0, 8.0]]))

    # The middle goes to (16, 12); 16 wide, 8 high.
    torch.testing.assert_close(found, torch.tensor([[[8.0, 8.0, 24.0, 16.0]]]))


@pytest.mark.parametrize(
    ("side", "stride"), [(5.0, 4.0), (20.0, 4.0), (21.0, 8.0), (60.0, 16.0), (90.0, 16.0), (300.0, 32.0)]
)
def test_each_box_has_places_of_the_stride_that_fits_it(side: float, stride: float) -> None:
    places = places_of(512, 512)
    box = torch.tensor([[250 - side / 2, 262 - side / 2, 250 + side / 2, 262 + side / 2]])

    owners = assign(box, places)

    own = places[owners == 0]
    assert 4 <= len(own) <= 9
    assert set(own[:, 2].tolist()) == {stride}
    assert (own[:, :2] - torch.tensor([250.0, 262.0])).abs().max() < 1.5 * stride


def test_the_smaller_of_two_boxes_has_the_place() -> None:
    boxes = torch.tensor([[40.0, 40, 56, 56], [44.0, 44, 52, 52]])

    owners = assign(boxes, places_of(SIDE, SIDE))

    assert (owners == 1).sum() == 4
    assert (owners == 0).sum() == 0
    assert (assign(boxes[:0], places_of(SIDE, SIDE)) == -1).all()


def test_what_is_not_known_of_an_image_is_not_asked() -> None:
    box, labels = torch.tensor([[40.0, 40, 48, 48]]), torch.tensor([2])
    owner = assign(box, places_of(SIDE, SIDE))

    lungs_unknown, lesions_unknown = (
        wanted_of(one, owner)
        for one in (Truth(box, labels, True, False), Truth(box[:0], labels[:0], False, True))
        for owner in [assign(one.boxes, places_of(SIDE, SIDE))]
    )

    found = owner >= 0
    assert torch.isnan(lungs_unknown[~found]).all(dim=0).tolist() == [False, False, False, True, True]
    assert (lungs_unknown[found] == torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0])).all()
    assert torch.isnan(lesions_unknown).all(dim=0).tolist() == [True, True, True, False, False]


@pytest.mark.parametrize("side", [6, 8, 11, 16, 22, 30, 42, 60, 75, 100, 120])
@pytest.mark.parametrize("place", [(256.0, 256.0), (261.0, 250.0), (131.5, 402.5)])
def test_every_lesion_overlaps_an_anchor(side: float, place: tuple[float, float]) -> None:
    network = faster_rcnn(width=8, channels=8, hidden=8)
    anchors = anchors_of(network, 512)
    x, y = place

    overlap = box_iou(torch.tensor([[x - side / 2, y - side / 2, x + side / 2, y + side / 2]]), anchors)

    # The least is that of 6 pixels between the middles of four places of stride 4.
    assert overlap.max() > (0.3 if side < 8 else 0.45)


def test_lungs_overlap_anchors_that_are_larger_than_any_lesion() -> None:
    anchors = anchors_of(faster_rcnn(width=8, channels=8, hidden=8), 512)
    lungs = torch.tensor([[60.0, 20, 220, 480], [290.0, 100, 430, 380], [90, 140, 190, 360]])

    best, index = box_iou(lungs, anchors).max(dim=1)

    assert (best > 0.5).all()
    sides = (anchors[index, 2:] - anchors[index, :2]).prod(dim=1).sqrt()
    assert (sides > LESION_SIDE - 1).all()
    assert max(side for level in ANCHOR_SIDES[:3] for side in level) < LESION_SIDE


def anchors_of(network: FasterRcnn, size: int) -> Tensor:
    """Return the anchors of a network for squares of a size."""
    return FasterRcnnGraph(network, SelectGraph(), size).anchors


# --- training ---------------------------------------------------------------------------------------------


def loss_of(network: FasterRcnn | YoloDetector, images: Tensor, truths: list[Truth]) -> Tensor:
    if isinstance(network, YoloDetector):
        return yolo_loss(network, images, truths)
    return torch.stack(list(network.losses(images, truths).values())).sum()


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_learns(kind: str) -> None:
    network = small(kind).train()
    # A lesion of each pyramid level, and two lungs.
    boxes = torch.tensor(
        [[8.0, 8, 18, 18], [40, 30, 70, 60], [30, 40, 100, 110], [4, 4, 60, 122], [64, 4, 124, 122]]
    )
    truths = [
        Truth(boxes, torch.tensor([1, 2, 3, 4, 5])),
        Truth(boxes[:0], torch.zeros(0, dtype=torch.int64)),
    ]

    loss_of(network, torch.rand(2, 1, SIDE, SIDE), truths).backward()

    idle = [name for name, value in network.named_parameters() if value.grad is None or not value.grad.any()]
    assert not idle


@pytest.mark.parametrize("kind", KINDS)
def test_images_without_any_box_have_a_loss(kind: str) -> None:
    empty = Truth(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))

    loss = loss_of(small(kind).train(), torch.rand(2, 1, SIDE, SIDE), [empty, empty])

    assert torch.isfinite(loss)
    assert loss > 0


@pytest.mark.parametrize("kind", KINDS)
def test_another_kind_of_lesion_costs_more_than_an_unsure_box(kind: str) -> None:
    network, box = small(kind).train(), torch.tensor([[30.0, 40, 60, 70]])
    with torch.no_grad():
        heads = [one.kind[-1].bias for one in network.heads] if kind == "yolo" else []
        for bias in heads or [network.heads.box_predictor.cls_score.bias[1:]]:
            bias.copy_(torch.tensor([0.0, 4.0, 0.0, -4.0, -4.0]))
    image = torch.rand(1, 1, SIDE, SIDE)

    right, wrong = (loss_of(network, image, [Truth(box, torch.tensor([label]))]).item() for label in (2, 3))

    assert wrong > right + 2


def test_anchors_where_something_may_be_are_not_asked() -> None:
    network = faster_rcnn(width=8, channels=8, hidden=8).proposals
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 200, 200], [50, 50, 60, 60]])
    cases = (
        Truth(anchors[2:], torch.tensor([1]), True, False),
        Truth(anchors[:0], torch.zeros(0), False, True),
    )
    targets = [{"boxes": one.boxes, "unknown": one.unknown()} for one in cases]

    labels, _ = network.assign_targets_to_anchors([anchors, anchors], targets)

    assert labels[0].tolist() == [0, -1, 1]
    assert labels[1].tolist() == [-1, 0, -1]


def test_all_anchors_that_are_asked_teach_the_proposals() -> None:
    network = faster_rcnn(width=8, channels=8, hidden=8).proposals
    labels = torch.tensor([1.0, 0.0, -1.0, 0.0])
    objectness = torch.tensor([[0.0], [0.0], [9.0], [2.0]])
    offsets, wanted = torch.zeros(4, 4), torch.tensor([[0.5, 0, 0, 0]] * 4)

    found, box = network.compute_loss(objectness, offsets, [labels], [wanted])

    sure = 1 / (1 + np.exp(-2.0))
    assert found.item() == pytest.approx(2 * 0.25 * np.log(2) - sure**2 * np.log(1 - sure), rel=1e-5)
    # One anchor has a box: 0.5 off, beyond 1/9, so linear.
    assert box.item() == pytest.approx(0.5 - 0.5 / 9)


def test_unlabelled_lungs_teach_the_heads_nothing() -> None:
    network = small("faster_rcnn").train()
    nothing = torch.zeros(0, dtype=torch.int64)
    features = network.features(torch.rand(1, 1, SIDE, SIDE))
    targets = [
        {
            "boxes": torch.zeros(0, 4),
            "labels": nothing,
            "unknown": Truth(torch.zeros(0, 4), nothing, *flags).unknown(),
        }
        for flags in ((True, True), (True, False))
    ]
    # A network that says "right lung" everywhere is wrong where there is none, and not where none is known.
    with torch.no_grad():
        network.heads.box_predictor.cls_score.bias.copy_(torch.tensor([0.0, 0, 0, 0, 9, 0]))

    wrong, unknown = (
        network.heads.losses(features, [boxes_of(20, 1)], [(SIDE, SIDE)], [target])["class"].item()
        for target in targets
    )

    assert wrong > 5
    assert unknown < 0.1
