"""Shared memory with a real Triton server: bounded, used again, and gone however either side ends."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from node.engines import shared_memory
from node.engines.owner import Owner
from node.engines.triton import TritonEngine
from node.engines.triton_server import TritonServer
from node.errors import EngineUnavailableError, StoppedError
from tests.peers import REPOSITORY, wait_until
from tests.peers.fake_triton import run_fake_triton
from tests.peers.triton import Triton
from tests.small_models import HOLD, LARGE, NewEngine, held, large, regions_left, wait_until_held

pytestmark = pytest.mark.triton


@pytest.fixture
def engine(small_triton: Triton, new_engine: NewEngine) -> TritonEngine:
    return new_engine(small_triton.url)


def regions_of(triton: Triton) -> frozenset[str]:
    server = TritonServer(triton.url)
    names = server.region_names()
    server.close()
    return names


def test_large_arrays_go_by_shared_memory_that_is_used_again(
    small_triton: Triton, engine: TritonEngine
) -> None:
    before = regions_of(small_triton)

    first = engine.infer("large", {"x": large(1, items=2)})["y"].mean()
    made = regions_of(small_triton) - before
    others = [engine.infer("large", {"x": large(value, items=2)})["y"].mean() for value in (2, 3, 4)]

    assert [first, *others] == [2, 4, 6, 8]
    assert made
    assert regions_of(small_triton) - before == made
    assert regions_left() == []
    engine.close()
    assert regions_of(small_triton) == before


def test_an_array_that_is_kept_is_not_written_over(engine: TritonEngine) -> None:
    first = engine.infer("large", {"x": large(1.0)})["y"]
    second = engine.infer("large", {"x": large(2.0)})["y"]

    assert (first == 2).all()
    assert (second == 4).all()


def test_requests_at_the_same_time_do_not_share_a_region(engine: TritonEngine) -> None:
    engine.check("greatest")

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda value: engine.infer("greatest", {"x": large(value)})["y"], range(80)))

    assert [float(answer[0, 0]) for answer in answers] == list(range(80))


def test_what_is_written_into_a_buffer_is_not_copied(
    small_triton: Triton, engine: TritonEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[int] = []
    monkeypatch.setattr(np, "copyto", lambda _to, values: copied.append(values.nbytes))
    engine.check("double")
    array = engine.buffer((1, LARGE), np.float32)
    array[:] = 3

    outputs = engine.infer("large", {"x": array})

    assert (outputs["y"] == 6).all()
    assert copied == [4 * LARGE]  # the zeros of the trial


def test_requests_at_the_same_time_keep_to_the_limit(small_triton: Triton, new_engine: NewEngine) -> None:
    engine = new_engine(small_triton.url, limits=shared_memory.Limits(9 << 20))
    engine.check("greatest")
    before = regions_of(small_triton)
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(engine.infer, "greatest", {"x": large(value)}) for value in range(40)]
        most = max(len(regions_of(small_triton) - before) for _ in range(20))

    assert [float(one.result()["y"][0, 0]) for one in answers] == list(range(40))
    assert most <= 4  # of 2 MiB each


@pytest.mark.parametrize("limit_bytes", [1 << 20, 9 << 20])
def test_more_than_the_limit_goes_in_the_message(
    small_triton: Triton, new_engine: NewEngine, limit_bytes: int
) -> None:
    engine = new_engine(small_triton.url, limits=shared_memory.Limits(limit_bytes))
    before = regions_of(small_triton)

    kept = [engine.infer("large", {"x": large(value)})["y"] for value in (1, 2, 3, 4)]

    assert [array[0, 0] for array in kept] == [2, 4, 6, 8]
    assert 4 * LARGE * len(regions_of(small_triton) - before) <= limit_bytes


def test_server_that_cannot_see_the_memory_gets_messages(
    small_triton: Triton, new_engine: NewEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_memory, "FOLDER", tmp_path)

    outputs = new_engine(small_triton.url).infer("large", {"x": large()})

    assert (outputs["y"] == 2).all()
    assert list(tmp_path.glob("sightline-*")) == []
    with pytest.raises(EngineUnavailableError, match="cannot use shared memory of this host"):
        new_engine(small_triton.url, shares_memory=True).check("large")


def test_nothing_is_shared_where_it_is_forbidden(small_triton: Triton, new_engine: NewEngine) -> None:
    engine, before = new_engine(small_triton.url, shares_memory=False), regions_of(small_triton)

    outputs = engine.infer("large", {"x": large()})

    assert (outputs["y"] == 2).all()
    assert regions_of(small_triton) == before


def test_memory_of_a_request_that_ran_out_of_time_is_not_used_while_the_server_has_it(
    small_triton: Triton, new_engine: NewEngine
) -> None:
    engine, before = new_engine(small_triton.url, timeout_s=2, patience_s=0), regions_of(small_triton)
    engine.check("slow_large")

    with held(small_triton.repository, "slow_large"):
        with pytest.raises(EngineUnavailableError, match="DEADLINE_EXCEEDED"):
            engine.infer("slow_large", {"x": large(HOLD)})
        lost = regions_of(small_triton) - before
        outputs = engine.infer("large", {"x": large(7.0)})
        made = regions_of(small_triton) - before - lost

    assert len(lost) == len(made) == 2  # of the input, and of the output
    assert (outputs["y"] == 14).all()
    wait_until(lambda: is_given_back(small_triton, engine, lost), "what was lost is given back")


def is_given_back(triton: Triton, engine: TritonEngine, lost: frozenset[str]) -> bool:
    engine.infer("large", {"x": large()})
    return not lost & regions_of(triton)


def test_memory_that_a_closed_engine_had_to_leave_is_in_nobodys_way(
    small_triton: Triton, new_engine: NewEngine
) -> None:
    engine, before = new_engine(small_triton.url), regions_of(small_triton)
    engine.check("slow_large")

    with ThreadPoolExecutor(1) as pool, held(small_triton.repository, "slow_large"):
        answer = pool.submit(engine.infer, "slow_large", {"x": large(HOLD)})
        wait_until_held(small_triton.repository, "slow_large")
        engine.close()
        with pytest.raises(StoppedError):
            answer.result(10)
        left = regions_of(small_triton) - before
        outputs = new_engine(small_triton.url).infer("large", {"x": large()})

    assert len(left) == 2
    assert len(regions_of(small_triton) - before - left) == 2
    assert (outputs["y"] == 2).all()


def test_memory_that_could_not_be_given_up_for_other_is_given_up_later(small_repository: Path) -> None:
    with run_fake_triton(small_repository) as fake, closing(TritonServer(fake.url)) as server:
        fake.claims_to_write = True
        memory = shared_memory.SharedMemory(server, shared_memory.Limits(2 << 20))
        memory.lease(1 << 20)
        (first,) = fake.regions
        fake.uses_regions = True

        assert memory.lease(2 << 20) is None  # the first is in the way
        assert fake.regions == {first}
        fake.uses_regions = False
        assert memory.lease(2 << 20)

        assert len(fake.regions) == 1
        assert first not in fake.regions


def test_a_server_that_is_gone_is_not_waited_for_at_the_end(small_repository: Path) -> None:
    with run_fake_triton(small_repository) as fake:
        fake.claims_to_write = True
        memory = shared_memory.SharedMemory(TritonServer(fake.url), shared_memory.Limits())
        leases = [memory.lease(1 << 20) for _ in range(5)]
    started = time.monotonic()

    memory.close()

    assert all(leases)
    assert time.monotonic() - started < shared_memory.CLOSING_S


def test_memory_of_a_killed_node_is_taken_back_by_the_next(
    small_triton: Triton, small_repository: Path, new_engine: NewEngine
) -> None:
    program = (
        "import sys, time, numpy as np; from pathlib import Path\n"
        "from node.engines.triton import *\n"
        f"repository = ModelRepository(Path({str(small_repository)!r}))\n"
        f"engine = TritonEngine(repository, TritonSettings(url={small_triton.url!r}))\n"
        f"engine.infer('large', {{'x': np.ones((1, {LARGE}), np.float32)}}); print('done', flush=True)\n"
        "time.sleep(60)\n"
    )
    before = regions_of(small_triton)
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"done\n"
        left = regions_of(small_triton) - before
        process.kill()
        process.wait()

    assert left
    assert regions_left(process.pid) == []
    new_engine(small_triton.url).check("double")
    assert not left & regions_of(small_triton)


# --- whose it is

OURS = Owner.of_this_process("ab12")
DEAD = Owner("ab12", OURS.boot, OURS.namespace, 4_190_000, 1)


@pytest.mark.parametrize(
    ("name", "is_left"),
    [
        (f"{OURS.prefix}1", False),
        (f"{DEAD.prefix}1", True),
        (f"{replace(OURS, started=1).prefix}1", True),
        (f"{replace(DEAD, home='cd34').prefix}1", True),
        (f"{replace(DEAD, namespace=1).prefix}1", True),
        (f"{replace(DEAD, boot='00000000').prefix}1", True),
        (f"{replace(DEAD, namespace=1, home='cd34').prefix}1", False),
        (f"{replace(DEAD, namespace=1, home='0').prefix}1", False),
        (f"{DEAD.prefix}1-2", False),
        (f"{replace(DEAD, pid='../..').prefix}1", False),
        ("sightline-", False),
        ("another", False),
    ],
    # The names hold the number of this process, which must not be in the name of a test.
    ids=map(str, range(12)),
)
def test_memory_is_of_a_dead_process_or_an_earlier_container(name: str, is_left: bool) -> None:
    assert OURS.has_outlived(name) is is_left


def test_without_a_home_no_other_container_is_judged() -> None:
    assert not Owner.of_this_process().has_outlived(f"{replace(DEAD, namespace=1, home='0').prefix}1")
