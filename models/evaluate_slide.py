"""Measure the model for slides: `python -m models.evaluate slide_tumor --slides 64 [--checkpoint FILE]`.

Runs the graphs of triton_repo/ on synthetic slides that no training has seen; with --checkpoint the heads of
each pooling before export too, or in their place with --bare. Where the tumor is was never learned from: it
measures whether attention found it. Intervals are 95 % bootstrap intervals over slides.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models import card, metrics
from models.checkpoints import CheckpointError
from models.evaluate_volume import add_to_card, decisions
from models.measure import as_json, cell
from models.serving import open_graph, run_graph
from models.slide_card import CLASS
from models.slide_data import TEST_SEED, Bag, Shape, Truth, load_slides
from models.slide_lessons import EMBED_AT_ONCE, SLIDES
from node.imaging.outlines import LEAST_TILES, find_islands

NAME, TILES = SLIDES, f"{SLIDES}_tiles"

Json = dict[str, Any]
Floats = NDArray[np.floating]


@dataclass(frozen=True, slots=True, eq=False)
class Said:
    """What was said of slides: probability (n,), and of the tiles of each their attention and probability."""

    probability: Floats
    attention: Sequence[Floats]
    tile_probability: Sequence[Floats]


def ask_graphs(repository: Path, bags: Sequence[Bag]) -> Said:
    """Return what the exported graphs say."""
    tiles, slide = (open_graph(repository / name / "1" / "model.onnx") for name in (TILES, NAME))
    answers = []
    for bag in bags:
        parts = [
            run_graph(tiles, {"image": np.array(bag.tiles[start : start + EMBED_AT_ONCE])})
            for start in range(0, len(bag), EMBED_AT_ONCE)
        ]
        read = {name: np.concatenate([part[name] for part in parts])[None] for name in parts[0]}
        answers.append(run_graph(slide, read))
    return Said(
        np.array([one["probability"][0, 0] for one in answers]),
        [one["attention"][0] for one in answers],
        [one["tile_probability"][0] for one in answers],
    )


def ask_checkpoint(path: Path, bags: Sequence[Bag]) -> dict[str, Said]:
    """Return what the heads of each pooling say, uncalibrated and in the mean."""
    import torch  # here, for measuring the exported graphs needs no torch

    from models.export_slide import read_checkpoint
    from models.slide_lessons import embed

    network = read_checkpoint(path).network
    answers: dict[str, list[tuple[Floats, ...]]] = {pooling: [] for pooling in network.heads}
    with torch.no_grad():
        for bag in bags:
            embeddings = embed(network.encoder, bag)[None]
            for pooling, heads in network.heads.items():
                each = [head(embeddings) for head in heads]
                parts = [
                    (torch.sigmoid(a.logits), a.attention[0], torch.sigmoid(a.tile_logits[0])) for a in each
                ]
                means = (torch.stack(part).mean(dim=0).numpy() for part in zip(*parts, strict=True))
                answers[pooling].append(tuple(means))
    return {
        pooling: Said(
            np.concatenate([one[0] for one in said]), [one[1] for one in said], [one[2] for one in said]
        )
        for pooling, said in answers.items()
    }


def measure(said: Said, bags: Sequence[Bag], truths: Sequence[Truth], repeats: int) -> Json:
    """Return the figures of slides, and of where attention and the tiles' own probability lie."""
    truth, slides = np.array([bag.is_tumor for bag in bags]), np.array([bag.slide for bag in bags])
    with_tumor = [index for index, one in enumerate(truths) if one.tumor.any()]
    measured: Json = {
        "auc": as_json(
            metrics.bootstrap(
                lambda drawn: metrics.area_under_curve(truth[drawn], said.probability[drawn]),
                slides,
                repeats=repeats,
            )
        ),
        "calibration_error": round(metrics.expected_calibration_error(truth, said.probability), 4),
        "brier_score": round(metrics.brier_score(truth, said.probability), 4),
    }
    for name, values in (("attention", said.attention), ("tile_probability", said.tile_probability)):
        for place, is_everywhere in (("tissue", False), ("slide", True)):
            areas = np.array(
                [pixel_area(truths[one], values[one], is_everywhere=is_everywhere) for one in with_tumor]
            )
            measured[f"{name}_pixel_auc_{place}"] = as_json(_mean(areas, slides[with_tumor], repeats))
    return measured


def area_error(said: Said, truths: Sequence[Truth], threshold: float) -> Floats:
    """Return for each slide with a tumor by how much its area is wrong, as a share of it (n,).

    What counts as tumor are the tiles from the threshold on that touch another such tile, as in the pipeline.
    """
    errors = []
    for truth, probability in zip(truths, said.tile_probability, strict=True):
        if area := int(truth.tumor.sum()):
            columns, rows = np.round(truth.corners / truth.side).astype(np.int64).T
            is_tumor = np.zeros((rows.max() + 1, columns.max() + 1), np.bool_)
            is_tumor[rows, columns] = probability >= threshold
            tiles = sum(island.size for island in find_islands(is_tumor, LEAST_TILES))
            errors.append(tiles * truth.side**2 / area - 1)
    return np.array(errors)


def _mean(values: Floats, groups: NDArray[np.str_], repeats: int) -> metrics.Estimate:
    return metrics.bootstrap(lambda drawn: float(np.nanmean(values[drawn])), groups, repeats=repeats)


def _median(values: Floats, groups: NDArray[np.str_], repeats: int) -> metrics.Estimate:
    return metrics.bootstrap(lambda drawn: float(np.median(values[drawn])), groups, repeats=repeats)


