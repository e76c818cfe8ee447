"""The networks for lesions on radiographs: what they learn from, and that all graphs of them say the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")
onnx = pytest.importorskip("onnx")

from torch import Tensor, nn  # noqa: E402
from torchvision.ops import (  # noqa: E402
    box_iou,
    generalized_box_iou,
    generalized_box_iou_loss,
    nms,
    sigmoid_focal_loss,
)

from models.detector import (  # noqa: E402
    ANCHOR_SIDES,
    LABELS,
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
    COUNT,
    DETECTOR_OUTPUTS,
    FasterRcnnGraph,
    Platt,
    SelectGraph,
    StackGraph,
    detector_graph,
)
from models.detector_lessons import assign, wanted_of, yolo_loss  # noqa: E402
from models.detector_losses import (  # noqa: E402
    focal_loss,
    hardest_negatives,
    overlaps,
    partial_cross_entropy,
)
from models.graphs import export_graph  # noqa: E402
from models.serving import open_graph, run_graph  # noqa: E402

SIDE = 128


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def boxes_of(count: int, seed: int, side: float = 100.0) -> Tensor:
    """Return boxes within a square, at least 2 pixels wide."""
    random = torch.Generator().manual_seed(seed)
    low = torch.rand((count, 2), generator=random) * (side - 30)
    return torch.cat([low, low + 2 + 28 * torch.rand((count, 2), generator=random)], dim=1)


# --- losses -----------------------------------------------------------------------------------------------


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


def small(kind: str) -> FasterRcnn | YoloDetector:
    """Return a small network of a kind whose normalization has seen something."""
    torch.manual_seed(3)
    if kind == "yolo":
        network: nn.Module = YoloDetector(8, 16)
    else:
        network = faster_rcnn(width=8, channels=16, hidden=32, proposals=50)
    network.train()
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = 1.0
            # Branches that begin at zero pass nothing on to the layers before.
            nn.init.constant_(part.weight, 0.7)
    with torch.no_grad():
        image = torch.rand(2, 1, SIDE, SIDE)
        if kind == "yolo":
            network(image)
            for head in network.heads:
                head.kind[-1].bias.zero_()
        else:
            network.features(image)
    return network.eval()


KINDS = ("yolo", "faster_rcnn")


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


# --- graphs -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=KINDS)
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[nn.Module, Path]:
    """The graph of a small network of each kind, and its file."""
    graph = detector_graph(small(request.param), SIDE, [Platt(1.0 + 0.1 * one, -0.2) for one in range(5)])
    path = tmp_path_factory.mktemp(request.param) / "model.onnx"
    export_graph(graph, {"image": torch.zeros(2, 1, SIDE, SIDE)}, DETECTOR_OUTPUTS, path)
    return graph, path


@pytest.mark.parametrize("count", [1, 3])
def test_pytorch_and_onnx_say_the_same(served: tuple[nn.Module, Path], count: int) -> None:
    graph, path = served
    images = torch.rand(count, 1, SIDE, SIDE)

    with torch.no_grad():
        wanted = graph(images)
    found = run_graph(open_graph(path, 1), {"image": images.numpy()})

    assert [value.shape for value in found.values()] == [(count, COUNT, 4), (count, COUNT), (count, COUNT)]
    assert found["labels"].dtype == np.int64
    for number in range(count):
        one, other = (sorted_rows(*(values[number] for values in each)) for each in (found.values(), wanted))
        # Rounding: the sums of ONNX Runtime are in another order; pixels of 128.
        np.testing.assert_allclose(one, other, atol=1e-3)


def sorted_rows(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return a table of boxes, labels and scores whose order does not depend on that of the boxes."""
    table = np.concatenate(
        [np.asarray(labels)[:, None], np.asarray(boxes).round(3), np.asarray(scores)[:, None]], axis=1
    )
    return table[np.lexsort(np.round(table[:, :5]).T[::-1])]


def test_an_answer_does_not_depend_on_its_batch(served: tuple[nn.Module, Path]) -> None:
    _, path = served
    images = torch.rand(3, 1, SIDE, SIDE).numpy()
    session = open_graph(path, 1)

    together = run_graph(session, {"image": images})
    alone = [run_graph(session, {"image": images[index : index + 1]}) for index in range(3)]

    for name, values in together.items():
        each = np.concatenate([one[name] for one in alone])
        np.testing.assert_allclose(values, each, atol=1e-3)


