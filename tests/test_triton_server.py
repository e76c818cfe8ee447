"""A real Triton server on triton_repo/: the same numbers, the promised order and time-outs."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from queue import Queue
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")

from onnx import TensorProto, helper
from PIL import Image
from tritonclient import grpc as client
from tritonclient.utils import InferenceServerException

from models import policy, repository
from models.policy import Serving, Waiting
from node.engines.onnx import OnnxEngine
from node.engines.repository import ModelRepository
from node.imaging.intensity import prepare_radiograph
from node.samples.thorax import thorax_radiograph
from tests.conftest import SHARED_DATA
from tests.ensembles import SIZE, tiny_ensemble, write_ensemble
from tests.models import arithmetic, card, constant, graph
from tests.peers import wait_until
from tests.peers.triton import EXPLICIT, TRITON_REPO, Triton, make_triton

pytestmark = pytest.mark.triton

ENSEMBLE, COMBINE = "chest_xray", "chest_xray_combine"
MEMBERS = sorted(
    path.parents[1].name for path in TRITON_REPO.glob("*/1/model.onnx") if "combine" not in str(path)
)
# The same library runs the same file: only how a sum is divided among threads may differ, in float32.
TOLERANCE = 1e-5
STAT, ROUTINE = 1, 3
SIDE = 512

Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Radiographs (n, 1, s, s) as the networks take them: synthetic, and real where there are any."""
    size = ModelRepository(TRITON_REPO).card(ENSEMBLE).input_shape[-1]
    pictures = [thorax_radiograph(1, finding="consolidation").pixels]
    real = sorted((SHARED_DATA / "cxr" / "kermany").glob("*.jpg"))[:2]
    pictures += [np.asarray(Image.open(path).convert("L")) for path in real]
    return np.stack([prepare_radiograph(picture, size) for picture in pictures])[:, None]


@pytest.fixture(scope="module")
def embedded(images: np.ndarray) -> Arrays:
    """Every tensor of the ensemble, image and answers included, as the engine in this process gives it."""
    engine = OnnxEngine(ModelRepository(TRITON_REPO), threads=2)
    tensors: dict[str, Any] = {"image": images}
    for step in ModelRepository(TRITON_REPO).config(ENSEMBLE).steps:
        inputs = {name: tensors[tensor] for name, tensor in step.tensor_by_input.items()}
        outputs = engine.infer(step.model, inputs)
        tensors |= {tensor: outputs[name] for name, tensor in step.tensor_by_output.items()}
    return tensors


class Asker:
    """The gRPC client, with arrays in and out."""

    def __init__(self, triton: Triton) -> None:
        self.server = client.InferenceServerClient(triton.url)
        self.answered: Queue[tuple[str, Any]] = Queue()

    def ask(self, model: str, inputs: Mapping[str, np.ndarray], **options: Any) -> Arrays:
        return as_arrays(self.server.infer(model, as_inputs(inputs), **options))

    def send(self, name: str, model: str, inputs: Mapping[str, np.ndarray], **options: Any) -> None:
        """Ask without waiting; the name and the answer come into `answered` as the server gives them."""
        self.server.async_infer(
            model,
            as_inputs(inputs),
            callback=lambda result, error: self.answered.put((name, error or as_arrays(result))),
            **options,
        )

    def answers(self, count: int) -> list[tuple[str, Any]]:
        return [self.answered.get(timeout=60) for _ in range(count)]


def as_inputs(arrays: Mapping[str, np.ndarray]) -> list[client.InferInput]:
    inputs = []
    for name, array in arrays.items():
        entry = client.InferInput(name, list(array.shape), "FP32")
        entry.set_data_from_numpy(np.ascontiguousarray(array))
        inputs.append(entry)
    return inputs


def as_arrays(result: client.InferResult) -> Arrays:
    return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}


@pytest.fixture
def asker(triton: Triton) -> Iterator[Asker]:
    asker = Asker(triton)
    yield asker
    asker.server.close()


def test_every_model_of_the_repository_is_ready(asker: Asker) -> None:
    index = asker.server.get_model_repository_index().models

    expected = {path.parent.name for path in TRITON_REPO.glob("*/config.pbtxt")}
    assert {model.name: model.state for model in index} == dict.fromkeys(expected, "READY")
    for model in expected - {ENSEMBLE}:
        assert asker.server.get_model_config(model).config.backend == "python"


