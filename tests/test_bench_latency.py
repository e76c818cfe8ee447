"""The benchmark of a whole study: both ways do it all, on a chest whose nodules are known."""

import json
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from node.bench import latency
from node.bench.clock import Clock
from node.bench.latency import NODE, PLAIN, WAYS, Figures, LatencyBench, Run
from node.cli import app
from tests import ct_models, ct_phantom
from tests.ct_phantom import BALLS

SPACING_MM = (2.5, 0.8, 0.8)
SLOW, FAST = {"read": 4.0, "encode": 2.0, "send": 2.0}, {"read": 1.0, "encode": 1.0, "keep": 0.5}


def run_of(seconds: dict[str, float], inference_s: float = 0.0) -> Run:
    return Run({**seconds, "inference": inference_s}, 3, 2, 1000)


def test_the_figures_are_medians_and_inference_is_that_of_the_first_study() -> None:
    figures = {
        NODE: Figures(run_of({"read": 9.0}, 30.0), (run_of(FAST), run_of(FAST), run_of(SLOW))),
        PLAIN: Figures(run_of(SLOW, 60.0), (run_of(SLOW),)),
    }

    bench = LatencyBench("chest_ct", "synthetic", 300, 2, figures)

    assert figures[NODE].stage_s("read") == 1.0
    assert figures[NODE].stage_s("inference") == 30.0
    assert bench.share("read") == 0.25
    assert bench.share("keep") is None
    assert bench.share_without_inference == pytest.approx(2.5 / 8)


def test_a_stage_inside_another_takes_its_seconds_away() -> None:
    clock = Clock()

    with clock.stage("outer"):
        time.sleep(0.02)
        with clock.stage("inner"):
            time.sleep(0.2)

    assert 0.2 <= clock.seconds["inner"] < 5
    assert 0.02 <= clock.seconds["outer"] < clock.seconds["inner"]


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    pytest.importorskip("SimpleITK", reason="needs SimpleITK (extra: train)")
    folder = tmp_path_factory.mktemp("latency")
    ct_models.write_ct_models(folder / "repository")
    ct_phantom.write(folder / "series", ct_phantom.stack(SPACING_MM))
    path = folder / "sightline.toml"
    path.write_text(f'[engine]\nrepository = "{folder / "repository"}"\nthreads = 1\n')
    series = ["--series", str(folder / "series"), "--rounds", "1", "-c", str(path)]
    return ["bench", "latency", "--pipeline", "chest_ct", *series]


def test_command_prints_one_json_object(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, [*arguments, "--json"])

    assert result.exit_code == 0, result.stderr
    account = json.loads(result.stdout)
    assert list(account["ways"]) == list(WAYS)
    for way in account["ways"].values():
        # A segmentation and a report of all nodules.
        assert (way["found"], way["objects"]) == (len(BALLS), 2)
        assert way["stages_s"]["inference"] > 0
        others = sum(seconds for stage, seconds in way["stages_s"].items() if stage != "inference")
        # Medians of one, rounded.
        assert way["without_inference_s"] == pytest.approx(others, abs=1e-3)
    own, other = (account["ways"][way]["without_inference_s"] for way in WAYS)
    assert account["share_without_inference"] == pytest.approx(own / other, rel=0.01)
    assert account["ways"][PLAIN]["stages_s"]["keep"] == 0 < account["ways"][NODE]["stages_s"]["keep"]


def test_command_prints_a_line_for_each_stage(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, arguments)

    lines = [line.split("  ")[0] for line in result.stdout.splitlines()[:9]]
    stages = ["read", "headers", "prepare and interpret", "inference", "keep", "encode", "send"]
    assert lines == ["stage", *stages, "all but inference"]
    assert f"Nodules: node {len(BALLS)}, script {len(BALLS)}." in result.stdout


def test_command_refuses_a_pipeline_that_it_does_not_know(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, ["bench", "latency", "--pipeline", "spleen"])

    assert result.exit_code == 2
    assert "spleen is none of" in result.stderr


def test_missing_model_is_named(arguments: list[str], tmp_path: Path) -> None:
    path = tmp_path / "sightline.toml"
    (tmp_path / "empty").mkdir()
    path.write_text(f'[engine]\nrepository = "{tmp_path / "empty"}"\n')

    result = CliRunner().invoke(app, [*arguments[:-1], str(path)])

    assert result.exit_code != 0
    assert "no such model" in f"{result.exception} {result.stderr}"


def test_missing_peer_is_named(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "find_spec", lambda _: None)

    result = CliRunner().invoke(app, arguments)

    assert result.exit_code == 2
    assert "SimpleITK is not installed" in result.stderr
