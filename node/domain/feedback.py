"""What somebody says of one of our results: accepted, modified or rejected."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from node.domain.code import PRIVATE_SCHEME, Code


class Verdict(StrEnum):
    """What became of a result in the hands of its reader; a public contract, and a metric's label."""

    ACCEPT = "accept"
    MODIFY = "modify"
    REJECT = "reject"


@dataclass(frozen=True, slots=True)
class Feedback:
    """One verdict on one result object, or on one finding in it.

    The finding is named by its tracking unique identifier and, in words, its tracking identifier, as the
    result has them; both are empty where the verdict is on the object as a whole. `author` is a role from the
    dictionary, `person` or `device`, or empty where the report does not say: never a name.
    """

    result_sop_instance_uid: str
    verdict: Verdict
    tracking_unique_identifier: str = ""
    finding: str = ""
    author: str = ""


ASSESSMENT = Code("FB-ASSESS", PRIVATE_SCHEME, "Assessment of the result")
VERDICT_CODES: Mapping[Verdict, Code] = {
    Verdict.ACCEPT: Code("FB-ACCEPT", PRIVATE_SCHEME, "Accepted"),
    Verdict.MODIFY: Code("FB-MODIFY", PRIVATE_SCHEME, "Modified"),
    Verdict.REJECT: Code("FB-REJECT", PRIVATE_SCHEME, "Rejected"),
}
"""How a site says it that has no code of its own: CID 3217 lacks "modified", and speaks of prior findings."""
