"""What came in, and which studies are open, queued or closed."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from node.domain.study import Instance
from node.index.database import Database, Json
from node.index.states import ANALYZED, CANCELLED, QUEUED, RECEIVING, RETRYING
from node.index.tables import (
    EVENTS,
    INSTANCES,
    IS_READ,
    OBJECTS,
    STUDIES,
)

STUDY_ASSEMBLED = "study_assembled"

# Made once: they are asked for all that comes in.
_UIDS: sa.BindParameter[str] = sa.bindparam("uids", expanding=True)
_TO_READ = sa.select(INSTANCES.c.study_instance_uid).where(INSTANCES.c.sop_instance_uid.in_(_UIDS), IS_READ)
_CANCELLED = sa.select(STUDIES.c.study_instance_uid).where(
    STUDIES.c.study_instance_uid.in_(_UIDS), STUDIES.c.state == CANCELLED
)
_COLUMNS = [column.name for column in INSTANCES.columns]
# What is recorded together came one after the other.
TICK_S = 1e-6


@dataclass(frozen=True, slots=True)
class OpenStudy:
    """A study that still waits to be called complete; times are seconds since the epoch."""

    study_instance_uid: str
    last_received_at: float
    retries: int
    is_retry: bool
    modalities: frozenset[str]


class Arrivals(Database):
    """Instances and the studies that they make."""

    def record_instance(self, instance: Instance, received_at: float | None = None) -> None:
        """Record one instance as `record_instances` does."""
        self.record_instances([instance], received_at)

    def record_instances(self, instances: Sequence[Instance], received_at: float | None = None) -> None:
        """Record what came in, in its order; a study is opened again unless all are results or feedback.

        A study that was cancelled stays so until it is asked for again.
        """
        began_at = time.time() if received_at is None else received_at
        rows = [
            {column: getattr(instance, column, None) for column in _COLUMNS}
            | {"path": str(instance.path), "received_at": began_at + number * TICK_S}
            for number, instance in enumerate(instances)
        ]
        with self.connection() as connection:
            connection.execute(self.upsert_of(INSTANCES, keep=("received_at",)), rows)
            uids = [instance.sop_instance_uid for instance in instances]
            last = {row["study_instance_uid"]: row["received_at"] for row in rows}
            # An earlier one with the same UID may be in another study, which is left alone.
            read = last.keys() & set(connection.execute(_TO_READ, {"uids": uids}).scalars())
            read -= set(connection.execute(_CANCELLED, {"uids": list(read)}).scalars())
            for uid in read:
                study = {"study_instance_uid": uid, "state": RECEIVING}
                study |= {"first_received_at": last[uid], "last_received_at": last[uid]}
                connection.execute(self.upsert(STUDIES, study, keep=["first_received_at"]))

    def holds(self, instance: Instance) -> bool:
        """Is this very instance (UID, bytes, AE title) known?"""
        same = sa.and_(
            INSTANCES.c.sop_instance_uid == instance.sop_instance_uid,
            INSTANCES.c.digest == instance.digest,
            INSTANCES.c.called_ae_title == instance.called_ae_title,
        )
        with self.connection() as connection:
            return connection.execute(sa.select(sa.literal(1)).where(same)).first() is not None

    def paths(self) -> set[Path]:
        """Return the file of every instance that is known."""
        with self.connection() as connection:
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
        with self.connection() as connection:
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
        with self.connection() as connection:
            rows = connection.execute(query).mappings().all()
        return [_instance(dict(row)) for row in rows]

    def count_instances(self, study_instance_uid: str) -> int:
        """Return how many instances of a study are here, each once and our own results left out."""
        query = sa.select(sa.func.count(INSTANCES.c.sop_instance_uid.distinct())).where(
            INSTANCES.c.study_instance_uid == study_instance_uid,
            ~sa.exists().where(OBJECTS.c.sop_instance_uid == INSTANCES.c.sop_instance_uid),
        )
        with self.connection() as connection:
            return int(connection.execute(query).scalar_one())

    def queue_study(
        self, study: OpenStudy, job_id: str, evidence: str, event: Mapping[str, object] | None = None
    ) -> bool:
        """Note that a job has the study; False when something arrived since it was looked at.

        `event` are the fields of `study_assembled`, which its story tells of exactly if it is so.
        """
        unchanged = sa.and_(
            STUDIES.c.study_instance_uid == study.study_instance_uid,
            STUDIES.c.last_received_at == study.last_received_at,
            STUDIES.c.retries == study.retries,
        )
        values = {"state": QUEUED, "job_id": job_id, "evidence": evidence}
        with self.connection() as connection:
            if connection.execute(sa.update(STUDIES).where(unchanged).values(values)).rowcount != 1:
                return False
            if event is not None:
                row = {"study_instance_uid": study.study_instance_uid, "at": time.time()}
                row |= {"event": STUDY_ASSEMBLED, "fields": dict(event)}
                connection.execute(sa.insert(EVENTS).values(row))
            return True

    def queued_studies(self) -> list[tuple[str, str]]:
        """Return the studies that a job has: UID and job."""
        query = sa.select(STUDIES.c.study_instance_uid, STUDIES.c.job_id).where(STUDIES.c.state == QUEUED)
        with self.connection() as connection:
            return [(uid, job_id) for uid, job_id in connection.execute(query)]

    def reopen_study(self, study_instance_uid: str) -> bool:
        """Ask for the study to be read again; False where there is no such study."""
        statement = (
            sa.update(STUDIES)
            .where(STUDIES.c.study_instance_uid == study_instance_uid)
            .values(state=RETRYING, retries=STUDIES.c.retries + 1, reason="")
        )
        with self.connection() as connection:
            return connection.execute(statement).rowcount == 1

    def finish_study(self, study_instance_uid: str, job_id: str, outcome: str, reason: str) -> None:
        """Note the outcome of a study that no pipeline reads."""
        with self.connection() as connection:
            self._close(connection, study_instance_uid, job_id, outcome=outcome, reason=reason)

    def _close(self, connection: sa.Connection, study_instance_uid: str, job_id: str, **values: str) -> None:
        """Close a study, unless it was opened again since the job began."""
        current = sa.and_(
            STUDIES.c.study_instance_uid == study_instance_uid,
            STUDIES.c.job_id == job_id,
            STUDIES.c.state == QUEUED,
        )
        connection.execute(sa.update(STUDIES).where(current).values(state=ANALYZED, **values))

    def study_uids(self, limit: int = 1000) -> list[str]:
        """Return the studies, the most recent first."""
        query = (
            sa.select(STUDIES.c.study_instance_uid).order_by(STUDIES.c.last_received_at.desc()).limit(limit)
        )
        with self.connection() as connection:
            return list(connection.execute(query).scalars())

    def study(self, study_instance_uid: str) -> Json | None:
        """Return the row of a study, or None."""
        query = sa.select(STUDIES).where(STUDIES.c.study_instance_uid == study_instance_uid)
        with self.connection() as connection:
            row = connection.execute(query).mappings().first()
        return None if row is None else dict(row)


def _instance(row: Mapping[str, Any]) -> Instance:
    names = [name for name in Instance.__dataclass_fields__ if name != "path"]
    return Instance(path=Path(row["path"]), **{name: row[name] for name in names})
