"""SIGKILL, at every stage of a study's way: after a restart nothing is lost, and nothing is there twice."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from tests.peers import dcmtk, wait_until
from tests.peers.archive import Recorder, run_recorder
from tests.peers.node import Node
from tests.peers.wire import cut_wire

STEPS = ["plan", "analyze", "encode", "finish"]
STACK_SIZE = 12

NewNode = Callable[[Mapping[str, Any]], Node]


@pytest.fixture
def node(new_node: NewNode, recorder: Recorder) -> Node:
    """A node that delivers to the recorder, and is not started yet."""
    return new_node(delivering_to(recorder))


def delivering_to(recorder: Recorder) -> dict[str, Any]:
    address = {"host": recorder.host, "port": recorder.port, "ae_title": recorder.ae_title}
    return {"assembly": {"quiet_period_s": 1}, "destinations": {"pacs": {**address, "timeout_s": 5}}}


def test_killed_before_it_acknowledged(node: Node, recorder: Recorder, positive: Path) -> None:
    node.start(hold_at={"event": "instance_stored"})
    with dcmtk.Modality([positive], node.port, called=node.ae_title) as modality:
        node.wait_for_record(event="instance_stored")
        node.kill()
        assert modality.wait().stored == []

    node.start()
    resent = dcmtk.send([positive], node.port, called=node.ae_title)

    assert resent.stored == [positive]
    assert_done_once(node, recorder)


@pytest.mark.parametrize("count", [pytest.param(1, marks=pytest.mark.slow), 5])
def test_killed_while_receiving(node: Node, recorder: Recorder, stack: list[Path], count: int) -> None:
    node.start()
    with dcmtk.Modality(stack, node.port, called=node.ae_title) as modality:
        wait_until(
            lambda: len(node.log_records(event="instance_stored")) >= count, "some are stored", 30, 0.001
        )
        node.kill()
        acknowledged = modality.wait().stored

    node.start()

    kept = instances_in(node)
    assert {pydicom.dcmread(path).SOPInstanceUID for path in acknowledged} <= kept.keys()
    assert all(dataset == original(stack, uid) for uid, dataset in kept.items()), (
        "a half-received file was kept"
    )
    resent = dcmtk.send(stack, node.port, called=node.ae_title)
    assert resent.stored == stack
    assert instances_in(node).keys() == {pydicom.dcmread(path).SOPInstanceUID for path in stack}
    wait_until(
        lambda: node.log_records(event="study_assembled", instances=STACK_SIZE), "all of the study is read"
    )
    (study,) = node.wait_for_studies(1)
    assert study["outcome"] == "not_eligible"


def test_killed_in_the_middle_of_an_instance(node: Node, recorder: Recorder, positive: Path) -> None:
    node.start()
    half = positive.stat().st_size // 2
    with (
        cut_wire(node.port, after_bytes=half) as wire,
        dcmtk.Modality([positive], wire.port, called=node.ae_title) as modality,
    ):
        wire.wait_until_cut()
        node.kill()
        modality.kill()

    node.start()

    assert instances_in(node) == {}
    assert not list((node.folder / "data" / "incoming").iterdir())
    assert dcmtk.send([positive], node.port, called=node.ae_title).stored == [positive]
    assert_done_once(node, recorder)


def test_a_modality_that_dies_in_the_middle_of_an_instance_leaves_nothing(node: Node, positive: Path) -> None:
    node.start()
    with (
        cut_wire(node.port, after_bytes=positive.stat().st_size // 2) as wire,
        dcmtk.Modality([positive], wire.port, called=node.ae_title) as modality,
    ):
        wire.wait_until_cut()
        modality.kill()

    wait_until(
        lambda: not list((node.folder / "data" / "incoming").iterdir()), "what was half-received is gone"
    )
    assert instances_in(node) == {}
    assert node.studies() == []


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("event", ["step_started", pytest.param("step_finished", marks=pytest.mark.slow)])
def test_killed_at_the_edges_of_a_step(
    node: Node, recorder: Recorder, positive: Path, step: str, event: str
) -> None:
    node.start(hold_at={"event": event, "step": step})
    dcmtk.send([positive], node.port, called=node.ae_title)
    node.wait_for_record(event=event, step=step)
    node.kill()

    node.start()

    assert_done_once(node, recorder)


def test_killed_in_the_middle_of_an_analysis(
    node: Node, recorder: Recorder, positive: Path, tmp_path: Path
) -> None:
    marker = tmp_path / "analysis-has-begun"
    pipeline = {
        "use": "tests.peers.pipelines:StallingOnce",
        "when": {"modality": ["CR", "DX"]},
        "options": {"marker": str(marker)},
    }
    node.configure({"pipelines": {"chest_xray": pipeline}})
    node.start()
    dcmtk.send([positive], node.port, called=node.ae_title)
    wait_until(marker.exists, "the analysis has begun")
    node.kill()

    node.start()

    assert_done_once(node, recorder)


@pytest.mark.parametrize("accepted", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_killed_in_the_middle_of_a_delivery(
    node: Node, recorder: Recorder, positive: Path, accepted: int
) -> None:
    recorder.stalls_after = accepted
    node.start()
    dcmtk.send([positive], node.port, called=node.ae_title)
    assert recorder.is_stalled.wait(60), "no delivery began"
    node.kill()
    recorder.release()

    node.start()

    assert_done_once(node, recorder)


@pytest.mark.slow
def test_killed_again_and_again(node: Node, recorder: Recorder, positive: Path) -> None:
    node.start(hold_at={"event": "step_started", "step": "plan"})
    dcmtk.send([positive], node.port, called=node.ae_title)
    node.wait_for_record(event="step_started", step="plan")
    for step in ("analyze", "encode", "finish"):
        node.kill()
        node.start(hold_at={"event": "step_started", "step": step})
        node.wait_for_record(event="step_started", step=step)
    node.kill()

    node.start()

    assert_done_once(node, recorder)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_at_every_record_of_the_log(new_node: NewNode, positive: Path) -> None:
    with run_recorder() as recorder:
        unharmed = new_node(delivering_to(recorder))
        unharmed.start()
        dcmtk.send([positive], unharmed.port, called=unharmed.ae_title)
        unharmed.wait_for_studies(1)
        unharmed.stop()
    keys = ("event", "step")
    points = [{key: one[key] for key in keys if key in one} for one in unharmed.log_records()]
    first, last = (
        points.index({"event": "instance_stored"}),
        points.index({"event": "objects_delivered"}),
    )

    for point in points[first : last + 1]:
        with run_recorder() as recorder:
            node = new_node(delivering_to(recorder))
            node.start(hold_at=point)
            with dcmtk.Modality([positive], node.port, called=node.ae_title):
                node.wait_for_record(**point)
                node.kill()
            node.start()
            dcmtk.send([positive], node.port, called=node.ae_title)
            assert_done_once(node, recorder)
            node.kill()


@pytest.fixture(scope="module")
def stack(positive: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The slices of one CT, which no pipeline reads: enough of them to be cut off in between."""
    folder = tmp_path_factory.mktemp("stack")
    return [
        write_slice(pydicom.dcmread(positive), folder / f"{number:02d}.dcm") for number in range(STACK_SIZE)
    ]


