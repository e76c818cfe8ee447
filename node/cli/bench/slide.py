"""`sightline bench slide`: tiles of a slide by the node, beside openslide and the decoding of JPEG."""

import os
from typing import Annotated

import typer

import node
from node.bench.slide import (
    CASES,
    DICOM,
    FILE,
    INFER,
    JPEG,
    OPENSLIDE,
    PREPARE,
    READ,
    READY,
    WAYS,
    WHOLE,
    Amounts,
    Case,
    Memory,
    SlideBench,
    bench_slide,
    steps,
)
from node.cli.output import AsJson, ConfigurationFile, Progression, print_json, print_table, say
from node.config import load
from node.index import Json

MIB = 1 << 20
LEAST_SIDE = 1024
WORDS = {
    READ: "node: read",
    PREPARE: "node: prepare",
    READY: "node: read and prepare",
    INFER: "node: infer",
    WHOLE: "node: whole",
    OPENSLIDE: "bare openslide loop",
    JPEG: "decoding of the stored JPEG alone",
}
CASE_WORDS = {DICOM: "DICOM, stored tiles as they lie", FILE: "a scanner's file, read by openslide"}
COLUMNS = ("way", "tiles/s", "× openslide", "(least–most)", "× JPEG")
MEMORY_COLUMNS = ("slide", "tiles", "before MiB", "beyond MiB", "peak MiB", "decoders MiB")


def measure_slide(
    sizes: Annotated[
        str, typer.Option(help="Pixels a side of the slides; speed is measured on the middle one.")
    ] = "5000,10000,20000",
    rounds: Annotated[int, typer.Option(min=1, help="How often; the figures are medians.")] = 3,
    threads: Annotated[int, typer.Option(min=1, help="That read, and those of the peers.")] = 2,
    config: ConfigurationFile = None,
    as_json: AsJson = False,
) -> None:
    """Read, prepare and infer the tiles of synthetic slides, and read them by a bare loop over openslide.

    Both from DICOM, whose stored tiles are used as they lie, and from a TIFF, which openslide reads for the
    node too. The memory of the whole is measured at each size.
    """
    settings, amounts = load(config).engine, Amounts(_sides(sizes), rounds, threads)
    load_before = os.getloadavg()[0]
    with Progression("measured", steps(amounts)) as progress:
        bench = bench_slide(settings, amounts, on_step=progress.advance)
    if as_json:
        print_json(_account(bench, load_before))
    else:
        _show(bench, load_before)


def _sides(sizes: str) -> tuple[int, ...]:
    try:
        sides = tuple(int(one) for one in sizes.split(","))
    except ValueError as error:
        raise typer.BadParameter(f"{sizes} is no list of numbers", param_hint="--sizes") from error
    if min(sides) < LEAST_SIDE or len(set(sides)) < len(sides):
        raise typer.BadParameter(
            f"{sizes}: expected different numbers from {LEAST_SIDE} on", param_hint="--sizes"
        )
    return sides


def _account(bench: SlideBench, load_before: float) -> Json:
    return {
        "benchmark": "slide",
        "node_version": node.__version__,
        "side": bench.side,
        "rounds": bench.rounds,
        "threads": bench.threads,
        "engine_threads": bench.engine_threads,
        "cores": os.cpu_count(),
        "load_before": round(load_before, 2),
        "cases": {name: _describe(case) for name, case in bench.case_by_name.items()},
        "memory": {str(side): _describe_memory(one) for side, one in bench.memory_by_side.items()},
        "memory_ratio": round(bench.memory_ratio, 4),
    }


def _describe(case: Case) -> Json:
    return {
        "tiles": case.tiles,
        "tiles_per_s": {way: round(case.speed(way), 1) for way in WAYS},
        **{
            f"to_{peer}": {way: [round(one, 3) for one in case.ratios(way, peer)] for way in WAYS}
            for peer in (OPENSLIDE, JPEG)
        },
    }


def _describe_memory(memory: Memory) -> Json:
    return {
        "tiles": memory.tiles,
        "before_mib": round(memory.before_bytes / MIB, 1),
        "beyond_mib": round((memory.peak_bytes - memory.before_bytes) / MIB, 1),
        "peak_mib": round(memory.peak_bytes / MIB, 1),
        "decoders_mib": round(memory.decoders_bytes / MIB, 1),
    }


def _show(bench: SlideBench, load_before: float) -> None:
    for name in CASES:
        case = bench.case_by_name[name]
        say(f"{CASE_WORDS[name]}: {case.tiles} tiles with tissue of {bench.side} × {bench.side} pixels\n")
        print_table(COLUMNS, [_row(case, way) for way in WAYS])
        say("")
    print_table(MEMORY_COLUMNS, [_memory_row(*one) for one in bench.memory_by_side.items()])
    say(
        f"\n{bench.threads} threads read, {bench.engine_threads} infer, on {os.cpu_count()} cores, load "
        f"{load_before:.1f} before; medians of {bench.rounds} rounds, ways take turns.\n"
        "Memory: the whole of the DICOM slide, each in a process of its own: resident before the slide is "
        "opened,\nthe peak beyond that and in all, and the peak of the processes that decode, shared memory "
        f"counted in each.\nLargest peak to smallest: {bench.memory_ratio:.3f}."
    )


def _row(case: Case, way: str) -> list[str]:
    least, middle, most = case.ratios(way, OPENSLIDE)
    return [
        WORDS[way],
        f"{case.speed(way):.0f}",
        f"{middle:.2f}",
        f"{least:.2f}–{most:.2f}",
        f"{case.ratios(way, JPEG)[1]:.2f}",
    ]


def _memory_row(side: int, memory: Memory) -> list[str]:
    described = _describe_memory(memory)
    figures = [f"{described[name]:.0f}" for name in described if name != "tiles"]
    return [f"{side} × {side}", str(memory.tiles), *figures]
