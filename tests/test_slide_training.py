"""Slides become bags of tiles, and bags train an encoder and heads by the labels of slides alone."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")

import torch

from models import card, evaluate, export, slide_data, train
from models.evaluate_slide import pixel_area
from models.export_slide import read_checkpoint
from models.metrics import area_under_curve
from models.slide import GatedAttentionMil, MilAnswer, TileEncoder
from models.slide_data import Bag, Shape, cut_bag, load_slides, read_slide, write_slide
from models.slide_lessons import (
    SlideSettings,
    balanced_batches,
    change,
    draw_bags,
    draw_tiles,
    embed,
    falling,
    read_tiles,
    slide_loss,
    turn,
)
from models.train_slide import train_head
from node.engines.onnx import OnnxEngine
from node.engines.repository import ModelRepository
from node.pipelines.scores import to_scores
from tests.marked_slides import MarkedSlide, marked_slide

SHAPE = Shape(side=512, tile=32, micrometers_per_pixel=4.0)


def cut(seed: int, *, is_tumor: bool) -> tuple[Bag, slide_data.Truth]:
    sample = marked_slide(seed, is_tumor=is_tumor)
    return cut_bag(sample, SHAPE, is_tumor=is_tumor, slide=f"marked-{seed}")


@pytest.fixture(scope="module")
def bags() -> list[Bag]:
    return [cut(seed, is_tumor=seed % 2 == 1)[0] for seed in range(6)]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, where slides of dots are drawn in place of synthetic tissue."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(slide_data, "drawn", draw_marked)
    return tmp_path


def draw_marked(seed: int, _: Shape) -> MarkedSlide:
    return marked_slide(seed, is_tumor=slide_data.is_tumor(seed))


# --- bags -------------------------------------------------------------------------------------------------


def test_a_bag_holds_the_tiles_with_tissue_at_the_wanted_magnification() -> None:
    bag, truth = cut(1, is_tumor=True)

    # 128 micrometers are 64 pixels of this slide: six by six tiles within the frame of glass.
    assert bag.tiles.shape == (36, 32, 32, 3)
    assert bag.is_tumor
    assert truth.side == 4
    assert truth.tumor.shape == (32, 32)
    assert bag.tiles.mean() < 220


def test_the_truth_lies_where_its_tiles_are() -> None:
    bag, truth = cut(3, is_tumor=True)

    shares, darkness = truth.shares(), 255 - bag.tiles.mean(axis=(1, 2, 3))

    assert sorted(set(shares.tolist())) == [0, 1]
    assert shares.sum() == 4
    assert darkness[shares == 1].min() > darkness[shares == 0].max()


def test_tiles_are_compressed_as_they_would_be_stored() -> None:
    bag, _ = cut(2, is_tumor=False)

    assert len(np.unique(bag.tiles.reshape(-1, 3), axis=0)) > 100


def test_a_slide_comes_back_from_its_files(tmp_path: Path) -> None:
    bag, truth = cut(5, is_tumor=True)
    write_slide(tmp_path, 5, bag, truth)

    again, its_truth = read_slide(tmp_path, 5)

    np.testing.assert_array_equal(again.tiles, bag.tiles)
    np.testing.assert_array_equal(again.stains, bag.stains)
    np.testing.assert_array_equal(its_truth.corners, truth.corners)
    assert (again.is_tumor, again.slide, its_truth.side) == (True, "marked-5", truth.side)
    assert isinstance(again.tiles, np.memmap)


def test_slides_are_drawn_once(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = load_slides(3, 10, SHAPE)
    monkeypatch.setattr(slide_data, "drawn", None)

    again, _ = load_slides(3, 10, SHAPE)

    assert [bag.slide for bag in again] == ["synthetic-10", "synthetic-11", "synthetic-12"]
    assert [bag.is_tumor for bag in again] == [False, True, False]
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.tiles, other.tiles)


def test_a_slide_that_was_half_written_is_drawn_again(workplace: Path) -> None:
    first, _ = load_slides(1, 10, SHAPE)
    (table,) = Path("runs/cache").glob("*/10.npz")
    table.unlink()
    np.save(table.with_suffix(".npy"), first[0].tiles[:1])

    again, _ = load_slides(1, 10, SHAPE)

    assert len(again[0]) == len(first[0]) > 1
    assert table.is_file()


# --- what an epoch shows ----------------------------------------------------------------------------------


def test_half_of_every_batch_has_a_tumor(bags: list[Bag]) -> None:
    batches = balanced_batches(bags, 2, torch.Generator().manual_seed(1))

    assert len(batches) == 3
    assert sorted(one for batch in batches for one in batch) == list(range(6))
    assert all(sum(bags[one].is_tumor for one in batch) == 1 for batch in batches)


def test_slides_of_one_kind_alone_still_make_batches(bags: list[Bag]) -> None:
    assert [len(batch) for batch in balanced_batches(bags[::2], 2, torch.Generator())] == [2]


@pytest.mark.parametrize(("length", "count"), [(10, 4), (4, 10), (5, 5)])
def test_no_tile_is_drawn_twice_before_all_were(length: int, count: int) -> None:
    drawn = draw_tiles(length, count, torch.Generator().manual_seed(1)).tolist()

    assert len(drawn) == count
    counts = [drawn.count(one) for one in range(length)]
    assert max(counts) - min(counts) <= 1


def test_without_strength_tiles_are_shown_as_they_are(bags: list[Bag]) -> None:
    tiles, stains = torch.from_numpy(bags[0].tiles[:2])[None], torch.from_numpy(bags[0].stains)[None]

    shown = change(tiles, stains, 0.0, torch.Generator())

    torch.testing.assert_close(shown[0].permute(0, 2, 3, 1), tiles[0] / 255.0)


def test_a_turned_tile_has_the_pixels_it_had() -> None:
    tiles = torch.rand(1, 40, 6, 6, 3, generator=torch.Generator().manual_seed(2))

    turned = turn(tiles, torch.Generator().manual_seed(3))

    found, wanted = (one.flatten(2, 3).sort(dim=2).values for one in (turned, tiles))
    torch.testing.assert_close(found, wanted)
    assert not torch.equal(turned, tiles)


def test_drawn_tiles_differ_from_epoch_to_epoch_and_not_with_their_seed(bags: list[Bag]) -> None:
    settings = SlideSettings(out="", tiles=5)

    courses = [draw_bags(bags[:2], settings, torch.Generator().manual_seed(seed))[0] for seed in (1, 1, 2)]

    assert courses[0].shape == (2, 5, 3, 32, 32)
    assert torch.equal(courses[0], courses[1])
    assert not torch.equal(courses[0], courses[2])


def test_all_tiles_of_a_slide_are_stained_alike(bags: list[Bag]) -> None:
    one = Bag(np.repeat(bags[0].tiles[:1], 70, axis=0), bags[0].stains, False, "")
    # Of a tile of one color nothing but its color can change.
    one.tiles[:] = one.tiles.mean(axis=(1, 2), keepdims=True).astype(np.uint8)
    encoder = TileEncoder(width=4).eval()

    _, found = read_tiles(encoder, one, strength=1.0, random=torch.Generator().manual_seed(4))

    torch.testing.assert_close(found, found[:1].expand_as(found), rtol=1e-3, atol=1e-3)
    assert (found[0] - read_tiles(encoder, one)[1][0]).abs().max() > 1e-2


# --- loss -------------------------------------------------------------------------------------------------


def test_what_helps_at_first_falls_to_a_tenth() -> None:
    assert [falling(0.5, done) for done in (0.0, 0.5, 1.0)] == pytest.approx([0.5, 0.158, 0.05], abs=1e-3)


def test_each_tile_may_be_asked_for_the_label_of_its_slide() -> None:
    answer = MilAnswer(torch.zeros(2), torch.full((2, 2), 0.5), torch.tensor([[1.0, 3.0], [-1.0, 0.0]]))
    labels = torch.tensor([1.0, 0.0])

    without, both = (slide_loss(answer, labels, smoothing=0.0, entropy=0.0, tiles=w) for w in (0.0, 0.5))

    each = torch.nn.functional.softplus(torch.tensor([-1.0, -3.0, -1.0, 0.0])).mean()
    torch.testing.assert_close(both, without + 0.5 * each)


def test_the_loss_falls_with_even_attention() -> None:
    logits, labels = torch.tensor([2.0, -1.0]), torch.tensor([1.0, 0.0])
    even, single = torch.full((2, 4), 0.25), torch.eye(4)[:2]

    losses = [
        slide_loss(MilAnswer(logits, one, one), labels, smoothing=0.0, entropy=0.3) for one in (even, single)
    ]

    plain = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
    torch.testing.assert_close(torch.stack(losses), torch.stack([plain - 0.3, plain]))


# --- training ---------------------------------------------------------------------------------------------

FEW = ["--side", "512", "--tile", "32", "--width", "8", "--batch", "4", "--tiles", "16", "--threads", "1"]
FEW += ["--micrometers-per-pixel", "4"]
FEW += ["--heads", "2", "--views", "2", "--head-tiles", "36", "--tuning", "6"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder where a training on slides of dots was run, and the slides can still be drawn."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("trained"))
        patch.setattr(slide_data, "drawn", draw_marked)
        options = ["--slides", "32", "--epochs", "8", "--learning-rate", "0.005", "--out", "runs/slide"]
        assert train.main(["slide_tumor", *FEW, *options]) == 0
        yield Path("runs/slide/slide.pt").absolute()


@pytest.mark.timeout(300)
def test_a_training_by_labels_of_slides_finds_the_tumor(trained: Path) -> None:
    found = read_checkpoint(trained)

    assert found.settings.slides == 32
    assert found.figures["attention"] > 0.9
    # No tile was ever labelled: that they are told apart comes from the labels of slides.
    areas = []
    for seed in (71, 73, 75):
        bag, truth = cut(seed, is_tumor=True)
        with torch.no_grad():
            answer = found.network.heads["attention"][0](embed(found.network.encoder, bag)[None])
        is_tumor = truth.shares() > 0.5
        areas += [
            area_under_curve(is_tumor, one[0].numpy()) for one in (answer.attention, answer.tile_logits)
        ]
    assert np.mean(areas) > 0.9


@pytest.mark.timeout(300)
def test_a_checkpoint_becomes_two_graphs_that_are_measured(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["slide_tumor", "--checkpoint", str(trained), "--slides", "12", "--version", "0.0.1"]
    assert export.main(options) == 0, capsys.readouterr().err
    options = ["slide_tumor", "--slides", "8", "--side", "512", "--repeats", "20", "--threads", "1"]

    assert evaluate.main([*options, "--checkpoint", str(trained), "--write-card"]) == 0

    shown = capsys.readouterr().out
    assert all(name in shown for name in ("served", "attention", "max", "mean", "Tumor from"))
    described = card.read_card(Path("triton_repo/slide_tumor"))
    assert described["version"] == "0.0.1"
    assert described["classes"][0]["code"] == ["108369006", "SCT", "Tumor"]
    (measured,) = described["metrics"]
    assert measured["slides"] == 8
    assert measured["served"]["auc"][0] > 0.8
    assert measured["served"]["tile_probability_pixel_auc_tissue"][0] > 0.8
    engine = OnnxEngine(ModelRepository(Path("triton_repo")), threads=1)
    for model in ("slide_tumor_tiles", "slide_tumor"):
        engine.check(model)
        parity = card.read_card(Path("triton_repo") / model)["parity"]
        assert all(value <= parity["tolerance"][name] for name, value in parity["largest_difference"].items())
    bag, _ = cut(75, is_tumor=True)
    read = engine.infer("slide_tumor_tiles", {"image": np.array(bag.tiles)})
    outputs = engine.infer("slide_tumor", {name: values[None] for name, values in read.items()})
    (score,) = to_scores("slide_tumor", engine.card("slide_tumor"), outputs)
    assert score.probability == pytest.approx(outputs["probability"][0, 0])
    assert outputs["attention"].shape == outputs["tile_probability"].shape == (1, len(bag))


def test_where_attention_lies_is_measured_by_pixels() -> None:
    tumor = np.zeros((8, 8), dtype=np.bool_)
    tumor[0:4, 0:4] = True
    truth = slide_data.Truth(tumor, np.array([[0.0, 0.0], [4.0, 0.0]]), 4.0)

    right, wrong = np.array([0.9, 0.1]), np.array([0.1, 0.9])

    assert [pixel_area(truth, one, is_everywhere=False) for one in (right, wrong)] == [1, 0]
    # Most of the slide was not shown to any network: it is rightly passed over.
    assert pixel_area(truth, wrong, is_everywhere=True) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["slide_tumor", "--checkpoint", "a.pt", "b.pt"], "exported from one checkpoint"),
        (["chest_xray", "--checkpoint", "a.pt"], "--data is required"),
    ],
)
def test_an_export_that_cannot_be_meant_is_refused(
    command: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        export.main(command)

    assert words in capsys.readouterr().err


def test_a_run_that_is_resumed_goes_on_after_the_last_finished_epoch(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["slide_tumor", *FEW, "--slides", "4", "--head-epochs", "1", "--out", "runs/slide"]
    assert train.main([*options, "--epochs", "1"]) == 0
    capsys.readouterr()

    assert train.main([*options, "--epochs", "1", "--resume"]) == 0

    # The encoder is done; only the heads are trained anew.
    lines = capsys.readouterr().out.splitlines()
    assert not [json.loads(line) for line in lines if line.startswith("{")]
    assert any(line.startswith("heads in") for line in lines)


def test_there_is_nothing_to_resume_without_a_run(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(["slide_tumor", *FEW, "--slides", "4", "--resume", "--out", "runs/none"]) == 1
    assert "nothing to resume" in capsys.readouterr().err


def test_an_encoder_of_another_kind_is_refused(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"weights": TileEncoder(width=4).state_dict(), "stages": []}, "other.pt")

    status = train.main(["slide_tumor", *FEW, "--slides", "4", "--init", "other.pt", "--out", "runs/x"])

    assert status == 1
    assert "has no encoder of this kind" in capsys.readouterr().err


def test_heads_that_draw_otherwise_become_others(bags: list[Bag]) -> None:
    settings = SlideSettings(out="", head_epochs=2, head_tiles=8, views=1)
    views = [[torch.randn(36, 8, generator=torch.Generator().manual_seed(one))] for one in range(len(bags))]
    heads = [GatedAttentionMil(embedding=8, hidden=4) for _ in range(3)]

    for head, seed in zip(heads, (1, 1, 2), strict=True):
        torch.manual_seed(9)
        train_head(head, settings, bags, views, random=torch.Generator().manual_seed(seed))

    weights = [head.evidence.weight for head in heads]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
