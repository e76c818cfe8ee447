"""Builds every part from the configuration; the one place that knows them all."""

import secrets
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path

import structlog

import node
from node.account import describe_object
from node.assembly import Assembler
from node.deliver.dimse import DimseDestination
from node.disk import new_file
from node.domain.study import Instance
from node.engines.onnx import OnnxEngine
from node.engines.owner import NOWHERE
from node.engines.repository import ModelRepository
from node.engines.shared_memory import Limits
from node.engines.triton import TritonEngine, TritonSettings
from node.feedback import read_feedback
from node.index import PENDING, Index, sqlite_url
from node.interfaces import Engine
from node.receive.dimse import Ended
from node.receive.processes import Notes
from node.receiver import build_receiver, build_storage
from node.results import MANIFEST, ResultObject, load_objects
from node.routing import Rule
from node.settings import Configuration, DestinationSettings, EngineSettings
from node.steps import Outlet, Parts, Route, Steps
from node.storage import Storage, Stored
from node.telemetry import Metrics
from node.tls import SOON_DAYS, client_context, door_context, ends_by_use
from node.web import WebServer, application
from node.workflow import Workflow

DRAIN_S = 20
DAY_S = 86_400
MIB = 1 << 20

log = structlog.get_logger()


def index_path(configuration: Configuration) -> Path:
    """Return the file that holds the index."""
    return configuration.data / "index.sqlite"


def open_index(configuration: Configuration) -> Index:
    """Open the index of a node's data folder, making both where they are missing."""
    configuration.data.mkdir(parents=True, exist_ok=True, mode=0o700)
    return Index(sqlite_url(index_path(configuration)))


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


def build_destination(name: str, settings: DestinationSettings) -> DimseDestination:
    """Return one destination."""
    return DimseDestination(
        name=name,
        host=settings.host,
        port=settings.port,
        ae_title=settings.ae_title,
        calling_ae_title=settings.calling_ae_title,
        timeout_s=settings.timeout_s,
        tls=client_context(settings.tls) if settings.tls else None,
    )


def build_steps(configuration: Configuration, storage: Storage, index: Index, metrics: Metrics) -> Steps:
    """Return the steps over everything that the configuration names."""
    routes = {
        name: Route(entry.build(), Rule(name, entry.when, entry.priority, entry.deliver_to))
        for name, entry in configuration.pipelines.items()
    }
    outlets = {
        name: Outlet(build_destination(name, entry), entry.profile, entry.max_attempts)
        for name, entry in configuration.destinations.items()
    }
    parts = Parts(
        index=index,
        run_folder=storage.run_folder,
        engine=build_engine(configuration.engine, metrics, configuration.data),
        routes=routes,
        scopes=configuration.receive.scopes,
        triage_rules=configuration.triage,
        outlets=outlets,
        metrics=metrics,
    )
    return Steps(parts)


