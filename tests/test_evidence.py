"""Each evidence that a study is complete, seen on a running node, and what a late instance then does."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from node.account import describe_study
from node.index import Index, sqlite_url
from tests.peers import dcmtk, wait_until
from tests.peers.node import Node, make_node
from tests.peers.orthanc import Orthanc, run_orthanc
from tests.peers.quick import quick_settings, write_repository
from tests.sources import write_radiograph
from tests.synthetic.ct import ct_slices
from tests.synthetic.headers import save
from tests.synthetic.stack import make_stack

PLANES = 6
Stack = Callable[[str], list[Path]]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """The archive that is asked, and gets the results."""
    with run_orthanc(tmp_path_factory.mktemp("archive"), {}) as orthanc:
        yield orthanc


@pytest.fixture(scope="module")
def asking(archive: Orthanc, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node that would wait very long if the archive did not tell it what there is."""
    assembly = {"ask": "pacs", "quiet_period_s": 600, "settle_period_s": 600}
    yield from started(tmp_path_factory.mktemp("asking"), archive, assembly)


@pytest.fixture(scope="module")
def node(archive: Orthanc, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node that asks nobody."""
    assembly = {"quiet_period_s": 2, "settle_period_s": 0.2}
    yield from started(tmp_path_factory.mktemp("node"), archive, assembly)


def started(folder: Path, archive: Orthanc, assembly: Mapping[str, Any]) -> Iterator[Node]:
    repository = write_repository(folder / "repository")
    with make_node(folder / "node", quick_settings(repository, archive, **assembly)) as node:
        node.start()
        yield node


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    """Writes the slices of a CT of its own name."""

    def write(name: str) -> list[Path]:
        folder = tmp_path / name
        folder.mkdir()
        slices = ct_slices(make_stack("axial", PLANES, 32, 32), ("evidence", name))
        return [save(one, folder, f"{number}.dcm") for number, one in enumerate(slices, 1)]

    return write


def uid_of(paths: list[Path]) -> str:
    return str(dcmread(paths[0]).StudyInstanceUID)


def send(node: Node, paths: list[Path]) -> None:
    assert dcmtk.send(paths, node.port, called=node.ae_title).stored == paths


def story(node: Node, uid: str, readings: int) -> dict[str, Any]:
    """What the node tells of a study, once it was read so many times."""

    def read() -> list[dict[str, Any]]:
        return node.log_records(event="step_finished", step="finish", study_instance_uid=uid)

    wait_until(lambda: len(read()) == readings, f"{readings} readings", 30)
    wait_until(lambda: not node.metrics()["sightline_deliveries_pending"], "all is delivered", 30)
    with closing(Index(sqlite_url(node.folder / "data" / "index.sqlite"))) as index:
        study = describe_study(index, uid)
    assert study
    return study


def assert_superseded(before: dict[str, Any], after: dict[str, Any]) -> None:
    (first,), (second,) = before["runs"], after["runs"]
    assert first["supersedes"] == []
    assert second["supersedes"] == [item["sop_instance_uid"] for item in first["objects"]]


def test_the_count_of_the_archive_decides_at_once_and_again_when_it_grew(
    asking: Node, archive: Orthanc, stack: Stack
) -> None:
    paths = stack("counted")
    for path in paths[:-1]:
        archive.upload(path)
    send(asking, paths[:-1])
    before = story(asking, uid_of(paths), 1)

    archive.upload(paths[-1])
    send(asking, paths[-1:])
    after = story(asking, uid_of(paths), 2)

    figures = [(one["evidence"], one["evidence_figures"]) for one in (before, after)]
    assert figures == [("expected_count", "5/5 from pacs"), ("expected_count", "6/6 from pacs")]
    assert_superseded(before, after)
    text = asking.sightline("studies", "show", uid_of(paths), "-c", str(asking.configuration_path)).stdout
    assert "expected_count 6/6 from pacs" in text


def test_a_study_of_which_the_archive_has_more_waits_for_it(
    asking: Node, archive: Orthanc, stack: Stack
) -> None:
    paths = stack("growing")
    uid = uid_of(paths)
    for path in paths:
        archive.upload(path)

    send(asking, paths[:4])
    asking.wait_for_record(event="count_answered", study_instance_uid=uid, count=PLANES)
    assert not asking.log_records(event="study_assembled", study_instance_uid=uid)
    send(asking, paths[4:])

    assert story(asking, uid, 1)["evidence_figures"] == "6/6 from pacs"


def test_a_full_series_is_read_after_its_release_and_again_with_a_late_slice(
    node: Node, stack: Stack
) -> None:
    paths = stack("full")
    send(node, paths[:-1])
    before = story(node, uid_of(paths), 1)

    send(node, paths[-1:])
    after = story(node, uid_of(paths), 2)

    figures = [(one["evidence"], one["evidence_figures"]) for one in (before, after)]
    assert figures == [("series_complete", "1–5"), ("series_complete", "1–6")]
    assert_superseded(before, after)


def test_a_series_with_a_hole_waits_for_quiet_and_is_read_again_with_the_slice(
    node: Node, stack: Stack
) -> None:
    paths = stack("hole")
    send(node, [*paths[:2], *paths[3:]])
    before = story(node, uid_of(paths), 1)

    send(node, paths[2:3])
    after = story(node, uid_of(paths), 2)

    figures = [(one["evidence"], one["evidence_figures"]) for one in (before, after)]
    assert figures == [("quiet_period", "2 s"), ("series_complete", "1–6")]
    assert_superseded(before, after)


def test_a_radiograph_starts_within_a_second_of_its_release(node: Node, tmp_path: Path) -> None:
    paths = write_radiograph(tmp_path).paths
    send(node, paths)

    assert story(node, uid_of(paths), 1)["evidence"] == "association_released"
    ended = node.log_records(event="association_ended")[-1]
    started = node.wait_for_record(event="step_started", step="plan", study_instance_uid=uid_of(paths))
    assert (time_of(started) - time_of(ended)).total_seconds() < 1.0


def time_of(record: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(record["timestamp"])
