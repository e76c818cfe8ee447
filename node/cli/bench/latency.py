"""`sightline bench latency`: a study from its files to an archive, by the node and by a plain script."""

import os
from pathlib import Path
from typing import Annotated

import typer

import node
from node.bench.latency import (
    MODELS_BY_PIPELINE,
    NODE,
    PLAIN,
    WAYS,
    Figures,
    LatencyBench,
    bench_latency,
    stages_of,
)
from node.cli.output import AsJson, ConfigurationFile, Progression, complain, print_json, print_table, say
from node.config import load
from node.errors import ConfigurationError
from node.index import Json

MIB = 1 << 20
COLUMNS = ("stage", "node s", "script s", "node / script")


def measure_latency(
    pipeline: Annotated[str, typer.Option(metavar="NAME", help="The pipeline.")] = "chest_ct",
    series: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="A folder with one series; by default synthetic."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often; the figures are medians.")] = 5,
    config: ConfigurationFile = None,
    as_json: AsJson = False,
) -> None:
    """Work on a CT series by the node, and by a script of SimpleITK, ONNX Runtime, highdicom and pynetdicom.

    Both make a segmentation and a report of the same series with the same models, and send them to an archive
    here. The networks run once in each way, and their answers are replayed after that.
    """
    if pipeline not in MODELS_BY_PIPELINE:
        known = ", ".join(MODELS_BY_PIPELINE)
        raise typer.BadParameter(f"{pipeline} is none of {known}", param_hint="--pipeline")
    settings, load_before = load(config).engine, os.getloadavg()[0]
    try:
        with Progression("studied", len(WAYS) * (rounds + 1)) as progress:
            bench = bench_latency(settings, pipeline, rounds, folder=series, on_run=progress.advance)
    except ConfigurationError as error:
        complain(error.problems)
        raise typer.Exit(2) from error
    if as_json:
        print_json(_account(bench, load_before))
    else:
        _show(bench, load_before)


def _account(bench: LatencyBench, load_before: float) -> Json:
    return {
        "benchmark": "latency",
        "node_version": node.__version__,
        "pipeline": bench.pipeline,
        "series": bench.series,
        "files": bench.files,
        "threads": bench.threads,
        "cores": os.cpu_count(),
        "load_before": round(load_before, 2),
        "ways": {way: _describe(bench, figures) for way, figures in bench.figures_by_way.items()},
        "share_without_inference": round(bench.share_without_inference, 4),
    }


def _describe(bench: LatencyBench, figures: Figures) -> Json:
    return {
        "stages_s": {stage: round(figures.stage_s(stage), 4) for stage in stages_of(bench)},
        "without_inference_s": round(figures.without_inference_s, 4),
        "found": figures.first.found,
        "objects": figures.first.objects,
        "peak_memory_mib": round(figures.peak_memory_bytes / MIB, 1),
    }


def _show(bench: LatencyBench, load_before: float) -> None:
    rows = [_row(bench, stage) for stage in stages_of(bench)]
    own, other = (bench.figures_by_way[way] for way in (NODE, PLAIN))
    seconds = [f"{one.without_inference_s:.3f}" for one in (own, other)]
    rows.append(["all but inference", *seconds, f"{bench.share_without_inference:.2f}"])
    print_table(COLUMNS, rows)
    say(
        f"\n{bench.pipeline} on {bench.files} files ({bench.series}), {bench.threads} threads on "
        f"{os.cpu_count()} cores, load {load_before:.1f} before; medians,\n"
        "in turns; inference is that of the first study, whose answers are replayed after it.\n"
        f"Nodules: node {own.first.found}, script {other.first.found}. "
        f"Peak memory: {own.peak_memory_bytes / MIB:.0f} and {other.peak_memory_bytes / MIB:.0f} MiB.\n"
        "The node also finds the lungs, keeps findings and objects on disk, synced, and checks each object."
    )


def _row(bench: LatencyBench, stage: str) -> list[str]:
    seconds = [f"{bench.figures_by_way[way].stage_s(stage):.3f}" for way in WAYS]
    share = bench.share(stage)
    return [stage, *seconds, "" if share is None else f"{share:.2f}"]
