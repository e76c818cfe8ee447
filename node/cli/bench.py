"""`sightline bench`: how fast the node is, each time beside a peer measured in the same run."""

import math
import os
from typing import Annotated

import typer

import node
from node.bench.encode import CASES, NODE, PLAIN, WAYS, Case, EncodingBench, bench_encoding
from node.bench.encode import Figures as EncodingFigures
from node.bench.inference import BARE, ENGINE, PEERS, ROUND, Figures, InferenceBench, bench_inference
from node.cli.output import AsJson, ConfigurationFile, Progression, print_json, print_table, say
from node.config import load
from node.index import Json

MIB, MB = 1 << 20, 1_000_000

app = typer.Typer(help="How fast the node is, beside a peer measured in the same run.", no_args_is_help=True)


@app.command("inference")
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


# --- encoding


@app.command("encode")
def measure_encoding(
    planes: Annotated[int, typer.Option(min=2, help="How many slices.")] = 300,
    size: Annotated[int, typer.Option(min=16, help="Rows, and columns, of a slice.")] = 512,
    rounds: Annotated[int, typer.Option(min=1, help="How often; the figures are medians.")] = 3,
    case: Annotated[list[str] | None, typer.Option(metavar="NAME", help="One of them alone.")] = None,
    as_json: AsJson = False,
) -> None:
    """Encode masks of one and of five segments in each form, and a map, and by highdicom's plain call."""
    cases = [one for one in CASES if not case or one.name in case]
    if unknown := set(case or ()) - {one.name for one in cases}:
        known = ", ".join(one.name for one in CASES)
        raise typer.BadParameter(f"{min(unknown)} is none of {known}", param_hint="--case")
    with Progression("encoded", rounds * len(cases)) as progress:
        bench = bench_encoding(
            planes, size, rounds, cases=cases, on_case=lambda done: progress.advance(done.name)
        )
    if as_json:
        print_json(_account_encoding(bench))
    else:
        _show_encoding(bench)


def _account_encoding(bench: EncodingBench) -> Json:
    return {
        "benchmark": "encode",
        "node_version": node.__version__,
        "planes": bench.planes,
        "size": bench.size,
        "rounds": bench.rounds,
        "cores": os.cpu_count(),
        "cases": {
            case.name: {
                "ways": {way: _describe_encoding(figures) for way, figures in ways.items()},
                "time_ratio": round(bench.ratio(case), 4),
                "memory_ratio": round(bench.memory_ratio(case), 4),
            }
            for case, ways in bench.figures.items()
        },
    }


def _describe_encoding(figures: EncodingFigures) -> Json:
    return {
        "build_s": round(figures.build_s, 4),
        "save_s": round(figures.save_s, 4),
        "total_s": round(figures.total_s, 4),
        "cpu_s": round(figures.cpu_s, 4),
        "extra_memory_mib": round(figures.extra_memory_bytes / MIB, 1),
        "file_mb": round(figures.file_bytes / MB, 3),
    }


ENCODING_COLUMNS = (
    *("object", "segments", "way", "build s", "save s", "CPU s"),
    *("extra MiB", "file MB", "node is", "in memory"),
)


def _show_encoding(bench: EncodingBench) -> None:
    print_table(ENCODING_COLUMNS, [_encoding_row(bench, case, way) for case in bench.figures for way in WAYS])
    say(
        f"\n{bench.size} × {bench.size} × {bench.planes}, headers and values in memory: medians of "
        f"{bench.rounds} on {os.cpu_count()} cores, in turns;\n"
        "each encoding in a process of its own, with its peak resident memory beyond that input.\n"
        "The pixels of both ways are the same."
    )


def _encoding_row(bench: EncodingBench, case: Case, way: str) -> list[str]:
    figures = bench.figures[case][way]
    return [
        case.form.replace("_", " "),
        str(case.segments or ""),
        {NODE: "node", PLAIN: "highdicom's plain call"}[way],
        f"{figures.build_s:.2f}",
        f"{figures.save_s:.2f}",
        f"{figures.cpu_s:.2f}",
        f"{figures.extra_memory_bytes / MIB:.0f}",
        f"{figures.file_bytes / MB:.1f}",
        "" if way == NODE else f"× {bench.ratio(case):.2f}",
        "" if way == NODE else f"× 1/{bench.memory_ratio(case):.2f}",
    ]
