"""A Triton server that dies, hangs or answers wrongly: what is tried again, and what never is."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from node.engines.triton import MAX_ATTEMPTS, TritonEngine
from node.errors import EngineUnavailableError, ModelError, OutOfResourcesError, StoppedError
from node.telemetry import Metrics
from tests.peers import wait_until
from tests.peers.fake_triton import FakeTriton, run_fake_triton
from tests.peers.triton import EXPLICIT, Triton, make_triton
from tests.small_models import (
    HOLD,
    ITEMS,
    LARGE,
    NewEngine,
    held,
    large,
    let_go,
    regions_left,
    seconds,
    wait_until_held,
)

pytestmark = pytest.mark.triton


@pytest.fixture
def engine(small_triton: Triton, new_engine: NewEngine) -> TritonEngine:
    return new_engine(small_triton.url)


@pytest.fixture
def mortal(small_repository: Path, tmp_path: Path) -> Iterator[Triton]:
    """A server for one test, which may kill it; it has two of the models."""
    options = (*EXPLICIT, "--load-model", "slow", "--load-model", "slow_large")
    with make_triton(tmp_path, repository=small_repository, options=options) as one:
        one.start()
        yield one


@pytest.fixture
def fake(small_repository: Path) -> Iterator[FakeTriton]:
    with run_fake_triton(small_repository) as one:
        yield one


# --- faults, and what becomes of them


def test_a_request_that_takes_too_long_is_worth_another_try(
    small_triton: Triton, new_engine: NewEngine
) -> None:
    engine = new_engine(small_triton.url, timeout_s=1, patience_s=0)
    new_engine(small_triton.url).check("slow")

    with (
        held(small_triton.repository, "slow"),
        pytest.raises(EngineUnavailableError, match="DEADLINE_EXCEEDED"),
    ):
        engine.infer("slow", {"x": seconds(HOLD)})


def test_a_running_request_is_broken_off_when_the_engine_is_closed(
    small_triton: Triton, engine: TritonEngine
) -> None:
    engine.check("slow")
    with ThreadPoolExecutor(1) as pool, held(small_triton.repository, "slow"):
        answer = pool.submit(engine.infer, "slow", {"x": seconds(HOLD)})
        wait_until_held(small_triton.repository, "slow")

        engine.close()

        with pytest.raises(StoppedError):
            answer.result(10)
    with pytest.raises(StoppedError):
        engine.infer("double", {"x": ITEMS})


@pytest.mark.timeout(90)
@pytest.mark.parametrize("model", ["slow", "slow_large"])
def test_server_killed_in_the_middle_of_a_request(mortal: Triton, new_engine: NewEngine, model: str) -> None:
    metrics = Metrics()
    engine = new_engine(mortal.url, metrics=metrics)
    engine.check(model)
    inputs = seconds(HOLD) if model == "slow" else engine.buffer((1, LARGE), np.float32)
    inputs[:] = HOLD
    with ThreadPoolExecutor(1) as pool, held(mortal.repository, model):
        answer = pool.submit(engine.infer, model, {"x": inputs})
        wait_until_held(mortal.repository, model)
        mortal.kill()
        wait_until(lambda: is_retried(metrics, model), "the fault is seen")
        let_go(mortal.repository, model)
        mortal.start()

        assert np.array_equal(answer.result(30)["y"], inputs)

    text = metrics.exposition().decode()
    assert f'sightline_engine_retries_total{{model="{model}"}} 1.0' in text
    assert f'sightline_engine_breaker_state{{model="{model}"}} 0.0' in text
    assert f'sightline_engine_seconds_count{{model="{model}"}} 1.0' in text
    assert regions_left() == []


def is_retried(metrics: Metrics, model: str) -> bool:
    return f'sightline_engine_retries_total{{model="{model}"}}' in metrics.exposition().decode()


@pytest.mark.timeout(60)
def test_server_that_was_restarted_between_two_requests(mortal: Triton, new_engine: NewEngine) -> None:
    engine = new_engine(mortal.url)
    inputs = engine.buffer((1, LARGE), np.float32)
    inputs[:] = 0.01
    engine.infer("slow_large", {"x": inputs})
    mortal.restart()

    outputs = engine.infer("slow_large", {"x": inputs})

    assert np.array_equal(outputs["y"], inputs)


@pytest.mark.timeout(90)
def test_server_that_is_stopping_answers_what_it_has_and_is_waited_for(
    mortal: Triton, new_engine: NewEngine
) -> None:
    metrics = Metrics()
    engine = new_engine(mortal.url, metrics=metrics)
    for model in ("slow", "slow_large"):
        engine.check(model)
    with ThreadPoolExecutor(3) as pool, held(mortal.repository, "slow"):
        under_way = pool.submit(engine.infer, "slow", {"x": seconds(HOLD)})
        wait_until_held(mortal.repository, "slow")
        stopping = pool.submit(mortal.stop)
        wait_until(lambda: not mortal.is_ready(), "the server is stopping")
        late = pool.submit(engine.infer, "slow_large", {"x": large(0.1)})
        # Which of them depends on how far it is with stopping.
        wait_until(
            lambda: is_retried(metrics, "slow_large") or late.done(), "late is turned away or answered"
        )
        let_go(mortal.repository, "slow")
        stopping.result()
        mortal.start()

        assert np.array_equal(under_way.result(30)["y"], seconds(HOLD))
        assert np.array_equal(late.result(30)["y"], large(0.1))
    assert not is_retried(metrics, "slow")


@pytest.mark.timeout(60)
def test_model_whose_process_died_is_loaded_anew(mortal: Triton, new_engine: NewEngine) -> None:
    engine = new_engine(mortal.url)
    engine.check("slow")
    for _ in range(2):  # the first time Python's own cache is new there, and a server loads what has changed
        pattern = f"stub.*/slow/1/model.py.*{mortal.grpc_port}_"
        found = subprocess.run(["pgrep", "-f", pattern], capture_output=True, text=True, check=True)
        os.kill(int(found.stdout.split()[0]), signal.SIGKILL)

        outputs = engine.infer("slow", {"x": seconds(0.1)})

        assert np.array_equal(outputs["y"], seconds(0.1))


# --- a server that answers wrongly


def drop(response: Any) -> None:
    del response.outputs[:]
    del response.raw_output_contents[:]


def rename(response: Any) -> None:
    response.outputs[0].name = "z"


def reshape(response: Any) -> None:
    response.outputs[0].shape[:] = [2, 1]


def lengthen(response: Any) -> None:
    response.outputs[0].shape[:] = [1, 3]
    response.raw_output_contents[0] = bytes(12)


def shorten(response: Any) -> None:
    response.raw_output_contents[0] = b""


def retype(response: Any) -> None:
    response.outputs[0].datatype = "INT32"


def turn_to_nan(response: Any) -> None:
    response.raw_output_contents[0] = np.array([1, np.nan], np.float32).tobytes()


def turn_to_infinity(response: Any) -> None:
    response.raw_output_contents[0] = np.array([-np.inf, 1], np.float32).tobytes()


def negate(response: Any) -> None:
    response.outputs[0].shape[:] = [-1, -2]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (drop, "output y is absent"),
        (rename, "output y is absent"),
        (reshape, r"y is \[2, 1\] float32, expected \[1, 2\] float32"),
        (lengthen, r"y is \[1, 3\] float32"),
        (shorten, r"y is \[1, 2\], but came with 0 bytes"),
        (retype, "y is INT32, expected FP32"),
        (turn_to_nan, "y holds values that are not finite"),
        (turn_to_infinity, "y holds values that are not finite"),
        (negate, r"y is \[-1, -2\]"),
    ],
)
def test_garbage_is_refused_for_good(
    fake: FakeTriton, new_engine: NewEngine, spoil: Callable[[Any], None], words: str
) -> None:
    engine = new_engine(fake.url)
    engine.check("double")
    fake.spoil = spoil

    with pytest.raises(ModelError, match=words):
        engine.infer("double", {"x": ITEMS[:1]})
    with pytest.raises(ModelError, match=words):
        engine.check("double")


def test_what_another_request_left_in_shared_memory_is_not_taken_for_an_answer(
    fake: FakeTriton, new_engine: NewEngine
) -> None:
    fake.claims_to_write = True

    with pytest.raises(ModelError, match="y holds values that are not finite"):
        new_engine(fake.url).infer("large", {"x": large()})


@pytest.mark.parametrize(
    ("code", "text", "error"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "unexpected shape", ModelError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "no room", OutOfResourcesError),
        (grpc.StatusCode.INTERNAL, "CUDA out of memory", OutOfResourcesError),
        (grpc.StatusCode.INTERNAL, "Stub process is not healthy", EngineUnavailableError),
        (grpc.StatusCode.UNAVAILABLE, "Server exiting", EngineUnavailableError),
        (grpc.StatusCode.NOT_FOUND, "unknown model", EngineUnavailableError),
        (grpc.StatusCode.UNKNOWN, "whatever", EngineUnavailableError),
    ],
)
def test_each_fault_is_permanent_or_worth_another_try(
    fake: FakeTriton, new_engine: NewEngine, code: grpc.StatusCode, text: str, error: type[Exception]
) -> None:
    engine = new_engine(fake.url, patience_s=5)
    fake.fault = lambda request: None if is_trial(request) else (code, text)

    with pytest.raises(error, match=text):
        engine.infer("double", {"x": ITEMS[:1]})

    requests = [request for request in fake.asked if not is_trial(request)]
    assert len(requests) == (1 if error is ModelError else MAX_ATTEMPTS)


def is_trial(request: Any) -> bool:
    return not any(request.raw_input_contents[0])


def test_weights_that_are_replaced_on_a_running_server_are_noticed(
    fake: FakeTriton, new_engine: NewEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = new_engine(fake.url)
    engine.infer("chain", {"x": ITEMS[:1]})
    fake.replaced_by = "0123"
    engine.infer("chain", {"x": ITEMS[:1]})  # believed for a minute

    monkeypatch.setattr("node.engines.triton_trial.AGREED_FOR_S", 0.0)

    with pytest.raises(ModelError, match="sha256 of the server's is 0123, the card says"):
        engine.infer("chain", {"x": ITEMS[:1]})


def test_a_broken_server_costs_one_trial_at_a_time(fake: FakeTriton, new_engine: NewEngine) -> None:
    engine = new_engine(fake.url, patience_s=30)
    engine.check("double")
    fake.asked.clear()
    under_way, most = [0], [0]
    lock = threading.Lock()

    def fail_slowly(_request: Any) -> tuple[grpc.StatusCode, str]:
        with lock:
            under_way[0] += 1
            most[0] = max(most[0], under_way[0])
        time.sleep(0.1)
        with lock:
            under_way[0] -= 1
        return grpc.StatusCode.UNAVAILABLE, "not now"

    with ThreadPoolExecutor(8) as pool:
        fake.fault = fail_slowly
        first = pool.submit(engine.infer, "double", {"x": ITEMS[:1]})
        wait_until(lambda: fake.asked, "the first request failed")
        time.sleep(0.2)
        answers = [pool.submit(engine.infer, "double", {"x": ITEMS[:1]}) for _ in range(7)]
        time.sleep(1)
        trials, fake.fault = len(fake.asked), lambda _request: None

        assert all(np.array_equal(one.result(20)["y"], 2 * ITEMS[:1]) for one in (first, *answers))

    assert most == [1]
    assert trials < 8


def test_model_that_fails_is_loaded_anew_and_asked_again(fake: FakeTriton, new_engine: NewEngine) -> None:
    engine = new_engine(fake.url)
    fake.fault = lambda request: (
        (grpc.StatusCode.INTERNAL, "Stub process is not healthy")
        if request.model_name in ("add_one", "chain") and not fake.loaded
        else None
    )

    outputs = engine.infer("chain", {"x": ITEMS[:1]})

    assert np.array_equal(outputs["y"], 2 * ITEMS[:1] + 1)
    assert fake.loaded == ["add_one"]


def test_no_server_is_no_reason_to_wait_for_a_check(new_engine: NewEngine) -> None:
    started = time.monotonic()

    with pytest.raises(EngineUnavailableError, match=r"127\.0\.0\.1:1: Triton: UNAVAILABLE"):
        new_engine("127.0.0.1:1").check("double")

    assert time.monotonic() - started < 5
