"""The commands beside a running node, and what they say when something is wrong."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from node.cli import main
from node.cli.studies import top_finding
from node.deliver.association import Peer
from node.deliver.dimse import send_files
from node.domain.findings import Doubt
from node.samples.dicom import DxOptions, write_dx
from node.samples.thorax import thorax_radiograph
from tests.peers import LOOPBACK, free_ports
from tests.peers.node import NEVER_FULL, Node, make_node, run_sightline, to_toml
from tests.sources import write_radiograph

NewNode = Callable[[Mapping[str, Any]], Node]
READING, DEAF = "READING", "DEAF"
OWN_LOG = ("process", "send")
"""Commands that set up the log of their whole process, which is not to be that of the tests."""


def run_here(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Do as `run_sightline` does, in this process: a new one takes two seconds to load its modules."""
    output, complaints, status = StringIO(), StringIO(), 0
    with redirect_stdout(output), redirect_stderr(complaints), patch.object(sys, "argv", ["", *arguments]):
        try:
            main()
        except SystemExit as ended:
            status = int(ended.code or 0)
    return subprocess.CompletedProcess(arguments, status, output.getvalue(), complaints.getvalue())


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server((LOOPBACK, 0)) as taken:
        yield taken.getsockname()[1]


@pytest.fixture
def bad(tmp_path: Path, taken_port: int) -> Path:
    """A configuration with one problem of every kind."""
    (unreachable,) = free_ports(1)
    path = tmp_path / "sightline.toml"
    path.write_text(
        to_toml(
            {
                "data": str(tmp_path / "data"),
                "receive": {"port": taken_port, "prot": 104, "idle_timeout_s": "soon"},
                "web": {"port": free_ports(1)[0]},
                "engine": {"repository": str(tmp_path)},
                "destinations": {"pacs": {"host": LOOPBACK, "port": unreachable, "ae_title": "PACS"}},
            }
        )
    )
    return path


@pytest.mark.parametrize("command", ["check", "run"])
def test_a_bad_configuration_tells_all_its_problems_at_once(command: str, bad: Path, taken_port: int) -> None:
    ended = run_sightline(command, "-c", str(bad))

    said = ended.stdout + ended.stderr
    assert ended.returncode == 2
    for words in (
        "receive.prot: unknown key – did you mean port?",
        'receive.idle_timeout_s: "soon" – expected a number',
        f"receive.port {taken_port}: cannot listen on {LOOPBACK}:{taken_port}",
        "pipelines.chest_xray model: chest_xray: no such model",
        "destinations.pacs: pacs: ",
    ):
        assert words in said
    assert "Traceback" not in said


def test_check_says_ok_of_what_is_well(tmp_path: Path) -> None:
    receive, web = free_ports(2)
    path = tmp_path / "sightline.toml"
    path.write_text(
        to_toml(
            {
                "data": str(tmp_path / "data"),
                "receive": {"port": receive} | NEVER_FULL,
                "web": {"port": web},
            }
        )
    )

    ended = run_here("check", "--json", "-c", str(path))

    assert ended.returncode == 0, ended.stdout
    checks = {check["name"]: check["problem"] for check in json.loads(ended.stdout)["checks"]}
    assert set(checks.values()) == {""}
    assert {f"receive.port {receive}", "pipelines.chest_xray model", "disk", "clock"} <= set(checks)


def test_check_says_what_to_do_where_the_server_of_the_engine_is_not_there(tmp_path: Path) -> None:
    receive, web, nobody = free_ports(3)
    path = tmp_path / "sightline.toml"
    engine = {"kind": "triton", "url": f"{LOOPBACK}:{nobody}"}
    ports = {"receive": {"port": receive}, "web": {"port": web}}
    path.write_text(to_toml({"data": str(tmp_path / "data"), "engine": engine, **ports}))

    ended = run_here("check", "-c", str(path))

    assert ended.returncode == 2
    assert f"pipelines.chest_xray model: {LOOPBACK}:{nobody}: Triton: UNAVAILABLE" in ended.stdout


def test_models_are_listed_and_shown() -> None:
    listed = run_here("models", "list")
    shown = run_here("models", "show", "chest_xray", "--json")

    lines = {line.split()[0]: line for line in listed.stdout.splitlines()}
    assert "image → probability, spread, interval … (8)" in lines["chest_xray"]
    assert "image → logits, activation_map, strangeness  " in lines["chest_xray_resnet50_a"]
    model, card = (json.loads(shown.stdout)[key] for key in ("model", "card"))
    assert model["members"] == [entry["model"] for entry in card["weights"]]
    assert model["inputs"] == [{"name": "image", "shape": card["input"]["shape"], "type": "float32"}]
    assert card["intended_use"].startswith("Orders the reading list")


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["models", "show", "../x"], 1, "no such model"),
        (["models", "load", "chest_xray"], 2, 'engine.kind: "onnx" – models are loaded on a "triton" server'),
        (["frobnicate"], 2, "No such command"),
        (["send", "README.md", "--to", "nowhere"], 2, "expected AET@HOST:PORT"),
        (["send", "no-such-file", "--to", "PACS@127.0.0.1:104"], 1, "there is no such file or folder"),
        (["studies", "list", "-c", "no-such-file.toml"], 2, "cannot be read"),
        (["process", "README.md", "--out", "{out}"], 1, "README.md: SOP Class UID is missing"),
        (["process", "README.md", "--out", "{out}", "--pipeline", "x"], 2, "'x' is not declared"),
        (["result", "check", "README.md"], 1, ""),
    ],
)
def test_wrong_use_is_said_in_words(arguments: list[str], status: int, words: str, tmp_path: Path) -> None:
    run = run_sightline if arguments[0] in OWN_LOG else run_here

    ended = run(*(one.format(out=tmp_path / "out") for one in arguments))

    assert ended.returncode == status
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_pipeline_that_is_named_reads_whatever_the_rules_say(tmp_path: Path) -> None:
    (path,) = write_radiograph(tmp_path).paths

    ended = run_sightline(
        "process", str(path), "--out", str(tmp_path / "out"), "--pipeline", "chest_ct", "--json"
    )

    (run,) = json.loads(ended.stdout)["studies"][0]["runs"]
    assert (run["pipeline"], run["outcome"]) == ("chest_ct", "not_eligible")
    assert "the series is not a CT" in run["reason"]


