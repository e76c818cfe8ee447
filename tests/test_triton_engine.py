"""The engine on a real Triton server: the answers, the order, and whether it is the model of the card."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from node.cli import app
from node.domain.findings import Priority
from node.engines.onnx import OnnxEngine
from node.engines.repository import ModelRepository
from node.engines.triton import TritonEngine
from node.errors import EngineUnavailableError, ModelError
from node.telemetry import Metrics
from tests.models import card, config, write_model
from tests.peers import wait_until
from tests.peers.triton import Triton
from tests.small_models import (
    DOUBLE,
    HOLD,
    ITEMS,
    Array,
    NewEngine,
    held,
    order_of,
    seconds,
    wait_until_held,
    write_small_models,
)

pytestmark = pytest.mark.triton


@pytest.fixture
def engine(small_triton: Triton, new_engine: NewEngine) -> TritonEngine:
    return new_engine(small_triton.url)


# --- inference


@pytest.mark.parametrize("model", ["double", "chain", "bare"])
def test_server_answers_as_the_engine_in_this_process(
    engine: TritonEngine, small_repository: Path, model: str
) -> None:
    expected = OnnxEngine(ModelRepository(small_repository), threads=1).infer(model, {"x": ITEMS})

    outputs = engine.infer(model, {"x": ITEMS})

    assert outputs.keys() == expected.keys()
    assert outputs["y"].dtype == expected["y"].dtype
    assert np.array_equal(outputs["y"], expected["y"])


def test_outputs_belong_to_the_caller(engine: TritonEngine) -> None:
    outputs = engine.infer("double", {"x": ITEMS[:1]})

    outputs["y"] += 1

    assert np.array_equal(outputs["y"], 2 * ITEMS[:1] + 1)


def test_batch_larger_than_the_model_takes_is_divided(engine: TritonEngine) -> None:
    outputs = engine.infer("length", {"x": np.zeros((11, 2), np.float32)})

    assert outputs["y"][:, 0].tolist() == [8] * 8 + [3] * 3


def test_requests_of_several_studies_become_one_batch(engine: TritonEngine) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: engine.infer("length", {"x": ITEMS[:1]})["y"][0, 0], range(8)))

    assert max(answers) > 1


@pytest.mark.parametrize(
    ("model", "inputs", "words"),
    [
        ("chain", {}, "inputs are none, expected x"),
        ("chain", {"x": ITEMS.astype(np.float64)}, r"\[7, 2\] float64, expected \[batch, 2\] float32"),
        ("chain", {"x": ITEMS[:, :1]}, r"\[7, 1\] float32"),
        ("unknown", {"x": ITEMS}, "no such model"),
        ("../large", {"x": ITEMS}, "no such model"),
    ],
)
def test_what_no_model_takes_is_refused_without_a_request(
    new_engine: NewEngine, model: str, inputs: dict[str, Array], words: str
) -> None:
    with pytest.raises(ModelError, match=words):
        new_engine("127.0.0.1:1").infer(model, inputs)


def test_stat_overtakes_what_waits(
    small_triton: Triton, small_repository: Path, engine: TritonEngine
) -> None:
    name_by_number = {0.01: "routine", 0.02: "routine", 0.03: "urgent", 0.04: "stat"}
    engine.check("slow")
    with ThreadPoolExecutor(8) as pool, held(small_repository, "slow"):
        pool.submit(engine.infer, "slow", {"x": seconds(HOLD)})
        wait_until_held(small_repository, "slow")
        for wanted, (number, name) in enumerate(name_by_number.items(), start=1):
            view = engine.prioritized(Priority(name))
            pool.submit(view.infer, "slow", {"x": seconds(number)})
            wait_until(lambda wanted=wanted: small_triton.waiting("slow") == wanted, f"{name} waits")

    assert order_of(small_repository, "slow") == pytest.approx([HOLD, 0.04, 0.03, 0.01, 0.02])


# --- what the server has must be what the cards say


def test_whole_model_passes_the_check(engine: TritonEngine) -> None:
    engine.check("chain")
    engine.check("bare")


def change_version(path: Path) -> None:
    change(path / "chain" / "card.json", '"1.2.3"', '"1.2.4"')


def change_digest(path: Path) -> None:
    document = path / "chain" / "card.json"
    text = document.read_text()
    document.write_text(text.replace(text.split('"sha256": "')[2][:10], "0123456789"))


def change_output(path: Path) -> None:
    for model in ("add_one", "chain"):
        change(path / model / "config.pbtxt", 'output { name: "y"', 'output { name: "z"')
    change(path / "chain" / "config.pbtxt", 'key: "y" value: "y"', 'key: "z" value: "z"')


def change_batch(path: Path) -> None:
    change(path / "add_one" / "config.pbtxt", "max_batch_size: 3", "max_batch_size: 2")


def add_version(path: Path) -> None:
    (path / "double" / "2").mkdir()


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("differ", "words"),
    [
        (change_version, "chain: version of the server's is 1.2.3, the card says 1.2.4"),
        (change_digest, "add_one: sha256 of the server's is .*, the card says 0123456789"),
        (change_output, "outputs of the server's are y .*, the repository's z"),
        (change_batch, "add_one: max_batch_size of the server's are 3, the repository's 2"),
        (add_version, r"double: the server has version \[1\], the repository 2"),
    ],
)
def test_server_with_another_model_than_the_card_describes_is_refused(
    small_triton: Triton, new_engine: NewEngine, tmp_path: Path, differ: Callable[[Path], None], words: str
) -> None:
    path = write_small_models(tmp_path / "repository")
    differ(path)
    engine = new_engine(small_triton.url, path)

    with pytest.raises(ModelError, match=words):
        engine.check("chain")
    with pytest.raises(ModelError, match=words):
        engine.infer("chain", {"x": ITEMS})


def test_model_that_the_server_does_not_have_is_refused(
    small_triton: Triton, new_engine: NewEngine, tmp_path: Path
) -> None:
    path = tmp_path / "repository"
    write_model(path, config("other"), weights=DOUBLE, document=card("other", {"other": DOUBLE}))

    with pytest.raises(ModelError, match="has no such model"):
        new_engine(small_triton.url, path).infer("other", {"x": ITEMS})


def test_model_is_unloaded_and_loaded_by_command(
    small_triton: Triton, small_repository: Path, tmp_path: Path
) -> None:
    unloaded = run_command(small_triton, small_repository, tmp_path, "unload", "chain")
    listed = run_command(small_triton, small_repository, tmp_path, "list")
    loaded = run_command(small_triton, small_repository, tmp_path, "load", "chain")
    listed_again = run_command(small_triton, small_repository, tmp_path, "list")

    assert unloaded == "chain is unloaded\n"
    assert "UNAVAILABLE – unloaded" in line_of("chain", listed)
    assert loaded == "chain is loaded, and answers\n"
    assert "READY" in line_of("chain", listed_again)


def test_model_that_is_not_loaded_is_waited_for(
    small_triton: Triton, small_repository: Path, tmp_path: Path, new_engine: NewEngine
) -> None:
    engine = new_engine(small_triton.url)
    run_command(small_triton, small_repository, tmp_path, "unload", "bare")

    with pytest.raises(EngineUnavailableError, match=r"(?i)unload(ed|ing) at 127"):
        engine.check("bare")
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(engine.infer, "bare", {"x": ITEMS})
        time.sleep(0.3)
        run_command(small_triton, small_repository, tmp_path, "load", "bare")

    assert np.array_equal(answer.result()["y"], ITEMS + 1)


def run_command(triton: Triton, repository: Path, folder: Path, *arguments: str) -> str:
    path = folder / "sightline.toml"
    path.write_text(f'[engine]\nkind = "triton"\nurl = "{triton.url}"\nrepository = "{repository}"\n')
    result = CliRunner().invoke(app, ["models", *arguments, "-c", str(path)])
    assert result.exit_code == 0, result.output
    return result.stdout


def line_of(model: str, table: str) -> str:
    return next(line for line in table.splitlines() if line.startswith(f"{model} "))


def test_the_node_tells_what_the_server_counts(small_triton: Triton, new_engine: NewEngine) -> None:
    metrics = Metrics()
    engine = new_engine(small_triton.url, metrics=metrics)

    engine.infer("chain", {"x": ITEMS})

    text = metrics.exposition().decode()
    for model in ("double", "add_one"):
        assert f'sightline_engine_queue_seconds_total{{model="{model}"}}' in text
        assert f'sightline_engine_server_batches_total{{model="{model}"}}' in text
    assert 'sightline_engine_batch_size_sum{model="chain"} 7.0' in text
    engine.close()
    assert "sightline_engine_queue_seconds_total{" not in metrics.exposition().decode()
