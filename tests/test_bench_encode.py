"""The benchmark of the encoders: its figures come from real runs of both ways, on the same values."""

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from node.bench.encode import (
    CASES,
    NODE,
    PLAIN,
    WAYS,
    Case,
    Encoding,
    EncodingBench,
    Figures,
    bench_encoding,
    require_same_pixels,
)
from node.cli import app
from node.errors import ConformanceError

ENCODING = Encoding(1.0, 0.5, 1.25, 100, 1000, "aa")


def test_the_figures_are_medians_and_their_ratios() -> None:
    case = Case("binary", 1)
    slow, slower = replace(ENCODING, build_s=3.0, extra_memory_bytes=300), replace(ENCODING, build_s=9.0)
    figures = {case: {NODE: Figures((ENCODING,)), PLAIN: Figures((slow, slower, ENCODING))}}

    bench = EncodingBench(4, 32, 3, figures)

    assert bench.figures[case][PLAIN].total_s == 3.5
    assert bench.ratio(case) == pytest.approx(3.5 / 1.5)
    assert bench.memory_ratio(case) == 1


def test_encodings_of_other_pixels_are_refused() -> None:
    other = replace(ENCODING, pixels_sha256="bb")

    with pytest.raises(ConformanceError, match="binary_1: the pixels are not those of the plain call"):
        require_same_pixels(Case("binary", 1), {NODE: [ENCODING], PLAIN: [other]})


def test_an_encoding_that_fails_is_reported(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConformanceError, match=r"nonsense_1: .*ended with status 1"):
        bench_encoding(4, 32, 1, cases=[Case("nonsense", 1)], on_case=lambda _: None)

    assert "NONSENSE" in capfd.readouterr().err


def test_command_prints_one_json_object() -> None:
    options = ["--planes", "4", "--size", "32", "--rounds", "1", "--case", "labelmap_5", "--json"]

    result = CliRunner().invoke(app, ["bench", "encode", *options])

    assert result.exit_code == 0
    account = json.loads(result.stdout)
    assert result.stderr.splitlines() == ["encoded 1/1 labelmap_5"]
    assert (account["planes"], account["size"], account["rounds"]) == (4, 32, 1)
    (case,) = account["cases"].values()
    names = ("build_s", "save_s", "total_s", "cpu_s", "extra_memory_mib", "file_mb")
    assert {way: tuple(figures) for way, figures in case["ways"].items()} == dict.fromkeys(WAYS, names)
    # Three of the four slices are marked, a byte a pixel.
    assert all(3 * 32 * 32 < 1e6 * one["file_mb"] < 1e5 for one in case["ways"].values())
    assert all(0 < one["build_s"] < one["total_s"] for one in case["ways"].values())
    totals = {way: figures["total_s"] for way, figures in case["ways"].items()}
    # The figures are rounded to a tenth of a millisecond.
    assert case["time_ratio"] == pytest.approx(totals[PLAIN] / totals[NODE], rel=0.02)


def test_command_prints_a_line_for_each_way_and_what_was_measured() -> None:
    options = ["--planes", "4", "--size", "32", "--rounds", "1", "--case", "parametric_map"]

    result = CliRunner().invoke(app, ["bench", "encode", *options])

    lines = result.stdout.splitlines()
    assert [line.split("  ")[0] for line in lines[:3]] == ["object", "parametric map", "parametric map"]
    assert "32 × 32 × 4, headers and values in memory: medians of 1" in result.stdout


def test_command_refuses_what_it_does_not_encode() -> None:
    result = CliRunner().invoke(app, ["bench", "encode", "--case", "surface"])

    assert result.exit_code == 2
    assert "surface" in result.stderr


def test_every_form_is_measured_with_one_and_with_five_segments() -> None:
    assert [case.name for case in CASES] == [
        *("binary_1", "binary_5", "fractional_1", "fractional_5", "labelmap_1", "labelmap_5"),
        "parametric_map",
    ]
