"""How far long work has come: told to the log, and to whoever listens.

Beside the arguments, not among them: what a pipeline is asked stays the same whether somebody watches or not.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import structlog

LOGGED_EVERY_S = 5.0

Listener = Callable[[int, int, str], None]
"""Takes how many are done, of how many, and what they are."""

_listener: ContextVar[Listener | None] = ContextVar("progress_listener", default=None)

log = structlog.get_logger()


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Have the listener told of the progress of what this thread does in the block."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


class Progress:
    """The progress of one piece of work: `advance` it as things are done."""

    def __init__(self, total: int, what: str) -> None:
        """Take how many things there are, and their name in the plural."""
        self._total, self._what, self._done = total, what, 0
        self._logged_at = time.monotonic()

    def advance(self, count: int = 1) -> None:
        """Note that so many more are done."""
        self._done += count
        if listener := _listener.get():
            listener(self._done, self._total, self._what)
        now = time.monotonic()
        if now - self._logged_at >= LOGGED_EVERY_S:
            self._logged_at = now
            log.info("analysis_progress", done=self._done, total=self._total, what=self._what)
