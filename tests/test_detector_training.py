"""Detectors learn bright discs as lesions, are exported as one ensemble, and say the same there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")
pytest.importorskip("onnx")

from models import (  # noqa: E402
    card,
    detector_sets,
    evaluate,
    evaluate_detector,
    export,
    train,
    train_detector,
)
from models.checkpoints import CheckpointError  # noqa: E402
from models.detector import LABELS, LESIONS  # noqa: E402
from models.detector_card import NAME  # noqa: E402
from models.detector_graphs import COUNT, DETECTOR_OUTPUTS, Platt, detector_graph  # noqa: E402
from models.detector_kinds import KindGraph  # noqa: E402
from models.detector_lessons import (  # noqa: E402
    FASTER_RCNN,
    KINDS,
    YOLO,
    DetectorSettings,
    make_detector,
)
from models.detector_metrics import largest_difference  # noqa: E402
from models.detector_views import Fright  # noqa: E402
from models.export_detector import PARITY_TOLERANCE, sure  # noqa: E402
from models.train_detector import frighten, settle  # noqa: E402
from models.train_kinds import accuracy, lessons_of, read_kinds  # noqa: E402
from node.engines.onnx import OnnxEngine  # noqa: E402
from node.engines.repository import ModelRepository  # noqa: E402
from tests.discs import SIDE, disc_film, load_discs  # noqa: E402
from tests.peers.triton import make_triton  # noqa: E402
from tests.small_models import NewEngine  # noqa: E402


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder to train in, where films are discs."""
    folder = tmp_path_factory.mktemp("detectors")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(detector_sets, "load_films", load_discs)
        patch.setattr(evaluate_detector, "load_films", load_discs)
        yield folder


FEW = [
    "--size",
    str(SIDE),
    "--films",
    "48",
    "--tuning",
    "8",
    "--batch",
    "8",
    "--threads",
    "1",
    "--width",
    "8",
]
FEW += ["--channels", "16", "--hidden", "32", "--proposals", "30", "--crop", "0", "--planted", "0"]
FEW += ["--thoraxes", "0"]


def learn(model: str, *options: str) -> Path:
    """Return the checkpoint of a short training."""
    arguments = [model, *FEW, "--out", f"runs/{model}", *options]
    assert train.main(arguments) == 0
    return Path(f"runs/{model}/last.pt").absolute()


@pytest.fixture(scope="module")
def trained(workplace: Path) -> dict[str, Path]:
    """A checkpoint of each kind; one was shown pieces, too."""
    rate = ("--ema-decay", "0.9", "--learning-rate")
    return {
        YOLO: learn(YOLO, "--epochs", "9", "--crop", "64", "--whole", "0.7", *rate, "0.01"),
        FASTER_RCNN: learn(FASTER_RCNN, "--epochs", "11", "--batch", "4", *rate, "0.005"),
    }


@pytest.fixture(scope="module")
def named(workplace: Path) -> Path:
    """A checkpoint of the network that names lesions."""
    return learn(KINDS, "--epochs", "40", "--films", "128", "--learning-rate", "0.003")


@pytest.fixture(scope="module")
def exported(trained: dict[str, Path], named: Path) -> Path:
    """A repository with both as one ensemble."""
    checkpoints = [str(path) for path in trained.values()]
    options = [NAME, "--checkpoint", *checkpoints, "--kinds", str(named), "--films", "40"]
    options += ["--repository", "repository"]
    assert export.main([*options, "--version", "0.0.1"]) == 0
    return Path("repository").absolute()


# --- what a training looks at ----------------------------------------------------------------------------


def test_only_films_without_a_lesion_can_deceive() -> None:
    settings = DetectorSettings(out="", size=SIDE, width=8, channels=16)
    torch.manual_seed(1)
    network = make_detector(settings).eval()
    with torch.no_grad():
        for head in network.heads:
            head.kind[-1].bias.zero_()
    fright, films = Fright.none(3), [disc_film(1), disc_film(2), disc_film(4)]

    frighten(fright, network, films, settings, torch.Generator())

    assert fright.values[0] == 0
    assert (fright.values[1:] > 0.01).all()
    assert ((fright.places[1:] > 0) & (fright.places[1:] < SIDE)).all()


@pytest.mark.parametrize("model", [YOLO, FASTER_RCNN])
def test_layers_are_settled_on_whole_films(model: str) -> None:
    settings = DetectorSettings(out="", model=model, size=SIDE, width=8, channels=16, strength=0.0)
    torch.manual_seed(1)
    network = make_detector(settings)
    layer = next(one for one in network.modules() if isinstance(one, torch.nn.BatchNorm2d))
    layer.running_mean.fill_(5.0)
    films, seen = load_discs(4, 10), []
    layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].mean(dim=(0, 2, 3))))

    settle(network, films, settings, torch.Generator())

    torch.testing.assert_close(layer.running_mean, torch.stack(seen).mean(dim=0))
    assert layer.momentum == 0.1
    assert not network.training