def test_the_server_tells_which_weights_it_serves(asker: Asker) -> None:
    document = json.loads((TRITON_REPO / ENSEMBLE / "card.json").read_text())

    for entry in document["weights"]:
        parameters = asker.server.get_model_config(entry["model"]).config.parameters
        assert parameters["sha256"].string_value == entry["sha256"]
    version = asker.server.get_model_config(ENSEMBLE).config.parameters["version"]
    assert version.string_value == document["version"]


@pytest.mark.parametrize("model", [ENSEMBLE, *MEMBERS, COMBINE])
def test_server_and_embedded_engine_give_the_same_numbers(model: str, asker: Asker, embedded: Arrays) -> None:
    config = ModelRepository(TRITON_REPO).config(ENSEMBLE)
    steps = {step.model: (step.tensor_by_input, step.tensor_by_output) for step in config.steps}
    own = ({"image": "image"}, {tensor.name: tensor.name for tensor in config.outputs})
    tensor_by_input, tensor_by_output = steps.get(model, own)

    answered = asker.ask(model, {name: embedded[tensor] for name, tensor in tensor_by_input.items()})

    assert answered.keys() == tensor_by_output.keys()
    for name, tensor in tensor_by_output.items():
        assert answered[name].dtype == np.float32
        np.testing.assert_allclose(answered[name], embedded[tensor], atol=TOLERANCE, err_msg=name)


def test_requests_are_batched_and_each_gets_its_own_answer(asker: Asker, embedded: Arrays) -> None:
    before = {model: batched(asker, model) for model in (*MEMBERS, COMBINE)}

    for index in (*range(len(embedded["image"])), *range(len(embedded["image"]))):
        asker.send(str(index), ENSEMBLE, {"image": embedded["image"][index : index + 1]})

    for index, answer in asker.answers(2 * len(embedded["image"])):
        wanted = embedded["probability"][int(index)]
        np.testing.assert_allclose(answer["probability"], wanted[None], atol=TOLERANCE)
    for model, count in before.items():
        assert batched(asker, model) > count, model


def batched(asker: Asker, model: str) -> int:
    """How often the model was run with more than one item."""
    (statistics,) = asker.server.get_inference_statistics(model).model_stats
    return sum(entry.compute_infer.count for entry in statistics.batch_stats if entry.batch_size > 1)


@pytest.mark.parametrize("shape", [(1, 1, 64, 64), (1, 192, 192), (17, 1, 192, 192)])
def test_an_image_of_another_shape_is_refused_in_words(asker: Asker, shape: Sequence[int]) -> None:
    with pytest.raises(InferenceServerException, match=r"shape|batch") as refused:
        asker.ask(ENSEMBLE, {"image": np.zeros(shape, np.float32)})

    assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_the_server_counts_for_prometheus(triton: Triton, asker: Asker, images: np.ndarray) -> None:
    asker.ask(ENSEMBLE, {"image": images[:1]})

    metrics = triton.metrics()

    names = {name.partition("{")[0] for name in metrics}
    for part in ("count", "exec_count", "queue_duration_us", "request_failure", "pending_request_count"):
        assert f"nv_inference_{part}" in names
    for model in (ENSEMBLE, *MEMBERS):
        assert metrics[f'nv_inference_count{{model="{model}",version="1"}}'] >= 1


def test_a_stock_server_finds_nothing_wrong_but_its_missing_backend(tmp_path: Path) -> None:
    stock = ("--model-config-name", "stock", *EXPLICIT)
    with make_triton(tmp_path, options=stock) as triton:
        triton.start()
        asker = Asker(triton)
        for model in (*MEMBERS, COMBINE):
            with pytest.raises(InferenceServerException, match="backend library for backend 'onnxruntime'"):
                asker.server.load_model(model)
        asker.server.close()
    assert "Poll failed" not in triton.log_text()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    """A server with networks of a few weights, slow models for one item at a time, and one that may fail."""
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("small")
    write_ensemble(folder / "models")
    one = Serving(max_batch_size=1, preferred_batch_sizes=(1,))
    write(folder, "slow", {"slow_net_a": slowly(), "slow_combine": identity()}, one)
    hasty = (Waiting("stat", 60, 2), Waiting("routine", 0.01, 8))
    write(folder, "hasty", {"hasty": slowly("y")}, replace(one, priorities=hasty))
    write(folder, "lookup", {"lookup": lookup()}, Serving(max_queue_delay_ms=200, preferred_batch_sizes=(4,)))
    with make_triton(folder / "log", repository=folder / "models") as server:
        server.start()
        yield server


