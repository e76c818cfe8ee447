"""Kills at random moments: `python -m tests.faults` has the whole of it, for as many seeds as one likes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults import __main__ as faults
from tests.faults.plan import ARCHIVE, CHILD, ENGINE, MAIN, MODEL, NODE, SENDER, make_plan
from tests.peers import REPOSITORY, need_program
from tests.peers.triton import need_triton


def run_faults(folder: Path, *options: str) -> dict[str, object]:
    for program, package in (("Orthanc", "orthanc"), ("storescu", "dcmtk")):
        need_program(program, package)
    report = folder / "report.json"
    command = [sys.executable, "-m", "tests.faults", "--folder", folder, "--report", report, *options]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return json.loads(report.read_text())


def test_a_node_that_is_killed_under_load_loses_nothing_and_repeats_nothing(tmp_path: Path) -> None:
    report = run_faults(tmp_path, "--studies", "6", "--first-seed", "4")

    assert report["blows"] >= 2


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_some_seeds_of_the_whole_suite(tmp_path: Path) -> None:
    assert run_faults(tmp_path, "--seeds", "10")["passed"] == 10


@pytest.mark.slow
@pytest.mark.triton
@pytest.mark.timeout(900)
def test_a_triton_server_that_is_killed_too_costs_no_study(tmp_path: Path) -> None:
    need_triton()

    report = run_faults(tmp_path, "--seeds", "5", "--engine", "triton")

    assert report["passed"] == 5
    assert report["counts"]["engine killed"] >= 5


def test_without_a_triton_server_it_says_what_sets_one_up_and_what_does_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(faults, "INSTALLED", tmp_path / "installed")
    monkeypatch.setattr(sys, "argv", ["faults", "--engine", "triton"])

    with pytest.raises(SystemExit):
        faults.main()

    said = capsys.readouterr().err
    assert "deploy/triton.sh --install" in said
    assert "--engine embedded" in said


@pytest.mark.parametrize("on_triton", [False, True])
def test_a_seed_always_gives_the_same_plan(on_triton: bool) -> None:
    assert make_plan(7, on_triton=on_triton) == make_plan(7, on_triton=on_triton)
    assert make_plan(7, on_triton=on_triton) != make_plan(8, on_triton=on_triton)


def test_two_hundred_seeds_hit_everything_in_every_way() -> None:
    plans = [make_plan(seed) for seed in range(1, 201)]
    blows = [blow for plan in plans for blow in plan.blows]

    assert {blow.target for blow in blows} == {NODE, MAIN, CHILD, SENDER, ARCHIVE}
    assert len(blows) > 800
    assert all(any(blow.target == NODE for blow in plan.blows) for plan in plans)
    assert 30 < sum(plan.full_for_s > 0 for plan in plans) < 70
    assert len({(blow.event, blow.step) for blow in blows}) == 15


def test_on_triton_every_seed_hits_the_engine_and_some_a_process_of_it() -> None:
    plans = [make_plan(seed, on_triton=True) for seed in range(1, 201)]
    blows = [blow for plan in plans for blow in plan.blows]

    assert {blow.target for blow in blows} == {NODE, MAIN, CHILD, SENDER, ARCHIVE, ENGINE, MODEL}
    assert all({NODE, ENGINE} <= {blow.target for blow in plan.blows} for plan in plans)
    assert sum(blow.target == MODEL for blow in blows) > 30
