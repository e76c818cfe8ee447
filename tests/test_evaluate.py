"""Measuring a model: its classes, its members, its doubts, foreign pictures, changed pictures."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

pytest.importorskip("scipy")

from models import card, evaluate, foreign, measure, robustness
from models.measure import Cases, Doubts, Predictions
from node.imaging.intensity import prepare_radiograph
from node.read.isolation import DecoderProcess
from tests.datasets import RAMP, radiograph, save
from tests.folders import make_folder

Arguments = list[str]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return make_folder(tmp_path / "cxr")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository with an ensemble of two networks of a few weights."""
    pytest.importorskip("torch")
    pytest.importorskip("onnx")
    from tests.ensembles import write_ensemble

    path = tmp_path_factory.mktemp("repository")
    write_ensemble(path)
    return path


def run(folder: Path, repository: Path, *options: str) -> int:
    named = ["chest_xray", "--data", str(folder), "--repository", str(repository), "--repeats", "20"]
    return evaluate.main([*named, *options])


# --- the command -----------------------------------------------------------------------------------------


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
def test_evaluate_says_what_is_wrong_with_a_folder(
    change: Callable[[Path], None] | None,
    arguments: Arguments,
    message: str,
    folder: Path,
    repository: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if change:
        change(folder)

    status = evaluate.main(["chest_xray", "--repository", str(repository), *arguments])

    assert status == 2
    assert message in capsys.readouterr().err


def test_evaluate_needs_an_exported_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main(["chest_xray", "--data", str(folder), "--repository", "nowhere"]) == 1
    assert "card.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--data", "cxr", "--checkpoint", "last.pt", "--write-card"],
        ["--data", "cxr", "--checkpoint", "last.pt", "--out-of-distribution"],
        ["--data", "cxr", "--robustness", "--out-of-distribution"],
        ["--data", "cxr", "--foreign", "zoo"],
        ["--synthetic", "4", "--robustness"],
        ["--synthetic", "4", "--data", "cxr"],
    ],
)
def test_options_that_do_not_go_together_are_wrong_use(
    arguments: Arguments, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        evaluate.main(["chest_xray", *arguments])

    assert ended.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_evaluate_prints_one_json_object(
    folder: Path, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, repository, "--json") == 0

    result = json.loads(capsys.readouterr().out)
    assert result["images"] == result["patients"] == 6
    for entry in result["classes"]:
        assert entry["positives"] + entry["negatives"] == np.sum(entry["confusion_matrix"]) == 6
        for figure in (*measure.figures_at(0.5), "set_coverage", "undecided"):
            assert len(entry[figure]) == 3, figure
    assert result["bacterial_vs_viral"]["bacterial"] == 2
    assert list(result["members"]) == ["chest_xray_densenet121_a", "chest_xray_resnet50_a"]


def test_the_figures_of_members_are_printed_where_they_are_asked_for(
    folder: Path, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, repository) == 0
    plain = capsys.readouterr().out
    assert run(folder, repository, "--members") == 0

    assert "resnet50" not in plain
    assert "chest_xray_resnet50_a" in capsys.readouterr().out


def test_plots_are_written_where_they_are_asked_for(folder: Path, repository: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")

    assert run(folder, repository, "--plots", str(tmp_path / "plots")) == 0

    names = {path.name for path in (tmp_path / "plots").iterdir()}
    assert names == {"roc.png", "roc_bacterial_vs_viral.png", "reliability.png"}


def test_every_kind_of_figure_has_its_place_in_the_card(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("onnx")
    from tests.ensembles import write_ensemble

    write_ensemble(tmp_path / "repository")
    threshold = card.read_card(tmp_path / "repository" / "chest_xray")["out_of_distribution"]["threshold"]
    for options in ([], [], ["--out-of-distribution"], ["--robustness"]):
        assert run(folder, tmp_path / "repository", "--write-card", *options) == 0

    described = card.read_card(tmp_path / "repository" / "chest_xray")
    assert [entry["data"] for entry in described["metrics"]] == ["kermany val"]
    assert described["out_of_distribution"]["threshold"] == threshold
    assert set(described["out_of_distribution"]["measured"]["against"]) == {"upside down", "inverted"}
    assert [row["change"] for row in described["robustness"]["robustness"]] == list(robustness.CHANGES)


# --- figures ---------------------------------------------------------------------------------------------


def predictions(
    probability: list[float],
    *,
    interval: tuple[float, float] = (0.0, 0.01),
    sets: list[list[int]] | None = None,
    scores: list[float] | None = None,
) -> Predictions:
    """Return what a model might say of images, the same for each class."""
    n = len(probability)
    answers = [[int(value < 0.5), int(value >= 0.5)] for value in probability]
    doubts = Doubts(
        interval=np.tile(np.array(interval, np.float32), (n, 3, 1)),
        mutual_information=np.tile(np.arange(n, dtype=np.float32)[:, None], (1, 3)),
        prediction_set=np.repeat(np.array(sets or answers, np.float32)[:, None], 3, axis=1),
        out_of_distribution=np.array(scores or [0.0] * n, np.float32)[:, None],
        foreign_threshold=2.0,
    )
    return Predictions(np.tile(np.array(probability, np.float32)[:, None], (1, 3)), [0.5] * 3, {}, doubts)


def cases(labels: list[list[float]]) -> Cases:
    n = len(labels)
    return Cases([np.zeros((8, 8), np.float32)] * n, np.array(labels, np.float32), np.arange(n).astype(str))


NAN = float("nan")


@pytest.mark.parametrize(
    ("interval", "sets", "scores", "is_undecided"),
    [
        ((0.8, 0.95), [[0, 1]], [0.0], False),
        ((0.4, 0.95), [[0, 1]], [0.0], True),
        ((0.8, 0.95), [[1, 1]], [0.0], True),
        ((0.8, 0.95), [[0, 0]], [0.0], True),
        ((0.8, 0.95), [[1, 0]], [0.0], True),
        ((0.8, 0.95), [[0, 1]], [2.0], False),
        ((0.8, 0.95), [[0, 1]], [2.1], True),
    ],
)
def test_a_score_is_undecided_by_the_rule_of_the_card(
    interval: tuple[float, float], sets: list[list[int]], scores: list[float], is_undecided: bool
) -> None:
    said = predictions([0.9], interval=interval, sets=sets, scores=scores)

    assert said.is_undecided(0).tolist() == [is_undecided]


def test_the_figures_of_a_class_leave_out_unknown_truth() -> None:
    said = predictions([0.9, 0.8, 0.2, 0.1, 0.9], sets=[[0, 1], [0, 1], [1, 1], [1, 0], [0, 1]])
    labelled = cases([[1, 1, 0], [0, 0, 0], [1, NAN, NAN], [0, 0, 0], [NAN, NAN, NAN]])

    pneumonia, bacterial, _ = measure.measure(labelled, said, repeats=5)["classes"]

    assert (pneumonia["positives"], pneumonia["negatives"]) == (2, 2)
    assert pneumonia["confusion_matrix"] == [[1, 1], [1, 1]]
    assert pneumonia["set_coverage"][0] == 0.75
    assert pneumonia["undecided"][0] == 0.25
    assert pneumonia["accuracy_when_decided"][0] == pytest.approx(2 / 3, abs=1e-4)
    assert (bacterial["positives"], bacterial["negatives"]) == (1, 2)


def test_coverage_over_all_counts_each_known_truth_once() -> None:
    said = predictions([0.9, 0.2], sets=[[0, 1], [1, 0]])

    measured = measure.measure(cases([[1, 0, 1], [1, NAN, NAN]]), said, repeats=5)

    assert measured["set_coverage"][0] == 0.5


def test_mutual_information_of_wrong_cases_is_compared_with_that_of_right_ones() -> None:
    wrong, right = np.linspace(0.5, 1, 20, dtype=np.float32), np.linspace(0, 0.4, 30, dtype=np.float32)

    compared = measure.compare(wrong, right)

    assert compared["wrong"] == {"cases": 20, "median": 0.75}
    assert compared["p"] < 1e-6
    assert measure.compare(right, wrong)["p"] > 0.99
    assert "p" not in measure.compare(wrong[:0], right)


def test_an_ensemble_that_is_its_member_is_better_by_nothing_on_any_draw() -> None:
    random = np.random.default_rng(0)
    probability = random.random((40, 3)).astype(np.float32)
    labelled = cases([[1, index % 2, 1 - index % 2] for index in range(40)])

    member = measure.measure_member(labelled, probability, probability, repeats=30)
    worse = measure.measure_member(labelled, 1 - probability, probability, repeats=30)

    assert member["ensemble_is_better_by"] == [0, 0, 0]
    low_or_high = member["bacterial_vs_viral"][0]
    assert worse["ensemble_is_better_by"][0] == pytest.approx(2 * low_or_high - 1, abs=1e-3)


# --- changed pictures ------------------------------------------------------------------------------------

GRADIENT = np.linspace(0.1, 0.9, 64 * 48, dtype=np.float32).reshape(64, 48)


def test_changes_by_hand() -> None:
    np.testing.assert_allclose(robustness.brighten(GRADIENT, 0.2).max(), 1.0)
    np.testing.assert_allclose(robustness.brighten(GRADIENT, -0.2)[-1, -1], 0.7, atol=1e-6)
    np.testing.assert_allclose(robustness.spread_contrast(GRADIENT, 0.8)[0, 0], 0.18, atol=1e-6)
    assert robustness.crop(GRADIENT, 0.1).shape == (58, 44)
    assert (robustness.crop(GRADIENT, 0.1) == GRADIENT[3:61, 2:46]).all()
    assert robustness.add_noise(np.full((200, 200), 0.5, np.float32), 0.05).std() == pytest.approx(
        0.05, rel=0.02
    )
    assert (robustness.rotate(GRADIENT, 5.0)[0, 0], robustness.rotate(GRADIENT, 0.0)[5, 5]) == (
        0,
        GRADIENT[5, 5],
    )
    error = np.abs(robustness.compress(GRADIENT, 50) - GRADIENT)
    assert 0 < error.max() < 0.05


@pytest.mark.parametrize("name", list(robustness.CHANGES))
def test_every_change_gives_a_picture_in_range(name: str) -> None:
    changed = robustness.CHANGES[name](GRADIENT)

    assert changed.dtype == np.float32
    assert 0 <= changed.min() < changed.max() <= 1
    assert (name == "unchanged") == (changed is GRADIENT)


def test_a_change_that_costs_more_than_the_interval_is_named(folder: Path) -> None:
    files = sorted((folder / "kermany").glob("*.png"))
    labelled = cases([[index % 2, index % 2, 0] for index in range(len(files))])
    truth = labelled.labels[:, 0]
    asked = iter([truth] + [1 - truth] * (len(robustness.CHANGES) - 1))

    rows = robustness.measure_robustness(files, labelled, lambda _: predictions(list(next(asked))), 20)

    assert [row["is_within"] for row in rows] == [True] + [False] * (len(rows) - 1)
    assert rows[0]["classes"][0]["accuracy"] == [1, 1, 1]
    assert robustness.table(rows).count("below the interval") == len(rows) - 1


# --- foreign pictures ------------------------------------------------------------------------------------


def color(planes: np.ndarray, **attributes: object) -> Dataset:
    """Return an object of planes (samples, rows, columns) uint8, interleaved by pixel."""
    dataset = radiograph(planes[0], **attributes)
    dataset.SamplesPerPixel, dataset.PlanarConfiguration = 3, 0
    dataset.PixelData = np.moveaxis(planes, 0, -1).tobytes()
    return dataset


def frames(stack: np.ndarray) -> Dataset:
    dataset = radiograph(stack[0])
    dataset.NumberOfFrames, dataset.PixelData = len(stack), stack.tobytes()
    return dataset


SMALL = (RAMP // 16).astype(np.uint8)
MIDDLE = RAMP.T.copy()


@pytest.mark.parametrize(
    ("dataset", "shown"),
    [
        (radiograph(RAMP), RAMP),
        (radiograph(RAMP, PhotometricInterpretation="MONOCHROME1"), RAMP.max() - RAMP),
        (frames(np.stack([RAMP, MIDDLE, RAMP])), MIDDLE),
        (color(np.stack([SMALL * 0, SMALL, SMALL * 0]), PhotometricInterpretation="RGB"), SMALL),
        (color(np.stack([SMALL, SMALL.T, SMALL]), PhotometricInterpretation="YBR_FULL"), SMALL),
    ],
    ids=["plain", "MONOCHROME1", "frames", "RGB", "YBR"],
)
def test_any_picture_is_read_as_if_it_were_a_radiograph(
    dataset: Dataset, shown: np.ndarray, tmp_path: Path
) -> None:
    path = save(dataset, tmp_path).path

    decoder = DecoderProcess()
    image = foreign.read_picture(path, decoder)
    decoder.close()

    # One step of 8-bit luminance is 0.016 of this ramp.
    np.testing.assert_allclose(prepare_radiograph(image.pixels, 8), prepare_radiograph(shown, 8), atol=0.02)


def test_a_folder_gives_each_picture_once_and_names_what_it_leaves_out(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, pixels in (("a", RAMP), ("b", RAMP), ("c", RAMP.T.copy()), ("cr_chest_1", RAMP)):
            radiograph(pixels).save_as(tmp_path / f"{name}.dcm", enforce_file_format=True)
    (tmp_path / "README.md").write_text("no picture")

    pictures = foreign.read_foreign(tmp_path, size=16, chest=["cr_chest_*"])

    assert list(pictures.image_by_name) == ["a.dcm", "c.dcm"]
    assert pictures.repeated == ("b.dcm",)
    assert pictures.unreadable == ("README.md",)


def test_an_empty_folder_of_foreign_pictures_is_refused(
    folder: Path, repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()

    status = run(folder, repository, "--out-of-distribution", "--foreign", str(tmp_path / "empty"))

    assert status == 1
    assert "no files in" in capsys.readouterr().err


def test_foreign_pictures_are_told_by_their_score() -> None:
    dark, light = np.zeros((8, 8), np.float32), np.ones((8, 8), np.float32)
    usual = Cases([dark, dark], np.zeros((2, 3), np.float32), np.array(["a", "b"]))
    strangers = foreign.ForeignPictures({"dog.dcm": light, "twin.dcm": dark}, (), ("sr.dcm",))

    def predict(asked: Cases) -> Predictions:
        # As bright as it is strange.
        scores = [5.0 * float(image.mean()) for image in asked.images]
        return predictions([0.1] * len(asked), scores=scores)

    measured = foreign.measure_foreign(usual, strangers, predict, 20)

    assert measured["false_alarms"][0] == 0
    inverted, pictures = measured["against"]["inverted"], measured["against"]["foreign pictures"]
    assert (inverted["auc"][0], inverted["detected"][0], inverted["decided"]) == (1, 1, 0)
    assert measured["against"]["upside down"]["auc"][0] == 0.5
    assert (pictures["auc"][0], pictures["detected"][0], pictures["decided"]) == (0.75, 0.5, 1)
    assert pictures["not_detected"] == ["twin.dcm"]
    assert "not detected: twin.dcm" in foreign.table(measured)
