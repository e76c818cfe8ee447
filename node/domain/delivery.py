"""What is said of an object on its way to an archive: which one it is, and what the archive answered."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Reference:
    """One stored object, as archives are asked about it."""

    study_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str


class Reception(StrEnum):
    """What an archive did with an object that was sent to it."""

    ACCEPTED = "accepted"
    POSTPONED = "postponed"  # another try may help
    REFUSED = "refused"  # another try cannot


@dataclass(frozen=True, slots=True)
class Receipt:
    """An archive's answer to one object; `reason` is for the administrator and may quote the archive."""

    reception: Reception
    reason: str = ""


@dataclass(frozen=True, slots=True)
class CommitmentReport:
    """What an archive says of one transaction: what it keeps, and for each other object a Failure Reason."""

    transaction_uid: str
    committed: frozenset[str]
    failed: Mapping[str, int]
