"""Each part of a node, built from the configuration."""

import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from node.assembly import Assembler, Patience
from node.config import read_secret
from node.deliver.association import Peer
from node.deliver.commitment import ReportSender
from node.deliver.confirmation import Confirmation
from node.deliver.dicomweb import StowDestination
from node.deliver.dimse import DimseDestination
from node.deliver.outbox import Outbox, Outlet
from node.disk import new_file
from node.engines.onnx import OnnxEngine
from node.engines.owner import NOWHERE
from node.engines.repository import ModelRepository
from node.engines.shared_memory import Limits
from node.engines.triton import TritonEngine, TritonSettings
from node.errors import StoreError
from node.index import Index, index_path, open_index
from node.interfaces import Engine
from node.quiet import RouteQuiet
from node.routing import Rule
from node.settings import (
    CommitmentPeerSettings,
    Configuration,
    DestinationSettings,
    EngineSettings,
    TlsSettings,
)
from node.steps import Parts, Route, Steps
from node.storage import Storage
from node.telemetry import Metrics
from node.tls import CurrentContext, client_context
from node.workflow import Workflow

MIB, GIB = 1 << 20, 1 << 30


@contextmanager
def opened_index(configuration: Configuration) -> Iterator[Index]:
    """Open the index for a command; raises StoreError where no node has worked in the data folder."""
    if not index_path(configuration.data).exists():
        raise StoreError(str(configuration.data), "no node has worked in this data folder")
    index = open_index(configuration.data)
    try:
        yield index
    finally:
        index.close()


def build_engine(
    settings: EngineSettings, metrics: Metrics | None = None, data: Path | None = None
) -> Engine:
    """Return the engine over the configured model repository; of a node, with its metrics and data folder."""
    if settings.kind == "triton":
        return build_triton_engine(settings, metrics, data)
    return OnnxEngine(ModelRepository(settings.repository), settings.threads, metrics)


def build_triton_engine(
    settings: EngineSettings, metrics: Metrics | None = None, data: Path | None = None
) -> TritonEngine:
    """Return the engine on the configured server, whatever kind of engine the node itself uses."""
    return TritonEngine(
        ModelRepository(settings.repository),
        TritonSettings(
            url=settings.url,
            timeout_s=settings.timeout_s,
            patience_s=settings.patience_s,
            shares_memory=settings.shared_memory,
            limits=Limits(settings.shared_memory_mib * MIB),
            home=home_of(data) if data else NOWHERE,
        ),
        metrics,
    )


def home_of(data: Path) -> str:
    """Return what stands for a data folder: the same after every start, in whatever container."""
    path = data / "home"
    if not path.exists():
        with new_file(path) as file:
            file.write(secrets.token_hex(8).encode())
    return path.read_text()


def build_destination(name: str, settings: DestinationSettings) -> DimseDestination | StowDestination:
    """Return one destination; raises ConfigurationError where the secret that it needs is not there."""
    if settings.url:
        return StowDestination(
            name=name,
            url=settings.url,
            token=read_secret(settings.token_env, f"destinations.{name}.token_env"),
            timeout_s=settings.timeout_s,
            tls=CurrentContext(settings.tls or TlsSettings(), client_context),
        )
    return DimseDestination(
        name=name,
        host=settings.host,
        port=settings.port,
        ae_title=settings.ae_title,
        calling_ae_title=settings.calling_ae_title,
        timeout_s=settings.timeout_s,
        tls=CurrentContext(settings.tls, client_context) if settings.tls else None,
    )


def build_steps(
    configuration: Configuration,
    storage: Storage,
    index: Index,
    metrics: Metrics,
    on_finished: Callable[[], object] = lambda: None,
) -> Steps:
    """Return the steps over everything that the configuration names."""
    routes = {
        name: Route(entry.build(), Rule(name, entry.when, entry.priority, entry.deliver_to))
        for name, entry in configuration.pipelines.items()
    }
    parts = Parts(
        index=index,
        run_folder=storage.run_folder,
        engine=build_engine(configuration.engine, metrics, configuration.data),
        routes=routes,
        scopes=configuration.receive.scopes,
        triage_rules=configuration.triage,
        profiles={name: entry.profile for name, entry in configuration.destinations.items()},
        metrics=metrics,
        on_finished=on_finished,
    )
    return Steps(parts)


def build_assembler(configuration: Configuration, index: Index, workflow: Workflow) -> Assembler:
    """Return the assembler with the archive and the quiet periods that the configuration names."""
    settings = configuration.assembly
    patience = Patience(
        settle_s=settings.settle_period_s,
        quiet_s=settings.quiet_period_s,
        longest_s=settings.longest_wait_s,
    )
    own_s = {
        name: entry.quiet_period_s
        for name, entry in configuration.pipelines.items()
        if entry.quiet_period_s is not None
    }
    rules = [Rule(name, entry.when) for name, entry in configuration.pipelines.items()]
    quiet = RouteQuiet(index, rules, configuration.receive.scopes, own_s, patience.quiet_s) if own_s else None
    archive = None
    if settings.ask:
        asked = configuration.destinations[settings.ask]
        timeout_s = min(asked.timeout_s, settings.ask_timeout_s)
        archive = build_destination(settings.ask, replace(asked, timeout_s=timeout_s))
    return Assembler(index, patience, workflow.enqueue, quiet=quiet, archive=archive)


def build_outbox(configuration: Configuration, index: Index, metrics: Metrics) -> Outbox:
    """Return the outbox over every destination that the configuration names."""
    outlets = {
        name: Outlet(
            build_destination(name, entry),
            entry.max_attempts,
            Confirmation(entry.confirm, entry.confirm_timeout_s),
        )
        for name, entry in configuration.destinations.items()
    }
    return Outbox(index, outlets, metrics)


def build_report_sender(peers: Mapping[str, CommitmentPeerSettings]) -> ReportSender:
    """Return what tells the senders that asked for storage commitment."""
    return ReportSender(
        {
            title: Peer(
                one.host, one.port, title, tls=CurrentContext(one.tls, client_context) if one.tls else None
            )
            for title, one in peers.items()
        }
    )
