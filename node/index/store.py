"""What the node knows of studies, runs, results and deliveries.

The index is derived: the spool and the run folders hold the truth. It is written by the node and read by the
commands at the same time, so every change is one short transaction.
"""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from node.domain.feedback import Feedback
from node.domain.study import Instance
from node.index.database import open_database
from node.index.tables import (
    DELIVERIES,
    EVENTS,
    FEEDBACK,
    INSTANCES,
    IS_READ,
    OBJECTS,
    QUARANTINE,
    RUNS,
    STUDIES,
)

Json = dict[str, Any]

RECEIVING, RETRYING, QUEUED, ANALYZED = "receiving", "retrying", "queued", "analyzed"
PENDING, DELIVERED, UNDELIVERABLE = "pending", "delivered", "undeliverable"
FEEDBACK_RECEIVED = "feedback_received"


@dataclass(frozen=True, slots=True)
class OpenStudy:
    """A study that still waits to be called complete; times are seconds since the epoch."""

    study_instance_uid: str
    last_received_at: float
    retries: int
    is_retry: bool
    modalities: frozenset[str]


class Index:
    """The node's tables in one database (SQLite file or PostgreSQL)."""

    def __init__(self, url: str) -> None:
        """Open the database at an SQLAlchemy URL, and make the tables that are missing."""
        self._engine = open_database(url)

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()

    @contextmanager
    def _connection(self) -> Iterator[sa.Connection]:
        with self._engine.begin() as connection:
            yield connection

    def _upsert(self, table: sa.Table, row: Json, *, keep: Iterable[str] = ()) -> Any:
        """Return the statement that inserts a row, or updates all but its key and the columns to keep."""
        dialect = postgresql if self._engine.dialect.name == "postgresql" else sqlite
        key = [column.name for column in table.primary_key]
        changed = {name: row[name] for name in row if name not in key and name not in set(keep)}
        statement = dialect.insert(table).values(row)
        if not changed:
            return statement.on_conflict_do_nothing(index_elements=key)
        return statement.on_conflict_do_update(index_elements=key, set_=changed)

    # --- receive and assemble

    def record_instance(self, instance: Instance, received_at: float | None = None) -> None:
        """Record an instance; it re-opens its study, unless it is a result of ours or feedback on one."""
        at = time.time() if received_at is None else received_at
        study = {
            "study_instance_uid": instance.study_instance_uid,
            "state": RECEIVING,
            "first_received_at": at,
            "last_received_at": at,
        }
        row = {column.name: getattr(instance, column.name, None) for column in INSTANCES.columns}
        row |= {"path": str(instance.path), "received_at": at}
        with self._connection() as connection:
            connection.execute(self._upsert(INSTANCES, row, keep=["received_at"]))
            uid = INSTANCES.c.sop_instance_uid == instance.sop_instance_uid
            if connection.execute(sa.select(sa.literal(1)).where(uid, IS_READ)).first():
                connection.execute(self._upsert(STUDIES, study, keep=["first_received_at"]))

    def holds(self, instance: Instance) -> bool:
        """Is this very instance (UID, bytes, AE title) known?"""
        same = sa.and_(
            INSTANCES.c.sop_instance_uid == instance.sop_instance_uid,
            INSTANCES.c.sha256 == instance.sha256,
            INSTANCES.c.called_ae_title == instance.called_ae_title,
        )
        with self._connection() as connection:
            return connection.execute(sa.select(sa.literal(1)).where(same)).first() is not None

    def paths(self) -> set[Path]:
        """Return the file of every instance that is known."""
        with self._connection() as connection:
            return {Path(path) for path in connection.execute(sa.select(INSTANCES.c.path)).scalars()}

    def open_studies(self) -> list[OpenStudy]:
        """Return the studies that wait to be called complete, the longest waiting first."""
        study = (STUDIES.c.study_instance_uid, STUDIES.c.last_received_at, STUDIES.c.retries)
        query = (
            sa.select(*study, STUDIES.c.state, INSTANCES.c.modality)
            .join(INSTANCES, INSTANCES.c.study_instance_uid == STUDIES.c.study_instance_uid)
            .where(STUDIES.c.state.in_([RECEIVING, RETRYING]), IS_READ)
            .distinct()
            .order_by(STUDIES.c.last_received_at)
        )
        modalities: dict[tuple[str, float, int, bool], set[str]] = {}
        with self._connection() as connection:
            for uid, last_received_at, retries, state, modality in connection.execute(query):
                key = (uid, last_received_at, retries, state == RETRYING)
                modalities.setdefault(key, set()).add(modality)
        return [OpenStudy(*key, frozenset(values)) for key, values in modalities.items()]

    def instances(self, study_instance_uid: str) -> list[Instance]:
        """Return every instance of a study to read, in the order they came; a later revision comes later."""
        query = (
            sa.select(INSTANCES)
            .where(INSTANCES.c.study_instance_uid == study_instance_uid, IS_READ)
            .order_by(INSTANCES.c.received_at, INSTANCES.c.sop_instance_uid)
        )
        with self._connection() as connection:
            rows = connection.execute(query).mappings().all()
        return [_instance(dict(row)) for row in rows]

    def queue_study(self, study: OpenStudy, job_id: str, evidence: str) -> bool:
        """Note that a job has the study; False when something arrived since it was looked at."""
        unchanged = sa.and_(
            STUDIES.c.study_instance_uid == study.study_instance_uid,
            STUDIES.c.last_received_at == study.last_received_at,
            STUDIES.c.retries == study.retries,
        )
        values = {"state": QUEUED, "job_id": job_id, "evidence": evidence}
        with self._connection() as connection:
            return connection.execute(sa.update(STUDIES).where(unchanged).values(values)).rowcount == 1

    def queued_studies(self) -> list[tuple[str, str]]:
        """Return the studies that a job has: UID and job."""
        query = sa.select(STUDIES.c.study_instance_uid, STUDIES.c.job_id).where(STUDIES.c.state == QUEUED)
        with self._connection() as connection:
            return [(uid, job_id) for uid, job_id in connection.execute(query)]

    def reopen_study(self, study_instance_uid: str) -> bool:
        """Ask for the study to be read again; False where there is no such study."""
        statement = (
            sa.update(STUDIES)
            .where(STUDIES.c.study_instance_uid == study_instance_uid)
            .values(state=RETRYING, retries=STUDIES.c.retries + 1)
        )
        with self._connection() as connection:
            return connection.execute(statement).rowcount == 1

    # --- what became of it

    def finish_study(self, study_instance_uid: str, job_id: str, outcome: str, reason: str) -> None:
        """Note the outcome of a study that no pipeline reads."""
        with self._connection() as connection:
            self._close(connection, study_instance_uid, job_id, outcome=outcome, reason=reason)

    def finish_run(self, run_id: str, study_instance_uid: str, job_id: str) -> None:
        """Note that a run has its outcome and its objects; the last run of a job closes the study."""
        unfinished = sa.select(sa.func.count()).where(RUNS.c.job_id == job_id, sa.not_(RUNS.c.is_finished))
        with self._connection() as connection:
            connection.execute(sa.update(RUNS).where(RUNS.c.run_id == run_id).values(is_finished=True))
            if connection.execute(unfinished).scalar_one() == 0:
                self._close(connection, study_instance_uid, job_id, outcome="", reason="")

    def _close(self, connection: sa.Connection, study_instance_uid: str, job_id: str, **values: str) -> None:
        """Close a study, unless it was opened again since the job began."""
        current = sa.and_(
            STUDIES.c.study_instance_uid == study_instance_uid,
            STUDIES.c.job_id == job_id,
            STUDIES.c.state == QUEUED,
        )
        connection.execute(sa.update(STUDIES).where(current).values(state=ANALYZED, **values))

    def record_run(self, run: Json) -> None:
        """Record a run, or what is new of it; `run` has columns of the table by name."""
        with self._connection() as connection:
            connection.execute(self._upsert(RUNS, run))

    def record_seconds(self, run_id: str, stage: str, seconds: float) -> None:
        """Record how long one stage of a run took."""
        at = RUNS.c.run_id == run_id
        with self._connection() as connection:
            known = connection.execute(sa.select(RUNS.c.seconds).where(at)).scalar_one()
            merged = dict(known) | {stage: round(seconds, 3)}
            connection.execute(sa.update(RUNS).where(at).values(seconds=merged))

    def record_objects(self, run_id: str, objects: Sequence[Json]) -> None:
        """Record the objects of a run, in place of earlier ones, each with its `destinations`."""
        now = time.time()
        uids = [item["sop_instance_uid"] for item in objects]
        replaced = sa.select(OBJECTS.c.sop_instance_uid).where(
            OBJECTS.c.run_id == run_id, OBJECTS.c.sop_instance_uid.not_in(uids)
        )
        with self._connection() as connection:
            connection.execute(sa.delete(DELIVERIES).where(DELIVERIES.c.sop_instance_uid.in_(replaced)))
            connection.execute(sa.delete(OBJECTS).where(OBJECTS.c.sop_instance_uid.in_(replaced)))
            for item in objects:
                columns = {name: item[name] for name in item if name != "destinations"}
                connection.execute(self._upsert(OBJECTS, {**columns, "run_id": run_id}))
                for name in item["destinations"]:
                    row = {"sop_instance_uid": item["sop_instance_uid"], "destination": name, "at": now}
                    statement = self._upsert(DELIVERIES, row | {"state": PENDING}, keep=["state", "at"])
                    connection.execute(statement)

    def record_quarantine(self, run_id: str, objects: Sequence[Json]) -> None:
        """Record objects that broke a rule, each with its `violations`."""
        with self._connection() as connection:
            for item in objects:
                connection.execute(self._upsert(QUARANTINE, {**item, "run_id": run_id}))

    def superseded_objects(self, run_id: str) -> list[Json]:
        """Return the objects of the last run before this one by the same pipeline over the same subject."""
        mine = sa.select(RUNS).where(RUNS.c.run_id == run_id).subquery()
        same = [RUNS.c[name] == mine.c[name] for name in ("study_instance_uid", "pipeline", "subject")]
        earlier = (
            sa.select(RUNS.c.run_id)
            .where(*same, RUNS.c.planned_at < mine.c.planned_at)
            .where(sa.exists().where(OBJECTS.c.run_id == RUNS.c.run_id))
            .order_by(RUNS.c.planned_at.desc())
            .limit(1)
        )
        query = sa.select(OBJECTS).where(OBJECTS.c.run_id == earlier.scalar_subquery())
        with self._connection() as connection:
            return [dict(row) for row in connection.execute(query.order_by(OBJECTS.c.kind)).mappings()]

    def record_delivery(
        self, sop_instance_uids: Sequence[str], destination: str, state: str, detail: str
    ) -> None:
        """Record how the delivery of some objects to one destination stands."""
        row = {"destination": destination, "state": state, "detail": detail, "at": time.time()}
        with self._connection() as connection:
            for uid in sop_instance_uids:
                connection.execute(self._upsert(DELIVERIES, row | {"sop_instance_uid": uid}))

    def record_feedback(
        self, instance: Instance, feedback: Sequence[Feedback], received_at: float | None = None
    ) -> bool:
        """Record what a report says of our results, in place of what it said; False where that is the same.

        The story of each study whose results it is about tells of it.
        """
        at = time.time() if received_at is None else received_at
        by_report = FEEDBACK.c.sop_instance_uid == instance.sop_instance_uid
        of_report = {"sop_instance_uid": instance.sop_instance_uid}
        rows = [asdict(one) | of_report | {"verdict": one.verdict.value} for one in feedback]
        said = sa.select(*(column for column in FEEDBACK.c if column.name != "received_at")).where(by_report)
        with self._connection() as connection:
            known = {frozenset(row.items()) for row in connection.execute(said).mappings()}
            if known == {frozenset(row.items()) for row in rows}:
                return False
            connection.execute(sa.delete(FEEDBACK).where(by_report))
            connection.execute(sa.insert(FEEDBACK), [row | {"received_at": at} for row in rows])
            uids = [one.result_sop_instance_uid for one in feedback]
            for study_instance_uid in self._studies_of(connection, uids) or [instance.study_instance_uid]:
                fields = of_report | Counter(one.verdict.value for one in feedback)
                event = {"study_instance_uid": study_instance_uid, "at": at, "event": FEEDBACK_RECEIVED}
                connection.execute(sa.insert(EVENTS).values(event | {"fields": fields}))
        return True

    def _studies_of(self, connection: sa.Connection, result_sop_instance_uids: Sequence[str]) -> list[str]:
        """Return the studies that results are about; none while a rebuilt index does not know their runs."""
        query = (
            sa.select(RUNS.c.study_instance_uid)
            .join(OBJECTS, OBJECTS.c.run_id == RUNS.c.run_id)
            .where(OBJECTS.c.sop_instance_uid.in_(result_sop_instance_uids))
        )
        return list(connection.execute(query.distinct()).scalars())

    def record_event(self, study_instance_uid: str, event: str, fields: Mapping[str, object]) -> None:
        """Add a line to the story of a study: plain values, no patient."""
        row = {
            "study_instance_uid": study_instance_uid,
            "at": time.time(),
            "event": event,
            "fields": dict(fields),
        }
        with self._connection() as connection:
            connection.execute(sa.insert(EVENTS).values(row))

    # --- asked by people

    def study_uids(self, limit: int = 1000) -> list[str]:
        """Return the studies, the most recent first."""
        query = (
            sa.select(STUDIES.c.study_instance_uid).order_by(STUDIES.c.last_received_at.desc()).limit(limit)
        )
        with self._connection() as connection:
            return list(connection.execute(query).scalars())

    def study(self, study_instance_uid: str) -> Json | None:
        """Return the row of a study, or None."""
        query = sa.select(STUDIES).where(STUDIES.c.study_instance_uid == study_instance_uid)
        with self._connection() as connection:
            row = connection.execute(query).mappings().first()
        return None if row is None else dict(row)

    def runs(self, job_id: str) -> list[Json]:
        """Return the runs of a job, each with its `objects`, the `quarantined`, and what it `supersedes`."""
        with self._connection() as connection:
            query = sa.select(RUNS).where(RUNS.c.job_id == job_id).order_by(RUNS.c.pipeline, RUNS.c.run_id)
            runs = [dict(row) for row in connection.execute(query).mappings()]
        return [
            {
                **run,
                "objects": self.objects(run["run_id"]),
                "quarantined": self.quarantined(run["run_id"]),
                "supersedes": [one["sop_instance_uid"] for one in self.superseded_objects(run["run_id"])],
            }
            for run in runs
        ]

    def quarantined(self, run_id: str) -> list[Json]:
        """Return the objects of a run that broke a rule, each with its `violations`."""
        query = sa.select(QUARANTINE).where(QUARANTINE.c.run_id == run_id).order_by(QUARANTINE.c.kind)
        with self._connection() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def objects(self, run_id: str) -> list[Json]:
        """Return the result objects of a run, each with its `deliveries`."""
        query = sa.select(OBJECTS).where(OBJECTS.c.run_id == run_id).order_by(OBJECTS.c.kind)
        with self._connection() as connection:
            objects = [dict(row) for row in connection.execute(query).mappings()]
            for item in objects:
                same = DELIVERIES.c.sop_instance_uid == item["sop_instance_uid"]
                rows = connection.execute(
                    sa.select(DELIVERIES).where(same).order_by(DELIVERIES.c.destination)
                )
                item["deliveries"] = [dict(row) for row in rows.mappings()]
        return objects

    def result_paths(self, sop_instance_uids: Set[str]) -> dict[str, Path]:
        """Return the files of those instances that are results of ours."""
        query = sa.select(OBJECTS.c.sop_instance_uid, OBJECTS.c.path)
        with self._connection() as connection:
            rows = connection.execute(query.where(OBJECTS.c.sop_instance_uid.in_(sop_instance_uids)))
            return {uid: Path(path) for uid, path in rows}

    def run_ids_with_objects(self) -> set[str]:
        """Return the runs whose objects are known."""
        with self._connection() as connection:
            return set(connection.execute(sa.select(OBJECTS.c.run_id).distinct()).scalars())

    def feedback(self, result_sop_instance_uid: str) -> list[Json]:
        """Return what was said of a result, the newest last."""
        query = (
            sa.select(FEEDBACK)
            .where(FEEDBACK.c.result_sop_instance_uid == result_sop_instance_uid)
            .order_by(FEEDBACK.c.received_at, *FEEDBACK.primary_key)
        )
        with self._connection() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def events(self, study_instance_uid: str) -> list[Json]:
        """Return the story of a study, in order."""
        query = (
            sa.select(EVENTS.c.at, EVENTS.c.event, EVENTS.c.fields)
            .where(EVENTS.c.study_instance_uid == study_instance_uid)
            .order_by(EVENTS.c.id)
        )
        with self._connection() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def counts(self) -> dict[str, int]:
        """Return how many studies are in each state, and how many deliveries wait (`pending`)."""
        by_state = sa.select(STUDIES.c.state, sa.func.count()).group_by(STUDIES.c.state)
        waiting = sa.select(sa.func.count()).where(DELIVERIES.c.state == PENDING)
        with self._connection() as connection:
            counts = {state: number for state, number in connection.execute(by_state)}
            return (
                dict.fromkeys((RECEIVING, RETRYING, QUEUED, ANALYZED), 0)
                | counts
                | {PENDING: connection.execute(waiting).scalar_one()}
            )


def _instance(row: Mapping[str, Any]) -> Instance:
    names = [name for name in Instance.__dataclass_fields__ if name != "path"]
    return Instance(path=Path(row["path"]), **{name: row[name] for name in names})
