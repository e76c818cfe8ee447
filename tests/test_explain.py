"""Explanations: maps and changes worked out by hand on tiny networks, and the command on real ones."""

import csv
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")
pytest.importorskip("torchvision")
pytest.importorskip("matplotlib")
pytest.importorskip("onnx")
pytest.importorskip("scipy")

import torch
from torch import nn

from models import data, explain, prototypes
from models.counterfactual import Dual, Search, find_counterfactual, penalty, smooth
from models.radiograph import Answer, AttentionMapHead, RadiographNetwork
from models.train import Settings

# --- Grad-CAM --------------------------------------------------------------------------------------------


class TwoMaps(nn.Module):
    """Of each 2 × 2 block, one map takes the upper left pixel and the other the lower right one."""

    def __init__(self, evidence: list[list[float]]) -> None:
        super().__init__()
        self.trunk = nn.Conv2d(1, 2, kernel_size=2, stride=2, bias=False)
        self.head = AttentionMapHead(2, len(evidence), dropout=0.5)
        picks = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]], [[[0.0, 0.0], [0.0, 1.0]]]])
        self.trunk.weight = nn.Parameter(picks)
        self.head.evidence.weight = nn.Parameter(torch.tensor(evidence)[:, :, None, None])
        self.eval()

    def forward(self, image: torch.Tensor) -> Answer:
        return self.head(torch.relu(self.trunk(image)))


# Its two maps are [[1, 0], [0, .5]] and [[0, 1], [.5, .5]].
BLOCKS = torch.tensor([[[[1.0, 0, 0, 0], [0, 0, 0, 1.0], [0, 0, 0.5, 0], [0, 0.5, 0, 0.5]]]])


def corners(heat: torch.Tensor) -> list[float]:
    return heat[[0, 0, -1, -1], [0, -1, 0, -1]].tolist()


def test_grad_cam_is_the_hand_worked_sum_of_maps_and_differs_by_class() -> None:
    network = TwoMaps([[1.0, -0.5], [0.0, 2.0]])

    first, second = (explain.grad_cam(network, BLOCKS, index)[0] for index in (0, 1))

    # Map 1 less half of map 2 is [[1, -.5], [-.25, .25]]; negatives are 0. Twice map 2 is relative to 2.
    assert first.shape == (4, 4)
    assert corners(first) == pytest.approx([1.0, 0.0, 0.0, 0.25])
    assert corners(second) == pytest.approx([0.0, 1.0, 0.5, 0.5])
    # Between the places linearly: 3/4 · 3/4 of the one, 1/4 · 1/4 of the one opposite.
    assert first[1, 1].item() == pytest.approx(0.5625 + 0.0625 * 0.25)


def test_grad_cam_of_a_class_that_nothing_speaks_for_is_zero() -> None:
    assert (explain.grad_cam(TwoMaps([[-1.0, -2.0]]), BLOCKS, 0) == 0).all()


def test_grad_cam_of_a_trained_kind_of_network_lies_in_0_to_1_and_differs_by_class() -> None:
    torch.manual_seed(3)
    network = RadiographNetwork(2).eval().requires_grad_(False)
    # Each class rests on other channels, and nothing speaks against either.
    network.head.evidence.weight[:] = torch.rand(2, 1024, 1, 1)
    network.head.evidence.weight[0, 512:] = network.head.evidence.weight[1, :512] = 0.0
    images = torch.rand(2, 1, 64, 64)

    maps = [explain.grad_cam(network, images, index) for index in (0, 1)]

    assert maps[0].shape == (2, 64, 64)
    assert all(0 <= one.min() <= one.max() <= 1 for one in maps)
    assert all((one.amax(dim=(1, 2)) > 0.9).all() for one in maps)
    assert (maps[0] - maps[1]).abs().max() > 0.03


# --- counterfactuals -------------------------------------------------------------------------------------


class Weighted(nn.Module):
    """One class, its logit a weighted sum of the pixels."""

    def __init__(self, weights: list[list[float]], bias: float) -> None:
        super().__init__()
        self.weights, self.bias = torch.tensor(weights), bias

    def forward(self, image: torch.Tensor) -> Answer:
        logits = (image[:, 0] * self.weights).sum(dim=(1, 2))[:, None] + self.bias
        return Answer(logits, *[logits] * 4)


