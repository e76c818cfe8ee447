"""Kills at random moments: `python -m tests.faults` has the whole of it, for as many seeds as one likes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.plan import ARCHIVE, CHILD, MAIN, NODE, SENDER, make_plan
from tests.peers import REPOSITORY, need_program


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


def test_a_seed_always_gives_the_same_plan() -> None:
    assert make_plan(7) == make_plan(7)
    assert make_plan(7) != make_plan(8)


def test_two_hundred_seeds_hit_everything_in_every_way() -> None:
    plans = [make_plan(seed) for seed in range(1, 201)]
    blows = [blow for plan in plans for blow in plan.blows]

    assert {blow.target for blow in blows} == {NODE, MAIN, CHILD, SENDER, ARCHIVE}
    assert len(blows) > 800
    assert all(any(blow.target == NODE for blow in plan.blows) for plan in plans)
    assert 30 < sum(plan.full_for_s > 0 for plan in plans) < 70
    assert len({(blow.event, blow.step) for blow in blows}) == 15
