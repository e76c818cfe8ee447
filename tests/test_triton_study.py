"""Studies on a Triton server, through the node as a user runs it: the same results, whatever happens."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from node.account import describe_score
from node.engines.onnx import OnnxEngine
from node.engines.owner import Owner
from node.engines.repository import ModelRepository
from node.engines.triton_server import TritonServer
from node.interfaces import Pipeline
from node.parts import home_of
from node.pipelines.chest_xray import ChestXray
from node.pipelines.slide_tumor import SlideTumor
from node.samples.demo import RadiographStudy, demo_samples
from tests.gates import let_through, link_shipped_models, put_gates, shut, wait_at_gate
from tests.peers import dcmtk, wait_until
from tests.peers.archive import Recorder
from tests.peers.fake_triton import run_fake_triton
from tests.peers.node import Node, run_sightline, to_toml
from tests.peers.triton import SHARED_MEMORY, TRITON_REPO, Triton, make_triton
from tests.slides import series_of
from tests.small_models import HOLD, HOLD_TOO, LARGE, let_go, wait_until_held, write_slow

pytestmark = pytest.mark.triton

STUDIES = 8
GONE_S = 20
"""How long a server is away that was killed."""

PIPELINES: Mapping[str, Pipeline] = {"chest_xray": ChestXray(), "slide_tumor": SlideTumor()}

# The index keeps four digits; beyond them the same library adds the same numbers in another order.
TOLERANCE = 2e-4

Json = dict[str, Any]
NewNode = Callable[[Mapping[str, Any]], Node]


def on_triton(url: str, repository: Path = TRITON_REPO, **changes: Any) -> Json:
    """The part of a configuration that points a node at a server."""
    return {"engine": {"kind": "triton", "url": url, "repository": str(repository), **changes}}


def delivering_to(recorder: Recorder) -> Json:
    address = {"host": recorder.host, "port": recorder.port, "ae_title": recorder.ae_title}
    return {"assembly": {"quiet_period_s": 1}, "destinations": {"pacs": {**address, "timeout_s": 5}}}


def slow_pipeline(model: str, seconds: float, numbers: int = 2) -> Json:
    options = {"model": model, "seconds": seconds, "numbers": numbers}
    return {"use": "tests.peers.pipelines:SlowReader", "when": {"modality": ["DX"]}, "options": options}


# --- the same results


def test_demo_says_the_same_on_triton(triton: Triton, tmp_path: Path) -> None:
    path, out = tmp_path / "triton.toml", tmp_path / "out"
    path.write_text(to_toml(on_triton(triton.url)))

    done = run_sightline("demo", "--json", "--out", str(out), "-c", str(path))

    assert done.returncode == 0, done.stderr
    studies = json.loads(done.stdout)["studies"]
    assert [study["runs"][0]["outcome"] for study in studies] == [
        sample.expected_outcome for sample in demo_samples()
    ]
    embedded = OnnxEngine(ModelRepository(TRITON_REPO), threads=2)
    for study in studies:
        (run,) = study["runs"]
        requests = f'nv_inference_request_success{{model="{run["pipeline"]}",version="1"}}'
        assert triton.metrics()[requests] >= 2
        for told, expected in zip(run["scores"], ask(embedded, run, out / study["sample"]), strict=True):
            for name in ("probability", "interval", "entropy", "mutual_information"):
                np.testing.assert_allclose(told[name], expected[name], rtol=0, atol=TOLERANCE, err_msg=name)


def ask(engine: OnnxEngine, run: Json, folder: Path) -> list[Json]:
    """The scores that an engine gives the files of a study."""
    series = series_of(path for path in folder.glob("*.dcm") if not path.name.startswith(run["pipeline"]))
    findings = PIPELINES[run["pipeline"]].analyze(series, engine)
    return [describe_score(score) for score in findings.scores]


@pytest.fixture
def gated_triton(tmp_path: Path) -> Iterator[Triton]:
    """A server with the shipped models, each behind a gate, which is open."""
    repository = link_shipped_models(tmp_path / "shipped")
    put_gates(repository)
    with make_triton(tmp_path, repository=repository) as server:
        server.start()
        yield server


def test_studies_at_the_same_time_become_batches(
    gated_triton: Triton, new_node: NewNode, tmp_path: Path
) -> None:
    *members, combine = ModelRepository(TRITON_REPO).config("chest_xray").networks
    node = new_node(on_triton(gated_triton.url) | {"workflow": {"workers": STUDIES}})
    node.start()
    before = {model: batches_of(gated_triton, model) for model in (*members, combine)}
    shut(gated_triton, *members, combine)

    dcmtk.send(write_studies(tmp_path, STUDIES), node.port, called=node.ae_title)
    for model in members:
        wait_at_gate(gated_triton, model, STUDIES)
    let_through(gated_triton, *members)
    wait_at_gate(gated_triton, combine, STUDIES)
    let_through(gated_triton, combine)
    wait_until(lambda: len(analyzed(node)) == STUDIES, "all are analyzed")

    for model, earlier in before.items():
        batches = batches_of(gated_triton, model)
        counts = {size: batches[size] - earlier.get(size, 0) for size in batches}
        assert sum(size * count for size, count in counts.items()) == STUDIES
        assert max(size for size, count in counts.items() if count) > 1, (model, counts)


def analyzed(node: Node) -> list[str]:
    """The pipelines of the runs whose analysis is finished, in that order."""
    return [record["pipeline"] for record in node.log_records(event="step_finished", step="analyze")]


def batches_of(triton: Triton, model: str) -> dict[int, int]:
    """How often the server ran a model on a batch of each size."""
    server = TritonServer(triton.url)
    statistics = server.statistics(model)
    server.close()
    return {one.batch_size: one.compute_infer.count for one in statistics.batch_stats}


def write_studies(folder: Path, count: int) -> list[Path]:
    """A radiograph of each of so many bodies, normal and ill in turn."""
    kinds = (None, "consolidation")
    samples = [RadiographStudy(str(seed), seed, kinds[seed % 2], "", size=320) for seed in range(count)]
    return [path for sample in samples for path in sample.write(folder)]


# --- a server that is not there for a while


@pytest.fixture
def slow_repository(tmp_path: Path) -> Path:
    """Models that take their time: one of few numbers, one of so many that they go by shared memory."""
    path = tmp_path / "repository"
    write_slow(path, "slow", 2, max_batch_size=1)
    write_slow(path, "slow_large", LARGE)
    return path


@pytest.fixture
def slow_triton(slow_repository: Path, tmp_path: Path) -> Iterator[Triton]:
    """A server that the test may kill, and that is not started yet."""
    with make_triton(tmp_path, repository=slow_repository) as server:
        yield server


@pytest.fixture
def slow_node(new_node: NewNode, slow_triton: Triton, slow_repository: Path, recorder: Recorder) -> Node:
    """A node whose one pipeline asks a slow model, which holds the question; not started yet."""
    pipelines = {"pipelines": {"slow": slow_pipeline("slow_large", HOLD, LARGE)}}
    return new_node(on_triton(slow_triton.url, slow_repository) | delivering_to(recorder) | pipelines)


@pytest.mark.timeout(120)
def test_server_that_is_gone_for_a_while_costs_no_study(
    slow_triton: Triton, slow_node: Node, recorder: Recorder, positive: Path
) -> None:
    have_asked(slow_triton, slow_node, positive)
    slow_triton.kill()
    slow_node.wait_for_record(event="engine_request_failed")
    time.sleep(GONE_S)
    let_go(slow_triton.repository, "slow_large")
    slow_triton.start()

    assert_done_once(slow_node, recorder)
    metrics = slow_node.metrics()
    assert metrics['sightline_engine_retries_total{model="slow_large"}'] == 1
    assert metrics['sightline_engine_breaker_state{model="slow_large"}'] == 0
    assert names_left(slow_node) == []


@pytest.mark.timeout(120)
def test_server_and_node_killed_leave_no_shared_memory_and_no_study(
    slow_triton: Triton, slow_node: Node, recorder: Recorder, positive: Path
) -> None:
    have_asked(slow_triton, slow_node, positive)
    assert any(name.startswith(prefix_of(slow_node)) for name in regions_of(slow_triton))

    slow_node.kill()
    slow_triton.kill()

    assert names_left(slow_node) == []
    let_go(slow_triton.repository, "slow_large")
    slow_node.start()  # before the server: a node does not wait for it to receive
    assert slow_node.log_records(event="engine_not_ready")
    slow_triton.start()
    assert_done_once(slow_node, recorder)
    assert names_left(slow_node) == []


def have_asked(triton: Triton, node: Node, study: Path) -> None:
    """Start both and send a study; return once the server holds the node's question."""
    triton.start()
    node.start()
    dcmtk.send([study], node.port, called=node.ae_title)
    wait_until_held(triton.repository, "slow_large")


