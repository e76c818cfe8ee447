"""A real Triton server on triton_repo/: the same numbers, the promised order and time-outs."""

import json
import time
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
from tests.gates import let_through, put_gates, shut, wait_at_gate, wait_in_hands
from tests.models import arithmetic, card, constant, graph
from tests.peers import wait_until
from tests.peers.triton import EXPLICIT, TRITON_REPO, Triton, make_triton

pytestmark = pytest.mark.triton

ENSEMBLE, COMBINE = "chest_xray", "chest_xray_combine"
MEMBERS = [one for one in ModelRepository(TRITON_REPO).config(ENSEMBLE).networks if "combine" not in one]
# The same library runs the same file: only how a sum is divided among threads may differ, in float32.
TOLERANCE = 1e-5
STAT, ROUTINE = 1, 3

Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Radiographs (n, 1, s, s) as the networks take them: synthetic, and real where there are any."""
    size = ModelRepository(TRITON_REPO).card(ENSEMBLE).input_shape[-1]
    pictures = [thorax_radiograph(1, finding="consolidation").pixels]
    real = sorted((SHARED_DATA / "cxr" / "kermany").glob("*.jpg"))[:2]
    pictures += [np.asarray(Image.open(path).convert("L")) for path in real]
    return np.stack([prepare_radiograph(picture, size) for picture in pictures])[:, None]


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
    for model in (path.parents[1].name for path in TRITON_REPO.glob("*/1/model.onnx")):
        assert asker.server.get_model_config(model).config.backend == "python"


def test_the_server_tells_which_weights_it_serves(asker: Asker) -> None:
    document = json.loads((TRITON_REPO / ENSEMBLE / "card.json").read_text())

    for entry in document["weights"]:
        parameters = asker.server.get_model_config(entry["model"]).config.parameters
        assert parameters["sha256"].string_value == entry["sha256"]
    version = asker.server.get_model_config(ENSEMBLE).config.parameters["version"]
    assert version.string_value == document["version"]


def test_each_request_gets_its_own_answer(asker: Asker, images: np.ndarray) -> None:
    embedded = OnnxEngine(ModelRepository(TRITON_REPO), threads=2).infer(ENSEMBLE, {"image": images})

    for index in range(len(images)):
        asker.send(str(index), ENSEMBLE, {"image": images[index : index + 1]})

    for index, answer in asker.answers(len(images)):
        wanted = embedded["probability"][int(index)]
        np.testing.assert_allclose(answer["probability"], wanted[None], atol=TOLERANCE)


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
    """A server with small models behind gates: for one item at a time, for batches, and one that may fail."""
    folder = tmp_path_factory.mktemp("small")
    one = Serving(max_batch_size=1, preferred_batch_sizes=(1,))
    write(folder, "single", {"single": arithmetic("Add", 1.0)}, one)
    hasty = (Waiting("stat", 60, 2), Waiting("routine", 0.01, 8))
    write(folder, "hasty", {"hasty": arithmetic("Add", 1.0)}, replace(one, priorities=hasty))
    write(folder, "lookup", {"lookup": lookup()}, Serving(preferred_batch_sizes=(4,)))
    put_gates(folder / "models")
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


def item(*values: float) -> Arrays:
    return {"x": np.array([values], np.float32)}


def ask_behind_one_that_is_held(triton: Triton, asker: Asker, model: str) -> None:
    """Have a model hold a request, so that what comes next has to queue."""
    shut(triton, model)
    # The one of a class that may wait long: on a busy machine the server is slow to hand it over.
    asker.send("held", model, item(*[0.0] * (1 if model == "lookup" else 2)), priority=STAT)
    wait_in_hands(triton, model)


def test_stat_overtakes_routine_requests_that_wait(small: Triton) -> None:
    asker = Asker(small)
    ask_behind_one_that_is_held(small, asker, "single")
    for index in range(3):
        asker.send(f"routine {index}", "single", item(1.0, index), priority=ROUTINE)
        wait_at_gate(small, "single", index + 2)
    asker.send("stat", "single", item(1.0, 99.0), priority=STAT)
    wait_at_gate(small, "single", 5)

    let_through(small, "single")

    order = [name for name, _ in asker.answers(5)]
    assert order == ["held", "stat", "routine 0", "routine 1", "routine 2"]


@pytest.mark.parametrize(
    ("priority", "refused", "words"),
    [(1, 3, "Exceeds maximum queue size"), (2, 5, "Request timeout expired")],
)
def test_what_the_queue_cannot_hold_or_keep_is_refused(
    small: Triton, priority: int, refused: int, words: str
) -> None:
    asker = Asker(small)
    ask_behind_one_that_is_held(small, asker, "hasty")

    for index in range(5):
        asker.send(str(index), "hasty", item(1.0, index), priority=priority)
    wait_until(lambda: small.waiting("hasty") + asker.answered.qsize() == 5, "all wait, or are refused")
    time.sleep(0.02)  # longer than a routine request may wait
    let_through(small, "hasty")

    answers = [answer for _, answer in asker.answers(6)]
    errors = [answer for answer in answers if isinstance(answer, InferenceServerException)]
    assert len(errors) == refused
    assert {one.status() for one in errors} == {"StatusCode.UNAVAILABLE"}
    assert all(words in one.message() for one in errors)


def test_a_request_may_wait_less_than_the_queue_allows(small: Triton) -> None:
    asker = Asker(small)
    ask_behind_one_that_is_held(small, asker, "single")
    asker.send("patient", "single", item(1.0, 2.0))
    asker.send("hurried", "single", item(1.0, 9.0), timeout=1000)
    wait_at_gate(small, "single", 3)
    time.sleep(0.01)

    let_through(small, "single")

    answers = dict(asker.answers(3))
    assert "timeout expired" in answers["hurried"].message()
    np.testing.assert_array_equal(answers["patient"]["y"], [[2.0, 3.0]])


def test_a_request_that_fails_fails_alone(small: Triton) -> None:
    asker = Asker(small)
    ask_behind_one_that_is_held(small, asker, "lookup")
    values = (0.0, 1.0, 7.0, 1.0)
    for value in values:
        asker.send(str(value), "lookup", item(value))
    wait_at_gate(small, "lookup", 1 + len(values))

    let_through(small, "lookup")

    answers = asker.answers(1 + len(values))
    numbers = [answer["y"].item() for name, answer in answers if name not in ("held", "7.0")]
    assert sorted(numbers) == [10, 11, 11]
    assert "indices element out of data bounds" in dict(answers)["7.0"].message()
    # A model's process hands its words to the server, which writes them when it comes to it.
    wait_until(lambda: "a batch of 4 requests failed" in small.log_text(), "the batch failed as a whole")


def test_weights_that_are_not_the_cards_are_not_served(tmp_path: Path) -> None:
    write(tmp_path, "single", {"single": arithmetic("Mul", 1.0)}, Serving())
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