class Node:
    """A whole node in this process: receiver, assembler, workers, web."""

    def __init__(self, configuration: Configuration) -> None:
        """Build every part; no port opens and no work begins before `start`."""
        self.configuration = configuration
        self.metrics = Metrics()
        self.index = open_index(configuration)
        self.storage = build_storage(configuration.data, configuration.receive)
        self.steps = build_steps(configuration, self.storage, self.index, self.metrics)
        database = configuration.workflow.database or sqlite_url(configuration.data / "workflow.sqlite")
        self.workflow = Workflow(self.steps, self.index, self.metrics, database)
        self.assembler = Assembler(self.index, configuration.assembly.quiet_period_s, self.workflow.enqueue)
        notes = Notes(self._note_batch, self._note_refused, self._note_release)
        self.listener = build_receiver(configuration, self.storage, notes)
        web = application(self._exposition, self._unready)
        tls = door_context(configuration.web.tls) if configuration.web.tls else None
        self.web = WebServer(web, configuration.web.host, configuration.web.port, tls)
        self._certificate_ends = ends_by_use(configuration)
        self._is_open = False

    def start(self) -> None:
        """Take up unfinished work, then open the doors; raises ConfigurationError where a port is taken."""
        self.web.start()
        self.reindex()
        self.steps.warm_up()
        self.workflow.launch(self.configuration.workflow.workers, self.configuration.destinations)
        self.assembler.start()
        self.listener.start()
        self._is_open = True
        for use, seconds in self._certificate_seconds().items():
            if seconds < SOON_DAYS * DAY_S:
                log.warning("certificate_ends_soon", use=use, days=int(seconds // DAY_S))
        log.info("node_started", version=node.__version__)

    def stop(self) -> None:
        """Take nothing new, let what is under way finish for a while, close."""
        self._is_open = False
        self.listener.stop()
        self.assembler.stop()
        self.workflow.stop(DRAIN_S)
        self.steps.close()
        self.web.stop()
        self.index.close()
        log.info("node_stopped")

    def reindex(self) -> None:
        """Give the index what the spool has and it has not: the spool is the truth."""
        self.storage.recover()
        self._reindex_objects()
        unknown = self.storage.instances(self.index.paths())
        arrivals = [(instance.path.stat().st_mtime, instance) for instance in unknown]
        # In the order of their arrival: a revision takes the place of what came before it.
        for received_at, instance in sorted(arrivals, key=itemgetter(0)):
            self._record(instance, received_at)
            log.info("instance_reindexed", sop_instance_uid=instance.sop_instance_uid)

    def _reindex_objects(self) -> None:
        """Have the index know our results again, before any of them comes back or is spoken of."""
        known = self.index.run_ids_with_objects()
        for folder in (one for one in self.storage.runs_folder.iterdir() if one.name not in known):
            if rows := [describe_object(item) | {"destinations": []} for item in _objects_in(folder)]:
                self.index.record_objects(folder.name, rows)

    def _note_batch(self, stored: Sequence[Stored]) -> None:
        """Have the index know what came in, all of it or nothing."""
        with self.index.together():
            for one in stored:
                self._note_stored(one)

    def _note_stored(self, stored: Stored) -> None:
        if stored.is_new or not self.index.holds(stored.instance):
            self._record(stored.instance)
        self.metrics.instances_received.labels(stored.instance.called_ae_title).inc()

    def _record(self, instance: Instance, received_at: float | None = None) -> None:
        """Note what an instance says of our results, then the instance: a crash loses neither."""
        feedback = read_feedback(instance, self.index.result_paths)
        if feedback and self.index.record_feedback(instance, feedback, received_at):
            for verdict, count in Counter(one.verdict.value for one in feedback).items():
                self.metrics.feedback_received.labels(verdict).inc(count)
            log.info("feedback_received", sop_instance_uid=instance.sop_instance_uid, verdicts=len(feedback))
        self.index.record_instance(instance, received_at)

    def _note_refused(self, called_ae_title: str, status: int) -> None:
        self.metrics.instances_refused.labels(called_ae_title, f"0x{status:04X}").inc()

    def _note_release(self, study_instance_uids: frozenset[str], *, ended: Ended) -> None:
        if ended == "released":
            self.assembler.note_release(study_instance_uids)

    def _exposition(self) -> bytes:
        counts = self.index.counts()
        self.metrics.deliveries_pending.set(counts.pop(PENDING))
        for state, number in counts.items():
            self.metrics.studies_open.labels(state).set(number)
        for use, seconds in self._certificate_seconds().items():
            self.metrics.tls_certificate_expiry_seconds.labels(use).set(seconds)
        self.metrics.disk_free_bytes.set(shutil.disk_usage(self.configuration.data).free)
        return self.metrics.exposition()

    def _certificate_seconds(self) -> dict[str, float]:
        """Return how long the certificates that were read at the start are good, by their use."""
        return {use: ends.timestamp() - time.time() for use, ends in self._certificate_ends.items()}

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


def _objects_in(run_folder: Path) -> list[ResultObject]:
    """Return every object that a run made; none where their list is damaged, which costs this run alone."""
    try:
        folders = [manifest.parent for manifest in run_folder.glob(f"*/{MANIFEST}")]
        return [item for folder in folders for item in load_objects(folder)]
    except (OSError, TypeError, ValueError) as fault:
        log.warning("run_folder_skipped", run_id=run_folder.name, error=type(fault).__name__)
        return []
