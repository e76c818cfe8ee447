"""The benchmark of slides: its figures come from real runs of the node and its peers, on the same tiles."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from typer.testing import CliRunner, Result

from node.bench import slide as bench
from node.bench.plain_slide import open_with_openslide, read_tile
from node.bench.slide import DICOM, FILE, OPENSLIDE, READY, WAYS, Amounts, Case, Memory, SlideBench
from node.bench.slide_inputs import draw_slide, find_level, find_series, stored_streams, write_dicom
from node.cli import app
from node.cli.bench.slide import _show as show
from node.read.slide import open_slide
from tests.models import IR_VERSION, OPSET, card, write_model

SIDE, TILE_PX, LENGTH = 1024, 128, 3
TEXT = f"""
name: "slide_tumor_tiles"
max_batch_size: 64
input {{ name: "image" data_type: TYPE_UINT8 dims: [ {TILE_PX}, {TILE_PX}, 3 ] }}
output {{ name: "embeddings" data_type: TYPE_FP32 dims: [ {LENGTH} ] }}
backend: "onnxruntime"
parameters {{ key: "version" value {{ string_value: "1.2.3" }} }}
"""


def mean_color() -> bytes:
    """An encoder whose embedding of a tile is its mean color."""
    nodes = [
        helper.make_node("Cast", ["image"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["numbers"], ["embeddings"], axes=[1, 2], keepdims=0),
    ]
    tile = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", TILE_PX, TILE_PX, 3])
    answer = helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["batch", LENGTH])
    model = helper.make_model(
        helper.make_graph(nodes, "mean", [tile], [answer]),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    """A node with an encoder of tiles that does next to nothing."""
    stated = {"name": "image", "shape": [TILE_PX, TILE_PX, 3], "micrometers_per_pixel": 1.0}
    weights = mean_color()
    document = card(bench.MODEL, {bench.MODEL: weights}, input=stated, classes=[])
    write_model(tmp_path / "models", TEXT.lstrip(), weights=weights, document=document)
    file = tmp_path / "sightline.toml"
    file.write_text(f'[engine]\nrepository = "{tmp_path / "models"}"\nthreads = 1\n')
    return file


def run(configuration: Path, *options: str) -> Result:
    return CliRunner().invoke(app, ["bench", "slide", "-c", str(configuration), "--rounds", "1", *options])


# --- figures


def test_ratios_are_of_the_same_round() -> None:
    case = Case(9, {READY: (100.0, 30.0, 50.0), OPENSLIDE: (50.0, 10.0, 50.0)})

    assert case.speed(READY) == 50
    assert case.ratios(READY, OPENSLIDE) == (1, 2, 3)


def test_speed_is_measured_on_the_middle_size_and_memory_on_all() -> None:
    amounts = Amounts((20_000, 5_000, 10_000), 3, 2)
    memory = {side: Memory(1, 50, peak, 0) for side, peak in zip(amounts.sides, (110, 100, 104), strict=True)}

    assert amounts.side == 10_000
    assert SlideBench(10_000, 3, 2, 2, {}, memory).memory_ratio == pytest.approx(1.1)


# --- what is measured


def test_all_ways_take_the_same_tiles(tmp_path: Path) -> None:
    folder = write_dicom(draw_slide(SIDE), tmp_path)
    corners = [(256, 512), (512, 256)]

    with open_slide(find_series(folder)) as slide, open_with_openslide(find_level(folder)) as peer:
        own = slide.regions(0, corners, 256, 256)
        others = [read_tile(peer, corner, 256) for corner in corners]
        streams = stored_streams(folder, corners)

    assert all(np.array_equal(one, other) for one, other in zip(own, others, strict=True))
    assert len(streams) == 2
    assert all(stream[:2] == b"\xff\xd8" for stream in streams)


def test_command_prints_one_json_object(configuration: Path) -> None:
    result = run(configuration, "--sizes", f"{SIDE}", "--threads", "1", "--json")

    assert result.exit_code == 0, result.output
    account = json.loads(result.stdout)
    assert (account["side"], account["threads"], account["rounds"]) == (SIDE, 1, 1)
    assert list(account["cases"]) == [DICOM, FILE]
    for case in account["cases"].values():
        assert case["tiles"] > 0
        assert list(case["tiles_per_s"]) == list(WAYS)
        assert min(case["tiles_per_s"].values()) > 0
        speeds = case["tiles_per_s"]
        _, ratio, _ = case["to_openslide"][READY]
        assert ratio == pytest.approx(speeds[READY] / speeds[OPENSLIDE], rel=0.01)
    (memory,) = account["memory"].values()
    assert memory["peak_mib"] == pytest.approx(memory["before_mib"] + memory["beyond_mib"], abs=0.2)
    assert 0 < memory["beyond_mib"] < 500
    assert memory["decoders_mib"] > 10
    assert result.stderr.splitlines()[-1].startswith("measured 5/5")


def test_people_are_shown_a_line_for_each_way(capsys: pytest.CaptureFixture[str]) -> None:
    case = Case(9, {way: (50.0, 100.0, 150.0) for way in WAYS} | {OPENSLIDE: (25.0, 40.0, 50.0)})
    memory = {SIDE: Memory(9, 100 << 20, 150 << 20, 40 << 20)}

    show(SlideBench(SIDE, 3, 2, 2, {DICOM: case, FILE: case}, memory), 0.5)

    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines.count(["node:", "read", "and", "prepare", "100", "2.50", "2.00–3.00", "1.00"]) == 2
    assert lines.count(["bare", "openslide", "loop", "40", "1.00", "1.00–1.00", "0.40"]) == 2
    assert [str(SIDE), "×", str(SIDE), "9", "100", "50", "150", "40"] in lines


@pytest.mark.parametrize("sizes", ["many", "1000", f"{SIDE},{SIDE}", ""])
def test_sizes_that_cannot_be_measured_are_wrong_use(sizes: str, configuration: Path) -> None:
    result = run(configuration, "--sizes", sizes)

    assert result.exit_code == 2
    assert "--sizes" in result.stderr


def test_an_encoder_that_is_not_there_is_named(configuration: Path, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "models" / bench.MODEL)

    result = run(configuration, "--sizes", f"{SIDE}")

    assert result.exit_code == 1
    assert f"{bench.MODEL}: " in result.output + str(result.exception)
