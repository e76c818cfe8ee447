"""Feedback sent to a node: recorded with the result it is on, and never read as part of the study."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from node.account import describe_study
from node.deliver.association import Peer
from node.deliver.dimse import send_files
from node.domain.feedback import Verdict
from node.index import Index, sqlite_url
from node.samples.demo import Sample
from node.samples.dicom import fresh_uid
from tests.peers import LOOPBACK, dcmtk, wait_until
from tests.peers.node import Node, make_node
from tests.readers import (
    ACCEPT,
    HOSTILE,
    MODIFY,
    PNEUMONIA,
    READER,
    REJECT,
    Results,
    finding_report,
    judged,
    ours,
    reference,
    rejection_note,
    report,
    tracking_uids,
    verdict_item,
)
from tests.results import save

# So long that a study which was opened again is still open when it is looked at.
QUIET_PERIOD_S = 2.0

Json = dict[str, Any]


class Room(NamedTuple):
    """A node that has read a study, and what it made of it, by kind."""

    node: Node
    folder: Path
    study_instance_uid: str
    results: Results

    def send(self, *documents: Dataset) -> list[Path]:
        """C-STORE documents as they are on one association; the files that the node took, and knows."""
        files = [save(one, self.folder / f"{one.SOPInstanceUID}.dcm") for one in documents]
        with self._known(len(files)):
            return dcmtk.send(files, self.node.port, called=self.node.ae_title).stored

    def send_bytes(self, files: Sequence[Path]) -> list[str]:
        """C-STORE files of any class whose data sets nobody looks at; what the node answered."""
        peer = Peer(LOOPBACK, self.node.port, self.node.ae_title, "ARCHIVE", timeout_s=30)
        with self._known(len(files)):
            return [one.answer for one in send_files(files, peer).files]

    @contextmanager
    def _known(self, count: int) -> Iterator[None]:
        """Wait at the end until the node knows so many more: its receivers tell it after they answered."""
        before = self._received()
        yield
        wait_until(lambda: self._received() == before + count, "the node knows what it received")

    def _received(self) -> float:
        name = f'sightline_instances_received_total{{ae_title="{self.node.ae_title}"}}'
        return self.node.metrics().get(name, 0)

    def account(self) -> Json:
        return account_of(self.node, self.study_instance_uid)

    def said(self, document: Dataset) -> list[tuple[str, Json]]:
        """What the node tells of a report: the kinds of object it is about, and the words."""
        return [
            (item["kind"], one)
            for run in self.account()["runs"]
            for item in run["objects"]
            for one in item["feedback"]
            if one["sop_instance_uid"] == document.SOPInstanceUID
        ]

    def events(self, name: str) -> list[Json]:
        return [one["fields"] for one in self.account()["events"] if one["event"] == name]

    def verdicts(self, verdict: Verdict) -> float:
        """How many verdicts of this kind the node counted."""
        name = f'sightline_feedback_received_total{{verdict="{verdict}"}}'
        return self.node.metrics().get(name, 0)

    def kept_and_read(self) -> tuple[set[str], set[str]]:
        """The instances that the node keeps, and those that a retry of the study would read."""
        with index_of(self.node) as index:
            kept = {path.name.partition("_")[0] for path in index.paths()}
            return kept, {one.sop_instance_uid for one in index.instances(self.study_instance_uid)}


@contextmanager
def index_of(node: Node) -> Iterator[Index]:
    index = Index(sqlite_url(node.folder / "data" / "index.sqlite"))
    yield index
    index.close()


def account_of(node: Node, study_instance_uid: str) -> Json:
    """What `studies show --json` prints, without a process of its own for each look."""
    with index_of(node) as index:
        study = describe_study(index, study_instance_uid)
        assert study
        return study | {"events": index.events(study_instance_uid)}


def read_study(node: Node, sample: Sample, folder: Path) -> Dataset:
    """Have the node read a study of its own, and return its image."""
    (path,) = sample.write(folder, study_instance_uid=fresh_uid())
    assert dcmtk.send([path], node.port, called=node.ae_title).stored
    source = dcmread(path)
    wait_until(lambda: account_of(node, source.StudyInstanceUID)["state"] == "done", "the study is read", 60)
    return source


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory, samples: dict[str, Sample]) -> Iterator[Room]:
    folder = tmp_path_factory.mktemp("room")
    with make_node(folder / "node", {"assembly": {"quiet_period_s": QUIET_PERIOD_S}}) as node:
        node.start()
        source = read_study(node, samples["findings"], folder)
        (run,) = account_of(node, source.StudyInstanceUID)["runs"]
        results = {item["kind"]: dcmread(item["path"]) for item in run["objects"]}
        assert results, node.log_text()
        yield Room(node, folder, source.StudyInstanceUID, results)


@pytest.mark.parametrize("verdict", Verdict)
def test_a_verdict_is_recorded_with_the_finding_it_is_on(room: Room, verdict: Verdict) -> None:
    finding, uid = next(iter(tracking_uids(room.results["findings_sr"]).items()))
    document = finding_report(room.results["findings_sr"], (uid, ours(verdict)))
    counted = room.verdicts(verdict)

    assert room.send(document)

    ((kind, said),) = room.said(document)
    assert kind == "findings_sr"
    assert said.pop("received_at") == pytest.approx(time.time(), abs=60)
    assert said == {
        "sop_instance_uid": document.SOPInstanceUID,
        "verdict": verdict,
        "finding": finding,
        "tracking_unique_identifier": uid,
        "author": codes.cid7453.Reader.meaning,
    }
    assert room.verdicts(verdict) == counted + 1
    assert {"sop_instance_uid": document.SOPInstanceUID, verdict: 1} in room.events("feedback_received")


def test_a_rejection_note_of_the_archive_is_recorded(room: Room) -> None:
    note = rejection_note([room.results["secondary_capture"]])

    assert room.send(note)

    ((kind, said),) = room.said(note)
    assert (kind, said["verdict"], said["finding"]) == ("secondary_capture", REJECT, "")


def test_feedback_does_not_open_the_study_again_and_is_not_read(room: Room) -> None:
    document = report([room.results["findings_sr"]], verdict_item(ours(ACCEPT)))

    assert room.send(document)

    account = room.account()
    assert account["state"] == "done"
    assert len([one for one in account["events"] if one["event"] == "study_assembled"]) == 1
    kept, read = room.kept_and_read()
    assert document.SOPInstanceUID in kept - read


def test_our_own_results_coming_back_do_not_open_the_study_again(room: Room) -> None:
    with index_of(room.node) as index:
        job_id = index.study(room.study_instance_uid)["job_id"]
        files = [Path(item["path"]) for run in index.runs(job_id) for item in run["objects"]]

    assert set(room.send_bytes(files)) == {"accepted"}

    account = room.account()
    assert account["state"] == "done"
    assert len([one for one in account["events"] if one["event"] == "study_assembled"]) == 1
    kept, read = room.kept_and_read()
    assert {one.SOPInstanceUID for one in room.results.values()} <= kept - read


def test_the_same_report_again_says_it_once(room: Room) -> None:
    document = report([room.results["summary_sr"]], verdict_item(ours(MODIFY)))
    counted = room.verdicts(MODIFY)

    for words in ("as it was", "as it was", "in other bytes"):
        document.SeriesDescription = words
        assert room.send(document)

    assert len(room.said(document)) == 1
    assert room.verdicts(MODIFY) == counted + 1
    told = {"sop_instance_uid": document.SOPInstanceUID, MODIFY: 1}
    assert room.events("feedback_received").count(told) == 1


def test_a_change_of_mind_is_kept_beside_what_was_said_before_the_newest_last(room: Room) -> None:
    first, second = (
        report([room.results["summary_sr"]], verdict_item(ours(verdict))) for verdict in (ACCEPT, REJECT)
    )

    for document in (first, second):
        assert room.send(document)

    said = [
        one
        for run in room.account()["runs"]
        for item in run["objects"]
        if item["kind"] == "summary_sr"
        for one in item["feedback"]
    ]
    latest = [(one["sop_instance_uid"], one["verdict"]) for one in said[-2:]]
    assert latest == [(first.SOPInstanceUID, ACCEPT), (second.SOPInstanceUID, REJECT)]


def test_a_corrected_revision_takes_the_place_of_the_report(room: Room) -> None:
    document = report([room.results["summary_sr"]], verdict_item(ours(ACCEPT)))
    assert room.send(document)
    corrected = report([room.results["summary_sr"]], verdict_item(ours(REJECT)))
    corrected.SOPInstanceUID = corrected.file_meta.MediaStorageSOPInstanceUID = document.SOPInstanceUID

    assert room.send(corrected)

    assert [said["verdict"] for _, said in room.said(document)] == [REJECT]


def test_people_see_the_verdict_and_nobody_sees_the_name(room: Room) -> None:
    document = report([room.results["findings_sr"]], verdict_item(ours(REJECT)))

    assert room.send(document)

    arguments = ("show", room.study_instance_uid, "-c", str(room.node.configuration_path))
    shown = room.node.sightline("studies", *arguments).stdout
    printed = json.loads(room.node.sightline("studies", *arguments, "--json").stdout)
    assert any(line.split()[:3] == ["reject", "findings_sr", "Consultant"] for line in shown.splitlines())
    assert printed == room.account()
    database = b"".join(path.read_bytes() for path in (room.node.folder / "data").glob("index.sqlite*"))
    assert READER not in shown + room.node.log_text()
    assert READER.encode() not in database


def test_a_report_on_something_else_opens_its_study_again(room: Room, samples: dict[str, Sample]) -> None:
    source = read_study(room.node, samples["no_findings"], room.folder / "other")
    document = report([source], reference(source))

    assert room.send(document)

    assert account_of(room.node, source.StudyInstanceUID)["state"] != "done"
    assert room.said(document) == []


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_report_is_stored_and_costs_no_other_instance(
    room: Room, tmp_path: Path, case: str
) -> None:
    document = report([room.results["findings_sr"]], verdict_item(ours(REJECT)))
    hostile = HOSTILE[case](document)
    hostile.StudyInstanceUID = fresh_uid()
    honest = report([room.results["findings_sr"]], verdict_item(ours(ACCEPT)))
    files = [save(one, tmp_path / f"{number}.dcm") for number, one in enumerate((hostile, honest))]

    answers = room.send_bytes(files)

    assert answers == ["accepted", "accepted"]
    assert room.said(hostile) == []
    assert len(room.said(honest)) == 1
    assert room.node.log_records(event="feedback_unreadable", sop_instance_uid=hostile.SOPInstanceUID)


def test_a_lost_index_is_rebuilt_with_what_was_said(room: Room) -> None:
    assert room.send(judged(room.results, {PNEUMONIA: ours(ACCEPT)}))
    before, kept_and_read = room.account(), room.kept_and_read()

    room.node.kill()
    for path in (room.node.folder / "data").glob("index.sqlite*"):
        path.unlink()
    room.node.start()
    wait_until(lambda: room.account()["state"] == "done", "the study is read again", 60)

    after = room.account()
    assert room.kept_and_read() == kept_and_read
    assert statements(after) == statements(before)
    assert after["outcome"] == before["outcome"]


def statements(account: Json) -> list[tuple[str, str, list[tuple[str, ...]]]]:
    """What was said of each object, in order."""
    names = ("sop_instance_uid", "verdict", "finding", "tracking_unique_identifier", "author")
    return [
        (
            item["kind"],
            item["sop_instance_uid"],
            [tuple(one[name] for name in names) for one in item["feedback"]],
        )
        for run in account["runs"]
        for item in run["objects"]
    ]