def test_no_patient_is_in_two_parts() -> None:
    kept = [detector_sets.is_kept(f"patient-{number}") for number in range(600)]

    assert 60 < sum(kept) < 140


# --- training ---------------------------------------------------------------------------------------------


@pytest.mark.timeout(300)
@pytest.mark.parametrize("model", [YOLO, FASTER_RCNN])
def test_a_detector_learns_discs(trained: dict[str, Path], model: str) -> None:
    network, stages, settings = train_detector.read_checkpoint(trained[model])

    figures = train_detector.score(network, load_discs(24, 9000), settings)

    assert stages[-1]["epochs_finished"] == settings.epochs
    # Untrained it is 0; what is left are discs of one kind that are called the other.
    assert figures["lesion_sensitivity"] > 0.75
    assert figures["lesion_map_50"] > 0.2
    assert figures["lung_overlap"] > 0.7


def test_kinds_are_told_by_a_network_of_their_own(named: Path) -> None:
    network, stages = read_kinds(named)

    pieces, sizes, kinds = lessons_of(load_discs(40, 9000))

    assert stages[-1]["model"] == KINDS
    # Discs of two sizes and nothing else tell them apart.
    assert accuracy(network, (pieces, sizes, kinds)) > 0.85
    assert set(kinds.tolist()) == {0, 1}


def test_a_detector_is_no_namer_of_kinds(trained: dict[str, Path]) -> None:
    with pytest.raises(CheckpointError, match="is no checkpoint of chest_xray_kinds"):
        read_kinds(trained[YOLO])
    with pytest.raises(FileNotFoundError):
        read_kinds(Path("missing.pt"))


def test_half_a_checkpoint_names_no_kinds(named: Path) -> None:
    stored = torch.load(named, weights_only=True)
    stored["weights"].popitem()
    torch.save(stored, "half.pt")

    with pytest.raises(CheckpointError, match="is no whole training of chest_xray_kinds"):
        read_kinds(Path("half.pt"))


