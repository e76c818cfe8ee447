"""Which object goes where, and how far it got: the outbox of each destination."""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from node.domain.delivery import Reference
from node.domain.findings import Priority
from node.index.database import Database, Json
from node.index.states import CONFIRMED, DELIVERED, PENDING, UNDELIVERABLE, WITHDRAWN
from node.index.tables import DELIVERIES, LINES, OBJECTS, RUNS

RANKS = {Priority.STAT.value: 0, Priority.URGENT.value: 1}
# An object that is waiting, or given up, can be taken back; what an archive has cannot.
UNSENT = (PENDING, UNDELIVERABLE)


@dataclass(frozen=True, slots=True)
class Delivery:
    """One object on its way to one destination."""

    reference: Reference
    path: Path
    state: str
    detail: str
    attempts: int
    confirm_by: str
    questions: int
    transaction_uid: str

    @property
    def uid(self) -> str:
        """Its SOP Instance UID."""
        return self.reference.sop_instance_uid


class Deliveries(Database):
    """One row for each object and destination, and one for each destination."""

    def record_delivery(
        self,
        sop_instance_uids: Collection[str],
        destination: str,
        state: str,
        detail: str = "",
        *,
        among: Collection[str] = (),
        **columns: Any,
    ) -> int:
        """Record how the delivery of some objects to one destination stands; return how many it concerned.

        Those that are in none of the states `among` stay as they are. A column that is not given for a state
        in which there is something to do keeps its value; `due_at` is then wanted.
        """
        chosen = sa.and_(
            DELIVERIES.c.destination == destination,
            DELIVERIES.c.sop_instance_uid.in_(sop_instance_uids),
            *([DELIVERIES.c.state.in_(among)] if among else []),
        )
        values = {"due_at": None, **columns, "state": state, "detail": detail, "at": time.time()}
        with self.connection() as connection:
            return connection.execute(sa.update(DELIVERIES).where(chosen).values(values)).rowcount

    def count_attempt(self, sop_instance_uids: Collection[str], destination: str) -> None:
        """Note one more try, before it is made."""
        chosen = sa.and_(
            DELIVERIES.c.destination == destination, DELIVERIES.c.sop_instance_uid.in_(sop_instance_uids)
        )
        with self.connection() as connection:
            connection.execute(sa.update(DELIVERIES).where(chosen).values(attempts=DELIVERIES.c.attempts + 1))

    def waiting(self, destination: str, limit: int) -> list[Delivery]:
        """Return what is to be sent now: stat first, then what waits longest; of finished runs only."""
        rank = sa.case(RANKS, value=RUNS.c.priority, else_=len(RANKS))
        order = (rank, DELIVERIES.c.queued_at, OBJECTS.c.run_id, OBJECTS.c.kind, OBJECTS.c.sop_instance_uid)
        return self._due(destination, PENDING, limit, order)

    def unconfirmed(self, destination: str, limit: int) -> list[Delivery]:
        """Return what the archive has accepted and is to be asked about now, the oldest first."""
        return self._due(destination, DELIVERED, limit, (DELIVERIES.c.at, OBJECTS.c.sop_instance_uid))

    def _due(self, destination: str, state: str, limit: int, order: Sequence[Any]) -> list[Delivery]:
        query = (
            sa.select(DELIVERIES, OBJECTS, RUNS.c.study_instance_uid)
            .join(OBJECTS, OBJECTS.c.sop_instance_uid == DELIVERIES.c.sop_instance_uid)
            .join(RUNS, RUNS.c.run_id == OBJECTS.c.run_id)
            .where(DELIVERIES.c.destination == destination, DELIVERIES.c.state == state)
            .where(DELIVERIES.c.due_at <= time.time(), *([RUNS.c.is_finished] if state == PENDING else []))
            .order_by(*order)
            .limit(limit)
        )
        with self.connection() as connection:
            return [_delivery(dict(row)) for row in connection.execute(query).mappings()]

    def next_due_at(self, destination: str) -> float | None:
        """Return when the next thing is to be done for a destination after now; None where nothing is."""
        later = (DELIVERIES.c.destination == destination, DELIVERIES.c.due_at > time.time())
        query = sa.select(sa.func.min(DELIVERIES.c.due_at)).where(*later)
        with self.connection() as connection:
            at: float | None = connection.execute(query).scalar_one()
            return at

    # --- taken back, and asked for again

    def withdraw(self, connection: sa.Connection, runs: Any, reason: str) -> int:
        """Take back what was not sent of the objects of some runs (a query of their ids)."""
        objects = sa.select(OBJECTS.c.sop_instance_uid).where(OBJECTS.c.run_id.in_(runs))
        unsent = sa.and_(DELIVERIES.c.sop_instance_uid.in_(objects), DELIVERIES.c.state.in_(UNSENT))
        values = {"state": WITHDRAWN, "detail": reason, "due_at": None, "at": time.time()}
        return connection.execute(sa.update(DELIVERIES).where(unsent).values(values)).rowcount

    def retry_deliveries(self, destination: str, uids: Collection[str] = ()) -> int:
        """Have a destination tried again now: what was given up, and what waits for its next try.

        With UIDs (of objects, or of their studies) only those, and also what it has but did not confirm.
        Returns how many objects.
        """
        of_studies = (
            sa.select(OBJECTS.c.sop_instance_uid)
            .join(RUNS, RUNS.c.run_id == OBJECTS.c.run_id)
            .where(RUNS.c.study_instance_uid.in_(uids))
        )
        named = sa.or_(DELIVERIES.c.sop_instance_uid.in_(uids), DELIVERIES.c.sop_instance_uid.in_(of_studies))
        mine = [DELIVERIES.c.destination == destination, *([named] if uids else [])]
        again: Json = {"state": PENDING, "due_at": 0.0, "attempts": 0, "detail": "", "at": time.time()}
        ask: Json = {"due_at": 0.0, "questions": 0}
        with self.connection() as connection:
            count = connection.execute(
                sa.update(DELIVERIES).where(*mine, DELIVERIES.c.state.in_(UNSENT)).values(again)
            ).rowcount
            if uids:
                delivered = (*mine, DELIVERIES.c.state == DELIVERED)
                count += connection.execute(sa.update(DELIVERIES).where(*delivered).values(ask)).rowcount
            connection.execute(self.upsert(LINES, {"destination": destination, "blocked_until": 0.0}))
        return count

    # --- the destinations themselves

    def line(self, destination: str) -> Json:
        """Return how a destination stands: paused, blocked until, failures in a row, last error."""
        query = sa.select(LINES).where(LINES.c.destination == destination)
        with self.connection() as connection:
            row = connection.execute(query).mappings().first()
        return dict(row) if row else _new_line(destination)

    def record_line(self, destination: str, **columns: Any) -> None:
        """Record what is new of a destination."""
        row = {"destination": destination, **columns}
        with self.connection() as connection:
            connection.execute(self.upsert(LINES, row))

    def delivery_counts(self) -> dict[str, dict[str, int]]:
        """Return, by destination, how many objects are in each state."""
        query = sa.select(DELIVERIES.c.destination, DELIVERIES.c.state, sa.func.count()).group_by(
            DELIVERIES.c.destination, DELIVERIES.c.state
        )
        counts: dict[str, dict[str, int]] = {}
        with self.connection() as connection:
            for destination, state, number in connection.execute(query):
                counts.setdefault(destination, {})[state] = number
        return counts

    def oldest_unconfirmed(self) -> dict[str, float]:
        """Return, by destination, when the oldest object was queued that it has yet to get or to confirm."""
        query = (
            sa.select(DELIVERIES.c.destination, sa.func.min(DELIVERIES.c.queued_at))
            .where(DELIVERIES.c.due_at.is_not(None))
            .group_by(DELIVERIES.c.destination)
        )
        with self.connection() as connection:
            return {destination: at for destination, at in connection.execute(query)}

    def unfinished_deliveries(self, destination: str, limit: int = 1000) -> list[Json]:
        """Return what a destination has not got or not confirmed, and what was given up, oldest first."""
        ended = sa.or_(DELIVERIES.c.state == CONFIRMED, DELIVERIES.c.state == WITHDRAWN)
        final = sa.and_(DELIVERIES.c.state == DELIVERED, DELIVERIES.c.due_at.is_(None))
        query = (
            sa.select(DELIVERIES, OBJECTS.c.kind, RUNS.c.study_instance_uid, RUNS.c.priority)
            .join(OBJECTS, OBJECTS.c.sop_instance_uid == DELIVERIES.c.sop_instance_uid)
            .join(RUNS, RUNS.c.run_id == OBJECTS.c.run_id)
            .where(DELIVERIES.c.destination == destination, sa.not_(ended), sa.not_(final))
            .order_by(DELIVERIES.c.queued_at, DELIVERIES.c.sop_instance_uid)
            .limit(limit)
        )
        with self.connection() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]


def _delivery(row: Json) -> Delivery:
    reference = Reference(
        row["study_instance_uid"], row["series_instance_uid"], row["sop_class_uid"], row["sop_instance_uid"]
    )
    names = ("state", "detail", "attempts", "confirm_by", "questions", "transaction_uid")
    return Delivery(reference, Path(row["path"]), **{name: row[name] for name in names})


def _new_line(destination: str) -> Json:
    return {
        "destination": destination,
        "is_paused": False,
        "failures": 0,
        "blocked_until": 0.0,
        "last_error": "",
        "last_success_at": None,
    }
