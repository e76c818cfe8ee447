"""What deploy/ ships for a site with Triton: containers, the node's configuration, what Prometheus reads."""

import http.client
import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import yaml

from node.config import load
from node.telemetry import Metrics
from tests.peers import LOOPBACK, REPOSITORY, end_process, free_ports, need_program, wait_until
from tests.peers.triton import Triton

DEPLOY = REPOSITORY / "deploy"
PROMETHEUS = DEPLOY / "prometheus" / "prometheus.yml"


def read_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


@pytest.fixture(scope="module")
def services() -> Any:
    return read_yaml(DEPLOY / "compose.yaml")["services"]


def test_every_file_that_a_container_is_given_exists(services: Any) -> None:
    mounted = [mount.split(":")[0] for service in services.values() for mount in service["volumes"]]

    sources = [source for source in mounted if source.startswith(".")]
    assert len(sources) == 5
    assert [source for source in sources if not (DEPLOY / source).exists()] == []
    build = services["node"]["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).is_file()


def test_everything_that_the_image_of_the_node_copies_exists() -> None:
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()

    copied = [name for line in lines if line.startswith("COPY") for name in line.split()[1:-1]]

    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert {"node", "pyproject.toml", project["readme"], *project["license-files"]} <= set(copied)
    assert [name for name in copied if not (REPOSITORY / name).exists()] == []


def test_the_node_of_the_containers_asks_the_server_of_the_containers(services: Any) -> None:
    configuration = load(DEPLOY / "sightline.compose.toml")

    engine = configuration.engine
    assert (engine.kind, engine.url) == ("triton", "triton:8001")
    assert f"../triton_repo:{engine.repository}:ro" in services["node"]["volumes"]
    assert f"../triton_repo:{engine.repository}:ro" in services["triton"]["volumes"]
    assert str(engine.repository) in services["triton"]["command"]
    # Memory that is shared must be seen by both.
    assert services["node"]["ipc"] == "service:triton"
    assert services["triton"]["ipc"] == "shareable"
    ports = {port.split(":")[-1] for port in services["node"]["ports"]}
    assert ports == {str(configuration.receive.port), str(configuration.web.port)}


def test_a_gpu_is_asked_for_beside_not_in_the_file_that_runs_anywhere(services: Any) -> None:
    added = read_yaml(DEPLOY / "compose.gpu.yaml")["services"]

    assert "deploy" not in services["triton"]
    assert added.keys() == {"triton"}
    (device,) = added["triton"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]


@pytest.mark.triton
def test_the_container_runs_the_command_that_runs_here(services: Any, triton: Triton) -> None:
    arguments = Path("/proc", str(triton.pid), "cmdline").read_text().split("\0")
    program, *options = services["triton"]["command"]

    assert Path(arguments[0]).name == program
    assert {option for option in options if option.startswith("--")} <= set(arguments)


def test_prometheus_accepts_its_configuration() -> None:
    promtool = need_program("promtool", "prometheus")

    done = subprocess.run(
        [promtool, "check", "config", PROMETHEUS], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr


def test_the_alerts_are_raised_when_they_should_be() -> None:
    promtool = need_program("promtool", "prometheus")

    done = subprocess.run(
        [promtool, "test", "rules", "alerts_test.yml"],
        cwd=PROMETHEUS.parent,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr


def test_alerts_ask_for_metrics_that_the_node_has() -> None:
    exposition = Metrics().exposition().decode()
    asked = set(re.findall(r"sightline_[a-z_]+(?=[{ ])", (PROMETHEUS.parent / "alerts.yml").read_text()))

    assert len(asked) >= 4
    assert [name for name in asked if f"# TYPE {name} " not in exposition] == []


def test_prometheus_asks_the_ports_of_the_containers(services: Any) -> None:
    configuration = load(DEPLOY / "sightline.compose.toml")
    jobs = read_yaml(PROMETHEUS)["scrape_configs"]

    targets = {job["job_name"]: job["static_configs"][0]["targets"] for job in jobs}

    assert targets == {"sightline": [f"node:{configuration.web.port}"], "triton": ["triton:8002"]}
    assert {"node", "triton"} <= services.keys()


@pytest.mark.triton
def test_prometheus_reads_the_inference_metrics_of_triton(triton: Triton, tmp_path: Path) -> None:
    with prometheus_of(triton, tmp_path) as ask:
        found = wait_until(lambda: ask("nv_inference_count"), "Prometheus has read Triton's metrics")

        assert {entry["metric"]["model"] for entry in found} >= {"chest_xray", "chest_xray_combine"}
        assert [entry["value"][1] for entry in ask('up{job="triton"}')] == ["1"]
        assert ask("nv_inference_queue_duration_us")


@contextmanager
def prometheus_of(triton: Triton, folder: Path) -> Iterator[Any]:
    """Run Prometheus with the shipped configuration, Triton's port put in; yields what asks it a question."""
    program = need_program("prometheus", "prometheus")
    (port,) = free_ports(1)
    shutil.copy(PROMETHEUS.with_name("alerts.yml"), folder)
    text = PROMETHEUS.read_text().replace("triton:8002", f"{triton.host}:{triton.metrics_port}")
    configuration = folder / "prometheus.yml"
    configuration.write_text(text.replace("scrape_interval: 15s", "scrape_interval: 1s"))
    command = [program, f"--config.file={configuration}", f"--storage.tsdb.path={folder}/data"]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, f"--web.listen-address={LOOPBACK}:{port}"], stdout=log, stderr=log
        )

    def ask(expression: str) -> Any:
        connection = http.client.HTTPConnection(LOOPBACK, port, timeout=10)
        try:
            connection.request("GET", f"/api/v1/query?query={quote(expression)}")
            response = connection.getresponse()
            return json.load(response)["data"]["result"] if response.status == 200 else []
        except ConnectionRefusedError:
            return []
        finally:
            connection.close()

    try:
        yield ask
    finally:
        end_process(process)
