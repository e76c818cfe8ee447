"""`sightline process`: DICOM files and slides in scanners' files in, result objects out, no network."""

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

import node
from node.account import describe_runs
from node.cli.output import AsJson, ConfigurationFile, Progression, complain, print_json
from node.cli.publish import print_accounts, publish, publish_slide, say_conversions
from node.config import load
from node.domain.conditions import parse
from node.domain.findings import Outcome
from node.domain.progress import listening
from node.domain.study import Instance
from node.errors import ConfigurationError, DatasetError, PixelError
from node.index import Index, Json, open_index
from node.parts import build_steps
from node.receive.folder import find_files, store_file
from node.receive.slide_files import is_slide_file, store_slide
from node.settings import Configuration
from node.steps import Steps
from node.storage import Storage
from node.telemetry import Metrics, configure_logging

JOB = "offline"
Slide = tuple[Path, list[Instance]]
"""A scanner's file, and the instances that it became, the finest level first."""

EVERY_SERIES = parse({"any": [{"modality": {"present": True}}, {"modality": {"present": False}}]})


def process(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH…",
            help="DICOM files, slides in scanners' files (.svs, .tif, …), or folders of them.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where results and previews go.")],
    pipeline: Annotated[
        str, typer.Option(metavar="NAME", help="Read with this pipeline, whatever the rules say.")
    ] = "",
    config: ConfigurationFile = None,
    as_json: AsJson = False,
) -> None:
    """Read studies from files: result objects and previews land in a folder, and nothing is sent."""
    started = time.perf_counter()
    configuration = _only(load(config), pipeline)
    configure_logging("error")
    with tempfile.TemporaryDirectory(prefix="sightline-") as scratch:
        configuration = replace(configuration, data=Path(scratch), destinations={})
        studies, refused = _read(configuration, paths, out)
    if as_json:
        seconds = round(time.perf_counter() - started, 3)
        print_json({"version": node.__version__, "seconds": seconds, "studies": studies})
    else:
        print_accounts(studies)
        say_conversions(studies)
    complain(refused)
    outcomes = {run["outcome"] for study in studies for run in study["runs"]}
    if not studies:
        complain(["there is no study to read"])
    if refused or not studies or Outcome.FAILED.value in outcomes:
        raise typer.Exit(1)


def _only(configuration: Configuration, pipeline: str) -> Configuration:
    if not pipeline:
        return configuration
    if pipeline not in configuration.pipelines:
        known = ", ".join(configuration.pipelines)
        raise ConfigurationError([f"--pipeline: {pipeline!r} is not declared; known: {known}"])
    entry = replace(configuration.pipelines[pipeline], when=EVERY_SERIES, deliver_to=())
    return replace(configuration, pipelines={pipeline: entry})


def _read(configuration: Configuration, paths: list[Path], out: Path) -> tuple[list[Json], list[str]]:
    """Return the account of each study, and a line for each file that is not one."""
    pipelines = {name: replace(entry, deliver_to=()) for name, entry in configuration.pipelines.items()}
    index, storage = open_index(configuration.data), Storage(configuration.data)
    steps = build_steps(replace(configuration, pipelines=pipelines), storage, index, Metrics())
    refused, slides = _store(paths, storage, index)
    studies = index.study_uids()
    with closing(steps), Progression("read", len(studies)) as progress, listening(progress.within):
        for uid in studies:
            _read_study(steps, index, uid)
            progress.advance(uid)
    accounts = [publish(describe_runs(index, uid), out / uid) for uid in studies]
    for account in accounts:
        if slide := slides.get(account["study_instance_uid"]):
            account |= publish_slide(*slide, out / account["study_instance_uid"])
    index.close()
    return accounts, refused


def _store(paths: list[Path], storage: Storage, index: Index) -> tuple[list[str], dict[str, Slide]]:
    """Return a line for each file that cannot be taken, and by study the slides that were converted."""
    refused, slides, scans = [], {}, []
    for path in find_files(paths):
        if is_slide_file(path):
            scans.append(path)
            continue
        try:
            index.record_instance(store_file(path, storage).instance)
        except DatasetError as error:
            refused.append(f"{path}: {error.message}")
    for path, slide in _convert(scans, storage):
        if isinstance(slide, str):
            refused.append(f"{path}: {slide}")
            continue
        # Only now: of a slide that fails on its way no level may be left to be read.
        for instance in slide:
            index.record_instance(instance)
        slides[slide[0].study_instance_uid] = (path, slide)
    return refused, slides


def _convert(scans: Sequence[Path], storage: Storage) -> Iterator[tuple[Path, list[Instance] | str]]:
    """Yield for each scanner's file the instances that it became, or why it did not."""
    if not scans:
        return
    with Progression("convert", len(scans)) as progress, listening(progress.within):
        for path in scans:
            try:
                yield path, store_slide(path, storage)
            except (DatasetError, PixelError) as error:
                yield path, error.message
            progress.advance(path.name)


def _read_study(steps: Steps, index: Index, uid: str) -> None:
    """Take one study through the steps of the workflow, in its order."""
    (study,) = [one for one in index.open_studies() if one.study_instance_uid == uid]
    index.queue_study(study, f"{JOB}-{uid}"[:64], "files")
    for run in steps.take("plan", uid, f"{JOB}-{uid}"[:64]):
        steps.take("encode", run, steps.take("analyze", run))
        steps.take("finish", run)
