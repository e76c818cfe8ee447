"""Nodules become patches, patches train a network, and trained networks become what is served."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("SimpleITK")

import SimpleITK as sitk  # noqa: N813 - the name its own documentation uses
import torch

from models import card, export, nodules, train, train_volume
from models.candidates import candidates_of
from models.data import DataFolderError
from models.losses import dice_loss, voxel_focal_loss
from models.nodules import SCORES, SIDE
from models.patches import (
    LUNG_HU,
    Example,
    PatchDataset,
    fill_outside,
    starts,
    tissue_beside,
)
from models.volume_augmentation import expose, make_foreign, move, nudge
from node.engines.onnx import OnnxEngine
from node.engines.repository import ModelRepository

SPACING_ZYX_MM = (2.0, 0.7, 0.7)


def voi(random: np.random.Generator, radius_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """Return HU and mask of a ball in grainy lung, with a vessel beside it."""
    shape = (10, 42, 42)
    axes = [(np.arange(size) - size / 2) * step for size, step in zip(shape, SPACING_ZYX_MM, strict=True)]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    mask = z**2 + y**2 + x**2 < radius_mm**2
    hounsfield = np.where(mask, 40.0, -850.0) + 20.0 * random.standard_normal(shape)
    hounsfield[(y + 12) ** 2 + x**2 < 4] = 30.0
    return np.round(hounsfield).astype(np.int16), mask


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as that of LIDC-IDRI: twelve patients to train on and two for val, each with one ball."""
    root, random = tmp_path_factory.mktemp("ct_voi"), np.random.default_rng(4)
    lines = []
    for number in range(14):
        radius = 3.0 + 0.4 * (number % 8)
        for kind, values in zip(("image", "mask"), voi(random, radius), strict=True):
            image = sitk.GetImageFromArray(values.astype(np.int16))
            image.SetSpacing(SPACING_ZYX_MM[::-1])
            (root / kind).mkdir(exist_ok=True)
            sitk.WriteImage(image, str(root / kind / f"{number}.nii.gz"))
        line = {"image": f"image/{number}.nii.gz", "mask": f"mask/{number}.nii.gz"}
        line |= {"patient_id": f"P{number}", "split": "train" if number < 12 else "val"}
        line |= {"label_value": int(radius > 4.4), "diameter_mm": 2 * radius}
        lines.append(line | {f"{name}_value": 1 + number % 5 for name in SCORES})
    with (root / "labels.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, lines[0].keys())
        writer.writeheader()
        writer.writerows(lines)
    return root


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def settings(folder: Path, **changes: object) -> train_volume.VolumeSettings:
    return train_volume.VolumeSettings(data=str(folder), out="runs/x", **changes)  # type: ignore[arg-type]


# --- nodules -----------------------------------------------------------------------------------------------


def test_a_nodule_lies_in_the_middle_of_its_cube_with_the_volume_it_had(
    folder: Path, workplace: Path
) -> None:
    loaded = nodules.load_nodules(folder, split="train")

    wanted = [
        nodules.read_voi(row).mask.sum() * np.prod(SPACING_ZYX_MM)
        for row in nodules.read_rows(folder, split="train")
    ]
    volumes = loaded.masks.sum(axis=(1, 2, 3)) / 255.0
    # Linear sampling of a mask of 2 mm slices moves its volume by some per cent.
    np.testing.assert_allclose(volumes, wanted, rtol=0.15)
    for mask in loaded.masks:
        places = np.argwhere(mask > 127)
        np.testing.assert_allclose((places.min(axis=0) + places.max(axis=0)) / 2, (SIDE - 1) / 2, atol=1)
    spans = loaded.bounds[:, :, 1] - loaded.bounds[:, :, 0]
    assert spans.tolist() == [[20, 30, 30]] * 12 or np.abs(spans - [20, 29.4, 29.4]).max() <= 1


def test_a_mask_comes_back_from_the_grid_where_it_was(folder: Path) -> None:
    one = nodules.read_voi(nodules.read_rows(folder, split="train")[7])
    center = (np.array(one.mask.shape) - 1) / 2

    sampled, _ = nodules.to_grid(one.mask, one, center, (32, 40, 48))
    back = nodules.from_grid(sampled, one, center) > 0.5

    assert 2 * (back & one.mask).sum() / (back.sum() + one.mask.sum()) > 0.9


def test_nobody_is_both_learned_from_and_held_out(folder: Path, workplace: Path) -> None:
    kept, held_out = nodules.hold_out(nodules.load_nodules(folder, split="train"), 0.25)

    assert len(held_out) == 3
    assert len(kept) == 9
    assert not set(kept.groups) & set(held_out.groups)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda root: (root / "labels.csv").unlink(), "no labels.csv"),
        (lambda root: (root / "image" / "0.nii.gz").unlink(), "1 nodules"),
        (lambda root: (root / "labels.csv").write_text("image,mask\n"), "lacks the columns patient_id"),
    ],
)
def test_a_folder_that_lacks_something_says_what(folder: Path, tmp_path: Path, change, words: str) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    change(copy)

    with pytest.raises(DataFolderError, match=words):
        nodules.read_rows(copy, split="train")


