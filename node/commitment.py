"""The messages of storage commitment as values (PS3.4 J.3): a request, and the report on it."""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import structlog
from pydicom import Dataset
from pydicom.uid import UID

from node.domain.delivery import CommitmentReport
from node.errors import DatasetError

PUSH_MODEL = "1.2.840.10008.1.20.1"
PUSH_MODEL_INSTANCE = "1.2.840.10008.1.20.1.1"
REQUEST = 1
ALL_COMMITTED, SOME_FAILED = 1, 2
# Status of a message (PS3.7 C), and Failure Reason of an instance (PS3.3 C.14).
SUCCESS, PROCESSING_FAILURE, RESOURCE_LIMITATION = 0x0000, 0x0110, 0x0213
NO_SUCH_INSTANCE, CLASS_INSTANCE_CONFLICT, NO_SUCH_CLASS = 0x0112, 0x0119, 0x0118
NO_SUCH_ACTION, INVALID_ARGUMENT, NOT_AUTHORIZED = 0x0123, 0x0115, 0x0124

log = structlog.get_logger()


class ReportEvent(Protocol):
    """An N-EVENT-REPORT; to decode its data set is what may fail."""

    @property
    def event_information(self) -> Dataset:
        """The report."""


def encode_request(transaction_uid: str, instances: Iterable[tuple[str, str]]) -> Dataset:
    """Return the action information that asks for instances (SOP class, SOP instance) to be kept."""
    dataset = Dataset()
    dataset.TransactionUID = transaction_uid
    dataset.ReferencedSOPSequence = [_item(*one) for one in instances]
    return dataset


def parse_request(dataset: Dataset) -> tuple[str, list[tuple[str, str]]]:
    """Return transaction and instances (SOP class, SOP instance); raises DatasetError for a gap."""
    uid = _transaction(dataset)
    instances = [
        (str(item.get("ReferencedSOPClassUID", "")), str(item.get("ReferencedSOPInstanceUID", "")))
        for item in dataset.get("ReferencedSOPSequence") or []
    ]
    if not instances or not all(one and other for one, other in instances):
        raise DatasetError(uid, "no Referenced SOP Sequence, or one with a gap")
    return uid, instances


def encode_report(
    transaction_uid: str, instances: Sequence[tuple[str, str]], reason_by_uid: dict[str, int]
) -> tuple[int, Dataset]:
    """Return event type and information that tell what is kept, and of the rest the Failure Reason."""
    dataset = Dataset()
    dataset.TransactionUID = transaction_uid
    kept = [_item(*one) for one in instances if one[1] not in reason_by_uid]
    if kept:
        dataset.ReferencedSOPSequence = kept
    failed = [_item(*one) for one in instances if one[1] in reason_by_uid]
    for item in failed:
        item.FailureReason = reason_by_uid[item.ReferencedSOPInstanceUID]
    if failed:
        dataset.FailedSOPSequence = failed
    return (SOME_FAILED if failed else ALL_COMMITTED), dataset


def parse_report(dataset: Dataset) -> CommitmentReport:
    """Return what a report says; raises DatasetError where it does not say of what."""
    failed = {
        str(item.get("ReferencedSOPInstanceUID", "")): int(item.get("FailureReason", PROCESSING_FAILURE))
        for item in dataset.get("FailedSOPSequence") or []
    }
    kept = {
        str(item.get("ReferencedSOPInstanceUID", "")) for item in dataset.get("ReferencedSOPSequence") or []
    }
    return CommitmentReport(_transaction(dataset), frozenset(kept - failed.keys()), failed)


def answer_report(event: ReportEvent, on_report: Callable[[CommitmentReport], bool]) -> int:
    """Return the status that answers an archive's report: Success once it is noted."""
    try:
        report = parse_report(event.event_information)
        is_known = on_report(report)
    except DatasetError:
        return INVALID_ARGUMENT
    except Exception:  # the archive must be answered, and will report again
        log.exception("commitment_report_failed")
        return PROCESSING_FAILURE
    if not is_known:
        log.warning("commitment_report_unknown", transaction_uid=report.transaction_uid)
    return SUCCESS if is_known else INVALID_ARGUMENT


def _transaction(dataset: Dataset) -> str:
    uid = str(dataset.get("TransactionUID") or "")
    if not UID(uid).is_valid:
        raise DatasetError("storage commitment", "no Transaction UID")
    return uid


def _item(sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class_uid
    item.ReferencedSOPInstanceUID = sop_instance_uid
    return item