def write(folder: Path, name: str, graphs: Mapping[str, bytes], serving: Serving) -> None:
    """Write graphs and a card, and have all else written as it is for the shipped models."""
    for model, weights in graphs.items():
        (folder / "models" / model / "1").mkdir(parents=True)
        (folder / "models" / model / "1" / "model.onnx").write_bytes(weights)
    document = card(name, graphs, serving=policy.to_card(serving))
    (folder / "models" / name).mkdir(exist_ok=True)
    (folder / "models" / name / "card.json").write_text(json.dumps(document))
    repository.write_all(folder / "models")


def slowly(output: str = "y") -> bytes:
    """A graph that multiplies matrices for a tenth of a second or so, and then gives y = x."""
    side = helper.make_tensor("side", TensorProto.INT64, [2], [SIDE, SIDE])
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Constant", [], ["shape"], value=side),
        helper.make_node("Expand", ["sum", "shape"], ["m0"]),
    ]
    count = 30
    for index in range(count):
        nodes.append(helper.make_node("MatMul", [f"m{index}", f"m{index}"], [f"p{index}"]))
        nodes.append(helper.make_node("Tanh", [f"p{index}"], [f"m{index + 1}"]))
    nodes += [
        helper.make_node("ReduceMean", [f"m{count}"], ["mean"], keepdims=0),
        constant("zero", 0.0),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        helper.make_node("Add", ["x", "nothing"], [output]),
    ]
    return graph(nodes, {"x": ["batch", 2]}, {output: ["batch", 2]})


def identity() -> bytes:
    nodes = [helper.make_node("Identity", ["y_net_a"], ["y"])]
    return graph(nodes, {"y_net_a": ["batch", 2]}, {"y": ["batch", 2]})


def lookup(beyond: float = 0) -> bytes:
    """A graph that gives 10 or 11 for x + beyond = 0 or 1, and fails for any larger number."""
    table = helper.make_tensor("table", TensorProto.FLOAT, [2], [10.0, 11.0])
    nodes = [
        helper.make_node("Constant", [], ["table"], value=table),
        constant("beyond", beyond),
        helper.make_node("Add", ["x", "beyond"], ["sum"]),
        helper.make_node("Cast", ["sum"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "index"], ["y"]),
    ]
    return graph(nodes, {"x": ["batch", 1]}, {"y": ["batch", 1]})


def test_the_server_gives_what_pytorch_gives(small: Triton) -> None:
    import torch

    from models.export import PARITY_TOLERANCE
    from models.graphs import OUTPUTS

    pictures = np.random.default_rng(5).random((3, 1, SIZE, SIZE), dtype=np.float32)
    ensemble = tiny_ensemble()

    with torch.no_grad():
        shown = torch.from_numpy(pictures)
        answers = zip(*(member.eval()(shown) for member in ensemble.members.values()), strict=True)
        wanted = ensemble.combine.eval()(*(tensor for output in answers for tensor in output))
    answered = Asker(small).ask(ENSEMBLE, {"image": pictures})

    for name, values in zip(OUTPUTS, wanted, strict=True):
        # The weights are stored as float16 or int8, as those of the shipped networks.
        tolerance = PARITY_TOLERANCE.get(name, 0.05)
        np.testing.assert_allclose(answered[name], values.numpy(), atol=tolerance, err_msg=name)


def item(*values: float) -> Arrays:
    return {"x": np.array([values], np.float32)}


def wait_for_queue(triton: Triton, model: str, count: int) -> None:
    """Wait until so many requests were sent to the model and are not answered."""
    name = f'nv_inference_pending_request_count{{model="{model}",version="1"}}'
    wait_until(lambda: triton.metrics()[name] >= count, f"{count} requests wait for {model}", pause_s=0.01)


