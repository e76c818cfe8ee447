"""The benchmarks: their figures come from real runs, of the engine and of its peer, on the same work."""

import dataclasses
import json
import shutil
import time
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from node.bench.inference import CONCURRENCIES, Amounts, Case, bench_inference, turns
from node.bench.volume_model import NAME, loaded_on, write_volume_model
from node.bench.ways import BARE, BARE_QUIET, ENGINE, TRITON_MESSAGE, TRITON_SHARED, TRITON_WRITTEN, Figures
from node.cli import app
from node.engines.onnx import OnnxEngine
from node.engines.repository import ModelRepository
from node.engines.triton import TritonEngine, TritonSettings
from node.engines.triton_server import TritonServer
from node.errors import ModelError
from node.settings import EngineSettings
from tests.models import arithmetic, card, config, graph, serve_by_python, step, write_model
from tests.peers.triton import EXPLICIT, TRITON_REPO, Triton, make_triton

SHAPE = (1, 16, 16)
DOUBLE, ADD_ONE = arithmetic("Mul", 2.0, shape=SHAPE), arithmetic("Add", 1.0, shape=SHAPE)
WAYS = {ENGINE, BARE, BARE_QUIET}
ON_TRITON = {TRITON_MESSAGE, TRITON_SHARED, TRITON_WRITTEN}
NOWHERE = "127.0.0.1:1"
SMALL_VOLUME = (6, 64, 64)


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
    return EngineSettings(repository=path, threads=1, url=NOWHERE)


# --- inference


def test_every_way_runs_every_image(settings: EngineSettings) -> None:
    told: list[str] = []

    bench = bench_inference(settings, "double", Amounts(7), on_turn=told.append)

    assert told == ["5 radiographs, 1 at a time", "7 radiographs, 1 at a time", "7 radiographs, 8 at a time"]
    assert len(told) == turns(Amounts(7))
    assert [case.concurrency for case in bench.cases] == list(CONCURRENCIES)
    for case in bench.cases:
        assert case.figures_by_way.keys() == WAYS
        assert "127.0.0.1:1: Triton: UNAVAILABLE" in case.without_triton
        for figures in case.figures_by_way.values():
            assert len(figures.seconds) == 7
            assert 0 < min(figures.seconds) <= figures.wall_s
            # The library alone takes more; a gigabyte would be another process's.
            assert 20 << 20 < figures.peak_memory_bytes < 1 << 30


def test_figures_are_of_latency_and_throughput() -> None:
    figures = Figures((0.2, 0.1, 0.4, 0.3), 0.5, 1) + Figures((0.5,), 0.5, 2)

    assert figures.images_per_s == 5
    assert figures.median_ms == pytest.approx(300)
    assert [figures.latency_ms(percent) for percent in (0, 95, 100)] == pytest.approx([100, 480, 500])
    assert figures.peak_memory_bytes == 2


def test_ratios_are_to_the_faster_bare_loop() -> None:
    ways = {BARE: 0.3, BARE_QUIET: 0.1, TRITON_MESSAGE: 0.8, TRITON_SHARED: 0.2}
    case = Case("volume", (1,), 1, {way: Figures((value,), value, 0) for way, value in ways.items()}, "")

    assert case.slowdown(TRITON_SHARED) == pytest.approx(2)
    assert case.gain(TRITON_SHARED) == pytest.approx(0.5)
    assert case.gain_by_shared_memory == pytest.approx(4)


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
        bench_inference(settings, model, Amounts(1), on_turn=lambda _: None)


def test_a_model_that_takes_no_radiograph_is_refused(settings: EngineSettings) -> None:
    pair = arithmetic("Mul", 2.0)
    write_model(settings.repository, config("pair"), weights=pair, document=card("pair", {"pair": pair}))

    with pytest.raises(ModelError, match="does not take one radiograph"):
        bench_inference(settings, "pair", Amounts(1), on_turn=lambda _: None)


def test_volumes_go_through_a_model_made_for_it(settings: EngineSettings) -> None:
    bench = bench_inference(settings, "double", Amounts(1, 2, SMALL_VOLUME), on_turn=lambda _: None)

    assert [(case.name, case.concurrency) for case in bench.cases[2:]] == [("volume", 1), ("volume", 8)]
    for case in bench.cases[2:]:
        assert case.input_shape == SMALL_VOLUME
        assert {len(figures.seconds) for figures in case.figures_by_way.values()} == {2}


def test_the_model_for_volumes_is_a_valid_one(tmp_path: Path) -> None:
    write_volume_model(tmp_path, SMALL_VOLUME)
    volume = np.random.default_rng(1).integers(-1000, 1000, (1, *SMALL_VOLUME), dtype=np.int16)

    onnx.checker.check_model(onnx.load(tmp_path / NAME / "1" / "model.onnx"), full_check=True)
    engine = OnnxEngine(ModelRepository(tmp_path), threads=1)
    engine.check(NAME)
    outputs = engine.infer(NAME, {"x": volume})

    assert outputs["y"].ravel().tolist() == [volume[0, [0, 3, 5]].sum()]


@pytest.mark.triton
def test_triton_is_measured_where_there_is_one(settings: EngineSettings, tmp_path: Path) -> None:
    serve_by_python(settings.repository)
    shutil.copy(TRITON_REPO / "model.py", settings.repository)
    options = (*EXPLICIT, "--load-model", "*")
    with make_triton(tmp_path, repository=settings.repository, options=options) as server:
        server.start()
        there = dataclasses.replace(settings, url=server.url)

        bench = bench_inference(there, "chain", Amounts(2, 2, SMALL_VOLUME), on_turn=lambda _: None)

        states = TritonServer(server.url).state_by_model()
    assert [case.without_triton for case in bench.cases] == [""] * 4
    for case in bench.cases:
        assert case.figures_by_way.keys() == WAYS | ON_TRITON
        assert case.gain_by_shared_memory
    assert NAME not in states or "unloaded" in states[NAME].lower() or "UNLOADING" in states[NAME]


