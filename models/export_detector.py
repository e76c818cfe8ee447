"""Write trained detectors as one ensemble: `python -m models.export chest_xray_lesions --checkpoint FILE…`.

Each member is one graph from the picture to its boxes; the combine graph lays their answers beside each
other, and the node joins them (node.imaging.boxes).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit, logit
from torch import Tensor, nn

from models import card, detector_card, policy, repository
from models.checkpoints import CheckpointError
from models.configuration import WEIGHTS, Release, combine_name, member_tensor
from models.data import DataFolderError
from models.detector import LESIONS, FasterRcnn, YoloDetector
from models.detector_calibration import Judged, calibration_error, fit_platts, judge
from models.detector_card import NAME
from models.detector_data import CALIBRATION_SEED, Film
from models.detector_fusion import Places, choose_thresholds, fit_fusions, fuse
from models.detector_graphs import COUNT, EDGE, NAMED_OUTPUTS, Platt, StackGraph, detector_graph
from models.detector_kinds import KindGraph
from models.detector_lessons import KINDS, DetectorSettings
from models.detector_metrics import Boxes, largest_difference
from models.detector_sets import calibration_films
from models.detector_views import expose, show
from models.ensemble_export import ExportError, remove_others, weights_path
from models.graphs import OPSET, export_graph
from models.serving import EnsembleGraphs
from models.train_detector import detect, read_checkpoint, to_boxes, truths_of
from models.train_kinds import read_kinds
from node.domain.card import Fusion

CALIBRATION_FILMS = 240
# How strongly the copies of films are changed that an interval is to hold: half of what training shows.
CHANGE = 0.5
PARITY_FILMS = 12
# Below this a box may be in one answer alone: rounding decides what just passes a suppression.
PARITY_SCORE = 0.05
PARITY_TOLERANCE = {"boxes": 0.05, "scores": 0.001}
# An image of a request is decoded and pooled for itself; a batch gains little.
SERVING = policy.Serving(max_batch_size=8, preferred_batch_sizes=(1, 4, 8))

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Trained:
    """A checkpoint read back."""

    network: FasterRcnn | YoloDetector
    stages: list[Json]
    settings: DetectorSettings


def read_members(checkpoints: Sequence[Path]) -> dict[str, Trained]:
    """Return the detectors by the names of their models; raises ExportError unless they make one ensemble."""
    read = [Trained(*read_checkpoint(path)) for path in checkpoints]
    named = {one.settings.model: one for one in sorted(read, key=lambda one: one.settings.model)}
    if len(named) < len(read):
        raise ExportError(f"two members of one kind among {[one.settings.model for one in read]}")
    if len(sizes := {one.settings.size for one in read}) > 1:
        raise ExportError(f"members take images of {sorted(sizes)} pixels, expected one size for all")
    return named


def export_detectors(
    checkpoints: Sequence[Path],
    target: Path,
    version: str,
    *,
    films: int,
    folders: tuple[str, str],
    kinds: Path,
) -> None:
    """Calibrate, write every file of the ensemble below `target`, and prove that the graphs agree.

    `kinds` is the checkpoint of the network that names what either finds. `folders` are those of real films
    with boxes of lungs and of normal ones, empty where there are none.
    """
    members = read_members(checkpoints)
    settings = replace(next(iter(members.values())).settings, lungs=folders[0], normals=folders[1])
    unseen = calibration_films(settings, films)
    judged = {name: judge_films(one, unseen) for name, one in members.items()}
    platts = {name: fit_platts(one) for name, one in judged.items()}
    namer, kind_stages = read_kinds(kinds)
    graphs = {
        name: KindGraph(detector_graph(one.network, settings.size, platts[name]), namer).eval()
        for name, one in members.items()
    }
    write_graphs(graphs, target, settings.size, Release(version, SERVING))
    differences = measure_parity(graphs, unseen[:PARITY_FILMS], target)
    if not all(value <= PARITY_TOLERANCE[name] for name, value in differences.items()):
        raise ExportError(f"served graphs differ from PyTorch by {differences}, allowed {PARITY_TOLERANCE}")
    fusions, thresholds = calibrate_fusion(target, unseen, synthetic=films)
    document = detector_card.parts(
        size=settings.size,
        platts=platts,
        classes=detector_card.classes(fusions, thresholds),
        errors={name: errors_of(one, platts[name]) for name, one in judged.items()},
        counts={"synthetic": films, "real": len(unseen) - films},
        stages={name: one.stages for name, one in members.items()} | {KINDS: kind_stages},
    )
    document["parity"] = {
        "against": "PyTorch float32, each box with the closest of its label, from a score of "
        f"{PARITY_SCORE:g} on",
        "images": min(PARITY_FILMS, len(unseen)),
        "largest_difference": differences,
        "tolerance": PARITY_TOLERANCE,
    }
    write_cards(document, list(graphs), target, version)


def judge_films(trained: Trained, films: Sequence[Film]) -> Judged:
    """Return what became of the detections of a network on films, with scores as they are."""
    found = detect(trained.network, films, trained.settings)
    flags = [(film.is_lesion_labelled, film.is_lung_labelled) for film in films]
    return judge(found, truths_of(films), flags)


def calibrate_fusion(
    target: Path, films: Sequence[Film], *, synthetic: int
) -> tuple[list[Fusion], list[float]]:
    """Return what makes the fusion of the served members honest on films, and the thresholds, by label.

    Thresholds follow from so many films at the beginning alone, the synthetic ones: they have lesions, and
    deceive more often than the real normal ones.
    """
    flags = [(film.is_lesion_labelled, film.is_lung_labelled) for film in films]
    truths = truths_of(films)
    places = find_places(target, [film.pixels.astype(np.float32) / 255.0 for film in films])
    random = torch.Generator().manual_seed(CALIBRATION_SEED)
    copies = [expose(show([film], 0.0, random)[0], CHANGE, random)[0, 0].numpy() for film in films]
    fusions = fit_fusions(places, find_places(target, copies), truths, flags)
    found = [one.calibrated(fusions) for one in places]
    return fusions, choose_thresholds(found[:synthetic], truths[:synthetic], flags[:synthetic])


def find_places(target: Path, images: Sequence[NDArray[np.float32]]) -> list[Places]:
    """Return what the served members say together of images (s, s) in 0–1."""
    graphs, places = EnsembleGraphs(target, NAME), []
    for image in images:
        answer = graphs.infer([image])
        members = [
            to_boxes(*(answer[output][:, index] for output in NAMED_OUTPUTS))[0]
            for index in range(len(graphs.members))
        ]
        places.append(fuse(members))
    return places


def errors_of(judged: Judged, platts: Sequence[Platt]) -> dict[str, float]:
    """Return the calibration error of lesions before and after, on the films that it was fitted to."""
    own = judged.of(LESIONS)
    slope, offset = (
        np.array([getattr(platts[label - 1], name) for label in own.labels.tolist()])
        for name in ("slope", "offset")
    )
    inside = np.clip(own.scores, EDGE, 1 - EDGE)
    scores = expit(slope * logit(inside) + offset)
    after = Judged(own.labels, scores, own.outcomes)
    return {name: round(calibration_error(one), 4) for name, one in {"before": own, "after": after}.items()}


def write_graphs(graphs: Mapping[str, nn.Module], target: Path, size: int, release: Release) -> None:
    """Write the ONNX files and the configurations of members, combine graph and ensemble."""
    for name, graph in graphs.items():
        image = {"image": torch.zeros(2, 1, size, size)}
        # As float32: halved weights move scores, and with them which of two boxes is suppressed.
        export_graph(graph, image, NAMED_OUTPUTS, weights_path(target, name))
    # In the order of the configuration that the ensemble is written by.
    answers: dict[str, Tensor] = {
        "boxes": torch.zeros(2, COUNT, 4),
        "scores": torch.zeros(2, COUNT),
        "labels": torch.zeros(2, COUNT, dtype=torch.int64),
        "kinds": torch.zeros(2, COUNT, len(LESIONS)),
    }
    joined = {member_tensor(output, name): answers[output] for output in NAMED_OUTPUTS for name in graphs}
    export_graph(StackGraph(), joined, NAMED_OUTPUTS, weights_path(target, combine_name(NAME)))
    repository.write_ensemble(target, NAME, list(graphs), release)


@torch.no_grad()
def measure_parity(graphs: Mapping[str, nn.Module], films: Sequence[Film], target: Path) -> dict[str, float]:
    """Return the largest difference of boxes in pixels and of scores, PyTorch against the served ensemble."""
    images, _ = show(films, 0.0, torch.Generator())
    served = EnsembleGraphs(target, NAME).infer(list(images[:, 0].numpy()))
    pairs = [
        largest_difference(sure(one), sure(other))
        for index, graph in enumerate(graphs.values())
        for one, other in zip(
            to_boxes(*(served[name][:, index] for name in NAMED_OUTPUTS)),
            to_boxes(*(one.numpy() for one in graph(images))),
            strict=True,
        )
    ]
    return dict(zip(PARITY_TOLERANCE, (max(values) for values in zip(*pairs, strict=True)), strict=True))


def sure(one: Boxes) -> Boxes:
    """Return the boxes that are compared."""
    chosen = one.scores >= PARITY_SCORE
    return Boxes(one.boxes[chosen], one.labels[chosen], one.scores[chosen])


def write_cards(document: Json, members: Sequence[str], target: Path, version: str) -> None:
    """Write the cards; the ensemble has no metrics until models.evaluate --write-card adds them."""
    common = {"version": version, "notice": card.NOTICE, "exported": datetime.now(UTC).date().isoformat()}
    weights = []
    for name in (*members, combine_name(NAME)):
        digest = repository.file_digest(target / name / "1" / WEIGHTS)
        weights.append({"model": name, "file": f"{name}/1/{WEIGHTS}", "sha256": digest})
        role = {"name": name, "part_of": NAME, **common, "sha256": digest, "opset": OPSET}
        card.write_card(target / name, role)
    kept = {"serving": policy.to_card(SERVING), "weights": weights, "metrics": []}
    card.write_card(target / NAME, {"name": NAME, **common, **document, **kept})
    remove_others(target, NAME, {NAME, combine_name(NAME), *members})


def main(arguments: list[str] | None = None) -> int:
    """Read the command line and export; 0 done, 1 failed, 2 wrong use."""
    parser = argparse.ArgumentParser(prog="python -m models.export", description=__doc__)
    parser.add_argument("model", choices=[NAME])
    parser.add_argument("--checkpoint", type=Path, required=True, nargs="+", help="one for each member")
    parser.add_argument("--kinds", type=Path, required=True, help="that of chest_xray_kinds")
    parser.add_argument("--films", type=int, default=CALIBRATION_FILMS, help="synthetic ones to calibrate on")
    parser.add_argument("--lungs", default="", help="the folder of real films with boxes of lungs")
    parser.add_argument("--normals", default="", help="the folder of real films without a finding")
    parser.add_argument("--repository", type=Path, default=repository.SHIPPED)
    parser.add_argument("--version", default="1.0.0")
    options = parser.parse_args(arguments)
    folders = (options.lungs, options.normals)
    try:
        export_detectors(
            options.checkpoint,
            options.repository,
            options.version,
            films=options.films,
            folders=folders,
            kinds=options.kinds,
        )
    except (DataFolderError, CheckpointError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ExportError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"written: {options.repository / NAME}; now: python -m models.evaluate {NAME} --write-card")
    return 0