def test_stat_overtakes_routine_requests_that_wait(small: Triton) -> None:
    asker = Asker(small)
    for index in range(7):
        asker.send(f"routine {index}", "slow", item(1.0, index), priority=ROUTINE)
    wait_for_queue(small, "slow_net_a", 4)

    asker.send("stat", "slow", item(1.0, 99.0), priority=STAT)
    order = [name for name, _ in asker.answers(8)]

    # Those that run, or are next to run, when it comes are not stopped for it.
    assert order.index("stat") <= 4, order


@pytest.mark.parametrize(
    ("priority", "words"), [(1, "Exceeds maximum queue size"), (2, "Request timeout expired")]
)
def test_what_the_queue_cannot_hold_or_keep_is_refused(small: Triton, priority: int, words: str) -> None:
    asker = Asker(small)

    for index in range(6):
        asker.send(str(index), "hasty", item(1.0, index), priority=priority)

    answers = [answer for _, answer in asker.answers(6)]
    refused = [answer for answer in answers if isinstance(answer, InferenceServerException)]
    assert 0 < len(refused) < len(answers)
    assert {one.status() for one in refused} == {"StatusCode.UNAVAILABLE"}
    assert all(words in one.message() for one in refused)


def test_a_request_may_wait_less_than_the_queue_allows(small: Triton) -> None:
    asker = Asker(small)
    for index in range(3):
        asker.send(str(index), "slow", item(1.0, index))
    wait_for_queue(small, "slow_net_a", 1)

    asker.send("hurried", "slow", item(1.0, 9.0), timeout=1000)

    answers = dict(asker.answers(4))
    assert "timeout expired" in answers["hurried"].message()
    assert [answers[str(index)]["y"][0, 1] for index in range(3)] == [0, 1, 2]


def test_a_request_that_fails_fails_alone(small: Triton) -> None:
    asker = Asker(small)

    for value in (0.0, 1.0, 7.0, 1.0):
        asker.send(str(value), "lookup", item(value))

    answers = asker.answers(4)
    numbers = [answer["y"].item() for name, answer in answers if name != "7.0"]
    assert sorted(numbers) == [10, 11, 11]
    assert "indices element out of data bounds" in dict(answers)["7.0"].message()
    assert "a batch of 4 requests failed" in small.log_text()


def test_weights_that_are_not_the_cards_are_not_served(tmp_path: Path) -> None:
    write(tmp_path, "single", {"single": identity()}, Serving())
    (tmp_path / "models" / "single" / "1" / "model.onnx").write_bytes(arithmetic("Add", 1.0))

    with make_triton(tmp_path, repository=tmp_path / "models", options=EXPLICIT) as triton:
        triton.start()
        with pytest.raises(InferenceServerException, match=r"has sha256 .*, the configuration says"):
            Asker(triton).server.load_model("single")


def test_a_model_that_cannot_run_is_not_loaded_and_harms_no_other(tmp_path: Path) -> None:
    write(tmp_path, "able", {"able": arithmetic("Add", 1.0)}, Serving())
    write(tmp_path, "unable", {"unable": lookup(beyond=2)}, Serving())

    with make_triton(tmp_path, repository=tmp_path / "models", options=EXPLICIT) as triton:
        triton.start()
        asker = Asker(triton)
        asker.server.load_model("able")
        with pytest.raises(InferenceServerException, match="indices element out of data bounds"):
            asker.server.load_model("unable")

        np.testing.assert_array_equal(asker.ask("able", item(1.0, 2.0))["y"], [[2.0, 3.0]])


def test_a_killed_server_comes_back_on_its_ports_and_leaves_nothing(tmp_path: Path) -> None:
    write(tmp_path, "single", {"single": arithmetic("Add", 1.0)}, Serving())

    with make_triton(tmp_path, repository=tmp_path / "models") as triton:
        triton.start()
        ports, asker = triton.url, Asker(triton)
        triton.restart()

        assert triton.url == ports
        np.testing.assert_array_equal(asker.ask("single", item(1.0, 2.0))["y"], [[2.0, 3.0]])
        assert triton.regions()

    assert not triton.regions()
    assert not triton.is_alive()