def regions_of(triton: Triton) -> frozenset[str]:
    server = TritonServer(triton.url)
    try:
        return server.region_names()
    finally:
        server.close()


def prefix_of(node: Node) -> str:
    """What the names of all the memory begin with that the node has shared since its data folder is there."""
    return f"{Owner.PREFIX}{home_of(node.folder / 'data')}-"


def names_left(node: Node) -> list[Path]:
    """What the node has in /dev/shm, where other tests have theirs."""
    return list(SHARED_MEMORY.glob(f"{prefix_of(node)}*"))


def assert_done_once(node: Node, recorder: Recorder) -> None:
    (study,) = node.wait_for_studies(1)
    (run,) = study["runs"]
    assert study["outcome"] == run["outcome"] == "findings"
    assert run["scores"][0]["probability"] == 1
    assert recorder.digests_by_uid.keys() == {item["sop_instance_uid"] for item in run["objects"]}
    assert all(len(digests) == 1 for digests in recorder.digests_by_uid.values())


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_node_that_is_stopped_breaks_a_request_off_and_takes_it_up_again(
    slow_triton: Triton, slow_node: Node, recorder: Recorder, positive: Path
) -> None:
    have_asked(slow_triton, slow_node, positive)

    started = time.monotonic()
    status = slow_node.stop()

    assert status == 0
    assert time.monotonic() - started < 28  # the 20 s that work under way is given, and some to close
    let_go(slow_triton.repository, "slow_large")
    slow_node.start()
    assert_done_once(slow_node, recorder)


