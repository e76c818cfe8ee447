"""What became of files that were sent: one answer for each, and the sum of them."""

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Answer(StrEnum):
    """What a peer's answer, or its silence, means for the sender."""

    ACCEPTED = "accepted"
    WARNING = "accepted with a warning"
    REFUSED = "refused"
    BUSY = "try later"
    UNANSWERED = "not answered"
    UNREADABLE = "not a DICOM file"


# PS3.4 B.2.3 and PS3.7 annex C; what is not listed is a refusal. A duplicate is there already, which is what
# was wanted; a processing failure is the peer's own trouble, so the object may pass once that is over.
ANSWERS: tuple[tuple[range, Answer], ...] = (
    (range(0x0000, 0x0001), Answer.ACCEPTED),
    (range(0x0001, 0x0002), Answer.WARNING),
    (range(0x0107, 0x0108), Answer.WARNING),
    (range(0x0110, 0x0111), Answer.BUSY),
    (range(0x0111, 0x0112), Answer.WARNING),
    (range(0x0116, 0x0117), Answer.WARNING),
    (range(0x0213, 0x0214), Answer.BUSY),
    (range(0xA700, 0xA800), Answer.BUSY),
    (range(0xB000, 0xC000), Answer.WARNING),
)


def answer_to(status: int) -> Answer:
    """Return what the status of a C-STORE response means."""
    return next((answer for statuses, answer in ANSWERS if status in statuses), Answer.REFUSED)


@dataclass(frozen=True, slots=True)
class SentFile:
    """What became of one file; `status` is None where the peer gave none, `comment` says why then."""

    path: Path
    sop_instance_uid: str
    answer: Answer
    status: int | None = None
    comment: str = ""

    @property
    def is_accepted(self) -> bool:
        """Does the peer have the object now?"""
        return self.answer in (Answer.ACCEPTED, Answer.WARNING)

    @property
    def reason(self) -> str:
        """Status and comment in words, for a report."""
        status = "" if self.status is None else f"status 0x{self.status:04X}"
        return ", ".join(filter(None, (str(self.answer), status, self.comment)))


@dataclass(frozen=True, slots=True)
class SendSummary:
    """What became of all files, in the order they were sent."""

    files: tuple[SentFile, ...]

    @property
    def count_by_answer(self) -> dict[Answer, int]:
        """How many files got each answer."""
        return dict(Counter(file.answer for file in self.files))

    @property
    def failures(self) -> tuple[SentFile, ...]:
        """The files that the peer does not have now."""
        return tuple(file for file in self.files if not file.is_accepted)
