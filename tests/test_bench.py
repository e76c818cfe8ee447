"""The benchmarks: their figures come from real runs, of the engine and of its peer, on the same work."""

import json
from pathlib import Path

import onnx
import pytest
from typer.testing import CliRunner

from node.bench.inference import BARE, BARE_QUIET, ENGINE, bench_inference
from node.cli import app
from node.config import EngineSettings
from node.errors import ModelError
from tests.models import arithmetic, card, config, graph, step, write_model

SHAPE = (1, 16, 16)
DOUBLE, ADD_ONE = arithmetic("Mul", 2.0, shape=SHAPE), arithmetic("Add", 1.0, shape=SHAPE)
WAYS = {ENGINE, BARE, BARE_QUIET}


def random_noise() -> bytes:
    """A graph that never answers the same twice."""
    noise = onnx.helper.make_node("RandomUniformLike", ["x"], ["y"])
    return graph([noise], {"x": ["batch", *SHAPE]}, {"y": ["batch", *SHAPE]})


def write_single(repository: Path, name: str, weights: bytes) -> None:
    document = card(name, {name: weights}, input={"shape": list(SHAPE)})
    write_model(repository, config(name, shape=SHAPE), weights=weights, document=document)


@pytest.fixture
def settings(tmp_path: Path) -> EngineSettings:
    """A repository with an ensemble, `chain`, of two graphs that take radiographs 16 pixels a side."""
    path = tmp_path / "repository"
    for name, weights in {"double": DOUBLE, "add_one": ADD_ONE}.items():
        write_single(path, name, weights)
    steps = step("double", "x", "between") + step("add_one", "between", "y")
    document = card("chain", {"double": DOUBLE, "add_one": ADD_ONE}, input={"shape": list(SHAPE)})
    write_model(path, config("chain", steps=steps, shape=SHAPE), document=document)
    return EngineSettings(repository=path, threads=1)


# --- inference


@pytest.mark.parametrize("model", ["chain", "double"])
def test_every_way_runs_every_image(settings: EngineSettings, model: str) -> None:
    rounds: list[int] = []

    bench = bench_inference(settings, model, 7, on_round=rounds.append)

    assert rounds == [5, 7]
    assert bench.figures_by_way.keys() == WAYS
    for figures in bench.figures_by_way.values():
        assert len(figures.seconds) == 7
        assert min(figures.seconds) > 0
        assert figures.latency_ms(0) <= figures.latency_ms(50) <= figures.latency_ms(95)
        # The library alone takes more; a gigabyte would be another process's.
        assert 20 << 20 < figures.peak_memory_bytes < 1 << 30


def test_ratio_is_the_engine_by_the_peer(settings: EngineSettings) -> None:
    bench = bench_inference(settings, "chain", 3, on_round=lambda _: None)

    took = {way: sum(figures.seconds) for way, figures in bench.figures_by_way.items()}
    assert bench.ratio(BARE) == pytest.approx(took[BARE] / took[ENGINE])
    assert bench.ratio(BARE_QUIET) == pytest.approx(took[BARE_QUIET] / took[ENGINE])


@pytest.mark.parametrize(
    ("model", "weights", "words"),
    [
        ("unknown", None, "no such model"),
        ("noise", random_noise(), "y of the .* loop is not that of the engine"),
        ("broken", b"no graph", "its process ended with status 1"),
    ],
)
def test_a_model_that_cannot_be_measured_is_refused_in_words(
    settings: EngineSettings, model: str, weights: bytes | None, words: str
) -> None:
    if weights is not None:
        write_single(settings.repository, model, weights)

    with pytest.raises(ModelError, match=words):
        bench_inference(settings, model, 1, on_round=lambda _: None)


def test_a_model_that_takes_no_radiograph_is_refused(settings: EngineSettings) -> None:
    pair = arithmetic("Mul", 2.0)
    write_model(settings.repository, config("pair"), weights=pair, document=card("pair", {"pair": pair}))

    with pytest.raises(ModelError, match="does not take one radiograph"):
        bench_inference(settings, "pair", 1, on_round=lambda _: None)


def test_command_prints_one_json_object(settings: EngineSettings, tmp_path: Path) -> None:
    output, progress = run_command(settings, tmp_path, "--json")

    account = json.loads(output)
    assert progress.splitlines() == ["measured 1/2 5 images", "measured 2/2 6 images"]
    assert (account["model"], account["model_version"], account["threads"]) == ("chain", "1.2.3", 1)
    assert account["input_shape"] == list(SHAPE)
    assert account["ways"].keys() == WAYS
    names = ("images", "images_per_s", "latency_median_ms", "latency_p95_ms", "peak_memory_mib")
    assert all(tuple(figures) == names and figures["images"] == 6 for figures in account["ways"].values())
    per_s = {way: figures["images_per_s"] for way, figures in account["ways"].items()}
    expected = {peer: per_s[ENGINE] / per_s[peer] for peer in (BARE, BARE_QUIET)}
    # The figures are rounded to four places.
    assert account["ratio_by_peer"] == pytest.approx(expected, abs=1e-3)


def test_command_prints_a_line_for_each_way(settings: EngineSettings, tmp_path: Path) -> None:
    output, _ = run_command(settings, tmp_path)

    table = output.splitlines()[:4]
    assert [line.split("  ")[0] for line in table] == [
        "way",
        "engine of the node",
        "bare loop, ONNX Runtime's defaults",
        "bare loop, its threads not spinning",
    ]
    assert "6 images of 1 × 16 × 16" in output


def run_command(settings: EngineSettings, folder: Path, *options: str) -> tuple[str, str]:
    """The benchmark of six images; what it printed on standard output and error."""
    path = folder / "sightline.toml"
    path.write_text(f'[engine]\nrepository = "{settings.repository}"\nthreads = 1\n')
    arguments = ["bench", "inference", "--model", "chain", "--images", "6", "-c", str(path), *options]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0
    return result.stdout, result.stderr
