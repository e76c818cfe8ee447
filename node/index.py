"""What the node knows of studies, runs, results and deliveries.

The index is derived: the spool and the run folders hold the truth. It is written by the node and read by the
commands at the same time, so every change is one short transaction.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from node.domain.study import Instance

Json = dict[str, Any]

METADATA = sa.MetaData()
STUDIES = sa.Table(
    "studies",
    METADATA,
    sa.Column("study_instance_uid", sa.String(64), primary_key=True),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("first_received_at", sa.Float, nullable=False),
    sa.Column("last_received_at", sa.Float, nullable=False),
    sa.Column("retries", sa.Integer, nullable=False, default=0),
    sa.Column("evidence", sa.Text, nullable=False, default=""),
    sa.Column("outcome", sa.String(16), nullable=False, default=""),
    sa.Column("reason", sa.Text, nullable=False, default=""),
    sa.Column("job_id", sa.String(64), nullable=False, default=""),
)
INSTANCES = sa.Table(
    "instances",
    METADATA,
    sa.Column("sop_instance_uid", sa.String(64), primary_key=True),
    sa.Column("sha256", sa.String(64), primary_key=True),
    sa.Column("called_ae_title", sa.String(16), primary_key=True),
    sa.Column("calling_ae_title", sa.String(16), nullable=False),
    sa.Column("study_instance_uid", sa.String(64), nullable=False, index=True),
    sa.Column("series_instance_uid", sa.String(64), nullable=False),
    sa.Column("sop_class_uid", sa.String(64), nullable=False),
    sa.Column("transfer_syntax_uid", sa.String(64), nullable=False),
    sa.Column("modality", sa.String(16), nullable=False),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("received_at", sa.Float, nullable=False),
)
RUNS = sa.Table(
    "runs",
    METADATA,
    sa.Column("run_id", sa.String(64), primary_key=True),
    sa.Column("job_id", sa.String(64), nullable=False, index=True),
    sa.Column("study_instance_uid", sa.String(64), nullable=False),
    sa.Column("series_instance_uid", sa.String(64), nullable=False),
    sa.Column("pipeline", sa.String(64), nullable=False),
    sa.Column("outcome", sa.String(16), nullable=False, default=""),
    sa.Column("reason", sa.Text, nullable=False, default=""),
    sa.Column("priority", sa.String(16), nullable=False, default="routine"),
    sa.Column("scores", sa.JSON, nullable=False, default=list),
    sa.Column("seconds", sa.JSON, nullable=False, default=dict),
    sa.Column("is_finished", sa.Boolean, nullable=False, default=False),
)
OBJECTS = sa.Table(
    "objects",
    METADATA,
    sa.Column("sop_instance_uid", sa.String(64), primary_key=True),
    sa.Column("run_id", sa.String(64), nullable=False, index=True),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("sop_class_uid", sa.String(64), nullable=False),
    sa.Column("path", sa.Text, nullable=False),
)
DELIVERIES = sa.Table(
    "deliveries",
    METADATA,
    sa.Column("sop_instance_uid", sa.String(64), primary_key=True),
    sa.Column("destination", sa.String(64), primary_key=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("detail", sa.Text, nullable=False, default=""),
    sa.Column("at", sa.Float, nullable=False),
)
EVENTS = sa.Table(
    "events",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("study_instance_uid", sa.String(64), nullable=False, index=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("event", sa.String(64), nullable=False),
    sa.Column("fields", sa.JSON, nullable=False),
)

RECEIVING, RETRYING, QUEUED, ANALYZED = "receiving", "retrying", "queued", "analyzed"
PENDING, DELIVERED, UNDELIVERABLE = "pending", "delivered", "undeliverable"


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
        self._engine = sa.create_engine(url)
        if self._engine.dialect.name == "sqlite":
            sa.event.listen(self._engine, "connect", _prepare_sqlite)
        METADATA.create_all(self._engine)

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
        """Record a stored instance and re-open its study."""
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
            .where(STUDIES.c.state.in_([RECEIVING, RETRYING]))
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
        """Return every stored instance of a study, in the order they came; a later revision comes later."""
        query = (
            sa.select(INSTANCES)
            .where(INSTANCES.c.study_instance_uid == study_instance_uid)
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

    def record_objects(
        self, run_id: str, objects: Sequence[Json], kinds_by_destination: Mapping[str, Sequence[str]]
    ) -> None:
        """Record the objects of a run, in place of earlier ones, each with the destinations that want it."""
        now = time.time()
        uids = [item["sop_instance_uid"] for item in objects]
        replaced = sa.select(OBJECTS.c.sop_instance_uid).where(
            OBJECTS.c.run_id == run_id, OBJECTS.c.sop_instance_uid.not_in(uids)
        )
        with self._connection() as connection:
            connection.execute(sa.delete(DELIVERIES).where(DELIVERIES.c.sop_instance_uid.in_(replaced)))
            connection.execute(sa.delete(OBJECTS).where(OBJECTS.c.sop_instance_uid.in_(replaced)))
            for item in objects:
                connection.execute(self._upsert(OBJECTS, {**item, "run_id": run_id}))
                for name in (one for one, kinds in kinds_by_destination.items() if item["kind"] in kinds):
                    row = {"sop_instance_uid": item["sop_instance_uid"], "destination": name, "at": now}
                    statement = self._upsert(DELIVERIES, row | {"state": PENDING}, keep=["state", "at"])
                    connection.execute(statement)

    def record_delivery(
        self, sop_instance_uids: Sequence[str], destination: str, state: str, detail: str
    ) -> None:
        """Record how the delivery of some objects to one destination stands."""
        row = {"destination": destination, "state": state, "detail": detail, "at": time.time()}
        with self._connection() as connection:
            for uid in sop_instance_uids:
                connection.execute(self._upsert(DELIVERIES, row | {"sop_instance_uid": uid}))

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
        """Return the runs of a job, each with its `objects`, each with its `deliveries`."""
        with self._connection() as connection:
            query = sa.select(RUNS).where(RUNS.c.job_id == job_id).order_by(RUNS.c.pipeline, RUNS.c.run_id)
            runs = [dict(row) for row in connection.execute(query).mappings()]
        return [{**run, "objects": self.objects(run["run_id"])} for run in runs]

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


def sqlite_url(path: Path) -> str:
    """Return the URL of an SQLite file."""
    return f"sqlite:///{path}"


def _prepare_sqlite(connection: Any, _record: object) -> None:
    """Let the commands read while the node writes, and wait for each other instead of failing."""
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=30000"):
        connection.execute(f"PRAGMA {pragma}")


def _instance(row: Mapping[str, Any]) -> Instance:
    names = [name for name in Instance.__dataclass_fields__ if name != "path"]
    return Instance(path=Path(row["path"]), **{name: row[name] for name in names})