@pytest.mark.triton
def test_memory_that_one_volume_needed_serves_the_next(small_triton: Triton, tmp_path: Path) -> None:
    # Above 32 MB, which is the most that glibc keeps by itself.
    volume = np.zeros((1, 80, 512, 512), np.int16)
    write_volume_model(tmp_path, volume.shape[1:])
    engine = TritonEngine(ModelRepository(tmp_path), TritonSettings(url=small_triton.url))
    server = TritonServer(small_triton.url)

    with closing(server), loaded_on(server, tmp_path, TRITON_REPO / "model.py"), closing(engine):
        before = own_memory_bytes(small_triton.pid, NAME)
        engine.infer(NAME, {"x": volume})
        # It would be given back a moment after the answer.
        time.sleep(0.3)
        after = own_memory_bytes(small_triton.pid, NAME)

    # The copy that Triton hands over; without that of the server, which lies in shared memory.
    assert after - before > 0.9 * volume.nbytes


def own_memory_bytes(server: int, model: str) -> int:
    """What is resident of the server's Python process for a model, shared memory not counted."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):
            lines = (line.partition(":") for line in (folder / "status").read_text().splitlines())
            status = {name: text.split() for name, _, text in lines}
            if status["PPid"] == [str(server)] and f"{model}_0_0" in (folder / "cmdline").read_text():
                return int(status["RssAnon"][0]) << 10
    raise LookupError(f"{model} has no process")


def test_command_prints_one_json_object(settings: EngineSettings, tmp_path: Path) -> None:
    output, progress = run_command(settings, tmp_path, "--json")

    account = json.loads(output)
    assert progress.splitlines()[-1] == "measured 3/3 6 radiographs, 8 at a time"
    assert (account["model"], account["model_version"], account["threads"]) == ("chain", "1.2.3", 1)
    assert [case["concurrency"] for case in account["cases"]] == [1, 8]
    names = ("images", "images_per_s", "latency_median_ms", "latency_p95_ms", "peak_memory_mib")
    for case in account["cases"]:
        assert case["input_shape"] == list(SHAPE)
        assert case["ways"].keys() == WAYS
        assert case["gain_by_shared_memory"] is None
        assert "UNAVAILABLE" in case["without_triton"]
        for figures in case["ways"].values():
            assert tuple(figures) == (*names, "throughput_to_faster_bare", "latency_to_faster_bare")
            assert figures["images"] == 6
            fastest = min(case["ways"][way]["latency_median_ms"] for way in (BARE, BARE_QUIET))
            # Latencies are rounded to a microsecond, of some 20.
            expected = pytest.approx(figures["latency_median_ms"] / fastest, rel=0.2)
            assert figures["latency_to_faster_bare"] == expected


def test_command_prints_a_line_for_each_way(settings: EngineSettings, tmp_path: Path) -> None:
    output, _ = run_command(settings, tmp_path)

    table = output.splitlines()[2:9]
    assert [line.split("  ")[0] for line in table] == [
        "way",
        "bare loop, ONNX Runtime's defaults",
        "bare loop, its threads not spinning",
        "engine in the node's process",
        "Triton, arrays in the message",
        "Triton, arrays copied into shared memory",
        "Triton, arrays already written there",
    ]
    assert table[-1].split("there")[1].split() == ["–"] * 6
    assert "radiographs of 1 × 16 × 16, 8 at a time: 6 by each way" in output
    assert "Triton was not measured: 127.0.0.1:1" in output


def run_command(settings: EngineSettings, folder: Path, *options: str) -> tuple[str, str]:
    """The benchmark of six images; what it printed on standard output and error."""
    path = folder / "sightline.toml"
    lines = [f'repository = "{settings.repository}"', "threads = 1", f'url = "{settings.url}"']
    path.write_text("\n".join(["[engine]", *lines, ""]))
    amounts = ["--images", "6", "--volumes", "0"]
    arguments = ["bench", "inference", "--model", "chain", *amounts, "-c", str(path), *options]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0
    return result.stdout, result.stderr


# --- receiving


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("storescp", path="/usr/bin:/usr/local/bin"), reason="needs DCMTK")
def test_receiving_is_measured_beside_storescp_with_the_same_files() -> None:
    command = ["bench", "ingest", "--kind", "ct", "--share", "0.01", "--rounds", "1", "--json"]
    chosen = ["--receiver", "node", "--receiver", "storescp"]

    said = CliRunner().invoke(app, [*command, *chosen])

    assert said.exit_code == 0, said.output
    cases = json.loads(said.stdout[said.stdout.index("{") :])["cases"]
    assert [(case["associations"], case["receiver"], case["count"]) for case in cases] == [
        (1, "node", 5),
        (1, "storescp", 5),
        (4, "node", 5),
        (4, "storescp", 5),
    ]
    assert all(case["instances_per_s"] > 0 for case in cases)
    assert cases[1]["times"]["storescp"] == 1
    assert cases[0]["memory_per_association_bytes"] < 64 << 20


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("storescu", path="/usr/bin:/usr/local/bin"), reason="needs DCMTK")
def test_growth_is_measured_at_each_size() -> None:
    said = CliRunner().invoke(app, ["bench", "growth", "--sizes", "100,300", "--json"])

    assert said.exit_code == 0, said.output
    points = json.loads(said.stdout[said.stdout.index("{") :])["points"]
    assert [point["stored"] for point in points] == [100, 1000]
    assert all(point["seconds"] > 0 and point["receiver_bytes"] > 0 for point in points)
