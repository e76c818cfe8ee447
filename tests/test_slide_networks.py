"""Encoders of color tiles, heads that pool over a slide's tiles, and the two graphs that are served."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")

import torch

from models.graphs import Combination, export_graph
from models.losses import attention_entropy
from models.serving import open_graph, run_graph
from models.slide import (
    POOLINGS,
    TRUNKS,
    GatedAttentionMil,
    SlideNetwork,
    TileEncoder,
)
from models.slide_graphs import (
    SLIDE_OUTPUTS,
    TILE_OUTPUTS,
    TILES_FREE,
    Known,
    MilEnsemble,
    TileGraph,
)
from models.strangeness import fit_gaussian, fit_subspace

EMBEDDING, TEXTURE = 12, 6


def embeddings(slides: int = 2, n: int = 7, seed: int = 1) -> torch.Tensor:
    return torch.randn((slides, n, EMBEDDING), generator=torch.Generator().manual_seed(seed))


def textures(slides: int = 2, n: int = 7, seed: int = 1) -> torch.Tensor:
    return torch.randn((slides, n, TEXTURE), generator=torch.Generator().manual_seed(seed + 100))


def head(pooling: str = "attention", seed: int = 2) -> GatedAttentionMil:
    torch.manual_seed(seed)
    made = GatedAttentionMil(pooling, embedding=EMBEDDING, hidden=8).eval()
    if pooling == "attention":
        torch.nn.init.normal_(made.weight.weight, std=2.0)
    return made


def ensemble(heads: int = 3) -> MilEnsemble:
    parts = (heads, 2)
    standards = np.zeros(parts, dtype=np.float32), np.ones(parts, dtype=np.float32)
    return MilEnsemble(
        [head(seed=seed) for seed in range(heads)],
        [1.0, 2.0, 0.5][:heads],
        Combination([0.3], [0.8], *standards),
        Known(fit_subspace(embeddings(1, 40)[0].numpy(), 4), fit_gaussian(textures(1, 40)[0].numpy())),
    ).eval()


# --- encoder ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trunk", TRUNKS)
@torch.no_grad()
def test_an_encoder_gives_each_tile_an_embedding_of_common_length(trunk: str) -> None:
    torch.manual_seed(1)
    encoder = TileEncoder(trunk, width=4, embedding=16).eval()

    found = encoder(torch.rand(3, 3, 64, 64))

    assert found.shape == (3, 16)
    torch.testing.assert_close(found.square().mean(dim=1), torch.ones(3), rtol=0, atol=0.01)


@pytest.mark.parametrize("trunk", TRUNKS)
@torch.no_grad()
def test_a_texture_is_mean_and_deviation_of_the_first_layers_over_the_tile(trunk: str) -> None:
    torch.manual_seed(1)
    encoder = TileEncoder(trunk, width=4, embedding=16).eval()
    tiles = torch.rand(3, 3, 64, 64)

    found, texture = encoder.read(tiles)

    first = encoder.trunk[:3](encoder.scale(tiles)).flatten(2)
    wanted = torch.cat([first.mean(dim=2), first.std(dim=2, correction=0)], dim=1)
    torch.testing.assert_close(found, encoder(tiles))
    torch.testing.assert_close(texture[:, : wanted.shape[1]], wanted, rtol=1e-3, atol=1e-4)
    assert texture.shape[1] > wanted.shape[1]


@torch.no_grad()
def test_an_encoder_sees_color() -> None:
    torch.manual_seed(1)
    encoder = TileEncoder(width=4, embedding=16).eval()
    tile = torch.rand(1, 3, 64, 64)

    assert (encoder(tile) - encoder(tile.flip(1))).abs().max() > 0.01


def test_the_small_encoder_learns_in_all_its_layers() -> None:
    encoder = TileEncoder(width=4, embedding=16)
    for part in encoder.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.constant_(part.weight, 0.5)

    encoder(torch.rand(4, 3, 64, 64))[:, 0].sum().backward()

    assert all(one.grad is not None and one.grad.abs().sum() > 0 for one in encoder.trunk.parameters())


# --- pooling ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", POOLINGS)
@torch.no_grad()
def test_a_slide_is_the_mean_of_its_tiles_weighted_by_attention(pooling: str) -> None:
    answer = head(pooling)(embeddings())

    assert answer.logits.shape == (2,)
    torch.testing.assert_close(answer.attention.sum(dim=1), torch.ones(2))
    torch.testing.assert_close((answer.attention * answer.tile_logits).sum(dim=1), answer.logits)


@torch.no_grad()
def test_the_most_suspicious_tile_decides_where_the_largest_is_asked_for() -> None:
    answer = head("max")(embeddings())

    torch.testing.assert_close(answer.logits, answer.tile_logits.amax(dim=1))
    assert answer.attention.argmax(dim=1).tolist() == answer.tile_logits.argmax(dim=1).tolist()


@torch.no_grad()
def test_all_tiles_weigh_alike_where_the_mean_is_asked_for() -> None:
    answer = head("mean")(embeddings())

    torch.testing.assert_close(answer.logits, answer.tile_logits.mean(dim=1))
    torch.testing.assert_close(answer.attention, torch.full((2, 7), 1 / 7))


@torch.no_grad()
def test_attention_is_that_of_the_gated_form() -> None:
    made = head()
    features = made.features(embeddings())
    gated = torch.tanh(made.content(features)) * torch.sigmoid(made.gate(features))

    wanted = (gated @ made.weight.weight[0]).exp()

    torch.testing.assert_close(
        made(embeddings()).attention, wanted / wanted.sum(dim=1, keepdim=True), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("pooling", POOLINGS)
@torch.no_grad()
def test_the_order_of_the_tiles_says_nothing(pooling: str) -> None:
    order = torch.randperm(7, generator=torch.Generator().manual_seed(3))
    made = head(pooling)

    plain, turned = made(embeddings()), made(embeddings()[:, order])

    torch.testing.assert_close(turned.logits, plain.logits)
    torch.testing.assert_close(turned.attention, plain.attention[:, order])


def test_an_unknown_pooling_is_refused() -> None:
    with pytest.raises(ValueError, match="one of attention, max, mean"):
        GatedAttentionMil("median")


def test_attention_begins_alike_for_all_tiles() -> None:
    answer = GatedAttentionMil(embedding=EMBEDDING)(embeddings())

    torch.testing.assert_close(answer.attention, torch.full((2, 7), 1 / 7))


def test_a_network_has_an_ensemble_of_attention_and_one_head_of_each_other_pooling() -> None:
    network = SlideNetwork(TileEncoder(width=4, embedding=EMBEDDING), heads=3)

    assert {name: len(heads) for name, heads in network.heads.items()} == {
        "attention": 3,
        "max": 1,
        "mean": 1,
    }
    assert network(torch.rand(2, 5, 3, 32, 32)).attention.shape == (2, 5)


# --- entropy of attention ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attention", "wanted"),
    [([0.25] * 4, 1.0), ([1.0, 0.0, 0.0, 0.0], 0.0), ([0.5, 0.5, 0.0, 0.0], 0.5), ([1.0], 1.0)],
)
def test_entropy_is_one_for_even_attention_and_nothing_for_a_single_tile(
    attention: list[float], wanted: float
) -> None:
    assert attention_entropy(torch.tensor([attention])).item() == pytest.approx(wanted, abs=1e-5)


def test_a_single_tile_that_is_attended_to_leaves_finite_slopes() -> None:
    scores = torch.tensor([[200.0, 0.0, 0.0]], requires_grad=True)

    attention_entropy(torch.softmax(scores, dim=1)).backward()

    assert torch.isfinite(scores.grad).all()


# --- graphs -----------------------------------------------------------------------------------------------


@torch.no_grad()
def test_an_ensemble_says_all_that_a_result_needs() -> None:
    made = ensemble()

    said = dict(zip(SLIDE_OUTPUTS, made(embeddings(), textures()), strict=True))

    each = torch.stack(
        [
            torch.sigmoid(one(embeddings()).logits / t)
            for one, t in zip(made.heads, (1.0, 2.0, 0.5), strict=True)
        ]
    )
    torch.testing.assert_close(said["probability"][:, 0], each.mean(dim=0))
    torch.testing.assert_close(said["spread"][:, 0], each.std(dim=0, correction=0))
    torch.testing.assert_close(said["attention"].sum(dim=1), torch.ones(2))
    assert said["interval"].shape == said["prediction_set"].shape == (2, 1, 2)
    assert (said["interval"][..., 0] <= said["probability"]).all()
    assert (said["probability"] <= said["interval"][..., 1]).all()
    assert (said["mutual_information"] <= said["entropy"]).all()
    assert said["out_of_distribution"].shape == (2, 1)
    assert said["tile_probability"].shape == (2, 7)


@pytest.mark.parametrize("scales", [(5, 1), (1, 5)])
@torch.no_grad()
def test_tiles_like_no_other_are_told_by_embeddings_and_by_textures(scales: tuple[int, int]) -> None:
    made = ensemble()

    usual, strange = (
        made(by_meaning * embeddings(), by_texture * textures())[SLIDE_OUTPUTS.index("out_of_distribution")]
        for by_meaning, by_texture in ((1, 1), scales)
    )

    assert (strange > usual + 1).all()


@torch.no_grad()
def test_the_graph_of_tiles_gives_what_pytorch_gives(tmp_path: Path) -> None:
    torch.manual_seed(4)
    graph = TileGraph(TileEncoder(width=4, embedding=EMBEDDING)).eval()
    images = torch.randint(0, 256, (5, 64, 64, 3), dtype=torch.uint8)
    export_graph(graph, {"image": images[:2]}, TILE_OUTPUTS, tmp_path / "tiles.onnx")

    served = run_graph(open_graph(tmp_path / "tiles.onnx"), {"image": images.numpy()})

    for name, wanted in zip(TILE_OUTPUTS, graph(images), strict=True):
        np.testing.assert_allclose(served[name], wanted.numpy(), atol=1e-4, err_msg=name)
    wanted = graph.encoder(torch.stack([image.movedim(2, 0) for image in images]) / 255.0)
    np.testing.assert_allclose(served["embeddings"], wanted.numpy(), atol=1e-4)


@pytest.mark.parametrize(("slides", "n"), [(1, 1), (1, 300), (2, 7)])
@torch.no_grad()
def test_the_graph_of_slides_gives_what_pytorch_gives_for_any_number_of_tiles(
    tmp_path: Path, slides: int, n: int
) -> None:
    graph = ensemble()
    path = tmp_path / "slide.onnx"
    shown = {"embeddings": embeddings(2, 5), "textures": textures(2, 5)}
    export_graph(graph, shown, SLIDE_OUTPUTS, path, free=TILES_FREE)
    asked = {"embeddings": embeddings(slides, n, seed=9), "textures": textures(slides, n, seed=9)}

    session = open_graph(path)
    served = run_graph(session, {name: one.numpy() for name, one in asked.items()})

    lengths = {tensor.name: tensor.shape[1] for tensor in session.get_outputs()}
    assert [name for name, length in lengths.items() if length == "tiles"] == [
        "attention",
        "tile_probability",
    ]
    for name, wanted in zip(SLIDE_OUTPUTS, graph(*asked.values()), strict=True):
        np.testing.assert_allclose(served[name], wanted.numpy(), atol=1e-5, err_msg=name)
