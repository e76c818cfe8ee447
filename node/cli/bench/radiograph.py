"""`sightline bench radiograph`: a radiograph by stage, beside bare loops over the same networks."""

import os
from typing import Annotated

import typer

import node
from node.bench.radiograph import PEER_BY_STAGE, STAGES, RadiographBench, bench_radiograph
from node.cli.output import AsJson, ConfigurationFile, Progression, print_json, print_table, say
from node.config import load
from node.index import Json

COLUMNS = ("stage", "node s", "bare loop s", "node / bare")


def measure_radiograph(
    side: Annotated[int, typer.Option(min=256, help="Pixels a side of the radiograph.")] = 3000,
    rounds: Annotated[int, typer.Option(min=1, help="How often; the figures are medians.")] = 5,
    config: ConfigurationFile = None,
    as_json: AsJson = False,
) -> None:
    """Work on a synthetic chest radiograph with lesions: from its file to all objects that are made of it.

    Classifiers and detectors also run by themselves, in bare ONNX Runtime loops over the same files.
    """
    settings, load_before = load(config).engine, os.getloadavg()[0]
    with Progression("measured", rounds + 1) as progress:
        bench = bench_radiograph(settings, side, rounds, on_round=progress.advance)
    if as_json:
        print_json(_account(bench, rounds, settings.threads, load_before))
        return
    print_table(
        COLUMNS, [*(_row(bench, stage) for stage in STAGES), ["whole", f"{bench.whole_s:.3f}", "", ""]]
    )
    say(
        f"\n{side} × {side} pixels, {bench.lesions} lesions, {bench.outlined} outlined; {settings.threads} "
        f"threads on {os.cpu_count()} cores, load {load_before:.1f} before; medians of {rounds} rounds."
    )


def _account(bench: RadiographBench, rounds: int, threads: int, load_before: float) -> Json:
    return {
        "benchmark": "radiograph",
        "node_version": node.__version__,
        "side": bench.side,
        "rounds": rounds,
        "threads": threads,
        "cores": os.cpu_count(),
        "load_before": round(load_before, 2),
        "seconds": {stage: round(bench.stage_s(stage), 4) for stage in bench.seconds_by_stage},
        "whole_s": round(bench.whole_s, 4),
        "lesions": bench.lesions,
        "outlined": bench.outlined,
    }


def _row(bench: RadiographBench, stage: str) -> list[str]:
    own = bench.stage_s(stage)
    if stage not in PEER_BY_STAGE:
        return [stage, f"{own:.3f}", "", ""]
    bare = bench.stage_s(PEER_BY_STAGE[stage])
    return [stage, f"{own:.3f}", f"{bare:.3f}", f"{own / bare:.2f}"]
