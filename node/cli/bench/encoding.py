"""`sightline bench encode`: masks and maps by the node beside highdicom's plain calls."""

import os
from typing import Annotated

import typer

import node
from node.bench.encode import CASES, NODE, PLAIN, WAYS, Case, EncodingBench, Figures, bench_encoding
from node.cli.output import AsJson, Progression, print_json, print_table, say
from node.index import Json

MIB, MB = 1 << 20, 1_000_000


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


def _describe_encoding(figures: Figures) -> Json:
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
