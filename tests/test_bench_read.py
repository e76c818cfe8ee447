"""The benchmark of reading: its figures come from real runs of every way, on the same files."""

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from node.bench import reading
from node.bench.reading import (
    NODE,
    PYDICOM,
    SIMPLEITK,
    WAYS,
    Figures,
    Reading,
    ReadingBench,
    require_same_voxels,
)
from node.cli import app
from node.errors import ConformanceError

READING = Reading(1.0, 0.5, 300, 200, "aa")
SMALL = ["--planes", "4", "--size", "32", "--rounds", "1"]


def test_the_figures_are_medians_and_their_ratios() -> None:
    slow, slower = replace(READING, seconds=3.0, extra_memory_bytes=800), replace(READING, seconds=9.0)
    figures = {NODE: Figures((READING,)), SIMPLEITK: Figures((slow, slower, READING))}

    bench = ReadingBench(4, 32, 3, figures)

    assert bench.ratio(SIMPLEITK) == 3
    assert figures[SIMPLEITK].extra_memory_bytes == 300
    assert figures[NODE].memory_to_volume == 1.5


def test_readings_of_other_voxels_are_refused() -> None:
    other = replace(READING, voxels_sha256="bb")

    with pytest.raises(ConformanceError, match="the voxels are not those of the other ways"):
        require_same_voxels({NODE: [READING], PYDICOM: [other]})


def test_missing_peer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "find_spec", lambda _: None)

    result = CliRunner().invoke(app, ["bench", "read", *SMALL])

    assert result.exit_code == 2
    assert "SimpleITK is not installed" in result.stderr


def test_command_prints_one_json_object() -> None:
    pytest.importorskip("SimpleITK", reason="needs SimpleITK (extra: train)")

    result = CliRunner().invoke(app, ["bench", "read", *SMALL, "--json"])

    assert result.exit_code == 0
    account = json.loads(result.stdout)
    assert result.stderr.splitlines() == ["read 1/1 4 slices by each way"]
    assert (account["planes"], account["size"], account["rounds"]) == (4, 32, 1)
    assert list(account["ways"]) == list(WAYS)
    assert all(one["seconds"] > 0 and one["extra_memory_mib"] >= 0 for one in account["ways"].values())
    seconds = {way: figures["seconds"] for way, figures in account["ways"].items()}
    # The figures are rounded to a tenth of a millisecond.
    expected = pytest.approx(seconds[SIMPLEITK] / seconds[NODE], rel=0.1)
    assert account["time_ratios"][SIMPLEITK] == expected


def test_command_prints_a_line_for_each_way() -> None:
    pytest.importorskip("SimpleITK", reason="needs SimpleITK (extra: train)")

    result = CliRunner().invoke(app, ["bench", "read", *SMALL])

    lines = [line.split("  ")[0] for line in result.stdout.splitlines()[:4]]
    assert lines == ["way", "node", "SimpleITK ImageSeriesReader", "pydicom and numpy"]
    assert "32 × 32 × 4, uncompressed" in result.stdout
