"""Write a trained network as two graphs: `python -m models.export slide_tumor --checkpoint FILE`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models import card, policy, repository, slide_card
from models.calibration import Calibration, calibrate_class, choose_threshold
from models.checkpoints import CheckpointError
from models.configuration import WEIGHTS, Release
from models.ensemble_export import ExportError
from models.graphs import OPSET, Combination, export_graph
from models.serving import open_graph, run_graph
from models.slide import EMBEDDING, SlideNetwork
from models.slide_data import CALIBRATION_SEED, TRAIN_SEED, Bag, load_slides
from models.slide_graphs import SLIDE_OUTPUTS, TILE_OUTPUTS, TILES_FREE, Known, MilEnsemble, TileGraph
from models.slide_lessons import SLIDES, SlideSettings, embed, read_tiles
from models.strangeness import fit_gaussian, fit_standards, fit_subspace, fit_threshold, score
from models.train import commit
from models.train_slide import make_network

NAME, TILES = SLIDES, f"{SLIDES}_tiles"
CALIBRATION_SLIDES = 80
CHANGES = 2
# Embeddings of so many training slides make the subspace.
EXAMPLES = 24
# An eighth of an embedding's length: what lies outside of more is only the rounding of the weights.
DIRECTIONS = 16
# Of the tiles of slides without a tumor so many may look like it: that needs no label of any tile. Of 0.5,
# 1 and 2 % this one gave the areas of the calibration slides' tumors best.
FALSE_TILES = 0.01
PARITY_SLIDES, PARITY_TILES = 4, 32
PARITY_TOLERANCE = {
    "embeddings": 0.05,
    "textures": 0.02,
    "probability": 0.01,
    "interval": 0.02,
    "out_of_distribution": 0.05,
    "attention": 0.01,
    "tile_probability": 0.05,
}
TILE_SERVING = policy.Serving(max_batch_size=64, preferred_batch_sizes=(16, 32, 64))
# A slide is a request of its own: no two have the same number of tiles.
SLIDE_SERVING = policy.Serving(max_batch_size=1, preferred_batch_sizes=(1,))

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Trained:
    """A checkpoint read back."""

    network: SlideNetwork
    settings: SlideSettings
    stages: list[Json]
    figures: Mapping[str, float]


def read_checkpoint(path: Path) -> Trained:
    """Return a trained network; raises FileNotFoundError and CheckpointError."""
    stored: Json = torch.load(path, map_location="cpu", weights_only=True)
    last = stored["stages"][-1]
    if last.get("model") != NAME:
        raise CheckpointError(f"{path} is no checkpoint of {NAME}")
    names = {field.name for field in fields(SlideSettings)}
    settings = SlideSettings(**{name: value for name, value in last.items() if name in names})
    network = make_network(settings).eval()
    try:
        network.load_state_dict(stored["weights"])
    except RuntimeError as error:
        raise CheckpointError(f"{path} is no whole training of slides: {error}") from error
    return Trained(network, settings, stored["stages"], stored["figures"])


def export_slides(checkpoint: Path, target: Path, version: str, *, slides: int = CALIBRATION_SLIDES) -> None:
    """Calibrate on unseen synthetic slides, write both graphs with their cards, and prove that they agree."""
    trained = read_checkpoint(checkpoint)
    settings = trained.settings
    known, _ = load_slides(
        min(EXAMPLES, settings.slides), TRAIN_SEED, settings.shape, workers=settings.threads
    )
    unseen, _ = load_slides(slides, CALIBRATION_SEED, settings.shape, workers=settings.threads)
    calibration, ensemble = calibrate(trained.network, known, unseen)
    tile_threshold = choose_tile_threshold(trained.network, ensemble, unseen)
    graphs: dict[str, nn.Module] = {TILES: TileGraph(trained.network.encoder).eval(), NAME: ensemble}
    write_graphs(graphs, target, settings.tile)
    differences = measure_parity(graphs, target, unseen)
    if too_large := {
        name: value for name, value in differences.items() if not value <= PARITY_TOLERANCE[name]
    }:
        raise ExportError(f"served graphs differ from PyTorch by {too_large}, allowed {PARITY_TOLERANCE}")
    documents = slide_card.documents(
        settings, trained.stages, calibration, heads=len(ensemble.heads), commit=commit()
    )
    documents[NAME] |= slide_card.tile_threshold_part(tile_threshold, FALSE_TILES)
    for name, serving in ((TILES, TILE_SERVING), (NAME, SLIDE_SERVING)):
        document = describe(name, target, version) | documents[name]
        parity = {
            name: value
            for name, value in differences.items()
            if (name in TILE_OUTPUTS) == (serving is TILE_SERVING)
        }
        document |= {"parity": described_parity(parity), "serving": policy.to_card(serving), "metrics": []}
        card.write_card(target / name, document)
        repository.write_graph(target, repository.read_graph(target, name), Release(version, serving))


def calibrate(
    network: SlideNetwork, known: Sequence[Bag], unseen: Sequence[Bag]
) -> tuple[Calibration, MilEnsemble]:
    """Return what makes the heads of attention honest, and the graph that holds it."""
    examples = [
        torch.cat(one).numpy()
        for one in zip(*(read_tiles(network.encoder, bag) for bag in known), strict=True)
    ]
    usual = Known(fit_subspace(examples[0], DIRECTIONS), fit_gaussian(examples[1]))
    # The same changes for every head: a slide is stained once.
    random = torch.Generator().manual_seed(CALIBRATION_SEED)
    shown = [
        [embed(network.encoder, bag, strength=0.5 if number else 0.0, random=random) for bag in unseen]
        for number in range(1 + CHANGES)
    ]
    heads = list(network.heads["attention"])
    logits = np.stack([[[logits_of(head, picture)] for picture in shown] for head in heads])
    truth = np.array([bag.is_tumor for bag in unseen], dtype=np.float32)
    fitted = calibrate_class(logits, truth, choose_threshold(card.WANTED_SENSITIVITY[slide_card.CLASS]))
    strangeness = np.stack([np.array([strangeness_of(usual, network, bag) for bag in unseen])] * len(heads))
    standards = fit_standards(strangeness)
    threshold = fit_threshold([score(strangeness, standards)])
    combination = Combination(
        [fitted.interval_constant], [fitted.conformal_quantile], standards.mean, standards.deviation
    )
    print(f"{slide_card.CLASS}: {fitted}; out of distribution from {threshold:.3f} on", flush=True)
    calibration = Calibration((fitted,), standards, threshold, len(unseen), len(unseen), len(unseen))
    return calibration, MilEnsemble(heads, fitted.temperature, combination, usual).eval()


@torch.no_grad()
def choose_tile_threshold(network: SlideNetwork, ensemble: MilEnsemble, unseen: Sequence[Bag]) -> float:
    """Return the probability that FALSE_TILES of the tiles of slides without a tumor reach."""
    healthy = (read_tiles(network.encoder, bag) for bag in unseen if not bag.is_tumor)
    said = torch.cat([ensemble(*(part[None] for part in one))[-1][0] for one in healthy])
    threshold = float(np.quantile(said.numpy(), 1 - FALSE_TILES))
    print(f"a tile counts as tumor from {threshold:.4f} on", flush=True)
    return round(threshold, 4)


@torch.no_grad()
def logits_of(head: nn.Module, embeddings: Sequence[Tensor]) -> NDArray[np.float32]:
    """Return the logit of each slide (n,)."""
    return np.array([head(one[None]).logits.item() for one in embeddings], dtype=np.float32)


def strangeness_of(usual: Known, network: SlideNetwork, bag: Bag) -> list[float]:
    """Return how strange the tiles of a slide are in the mean, by embedding and by texture."""
    embeddings, textures = (one.numpy() for one in read_tiles(network.encoder, bag))
    distances = usual.embeddings.distance(embeddings), usual.textures.distance(textures)
    return [float(one.mean()) for one in distances]


def write_graphs(graphs: Mapping[str, nn.Module], target: Path, tile: int) -> None:
    """Write the ONNX files."""
    image = {"image": torch.zeros(2, tile, tile, 3, dtype=torch.uint8)}
    export_graph(graphs[TILES], image, TILE_OUTPUTS, target / TILES / "1" / WEIGHTS, form="float16")
    textures = len(graphs[NAME].texture_center)
    asked = {"embeddings": torch.randn(2, 3, EMBEDDING), "textures": torch.rand(2, 3, textures)}
    path = target / NAME / "1" / WEIGHTS
    # The heads are small: halving their weights would save nothing.
    export_graph(graphs[NAME], asked, SLIDE_OUTPUTS, path, free=TILES_FREE)


@torch.no_grad()
def measure_parity(graphs: Mapping[str, nn.Module], target: Path, unseen: Sequence[Bag]) -> dict[str, float]:
    """Return the largest difference of each output on unseen slides, PyTorch against both graphs in a row."""
    served = {name: open_graph(target / name / "1" / WEIGHTS) for name in graphs}
    largest = dict.fromkeys(PARITY_TOLERANCE, 0.0)
    for bag in unseen[:PARITY_SLIDES]:
        tiles = np.array(bag.tiles[:PARITY_TILES])
        found = run_graph(served[TILES], {"image": tiles})
        wanted = graphs[TILES](torch.from_numpy(tiles))
        found |= run_graph(served[NAME], {name: found[name][None] for name in TILE_OUTPUTS})
        said = graphs[NAME](*(one[None] for one in wanted))
        pairs = dict(zip((*TILE_OUTPUTS, *SLIDE_OUTPUTS), (*wanted, *said), strict=True))
        for name in largest:
            largest[name] = max(largest[name], float(np.abs(found[name] - pairs[name].numpy()).max()))
    return largest


def describe(name: str, target: Path, version: str) -> Json:
    """Return the part of a card that every model has."""
    path = target / name / "1" / WEIGHTS
    return {
        "name": name,
        "version": version,
        "notice": card.NOTICE,
        "exported": datetime.now(UTC).date().isoformat(),
        "opset": OPSET,
        "weights": [{"model": name, "file": f"{name}/1/{WEIGHTS}", "sha256": repository.file_digest(path)}],
    }


def described_parity(differences: Mapping[str, float]) -> Json:
    """Return what a card says of the agreement of its graph with PyTorch."""
    return {
        "against": "PyTorch float32, weights as trained; the graph of slides after that of tiles",
        "images": PARITY_SLIDES,
        "largest_difference": dict(differences),
        "tolerance": {name: PARITY_TOLERANCE[name] for name in differences},
    }