def test_the_namer_of_kinds_is_not_resumed(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train.main([KINDS, *FEW, "--resume"])

    assert "trained from the start" in capsys.readouterr().err


def test_a_training_remembers_what_deceived_it(trained: dict[str, Path]) -> None:
    stored = torch.load(trained[YOLO].with_name("state.pt"), weights_only=True)

    values = stored["fright"]["values"]

    # Every other film has lesions; only the others can deceive.
    has_lesions = [bool(disc_film(detector_sets.TRAIN_SEED + number).is_lesion.any()) for number in range(48)]
    assert values[has_lesions].max() == 0
    assert values.max() > 0


@pytest.mark.timeout(300)
def test_both_become_one_ensemble_that_is_measured(
    exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [NAME, "--repository", str(exported), "--films", "24", "--repeats", "20", "--threads", "1"]
    assert evaluate.main([*options, "--write-card", "--json"]) == 0

    figures = json.loads(capsys.readouterr().out)
    assert f"{figures['fused']['lesions']['map_50']:.3f}" in evaluate_detector.table(figures)
    served = figures["fused"]["served"]
    assert served["sensitivity"] > 0.75
    assert served["false_per_film"] < 1.5
    described = card.read_card(exported / NAME)
    assert described["metrics"] == [figures]
    assert described["members"] == [FASTER_RCNN, YOLO]
    assert figures["fused"]["lesions"]["sensitivity_at"]["0.5"] > 0.75
    assert figures["fused"]["lesions"]["groups"]["4-8 mm"][0] > 0
    parity = described["parity"]
    assert all(value <= parity["tolerance"][name] for name, value in parity["largest_difference"].items())
    engine = OnnxEngine(ModelRepository(exported), threads=1)
    engine.check("chest_xray_lesions")
    image = disc_film(9001).pixels[None, None].astype(np.float32) / 255
    answer = engine.infer("chest_xray_lesions", {"image": image})
    assert answer["boxes"].shape == (1, 2, COUNT, 4)
    alone = engine.infer(YOLO, {"image": image})
    np.testing.assert_allclose(answer["boxes"][:, 1], alone["boxes"], atol=1e-4)
    np.testing.assert_array_equal(answer["labels"][:, 1], alone["labels"])
    kinds = engine.card("chest_xray_lesions").classes
    assert [one.code.meaning for one in kinds] == [
        "Nodule",
        "Mass",
        "Lung consolidation",
        "Right lung",
        "Left lung",
    ]
    assert all(0 < one.threshold <= 1 and one.fusion.slope > 0 for one in kinds)
    (own,) = evaluate_detector.find([disc_film(9001)], exported)[evaluate_detector.FUSED]
    assert own.of(LESIONS).scores.max() >= kinds[0].threshold


@pytest.mark.triton
def test_pytorch_and_both_engines_find_the_same(
    trained: dict[str, Path], named: Path, exported: Path, new_engine: NewEngine, tmp_path: Path
) -> None:
    images = (
        np.stack([disc_film(seed).pixels for seed in range(9000, 9006)])[:, None].astype(np.float32) / 255
    )
    platts = card.read_card(exported / NAME)["calibration"]["slope_and_offset"]
    embedded = OnnxEngine(ModelRepository(exported), threads=1)

    with make_triton(tmp_path, repository=exported) as server:
        server.start()
        served = new_engine(server.url, exported)
        for name, path in trained.items():
            network, _, settings = train_detector.read_checkpoint(path)
            plain = detector_graph(network, settings.size, [Platt(*platts[name][one]) for one in LABELS[1:]])
            graph = KindGraph(plain, read_kinds(named)[0])
            with torch.no_grad():
                in_pytorch = train_detector.to_boxes(
                    *(one.numpy() for one in graph(torch.from_numpy(images)))
                )
            for engine in (embedded, served):
                answer = engine.infer(name, {"image": images})
                found = train_detector.to_boxes(*(answer[output] for output in DETECTOR_OUTPUTS))
                differences = [
                    largest_difference(sure(one), sure(other))
                    for one, other in zip(found, in_pytorch, strict=True)
                ]
                assert sum(len(sure(one).boxes) for one in found) > 6
                assert max(pixels for pixels, _ in differences) < PARITY_TOLERANCE["boxes"]
                assert max(scores for _, scores in differences) < PARITY_TOLERANCE["scores"]
        ours, theirs = (engine.infer(NAME, {"image": images}) for engine in (embedded, served))
        for output, values in ours.items():
            np.testing.assert_allclose(theirs[output], values, atol=1e-4)


def test_two_members_of_one_kind_are_no_ensemble(
    trained: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(trained[YOLO])

    assert export.main([NAME, "--checkpoint", path, path, "--kinds", path, "--repository", "other"]) == 1
    assert "two members of one kind" in capsys.readouterr().err


def test_a_run_that_is_resumed_goes_the_way_of_one_that_was_not(workplace: Path) -> None:
    options = ["--films", "8", "--tuning", "2", "--batch", "4", "--epochs", "2", "--mined", "0.5"]
    whole = learn(YOLO, *options, "--out", "runs/whole").parents[1] / "whole" / "last.pt"
    stopped = ["--patience", "0", "--out", "runs/part"]
    settings = train_detector.train

    class StoppedError(Exception):
        pass

    def stop_after_one(self: train_detector.Run, *arguments: object) -> None:
        finish(self, *arguments)
        raise StoppedError

    finish = train_detector.Run.finish_epoch
    with pytest.MonkeyPatch.context() as patch, pytest.raises(StoppedError):
        patch.setattr(train_detector.Run, "finish_epoch", stop_after_one)
        train_detector.main([YOLO, *FEW, *options, *stopped])
    assert train_detector.main([YOLO, *FEW, *options, *stopped, "--resume"]) == 0

    one, other = (torch.load(path, weights_only=True)["weights"] for path in (whole, "runs/part/last.pt"))
    assert settings is train_detector.train
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], msg=name)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--resume", "--out", "runs/none"], "nothing to resume"),
        (["--init", "missing.pt", "--out", "runs/x"], "no such file"),
        (["--init", "foreign.pt", "--out", "runs/x"], "is no checkpoint of"),
    ],
)
def test_a_start_that_is_not_there_is_refused(
    workplace: Path, options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"weights": {}, "stages": [{"model": "slide_tumor"}]}, "foreign.pt")

    assert train_detector.main([YOLO, *FEW, "--films", "4", *options]) == 1
    assert words in capsys.readouterr().err


def test_a_training_may_start_from_weights_of_its_kind_alone(
    trained: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--films", "8", "--tuning", "2", "--epochs", "1", "--init", str(trained[YOLO])]

    further = learn(YOLO, *options, "--out", "runs/further").parents[1] / "further" / "last.pt"

    assert [stage["epochs"] for stage in train_detector.read_checkpoint(further)[1]] == [9, 1]
    assert train_detector.main([FASTER_RCNN, *FEW, *options, "--out", "runs/y"]) == 1
    assert "is of another form" in capsys.readouterr().err
