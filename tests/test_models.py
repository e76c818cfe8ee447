"""Training, measuring and exporting: a few real steps, and the shipped model."""

import csv
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format
from PIL import Image
from tritonclient.grpc import model_config_pb2

from models import card, data, evaluate
from node.imaging.intensity import prepare_radiograph
from node.samples.thorax import thorax_radiograph

REPOSITORY = Path(__file__).parent.parent / "triton_repo"
KERMANY = Path(__file__).parent.parent.parent / "shared" / "data" / "cxr"


# --- data folders ----------------------------------------------------------------------------------------


def make_folder(root: Path, patients: int = 30, size: int = 64) -> Path:
    """Write radiographs of made-up patients, laid out like the real data folder."""
    (root / "kermany").mkdir(parents=True)
    random = np.random.default_rng(0)
    kinds = [("normal", "normal"), ("pneumonia", "bacteria"), ("pneumonia", "virus")]
    with (root / "labels.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["file", "dataset", "label", "label_detail", "group", "split"])
        for index in range(patients):
            pixels = random.integers(0, 120, (size, size)) + 40 * (index % 3)
            Image.fromarray(pixels.astype(np.uint8)).convert("RGB").save(root / "kermany" / f"{index}.png")
            split = "val" if index % 5 == 4 else "train"
            table.writerow([f"kermany/{index}.png", "kermany", *kinds[index % 3], f"person{index}", split])
    return root


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return make_folder(tmp_path / "cxr")


def test_a_split_is_read_with_its_truth(folder: Path) -> None:
    radiographs = data.load_radiographs(folder, split="val", size=32)

    assert radiographs.pixels.shape == (6, 32, 32)
    assert radiographs.labels.tolist()[:3] == [[1, 1, 0], [0, 0, 0], [1, 0, 1]]
    again = data.load_radiographs(folder, split="val", size=32)
    np.testing.assert_array_equal(again.pixels, radiographs.pixels)


def test_no_patient_is_in_both_parts_of_a_hold_out(folder: Path) -> None:
    radiographs = data.load_radiographs(folder, split="train", size=32)

    kept, held_out = data.hold_out(radiographs, 0.25, seed=1)

    assert len(kept) + len(held_out) == len(radiographs)
    assert len(held_out) == 6
    assert not set(kept.groups) & set(held_out.groups)


def test_synthetic_consolidations_are_pneumonias_of_unknown_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    made = data.synthetic_radiographs(4, size=32, first_seed=50)

    assert made.labels[0].tolist() == [0, 0, 0]
    assert made.labels[1, 0] == 1
    assert np.isnan(made.labels[1, 1:]).all()
    assert made.groups[0] == made.groups[1]


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (None, ["--data", "elsewhere"], "no such folder"),
        (None, ["--data", "cxr", "--split", "test"], "no split 'test'"),
        (None, ["--data", "cxr", "--dataset", "nih"], "no rows of dataset 'nih'"),
        (lambda root: (root / "labels.csv").unlink(), ["--data", "cxr"], "no labels.csv"),
        (
            lambda root: (root / "labels.csv").write_text("file,label\n"),
            ["--data", "cxr"],
            "lacks the columns dataset",
        ),
        (
            lambda root: (root / "kermany" / "4.png").unlink(),
            ["--data", "cxr"],
            "missing, first kermany/4.png",
        ),
    ],
)
def test_evaluate_says_what_is_wrong_with_a_folder(change, arguments, message, folder, capsys) -> None:
    if change:
        change(folder)

    status = evaluate.main(["chest_xray", "--repository", str(REPOSITORY), *arguments])

    assert status == 2
    assert message in capsys.readouterr().err


def test_evaluate_needs_an_exported_model(folder: Path, capsys) -> None:
    assert evaluate.main(["chest_xray", "--data", str(folder), "--repository", "nowhere"]) == 1
    assert "card.json" in capsys.readouterr().err


