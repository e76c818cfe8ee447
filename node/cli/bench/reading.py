"""`sightline bench read`: an uncompressed CT series by the node beside SimpleITK and pydicom."""

import os
from typing import Annotated

import typer

import node
from node.bench.reading import NODE, PYDICOM, SIMPLEITK, Figures, ReadingBench, bench_reading
from node.cli.output import AsJson, Progression, complain, print_json, print_table, say
from node.errors import ConfigurationError
from node.index import Json

MIB = 1 << 20
WORDS = {NODE: "node", SIMPLEITK: "SimpleITK ImageSeriesReader", PYDICOM: "pydicom and numpy"}
COLUMNS = ("way", "seconds", "CPU s", "extra MiB", "× volume", "node is")


def measure_reading(
    planes: Annotated[int, typer.Option(min=3, help="How many slices.")] = 300,
    size: Annotated[int, typer.Option(min=16, help="Rows, and columns, of a slice.")] = 512,
    rounds: Annotated[int, typer.Option(min=1, help="How often; the figures are medians.")] = 5,
    as_json: AsJson = False,
) -> None:
    """Read a CT series into one volume of Hounsfield units, from files that are in the system's cache."""
    try:
        with Progression("read", rounds) as progress:
            bench = bench_reading(planes, size, rounds, on_round=progress.advance)
    except ConfigurationError as error:
        complain(error.problems)
        raise typer.Exit(2) from error
    if as_json:
        print_json(_account(bench))
    else:
        _show(bench)


def _account(bench: ReadingBench) -> Json:
    return {
        "benchmark": "read",
        "node_version": node.__version__,
        "planes": bench.planes,
        "size": bench.size,
        "rounds": bench.rounds,
        "cores": os.cpu_count(),
        "ways": {way: _describe(figures) for way, figures in bench.figures_by_way.items()},
        "time_ratios": {way: round(bench.ratio(way), 4) for way in bench.figures_by_way if way != NODE},
    }


def _describe(figures: Figures) -> Json:
    return {
        "seconds": round(figures.seconds, 4),
        "cpu_s": round(figures.cpu_s, 4),
        "extra_memory_mib": round(figures.extra_memory_bytes / MIB, 1),
        "memory_to_volume": round(figures.memory_to_volume, 3),
    }


def _show(bench: ReadingBench) -> None:
    print_table(COLUMNS, [_row(bench, way) for way in bench.figures_by_way])
    say(
        f"\n{bench.size} × {bench.size} × {bench.planes}, uncompressed, files in the system's cache: medians "
        f"of {bench.rounds} on {os.cpu_count()} cores, in turns;\n"
        "each reading in a process of its own, with its peak resident memory beyond what it held before,\n"
        "also as a multiple of the volume in 16 bits. The voxels of all ways are the same."
    )


def _row(bench: ReadingBench, way: str) -> list[str]:
    figures = bench.figures_by_way[way]
    return [
        WORDS[way],
        f"{figures.seconds:.3f}",
        f"{figures.cpu_s:.3f}",
        f"{figures.extra_memory_bytes / MIB:.0f}",
        f"{figures.memory_to_volume:.2f}",
        "" if way == NODE else f"× {bench.ratio(way):.2f}",
    ]