class Curved(nn.Module):
    """One class, from two layers of random weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.layers = nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.Tanh(), nn.Conv2d(8, 8, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8 * 64, 1)
        )

    def forward(self, image: torch.Tensor) -> Answer:
        logits = 5.0 * self.layers(image)
        return Answer(logits, *[logits] * 4)


STEEP = [[4.0, 1.0], [1.0, 1.0]]
SPARSE = Search(sparsity=0.3, smoothness=0.0, steps=100, patience=100)


def test_the_smallest_change_is_to_the_one_pixel_that_counts_most() -> None:
    image = torch.full((1, 1, 2, 2), 0.5)

    # The logit is 1: a quarter less of the pixel of weight 4 takes it to 0.
    found = find_counterfactual(Weighted(STEEP, bias=-2.5), image, 0, search=SPARSE)

    assert found.is_flipped
    # A bisection of 8 steps, of a change that is one step of at most 0.02 too large.
    np.testing.assert_allclose(found.change, [[-0.25, 0.0], [0.0, 0.0]], atol=2e-3)
    np.testing.assert_allclose(found.image, 0.5 + found.change)
    assert found.probability_before == pytest.approx(1 / (1 + np.exp(-1.0)))
    assert found.probability_after < 0.5
    assert found.probability_after == pytest.approx(0.5, abs=2e-3)
    assert found.size == pytest.approx(0.25, abs=2e-3)


def test_a_negative_answer_is_flipped_upwards_at_the_threshold_given() -> None:
    found = find_counterfactual(
        Weighted(STEEP, bias=-4.5), torch.full((1, 1, 2, 2), 0.5), 0, threshold=0.2, search=SPARSE
    )

    # From a logit of -1 to that of 0.2, which is -1.386: it is above already, and flips downwards.
    assert found.probability_before > 0.2 > found.probability_after
    np.testing.assert_allclose(found.change, [[-0.386 / 4, 0.0], [0.0, 0.0]], atol=2e-3)
    upwards = find_counterfactual(Weighted(STEEP, bias=-4.5), torch.full((1, 1, 2, 2), 0.5), 0, search=SPARSE)
    assert upwards.probability_after >= 0.5
    np.testing.assert_allclose(upwards.change, [[0.25, 0.0], [0.0, 0.0]], atol=2e-3)


def test_the_image_stays_in_0_to_1_and_other_pixels_pay_the_rest() -> None:
    image = torch.tensor([[[[0.1, 0.5], [0.5, 0.5]]]])
    weak = Search(sparsity=0.1, smoothness=0.0, steps=200, patience=200)

    # The logit is 1: the steep pixel can give 0.4 of it, and the other three 0.2 each.
    found = find_counterfactual(Weighted(STEEP, bias=-0.9), image, 0, search=weak)

    assert found.is_flipped
    np.testing.assert_allclose(found.change, [[-0.1, -0.2], [-0.2, -0.2]], atol=4e-3)
    assert found.image.min() >= 0


def test_no_flip_within_the_steps_is_said_plainly() -> None:
    image = torch.full((1, 1, 2, 2), 0.5)
    dear = Search(sparsity=2.0, smoothness=0.0, steps=10, patience=10)

    found = find_counterfactual(Weighted(STEEP, bias=-2.5), image, 0, search=dear)

    assert not found.is_flipped
    assert (found.change == 0).all()
    assert found.steps == 10
    assert found.probability_after == found.probability_before
    assert "NOT flipped: after 10 steps" in found.describe()


def test_a_penalty_under_which_nothing_flips_is_halved() -> None:
    image = torch.full((1, 1, 2, 2), 0.5)
    patient = Search(sparsity=2.0, smoothness=0.0, steps=60, patience=5)

    found = find_counterfactual(Weighted(STEEP, bias=-2.5), image, 0, search=patient)

    assert found.is_flipped
    np.testing.assert_allclose(found.change, [[-0.25, 0.0], [0.0, 0.0]], atol=2e-3)
    assert "Flipped" in found.describe()


def test_a_stronger_penalty_makes_the_change_smaller() -> None:
    image, network = torch.full((1, 1, 12, 12), 0.5), Curved()

    found = [
        find_counterfactual(
            network,
            image,
            0,
            search=Search(sparsity=sparsity, smoothness=0.0, steps=100, patience=100),
        )
        for sparsity in (0.0, 0.1, 0.3)
    ]

    assert all(one.is_flipped for one in found)
    sizes = [one.size for one in found]
    assert sizes[0] > 1.5 * sizes[1]
    assert sizes[1] > 1.05 * sizes[2]
    touched = [(one.change != 0).mean() for one in found]
    assert touched[0] > 2 * max(touched[1:])


def test_smoothness_makes_the_change_less_rugged() -> None:
    image, network = torch.full((1, 1, 12, 12), 0.5), Curved()

    found = [
        find_counterfactual(network, image, 0, search=Search(sparsity=0.01, smoothness=weight, patience=120))
        for weight in (0.0, 0.1)
    ]

    assert all(one.is_flipped for one in found)
    only_variation = Search(sparsity=0.0, smoothness=1.0)
    rugged, even = (penalty(torch.from_numpy(one.change)[None, None], only_variation) for one in found)
    assert even < 0.75 * rugged


@pytest.mark.parametrize(("weight", "wanted"), [(0.2, [0.2, 0.8]), (0.5, [0.5, 0.5]), (3.0, [0.5, 0.5])])
def test_total_variation_draws_two_neighbors_together(weight: float, wanted: list[float]) -> None:
    values = torch.tensor([[[[0.0, 1.0]]]])
    nothing = Dual(torch.zeros(1, 1, 0, 2), torch.zeros(1, 1, 1, 1))

    beside, _ = smooth(values, weight, nothing, rounds=100)
    above, _ = smooth(values.mT, weight, Dual(nothing.columns, torch.zeros(1, 1, 2, 0)), rounds=100)

    assert beside.flatten().tolist() == pytest.approx(wanted, abs=1e-4)
    assert above.flatten().tolist() == pytest.approx(wanted, abs=1e-4)


def test_a_threshold_outside_0_to_1_is_refused() -> None:
    with pytest.raises(ValueError, match=r"threshold 1\.0"):
        find_counterfactual(Weighted(STEEP, bias=0.0), torch.zeros(1, 1, 2, 2), 0, threshold=1.0)


# --- prototypes ------------------------------------------------------------------------------------------


def test_the_nearest_are_those_of_the_smallest_angle_and_of_other_patients() -> None:
    labels = np.array([[0, 0, 0], [1, 1, 0], [1, 0, 1], [1, np.nan, np.nan]], np.float32)
    pixels = np.arange(4, dtype=np.uint8)[:, None, None].repeat(2, axis=1)
    groups = np.array(["a", "b", "b", "c"])
    radiographs = data.Radiographs(pixels, labels, np.full((4, 4), np.nan, np.float32), groups, "1")
    features = np.array([[1, 0], [10, 10], [0, 1], [0.1, 0]], np.float32)
    examples = prototypes.Examples(("0.png", "1.png", "2.png", "3.png"), radiographs, features)
    asked = np.array([3.0, 0.0], np.float32)

    found = prototypes.nearest(examples, asked, group="a")

    assert [one.name for one in found] == ["3.png", "1.png", "2.png"]
    assert [one.distance for one in found] == pytest.approx([0.0, 1 - np.sqrt(0.5), 1.0], abs=1e-6)
    assert [one.truth for one in found] == [
        "pneumonia of unknown kind",
        "bacterial pneumonia",
        "viral pneumonia",
    ]
    assert found[1].pixels[0, 0] == 1
    assert [one.name for one in prototypes.nearest(examples, asked, group="b")] == ["0.png", "3.png"]


# --- the command -----------------------------------------------------------------------------------------

SIZE = 64


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    stages = [asdict(Settings(data="", out="runs/x", size=SIZE, held_out=0.25, tuning=0.25, seed=2))]
    path = tmp_path_factory.mktemp("weights") / "net.pt"
    torch.save(
        {"weights": RadiographNetwork(3).state_dict(), "stages": stages, "figures": {"epoch": 1}}, path
    )
    return path


@pytest.fixture
def folder(tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a data folder of 30 made-up patients, beside a checkpoint of random weights, net.pt."""
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "cxr"
    (root / "kermany").mkdir(parents=True)
    random = np.random.default_rng(0)
    kinds = [("normal", "normal"), ("pneumonia", "bacteria"), ("pneumonia", "virus")]
    with (root / "labels.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["file", "dataset", "label", "label_detail", "group", "split"])
        for index in range(30):
            pixels = random.integers(0, 120, (SIZE, SIZE)) + 40 * (index % 3)
            Image.fromarray(pixels.astype(np.uint8)).save(root / "kermany" / f"{index}.png")
            split = "val" if index % 5 == 4 else "train"
            table.writerow([f"kermany/{index}.png", "kermany", *kinds[index % 3], f"person{index}", split])
    Path("net.pt").symlink_to(checkpoint)
    return root


def command(*arguments: str) -> int:
    return explain.main(["chest_xray", "--checkpoint", "net.pt", "--steps", "2", "--out", "out", *arguments])


def test_examples_are_what_was_learned_from_under_their_own_names(folder: Path) -> None:
    trained = explain.read_network(Path("net.pt"))
    real = data.load_radiographs(folder, split="train", size=SIZE)
    _, held_out = data.hold_out(real, 0.25, seed=data.HOLD_OUT_SEED)

    examples = prototypes.read_examples(
        trained.network, Path("net.pt"), replace(trained.settings, data=str(folder))
    )

    # 24 patients less a quarter for calibration, less a quarter of the rest for tuning.
    assert len(examples.names) == len(examples.features) == 14
    assert not set(examples.radiographs.groups) & set(held_out.groups)
    for name, pixels in zip(examples.names, examples.radiographs.pixels, strict=True):
        np.testing.assert_array_equal(pixels, data.to_bytes(data.read_prepared(folder / name, SIZE)))


def test_the_command_writes_a_sheet_for_each_case(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ["--case", "0", "kermany/14.png", "--class", "Viral pneumonia", "--threshold", "0.4"]

    assert command("--data", str(folder), *chosen) == 0
    printed = capsys.readouterr().out
    assert command("--data", str(folder)) == 0
    again = capsys.readouterr().out
    assert {path.name for path in Path("out").iterdir()} == {"case-0.png", "case-2.png"}
    with Image.open("out/case-2.png") as sheet:
        assert sheet.format == "PNG"
        assert sheet.size == (1300, 900)
        assert len(np.unique(np.asarray(sheet.convert("RGB")).reshape(-1, 3), axis=0)) > 100
    assert "1 of 2: out/case-0.png" in printed
    assert "Case 2 of kermany val, kermany/14.png; truth: viral pneumonia." in printed
    assert "Viral pneumonia: probability 0." in printed
    assert "threshold 0.400" in printed
    assert "Nearest training examples of other patients" in printed
    assert "person" not in printed
    # The features are kept: the second run needs none.
    assert "features of training examples" in printed
    assert "features of training examples" not in again


def test_the_command_takes_the_threshold_of_a_card(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("card.json").write_text(json.dumps({"classes": [{"name": "Pneumonia", "threshold": 0.123}]}))

    assert command("--data", str(folder), "--card", ".") == 0

    assert "threshold 0.123" in capsys.readouterr().out


@pytest.mark.usefixtures("folder")
def test_the_command_explains_a_synthetic_thorax_without_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--synthetic", "5") == 0

    printed = capsys.readouterr().out
    assert Path("out/synthetic-5.png").is_file()
    assert "Synthetic thorax 5 with a consolidation; truth: pneumonia of unknown kind." in printed
    assert "synthetic-1000" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere"], "no such folder: nowhere"),
        (["--data", "cxr", "--split", "test"], "no split 'test'"),
        (["--data", "cxr", "--case", "6"], "no case '6' in split 'val' of 'kermany': it has 0 to 5"),
        (["--data", "cxr", "--case", "kermany/0.png"], "no case 'kermany/0.png' in split 'val'"),
        (["--data", "cxr", "--checkpoint", "none.pt"], "No such file or directory: 'none.pt'"),
        (["--data", "cxr", "--checkpoint", "cxr/labels.csv"], "is no checkpoint of models.train"),
        (["--data", "cxr", "--checkpoint", "other.pt"], "other.pt is no checkpoint"),
        (["--data", "cxr", "--threshold", "1.5"], "threshold 1.5, expected a number between 0 and 1"),
        (["--data", "cxr", "--card", "cxr"], "card.json"),
        (["--data", "cxr", "--out", "net.pt"], "File exists"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_bad_input_is_answered_in_words(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"weights": {}, "stages": [{"data": "", "out": ""}]}, "other.pt")

    assert command(*arguments) == 2

    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--data", "cxr", "--synthetic", "5"],
        ["--synthetic", "5", "--case", "0"],
        ["--synthetic", "5", "--class", "Fracture"],
        ["--synthetic", "5", "--steps", "0"],
        ["--synthetic", "5", "--threshold", "0.5", "--card", "."],
    ],
)
def test_arguments_that_do_not_go_together_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        command(*arguments)

    assert stopped.value.code == 2