def test_evaluate_prints_one_json_object(folder: Path, capsys) -> None:
    status = evaluate.main(
        ["chest_xray", "--data", str(folder), "--json", "--repeats", "20", "--repository", str(REPOSITORY)]
    )

    result = json.loads(capsys.readouterr().out)
    assert status == 0
    assert result["images"] == result["patients"] == 6
    assert [entry["name"] for entry in result["classes"]] == list(data.CLASSES)
    for entry in result["classes"]:
        assert entry["positives"] + entry["negatives"] == 6
        for figure in ("auc", "sensitivity", "specificity", "calibration_error", "brier_score"):
            assert len(entry[figure]) == 3
    assert result["bacterial_vs_viral"]["bacterial"] == 2


# --- network, loss, augmentation -------------------------------------------------------------------------


def test_the_logit_is_the_attention_weighted_mean_of_the_evidence() -> None:
    torch = pytest.importorskip("torch")
    from models.radiograph import AttentionMapHead

    head = AttentionMapHead(8, 3, dropout=0.5).eval()
    features = torch.rand(2, 8, 5, 4)
    logits, activation = head(features)

    # Attention starts even, so the first logit is plain average pooling and the map plain evidence.
    torch.testing.assert_close(logits, head.evidence(features).mean(dim=(2, 3)))
    torch.testing.assert_close(activation, torch.sigmoid(head.evidence(features)))


def test_the_network_gives_logits_and_a_map_in_0_to_1() -> None:
    torch = pytest.importorskip("torch")
    from models.radiograph import RadiographNetwork

    with torch.no_grad():
        logits, activation = RadiographNetwork(3).eval()(torch.rand(2, 1, 96, 96))

    assert logits.shape == (2, 3)
    assert activation.shape == (2, 3, 3, 3)
    assert 0 <= activation.min() <= activation.max() <= 1


def test_an_unknown_label_weighs_nothing() -> None:
    torch = pytest.importorskip("torch")
    from models.losses import masked_binary_cross_entropy

    logits = torch.tensor([[0.3, -1.0, 2.0], [0.0, 5.0, -5.0]], requires_grad=True)
    labels = torch.tensor([[1.0, float("nan"), 0.0], [0.0, float("nan"), float("nan")]])
    loss = masked_binary_cross_entropy(logits, labels)
    loss.backward()

    known = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.tensor([0.3, 2.0, 0.0]), torch.tensor([1.0, 0.0, 0.0])
    )
    torch.testing.assert_close(loss, known)
    assert (logits.grad[torch.isnan(labels)] == 0).all()


def test_a_batch_without_labels_costs_nothing() -> None:
    torch = pytest.importorskip("torch")
    from models.losses import masked_binary_cross_entropy

    assert masked_binary_cross_entropy(torch.zeros(2, 3), torch.full((2, 3), float("nan"))) == 0


def test_augmentation_keeps_range_and_follows_its_seed() -> None:
    torch = pytest.importorskip("torch")
    from models.augmentation import augment, nudge

    images = torch.rand(8, 1, 74, 74)
    first, again, other = (augment(images, 64, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))

    assert first.shape == (8, 1, 64, 64)
    assert 0 <= first.min() <= first.max() <= 1
    torch.testing.assert_close(first, again)
    assert not torch.equal(first, other)
    nudged = nudge(images, torch.Generator().manual_seed(1))
    assert nudged.shape == images.shape
    assert 0 <= nudged.min() <= nudged.max() <= 1


# --- the graphs ------------------------------------------------------------------------------------------


