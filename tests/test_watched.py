"""What is put into a watched folder: taken when it is at rest, once, and put away."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from node.errors import ConfigurationError
from node.header import FileMeta
from node.receive import watched
from node.receive.notes import Notes
from node.receive.watched import FolderListener, FolderSettings
from node.samples.demo import Sample
from node.storage import InstanceWriter, Storage, Stored, Watermark
from tests.doors import ANY_DISK, dataset_digest
from tests.instances import PATIENT, encode_dataset, write_instance
from tests.peers import wait_until
from tests.peers.node import make_node

SETTLE_S = 0.15


class Inbox:
    """A watched folder, and all that its listener told."""

    def __init__(self, path: Path, storage: Storage, changes: dict[str, Any]) -> None:
        self.path = path
        self.stored: list[Stored] = []
        self.refused: list[tuple[str, int]] = []
        self.released: list[frozenset[str]] = []
        self.refuses_to_note = False
        settings: dict[str, Any] = {"settle_s": SETTLE_S, "poll_s": 0.03} | changes
        self.listener = FolderListener(
            FolderSettings("inbox", path, "SIGHTLINE", **settings),
            storage,
            Notes(
                on_stored=self._note,
                on_refused=lambda called, status: self.refused.append((called, status)),
                on_release=lambda studies, *, ended: self.released.append(studies),
            ),
        )

    def names(self, folder: str = "") -> list[str]:
        return sorted(path.name for path in (self.path / folder).iterdir() if path.is_file())

    def wait_for(self, count: int) -> None:
        wait_until(lambda: len(self.stored) >= count, f"{count} instances", 10, 0.02)

    def _note(self, stored: Sequence[Stored]) -> None:
        if self.refuses_to_note:
            raise KeyError(stored[0].instance.digest)
        self.stored += stored


OpenInbox = Callable[..., Inbox]


@pytest.fixture
def open_inbox(tmp_path: Path) -> Iterator[OpenInbox]:
    with ExitStack() as stack:

        def open_one(storage: Storage | None = None, **changes: Any) -> Inbox:
            inbox = Inbox(tmp_path / "inbox", storage or Storage(tmp_path / "data", ANY_DISK), changes)
            inbox.listener.start()
            stack.callback(inbox.listener.stop)
            return inbox

        yield open_one


def write(path: Path, uid: str = "1.2.3.4.5") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_instance(path, encode_dataset(uid), sop_instance_uid=uid)


def test_files_of_a_folder_and_those_below_are_stored_and_moved_away(open_inbox: OpenInbox) -> None:
    inbox = open_inbox()
    first = write(inbox.path / "a.dcm")
    digest = dataset_digest(first)
    write(inbox.path / "study" / "series" / "a.dcm", "1.2.3.4.6")

    inbox.wait_for(2)

    wait_until(lambda: inbox.names("done") == ["a-2.dcm", "a.dcm"], "both are put away", 5)
    assert inbox.stored[0].instance.digest == digest
    assert {each.instance.called_ae_title for each in inbox.stored} == {"SIGHTLINE"}
    assert inbox.names() == []
    wait_until(lambda: inbox.released == [frozenset({"1.2.3"})], "the study is released", 5)


def test_a_file_that_grows_is_left_alone_until_it_is_at_rest(open_inbox: OpenInbox) -> None:
    inbox = open_inbox()
    content = write(inbox.path.parent / "whole.dcm").read_bytes()

    with (inbox.path / "a.dcm").open("wb") as file:
        for byte in content:
            file.write(bytes([byte]))
            file.flush()
            os.utime(file.fileno())
            if file.tell() % 40 == 0:
                wait_until(lambda: inbox.listener._seen, "it is seen", 5, 0.01)
                assert inbox.stored == []
                assert inbox.names("rejected") == []
    inbox.wait_for(1)

    assert inbox.names("rejected") == []


class Racing(Storage):
    """A spool into which a file is put while somebody still changes it: once."""

    def __init__(self, root: Path, path: Path) -> None:
        super().__init__(root, ANY_DISK)
        self.path: Path | None = path

    def new_instance(self, meta: FileMeta) -> InstanceWriter:
        return RacingWriter(self, meta)


class RacingWriter(InstanceWriter):
    def write(self, data: bytes | memoryview) -> None:
        super().write(data)
        racing = self._storage
        if isinstance(racing, Racing) and racing.path:
            with racing.path.open("r+b") as file:
                file.seek(-4, os.SEEK_END)
                file.write(b"late")
            racing.path = None


def test_a_file_that_is_changed_while_it_is_read_is_read_again(open_inbox: OpenInbox, tmp_path: Path) -> None:
    path = tmp_path / "inbox" / "a.dcm"
    inbox = open_inbox(Racing(tmp_path / "data", path))
    write(path)

    inbox.wait_for(1)

    wait_until(lambda: inbox.names("done") == ["a.dcm"], "it is put away", 5)
    assert [each.instance.digest for each in inbox.stored] == [dataset_digest(inbox.path / "done" / "a.dcm")]
    assert inbox.stored[0].instance.path.read_bytes().endswith(b"late")
    assert len(list((tmp_path / "data" / "instances").rglob("*.dcm"))) == 1


def test_unfinished_names_wait_for_their_rename(open_inbox: OpenInbox) -> None:
    inbox = open_inbox(settle_s=0)
    part = write(inbox.path / "a.dcm.part")
    write(inbox.path / ".hidden.dcm", "1.2.3.4.6")
    write(inbox.path / "seen.dcm", "1.2.3.4.7")
    inbox.wait_for(1)
    assert [each.instance.sop_instance_uid for each in inbox.stored] == ["1.2.3.4.7"]

    part.rename(inbox.path / "a.dcm")

    inbox.wait_for(2)


def test_what_is_no_instance_is_rejected_with_a_reason_and_without_a_patient(open_inbox: OpenInbox) -> None:
    with capture_logs() as logs:
        inbox = open_inbox()
        (inbox.path / f"{PATIENT}.txt").write_text(f"dear {PATIENT}")
        broken = encode_dataset(study_instance_uid=None)
        write_instance(inbox.path / f"{PATIENT}.dcm", broken)

        wait_until(lambda: len(inbox.names("rejected")) == 4, "both are rejected", 5)

    reason = (inbox.path / "rejected" / f"{PATIENT}.dcm.reason.txt").read_text()
    assert reason == "Study Instance UID is missing\n"
    assert PATIENT not in (inbox.path / "rejected" / f"{PATIENT}.txt.reason.txt").read_text()
    assert PATIENT not in str(logs)
    assert inbox.refused == [("SIGHTLINE", 0xC000)] * 2
    assert inbox.stored == []


def test_links_and_pipes_are_not_followed(open_inbox: OpenInbox, tmp_path: Path) -> None:
    inbox = open_inbox(settle_s=0)
    outside = write(tmp_path / "outside" / "a.dcm")
    (inbox.path / "link.dcm").symlink_to(outside)
    (inbox.path / "folder").symlink_to(outside.parent)
    os.mkfifo(inbox.path / "pipe.dcm")
    write(inbox.path / "z.dcm", "1.2.3.4.6")

    inbox.wait_for(1)
    wait_until(lambda: inbox.released, "nothing is waited for", 5)

    assert [each.instance.sop_instance_uid for each in inbox.stored] == ["1.2.3.4.6"]
    assert outside.exists()


def test_a_link_in_place_of_our_folder_leads_nowhere_and_holds_up_nothing(
    open_inbox: OpenInbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched, "STUCK_S", 0.3)
    with capture_logs() as logs:
        inbox = open_inbox(settle_s=0)
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        (inbox.path / "done").rmdir()
        (inbox.path / "done").symlink_to(elsewhere)
        write(inbox.path / "a.dcm")
        write(inbox.path / "b.dcm", "1.2.3.4.6")

        inbox.wait_for(4)
        uids = [each.instance.sop_instance_uid for each in inbox.stored]
        assert set(uids[:2]) == {"1.2.3.4.5", "1.2.3.4.6"}
        assert list(elsewhere.iterdir()) == []
        wait_until(lambda: inbox.released, "nothing is waited for", 5)
        (inbox.path / "done").unlink()

        wait_until(lambda: inbox.names() == [], "both are put away", 5)
    assert inbox.names("done") == ["a.dcm", "b.dcm"]
    assert [one["event"] for one in logs].count("folder_entry_stuck") == 2


def test_a_file_that_was_stored_and_not_moved_when_the_node_died_is_not_new(open_inbox: OpenInbox) -> None:
    first = open_inbox()
    first.refuses_to_note = True
    write(first.path / "a.dcm")
    wait_until(lambda: first.listener._unreleased, "it is stored", 5)
    first.listener.stop()
    assert first.names() == ["a.dcm"]

    second = open_inbox()
    second.wait_for(1)

    assert [each.is_new for each in second.stored] == [False]
    wait_until(lambda: second.names("done") == ["a.dcm"], "it is put away", 5)


def test_files_are_deleted_where_that_is_asked_for(open_inbox: OpenInbox) -> None:
    inbox = open_inbox(deletes=True)
    write(inbox.path / "a.dcm")

    inbox.wait_for(1)

    wait_until(lambda: inbox.names() == [], "it is gone", 5)
    assert inbox.names("done") == []


def test_a_full_disk_leaves_files_where_they_are(open_inbox: OpenInbox, tmp_path: Path) -> None:
    with capture_logs() as logs:
        inbox = open_inbox(Storage(tmp_path / "full", Watermark(used_percent=0, free_bytes=1 << 60)))
        write(inbox.path / "a.dcm")
        wait_until(lambda: any(one["event"] == "folder_waits" for one in logs), "it waits", 5)
        inbox.listener.stop()

    assert inbox.names() == ["a.dcm"]
    assert inbox.names("rejected") == []
    assert sum(one["event"] == "folder_waits" for one in logs) == 1


def test_a_folder_that_cannot_be_used_is_a_problem_of_the_configuration(
    open_inbox: OpenInbox, tmp_path: Path
) -> None:
    (tmp_path / "inbox").write_text("a file")

    with pytest.raises(ConfigurationError, match=r"receive\.folders\.inbox\.path"):
        open_inbox()


@pytest.mark.slow
def test_a_file_is_read_once_though_the_node_is_killed_before_it_is_put_away(
    samples: dict[str, Sample], tmp_path: Path
) -> None:
    inbox = tmp_path / "inbox"
    (path,) = samples["findings"].write(inbox)
    folder = {"path": str(inbox), "settle_s": SETTLE_S, "poll_s": 0.05}
    with make_node(tmp_path / "node", {"receive": {"folders": {"inbox": folder}}}) as node:
        node.start(hold_at={"event": "instance_stored", "folder": "inbox"})
        node.wait_for_record(event="instance_stored", folder="inbox")
        node.kill()
        assert path.exists()

        node.start()

        (study,) = node.wait_for_studies(1)
        wait_until(lambda: not path.exists(), "it is put away", 10)
        stored = node.log_records(event="instance_stored", folder="inbox")
        assembled = node.log_records(event="study_assembled")

    assert study["outcome"] == "findings"
    assert [one["is_new"] for one in stored] == [True, False]
    assert len(assembled) == 1
    assert (inbox / "done" / path.name).exists()
