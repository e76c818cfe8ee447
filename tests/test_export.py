"""Networks become a model repository: the whole way in a few steps, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("scipy")

import torch

from models import card, data, ensemble_export, evaluate, export, tasks, train
from models.ensemble_export import Member
from models.observation import choose_pictures
from models.radiograph import RadiographNetwork
from node.engines.onnx import OnnxEngine
from node.engines.repository import ModelRepository
from tests.ensembles import write_ensemble
from tests.folders import make_folder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return make_folder(tmp_path / "cxr")


def write_checkpoint(path: Path, *, trunk: str = "densenet121", size: int = 64) -> Path:
    """Write an untrained network as a training would."""
    settings = {"data": "cxr", "out": str(path.parent), "trunk": trunk, "size": size, "synthetic": 0}
    weights = RadiographNetwork(len(data.CLASSES), trunk=trunk).state_dict()
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"weights": weights, "stages": [settings], "figures": {"epoch": 1}}, path)
    return path


@pytest.mark.timeout(300)
def test_a_few_steps_train_export_and_evaluate(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--epochs", "1", "--size", "64", "--batch", "4", "--limit", "8", "--synthetic", "4"]
    few += ["--held-out", "0.5", "--foreign", "0.5"]
    for trunk in ("densenet121", "resnet50"):
        options = ["chest_xray", "--data", str(folder), *few, "--trunk", trunk, "--out", f"runs/{trunk}"]
        assert train.main(options) == 0
    checkpoints = ["runs/densenet121/last.pt", "runs/resnet50/last.pt"]
    options = ["chest_xray", "--checkpoint", *checkpoints, "--data", str(folder), "--version", "0.0.1"]
    assert export.main(options) == 0
    assert evaluate.main(["chest_xray", "--data", str(folder), "--repeats", "10", "--write-card"]) == 0

    described = card.read_card(Path("triton_repo/chest_xray"))
    assert described["version"] == "0.0.1"
    assert described["input"]["shape"] == [1, 64, 64]
    assert "members=2" in described["parameters"]
    tolerance = described["parity"]["tolerance"]
    assert all(value <= tolerance[name] for name, value in described["parity"]["largest_difference"].items())
    assert set(described["conformal"]["quantile"]) == set(data.CLASSES)
    assert described["out_of_distribution"]["synthetic_images"] == 4
    assert described["metrics"][0]["images"] == 6
    members = described["training"]["members"]
    assert members["chest_xray_resnet50_a"]["stages"][0]["epochs"] == 1
    assert "Bacterial pneumonia" in capsys.readouterr().out
    # The node's own engine checks the card against the graphs and their digests, and asks them once.
    OnnxEngine(ModelRepository(Path("triton_repo")), threads=1).check("chest_xray")


def test_letters_count_the_members_of_each_trunk() -> None:
    trained = [Member(torch.nn.Identity(), trunk, []) for trunk in ("resnet50", "densenet121", "resnet50")]

    named = ensemble_export.name_members("chest_xray", trained)

    assert [name.removeprefix("chest_xray_") for name in named] == [
        "resnet50_a",
        "densenet121_a",
        "resnet50_b",
    ]
    assert list(named.values()) == trained


def test_members_of_different_sizes_make_no_ensemble(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints = [str(write_checkpoint(tmp_path / str(size) / "last.pt", size=size)) for size in (64, 96)]

    status = export.main(["chest_xray", "--checkpoint", *checkpoints, "--data", str(folder)])

    assert status == 1
    assert "[64, 96] pixels" in capsys.readouterr().err
    assert not Path("triton_repo").exists()


def test_weights_of_another_network_are_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_checkpoint(tmp_path / "last.pt")
    stored = torch.load(path, weights_only=True)
    stored["weights"].pop("head.foreign.weight")
    torch.save(stored, path)

    assert export.main(["chest_xray", "--checkpoint", str(path), "--data", str(folder)]) == 2
    assert "no checkpoint of a densenet121" in capsys.readouterr().err


def test_a_graph_that_says_something_else_than_its_network_is_found(tmp_path: Path) -> None:
    ensemble = write_ensemble(tmp_path)
    images = np.random.default_rng(3).random((3, 64, 64), dtype=np.float32)

    ensemble.members["chest_xray_resnet50_a"].temperature.mul_(1.5)
    differences = ensemble_export.measure_parity(ensemble, images, tmp_path)

    assert differences["probability"] > tasks.PARITY_TOLERANCE["probability"]


def test_members_of_an_earlier_ensemble_are_removed(tmp_path: Path) -> None:
    write_ensemble(tmp_path)
    for name, part_of in (("chest_xray_densenet121_z", "chest_xray"), ("chest_xray_lesions", "another")):
        card.write_card(tmp_path / name, {"name": name, "part_of": part_of})

    written = {"chest_xray", "chest_xray_combine", "chest_xray_densenet121_a"}
    ensemble_export.remove_others(tmp_path, "chest_xray", written)

    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == [
        "chest_xray",
        "chest_xray_combine",
        "chest_xray_densenet121_a",
        "chest_xray_lesions",
    ]


def test_calibration_looks_at_no_image_that_was_trained_on(folder: Path) -> None:
    settings = train.Settings(data=str(folder), out="", size=32, held_out=0.25)
    kept, held_out = train.held_out_of(settings, 32)

    pictures = choose_pictures(kept, held_out, synthetic=2)

    examples, unseen = ({image.tobytes() for image in pixels} for pixels in pictures.asked)
    assert len(examples) == len(kept) + 2
    assert len(unseen) == len(held_out) + 2
    assert not examples & unseen


def test_the_card_is_plain_json_with_every_number_finite(tmp_path: Path) -> None:
    write_ensemble(tmp_path)

    def refuse(constant: str) -> float:
        raise AssertionError(constant)

    text = (tmp_path / "chest_xray" / "card.json").read_text()
    assert json.loads(text, parse_constant=refuse)["abstention"].startswith("A score decides only if")
