"""A whole node: its parts, in the order in which they start and stop."""

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import structlog

import node
from node.disk import FolderLock
from node.doors import build_folders, build_stow
from node.index import DELIVERY_STATES, PENDING, open_index, sqlite_url
from node.interfaces import Listener
from node.parts import (
    build_assembler,
    build_outbox,
    build_report_sender,
    build_steps,
)
from node.receive.commitment import CommitmentReporter
from node.receive.notes import Ended, Notes
from node.receiver import build_receiver, build_storage
from node.reindex import add_unknown, record_instances
from node.retention import Caretaker, Retention
from node.settings import Configuration
from node.storage import Stored
from node.telemetry import Metrics
from node.tls import SOON_DAYS, CurrentContext, ends_by_use, server_context, serving_context
from node.web import WebServer, application
from node.workflow import Workflow

DRAIN_S = 20
DAY_S = 86_400

log = structlog.get_logger()


class Node:
    """A whole node in this process: receiver, assembler, workers, web."""

    def __init__(self, configuration: Configuration) -> None:
        """Build every part; no port opens and no work begins before `start`."""
        self.configuration = configuration
        self.metrics = Metrics()
        self.index = open_index(configuration.data)
        self.storage = build_storage(configuration.data, configuration.receive)
        self.outbox = build_outbox(configuration, self.index, self.metrics)
        self.steps = build_steps(
            configuration, self.storage, self.index, self.metrics, on_finished=self.outbox.wake
        )
        database = configuration.workflow.database or sqlite_url(configuration.data / "workflow.sqlite")
        self.workflow = Workflow(self.steps, self.index, self.metrics, database)
        self.assembler = build_assembler(configuration, self.index, self.workflow)
        peers = configuration.receive.commitment_peers
        self.reporter = CommitmentReporter(self.index, peers, build_report_sender(peers))
        notes = Notes(self._note_batch, self._note_refused, self._note_release)
        self.listener = build_receiver(configuration, self.storage, self.index, notes)
        self.stow = build_stow(configuration.receive, self.storage, notes)
        folders = build_folders(configuration.receive, self.storage, notes)
        # In the order in which they open; the web server that serves STOW-RS does so before.
        self.listeners: list[Listener] = [self.listener, *filter(None, [self.stow]), *folders]
        web = application(self._exposition, self._unready, self.stow.routes if self.stow else ())
        tls = CurrentContext(configuration.web.tls, server_context) if configuration.web.tls else None
        serving = serving_context(tls) if tls else None
        self.web = WebServer(web, configuration.web.host, configuration.web.port, serving)
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
        self.storage.recover()
        add_unknown(self.index, self.storage)

    def _note_batch(self, stored: Sequence[Stored]) -> None:
        """Have the index know what came in, all of it or nothing."""
        with self.index.together():
            new = [one.instance for one in stored if one.is_new or not self.index.holds(one.instance)]
            verdicts = record_instances(self.index, new) if new else {}
        for verdict, count in verdicts.items():
            self.metrics.feedback_received.labels(verdict).inc(count)
        for one in stored:  # what is counted is known
            self.metrics.instances_received.labels(one.instance.called_ae_title).inc()

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
        """Return how long the certificates are good that are in use: the newest that could be used."""
        self._certificate_ends |= ends_by_use(self.configuration)
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