# --- who goes first, and what never gets into a report


@pytest.mark.timeout(90)
def test_stat_study_overtakes_routine_ones(
    new_node: NewNode, slow_triton: Triton, slow_repository: Path, tmp_path: Path
) -> None:
    pipelines = {
        "first": slow_pipeline("slow", HOLD),
        "routine": slow_pipeline("slow", HOLD_TOO),
        "stat": slow_pipeline("slow", 0.0) | {"priority": "stat"},
    }
    doors = {name.upper(): {"pipelines": [name]} for name in pipelines}
    node = new_node(
        on_triton(slow_triton.url, slow_repository)
        | {"pipelines": pipelines, "workflow": {"workers": STUDIES}, "assembly": {"quiet_period_s": 1}}
        | {"receive": {"application_entities": doors}}
    )
    slow_triton.start()
    node.start()
    first, *routine, stat = write_studies(tmp_path, 6)

    dcmtk.send([first], node.port, called="FIRST")
    wait_until_held(slow_repository, "slow")
    dcmtk.send(routine, node.port, called="ROUTINE")
    wait_until(lambda: slow_triton.waiting("slow") == len(routine), "all routine studies wait")
    dcmtk.send([stat], node.port, called="STAT")
    wait_until(lambda: slow_triton.waiting("slow") > len(routine), "the STAT study waits behind them")
    let_go(slow_repository, "slow")
    # No routine study can be done before it is let go, and the model takes one at a time.
    wait_until(lambda: len(analyzed(node)) == 2, "the STAT study is analyzed")
    wait_until_held(slow_repository, "slow", HOLD_TOO)
    let_go(slow_repository, "slow", HOLD_TOO)
    wait_until(lambda: len(analyzed(node)) == 6, "all are analyzed")

    assert set(analyzed(node)[:2]) == {"first", "stat"}
    assert analyzed(node)[2:] == ["routine"] * 4


def absent(response: Any) -> None:
    del response.outputs[:]
    del response.raw_output_contents[:]


def not_a_number(response: Any) -> None:
    response.raw_output_contents[0] = np.full(2, np.nan, np.float32).tobytes()


def another_shape(response: Any) -> None:
    response.outputs[0].shape[:] = [1, 4]
    response.raw_output_contents[0] = bytes(16)


@pytest.mark.timeout(90)
def test_garbage_of_the_server_ends_in_a_failure_with_its_reason(
    new_node: NewNode, slow_repository: Path, recorder: Recorder, tmp_path: Path
) -> None:
    words_by_spoil = {
        absent: "slow: output y is absent",
        not_a_number: "slow: y holds values that are not finite",
        another_shape: "slow: y is [1, 4] float32, expected [1, 2] float32",
    }
    pipelines = {"pipelines": {"slow": slow_pipeline("slow", 1.0)}}
    with run_fake_triton(slow_repository) as fake:
        node = new_node(on_triton(fake.url, slow_repository) | delivering_to(recorder) | pipelines)
        node.start()
        for number, (spoil, path) in enumerate(
            zip(words_by_spoil, write_studies(tmp_path, 3), strict=True), 1
        ):
            fake.spoil = spoil
            dcmtk.send([path], node.port, called=node.ae_title)
            wait_until(lambda number=number: len(analyzed(node)) == number, "it is analyzed")
        studies = node.wait_for_studies(3)

    runs = [study["runs"][0] for study in reversed(studies)]
    assert [run["outcome"] for run in runs] == ["failed"] * 3
    assert [run["reason"] for run in runs] == list(words_by_spoil.values())
    assert all(run["scores"] == [] for run in runs)
