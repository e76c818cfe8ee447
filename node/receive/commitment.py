"""Storage commitment that is asked of this node, and reports of archives that come in (PS3.4 J).

A request is noted and answered; its report follows on an association of the node's own, to the address that
the configuration has for the peer: on its own association many a peer takes it for another answer.
"""

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import structlog
from pydicom import Dataset

from node.backoff import retry_delay_s
from node.commitment import (
    CLASS_INSTANCE_CONFLICT,
    INVALID_ARGUMENT,
    NO_SUCH_ACTION,
    NO_SUCH_INSTANCE,
    NOT_AUTHORIZED,
    PROCESSING_FAILURE,
    REQUEST,
    SUCCESS,
    answer_report,
    parse_request,
)
from node.domain.delivery import CommitmentReport
from node.errors import DatasetError, SightlineError, TransientError
from node.index import Index, Json

MAX_ATTEMPTS = 300
# What is missing may still be on its way, on another association.
GRACE_S = 5.0
POLL_S = 0.5
# A database takes so many values in one question.
QUESTION = 500

log = structlog.get_logger()


class SendReport(Protocol):
    """Tells a peer what is kept; raises DestinationUnreachableError where it did not hear it."""

    def __call__(
        self, request: Json, instances: Sequence[tuple[str, str]], reason_by_uid: dict[str, int]
    ) -> None:
        """Send the report on one request."""


class CommitmentDesk:
    """Answers the messages: of peers that ask (N-ACTION), and of archives that report (N-EVENT-REPORT)."""

    def __init__(
        self, index: Index, peers: Collection[str], on_report: Callable[[CommitmentReport], bool]
    ) -> None:
        """`peers` are the AE titles whose address is known."""
        self._index = index
        self._peers = frozenset(peers)
        self._on_report = on_report

    def take_report(self, event: Any) -> tuple[int, None]:
        """Return the answer to an archive's report."""
        return answer_report(event, self._on_report), None

    def take_request(self, event: Any) -> tuple[Dataset, None]:
        """Return the answer to a request: Success once it is noted."""
        association = event.assoc.requestor.primitive
        calling, called = (
            title.strip() for title in (association.calling_ae_title, association.called_ae_title)
        )
        try:
            status, comment = self._noted(event, calling, called)
        except DatasetError as error:
            status, comment = INVALID_ARGUMENT, error.message
        except Exception:  # the peer must be answered
            log.exception("commitment_request_failed", calling_ae_title=calling)
            status, comment = PROCESSING_FAILURE, "the node failed, see its log"
        answer = Dataset()
        answer.Status = status
        if comment:
            answer.ErrorComment = comment[:64]
            log.warning("commitment_request_refused", calling_ae_title=calling, reason=comment)
        return answer, None

    def _noted(self, event: Any, calling: str, called: str) -> tuple[int, str]:
        if event.action_type != REQUEST:
            return NO_SUCH_ACTION, "only Request Storage Commitment is known"
        if calling not in self._peers:
            return NOT_AUTHORIZED, "receive.commitment_peers has no such AE title"
        transaction_uid, instances = parse_request(event.action_information)
        if not self._index.record_commitment(transaction_uid, calling, called, instances):
            return INVALID_ARGUMENT, "this Transaction UID stands for another request"
        fields = {"calling_ae_title": calling, "transaction_uid": transaction_uid}
        log.info("commitment_requested", instances=len(instances), **fields)
        return SUCCESS, ""


class CommitmentReporter(threading.Thread):
    """Reports what is kept to who asked, each peer in a thread of its own; what it owes is in the index."""

    def __init__(
        self, index: Index, peers: Collection[str], send: SendReport, grace_s: float = GRACE_S
    ) -> None:
        super().__init__(name="commitment-reports", daemon=True)
        self._index = index
        self._peers = frozenset(peers)
        self._send = send
        self._grace_s = grace_s
        self._busy: set[str] = set()
        self._ended = threading.Event()

    def end(self) -> None:
        """Begin no report any more; what is owed is reported after the next start."""
        self._ended.set()

    def run(self) -> None:
        """Look for what is owed until the end."""
        while not self._ended.wait(POLL_S):
            try:
                self._look()
            except Exception:  # the thread must outlive whatever broke
                log.exception("commitment_reports_failed")

    def _look(self) -> None:
        owed: dict[str, list[Json]] = {}
        # One peer's many, which wait for it to answer, shall not stand before another's one.
        for request in self._index.due_commitments(besides=frozenset(self._busy)):
            owed.setdefault(request["ae_title"], []).append(request)
        for title, requests in owed.items():
            if title not in self._peers:
                for request in requests:
                    self._end(request, "no address of this peer")
            else:
                self._busy.add(title)
                threading.Thread(target=self._tell, args=(title, requests), daemon=True).start()

    def _tell(self, title: str, requests: Sequence[Json]) -> None:
        try:
            for request in requests:
                if self._ended.is_set() or not self._report(request):
                    return
        except Exception:  # the others' reports must not end with it
            log.exception("commitment_report_broke", ae_title=title)
        finally:
            self._busy.discard(title)

    def _report(self, request: Json) -> bool:
        """Report on one request; False where the peer did not hear it."""
        instances = [(one, other) for one, other in request["instances"]]
        reasons = self._reasons(instances)
        if reasons and time.time() < request["asked_at"] + self._grace_s:
            self._index.postpone_commitment(request, due_at=time.time() + self._grace_s / 5)
            return True
        try:
            self._send(request, instances, reasons)
        except SightlineError as error:
            self._postpone(request, error)
            return False
        self._index.end_commitment(request)
        log.info("commitment_report_sent", instances=len(instances), failed=len(reasons), **_names(request))
        return True

    def _postpone(self, request: Json, error: SightlineError) -> None:
        attempts = request["attempts"] + 1
        if attempts >= MAX_ATTEMPTS or not isinstance(error, TransientError):
            self._end(request, str(error))
            return
        due_at = time.time() + retry_delay_s(attempts)
        self._index.postpone_commitment(request, attempts=attempts, due_at=due_at)
        log.warning("commitment_report_postponed", attempts=attempts, **_names(request))

    def _end(self, request: Json, reason: str) -> None:
        self._index.end_commitment(request)
        log.warning("commitment_report_given_up", reason=reason, **_names(request))

    def _reasons(self, instances: Sequence[tuple[str, str]]) -> dict[str, int]:
        """Return, for each instance that is not kept as it was named, the Failure Reason; keep the others."""
        uids = list(dict.fromkeys(uid for _, uid in instances))
        reasons: dict[str, int] = {}
        for start in range(0, len(uids), QUESTION):
            portion = frozenset(uids[start : start + QUESTION])
            classes: dict[str, set[str]] = {}
            for row in self._index.stored_instances(portion):
                if Path(row["path"]).is_file():
                    classes.setdefault(row["sop_instance_uid"], set()).add(row["sop_class_uid"])
            failures = _failures([one for one in instances if one[1] in portion], classes)
            lost = portion - failures.keys() - self._index.promise(portion - failures.keys())
            reasons |= failures | dict.fromkeys(lost, NO_SUCH_INSTANCE)
        return reasons


def _names(request: Json) -> dict[str, str]:
    return {"ae_title": request["ae_title"], "transaction_uid": request["transaction_uid"]}


def _failures(instances: Sequence[tuple[str, str]], classes: Mapping[str, set[str]]) -> dict[str, int]:
    return {
        uid: CLASS_INSTANCE_CONFLICT if uid in classes else NO_SUCH_INSTANCE
        for sop_class_uid, uid in instances
        if sop_class_uid not in classes.get(uid, ())
    }