def test_combine_graph_by_hand() -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnx")
    from models.graphs import CombineGraph, binary_entropy

    logits, maps = torch.tensor([[[2.0], [-1.0]]]), torch.full((1, 1, 2, 2), 0.25)
    answers = CombineGraph([0.5])(logits, maps)
    probability, spread, interval, entropy, mutual_information, activation = answers

    each = 1 / (1 + np.exp([-2.0, 1.0]))
    center = np.log(each.mean() / (1 - each.mean()))
    half = 1.959964 * np.sqrt(4.5 + 0.25)
    assert probability.item() == pytest.approx(each.mean())
    assert spread.item() == pytest.approx(each.std())
    np.testing.assert_allclose(
        interval[0, 0], 1 / (1 + np.exp([-(center - half), -(center + half)])), rtol=1e-5
    )
    assert entropy.item() == pytest.approx(
        -(each.mean() * np.log2(each.mean()) + (1 - each.mean()) * np.log2(1 - each.mean()))
    )
    expected = entropy.item() - binary_entropy(torch.tensor(each)).mean().item()
    assert mutual_information.item() == pytest.approx(expected)
    assert (activation == 0.25).all()


def test_combine_graph_stays_in_bounds_where_a_network_is_certain() -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnx")
    from models.graphs import CombineGraph

    logits = torch.tensor([[[90.0, -90.0, 0.0], [90.0, -90.0, 0.0]]])
    outputs = CombineGraph([0.0, 0.0, 0.0])(logits, torch.zeros(1, 3, 2, 2))

    probability, _, interval, entropy, mutual_information, _ = outputs
    assert all(torch.isfinite(output).all() for output in outputs)
    assert (interval[..., 0] <= probability).all()
    assert (probability <= interval[..., 1]).all()
    assert 0 <= interval.min() <= interval.max() <= 1
    assert entropy[0, 2] == 1
    assert (mutual_information >= 0).all()


@pytest.mark.timeout(300)
def test_a_few_steps_train_export_and_evaluate(folder: Path, capsys) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("onnx")
    pytest.importorskip("scipy")
    from models import export, train

    small = ["--epochs", "1", "--size", "64", "--batch", "4", "--limit", "8", "--synthetic", "4"]
    for trunk in ("densenet121", "resnet18"):
        options = [*small, "--held-out", "0.5", "--trunk", trunk, "--out", f"runs/{trunk}"]
        assert train.main(["chest_xray", "--data", str(folder), *options]) == 0
    checkpoints = ["runs/densenet121/last.pt", "runs/resnet18/last.pt"]
    arguments = ["chest_xray", "--checkpoint", *checkpoints, "--data", str(folder)]
    assert export.main([*arguments, "--version", "0.0.1"]) == 0
    assert evaluate.main(["chest_xray", "--data", str(folder), "--repeats", "10", "--write-card"]) == 0

    described = card.read_card(Path("triton_repo/chest_xray"))
    assert described["version"] == "0.0.1"
    assert described["input"]["shape"] == [1, 64, 64]
    assert described["parity"]["largest_difference"] <= described["parity"]["tolerance"]
    assert described["metrics"][0]["images"] == 6
    assert described["training"]["members"]["chest_xray_resnet18_b"]["stages"][0]["epochs"] == 1
    assert "Bacterial pneumonia" in capsys.readouterr().out


# --- the shipped model -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped():
    from models.serving import EnsembleGraphs

    size = card.read_card(REPOSITORY / "chest_xray")["input"]["size"]
    graphs = EnsembleGraphs(REPOSITORY, "chest_xray")
    return lambda pictures: graphs.infer([prepare_radiograph(pixels, size) for pixels in pictures])


