"""The circuit breaker: one trial at a time, pauses that grow, and nobody who waits is forgotten."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from node.engines.breaker import FIRST_PAUSE_S, LONGEST_PAUSE_S, Breaker, State
from node.errors import EngineUnavailableError
from tests.peers import wait_until

FAULT = EngineUnavailableError("chest_xray", "no connection")


@pytest.fixture
def states() -> list[State]:
    return []


@pytest.fixture
def breaker(states: list[State]) -> Breaker:
    return Breaker("chest_xray", states.append)


def soon() -> float:
    return time.monotonic() + 10


def close(breaker: Breaker) -> None:
    assert not breaker.admit(soon())
    breaker.note_trial(None)


def test_the_first_caller_has_to_try(breaker: Breaker, states: list[State]) -> None:
    assert not breaker.admit(soon())
    assert states == [State.OPEN, State.TRYING]


def test_a_good_trial_lets_everybody_through(breaker: Breaker, states: list[State]) -> None:
    close(breaker)

    assert breaker.admit(soon())
    assert breaker.admit(0)
    assert states[-1] is State.CLOSED


def test_a_fault_opens_it_for_a_pause(breaker: Breaker) -> None:
    close(breaker)
    breaker.note_fault(FAULT)
    started = time.monotonic()

    assert not breaker.admit(soon())

    assert FIRST_PAUSE_S / 2 <= time.monotonic() - started < LONGEST_PAUSE_S / 2


def test_who_cannot_wait_is_told_why(breaker: Breaker) -> None:
    close(breaker)
    breaker.note_fault(FAULT)

    with pytest.raises(EngineUnavailableError, match=r"^chest_xray: no connection$"):
        breaker.admit(time.monotonic())


def test_one_tries_while_the_others_wait_for_what_comes_of_it(breaker: Breaker) -> None:
    assert not breaker.admit(soon())
    with ThreadPoolExecutor(8) as pool:
        others = [pool.submit(breaker.admit, soon()) for _ in range(8)]
        time.sleep(0.1)

        assert not any(one.done() for one in others)
        breaker.note_trial(None)

        assert all(one.result(5) for one in others)


def test_after_a_bad_trial_another_one_tries(breaker: Breaker) -> None:
    assert not breaker.admit(soon())
    with ThreadPoolExecutor(8) as pool:
        others = [pool.submit(breaker.admit, soon()) for _ in range(4)]
        breaker.note_trial(FAULT)
        wait_until(lambda: any(one.done() for one in others), "the pause is over")
        time.sleep(0.1)

        answers = [one.result() for one in others if one.done()]
        assert answers == [False]
        breaker.note_trial(None)

        assert sorted(one.result(5) for one in others) == [False, True, True, True]


def test_pauses_grow_and_are_bounded(breaker: Breaker, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    pauses = []
    for _ in range(40):
        began = now[0]
        while True:
            try:
                assert not breaker.admit(now[0])
                break
            except EngineUnavailableError:
                now[0] += 0.01
        pauses.append(now[0] - began)
        breaker.note_trial(FAULT)

    assert pauses[0] == 0
    assert FIRST_PAUSE_S / 2 <= pauses[1] <= FIRST_PAUSE_S + 0.02
    assert all(LONGEST_PAUSE_S / 2 - 0.02 <= pause <= LONGEST_PAUSE_S + 0.02 for pause in pauses[10:])
    # Jittered: many nodes must not come back in step.
    assert len({round(pause, 2) for pause in pauses[10:]}) > 5


def test_a_fault_that_comes_late_does_not_end_the_trial_of_another(
    breaker: Breaker, states: list[State]
) -> None:
    assert not breaker.admit(soon())

    breaker.note_fault(FAULT)

    assert states[-1] is State.TRYING
    with pytest.raises(EngineUnavailableError):
        breaker.admit(time.monotonic())


def test_who_waits_is_turned_away_when_it_is_stopped(breaker: Breaker) -> None:
    assert not breaker.admit(soon())
    threading.Timer(0.1, breaker.stop).start()

    with pytest.raises(EngineUnavailableError, match="the node stops"):
        breaker.admit(soon())
    with pytest.raises(EngineUnavailableError, match="the node stops"):
        breaker.admit(soon())
