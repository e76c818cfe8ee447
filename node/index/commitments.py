"""Storage commitment: what was asked of archives, and what was asked of this node."""

import time
from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa

from node.domain.delivery import CommitmentReport
from node.index.database import Database, Json
from node.index.states import CONFIRMED, DELIVERED, PENDING, PURGING, UNDELIVERABLE
from node.index.tables import (
    COMMITMENTS,
    DELIVERIES,
    INSTANCES,
    OBJECTS,
    PROMISES,
    RUNS,
    STUDIES,
    TRANSACTIONS,
)

# Failure Reason (0008,1197), PS3.3 C.14: what no second copy can mend, and a transaction that was not taken.
MISSING, DUPLICATE_TRANSACTION = 0x0112, 0x0131
HOPELESS = {0x0119: "class and instance conflict", 0x0122: "SOP class not supported"}
OTHER = {
    0x0110: "processing failure",
    MISSING: "no such object instance",
    DUPLICATE_TRANSACTION: "duplicate transaction UID",
    0x0213: "resource limitation",
}
KEPT: Json = {"state": CONFIRMED, "detail": "committed", "due_at": None}


class Commitments(Database):
    """Transactions, by their UID."""

    def begin_transaction(
        self, transaction_uid: str, destination: str, sop_instance_uids: Collection[str]
    ) -> None:
        """Note which transaction some objects are in, before anybody is asked."""
        row = {"transaction_uid": transaction_uid, "destination": destination, "asked_at": time.time()}
        mine = sa.and_(
            DELIVERIES.c.destination == destination,
            DELIVERIES.c.sop_instance_uid.in_(sop_instance_uids),
            DELIVERIES.c.state == DELIVERED,
        )
        with self.connection() as connection:
            connection.execute(sa.insert(TRANSACTIONS).values(row | {"is_accepted": False}))
            connection.execute(sa.update(DELIVERIES).where(mine).values(transaction_uid=transaction_uid))

    def accept_transaction(self, transaction_uid: str, report_due_at: float) -> None:
        """Note that the archive took the request, and until when its report is waited for."""
        mine = sa.and_(
            DELIVERIES.c.transaction_uid == transaction_uid,
            DELIVERIES.c.state == DELIVERED,
            # A report that was faster has decided already.
            sa.exists().where(
                TRANSACTIONS.c.transaction_uid == transaction_uid, TRANSACTIONS.c.answered_at.is_(None)
            ),
        )
        with self.connection() as connection:
            connection.execute(sa.update(DELIVERIES).where(mine).values(due_at=report_due_at))
            connection.execute(
                sa.update(TRANSACTIONS)
                .where(TRANSACTIONS.c.transaction_uid == transaction_uid)
                .values(is_accepted=True)
            )

    def transaction(self, transaction_uid: str) -> Json | None:
        """Return a transaction that this node began; None where it knows of none."""
        query = sa.select(TRANSACTIONS).where(TRANSACTIONS.c.transaction_uid == transaction_uid)
        with self.connection() as connection:
            row = connection.execute(query).mappings().first()
        return None if row is None else dict(row)

    def record_report(self, report: CommitmentReport) -> list[Json] | None:
        """Note what an archive reports of a transaction, however late; None where it is not one of ours.

        Returns what changed by study: its UID, the destination, how many are confirmed, how many failed. What
        the archive keeps is confirmed; what it does not have is sent again, also if it was found before; what
        it will never take is given up; of objects in another, later transaction only the good news count.
        """
        known = self.transaction(report.transaction_uid)
        if known is None:
            return None
        at_destination = DELIVERIES.c.destination == known["destination"]
        in_transaction = DELIVERIES.c.transaction_uid == report.transaction_uid
        changed: list[Json] = []
        # The archive reports once, and not again when it was answered.
        with self.durable() as connection:
            committed = [at_destination, DELIVERIES.c.state != CONFIRMED]
            changed += self._change(connection, [*committed, _is_one_of(report.committed)], KEPT)
            for uid, reason in report.failed.items():
                state = DELIVERIES.c.state.in_([DELIVERED, CONFIRMED] if reason == MISSING else [DELIVERED])
                failed = [at_destination, in_transaction, state, _is_one_of([uid])]
                changed += self._change(connection, failed, _after_failure(reason))
            answered = {"answered_at": time.time(), "is_accepted": True}
            mine = TRANSACTIONS.c.transaction_uid == report.transaction_uid
            connection.execute(sa.update(TRANSACTIONS).where(mine).values(answered))
        return [one | {"destination": known["destination"]} for one in changed]

    def _change(self, connection: sa.Connection, limits: Sequence[Any], values: Json) -> list[Json]:
        """Change deliveries, and return how many of which study."""
        studies = (
            sa.select(RUNS.c.study_instance_uid, sa.func.count())
            .join(OBJECTS, OBJECTS.c.run_id == RUNS.c.run_id)
            .join(DELIVERIES, DELIVERIES.c.sop_instance_uid == OBJECTS.c.sop_instance_uid)
            .where(*limits)
            .group_by(RUNS.c.study_instance_uid)
        )
        counts = list(connection.execute(studies))
        connection.execute(sa.update(DELIVERIES).where(*limits).values(values | {"at": time.time()}))
        state, detail = values["state"], values["detail"]
        return [
            {"study_instance_uid": uid, "state": state, "detail": detail, "objects": number}
            for uid, number in counts
        ]

    # --- asked of this node

    def record_commitment(
        self, transaction_uid: str, ae_title: str, called_ae_title: str, instances: Sequence[tuple[str, str]]
    ) -> bool:
        """Note, safely, that a peer wants to know whether instances (SOP class, SOP instance) are kept.

        Asked the same again it is told again; False where another request has this UID and no report yet.
        """
        row = {
            "transaction_uid": transaction_uid,
            "ae_title": ae_title,
            "called_ae_title": called_ae_title,
            "instances": [list(one) for one in instances],
            "asked_at": time.time(),
            "attempts": 0,
            "due_at": 0.0,
        }
        same = sa.and_(COMMITMENTS.c.transaction_uid == transaction_uid, COMMITMENTS.c.ae_title == ae_title)
        with self.durable() as connection:
            known = connection.execute(sa.select(COMMITMENTS.c.instances).where(same)).scalar_one_or_none()
            if known is not None and known != row["instances"]:
                return False
            connection.execute(self.upsert(COMMITMENTS, row))
        return True

    def due_commitments(self, besides: Collection[str] = (), limit: int = 100) -> list[Json]:
        """Return the requests of all peers but some whose report is owed now, the oldest first."""
        query = (
            sa.select(COMMITMENTS)
            .where(COMMITMENTS.c.due_at <= time.time(), COMMITMENTS.c.ae_title.not_in(besides))
            .order_by(COMMITMENTS.c.asked_at)
            .limit(limit)
        )
        with self.connection() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def owed_commitments(self) -> int:
        """Return how many reports are owed."""
        with self.connection() as connection:
            return connection.execute(sa.select(sa.func.count()).select_from(COMMITMENTS)).scalar_one()

    def postpone_commitment(self, request: Json, **columns: Any) -> None:
        """Record when the report on a request is to be tried again, and what else is new of it."""
        with self.connection() as connection:
            connection.execute(sa.update(COMMITMENTS).where(*_is(request)).values(columns))

    def end_commitment(self, request: Json) -> None:
        """Forget a request: its report was heard, or never will be; its Transaction UID is free again."""
        with self.connection() as connection:
            connection.execute(sa.delete(COMMITMENTS).where(*_is(request)))

    def promise(self, sop_instance_uids: Collection[str]) -> set[str]:
        """Have what is stored under these UIDs count as promised, and return which those are.

        All but that of a study on its way out: retention removes no study between the promise and its report.
        """
        leaving = sa.exists().where(
            STUDIES.c.study_instance_uid == INSTANCES.c.study_instance_uid, STUDIES.c.state == PURGING
        )
        asked = (INSTANCES.c.sop_instance_uid.in_(sop_instance_uids), ~leaving)
        studies = sa.select(INSTANCES.c.study_instance_uid).where(*asked).distinct()
        with self.durable() as connection:
            insert = self.insert(PROMISES).from_select(["study_instance_uid"], studies)
            connection.execute(insert.on_conflict_do_nothing())
            return set(connection.execute(sa.select(INSTANCES.c.sop_instance_uid).where(*asked)).scalars())

    def stored_instances(self, sop_instance_uids: Collection[str]) -> list[Json]:
        """Return SOP class, SOP instance and file of what is stored under these UIDs."""
        columns = (INSTANCES.c.sop_instance_uid, INSTANCES.c.sop_class_uid, INSTANCES.c.path)
        query = sa.select(*columns).where(INSTANCES.c.sop_instance_uid.in_(sop_instance_uids))
        with self.connection() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]


def _is(request: Json) -> list[sa.ColumnElement[bool]]:
    return [COMMITMENTS.c[name] == request[name] for name in ("transaction_uid", "ae_title")]


def _is_one_of(sop_instance_uids: Collection[str]) -> sa.ColumnElement[bool]:
    return DELIVERIES.c.sop_instance_uid.in_(sop_instance_uids)


def _after_failure(reason: int) -> Json:
    words = f"not committed: 0x{reason:04X} {HOPELESS.get(reason) or OTHER.get(reason, '')}".rstrip()
    if reason in HOPELESS:
        return {"state": UNDELIVERABLE, "detail": words, "due_at": None}
    if reason == DUPLICATE_TRANSACTION:
        return {"state": DELIVERED, "detail": words, "due_at": 0.0, "transaction_uid": ""}
    # Sooner at first, later each time.
    return {"state": PENDING, "detail": words, "due_at": time.time() + 2.0 * DELIVERIES.c.attempts}
