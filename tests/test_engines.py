import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from node.domain.card import ModelClass, Requirement
from node.domain.code import Code
from node.engines.onnx import OnnxEngine
from node.engines.repository import ModelRepository
from node.errors import ModelError
from node.telemetry import Metrics
from tests.models import arithmetic, batch_length, card, config, graph, step, write_model

DOUBLE, ADD_ONE, NAN = arithmetic("Mul", 2.0), arithmetic("Add", 1.0), arithmetic("Mul", float("nan"))
ITEMS = np.arange(14, dtype=np.float32).reshape(7, 2)


def wider() -> bytes:
    """A graph whose answer is twice as long as the configuration says."""
    node = onnx.helper.make_node("Concat", ["x", "x"], ["y"], axis=1)
    return graph([node], {"x": ["batch", 2]}, {"y": ["batch", 4]})


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """One model that doubles, one that adds one, and both in a row; in batches of 4, 3 and 16."""
    path = tmp_path / "repository"
    write_model(path, config("double"), weights=DOUBLE, document=card("double", {"double": DOUBLE}))
    write_model(path, config("add_one", max_batch_size=3), weights=ADD_ONE)
    steps = step("double", "x", "between") + step("add_one", "between", "y")
    document = card("chain", {"double": DOUBLE, "add_one": ADD_ONE})
    write_model(path, config("chain", max_batch_size=16, steps=steps), document=document)
    return path


@pytest.fixture
def engine(repository: Path) -> OnnxEngine:
    return OnnxEngine(ModelRepository(repository), threads=1)


# --- inference


def test_model_answers(engine: OnnxEngine) -> None:
    outputs = engine.infer("double", {"x": ITEMS[:3]})

    assert outputs.keys() == {"y"}
    assert np.array_equal(outputs["y"], 2 * ITEMS[:3])


def test_ensemble_hands_tensors_on_by_their_names(engine: OnnxEngine) -> None:
    outputs = engine.infer("chain", {"x": ITEMS})

    assert np.array_equal(outputs["y"], 2 * ITEMS + 1)


def test_batch_larger_than_the_model_takes_is_divided_and_joined(repository: Path) -> None:
    write_model(repository, config("length", max_batch_size=3), weights=batch_length())

    outputs = OnnxEngine(ModelRepository(repository), threads=1).infer("length", {"x": ITEMS})

    assert outputs["y"][:, 0].tolist() == [3, 3, 3, 3, 3, 3, 1]


def test_model_without_batch_axis_gets_items_one_by_one(repository: Path) -> None:
    weights = arithmetic("Add", 1.0, batch=())
    write_model(repository, config("bare", max_batch_size=0), weights=weights)

    outputs = OnnxEngine(ModelRepository(repository), threads=1).infer("bare", {"x": ITEMS})

    assert np.array_equal(outputs["y"], ITEMS + 1)


def test_newest_version_is_used(repository: Path) -> None:
    newest = repository / "double" / "10"
    newest.mkdir()
    (newest / "model.onnx").write_bytes(ADD_ONE)

    outputs = OnnxEngine(ModelRepository(repository), threads=1).infer("double", {"x": ITEMS})

    assert np.array_equal(outputs["y"], ITEMS + 1)


def test_threads_share_one_engine(engine: OnnxEngine) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: engine.infer("chain", {"x": ITEMS})["y"], range(32)))

    assert all(np.array_equal(answer, 2 * ITEMS + 1) for answer in answers)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({}, "inputs are none, expected x"),
        ({"z": ITEMS}, "inputs are z, expected x"),
        ({"x": ITEMS, "z": ITEMS}, "inputs are x, z, expected x"),
        ({"x": ITEMS.astype(np.float64)}, r"\[7, 2\] float64, expected \[batch, 2\] float32"),
        ({"x": ITEMS[:, :1]}, r"\[7, 1\] float32"),
        ({"x": ITEMS[0]}, r"\[2\] float32"),
        ({"x": ITEMS[:0]}, r"\[0, 2\] float32"),
    ],
)
def test_input_that_does_not_fit_is_refused(
    engine: OnnxEngine, inputs: dict[str, np.ndarray[Any, np.dtype[np.float32]]], words: str
) -> None:
    with pytest.raises(ModelError, match=words):
        engine.infer("chain", inputs)


@pytest.mark.parametrize("name", ["unknown", "", "..", "../repository/double", "/etc"])
def test_model_that_is_not_there_is_refused(engine: OnnxEngine, name: str) -> None:
    with pytest.raises(ModelError, match="no such model"):
        engine.infer(name, {"x": ITEMS})


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        (NAN, "y holds values that are not finite"),
        (arithmetic("Div", 0.0), "y holds values that are not finite"),
        (wider(), r"y is \[3, 4\] float32, expected \[3, 2\] float32"),
    ],
)
def test_answer_that_breaks_the_promise_of_the_configuration_is_refused(
    repository: Path, weights: bytes, words: str
) -> None:
    write_model(repository, config("odd"), weights=weights)

    with pytest.raises(ModelError, match=words):
        OnnxEngine(ModelRepository(repository), threads=1).infer("odd", {"x": ITEMS[:3]})


