"""Builds every part from the configuration; the one place that knows them all."""

import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import structlog

import node
from node.assembly import Assembler, Patience
from node.config import read_secret
from node.deliver.association import Peer
from node.deliver.commitment import send_report
from node.deliver.confirmation import Confirmation, note_report
from node.deliver.dicomweb import StowDestination
from node.deliver.dimse import DimseDestination
from node.deliver.outbox import Outbox, Outlet
from node.disk import FolderLock, new_file
from node.domain.study import Instance
from node.doors import Notes, build_folders, build_stow
from node.engines.onnx import OnnxEngine
from node.engines.owner import NOWHERE
from node.engines.repository import ModelRepository
from node.engines.shared_memory import Limits
from node.engines.triton import TritonEngine, TritonSettings
from node.errors import StoreError
from node.index import DELIVERY_STATES, PENDING, Index, Json, sqlite_url
from node.interfaces import Engine, Listener
from node.quiet import RouteQuiet
from node.receive.commitment import CommitmentDesk, CommitmentReporter
from node.receive.dimse import DimseListener, Ended
from node.receive.settings import ApplicationEntity, DimseListenerSettings
from node.reindex import add_unknown, record_instance
from node.retention import Caretaker, Retention
from node.routing import Rule
from node.settings import (
    CommitmentPeerSettings,
    Configuration,
    DestinationSettings,
    EngineSettings,
    ReceiveSettings,
    TlsSettings,
)
from node.steps import Parts, Route, Steps
from node.storage import Storage, Stored, Watermark
from node.telemetry import Metrics
from node.tls import SOON_DAYS, client_context, ends_by_use, server_context
from node.web import WebServer, application
from node.workflow import Workflow

DRAIN_S = 20
DAY_S = 86_400
MIB, GIB = 1 << 20, 1 << 30

log = structlog.get_logger()


def index_path(configuration: Configuration) -> Path:
    """Return the file that holds the index."""
    return configuration.data / "index.sqlite"


def open_index(configuration: Configuration) -> Index:
    """Open the index of a node's data folder, making both where they are missing."""
    configuration.data.mkdir(parents=True, exist_ok=True, mode=0o700)
    return Index(sqlite_url(index_path(configuration)))


@contextmanager
def opened_index(configuration: Configuration) -> Iterator[Index]:
    """Open the index for a command; raises StoreError where no node has worked in the data folder."""
    if not index_path(configuration).exists():
        raise StoreError(str(configuration.data), "no node has worked in this data folder")
    index = open_index(configuration)
    try:
        yield index
    finally:
        index.close()


