"""The scripts and texts that a person meets first."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import node
from tests.peers import REPOSITORY

SCRIPTS = ["deploy/demo.sh", "deploy/triton.sh", "tests/run.sh", ".ci/run"]


@pytest.mark.parametrize("script", [*SCRIPTS, "deploy/environment.sh"])
def test_script_is_valid_bash(script: str) -> None:
    checked = subprocess.run(["bash", "-n", REPOSITORY / script], capture_output=True, text=True, check=False)

    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.parametrize("script", SCRIPTS)
def test_script_stops_at_the_first_failure(script: str) -> None:
    text = (REPOSITORY / script).read_text()

    assert "set -euo pipefail" in text or "exec bash tests/run.sh" in text


def test_environment_of_another_checkout_is_not_cleared_through_a_link(tmp_path: Path) -> None:
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    theirs.mkdir()
    (theirs / "installed").touch()
    ours.symlink_to(theirs)
    make = f". deploy/environment.sh; make_environment {sys.executable} {ours} --clear --without-pip"

    subprocess.run(["bash", "-euc", make], cwd=REPOSITORY, check=True, timeout=60)

    assert (theirs / "installed").exists()
    assert not ours.is_symlink()
    assert (ours / "pyvenv.cfg").exists()


def test_ci_runs_the_tests_as_a_developer_does() -> None:
    assert "exec bash tests/run.sh" in (REPOSITORY / ".ci" / "run").read_text()


def test_readme_gives_both_commands_before_line_15() -> None:
    lines = [line.strip(" `$") for line in (REPOSITORY / "README.md").read_text().splitlines()[:14]]

    commands = [line.split("#")[0].strip() for line in lines if line.startswith("bash ")]

    assert commands == ["bash deploy/demo.sh", "bash tests/run.sh"]


def test_version_has_one_source() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())

    assert "version" in project["project"]["dynamic"]
    assert (REPOSITORY / project["tool"]["hatch"]["version"]["path"]).samefile(node.__file__)


def test_checks_are_those_of_the_house_style() -> None:
    text = (REPOSITORY / "tests" / "run.sh").read_text()

    checks = [line.removeprefix("check ") for line in text.splitlines() if line.startswith("check ")]

    names = ["ruff format --check", "ruff check", "mypy", "lint-imports", "pytest"]
    assert [check[: len(name)] for check, name in zip(checks, names, strict=True)] == names


def test_the_node_does_not_ask_for_pytorch() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]

    assert not [name for name in project["dependencies"] if name.startswith(("torch", "models"))]
