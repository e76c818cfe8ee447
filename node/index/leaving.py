"""What leaves the node: studies that are finished with, and rows of the index whose files are gone."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from node.index.database import Database
from node.index.states import (
    ANALYZED,
    CANCELLED,
    CONFIRMED,
    DELIVERED,
    PENDING,
    PURGING,
    RECEIVING,
    RETRYING,
    UNDELIVERABLE,
)
from node.index.tables import (
    DELIVERIES,
    EVENTS,
    FEEDBACK,
    INSTANCES,
    OBJECTS,
    PROMISES,
    QUARANTINE,
    RUNS,
    STUDIES,
    TRANSACTIONS,
)

CHUNK = 500
FILES_GONE = "its files are gone from the spool"


@dataclass(frozen=True, slots=True)
class FinishedStudy:
    """A study that nothing is to be done for; `finished_at` is when the last thing was, in epoch seconds.

    `outcomes` are those of its runs, or its own. `has_left` says of its results that each reached an archive,
    `is_promised` of its instances that a peer was told that the node keeps some.
    """

    study_instance_uid: str
    finished_at: float
    outcomes: frozenset[str]
    has_left: bool
    is_promised: bool
    is_being_purged: bool


class Leaving(Database):
    """Studies on their way out."""

    def finished_studies(
        self, study_instance_uid: str = "", before: float | None = None
    ) -> list[FinishedStudy]:
        """Return the studies (or one) that may leave, the longest finished first.

        None that is open, queued, under way, has something to be delivered or confirmed, or is undeliverable.
        With `before` none to which something came later, but for those that are leaving already.
        """
        delivered_at = sa.func.coalesce(
            _of_study(sa.select(sa.func.max(DELIVERIES.c.at))).scalar_subquery(), 0.0
        )
        # What is said of a study, and what comes back of it, comes after the last instance to be read.
        told_at = sa.func.coalesce(
            sa.select(sa.func.max(INSTANCES.c.received_at))
            .where(INSTANCES.c.study_instance_uid == STUDIES.c.study_instance_uid)
            .correlate(STUDIES)
            .scalar_subquery(),
            STUDIES.c.last_received_at,
        )
        finished_at = sa.case((delivered_at > told_at, delivered_at), else_=told_at).label("finished_at")
        staying = ~sa.exists().where(
            DELIVERIES.c.sop_instance_uid == OBJECTS.c.sop_instance_uid,
            DELIVERIES.c.state.in_([DELIVERED, CONFIRMED]),
        )
        is_here = sa.exists(
            sa.select(OBJECTS.c.sop_instance_uid)
            .join(RUNS, RUNS.c.run_id == OBJECTS.c.run_id)
            .where(RUNS.c.job_id == STUDIES.c.job_id, staying)
            .correlate(STUDIES)
        ).label("is_here")
        columns = (STUDIES.c.study_instance_uid, STUDIES.c.state, STUDIES.c.outcome, STUDIES.c.job_id)
        said = (finished_at, is_here, _is_promised().label("is_promised"))
        query = sa.select(*columns, *said).where(_is_finished()).order_by(finished_at)
        if study_instance_uid:
            query = query.where(STUDIES.c.study_instance_uid == study_instance_uid)
        if before is not None:
            query = query.where(sa.or_(STUDIES.c.last_received_at < before, STUDIES.c.state == PURGING))
        with self.connection() as connection:
            rows = connection.execute(query).all()
            outcomes: dict[str, set[str]] = {}
            for jobs in _chunks([row.job_id for row in rows if row.job_id]):
                ended = sa.select(RUNS.c.job_id, RUNS.c.outcome).where(RUNS.c.job_id.in_(jobs))
                for job_id, outcome in connection.execute(ended):
                    outcomes.setdefault(job_id, set()).add(outcome)
        return [
            FinishedStudy(
                row.study_instance_uid,
                row.finished_at,
                frozenset(outcomes.get(row.job_id) or {row.outcome}),
                not row.is_here,
                row.is_promised,
                row.state == PURGING,
            )
            for row in rows
        ]

    def begin_purge(self, study: FinishedStudy) -> bool:
        """Take a study out of use; False where something has happened to it since."""
        if study not in self.finished_studies(study.study_instance_uid):
            return False
        promised = _is_promised() if study.is_promised else ~_is_promised()
        unchanged = (STUDIES.c.study_instance_uid == study.study_instance_uid, _is_finished(), promised)
        with self.connection() as connection:
            return (
                connection.execute(sa.update(STUDIES).where(*unchanged).values(state=PURGING)).rowcount == 1
            )

    def belongings(self, study_instance_uid: str) -> tuple[list[Path], list[str]]:
        """Return the files of the instances of a study that is being removed, and its runs.

        Nothing of one that is open again: an image came that is to be read.
        """
        leaving = sa.exists().where(
            STUDIES.c.study_instance_uid == study_instance_uid, STUDIES.c.state == PURGING
        )
        files = sa.select(INSTANCES.c.path).where(
            INSTANCES.c.study_instance_uid == study_instance_uid, leaving
        )
        runs = sa.select(RUNS.c.run_id).where(RUNS.c.study_instance_uid == study_instance_uid, leaving)
        with self.connection() as connection:
            paths = [Path(path) for path in connection.execute(files).scalars()]
            return paths, list(connection.execute(runs).scalars())

    def forget_study(self, study_instance_uid: str) -> bool:
        """Forget the instances of a study whose files are gone, and with the last of them the study.

        False where a file is there that came while the study was removed, and is still to be removed.
        """
        mine = STUDIES.c.study_instance_uid == study_instance_uid
        with self.connection() as connection:
            # A change first: whoever records an instance now waits until this is over.
            purging = sa.update(STUDIES).where(mine, STUDIES.c.state == PURGING).values(state=PURGING)
            is_purging = connection.execute(purging).rowcount == 1
            files = sa.select(INSTANCES.c.path).where(INSTANCES.c.study_instance_uid == study_instance_uid)
            paths = list(connection.execute(files).scalars())
            gone = [path for path in paths if not Path(path).exists()]
            _delete_instances(connection, gone)
            if len(gone) < len(paths):
                return not is_purging
            _delete_study(connection, study_instance_uid)
            return True

    def drop_instances(self, paths: Collection[Path]) -> int:
        """Drop the rows of instances whose files are gone; return of how many.

        A study that waited to be read and has nothing left has failed.
        """
        is_empty = ~sa.exists().where(INSTANCES.c.study_instance_uid == STUDIES.c.study_instance_uid)
        waited = STUDIES.c.state.in_([RECEIVING, RETRYING])
        values = {"state": ANALYZED, "outcome": "failed", "reason": FILES_GONE, "job_id": ""}
        with self.connection() as connection:
            count = _delete_instances(connection, [str(path) for path in paths])
            connection.execute(sa.update(STUDIES).where(is_empty, waited).values(values))
            return count


def _is_promised() -> Any:
    return sa.exists().where(PROMISES.c.study_instance_uid == STUDIES.c.study_instance_uid)


def _is_finished() -> Any:
    """Return the condition that nothing is to be done for a study, nor was given up."""
    waits_for_answer = sa.and_(DELIVERIES.c.state == DELIVERED, DELIVERIES.c.due_at.is_not(None))
    unsettled = _of_study(sa.select(DELIVERIES.c.sop_instance_uid)).where(
        sa.or_(DELIVERIES.c.state.in_([PENDING, UNDELIVERABLE]), waits_for_answer)
    )
    unfinished = sa.select(RUNS.c.run_id).where(
        RUNS.c.study_instance_uid == STUDIES.c.study_instance_uid, sa.not_(RUNS.c.is_finished)
    )
    return sa.and_(
        STUDIES.c.state.in_([ANALYZED, CANCELLED, PURGING]),
        ~sa.exists(unsettled.correlate(STUDIES)),
        ~sa.exists(unfinished.correlate(STUDIES)),
    )


def _of_study(query: Any) -> Any:
    """Return a query of deliveries, narrowed to the results of the study around it."""
    return (
        query.select_from(DELIVERIES)
        .join(OBJECTS, OBJECTS.c.sop_instance_uid == DELIVERIES.c.sop_instance_uid)
        .join(RUNS, RUNS.c.run_id == OBJECTS.c.run_id)
        .where(RUNS.c.study_instance_uid == STUDIES.c.study_instance_uid)
        .correlate(STUDIES)
    )


def _chunks(values: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield the values in portions that fit into one statement."""
    for start in range(0, len(values), CHUNK):
        yield values[start : start + CHUNK]