def row(name: str, probability: float, presence: str, *doubts: str) -> dict[str, Any]:
    """A score as the account has it, as far as a line about it needs."""
    return {
        "name": name,
        "probability": probability,
        "interval": [probability - 0.05, probability + 0.05],
        "presence": presence,
        "is_uncertain": bool(doubts),
        "doubts": list(doubts),
    }


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        ([], ""),
        ([row("A", 0.1, "absent"), row("B", 0.2, "absent")], "B 20 % (15–25 %)"),
        (
            [row("A", 0.9, "absent"), row("B", 0.2, "undetermined", Doubt.BOTH_ANSWERS)],
            "B 20 % (15–25 %, uncertain)",
        ),
        ([row("A", 0.9, "undetermined", Doubt.BOTH_ANSWERS), row("B", 0.7, "present")], "B 70 % (65–75 %)"),
        (
            [row("A", 0.9, "undetermined", Doubt.FOREIGN_IMAGE)],
            "uncertain: the image is unlike those the model was made for",
        ),
    ],
)
def test_the_top_finding_is_never_one_that_must_not_be_used(scores: list[dict[str, Any]], words: str) -> None:
    assert top_finding(scores) == words


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A running node of two AE titles, one of which no pipeline listens to."""
    entities = {READING: {"pipelines": ["*"]}, DEAF: {"pipelines": []}}
    configuration = {"receive": {"application_entities": entities}, "assembly": {"quiet_period_s": 1}}
    with make_node(tmp_path_factory.mktemp("commands") / "node", configuration) as node:
        node.start()
        yield node


def send(node: Node, folder: Path, seed: int, called: str) -> str:
    """Send a synthetic radiograph; return its study."""
    uid = f"1.2.826.0.1.3680043.10.{seed}"
    options = DxOptions(study_instance_uid=uid)
    path = write_dx(thorax_radiograph(seed, size=256), folder / f"{seed}.dcm", options=options)
    summary = send_files([path], Peer(LOOPBACK, node.port, called))
    assert not summary.failures
    return uid


def count_read(node: Node) -> int:
    return int(node.metrics()['sightline_studies_open{state="analyzed"}'])


def test_two_ae_titles_lead_to_different_pipelines(node: Node, tmp_path: Path) -> None:
    known = count_read(node)
    read, not_read = send(node, tmp_path, 1, READING), send(node, tmp_path, 2, DEAF)

    studies = {study["study_instance_uid"]: study for study in node.wait_for_studies(known + 2)}

    assert [run["pipeline"] for run in studies[read]["runs"]] == ["chest_xray"]
    assert studies[not_read]["runs"] == []
    assert studies[not_read]["outcome"] == "not_eligible"
    assert f"outside the scope of AE {DEAF}" in studies[not_read]["reason"]


def test_the_story_of_a_study_is_shown_step_by_step(node: Node, tmp_path: Path) -> None:
    known = count_read(node)
    uid = send(node, tmp_path, 3, READING)
    node.wait_for_studies(known + 1)

    shown = run_here("studies", "show", uid, "--json", "-c", str(node.configuration_path))
    text = run_here("studies", "show", uid, "-c", str(node.configuration_path))
    unknown = run_here("studies", "show", "1.2.3", "-c", str(node.configuration_path))

    story = json.loads(shown.stdout)
    assert story["evidence"] == "association_released"
    events = [event["event"] for event in story["events"]]
    assert events == [
        "study_assembled",
        *(f"{step}_finished" for step in ("plan", "analyze", "encode", "finish")),
    ]
    assert uid in text.stdout
    assert "encode_finished" in text.stdout
    assert (unknown.returncode, unknown.stderr) == (1, "sightline: 1.2.3: no such study was received\n")


def test_health_and_metrics_are_answered_without_a_uid(node: Node, tmp_path: Path) -> None:
    known = count_read(node)
    uid = send(node, tmp_path, 4, READING)
    node.wait_for_studies(known + 1)

    metrics = node.metrics()

    assert node.get("/healthz")[0] == node.get("/readyz")[0] == 200
    assert metrics[f'sightline_instances_received_total{{ae_title="{READING}"}}'] >= 1
    assert metrics['sightline_stage_seconds_count{stage="analyze"}'] >= 1
    assert metrics["sightline_disk_free_bytes"] > 0
    assert uid not in node.get("/metrics")[1]


def test_a_node_that_is_told_to_stop_ends_in_good_order(new_node: NewNode) -> None:
    node = new_node({})
    node.start()

    node._process.send_signal(signal.SIGTERM)

    assert node._process.wait(30) == 0
    assert node.log_records(event="node_stopped")