def test_the_best_come_first_and_lie_on_the_image(served: tuple[nn.Module, Path]) -> None:
    graph, _ = served

    with torch.no_grad():
        boxes, scores, labels = graph(torch.rand(2, 1, SIDE, SIDE))

    assert (scores[:, :-1] >= scores[:, 1:]).all()
    assert ((scores >= 0) & (scores <= 1)).all()
    assert (scores > 0).any()
    assert ((boxes >= 0) & (boxes <= SIDE)).all()
    assert (labels[scores > 0] >= 1).all()
    assert (labels[scores == 0] == 0).all()


def test_the_served_faster_rcnn_is_that_of_torchvision() -> None:
    network = small("faster_rcnn")
    # torchvision suppresses each label for itself.
    graph = FasterRcnnGraph(network, SelectGraph(groups=range(len(LABELS))), SIDE).eval()
    images = torch.rand(3, 1, SIDE, SIDE)

    wanted = network.detect(images)
    with torch.no_grad():
        found = graph(images)

    for number, one in enumerate(wanted):
        count = len(one["scores"])
        assert count > 5
        boxes, scores, labels = (values[number] for values in found)
        assert int((scores > 0).sum()) == count
        own = sorted_rows(boxes[:count], scores[:count], labels[:count])
        np.testing.assert_allclose(own, sorted_rows(one["boxes"], one["scores"], one["labels"]), atol=1e-3)


def test_each_proposal_is_read_from_the_level_of_its_size() -> None:
    network = small("faster_rcnn")
    graph = FasterRcnnGraph(network, SelectGraph(), 512)
    maps = network.features(torch.rand(2, 1, 512, 512))
    low = torch.tensor([[20.0, 30.0]])
    sides = torch.tensor([6.0, 50, 111, 113, 223, 225, 330, 447, 449])[:, None]
    proposals = torch.cat([low.expand(len(sides), 2), low + sides], dim=1)

    found = graph.pool(list(maps.values()), torch.stack([proposals, proposals]))
    wanted = network.heads.box_roi_pool(maps, [proposals, proposals], [(512, 512)] * 2)

    torch.testing.assert_close(found, wanted)


def test_the_best_boxes_by_a_loop() -> None:
    boxes, random = boxes_of(60, 4), torch.Generator().manual_seed(5)
    scores = torch.rand(60, generator=random)
    labels = torch.randint(1, 6, (60,), generator=random)
    platts = [Platt(0.5, 0.1), Platt(2.0, -1.0), Platt(), Platt(), Platt(1.5, 1.0)]

    found = SelectGraph(platts)(boxes[None], scores[None], labels[None])

    wanted = []
    for group in ((1, 2, 3), (4,), (5,)):
        members = torch.nonzero(torch.isin(labels, torch.tensor(group)))[:, 0]
        for index in members[nms(boxes[members], scores[members], 0.4)].tolist():
            fitted, score = platts[labels[index] - 1], scores[index].double()
            logit = torch.log(score / (1 - score)) * fitted.slope + fitted.offset
            wanted.append((torch.sigmoid(logit).item(), labels[index].item(), boxes[index].tolist()))
    wanted = sorted(wanted, reverse=True)[:COUNT]
    assert found[1][0, : len(wanted)].tolist() == pytest.approx([one[0] for one in wanted], abs=1e-5)
    assert found[2][0, : len(wanted)].tolist() == [one[1] for one in wanted]
    np.testing.assert_allclose(found[0][0, : len(wanted)], [one[2] for one in wanted], atol=1e-5)


def test_members_lie_beside_each_other() -> None:
    answers = [torch.rand(2, COUNT, 4) for _ in range(2)] + [torch.rand(2, COUNT) for _ in range(2)]
    answers += [torch.randint(0, 6, (2, COUNT)) for _ in range(2)]

    boxes, scores, labels = StackGraph()(*answers)

    assert boxes.shape == (2, 2, COUNT, 4)
    assert torch.equal(boxes[:, 1], answers[1])
    assert torch.equal(scores[:, 0], answers[2])
    assert torch.equal(labels[:, 1], answers[5])


@pytest.mark.parametrize("side", [256, 320])
def test_no_layer_of_the_yolo_is_tied_to_a_size(side: int) -> None:
    with torch.no_grad():
        answer = small("yolo")(torch.rand(1, 1, side, side))

    assert answer.logits.shape == (1, len(places_of(side, side)), len(LABELS) - 1)


def test_a_resnet50_may_be_the_backbone() -> None:
    network = faster_rcnn("resnet50", channels=16, hidden=16)

    maps = network.eval().features(torch.zeros(1, 1, 64, 64))

    assert [one.shape[-1] for one in maps.values()] == [16, 8, 4, 2, 1]
