"""Imbalance: what a data folder holds of each kind, and an epoch that shows each kind equally often."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models import imbalance

NAN = float("nan")
NORMAL, BACTERIAL, VIRAL, UNKNOWN_KIND = (0.0, 0.0, 0.0), (1.0, 1.0, 0.0), (1.0, 0.0, 1.0), (1.0, NAN, NAN)
KERMANY = Path(__file__).parent.parent.parent / "shared" / "data" / "cxr"


# --- the balanced epoch ----------------------------------------------------------------------------------


def draw(rows, seed: int = 0):
    """Return the drawn indices, and which of the rows' kinds each one is."""
    torch = pytest.importorskip("torch")
    from models.sampling import balanced_order

    order = balanced_order(torch.tensor(rows), torch.Generator().manual_seed(seed)).tolist()
    return order, [str(rows[index]) for index in order]


def test_each_label_pattern_comes_equally_often() -> None:
    rows = [NORMAL] * 10 + [BACTERIAL] * 60 + [VIRAL] * 25 + [UNKNOWN_KIND] * 7

    order, kinds = draw(rows)

    assert len(order) == len(rows)
    assert sorted(kinds.count(str(kind)) for kind in (NORMAL, BACTERIAL, VIRAL, UNKNOWN_KIND)) == [
        25,
        25,
        26,
        26,
    ]


def test_a_pattern_that_differs_only_in_what_is_unknown_is_one_of_its_own() -> None:
    rows = [(1.0, NAN, 0.0)] * 3 + [(1.0, 0.0, 0.0)] * 30 + [(1.0, 0.0, NAN)] * 27

    _, kinds = draw(rows)

    assert {kinds.count(kind) for kind in set(kinds)} == {20}


def test_images_of_one_pattern_are_drawn_with_replacement_and_evenly() -> None:
    rows = [NORMAL] * 4 + [BACTERIAL] * 3996

    order, _ = draw(rows)

    # 2000 draws of 4 images: 500 each, and a binomial spread of 19.
    counts = np.bincount(order, minlength=4)[:4]
    assert counts.sum() == 2000
    assert np.abs(counts - 500).max() < 5 * 19
    # 2000 draws of 3996 images see about 1 - exp(-1/2) of them, not 2000 different ones.
    assert len({index for index in order if index >= 4}) == pytest.approx(3996 * (1 - np.exp(-0.5)), rel=0.05)


def test_patterns_are_mixed_along_the_epoch() -> None:
    _, kinds = draw([NORMAL] * 100 + [BACTERIAL] * 900)

    # 500 of each in all: a quarter of the epoch holds 125, and a hypergeometric spread of 7.
    assert abs(kinds[:250].count(str(NORMAL)) - 125) < 5 * 7


def test_an_epoch_follows_its_seed() -> None:
    rows = [NORMAL] * 10 + [VIRAL] * 30

    assert draw(rows, seed=1) == draw(rows, seed=1)
    assert draw(rows, seed=1)[0] != draw(rows, seed=2)[0]


# --- the report ------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six normal, three bacterial, two viral, one of unknown kind; two images of each patient."""
    kinds = [("normal", "normal")] * 6 + [("pneumonia", "bacteria")] * 3 + [("pneumonia", "virus")] * 2
    with (tmp_path / "labels.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["file", "dataset", "label", "label_detail", "group", "split"])
        for index, kind in enumerate([*kinds, ("pneumonia", "")]):
            (tmp_path / f"{index}.png").touch()
            table.writerow([f"{index}.png", "kermany", *kind, f"person{index // 2}", "train"])
    return tmp_path


def test_counts_percentages_and_imbalance_factors_by_hand(folder: Path, capsys) -> None:
    status = imbalance.main(["--data", str(folder), "--split", "train", "--json"])

    found = json.loads(capsys.readouterr().out)
    assert status == 0
    assert (found["data"], found["images"], found["patients"]) == ("kermany train", 12, 6)
    assert [(entry["name"], entry["images"], entry["percent"]) for entry in found["patterns"]] == [
        ("none", 6, 50.0),
        ("Pneumonia + Bacterial pneumonia", 3, 25.0),
        ("Pneumonia + Viral pneumonia", 2, 16.67),
        ("Pneumonia (unknown: Bacterial pneumonia, Viral pneumonia)", 1, 8.33),
    ]
    assert found["imbalance_factor"] == 6
    assert found["classes"][2] == {
        "name": "Viral pneumonia",
        "positives": 2,
        "negatives": 9,
        "unknown": 1,
        "positive_percent": 18.18,
        "imbalance_factor": 4.5,
    }
    assert found["classes"][0]["imbalance_factor"] == 1


def test_the_table_says_what_the_json_says(folder: Path, capsys) -> None:
    assert imbalance.main(["--data", str(folder), "--split", "train"]) == 0

    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["kermany", "train:", "12", "images", "of", "6", "patients"] in lines
    assert ["none", "6", "50.0"] in lines
    assert ["imbalance", "factor", "6.00"] in lines
    assert ["Bacterial", "pneumonia", "3", "8", "1", "27.3", "2.67"] in lines


def test_a_class_without_one_kind_has_no_imbalance_factor() -> None:
    found = imbalance.count_labels(np.array([UNKNOWN_KIND, UNKNOWN_KIND]), ["a", "b"], "here")

    pneumonia, bacterial, _ = found.classes
    assert (pneumonia.positive_percent, pneumonia.imbalance_factor) == (100.0, None)
    assert (bacterial.unknown, bacterial.positive_percent, bacterial.imbalance_factor) == (2, None, None)
    assert found.imbalance_factor == 1
    assert imbalance.table(found).count("-") == 5


def test_the_plot_has_a_bar_for_each_count_above_0(folder: Path, tmp_path: Path, capsys) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "counts.png"

    assert imbalance.main(["--data", str(folder), "--split", "train", "--plot", str(path)]) == 0

    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    assert pixels.shape[1] == 1350
    # The bars' blue, down one column just right of the axis: four patterns, and 2 + 3 + 3 kinds of labels.
    is_blue = (pixels == [31, 119, 180]).all(axis=2)
    column = is_blue[:, np.argmax(is_blue.any(axis=0)) + 2]
    assert int((np.diff(column.astype(int)) == 1).sum()) == 12
    assert "imbalance factor" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "elsewhere", "--split", "train"], "no such folder"),
        (["--data", ".", "--split", "test"], "no split 'test'"),
        (["--data", ".", "--split", "train", "--dataset", "nih"], "no rows of dataset 'nih'"),
    ],
)
def test_the_report_says_what_is_wrong_with_a_folder(
    arguments, message, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(folder)

    assert imbalance.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_a_plot_that_cannot_be_written_is_no_success(folder: Path, capsys) -> None:
    pytest.importorskip("matplotlib")
    path = folder / "absent" / "counts.png"

    assert imbalance.main(["--data", str(folder), "--split", "train", "--plot", str(path)]) == 1
    assert "absent" in capsys.readouterr().err


@pytest.mark.skipif(not KERMANY.is_dir(), reason="needs the radiographs in ../shared/data/cxr")
def test_the_real_training_set_is_counted_as_its_description_says(capsys) -> None:
    assert imbalance.main(["--data", str(KERMANY), "--split", "train", "--json"]) == 0

    found = json.loads(capsys.readouterr().out)
    assert sorted(entry["images"] for entry in found["patterns"]) == [1017, 1076, 1848]