def open_storage(configuration: Configuration) -> Storage:
    """Return the spool and the run folders of a node's data folder."""
    limits = configuration.receive
    return Storage(configuration.data, Watermark(limits.max_used_percent, int(limits.min_free_gib * GIB)))


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
            tls=client_context(settings.tls or TlsSettings()),
        )
    return DimseDestination(
        name=name,
        host=settings.host,
        port=settings.port,
        ae_title=settings.ae_title,
        calling_ae_title=settings.calling_ae_title,
        timeout_s=settings.timeout_s,
        tls=client_context(settings.tls) if settings.tls else None,
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


class Node:
    """A whole node in this process: receiver, assembler, workers, web."""

    def __init__(self, configuration: Configuration) -> None:
        """Build every part; no port opens and no work begins before `start`."""
        self.configuration = configuration
        self.metrics = Metrics()
        self.index = open_index(configuration)
        self.storage = open_storage(configuration)
        self.outbox = build_outbox(configuration, self.index, self.metrics)
        self.steps = build_steps(
            configuration, self.storage, self.index, self.metrics, on_finished=self.outbox.wake
        )
        database = configuration.workflow.database or sqlite_url(configuration.data / "workflow.sqlite")
        self.workflow = Workflow(self.steps, self.index, self.metrics, database)
        self.assembler = build_assembler(configuration, self.index, self.workflow)
        peers = configuration.receive.commitment_peers
        self.reporter = CommitmentReporter(self.index, peers, partial(_send_commitment_report, peers))
        self.listener = DimseListener(
            _listener_settings(configuration.receive),
            self.storage,
            on_stored=self._note_stored,
            on_refused=self._note_refused,
            on_release=self._note_release,
            commitment=CommitmentDesk(self.index, peers, partial(note_report, self.index)),
        )
        notes = Notes(
            on_stored=self._note_stored, on_refused=self._note_refused, on_release=self._note_release
        )
        self.stow = build_stow(configuration.receive, self.storage, notes)
        folders = build_folders(configuration.receive, self.storage, notes)
        # In the order in which they open; the web server that serves STOW-RS does so before.
        self.listeners: list[Listener] = [self.listener, *filter(None, [self.stow]), *folders]
        web = application(self._exposition, self._unready, self.stow.routes if self.stow else ())
        tls = server_context(configuration.web.tls) if configuration.web.tls else None
        self.web = WebServer(web, configuration.web.host, configuration.web.port, tls)
        self._certificate_ends = ends_by_use(configuration)
        retention = Retention(self.index, self.storage, configuration.retention, self.metrics)
        self.caretaker = Caretaker(retention, configuration.retention.interval_min * 60)
        self._lock = FolderLock(configuration.data)
        self._is_open = False

    def start(self) -> None:
        """Take up unfinished work, then open the doors.

        Raises ConfigurationError where a port is taken, StoreError where another node has the data folder.
        """
        self._lock.take()
        self.web.start()
        self.reindex()
        self.steps.warm_up()
        self.outbox.start()
        self.reporter.start()
        self.workflow.launch(self.configuration.workflow.workers)
        self.assembler.start()
        self.caretaker.start()
        for listener in self.listeners:
            listener.start()
        self._is_open = True
        for use, seconds in self._certificate_seconds().items():
            if seconds < SOON_DAYS * DAY_S:
                log.warning("certificate_ends_soon", use=use, days=int(seconds // DAY_S))
        log.info("node_started", version=node.__version__)

    def stop(self) -> None:
        """Take nothing new, let what is under way finish for a while, close."""
        self._is_open = False
        for listener in reversed(self.listeners):
            listener.stop()
        self.caretaker.stop()
        self.assembler.stop()
        self.workflow.stop(DRAIN_S)
        self.outbox.stop(DRAIN_S)
        self.reporter.end()
        self.steps.close()
        self.web.stop()
        self.index.close()
        self._lock.release()
        log.info("node_stopped")

    def reindex(self) -> None:
        """Give the index what the spool has and it has not: the spool is the truth."""
        self.storage.sweep()
        add_unknown(self.index, self.storage)

    def _note_stored(self, stored: Stored) -> None:
        """Have the index know an instance before its sender reads Success."""
        if stored.is_new or not self.index.holds(stored.instance):
            self._record(stored.instance)
        self.metrics.instances_received.labels(stored.instance.called_ae_title).inc()

    def _record(self, instance: Instance, received_at: float | None = None) -> None:
        """Have the index know an instance, and what it says of our results."""
        for verdict, count in record_instance(self.index, instance, received_at).items():
            self.metrics.feedback_received.labels(verdict).inc(count)

    def _note_refused(self, called_ae_title: str, status: int) -> None:
        self.metrics.instances_refused.labels(called_ae_title, f"0x{status:04X}").inc()

    def _note_release(self, study_instance_uids: frozenset[str], *, ended: Ended) -> None:
        self.assembler.note_end(study_instance_uids, is_released=ended == "released")

    def _exposition(self) -> bytes:
        counts = self.index.counts()
        self.metrics.deliveries_pending.set(counts.pop(PENDING))
        for state, number in counts.items():
            self.metrics.studies_open.labels(state).set(number)
        for use, seconds in self._certificate_seconds().items():
            self.metrics.tls_certificate_expiry_seconds.labels(use).set(seconds)
        self._note_deliveries()
        self.metrics.disk_free_bytes.set(shutil.disk_usage(self.configuration.data).free)
        return self.metrics.exposition()

    def _certificate_seconds(self) -> dict[str, float]:
        """Return how long the certificates that were read at the start are good, by their use."""
        return {use: ends.timestamp() - time.time() for use, ends in self._certificate_ends.items()}

    def _note_deliveries(self) -> None:
        counts, oldest = self.index.delivery_counts(), self.index.oldest_unconfirmed()
        for name in {*self.configuration.destinations, *counts}:
            for state in DELIVERY_STATES:
                self.metrics.deliveries.labels(name, state).set(counts.get(name, {}).get(state, 0))
            age_s = max(0.0, time.time() - oldest[name]) if name in oldest else 0.0
            self.metrics.delivery_unconfirmed_age_seconds.labels(name).set(age_s)
        self.metrics.commitment_reports_owed.set(self.index.owed_commitments())

    def _unready(self) -> list[str]:
        return [] if self._is_open else ["the node is starting or stopping"]


@contextmanager
def running(node_: Node) -> Iterator[Node]:
    """Run a node for the length of a block; what it began is stopped, however far it got."""
    try:
        node_.start()
        yield node_
    finally:
        node_.stop()


def _send_commitment_report(
    peers: Mapping[str, CommitmentPeerSettings],
    request: Json,
    instances: Sequence[tuple[str, str]],
    reason_by_uid: dict[str, int],
) -> None:
    """Tell who asked, under the AE title that it called, what is kept."""
    title = request["ae_title"]
    peer = Peer(peers[title].host, peers[title].port, title, request["called_ae_title"])
    send_report(peer, request["transaction_uid"], instances, reason_by_uid)


def _listener_settings(receive: ReceiveSettings) -> DimseListenerSettings:
    entities = tuple(
        ApplicationEntity(title, frozenset(() if "*" in entity.allow_callers else entity.allow_callers))
        for title, entity in receive.application_entities.items()
    )
    return DimseListenerSettings(
        application_entities=entities,
        host=receive.host,
        port=receive.port,
        allowed_hosts=receive.allow_hosts,
        max_associations=receive.max_associations,
        max_pdu_bytes=receive.max_pdu_bytes,
        idle_timeout_s=receive.idle_timeout_s,
        accept_private_classes=receive.accept_private_classes,
    )
