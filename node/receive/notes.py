"""Whom listeners tell: what was stored, what was not taken, and how associations ended."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from node.storage import Stored

Ended = Literal["released", "aborted"]


class OnRelease(Protocol):
    """Told once per association that stored something, however it came to its end."""

    def __call__(self, study_instance_uids: frozenset[str], *, ended: Ended) -> None:
        """Take note of the studies that the association brought instances of."""


@dataclass(frozen=True, slots=True)
class Notes:
    """`on_stored` gets what is safe since the last time, `on_refused` called AE title and status."""

    on_stored: Callable[[Sequence[Stored]], None]
    on_refused: Callable[[str, int], None]
    on_release: OnRelease
