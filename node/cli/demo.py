"""`sightline demo`: everything at once, on synthetic studies whose truth is known."""

import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

import node
from node.account import describe_runs, describe_study
from node.app import Node, running
from node.cli.output import AsJson, ConfigurationFile, Progression, complain, print_json, say
from node.cli.publish import print_accounts, publish
from node.cli.send import parse_address
from node.config import load
from node.deliver.association import Peer
from node.deliver.dimse import send_files
from node.errors import TransientError
from node.index import Json
from node.receive.dimse import DimseListener
from node.receive.settings import ApplicationEntity, DimseListenerSettings
from node.samples.demo import Sample, demo_samples
from node.samples.dicom import fresh_uid
from node.settings import Configuration, DestinationSettings
from node.storage import Storage
from node.telemetry import configure_logging

ARCHIVE, AE_TITLE, CALLING = "archive", "ARCHIVE", "SIGHTLINE"
LOOPBACK = "127.0.0.1"
PATIENCE_S = 120.0


def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where results and previews go.")] = Path(
        "sightline-demo"
    ),
    keep: Annotated[bool, typer.Option("--keep", help="Leave the node and its archive running.")] = False,
    pacs: Annotated[
        str, typer.Option(metavar="AET@HOST:PORT", help="Deliver to this archive instead of a small one.")
    ] = "",
    config: ConfigurationFile = None,
    as_json: AsJson = False,
) -> None:
    """Start a node and a small archive, send it synthetic studies, and show what comes back."""
    started = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    configure_logging("info", out / "sightline.log")
    samples = demo_samples()
    with (
        tempfile.TemporaryDirectory(prefix="sightline-demo-") as scratch,
        _archive(Path(scratch), pacs) as archive,
    ):
        configuration = _configuration(load(config), Path(scratch), archive)
        with running(Node(configuration)) as active:
            uid_by_sample = _send(samples, configuration, out)
            _wait(active, uid_by_sample)
            accounts = {name: describe_runs(active.index, uid, name) for name, uid in uid_by_sample.items()}
            studies = [publish(account, out / name) for name, account in accounts.items()]
            _show(studies, started, out, as_json=as_json)
            if keep:
                _keep_running(configuration, archive)
    surprises = _surprises(studies, samples)
    complain(surprises)
    if surprises:
        raise typer.Exit(1)


@contextmanager
def _archive(scratch: Path, pacs: str) -> Iterator[Peer]:
    """Run a small archive of our own, or name the one that was asked for."""
    if pacs:
        yield parse_address(pacs, CALLING)
        return
    (port,) = _free_ports(1)
    settings = DimseListenerSettings((ApplicationEntity(AE_TITLE),), port=port)
    listener = DimseListener(
        settings, Storage(scratch / "archive"), on_stored=_ignore, on_refused=_ignore, on_release=_ignore
    )
    listener.start()
    try:
        yield Peer(LOOPBACK, port, AE_TITLE, CALLING)
    finally:
        listener.stop()


def _ignore(*_: object, **_named: object) -> None:
    """Do nothing: what an archive has stored, it need not tell."""


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server((LOOPBACK, 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _configuration(default: Configuration, scratch: Path, archive: Peer) -> Configuration:
    """Return the configuration, on free ports and in a folder of its own, delivering to the archive."""
    port, web_port = _free_ports(2)
    destination = DestinationSettings(host=archive.host, port=archive.port, ae_title=archive.ae_title)
    return replace(
        default,
        data=scratch / "node",
        # Its studies are small and soon gone: a disk on which no hospital's node should run does for them.
        receive=replace(default.receive, port=port, processes=0, max_used_percent=100.0, min_free_gib=1.0),
        web=replace(default.web, port=web_port),
        destinations={ARCHIVE: destination},
    )


def _send(samples: Sequence[Sample], configuration: Configuration, out: Path) -> dict[str, str]:
    """Send each sample as a study never seen before; return the Study Instance UID by the sample's name."""
    (ae_title,) = configuration.receive.application_entities
    uid_by_sample = {}
    with Progression("sent", len(samples)) as progress:
        for sample in samples:
            uid = uid_by_sample[sample.name] = fresh_uid()
            paths = sample.write(out / sample.name, study_instance_uid=uid)
            send_files(paths, Peer(LOOPBACK, configuration.receive.port, ae_title, "DEMO"))
            progress.advance(sample.name)
    return uid_by_sample


def _wait(running: Node, uid_by_sample: dict[str, str]) -> None:
    """Return once every study was read and delivered; raises TransientError after two minutes."""
    deadline = time.monotonic() + PATIENCE_S
    waiting = dict(uid_by_sample)
    with Progression("read", len(waiting)) as progress:
        while waiting:
            for name, uid in list(waiting.items()):
                study = describe_study(running.index, uid)
                if study and study["state"] in ("done", "confirming", "undeliverable"):
                    del waiting[name]
                    progress.advance(name)
            if time.monotonic() > deadline:
                raise TransientError(
                    f"not read within {PATIENCE_S:.0f} s: {', '.join(waiting)}; see sightline.log"
                )
            time.sleep(0.1)


def _show(studies: list[Json], started: float, out: Path, *, as_json: bool) -> None:
    seconds = round(time.perf_counter() - started, 3)
    if as_json:
        print_json({"version": node.__version__, "seconds": seconds, "studies": studies})
        return
    print_accounts(studies)
    say(f"\n{len(studies)} studies in {seconds:.1f} s; results and pictures are in {out}")
    say("AI results, investigational, not for primary diagnosis.")


def _surprises(studies: list[Json], samples: Sequence[Sample]) -> list[str]:
    """Return a line for each sample whose outcome or delivery is not what its truth demands."""
    lines = []
    for study, sample in zip(studies, samples, strict=True):
        outcomes = {run["pipeline"]: run["outcome"] for run in study["runs"]}
        if outcomes.get(sample.pipeline) != sample.expected_outcome:
            lines.append(
                f"{sample.name}: expected {sample.expected_outcome} by {sample.pipeline}, got {outcomes}"
            )
        objects = [item for run in study["runs"] for item in run["objects"]]
        if not objects or not all(item["delivered_to"] for item in objects):
            lines.append(f"{sample.name}: results were not delivered")
    return lines


def _keep_running(configuration: Configuration, archive: Peer) -> None:
    receive, web = configuration.receive, configuration.web
    (ae_title,) = receive.application_entities
    say(
        f"node {ae_title}@{receive.host}:{receive.port}, archive {archive}, http://{web.host}:{web.port}/metrics"
    )
    say("Ctrl-C ends it.")
    with suppress(KeyboardInterrupt):
        threading.Event().wait()
