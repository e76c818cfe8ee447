"""A circuit breaker: while something is broken it costs one trial at a time, and nobody else waits on it."""

import random
import threading
import time
from collections.abc import Callable
from enum import IntEnum

from node.errors import EngineUnavailableError, SightlineError

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 5.0


class State(IntEnum):
    """How a breaker stands; the number is its metric."""

    CLOSED = 0
    TRYING = 1
    OPEN = 2


class Breaker:
    """Lets requests through while the model answers; it starts open: the first caller has to try it.

    After a fault it opens. Each pause, exponential, jittered and bounded, ends with one caller that is told
    to try; the others wait for what comes of it, as long as each of them can.
    """

    def __init__(self, name: str, on_change: Callable[[State], object]) -> None:
        """Guard what has this name; `on_change` is told each new state."""
        self._name = name
        self._on_change = on_change
        self._changed = threading.Condition()
        self._state = State.OPEN
        self._failures = 0
        self._next_trial_at = 0.0
        self._reason = "not tried yet"
        self._is_stopped = False
        on_change(self._state)

    def admit(self, until: float) -> bool:
        """Return whether the caller may ask; if not, it has to try and say what came of it.

        Raises EngineUnavailableError where neither is possible until then (of the monotonic clock).
        """
        with self._changed:
            while not self._is_stopped:
                now = time.monotonic()
                if self._state is State.CLOSED:
                    return True
                if self._state is State.OPEN and now >= self._next_trial_at:
                    self._enter(State.TRYING)
                    return False
                if now >= until:
                    break
                next_look = until if self._state is State.TRYING else min(until, self._next_trial_at)
                self._changed.wait(next_look - now)
            raise EngineUnavailableError(self._name, self._reason)

    def note_fault(self, error: SightlineError) -> None:
        """Open: a request failed. Faults that come while it is open belong to the one that opened it."""
        with self._changed:
            if self._state is State.CLOSED:
                self._open(error)

    def note_trial(self, error: SightlineError | None) -> None:
        """Close after a trial without error; else open for longer than before."""
        with self._changed:
            if error is not None:
                self._open(error)
                return
            self._failures = 0
            self._enter(State.CLOSED)

    def stop(self) -> None:
        """Turn everybody away who waits, or comes later."""
        with self._changed:
            self._is_stopped = True
            self._reason = "the node stops"
            self._changed.notify_all()

    def _open(self, error: SightlineError) -> None:
        pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0**self._failures)
        # Many nodes on one server must not come back in step.
        pause_s *= random.uniform(0.5, 1)  # noqa: S311 - spreads load, guards nothing
        self._failures = min(self._failures + 1, 16)
        self._next_trial_at = time.monotonic() + pause_s
        self._reason = str(error).removeprefix(f"{self._name}: ")
        self._enter(State.OPEN)

    def _enter(self, state: State) -> None:
        self._state = state
        self._on_change(state)
        self._changed.notify_all()
