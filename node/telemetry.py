"""What the node says of itself: JSON log lines, Prometheus metrics, health. UIDs only, never a patient."""

import logging
import os
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from node.errors import SightlineError

# Their messages quote the values they complain about, and those may be a patient's.
QUIET_LOGGERS = ("pydicom", "pynetdicom", "highdicom", "pylibjpeg", "PIL", "dbos", "uvicorn", "asyncio")
STAGE_BUCKETS_S = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """The node's counters; labels are bounded: AE title, pipeline, model, outcome, never a UID."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.instances_received = self._counter("instances_received", "Instances stored", "ae_title")
        self.instances_refused = self._counter("instances_refused", "Instances refused", "ae_title", "status")
        self.studies_assembled = self._counter(
            "studies_assembled", "Studies taken to be complete", "evidence"
        )
        self.runs_finished = self._counter("runs_finished", "Runs that ended", "pipeline", "outcome")
        self.objects_delivered = self._counter(
            "objects_delivered", "Result objects by how delivery went", "destination", "state"
        )
        self.delivery_attempts = self._counter(
            "delivery_attempts", "Objects sent to a destination by its answer", "destination", "answer"
        )
        self.objects_quarantined = self._counter(
            "objects_quarantined", "Result objects that broke a rule of the conformance gate", "rule"
        )
        self.feedback_received = self._counter(
            "feedback_received", "Verdicts of readers on results and on findings in them", "verdict"
        )
        self.stage_seconds = self._histogram(
            "stage_seconds", "How long a stage took", STAGE_BUCKETS_S, "stage"
        )
        self.engine_seconds = self._histogram(
            "engine_seconds", "How long the engine took for one request", STAGE_BUCKETS_S, "model"
        )
        self.engine_batch_size = self._histogram(
            "engine_batch_size", "Items in one request to the engine", BATCH_BUCKETS, "model"
        )
        self.engine_retries = self._counter(
            "engine_retries", "Requests to the engine that were made again", "model"
        )
        self.engine_breaker_state = self._gauge(
            "engine_breaker_state",
            "Whether the engine is asked: 0 yes, 1 one trial at a time, 2 not now",
            "model",
        )
        self.studies_purged = self._counter(
            "studies_purged", "Studies that were removed with their results", "reason"
        )
        self.studies_open = self._gauge("studies_open", "Studies by state", "state")
        self.deliveries_pending = self._gauge("deliveries_pending", "Result objects not yet delivered")
        self.tls_certificate_expiry_seconds = self._gauge(
            "tls_certificate_expiry_seconds",
            "Seconds until a certificate of ours ends, less than 0 since",
            "use",
        )
        self.deliveries = self._gauge(
            "deliveries", "Result objects by destination and state", "destination", "state"
        )
        self.delivery_unconfirmed_age_seconds = self._gauge(
            "delivery_unconfirmed_age_seconds",
            "Since when the oldest object waits that a destination has yet to get or to confirm",
            "destination",
        )
        self.commitment_reports_owed = self._gauge(
            "commitment_reports_owed", "Requests for storage commitment that wait for the node's report"
        )
        self.disk_free_bytes = self._gauge("disk_free_bytes", "Free bytes where the data are")

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"sightline_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"sightline_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: Sequence[float], *labels: str) -> Histogram:
        return Histogram(f"sightline_{name}", text, labels, buckets=buckets, registry=self.registry)

    @contextmanager
    def observed_inference(self, model: str, items: int) -> Iterator[None]:
        """Measure one request to the engine; one that fails does not count."""
        started = time.perf_counter()
        yield
        self.engine_seconds.labels(model).observe(time.perf_counter() - started)
        self.engine_batch_size.labels(model).observe(items)

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)


def configure_logging(level: str = "info", path: Path | None = None) -> None:
    """Send every log record of this process as one JSON object a line to a file, or to standard error."""
    stream: TextIO = sys.stderr if path is None else _private_file(path)
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _describe_exception,
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    logging.root.handlers = [handler]
    logging.root.setLevel(logging.WARNING)
    _silence_libraries()


def _silence_libraries() -> None:
    for name in QUIET_LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers = [logging.NullHandler()]
        logger.propagate = False
    warnings.simplefilter("ignore")


def _private_file(path: Path) -> TextIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    return os.fdopen(descriptor, "a", encoding="utf-8", buffering=1)


def _describe_exception(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Replace an exception by its type and the lines it came through.

    The text of a foreign exception may quote the data set it choked on, so only our own are repeated.
    """
    info = event.pop("exc_info", None)
    error = sys.exc_info()[1] if info is True else info[1] if isinstance(info, tuple) else info
    if isinstance(error, BaseException):
        event["exception"] = type(error).__name__
        event["frames"] = [
            f"{Path(frame.filename).name}:{frame.lineno} {frame.name}"
            for frame in traceback.extract_tb(error.__traceback__)
        ]
        if isinstance(error, SightlineError):
            event["message"] = str(error)
    return event
