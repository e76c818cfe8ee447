"""The durable story of a study: plan; then analyze and encode each run, and leave the results to the outbox.

The one place that knows DBOS. A step's saved result is used again after a restart; a step that was cut off
runs again. Names of workflows, steps and queues are stored formats: never rename one.
"""

from collections.abc import Callable
from typing import Any

import structlog
from dbos import (
    DBOS,
    DBOSConfig,
    DBOSPortableJSONSerializer,
    SetEnqueueOptions,
    SetWorkflowID,
    StepOptions,
    WorkflowStatusString,
)
from dbos._error import DBOSMaxStepRetriesExceeded

from node.assembly import Evidence
from node.domain.findings import Priority
from node.errors import SightlineError, TransientError
from node.index import Index, Json, OpenStudy
from node.steps import Steps, derived_id
from node.telemetry import Metrics

# Raise it when the order of steps changes: work of another version is left to the node that began it.
VERSION = "2"
STUDIES_QUEUE, RUNS_QUEUE = "studies", "runs"
QUEUE_PRIORITIES = {Priority.STAT.value: 1, Priority.URGENT.value: 2, Priority.ROUTINE.value: 3}
POLLING_INTERVAL_S = 0.2
ACTIVE_STATES = (
    WorkflowStatusString.PENDING.value,
    WorkflowStatusString.ENQUEUED.value,
    WorkflowStatusString.DELAYED.value,
)
ANALYSIS_ATTEMPTS = 5

log = structlog.get_logger()


class Workflow:
    """Carries studies through the steps, each exactly as far as it got before the last stop."""

    def __init__(self, steps: Steps, index: Index, metrics: Metrics, database_url: str) -> None:
        """Keep the state of the workflows at an SQLAlchemy URL."""
        self._steps = steps
        self._index = index
        self._metrics = metrics
        self._function_by_name: dict[str, Callable[..., None]] = {}
        self._config: DBOSConfig = {
            "name": "sightline",
            "system_database_url": database_url,
            "application_version": VERSION,
            "executor_id": "node",
            "serializer": DBOSPortableJSONSerializer(),
            "enable_otlp": False,
            "run_migrations": True,
            "log_level": "ERROR",
        }

    def launch(self, workers: int) -> None:
        """Take up what was left unfinished, and work on so many runs at a time."""
        DBOS(config=self._config)
        self._register()
        DBOS.launch()
        for name, limit in ((STUDIES_QUEUE, 1), (RUNS_QUEUE, workers)):
            DBOS.register_queue(name, worker_concurrency=limit, polling_interval_sec=POLLING_INTERVAL_S)
        self._resume()

    def stop(self, drain_s: int) -> None:
        """Let what is under way finish for a while, then stop; the rest goes on at the next start."""
        DBOS.destroy(workflow_completion_timeout_sec=drain_s, destroy_registry=True)

    def enqueue(self, study: OpenStudy, evidence: Evidence) -> None:
        """Have a complete study read; asking twice for the same instances is asking once."""
        uid = study.study_instance_uid
        instances = self._index.instances(uid)
        made_of = sorted((one.sop_instance_uid, one.digest, one.called_ae_title) for one in instances)
        job_id = derived_id(uid, study.retries, made_of)
        if self._has_ended(job_id):
            # The index was lost and rebuilt, and does not know what came of that job: read the study again.
            self._index.reopen_study(uid)
            return
        fields: Json = {"evidence": evidence.kind, "instances": len(instances)}
        fields |= {"figures": evidence.figures} if evidence.figures else {}
        if self._index.queue_study(study, job_id, str(evidence), fields):
            self._metrics.studies_assembled.labels(evidence.kind).inc()
            log.info("study_assembled", study_instance_uid=uid, **fields)
            self._enqueue_study(uid, job_id)

    def _resume(self) -> None:
        """Queue the studies whose job was noted, but not begun, when the node was stopped."""
        for uid, job_id in self._index.queued_studies():
            if self._has_ended(job_id) and not self._index.runs(job_id):
                self._index.reopen_study(uid)
            else:
                self._enqueue_study(uid, job_id)

    def _enqueue_study(self, study_instance_uid: str, job_id: str) -> None:
        with SetWorkflowID(job_id):
            DBOS.enqueue_workflow(
                STUDIES_QUEUE, self._function_by_name["read_study"], study_instance_uid, job_id
            )

    def _has_ended(self, workflow_id: str) -> bool:
        status = DBOS.get_workflow_status(workflow_id)
        return status is not None and status.status not in ACTIVE_STATES

    def _register(self) -> None:
        """Tell DBOS the workflows: it wants functions, and finds them again by these names."""

        @DBOS.workflow(name="read_study")
        def read_study(study_instance_uid: str, job_id: str) -> None:
            self._read_study(study_instance_uid, job_id)

        @DBOS.workflow(name="read_run")
        def read_run(run: Json) -> None:
            self._read_run(run)

        self._function_by_name = {
            "read_study": read_study,
            "read_run": read_run,
        }

    def _read_study(self, study_instance_uid: str, job_id: str) -> None:
        """Plan a study, and queue its runs by their class; whatever breaks, it ends with an outcome."""
        try:
            runs = self._step("plan", study_instance_uid, job_id)
        except Exception as error:  # an outcome is owed for every study
            log.exception("planning_failed", study_instance_uid=study_instance_uid)
            self._step(
                "fail", study_instance_uid, job_id, f"the study could not be planned: {type(error).__name__}"
            )
            return
        for run in runs:
            waits_as = SetEnqueueOptions(priority=QUEUE_PRIORITIES[run["priority"]])
            with SetWorkflowID(derived_id(job_id, run["run_id"])), waits_as:
                DBOS.enqueue_workflow(RUNS_QUEUE, self._function_by_name["read_run"], run)

    def _read_run(self, run: Json) -> None:
        """Analyze and encode one run; once it is finished the outbox sends what it made."""
        try:
            analysis = self._step("analyze", run)
        except DBOSMaxStepRetriesExceeded as error:
            reason = f"gave up after {ANALYSIS_ATTEMPTS} attempts{_last_words(error)}"
            analysis = self._step("give_up", run, reason)
        self._step("encode", run, analysis)
        self._step("finish", run)

    def _step(self, name: str, subject: str | Json, *arguments: Any) -> Any:
        """Run one step of a study or run, and save what it returns; an earlier result is used again."""
        options: StepOptions = {"name": name}
        if name == "analyze":
            options |= {
                "retries_allowed": True,
                "max_attempts": ANALYSIS_ATTEMPTS,
                "should_retry": _is_transient,
            }
        return DBOS.run_step(options, self._steps.take, name, subject, *arguments)


def _last_words(error: DBOSMaxStepRetriesExceeded) -> str:
    """Return why the last attempt failed, where that is for everybody to read."""
    last = error.errors[-1] if error.errors else None
    return f": {last}" if isinstance(last, SightlineError) else ""


def _is_transient(error: BaseException) -> bool:
    return isinstance(error, TransientError)
