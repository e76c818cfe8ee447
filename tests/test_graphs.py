"""The graphs that are served, and how small their weights are stored."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")

import onnx
import torch

from models import weights
from models.graphs import OUTPUTS, Combination, CombineGraph, MemberGraph, binary_entropy
from models.serving import EnsembleGraphs, open_graph, run_graph
from models.strangeness import Standards, Subspace, fit_subspace, score
from tests.ensembles import MEMBERS, SIZE, tiny_ensemble, tiny_network, write_ensemble
from tests.models import graph


def combine(classes: int = 1, members: int = 1, *, constant: float = 0.5, quantile: float = 0.6):
    mean, deviation = np.zeros((members, 2), np.float32), np.ones((members, 2), np.float32)
    graph = CombineGraph(Combination([constant] * classes, [quantile] * classes, mean, deviation))
    return lambda *answers: dict(zip(OUTPUTS, graph(*answers), strict=True))


# --- the combine graph -----------------------------------------------------------------------------------


def test_combine_graph_by_hand() -> None:
    logits, maps = torch.tensor([[[2.0], [-1.0]]]), torch.full((1, 1, 2, 2), 0.25)

    outputs = combine()(logits, maps, torch.tensor([[1.0, -3.0]]))

    each = 1 / (1 + np.exp([-2.0, 1.0]))
    center = np.log(each.mean() / (1 - each.mean()))
    half = 1.959964 * np.sqrt(4.5 + 0.25)
    assert outputs["probability"].item() == pytest.approx(each.mean())
    assert outputs["spread"].item() == pytest.approx(each.std())
    np.testing.assert_allclose(
        outputs["interval"][0, 0], 1 / (1 + np.exp([-(center - half), -(center + half)])), rtol=1e-5
    )
    entropy = -(each.mean() * np.log2(each.mean()) + (1 - each.mean()) * np.log2(1 - each.mean()))
    assert outputs["entropy"].item() == pytest.approx(entropy)
    expected = entropy - binary_entropy(torch.tensor(each)).mean().item()
    assert outputs["mutual_information"].item() == pytest.approx(expected)
    assert (outputs["activation_map"] == 0.25).all()
    assert outputs["out_of_distribution"].item() == pytest.approx(np.log1p(np.e))


@pytest.mark.parametrize(
    ("probability", "quantile", "absent_and_present"),
    [(0.9, 0.6, [0, 1]), (0.1, 0.6, [1, 0]), (0.5, 0.6, [1, 1]), (0.5, 0.4, [0, 0]), (0.3, 1.0, [1, 1])],
)
def test_a_prediction_set_holds_each_answer_that_is_likely_enough(
    probability: float, quantile: float, absent_and_present: list[int]
) -> None:
    logits = torch.full((1, 2, 1), float(np.log(probability / (1 - probability))))

    outputs = combine(quantile=quantile)(logits, torch.zeros(1, 1, 2, 2), torch.zeros(1, 2))

    assert outputs["prediction_set"].tolist() == [[absent_and_present]]


def test_an_image_is_as_strange_as_the_larger_part_of_its_strangeness() -> None:
    members = [torch.tensor([[9.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.0, 3.0]])]
    logits, maps = [torch.zeros(2, 2, 1)] * 2, [torch.zeros(2, 1, 2, 2)] * 2

    outputs = combine(members=2)(*logits, *maps, *members)

    # Averaged over members, then the larger part: 5 of the first, 2 of the second.
    expected = np.log1p(np.exp([[5.0], [2.0]]))
    np.testing.assert_allclose(outputs["out_of_distribution"], expected, rtol=1e-6)
    standards = Standards(np.zeros((2, 2), np.float32), np.ones((2, 2), np.float32))
    np.testing.assert_allclose(score(np.stack(members), standards), expected[:, 0], rtol=1e-6)


def test_combine_graph_stays_in_bounds_where_a_network_is_certain() -> None:
    logits = torch.tensor([[[90.0, -90.0, 0.0], [90.0, -90.0, 0.0]]])

    outputs = combine(3, constant=0.0)(logits, torch.zeros(1, 3, 2, 2), torch.tensor([[-90.0, -90.0]]))

    interval, probability = outputs["interval"], outputs["probability"]
    assert all(torch.isfinite(output).all() for output in outputs.values())
    assert (interval[..., 0] <= probability).all()
    assert (probability <= interval[..., 1]).all()
    assert 0 <= interval.min() <= interval.max() <= 1
    assert outputs["entropy"][0, 2] == 1
    assert (outputs["mutual_information"] >= 0).all()
    assert outputs["out_of_distribution"] >= 0


# --- a member --------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_mirrored_image_gets_swapped_views_a_mirrored_map_and_the_same_strangeness() -> None:
    subspace = Subspace(np.zeros(8, np.float32), np.eye(8, 3, dtype=np.float32))
    member = MemberGraph(tiny_network(1), [1.0, 1.0, 1.0], subspace).eval()
    image = torch.rand(2, 1, SIZE, SIZE)

    (logits, activation, strangeness), mirrored = member(image), member(image.flip(3))

    torch.testing.assert_close(mirrored[0], logits.flip(1))
    torch.testing.assert_close(mirrored[1], activation.flip(3))
    torch.testing.assert_close(mirrored[2], strangeness)


@torch.no_grad()
def test_a_member_divides_by_its_temperatures_and_says_how_far_its_features_lie_outside() -> None:
    network, image = tiny_network(1), torch.rand(3, 1, SIZE, SIZE)
    views = [network(image), network(image.flip(3))]
    features = torch.stack([view.features for view in views]).mean(dim=0).numpy()
    subspace = fit_subspace(np.random.default_rng(0).normal(size=(20, 8)), directions=3)

    logits, _, strangeness = MemberGraph(network, [1.0, 2.0, 4.0], subspace).eval()(image)

    torch.testing.assert_close(logits[:, 0], views[0].logits / torch.tensor([1.0, 2.0, 4.0]))
    torch.testing.assert_close(strangeness[:, 0], (views[0].foreign + views[1].foreign) / 2)
    np.testing.assert_allclose(strangeness[:, 1], subspace.distance(features), rtol=1e-5)


def test_the_served_graphs_give_what_the_modules_give(tmp_path: Path) -> None:
    from models.ensemble_export import measure_parity
    from models.tasks import PARITY_TOLERANCE

    ensemble = write_ensemble(tmp_path)
    images = np.random.default_rng(3).random((5, SIZE, SIZE), dtype=np.float32)

    differences = measure_parity(ensemble, images, tmp_path)

    assert differences.keys() == PARITY_TOLERANCE.keys()
    for name, difference in differences.items():
        assert 0 < difference <= PARITY_TOLERANCE[name], name


def test_served_graphs_take_any_batch_and_give_what_their_configuration_says(tmp_path: Path) -> None:
    write_ensemble(tmp_path)
    graphs = EnsembleGraphs(tmp_path, "chest_xray")
    images = np.random.default_rng(3).random((17, SIZE, SIZE), dtype=np.float32)

    together, alone = graphs.infer(images), graphs.infer(images[16:])

    assert graphs.members == list(MEMBERS)
    assert set(together) == set(OUTPUTS)
    for name in OUTPUTS:
        np.testing.assert_allclose(together[name][16:], alone[name], atol=1e-6, err_msg=name)


# --- stored weights --------------------------------------------------------------------------------------


def convolution(values: np.ndarray) -> bytes:
    """Return the graph y = a convolution of x with these weights."""
    weight = onnx.numpy_helper.from_array(values, "w")
    model = onnx.load_from_string(
        graph(
            [onnx.helper.make_node("Conv", ["x", "w"], ["y"])],
            {"x": ["batch", values.shape[1], 4, 4]},
            {"y": ["batch", values.shape[0], 4, 4]},
        )
    )
    model.graph.initializer.append(weight)
    return bytes(model.SerializeToString())


# Half a step of 1 / 127 of the largest weight; half a unit in the last of 11 bits.
@pytest.mark.parametrize(("form", "largest_error"), [("int8", 0.5 / 127), ("float16", 2**-11)])
def test_stored_weights_are_near_and_small(form: str, largest_error: float, tmp_path: Path) -> None:
    values = np.random.default_rng(1).uniform(-1, 1, (64, 32, 1, 1)).astype(np.float32)
    plain = onnx.load_from_string(convolution(values))
    small = onnx.load_from_string(convolution(values))

    weights.store(small.graph, form)

    (tmp_path / "plain.onnx").write_bytes(plain.SerializeToString())
    (tmp_path / "small.onnx").write_bytes(small.SerializeToString())
    one_channel = np.zeros((1, 32, 4, 4), np.float32)
    one_channel[:, 5] = 1.0
    given, wanted = (
        run_graph(open_graph(tmp_path / f"{name}.onnx"), {"x": one_channel})["y"]
        for name in ("small", "plain")
    )
    error = np.abs(given - wanted).max()
    assert 0 < error <= largest_error * 1.001
    assert len(small.SerializeToString()) < 0.6 * len(plain.SerializeToString())


def test_restoring_int8_weights_costs_nothing_when_served(tmp_path: Path) -> None:
    import onnxruntime

    small = onnx.load_from_string(convolution(np.ones((64, 32, 1, 1), np.float32)))
    weights.store(small.graph, "int8")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 3

    onnxruntime.InferenceSession(small.SerializeToString(), options, providers=["CPUExecutionProvider"])

    assert [node.op_type for node in small.graph.node] == ["Cast", "Mul", "Conv"]
    assert [node.op_type for node in onnx.load(str(tmp_path / "optimized.onnx")).graph.node] == ["Conv"]


def test_a_channel_of_zeros_stays_zero() -> None:
    levels, scale = weights.to_int8(np.zeros((2, 3, 1, 1), np.float32))

    assert (levels * scale == 0).all()


def test_a_weight_too_large_for_float16_is_refused() -> None:
    with pytest.raises(ValueError, match="do not fit into float16"):
        weights.keep_half("w", np.array([1e6], np.float32))


def test_a_tiny_ensemble_has_every_output_within_its_range() -> None:
    ensemble = tiny_ensemble()
    image = torch.rand(4, 1, SIZE, SIZE)

    with torch.no_grad():
        answers = zip(*(member.eval()(image) for member in ensemble.members.values()), strict=True)
        outputs = ensemble.combine.eval()(*(tensor for output in answers for tensor in output))

    for name, values in zip(OUTPUTS, outputs, strict=True):
        assert values.min() >= 0, name
        assert name == "out_of_distribution" or values.max() <= 1, name
