"""`sightline bench inference`: the engine beside bare ONNX Runtime."""

import math
import os
from typing import Annotated

import typer

import node
from node.bench.inference import BARE, ENGINE, PEERS, ROUND, Figures, InferenceBench, bench_inference
from node.cli.output import AsJson, ConfigurationFile, Progression, print_json, print_table, say
from node.config import load
from node.index import Json

MIB = 1 << 20


def measure_inference(
    model: Annotated[str, typer.Option(metavar="NAME", help="The model in the repository.")] = "chest_xray",
    images: Annotated[int, typer.Option(min=1, help="How many synthetic radiographs.")] = 100,
    config: ConfigurationFile = None,
    as_json: AsJson = False,
) -> None:
    """Run radiographs one by one through the engine, and a bare ONNX Runtime loop over the same files."""
    settings = load(config).engine
    with Progression("measured", math.ceil(images / ROUND)) as progress:
        bench = bench_inference(
            settings, model, images, on_round=lambda done: progress.advance(f"{done} images")
        )
    if as_json:
        print_json(_account(bench))
    else:
        _show(bench)


def _account(bench: InferenceBench) -> Json:
    return {
        "benchmark": "inference",
        "node_version": node.__version__,
        "model": bench.model,
        "model_version": bench.version,
        "input_shape": list(bench.input_shape),
        "threads": bench.threads,
        "cores": os.cpu_count(),
        "ways": {way: _describe(figures) for way, figures in bench.figures_by_way.items()},
        "ratio_by_peer": {peer: round(bench.ratio(peer), 4) for peer in PEERS},
    }


def _describe(figures: Figures) -> Json:
    return {
        "images": len(figures.seconds),
        "images_per_s": round(figures.images_per_s, 4),
        "latency_median_ms": round(figures.latency_ms(50), 3),
        "latency_p95_ms": round(figures.latency_ms(95), 3),
        "peak_memory_mib": round(figures.peak_memory_bytes / MIB, 1),
    }


def _show(bench: InferenceBench) -> None:
    words_by_way = {ENGINE: "engine of the node", **PEERS}
    columns = ("way", "images/s", "engine is", "median ms", "95 % within ms", "peak MiB")
    print_table(columns, [_row(bench, way, words) for way, words in words_by_way.items()])
    shape = " × ".join(map(str, bench.input_shape))
    images = len(bench.figures_by_way[ENGINE].seconds)
    say(
        f"\n{bench.model} {bench.version}: {images} images of {shape}, one by one, {bench.threads} threads "
        f"on {os.cpu_count()} cores, in turns of {ROUND};\n"
        "each way in a process of its own, with its peak resident memory."
    )
    say(f"engine / bare loop: {bench.ratio(BARE):.2f}")


def _row(bench: InferenceBench, way: str, words: str) -> list[str]:
    figures = bench.figures_by_way[way]
    return [
        words,
        f"{figures.images_per_s:.2f}",
        "" if way == ENGINE else f"× {bench.ratio(way):.2f}",
        f"{figures.latency_ms(50):.1f}",
        f"{figures.latency_ms(95):.1f}",
        f"{figures.peak_memory_bytes / MIB:.0f}",
    ]
