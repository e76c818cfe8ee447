"""What is told of a study: its events, and what people said of its results."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import sqlalchemy as sa

from node.domain.feedback import Feedback
from node.domain.study import Instance
from node.index.database import Database, Json
from node.index.tables import (
    EVENTS,
    FEEDBACK,
    OBJECTS,
    RUNS,
)

FEEDBACK_RECEIVED = "feedback_received"


class Stories(Database):
    """Events and feedback."""

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
        with self.connection() as connection:
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
        with self.connection() as connection:
            connection.execute(sa.insert(EVENTS).values(row))

    def feedback(self, result_sop_instance_uid: str) -> list[Json]:
        """Return what was said of a result, the newest last."""
        query = (
            sa.select(FEEDBACK)
            .where(FEEDBACK.c.result_sop_instance_uid == result_sop_instance_uid)
            .order_by(FEEDBACK.c.received_at, *FEEDBACK.primary_key)
        )
        with self.connection() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def events(self, study_instance_uid: str) -> list[Json]:
        """Return the story of a study, in order."""
        query = (
            sa.select(EVENTS.c.at, EVENTS.c.event, EVENTS.c.fields)
            .where(EVENTS.c.study_instance_uid == study_instance_uid)
            .order_by(EVENTS.c.id)
        )
        with self.connection() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]
