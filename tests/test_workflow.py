from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydicom import dcmread

from node.assembly import QUIET, Evidence
from node.deliver.outbox import Outbox, Outlet
from node.domain.delivery import Receipt, Reception
from node.domain.findings import Findings
from node.domain.study import Series
from node.errors import OutOfResourcesError, PixelError
from node.index import Index, sqlite_url
from node.interfaces import Engine
from node.workflow import ANALYSIS_ATTEMPTS, Workflow
from tests.destinations import FakeDestination
from tests.peers import wait_until
from tests.test_steps import CLASSIFIER, Bench, BrokenPipeline


class Durable(Bench):
    """A bench whose steps a workflow carries, and an outbox sends; it can be stopped and launched again."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.destination = FakeDestination()

    def launch(self) -> None:
        database = sqlite_url(self.folder / "workflow.sqlite")
        self.workflow = Workflow(self.steps, self.index, self.metrics, database)
        self.outbox = Outbox(self.index, {"pacs": Outlet(self.destination, 3)}, self.metrics)
        self.outbox.start()
        self.workflow.launch(1)

    def stop(self) -> None:
        self.workflow.stop(drain_s=0)
        self.outbox.stop(drain_s=5)

    def assemble(self) -> None:
        for study in self.index.open_studies():
            self.workflow.enqueue(study, Evidence(QUIET))

    def wait_for_state(self, uid: str, state: str) -> dict:
        wait_until(lambda: self.account(uid)["state"] == state, f"the study is {state}", 60)
        return self.account(uid)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Durable]:
    bench = Durable(tmp_path)
    bench.launch()
    yield bench
    bench.stop()
    bench.index.close()


def events(bench: Durable, uid: str) -> list[str]:
    return [event["event"] for event in bench.index.events(uid)]


def test_a_complete_study_is_read_and_delivered(bench: Durable) -> None:
    uid = bench.receive("PA")

    bench.assemble()

    account = bench.wait_for_state(uid, "done")
    assert account["outcome"] == "findings"
    assert len(bench.destination.taken) == 3
    steps = [f"{step}_finished" for step in ("plan", "analyze", "encode", "finish")]
    assert sorted(events(bench, uid)) == sorted(["study_assembled", *steps, "objects_delivered"])


def test_a_study_asked_for_twice_is_read_once(bench: Durable) -> None:
    uid = bench.receive("PA")
    (study,) = bench.index.open_studies()

    bench.workflow.enqueue(study, Evidence(QUIET))
    bench.workflow.enqueue(study, Evidence(QUIET))

    bench.wait_for_state(uid, "done")
    assert events(bench, uid).count("analyze_finished") == 1


def test_a_destination_that_comes_back_gets_its_results(bench: Durable) -> None:
    bench.destination.receipts = [Receipt(Reception.POSTPONED, "cannot connect")]
    uid = bench.receive("PA")

    bench.assemble()

    account = bench.wait_for_state(uid, "done")
    assert account["undelivered"] == []
    assert bench.destination.calls == 2


def test_an_analysis_that_lacks_resources_is_tried_again_and_then_fails(bench: Durable) -> None:
    bench.stop()
    bench.use(BrokenPipeline(OutOfResourcesError("no memory")))
    bench.launch()
    uid = bench.receive("PA")

    bench.assemble()

    account = bench.wait_for_state(uid, "done")
    assert account["outcome"] == "failed"
    assert account["reason"] == f"gave up after {ANALYSIS_ATTEMPTS} attempts: no memory"


def test_a_retry_reads_again_and_sends_nothing_twice(bench: Durable) -> None:
    uid = bench.receive("PA")
    bench.assemble()
    bench.wait_for_state(uid, "done")

    bench.index.reopen_study(uid)
    bench.assemble()

    wait_until(lambda: events(bench, uid).count("finish_finished") == 2, "it was read again")
    assert bench.wait_for_state(uid, "done")["outcome"] == "findings"
    assert len(bench.destination.taken) == 3


@dataclass(frozen=True)
class BrokenOnce:
    """A pipeline that breaks as long as its file is there."""

    broken: Path
    model: str = CLASSIFIER.model

    def analyze(self, series: Series, engine: Engine) -> Findings:
        if self.broken.exists():
            raise PixelError(series.series_instance_uid, "cannot be decoded")
        return CLASSIFIER.analyze(series, engine)


def test_a_failure_that_was_delivered_is_superseded_by_the_findings_of_a_retry(bench: Durable) -> None:
    broken = bench.folder / "broken"
    broken.touch()
    bench.stop()
    bench.use(BrokenOnce(broken))
    bench.launch()
    uid = bench.receive("PA")
    bench.assemble()
    assert bench.wait_for_state(uid, "done")["outcome"] == "failed"
    failed = {str(dcmread(path).SOPInstanceUID) for path in bench.destination.taken}

    broken.unlink()
    bench.index.reopen_study(uid)
    bench.assemble()
    wait_until(lambda: events(bench, uid).count("finish_finished") == 2, "it was read again")

    account = bench.wait_for_state(uid, "done")
    assert account["outcome"] == "findings"
    assert set(account["runs"][0]["supersedes"]) == failed
    assert not failed & {item["sop_instance_uid"] for item in account["runs"][0]["objects"]}


def test_a_study_noted_but_not_begun_is_taken_up_at_the_next_start(bench: Durable) -> None:
    uid = bench.receive("PA")
    (study,) = bench.index.open_studies()
    bench.index.queue_study(study, "noted-before-the-power-went", "quiet_period")

    bench.stop()
    bench.launch()

    assert bench.wait_for_state(uid, "done")["outcome"] == "findings"


def test_a_lost_index_is_rebuilt_and_its_studies_read_again(
    bench: Durable, monkeypatch: pytest.MonkeyPatch
) -> None:
    uid = bench.receive("PA")
    bench.assemble()
    before = bench.wait_for_state(uid, "done")
    bench.stop()
    bench.index.close()

    bench.index = Index(sqlite_url(bench.folder / "rebuilt.sqlite"))
    for instance in bench.storage.instances():
        bench.index.record_instance(instance)
    bench.use(bench.pipeline)
    bench.launch()
    bench.assemble()
    bench.assemble()

    after = bench.wait_for_state(uid, "done")
    assert _uids(after) == _uids(before)


def _uids(account: dict) -> list[str]:
    return [item["sop_instance_uid"] for run in account["runs"] for item in run["objects"]]


def test_a_study_that_cannot_be_planned_ends_failed(bench: Durable, monkeypatch: pytest.MonkeyPatch) -> None:
    uid = bench.receive("PA")
    monkeypatch.setattr(bench.steps, "plan", _raise)

    bench.assemble()

    account = bench.wait_for_state(uid, "done")
    assert account["outcome"] == "failed"
    assert account["reason"] == "the study could not be planned: ZeroDivisionError"


def _raise(*_arguments: object) -> Callable[..., object]:
    raise ZeroDivisionError
