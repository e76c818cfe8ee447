"""Storage commitment on associations that the node opens: to ask an archive, to tell a peer (PS3.4 J)."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import structlog
from pydicom import Dataset
from pynetdicom import build_context, evt

from node.commitment import (
    PUSH_MODEL,
    PUSH_MODEL_INSTANCE,
    REQUEST,
    RESOURCE_LIMITATION,
    SUCCESS,
    answer_report,
    encode_report,
    encode_request,
)
from node.deliver.association import Peer, associate, require_success
from node.domain.delivery import CommitmentReport, Reference
from node.errors import DestinationUnreachableError, UnconfirmableError

# How long the association stays open for an archive that reports on it.
REPORT_WAIT_S = 1.0
POLL_S = 0.05

log = structlog.get_logger()


def ask_commitment(
    peer: Peer,
    objects: Sequence[Reference],
    transaction_uid: str,
    *,
    on_report: Callable[[CommitmentReport], bool],
    has_answered: Callable[[], bool],
) -> None:
    """Ask an archive to keep objects; see CommittingDestination for what it raises."""
    instances = [(one.sop_class_uid, one.sop_instance_uid) for one in objects]
    request = encode_request(transaction_uid, instances)

    def answer(event: evt.Event) -> tuple[int, Dataset | None]:
        return answer_report(event, on_report), None

    with associate(peer, [build_context(PUSH_MODEL)], on_report=answer) as association:
        if not association.is_established:
            raise UnconfirmableError(str(peer), "has no storage commitment")
        try:
            response, _ = association.send_n_action(request, REQUEST, PUSH_MODEL, PUSH_MODEL_INSTANCE)
        except (RuntimeError, ValueError) as fault:  # the association ended in between, or takes no such role
            raise DestinationUnreachableError(str(peer), "association lost") from fault
        require_success(peer, response, "a request for storage commitment", busy=RESOURCE_LIMITATION)
        deadline = time.monotonic() + REPORT_WAIT_S
        while association.is_established and not has_answered() and time.monotonic() < deadline:
            time.sleep(POLL_S)


@dataclass(frozen=True, slots=True)
class ReportSender:
    """Tells who asked, at the address of its AE title, and under the AE title that it called."""

    peers: Mapping[str, Peer]

    def __call__(
        self, request: Mapping[str, Any], instances: Sequence[tuple[str, str]], reason_by_uid: dict[str, int]
    ) -> None:
        """Send the report on one request; raises as `send_report` does."""
        peer = replace(self.peers[request["ae_title"]], calling_ae_title=request["called_ae_title"])
        send_report(peer, request["transaction_uid"], instances, reason_by_uid)


def send_report(
    peer: Peer,
    transaction_uid: str,
    instances: Sequence[tuple[str, str]],
    reason_by_uid: dict[str, int],
) -> None:
    """Tell a peer, on a new association, what is kept of that it asked for.

    Raises DestinationUnreachableError where it did not hear it; any answer at all means that it did.
    """
    kind, report = encode_report(transaction_uid, instances, reason_by_uid)
    context = build_context(PUSH_MODEL)
    with associate(peer, [context], as_provider_of=[PUSH_MODEL]) as association:
        if not association.is_established:
            raise DestinationUnreachableError(str(peer), "takes no report of storage commitment")
        try:
            status, _ = association.send_n_event_report(report, kind, PUSH_MODEL, PUSH_MODEL_INSTANCE)
        except (RuntimeError, ValueError) as fault:
            raise DestinationUnreachableError(str(peer), "takes no report of storage commitment") from fault
    if "Status" not in status:
        raise DestinationUnreachableError(str(peer), "no answer to a report of storage commitment")
    if status.Status != SUCCESS:
        log.warning(
            "commitment_report_refused", transaction_uid=transaction_uid, status=f"0x{status.Status:04X}"
        )
