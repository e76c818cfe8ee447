"""Delivered is not confirmed: what an archive accepted is asked about until it says that it has it."""

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from node.backoff import retry_delay_s
from node.domain.delivery import CommitmentReport
from node.errors import DestinationUnreachableError, UnconfirmableError
from node.index import CONFIRMED, DELIVERED, PENDING, Delivery, Index
from node.interfaces import CommittingDestination, Destination

COMMITMENT, QUERY, NOTHING = "commitment", "query", "none"
# An archive may need a moment to find what it has just stored: asked so often, then the object is sent again.
QUESTIONS_AFTER_S = (0.5, 5.0, 60.0)
LIMIT = 500
TRIES = 4

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Confirmation:
    """How a destination confirms: first by `method`; a report may take `timeout_s`, then it is asked."""

    method: str = NOTHING
    timeout_s: float = 600.0


UNCONFIRMED = Confirmation()


class Confirmer:
    """Asks one destination about what it accepted."""

    limit = LIMIT

    def __init__(
        self,
        name: str,
        destination: Destination,
        confirmation: Confirmation,
        index: Index,
        *,
        is_needed_elsewhere: Callable[[], bool],
    ) -> None:
        self._name = name
        self._destination = destination
        self._confirmation = confirmation
        self._index = index
        self._is_needed_elsewhere = is_needed_elsewhere
        self._failures = 0

    def first_step(self) -> dict[str, Any]:
        """Return the columns of an object that was accepted just now."""
        method, now = self._confirmation.method, time.time()
        due_at = {NOTHING: None, COMMITMENT: now, QUERY: now + QUESTIONS_AFTER_S[0]}[method]
        return {"confirm_by": method, "transaction_uid": "", "questions": 0, "due_at": due_at}

    def confirm(self, deliveries: Sequence[Delivery]) -> None:
        """Do the next thing about each; an archive that does not answer delays nothing but this."""
        to_commit = [one for one in deliveries if one.confirm_by == COMMITMENT]
        overdue = {one.uid for one in to_commit if self._is_overdue(one)}
        new = [one for one in to_commit if one.uid not in overdue]
        if overdue:
            log.warning("commitment_report_missing", destination=self._name, objects=len(overdue))
        self._try(self._ask_commitment, new)
        self._try(self._ask_what_is_held, [one for one in deliveries if one not in new])

    def _try(self, ask: Callable[[Sequence[Delivery]], None], deliveries: Sequence[Delivery]) -> None:
        if not deliveries:
            return
        try:
            ask(deliveries)
            self._failures = 0
        except DestinationUnreachableError as error:
            self._failures += 1
            log.warning("confirmation_postponed", destination=self._name, objects=len(deliveries))
            due_at = time.time() + retry_delay_s(self._failures)
            self._record([one.uid for one in deliveries], DELIVERED, str(error), due_at=due_at)

    def _is_overdue(self, one: Delivery) -> bool:
        """Was this asked for, with no report in time? What was cut off before was not asked for."""
        transaction = self._index.transaction(one.transaction_uid) if one.transaction_uid else None
        return transaction is not None and transaction["is_accepted"]

    # --- by storage commitment

    def _ask_commitment(self, deliveries: Sequence[Delivery]) -> None:
        uids = [one.uid for one in deliveries]
        if not isinstance(self._destination, CommittingDestination):
            self._turn_to_questions(uids)
            return
        transaction_uid = f"2.25.{uuid.uuid4().int}"
        # Noted first: a report may come sooner than the answer to the question.
        self._index.begin_transaction(transaction_uid, self._name, uids)
        try:
            self._destination.ask_commitment(
                [one.reference for one in deliveries],
                transaction_uid,
                on_report=self._note_report,
                has_answered=lambda: self._is_answered(transaction_uid),
            )
        except UnconfirmableError:
            log.info("commitment_unavailable", destination=self._name)
            self._turn_to_questions(uids)
            return
        except DestinationUnreachableError:
            # One that hangs up at this question each time may still answer the other.
            if self._failures + 1 < TRIES:
                raise
            self._turn_to_questions(uids)
            return
        self._index.accept_transaction(transaction_uid, time.time() + self._confirmation.timeout_s)
        fields = {"objects": len(uids), "transaction_uid": transaction_uid}
        log.info("commitment_asked", destination=self._name, **fields)

    def _is_answered(self, transaction_uid: str) -> bool:
        transaction = self._index.transaction(transaction_uid)
        return self._is_needed_elsewhere() or bool(transaction and transaction["answered_at"])

    def _note_report(self, report: CommitmentReport) -> bool:
        return note_report(self._index, report)

    def _turn_to_questions(self, uids: Sequence[str]) -> None:
        due_at = time.time() + QUESTIONS_AFTER_S[0]
        self._record(uids, DELIVERED, "", confirm_by=QUERY, questions=0, transaction_uid="", due_at=due_at)

    # --- by looking what it holds

    def _ask_what_is_held(self, deliveries: Sequence[Delivery]) -> None:
        try:
            held = self._destination.confirm([one.reference for one in deliveries])
        except UnconfirmableError as error:
            reason = f"cannot be confirmed: {error}"
            log.warning("confirmation_unavailable", destination=self._name, objects=len(deliveries))
            self._record([one.uid for one in deliveries], DELIVERED, reason)
            return
        found = [one for one in deliveries if one.uid in held]
        self._record([one.uid for one in found], CONFIRMED, "found")
        for study, number in _by_study(found).items():
            fields = {"destination": self._name, "objects": number, "by": QUERY}
            self._index.record_event(study, "objects_confirmed", fields)
        if found:
            log.info("objects_confirmed", destination=self._name, objects=len(found), by=QUERY)
        for one in (one for one in deliveries if one.uid not in held):
            self._note_missing(one)

    def _note_missing(self, one: Delivery) -> None:
        asked = one.questions + 1
        if asked < len(QUESTIONS_AFTER_S):
            due_at = time.time() + QUESTIONS_AFTER_S[asked]
            self._record(
                [one.uid], DELIVERED, "not found yet", confirm_by=QUERY, questions=asked, due_at=due_at
            )
            return
        log.warning("object_missing", destination=self._name, sop_instance_uid=one.uid)
        self._record(
            [one.uid],
            PENDING,
            "accepted, but not found in the archive",
            due_at=time.time() + retry_delay_s(one.attempts),
        )

    def _record(self, uids: Sequence[str], state: str, detail: str, **columns: Any) -> None:
        self._index.record_delivery(uids, self._name, state, detail, among=[DELIVERED], **columns)


def note_report(index: Index, report: CommitmentReport) -> bool:
    """Note what an archive reports, in the story of each study too; False for a transaction of nobody's."""
    changes = index.record_report(report)
    if changes is None:
        return False
    for one in changes:
        fields = {"destination": one["destination"], "objects": one["objects"]}
        event = "objects_confirmed" if one["state"] == CONFIRMED else "objects_not_committed"
        index.record_event(one["study_instance_uid"], event, fields | {"by": COMMITMENT})
    committed, failed = len(report.committed), len(report.failed)
    log.info(
        "commitment_reported", transaction_uid=report.transaction_uid, committed=committed, failed=failed
    )
    return True


def _by_study(deliveries: Sequence[Delivery]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for one in deliveries:
        counts[one.reference.study_instance_uid] = counts.get(one.reference.study_instance_uid, 0) + 1
    return counts
