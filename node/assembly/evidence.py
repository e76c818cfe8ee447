"""The evidence that a study is complete, the best first, and what each is worth.

A projection is whole by itself, so the release of its association is enough. Of anything else an archive may
know how many there are; if it does not say, the headers tell whether a released association left something
out; and if they do not, quiet time decides.
"""

from collections.abc import Callable
from dataclasses import dataclass

from node.domain.study import PROJECTION_MODALITIES
from node.index import OpenStudy

ASKED_FOR, RELEASED, QUIET = "retry_requested", "association_released", "quiet_period"
COUNT, FULL = "expected_count", "series_complete"
FIRST_ANSWER_S = 10.0
"""So long an archive is waited for that has not said anything of a study."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What made a study count as complete, and the figures that say why; none of them a patient's."""

    kind: str
    figures: str = ""

    def __str__(self) -> str:
        """Return both, as the index keeps them."""
        return f"{self.kind} {self.figures}".strip()


@dataclass(frozen=True, slots=True)
class Answer:
    """What an archive said of a study when it was asked at a time (seconds since the epoch).

    `count` is None where it does not say. It is steady where the answer before was the same.
    """

    archive: str
    count: int | None
    asked_at: float
    is_steady: bool


@dataclass(frozen=True, slots=True)
class Patience:
    """How long is waited, in seconds without an instance.

    For more after the end of an association that left nothing out; for anything; and for what the archive
    says there is.
    """

    settle_s: float
    quiet_s: float
    longest_s: float


@dataclass(frozen=True, slots=True)
class Look:
    """What is known of an open study at one moment.

    It is released where an association that brought it ended in good order since its last instance, and none
    was aborted since. `answer` is None while the archive has not said anything; without an archive to ask,
    `has_archive` is False.
    """

    study: OpenStudy
    quiet_s: float
    is_released: bool
    has_archive: bool = False
    answer: Answer | None = None


def find_evidence(
    look: Look,
    patience: Patience,
    *,
    count_here: Callable[[], int],
    find_full: Callable[[], str | None],
) -> Evidence | None:
    """Return the best evidence that a study is complete, or None while there is none.

    What costs reading is asked for only where it decides: how many instances are here, and of what the series
    are full.
    """
    if look.study.is_retry:
        return Evidence(ASKED_FOR)
    if look.is_released and look.study.modalities <= PROJECTION_MODALITIES:
        return Evidence(RELEASED)
    if look.has_archive and look.answer is None and look.quiet_s < FIRST_ANSWER_S:
        return None
    if look.answer and look.answer.count is not None:
        here = count_here()
        if here == look.answer.count:
            return _counted(look, look.answer, here)
        if here < look.answer.count:
            return _missed(look, look.answer, here, patience)
    if look.is_released and look.quiet_s >= patience.settle_s and (words := find_full()):
        return Evidence(FULL, words)
    return Evidence(QUIET, f"{patience.quiet_s:g} s") if look.quiet_s >= patience.quiet_s else None


def _counted(look: Look, answer: Answer, here: int) -> Evidence | None:
    """Return the evidence that all is here, unless the archive itself may still be receiving."""
    is_fresh = answer.asked_at >= look.study.last_received_at
    if is_fresh and (look.is_released or answer.is_steady):
        return Evidence(COUNT, f"{here}/{answer.count} from {answer.archive}")
    return None


def _missed(look: Look, answer: Answer, here: int, patience: Patience) -> Evidence | None:
    """Return that it was waited long enough for what the archive has and does not send."""
    if look.quiet_s < patience.longest_s:
        return None
    return Evidence(QUIET, f"{patience.longest_s:g} s with {here}/{answer.count} from {answer.archive}")
