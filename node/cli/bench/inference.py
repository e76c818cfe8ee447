"""`sightline bench inference`: the engine, embedded and on a Triton server, beside bare ONNX Runtime."""

import os
from typing import Annotated

import typer

import node
from node.bench.inference import Amounts, Case, InferenceBench, bench_inference, turns
from node.bench.ways import BARE, TRITON_SHARED, WORDS, Figures
from node.cli.output import AsJson, ConfigurationFile, Progression, print_json, print_table, say
from node.config import load
from node.index import Json

MIB = 1 << 20


def measure_inference(
    model: Annotated[str, typer.Option(metavar="NAME", help="The model in the repository.")] = "chest_xray",
    images: Annotated[int, typer.Option(min=1, help="How many radiographs, each time.")] = 40,
    volumes: Annotated[
        int, typer.Option(min=0, help="How many volumes of 512 × 512 × 300, each time; they take 7 GiB.")
    ] = 8,
    config: ConfigurationFile = None,
    as_json: AsJson = False,
) -> None:
    """Run a model by the engine in this process, on a Triton server, and by a bare ONNX Runtime loop.

    One study and eight at a time. The server is the one of the configuration, whatever engine it names; where
    there is none, its rows say so. Volumes need one in its explicit mode, which loads a model made for them.
    """
    settings, amounts = load(config).engine, Amounts(images, volumes)
    load_before = os.getloadavg()[0]
    with Progression("measured", turns(amounts)) as progress:
        bench = bench_inference(settings, model, amounts, on_turn=progress.advance)
    if as_json:
        print_json(_account(bench, load_before))
    else:
        _show(bench, load_before)


def _account(bench: InferenceBench, load_before: float) -> Json:
    return {
        "benchmark": "inference",
        "node_version": node.__version__,
        "model": bench.model,
        "model_version": bench.version,
        "threads": bench.threads,
        "cores": os.cpu_count(),
        "load_before": round(load_before, 2),
        "cases": [_describe_case(case) for case in bench.cases],
    }


def _describe_case(case: Case) -> Json:
    gain = case.gain_by_shared_memory
    return {
        "input": case.name,
        "input_shape": list(case.input_shape),
        "concurrency": case.concurrency,
        "ways": {way: _describe(case, way) for way in case.figures_by_way},
        "gain_by_shared_memory": None if gain is None else round(gain, 4),
        "without_triton": case.without_triton,
    }


def _describe(case: Case, way: str) -> Json:
    figures = case.figures_by_way[way]
    return {
        "images": len(figures.seconds),
        "images_per_s": round(figures.images_per_s, 4),
        "latency_median_ms": round(figures.median_ms, 3),
        "latency_p95_ms": round(figures.latency_ms(95), 3),
        "peak_memory_mib": round(figures.peak_memory_bytes / MIB, 1),
        "throughput_to_faster_bare": round(case.gain(way), 4),
        "latency_to_faster_bare": round(case.slowdown(way), 4),
    }


def _show(bench: InferenceBench, load_before: float) -> None:
    columns = ("way", "images/s", "× bare", "median ms", "× bare", "95 % within ms", "peak MiB")
    for case in bench.cases:
        shape = " × ".join(map(str, case.input_shape))
        say(f"{case.name}s of {shape}, {case.concurrency} at a time: {_images(case)} by each way\n")
        rows = [_row(words, case, case.figures_by_way.get(way), way) for way, words in WORDS.items()]
        print_table(columns, rows)
        for line in _remarks(case):
            say(line)
        say("")
    say(
        f"{bench.model} {bench.version}, {bench.threads} threads on {os.cpu_count()} cores, "
        f"load {load_before:.1f} before; ways take turns.\n"
        "× bare: as a multiple of the faster of both bare loops. Each way is a process of its own, with its\n"
        "peak resident memory; Triton's server has its own beside."
    )


def _images(case: Case) -> int:
    return len(case.figures_by_way[BARE].seconds)


def _row(words: str, case: Case, figures: Figures | None, way: str) -> list[str]:
    if figures is None:
        return [words, *["–"] * 6]
    return [
        words,
        f"{figures.images_per_s:.2f}",
        f"{case.gain(way):.2f}",
        f"{figures.median_ms:.1f}",
        f"{case.slowdown(way):.2f}",
        f"{figures.latency_ms(95):.1f}",
        f"{figures.peak_memory_bytes / MIB:.0f}",
    ]


def _remarks(case: Case) -> list[str]:
    if case.without_triton:
        return [f"Triton was not measured: {case.without_triton}"]
    gain, slowdown = case.gain_by_shared_memory, case.slowdown(TRITON_SHARED)
    return [f"Shared memory is {gain:.1f} × as fast as messages, and {slowdown:.2f} × the bare loop's time."]