def test_requests_are_measured(repository: Path) -> None:
    metrics = Metrics()
    engine = OnnxEngine(ModelRepository(repository), threads=1, metrics=metrics)

    engine.infer("double", {"x": ITEMS})

    text = metrics.exposition().decode()
    assert 'sightline_engine_seconds_count{model="double"} 2.0' in text
    assert 'sightline_engine_batch_size_sum{model="double"} 7.0' in text


def test_buffer_is_an_array_to_be_filled(engine: OnnxEngine) -> None:
    array = engine.buffer((3, 2), np.float32)
    array[:] = ITEMS[:3]

    assert np.array_equal(engine.infer("double", {"x": array})["y"], 2 * ITEMS[:3])


# --- check


@pytest.mark.parametrize("model", ["double", "chain"])
def test_whole_model_passes_the_check(engine: OnnxEngine, model: str) -> None:
    engine.check(model)


def test_check_finds_changed_weights_of_a_member(repository: Path) -> None:
    (repository / "add_one" / "1" / "model.onnx").write_bytes(DOUBLE)

    with pytest.raises(ModelError, match="add_one: weights have sha256"):
        OnnxEngine(ModelRepository(repository), threads=1).check("chain")


def test_check_finds_answers_that_are_not_finite(repository: Path) -> None:
    write_model(repository, config("nan"), weights=NAN, document=card("nan", {"nan": NAN}))

    with pytest.raises(ModelError, match="y holds values that are not finite"):
        OnnxEngine(ModelRepository(repository), threads=1).check("nan")


def test_check_finds_a_card_for_another_input(repository: Path) -> None:
    document = card("double", {"double": DOUBLE}, input={"shape": [3]})
    (repository / "double" / "card.json").write_text(json.dumps(document))

    with pytest.raises(ModelError, match=r"card's input \[3\]"):
        OnnxEngine(ModelRepository(repository), threads=1).check("double")


@pytest.mark.parametrize(
    ("changes", "output"),
    [
        ({"conformal": {"coverage": 0.95}}, "prediction_set"),
        ({"out_of_distribution": {"threshold": 1.5}}, "out_of_distribution"),
    ],
)
def test_check_finds_a_card_that_promises_what_the_model_does_not_give(
    repository: Path, changes: dict[str, object], output: str
) -> None:
    document = card("double", {"double": DOUBLE}, **changes)
    (repository / "double" / "card.json").write_text(json.dumps(document))

    with pytest.raises(ModelError, match=f"the card promises {output}, config.pbtxt has no such output"):
        OnnxEngine(ModelRepository(repository), threads=1).check("double")


@pytest.mark.parametrize("content", [b"", b"no model", DOUBLE[:-20]])
def test_damaged_weights_are_a_fault_of_the_model(repository: Path, content: bytes) -> None:
    (repository / "double" / "1" / "model.onnx").write_bytes(content)

    with pytest.raises(ModelError, match="double: ONNX Runtime"):
        OnnxEngine(ModelRepository(repository), threads=1).infer("double", {"x": ITEMS})


def test_output_that_the_graph_lacks_is_a_fault_of_the_model(repository: Path) -> None:
    path = repository / "double" / "config.pbtxt"
    path.write_text(path.read_text().replace('output { name: "y"', 'output { name: "w"'))

    with pytest.raises(ModelError, match="ONNX Runtime"):
        OnnxEngine(ModelRepository(repository), threads=1).infer("double", {"x": ITEMS})


# --- the repository on disk


def test_repository_lists_its_models(repository: Path) -> None:
    assert ModelRepository(repository).names() == ("add_one", "chain", "double")


def test_card_says_what_the_node_acts_on(engine: OnnxEngine) -> None:
    card = engine.card("double")

    assert (card.name, card.version, card.input_shape) == ("double", "1.2.3", (2,))
    assert card.classes == (ModelClass(Code("1", "99TEST", "One"), 0.25),)
    assert card.requirements == (Requirement("modality", {"modality": ["CR"]}, "is not CR"),)
    assert card.parameters == ("size=2",)
    assert (card.conformal_coverage, card.out_of_distribution_threshold) == (None, None)