# --- patches -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "patch", "stride", "wanted"),
    [(10, 4, 3, [0, 3, 6]), (11, 4, 3, [0, 3, 6, 7]), (4, 4, 2, [0]), (3, 4, 2, [0])],
)
def test_patches_begin_so_that_all_is_covered(
    length: int, patch: int, stride: int, wanted: list[int]
) -> None:
    assert starts(length, patch, stride) == wanted


def example(shape: tuple[int, int, int] = (12, 16, 20)) -> Example:
    hounsfield = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    mask = np.zeros(shape, dtype=np.float32)
    mask[tuple(size // 2 for size in shape)] = 1
    return Example(hounsfield, mask, np.ones(shape, dtype=np.float32))


def test_the_grid_shows_every_voxel_and_overlaps_as_asked() -> None:
    patches = PatchDataset([example()], (6, 8, 8), (3, 4, 4))

    seen = np.unique(torch.stack([patch for patch, _, _ in patches]).numpy())

    assert len(patches) == 3 * 3 * 4
    assert len(seen) == 12 * 16 * 20


def test_as_many_patches_as_asked_hold_foreground() -> None:
    patches = PatchDataset([example()], (4, 4, 4), (4, 4, 4), foreground=0.5, seed=3)

    has_nodule = [bool(mask.any()) for _, mask, _ in patches]

    assert len(patches) == 2 * 3 * 4 * 5
    assert all(has_nodule[60:])
    assert sum(has_nodule[:60]) == 1


def test_foreground_may_stand_anywhere_in_its_patch() -> None:
    patches = PatchDataset([example()], (4, 4, 4), (4, 4, 4), foreground=0.5, seed=3)

    places = {tuple(np.argwhere(mask[0].numpy())[0]) for _, mask, _ in list(patches)[60:]}

    assert len(places) > 20


def test_patches_in_which_nothing_counts_are_left_out() -> None:
    whole = example()
    weight = np.zeros(whole.weight.shape, dtype=np.float32)
    weight[0, 0, 0] = 1

    patches = PatchDataset([replace(whole, weight=weight)], (4, 4, 4), (4, 4, 4))

    assert patches.corners == [(0, (0, 0, 0))]


def test_an_epoch_seeded_alike_cuts_the_same_patches() -> None:
    patches = PatchDataset([example()], (4, 4, 4), (4, 4, 4), foreground=0.5)

    courses = []
    for seed in (5, 5, 6):
        patches.reseed(seed)
        courses.append(torch.stack([mask for _, mask, _ in list(patches)[60:]]))

    assert torch.equal(courses[0], courses[1])
    assert not torch.equal(courses[0], courses[2])


def test_a_patch_larger_than_its_volume_ends_in_lung_of_unknown_truth() -> None:
    hounsfield, mask, weight = PatchDataset([example((4, 4, 4))], (8, 4, 4), (8, 4, 4))[0]

    assert (hounsfield[0, 4:] == LUNG_HU).all()
    assert not weight[0, 4:].any()
    assert weight[0, :4].all()
    assert mask.sum() == mask[0, 2, 2, 2] == 1


def test_places_beside_a_nodule_are_tissue_and_not_the_nodule(folder: Path, workplace: Path) -> None:
    loaded = nodules.load_nodules(folder, split="train")

    places = tissue_beside(loaded, 0)

    assert len(places)
    voxels = places + SIDE // 2
    assert (loaded.hounsfield[0][tuple(voxels.T)] > -500).all()
    distances = [np.linalg.norm(np.argwhere(loaded.masks[0] > 0) - voxel, axis=1).min() for voxel in voxels]
    assert min(distances) > 4


# --- changes -----------------------------------------------------------------------------------------------


def test_without_strength_a_cube_is_cut_as_it_is() -> None:
    volumes = torch.arange(2 * 16**3).reshape(2, 1, 16, 16, 16).float()

    still = move(volumes, torch.tensor([[0.0, 0.0, 0.0], [1.0, -2.0, 3.0]]), 8, torch.Generator(), 0.0)

    torch.testing.assert_close(still[0], volumes[0, :, 4:12, 4:12, 4:12], rtol=0, atol=0.01)
    torch.testing.assert_close(still[1], volumes[1, :, 5:13, 2:10, 7:15], rtol=0, atol=0.01)


def test_a_mask_moves_with_its_nodule() -> None:
    ball = torch.zeros(8, 1, 32, 32, 32)
    ball[:, :, 12:18, 14:20, 10:16] = 1.0

    moved = move(ball.repeat(1, 2, 1, 1, 1), torch.zeros(8, 3), 24, torch.Generator().manual_seed(1))

    torch.testing.assert_close(moved[:, 0], moved[:, 1])
    assert moved[:, 0].flatten(1).sum(dim=1).min() > 100
    assert not torch.equal(moved[0], moved[1])


def test_what_is_known_stays_and_what_is_not_becomes_lung() -> None:
    hounsfield, weight = torch.full((4, 1, 8, 8, 8), 40.0), torch.zeros(4, 1, 8, 8, 8)
    weight[..., :4] = 1.0

    filled = fill_outside(hounsfield, weight, None, torch.Generator().manual_seed(2))

    assert (filled[..., :4] == 40).all()
    assert (filled[..., 4:] < -400).all()


@pytest.mark.parametrize("change", [expose, make_foreign, nudge])
def test_changed_cubes_stay_cubes_of_finite_hounsfield_units(change) -> None:
    cubes = torch.randint(-1000, 300, (4, 1, 12, 12, 12)).float()

    changed = change(cubes, torch.Generator().manual_seed(3))

    assert changed.shape == cubes.shape
    assert torch.isfinite(changed).all()
    assert not torch.equal(changed, cubes)


def test_dice_loss_is_nothing_for_the_truth_and_all_for_its_opposite() -> None:
    mask = torch.zeros(2, 1, 8, 8, 8)
    mask[:, :, 2:6, 2:6, 2:6] = 1.0
    weight = torch.ones_like(mask)

    right, wrong = (dice_loss(sign * 40.0 * (2.0 * mask - 1.0), mask, weight) for sign in (1, -1))

    assert right < 0.02
    assert wrong > 0.95


def test_voxels_of_unknown_truth_weigh_nothing() -> None:
    logits, mask = torch.randn(1, 1, 4, 4, 4), torch.zeros(1, 1, 4, 4, 4)
    weight = torch.ones_like(mask)
    weight[..., 2:] = 0.0
    other = torch.where(weight > 0, logits, 9.0)

    for loss in (dice_loss, voxel_focal_loss):
        torch.testing.assert_close(loss(logits, mask, weight), loss(other, mask, weight))


# --- training and export -----------------------------------------------------------------------------------

FEW = ["--epochs", "1", "--width", "8", "--batch", "4", "--held-out", "0.34", "--tuning", "0.25"]


@pytest.mark.timeout(300)
def test_classifiers_train_and_become_an_ensemble(
    folder: Path, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = [*FEW, "--side", "32", "--foreign", "0.3"]
    for trunk in ("resnet18", "densenet"):
        options = ["chest_ct", "--data", str(folder), *few, "--trunk", trunk, "--out", f"runs/{trunk}"]
        assert train.main(options) == 0
    checkpoints = ["runs/resnet18/last.pt", "runs/densenet/last.pt"]

    status = export.main(
        ["chest_ct", "--checkpoint", *checkpoints, "--data", str(folder), "--version", "0.0.1"]
    )

    assert status == 0, capsys.readouterr().err
    described = card.read_card(Path("triton_repo/chest_ct"))
    assert described["input"]["shape"] == [1, 32, 32, 32]
    assert described["input"]["spacing_mm"] == [1.0, 1.0, 1.0]
    assert [entry["name"] for entry in described["classes"]] == ["Nodule", "Malignant"]
    assert described["training"]["data"]["lidc"]["counts"]["patients"] == 8
    repository = ModelRepository(Path("triton_repo"))
    assert repository.card("chest_ct").input_spacing_zyx_mm == (1.0, 1.0, 1.0)
    engine = OnnxEngine(repository, threads=1)
    engine.check("chest_ct")
    shown = candidates_of(nodules.load_nodules(folder, split="val"), 32).hounsfield[:, None]
    outputs = engine.infer("chest_ct", {"image": shown})
    assert outputs["probability"].shape == (len(shown), 2)
    assert (outputs["interval"][..., 0] <= outputs["probability"]).all()


@pytest.mark.timeout(300)
def test_segmenters_train_and_become_one_graph(
    folder: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from models import export_masks

    monkeypatch.setattr(export_masks, "WINDOW_ZYX", (64, 64, 64))
    for seed in ("1", "2"):
        options = ["chest_ct_nodules", "--data", str(folder), *FEW, "--side", "16", "--trunk", "unet"]
        assert train.main([*options, "--seed", seed, "--out", f"runs/{seed}"]) == 0
    checkpoints = [f"runs/{seed}/last.pt" for seed in ("1", "2")]

    status = export.main(["chest_ct_nodules", "--checkpoint", *checkpoints, "--data", str(folder)])

    assert status == 0
    described = card.read_card(Path("triton_repo/chest_ct_nodules"))
    tolerance = described["parity"]["tolerance"]
    assert all(value <= tolerance[name] for name, value in described["parity"]["largest_difference"].items())
    engine = OnnxEngine(ModelRepository(Path("triton_repo")), threads=1)
    engine.check("chest_ct_nodules")
    outputs = engine.infer("chest_ct_nodules", {"image": np.full((1, 1, 64, 64, 64), -860, dtype=np.int16)})
    assert outputs["probability"].shape == (1, 1, 64, 64, 64)
    assert (outputs["entropy"] >= outputs["mutual_information"]).all()


def test_a_run_that_is_resumed_goes_on_after_the_last_finished_epoch(
    folder: Path, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"model": "chest_ct", "width": 8, "side": 32, "batch": 4, "tuning": 0.25}
    run = settings(folder, epochs=2, **options)
    begin = train_volume.epoch

    class StoppedError(Exception):
        pass

    def begin_once(*given: object) -> object:
        if Path("runs/x/state.pt").is_file():
            raise StoppedError
        return begin(*given)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_volume, "epoch", begin_once)
        with pytest.raises(StoppedError):
            train_volume.train(run)
    first = torch.load("runs/x/last.pt", weights_only=True)
    capsys.readouterr()

    resumed = torch.load(train_volume.train(run, is_resumed=True), weights_only=True)

    epochs = [json.loads(line)["epoch"] for line in capsys.readouterr().out.splitlines() if line[0] == "{"]
    assert (first["figures"]["epoch"], resumed["figures"]["epoch"], epochs) == (1, 2, [2])
    assert all(value.isfinite().all() for value in resumed["weights"].values())


def test_a_run_may_begin_with_the_weights_of_another(folder: Path, workplace: Path) -> None:
    options = {"model": "chest_ct", "width": 8, "side": 32, "batch": 4, "tuning": 0.25, "epochs": 1}
    started = Path(shutil.copy(train_volume.train(settings(folder, **options)), "first.pt"))

    again = train_volume.train(settings(folder, init=str(started), learning_rate=0.0, **options))

    weights = torch.load(started, weights_only=True)["weights"]
    for name, value in torch.load(again, weights_only=True)["weights"].items():
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(value, weights[name], msg=name)
