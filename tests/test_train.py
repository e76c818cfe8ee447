"""Training: the loop, its checkpoints, what it shows the network, and weights from elsewhere."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.folders import make_folder

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")
nn = torch.nn

from models import augmentation, checkpoints, data, train  # noqa: E402
from models.radiograph import MEAN, STANDARD_DEVIATION, RadiographNetwork  # noqa: E402

SMALL = {"epochs": 2, "size": 32, "batch": 4, "limit": 12, "synthetic": 4, "held_out": 0.2, "tuning": 0.2}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return make_folder(tmp_path / "cxr")


def settings_of(folder: Path, name: str, **changes: object) -> train.Settings:
    return train.Settings(**({"data": str(folder), "out": f"runs/{name}", "mixed": 0.5} | SMALL | changes))


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["weights"]


# --- the loop --------------------------------------------------------------------------------------------


@pytest.mark.timeout(300)
def test_a_resumed_training_goes_the_way_of_one_never_interrupted(folder, monkeypatch) -> None:
    whole = train.train(settings_of(folder, "whole"))
    finish = train.Run.finish_epoch

    def finish_and_stop(run: train.Run, *figures: object) -> None:
        finish(run, *figures)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(train.Run, "finish_epoch", finish_and_stop)
        train.train(settings_of(folder, "broken"))
    resumed = train.train(settings_of(folder, "broken"), is_resumed=True)

    expected, found = weights_of(whole), weights_of(resumed)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=name)


def test_a_checkpoint_says_what_made_it(folder, capsys) -> None:
    path = train.train(
        settings_of(folder, "one", epochs=1, trunk="resnet50", loss="focal", sampling="balanced")
    )

    stored = torch.load(path, weights_only=True)
    (stage,) = stored["stages"]
    assert (stage["trunk"], stage["loss"], stage["sampling"], stage["seed"]) == (
        "resnet50",
        "focal",
        "balanced",
        1,
    )
    assert len(stage["data_version"].split("+")) == 2
    assert stage["commit"]
    printed = json.loads(capsys.readouterr().out.splitlines()[0])
    assert printed["epoch"] == stored["figures"]["epoch"] == 1
    assert set(printed["tuning"]) == {"pneumonia", "bacterial_or_viral"}


def test_training_stops_after_epochs_without_a_better_one(folder, monkeypatch) -> None:
    scores = iter([0.7, 0.9, 0.8, 0.8, 0.95])
    monkeypatch.setattr(train, "score", lambda *_: {"pneumonia": next(scores)})

    path = train.train(settings_of(folder, "patient", epochs=5, patience=2))

    assert path.name == "best.pt"
    assert torch.load(path, weights_only=True)["figures"]["epoch"] == 2
    assert torch.load(path.with_name("last.pt"), weights_only=True)["figures"]["epoch"] == 4


def test_no_patient_is_both_trained_on_and_kept_apart(folder) -> None:
    settings = settings_of(folder, "split", limit=0, synthetic=0)

    kept, tuned = train.training_sets(settings)
    _, held_out = train.held_out_of(settings, settings.size)

    patients = [set(part.groups) for part in (kept, tuned, held_out)]
    assert all(patients)
    assert sum(map(len, patients)) == len(set.union(*patients))


def test_a_balanced_epoch_shows_every_kind_equally_often(folder) -> None:
    labels = np.array([[0, 0, 0]] * 12 + [[1, 1, 0]] * 3 + [[1, np.nan, np.nan]], dtype=np.float32)

    balanced = torch.cat(train.batches(settings_of(folder, "b", sampling="balanced", batch=1), labels, 0))
    uniform = torch.cat(train.batches(settings_of(folder, "u", batch=1), labels, 0))

    assert sorted((int((balanced < 12).sum()), int((balanced == 15).sum()))) == [5, 6] or (
        int((balanced < 12).sum()) in (5, 6) and int((balanced == 15).sum()) in (5, 6)
    )
    assert sorted(uniform.tolist()) == list(range(16))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "elsewhere"], "no such folder"),
        (["--data", "cxr", "--init", "nothing.pt"], "nothing.pt"),
        (["--data", "cxr", "--resume"], "nothing to resume"),
    ],
)
def test_train_says_what_is_wrong(arguments, message, folder, capsys) -> None:
    small = ["--size", "32", "--synthetic", "0", "--epochs", "1", "--batch", "4"]

    assert train.main(["chest_xray", *arguments, *small]) == 1
    assert message in capsys.readouterr().err


# --- what it shows the network ---------------------------------------------------------------------------


def test_a_box_becomes_a_mask_and_moves_with_its_image() -> None:
    boxes = torch.tensor([[0.25, 0.5, 0.5, 1.0], [float("nan")] * 4])
    masks = train.box_masks(boxes, 8)

    assert masks[0, 0].nonzero().min(dim=0).values.tolist() == [4, 2]
    assert masks[0].sum() == 4 * 2
    assert masks[1].sum() == 0

    # The picture is its own mask: wherever the change moves it, both must stay together.
    pictures = torch.zeros(16, 1, 64, 64)
    pictures[:, :, 20:44, 12:30] = 1.0
    moved, masks = augmentation.augment(pictures, pictures, 64, torch.Generator().manual_seed(3))
    correlation = torch.corrcoef(torch.stack([moved.flatten(), masks.flatten()]))[0, 1]
    assert correlation > 0.9


def test_a_blend_is_the_weighted_sum_of_two_images_and_their_labels() -> None:
    images = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 1, 2, 2)
    labels = torch.arange(6.0).view(6, 1).repeat(1, 2)
    labels[5, 1] = float("nan")

    blended, truth, share = augmentation.mix(images, labels, 1.0, torch.Generator().manual_seed(0))
    alone, kept, whole = augmentation.mix(images, labels, 0.0, torch.Generator().manual_seed(0))

    torch.testing.assert_close(truth[:, 0], blended[:, 0, 0, 0])
    assert ((share >= 0) & (share <= 1)).all()
    assert torch.isnan(truth[:, 1]).sum() >= 1
    torch.testing.assert_close(alone, images)
    torch.testing.assert_close(kept, labels, equal_nan=True)
    assert (whole == 1).all()


def test_foreign_pictures_are_in_range_and_none_is_the_image_itself() -> None:
    image = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(1)).expand(64, 1, 32, 32)

    made = augmentation.make_foreign(image, torch.Generator().manual_seed(2))

    assert made.shape == image.shape
    assert 0 <= made.min() <= made.max() <= 1
    assert ((made - image).abs().amax(dim=(1, 2, 3)) > 0.1).all()
    assert len(torch.unique(made.sum(dim=(1, 2, 3)).round(decimals=3))) > 10
    assert augmentation.make_foreign(image[:0], torch.Generator()).shape == (0, 1, 32, 32)


def test_a_synthetic_consolidation_brings_its_box(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)

    made = data.synthetic_radiographs(4, size=32, first_seed=50)

    assert np.isnan(made.boxes[::2]).all()
    left, top, right, bottom = made.boxes[1]
    assert 0 <= left < right <= 1
    assert 0 <= top < bottom <= 1


# --- weights from elsewhere ------------------------------------------------------------------------------


class DenseNet(nn.Module):
    """Laid out as TorchXRayVision's: torchvision's feature layers for one channel, classifier, thresholds."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.features = RadiographNetwork(3).trunk
        for part in self.features.modules():
            if isinstance(part, nn.BatchNorm2d):
                nn.init.uniform_(part.running_mean, -0.1, 0.1)
        self.classifier = nn.Linear(1024, 18)
        self.register_buffer("op_threshs", torch.rand(18))


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_torchxrayvision_checkpoint_starts_the_trunk(is_whole: bool, tmp_path: Path) -> None:
    theirs, path = DenseNet().eval(), tmp_path / "xrv.pt"
    torch.save(theirs if is_whole else theirs.state_dict(), path)
    network = RadiographNetwork(3).eval()

    stages = checkpoints.load_initial(network, f"torchxrayvision:{path}")

    # Ours takes 0 to 1, theirs -1024 to 1024: away from the padded border the first layers must agree.
    image = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        ours = network.trunk.norm0(network.trunk.conv0((image - MEAN) / STANDARD_DEVIATION))
        wanted = theirs.features.norm0(theirs.features.conv0(2048.0 * image - 1024.0))
    torch.testing.assert_close(ours[..., 2:-2, 2:-2], wanted[..., 2:-2, 2:-2], rtol=1e-3, atol=0.5)
    torch.testing.assert_close(
        network.trunk.denseblock4.state_dict(), theirs.features.denseblock4.state_dict()
    )
    assert stages == [{"started_from": "TorchXRayVision, xrv.pt"}]


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("exploded"),))


def test_nothing_in_a_checkpoint_is_run(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weights": Bomb()}, "bomb.pt")

    with pytest.raises(checkpoints.CheckpointError):
        checkpoints.read_state_dict(Path("bomb.pt"))
    assert not Path("exploded").exists()


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({"features.conv0.weight": torch.zeros(64, 3, 7, 7)}, "no DenseNet-121 for gray images"),
        ([1, 2], "holds list"),
        (b"not a checkpoint", "cannot be read"),
    ],
)
def test_a_file_without_the_weights_is_refused(stored, message, tmp_path) -> None:
    path = tmp_path / "wrong.pt"
    if isinstance(stored, bytes):
        path.write_bytes(stored)
    else:
        torch.save(stored, path)

    with pytest.raises(checkpoints.CheckpointError, match=message):
        checkpoints.load_initial(RadiographNetwork(3), f"torchxrayvision:{path}")