def write_slice(dataset: Dataset, path: Path) -> Path:
    dataset.Modality = "CT"
    dataset.InstanceNumber = int(path.stem) + 1
    dataset.StudyInstanceUID = generate_uid(entropy_srcs=["study"])
    dataset.SeriesInstanceUID = generate_uid(entropy_srcs=["series"])
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=["slice", path.stem])
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.save_as(path)
    return path


def instances_in(node: Node) -> dict[str, Dataset]:
    """Every instance the node keeps, read to its last element."""
    datasets = [pydicom.dcmread(path) for path in (node.folder / "data" / "instances").rglob("*.dcm")]
    assert len(datasets) == len({dataset.SOPInstanceUID for dataset in datasets})
    return {dataset.SOPInstanceUID: dataset for dataset in datasets}


def original(paths: list[Path], uid: str) -> Dataset:
    (found,) = (each for each in map(pydicom.dcmread, paths) if uid == each.SOPInstanceUID)
    return found


def assert_done_once(node: Node, recorder: Recorder) -> None:
    (study,) = node.wait_for_studies(1)
    (run,) = study["runs"]
    assert study["outcome"] == run["outcome"] != "failed"
    uids = [item["sop_instance_uid"] for item in run["objects"]]
    # Two reports, a summary, a picture.
    assert len(uids) == 4
    assert recorder.digests_by_uid.keys() == set(uids)
    for uid, digests in recorder.digests_by_uid.items():
        assert len(set(digests)) == 1, f"{uid} was sent with two contents"
    assert all(item["delivered_to"] == ["pacs"] for item in run["objects"])