def _delete_instances(connection: sa.Connection, paths: Sequence[str]) -> int:
    return sum(
        connection.execute(sa.delete(INSTANCES).where(INSTANCES.c.path.in_(chunk))).rowcount
        for chunk in _chunks(paths)
    )


def _delete_study(connection: sa.Connection, study_instance_uid: str) -> None:
    runs = sa.select(RUNS.c.run_id).where(RUNS.c.study_instance_uid == study_instance_uid)
    objects = sa.select(OBJECTS.c.sop_instance_uid).where(OBJECTS.c.run_id.in_(runs))
    mine = DELIVERIES.c.sop_instance_uid.in_(objects)
    transactions = connection.execute(sa.select(DELIVERIES.c.transaction_uid).where(mine).distinct())
    transaction_uids = list(transactions.scalars())
    connection.execute(sa.delete(DELIVERIES).where(mine))
    ended = ~sa.exists().where(DELIVERIES.c.transaction_uid == TRANSACTIONS.c.transaction_uid)
    for chunk in _chunks(transaction_uids):
        its = TRANSACTIONS.c.transaction_uid.in_(chunk)
        connection.execute(sa.delete(TRANSACTIONS).where(its, ended))
    connection.execute(sa.delete(FEEDBACK).where(FEEDBACK.c.result_sop_instance_uid.in_(objects)))
    for table in (QUARANTINE, OBJECTS):
        connection.execute(sa.delete(table).where(table.c.run_id.in_(runs)))
    for table in (RUNS, EVENTS, PROMISES, STUDIES):
        connection.execute(sa.delete(table).where(table.c.study_instance_uid == study_instance_uid))
