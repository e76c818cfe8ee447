"""The graphs of detectors: decoding, suppression and choice are those of PyTorch and torchvision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")
onnx = pytest.importorskip("onnx")

from torch import nn  # noqa: E402
from torchvision.ops import (  # noqa: E402
    nms,
)

from models.detector import (  # noqa: E402
    LABELS,
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
from models.graphs import export_graph  # noqa: E402
from models.serving import open_graph, run_graph  # noqa: E402
from tests.small_detectors import KINDS, SIDE, boxes_of, small  # noqa: E402


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


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
    answers += [torch.randint(0, 6, (2, COUNT)) for _ in range(2)] + [
        torch.rand(2, COUNT, 3) for _ in range(2)
    ]

    boxes, scores, labels, kinds = StackGraph()(*answers)

    assert boxes.shape == (2, 2, COUNT, 4)
    assert torch.equal(boxes[:, 1], answers[1])
    assert torch.equal(scores[:, 0], answers[2])
    assert torch.equal(labels[:, 1], answers[5])
    assert torch.equal(kinds[:, 0], answers[6])


@pytest.mark.parametrize("side", [256, 320])
def test_no_layer_of_the_yolo_is_tied_to_a_size(side: int) -> None:
    with torch.no_grad():
        answer = small("yolo")(torch.rand(1, 1, side, side))

    assert answer.logits.shape == (1, len(places_of(side, side)), len(LABELS) - 1)


def test_a_resnet50_may_be_the_backbone() -> None:
    network = faster_rcnn("resnet50", channels=16, hidden=16)

    maps = network.eval().features(torch.zeros(1, 1, 64, 64))

    assert [one.shape[-1] for one in maps.values()] == [16, 8, 4, 2, 1]