def test_the_shipped_weights_are_those_of_the_card() -> None:
    for entry in card.read_card(REPOSITORY / "chest_xray")["weights"]:
        content = (REPOSITORY / entry["file"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == entry["sha256"], entry["file"]


def test_every_model_of_the_repository_has_a_readable_configuration() -> None:
    folders = [path for path in REPOSITORY.iterdir() if path.is_dir()]
    for folder in folders:
        config = text_format.Parse((folder / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
        assert config.name == folder.name
        assert config.max_batch_size > 1
        assert (folder / "card.json").is_file()
        assert (folder / "1").is_dir()
    assert {"chest_xray", "chest_xray_combine", "chest_xray_densenet121_a"} <= {path.name for path in folders}


def test_the_card_states_what_was_measured() -> None:
    described = card.read_card(REPOSITORY / "chest_xray")
    measured = next(entry for entry in described["metrics"] if entry["data"] == "kermany val")

    assert measured["command"].startswith("python -m models.evaluate chest_xray")
    assert measured["classes"][0]["auc"][0] >= 0.99
    assert "not for clinical use" in described["notice"].lower()
    assert [entry["code"][:2] for entry in described["classes"]] == [
        ["233604007", "SCT"],
        ["53084003", "SCT"],
        ["75570004", "SCT"],
    ]


@pytest.mark.xfail(strict=True, reason="measured 0.795; the network has to be trained further")
def test_bacterial_is_told_from_viral_pneumonia_as_well_as_wanted() -> None:
    described = card.read_card(REPOSITORY / "chest_xray")
    measured = next(entry for entry in described["metrics"] if entry["data"] == "kermany val")

    assert measured["bacterial_vs_viral"]["auc"][0] >= 0.80


def test_the_shipped_model_tells_synthetic_consolidation_from_normal(shipped) -> None:
    threshold = card.read_card(REPOSITORY / "chest_xray")["classes"][0]["threshold"]
    bodies = range(1, 11)

    normal = shipped([thorax_radiograph(seed, finding=None, size=320).pixels for seed in bodies])
    ill = shipped([thorax_radiograph(seed, finding="consolidation", size=320).pixels for seed in bodies])

    # Some synthetic consolidations are faint on purpose; normal bodies are all plain.
    assert (normal["probability"][:, 0] < threshold).all()
    assert (ill["probability"][:, 0] >= threshold).mean() >= 0.8


def test_the_shipped_outputs_keep_their_promises(shipped) -> None:
    pictures = [thorax_radiograph(seed, finding="consolidation", size=320).pixels for seed in (1, 2, 3)]

    outputs = shipped(pictures)

    probability, interval = outputs["probability"], outputs["interval"]
    assert probability.dtype == np.float32
    assert (interval[..., 0] <= probability).all()
    assert (probability <= interval[..., 1]).all()
    for name in ("probability", "interval", "entropy", "mutual_information", "activation_map"):
        assert outputs[name].min() >= 0, name
        assert outputs[name].max() <= 1, name
    assert (outputs["spread"] <= 0.5).all()
    assert (outputs["mutual_information"] <= outputs["entropy"] + 1e-6).all()


def test_a_mirrored_radiograph_gets_the_same_score_and_a_mirrored_map(shipped) -> None:
    picture = thorax_radiograph(4, finding="consolidation", size=320).pixels

    plain, mirrored = shipped([picture]), shipped([picture[:, ::-1]])

    # Resizing is symmetric but for rounding.
    np.testing.assert_allclose(mirrored["probability"], plain["probability"], atol=2e-3)
    np.testing.assert_allclose(mirrored["activation_map"][..., ::-1], plain["activation_map"], atol=2e-2)


@pytest.mark.slow
@pytest.mark.skipif(not KERMANY.is_dir(), reason="needs ../shared/data/cxr")
def test_the_figures_of_the_card_are_measured_again(capsys) -> None:
    assert evaluate.main(["chest_xray", "--data", str(KERMANY), "--json", "--repeats", "50"]) == 0

    result = json.loads(capsys.readouterr().out)
    assert result["classes"][0]["auc"][0] >= 0.99
    stated = next(
        one for one in card.read_card(REPOSITORY / "chest_xray")["metrics"] if one["data"] == "kermany val"
    )
    assert result["bacterial_vs_viral"]["auc"][0] == pytest.approx(
        stated["bacterial_vs_viral"]["auc"][0], abs=0.002
    )  # other machines round float32 differently
