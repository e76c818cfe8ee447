"""What the node knows of studies, runs, results and deliveries.

The index is derived: the spool and the run folders hold the truth. It is written by the node and read by the
commands at the same time, so every change is one short transaction.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from node.index.arrivals import Arrivals
from node.index.commitments import Commitments
from node.index.database import sqlite_url
from node.index.deliveries import Deliveries
from node.index.leaving import Leaving
from node.index.outcomes import Outcomes
from node.index.states import ANALYZED, CANCELLED, PENDING, QUEUED, RECEIVING, RETRYING
from node.index.stories import Stories
from node.index.tables import DELIVERIES, OBJECTS, RUNS, STUDIES

SUPERSEDED = "superseded"


class Index(Arrivals, Outcomes, Deliveries, Commitments, Stories, Leaving):
    """The node's tables in one database (SQLite file or PostgreSQL)."""

    def finish_run(self, run_id: str, study_instance_uid: str, job_id: str) -> Mapping[str, int]:
        """Note that a run has its outcome and its objects; the last run of a job closes the study.

        Only now does the outbox send them, and not at all where the study was cancelled; what waits of an
        earlier run that this one supersedes is not sent either. Returns how many deliveries were taken back,
        by the reason.
        """
        unfinished = sa.select(sa.func.count()).where(RUNS.c.job_id == job_id, sa.not_(RUNS.c.is_finished))
        mine = sa.select(RUNS.c.run_id).where(RUNS.c.run_id == run_id)
        study = sa.select(STUDIES.c.state).where(STUDIES.c.study_instance_uid == study_instance_uid)
        withdrawn = {}
        with self.connection() as connection:
            connection.execute(sa.update(RUNS).where(RUNS.c.run_id == run_id).values(is_finished=True))
            withdrawn[SUPERSEDED] = self.withdraw(connection, _superseded_by(run_id), SUPERSEDED)
            if connection.execute(study).scalar_one_or_none() == CANCELLED:
                withdrawn[CANCELLED] = self.withdraw(connection, mine, CANCELLED)
            if connection.execute(unfinished).scalar_one() == 0:
                self._close(connection, study_instance_uid, job_id, outcome="", reason="")
        return {reason: number for reason, number in withdrawn.items() if number}

    def cancel_study(self, study_instance_uid: str) -> int | None:
        """Take back what was not sent of a study, and end it if it is not read yet; None where there is none.

        Returns how many deliveries were taken back; the story of the study tells it too.
        """
        study = STUDIES.c.study_instance_uid == study_instance_uid
        runs = sa.select(RUNS.c.run_id).where(RUNS.c.study_instance_uid == study_instance_uid)
        values = {"state": CANCELLED, "outcome": "", "reason": "cancelled by command"}
        with self.connection() as connection:
            if connection.execute(sa.select(STUDIES.c.state).where(study)).first() is None:
                return None
            connection.execute(sa.update(STUDIES).where(study, STUDIES.c.state != ANALYZED).values(values))
            withdrawn = self.withdraw(connection, runs, CANCELLED)
        self.record_event(study_instance_uid, "study_cancelled", {"withdrawn": withdrawn})
        return withdrawn

    def counts(self) -> dict[str, int]:
        """Return how many studies are in each state, and how many deliveries wait (`pending`)."""
        by_state = sa.select(STUDIES.c.state, sa.func.count()).group_by(STUDIES.c.state)
        waiting = sa.select(sa.func.count()).where(DELIVERIES.c.state == PENDING)
        with self.connection() as connection:
            counts = {state: number for state, number in connection.execute(by_state)}
            return (
                dict.fromkeys((RECEIVING, RETRYING, QUEUED, ANALYZED, CANCELLED), 0)
                | counts
                | {PENDING: connection.execute(waiting).scalar_one()}
            )


def _superseded_by(run_id: str) -> Any:
    """Return the query of earlier runs over the same subject by the same pipeline, if this left objects."""
    later, earlier = RUNS.alias("later"), RUNS.alias("earlier")
    same = [later.c[name] == earlier.c[name] for name in ("study_instance_uid", "pipeline", "subject")]
    return sa.select(earlier.c.run_id).where(
        *same,
        later.c.run_id == run_id,
        earlier.c.planned_at < later.c.planned_at,
        sa.exists().where(OBJECTS.c.run_id == later.c.run_id),
    )


def index_path(data: Path) -> Path:
    """Return the file that holds the index of a node's data folder."""
    return data / "index.sqlite"


def open_index(data: Path) -> Index:
    """Open the index of a node's data folder, making both where they are missing."""
    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    return Index(sqlite_url(index_path(data)))