def pixel_area(truth: Truth, values: Floats, *, is_everywhere: bool) -> float:
    """Return the AUC of the values of tiles (n,) for the pixels of tumor; NaN if there is no tumor.

    Over the pixels of the tiles alone, which is the harder question; or everywhere on the slide, where what
    no network was shown counts as 0.
    """
    painted = np.full(truth.tumor.shape, np.nan)
    for place, value in zip(truth.places(), values.tolist(), strict=True):
        painted[place] = value
    chosen = np.ones_like(truth.tumor) if is_everywhere else ~np.isnan(painted)
    return metrics.area_under_curve(truth.tumor[chosen], np.nan_to_num(painted)[chosen])


def evaluate(options: argparse.Namespace) -> Json:
    """Return the whole result of one command."""
    started = time.monotonic()
    shape = shape_of(options)
    bags, truths = load_slides(options.slides, TEST_SEED, shape, workers=options.threads)
    truth = np.array([bag.is_tumor for bag in bags])
    arguments = f"--slides {options.slides} --side {options.side}"
    result: Json = {
        "model": NAME,
        "data": f"synthetic slides of {options.side} pixels, unseen seeds",
        "slides": len(bags),
        "tumors": int(truth.sum()),
        "tiles": sum(len(bag) for bag in bags),
    }
    if not options.bare:
        described = card.read_card(options.repository / NAME)
        said = ask_graphs(options.repository, bags)
        threshold = described["classes"][0]["threshold"]
        groups = np.array([bag.slide for bag in bags])
        errors = area_error(said, truths, described["tile_threshold"]["probability"])
        result |= {"served": measure(said, bags, truths, options.repeats)}
        result["decisions"] = {CLASS: decisions(truth, said.probability, threshold, groups, options)}
        result["tumor_area"] = {
            name: as_json(_median(values, groups[truth], options.repeats))
            for name, values in (("relative_error", errors), ("absolute_relative_error", np.abs(errors)))
        }
        result["source"] = {"version": described["version"], "weights": described["weights"]}
    if options.checkpoint:
        arguments += f" --checkpoint {options.checkpoint}"
        result["poolings"] = {
            pooling: measure(said, bags, truths, options.repeats)
            for pooling, said in ask_checkpoint(options.checkpoint, bags).items()
        }
    result["command"] = f"python -m models.evaluate {NAME} {arguments}"
    return result | {"seconds": round(time.monotonic() - started, 1)}


def shape_of(options: argparse.Namespace) -> Shape:
    """Return how slides are drawn and cut for the model that is asked."""
    if options.bare:
        from models.export_slide import read_checkpoint

        settings = read_checkpoint(options.checkpoint).settings
        return Shape(options.side, settings.tile, settings.micrometers_per_pixel)
    asked = card.read_card(options.repository / TILES)["input"]
    return Shape(options.side, asked["shape"][0], asked["micrometers_per_pixel"])


def table(result: Json) -> str:
    """Return the figures as text for people."""
    counts = f"{result['tumors']} of {result['slides']} with a tumor, {result['tiles']} tiles"
    lines = [f"{result['model']} on {result['data']}: {counts}; 95 % bootstrap intervals over slides"]
    columns = {"served": result["served"]} if "served" in result else {}
    columns |= result.get("poolings", {})
    lines.append(f"{'':<32}" + "".join(f"{name:>22}" for name in columns))
    for name in next(iter(columns.values())):
        lines.append(f"{name:<32}" + "".join(f"{_cell(one[name]):>22}" for one in columns.values()))
    for name, entry in result.get("decisions", {}).items():
        figures = ", ".join(f"{key} {cell(entry[key])}" for key in ("sensitivity", "specificity"))
        lines.append(f"{name} from {entry['threshold']:.3f} on: {figures}")
    for name, value in result.get("tumor_area", {}).items():
        lines.append(f"tumor area, median {name.replace('_', ' ')}: {cell(value)}")
    return "\n".join(lines)


def _cell(value: Any) -> str:
    return cell(value) if isinstance(value, list) else f"{value:.4f}"


MEASURES: Mapping[str, Any] = {NAME: evaluate}


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(prog="python -m models.evaluate", description=__doc__)
    parser.add_argument("model", choices=list(MEASURES))
    parser.add_argument("--slides", type=int, default=64, help="so many synthetic slides (default 64)")
    parser.add_argument(
        "--side", type=int, default=4096, help="pixels of the finest level along a side (default 4096)"
    )
    parser.add_argument("--repository", type=Path, default=Path("triton_repo"))
    parser.add_argument("--checkpoint", type=Path, help="measure each pooling of a checkpoint too")
    parser.add_argument("--bare", action="store_true", help="measure the checkpoint alone")
    parser.add_argument("--repeats", type=int, default=1000, help="bootstrap draws (default 1000)")
    parser.add_argument("--threads", type=int, default=2, help="processes that draw slides (default 2)")
    parser.add_argument("--write-card", action="store_true", help="put the figures into the model's card")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Read the command line and measure; 0 done, 1 failed, 2 wrong use."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    if options.bare and (options.write_card or not options.checkpoint):
        parser.error("--bare measures a --checkpoint alone, and a card speaks of the exported graphs")
    try:
        result = evaluate(options)
    except (OSError, CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.write_card:
        add_to_card(options.repository / NAME, result)
    print(json.dumps(result, ensure_ascii=False) if options.json else table(result))
    return 0
