"""`sightline bench growth`: what one instance more costs when many are stored."""

import os
from pathlib import Path
from typing import Annotated

import typer

import node
from node.bench.growth import SIZES, Point, bench_growth, steps_to
from node.cli.output import AsJson, Progression, complain, print_json, print_table, say
from node.errors import ConfigurationError
from node.index import Json

MIB = 1 << 20
COLUMNS = ("stored", "ms for one more", "times the first", "processor ms", "receiver MiB", "node MiB")


def measure_growth(
    sizes: Annotated[str, typer.Option(metavar="N,N,N", help="How many are stored.")] = ",".join(
        map(str, SIZES)
    ),
    folder: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="On the disk to measure.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fill a spool and its index through the receiver, and measure what one more costs."""
    try:
        wanted = sorted({int(size) for size in sizes.split(",")})
    except ValueError as error:
        raise typer.BadParameter(f"{sizes} is no list of numbers", param_hint="--sizes") from error
    load_before = os.getloadavg()[0]
    try:
        with Progression("filled", steps_to(wanted)) as progress:
            points = bench_growth(wanted, folder, progress.advance)
    except ConfigurationError as error:
        complain(error.problems)
        raise typer.Exit(2) from error
    if as_json:
        print_json(_account(points, load_before))
        return
    print_table(COLUMNS, [_row(point, points[0]) for point in points])
    say(f"\nInstances of 8 KB, synced, on {os.cpu_count()} cores, load {load_before:.1f} before.")


def _account(points: list[Point], load_before: float) -> Json:
    return {
        "benchmark": "growth",
        "node_version": node.__version__,
        "cores": os.cpu_count(),
        "load_before": round(load_before, 2),
        "points": [
            {
                "stored": point.stored,
                "seconds": round(point.seconds, 6),
                "cpu_seconds": round(point.cpu_seconds, 6),
                "times_the_first": round(point.seconds / points[0].seconds, 4),
                "receiver_bytes": point.receiver_bytes,
                "node_bytes": point.node_bytes,
            }
            for point in points
        ],
    }


def _row(point: Point, first: Point) -> list[str]:
    return [
        str(point.stored),
        f"{point.seconds * 1e3:.2f}",
        f"{point.seconds / first.seconds:.2f}",
        f"{point.cpu_seconds * 1e3:.2f}",
        f"{point.receiver_bytes / MIB:.0f}",
        f"{point.node_bytes / MIB:.0f}",
    ]
