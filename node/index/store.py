"""What the node knows of studies, runs, results and deliveries.

The index is derived: the spool and the run folders hold the truth. It is written by the node and read by the
commands at the same time, so every change is one short transaction.
"""

import sqlalchemy as sa

from node.index.arrivals import Arrivals
from node.index.deliveries import Deliveries
from node.index.outcomes import Outcomes
from node.index.states import ANALYZED, PENDING, QUEUED, RECEIVING, RETRYING
from node.index.stories import Stories
from node.index.tables import DELIVERIES, RUNS, STUDIES


class Index(Arrivals, Outcomes, Deliveries, Stories):
    """The node's tables in one database (SQLite file or PostgreSQL)."""

    def finish_run(self, run_id: str, study_instance_uid: str, job_id: str) -> None:
        """Note that a run has its outcome and its objects; the last run of a job closes the study."""
        unfinished = sa.select(sa.func.count()).where(RUNS.c.job_id == job_id, sa.not_(RUNS.c.is_finished))
        with self.connection() as connection:
            connection.execute(sa.update(RUNS).where(RUNS.c.run_id == run_id).values(is_finished=True))
            if connection.execute(unfinished).scalar_one() == 0:
                self._close(connection, study_instance_uid, job_id, outcome="", reason="")

    def counts(self) -> dict[str, int]:
        """Return how many studies are in each state, and how many deliveries wait (`pending`)."""
        by_state = sa.select(STUDIES.c.state, sa.func.count()).group_by(STUDIES.c.state)
        waiting = sa.select(sa.func.count()).where(DELIVERIES.c.state == PENDING)
        with self.connection() as connection:
            counts = {state: number for state, number in connection.execute(by_state)}
            return (
                dict.fromkeys((RECEIVING, RETRYING, QUEUED, ANALYZED), 0)
                | counts
                | {PENDING: connection.execute(waiting).scalar_one()}
            )