def test_card_may_state_a_coverage_and_how_strange_is_too_strange(repository: Path) -> None:
    document = card(
        "double",
        {"double": DOUBLE},
        conformal={"coverage": 0.95, "quantile": {"One": 0.6}},
        out_of_distribution={"threshold": 1.5, "false_alarm_rate": 0.01},
    )
    (repository / "double" / "card.json").write_text(json.dumps(document))

    parsed = ModelRepository(repository).card("double")

    assert (parsed.conformal_coverage, parsed.out_of_distribution_threshold) == (0.95, 1.5)


def test_whole_card_is_at_hand(repository: Path) -> None:
    assert ModelRepository(repository).card_document("chain")["weights"][1]["model"] == "add_one"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": ""}, "name must be text"),
        ({"version": 1}, "version must be text"),
        ({"input": {}}, "'shape' is missing"),
        ({"input": {"shape": "many"}}, "invalid literal"),
        ({"classes": [{"name": "One", "code": ["1"], "threshold": 0.5}]}, "not enough values"),
        ({"classes": [{"name": "One", "code": ["1", "2", "3"], "threshold": 5}]}, "threshold of One is 5"),
        ({"eligibility": {"requirements": [{"name": "a", "when": "b", "reason": "c"}]}}, "must be a table"),
        ({"parameters": {"a": 1}}, "parameters must be a list"),
        ({"conformal": {}}, "'coverage' is missing"),
        ({"conformal": {"coverage": 95}}, "conformal coverage is 95"),
        ({"conformal": {"coverage": 0}}, "conformal coverage is 0"),
        ({"conformal": {"coverage": "most"}}, "could not convert"),
        ({"conformal": 0.95}, "not subscriptable"),
        ({"out_of_distribution": {}}, "'threshold' is missing"),
        ({"out_of_distribution": {"threshold": float("nan")}}, "threshold is nan, expected a finite number"),
        ({"input": {"shape": [1], "micrometers_per_pixel": 0}}, "micrometers_per_pixel is 0"),
        ({"input": {"shape": [1], "micrometers_per_pixel": "one"}}, "could not convert"),
        ({"tile_threshold": {"probability": 2}}, "tile_threshold is 2"),
        ({"tile_threshold": {}}, "'probability' is missing"),
        ({"out_of_distribution": {"threshold": None}}, "must be a string or a real number"),
    ],
)
def test_faulty_card_is_refused_in_words(repository: Path, changes: dict[str, object], words: str) -> None:
    document = card("double", {"double": DOUBLE}, **changes)
    (repository / "double" / "card.json").write_text(json.dumps(document))

    with pytest.raises(ModelError, match=f"double: card.json: .*{words}"):
        ModelRepository(repository).card("double")


def spoil_card(repository: Path) -> None:
    (repository / "chain" / "card.json").write_text("{")


def remove_card(repository: Path) -> None:
    (repository / "chain" / "card.json").unlink()


def remove_member(repository: Path) -> None:
    (repository / "add_one").rename(repository.parent / "gone")


def remove_weights(repository: Path) -> None:
    (repository / "add_one" / "1" / "model.onnx").unlink()


def change_config(old: str, new: str, *, model: str = "chain") -> Callable[[Path], None]:
    def change(repository: Path) -> None:
        path = repository / model / "config.pbtxt"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return change


def nest_ensemble(repository: Path) -> None:
    change_config('model_name: "add_one"', 'model_name: "chain"')(repository)


def forget_digest(repository: Path) -> None:
    document = card("chain", {"double": DOUBLE})
    (repository / "chain" / "card.json").write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_card, "cannot read .*card.json"),
        (remove_card, "cannot read .*card.json"),
        (remove_member, "add_one: no such model"),
        (remove_weights, "add_one: no weights"),
        (nest_ensemble, "its member chain is an ensemble"),
        (forget_digest, "no sha256 for the weights of add_one"),
        (change_config("ensemble_scheduling", "scheduling"), "is not a model configuration"),
        (change_config('name: "chain"', 'name: "other"'), "names another model: other"),
        (change_config('platform: "ensemble"', ""), "only an ensemble has them"),
        (change_config("TYPE_FP32", "TYPE_STRING"), "TYPE_STRING, which the node does not use"),
        (
            change_config('key: "x" value: "between"', 'key: "x" value: "nowhere"'),
            "nothing feeds the input x",
        ),
        (change_config('key: "y" value: "y"', 'key: "w" value: "y"'), "add_one has no output w"),
        (change_config('key: "y" value: "y"', 'key: "y" value: "w"'), "no member gives y"),
        (change_config("dims: [ 2 ]", "dims: [ 3 ]", model="add_one"), "x of add_one does not fit"),
    ],
)
def test_faulty_repository_is_refused_in_words(
    repository: Path, spoil: Callable[[Path], None], words: str
) -> None:
    spoil(repository)
    engine = OnnxEngine(ModelRepository(repository), threads=1)

    with pytest.raises(ModelError, match=words):
        engine.check("chain")
