"""The journal: what it was told is safe is there after a crash, whatever became of the files themselves."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from xxhash import xxh3_128

from node.errors import OutOfResourcesError
from node.header import FileMeta
from node.journal import Journal
from node.journal_record import BLOCK_BYTES, MAX_REST_BYTES, Entry, Slab, records_in, replay
from node.storage import Storage, Stored, Watermark
from tests.instances import CT, EXPLICIT, encode_dataset
from tests.peers import REPOSITORY

SMALL = {"segment_bytes": 1 << 20, "max_segments": 2}


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "journal", tmp_path, **SMALL)
    yield journal
    journal.close()


def entry(number: int, size: int = 1000) -> Entry:
    return entry_of(f"files/{number}.dcm", bytes([number]) * size)


def entry_of(name: str, content: bytes) -> Entry:
    slab = Slab()
    for piece in (content[:7], memoryview(content)[7:]):
        assert slab.add(piece)
    return Entry(name, b"head", slab, xxh3_128(content).digest())


def keep(journal: Journal, root: Path, one: Entry) -> Path:
    """Keep an entry and name its file, as a receiver does."""
    path = root / one.name
    with journal.keeping(one):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(one.head + one.slab.memory[BLOCK_BYTES : BLOCK_BYTES + one.slab.size])
    return path


def segment(root: Path) -> Path:
    return root / "journal" / "0.segment"


def test_what_was_kept_is_restored_where_the_file_is_missing_or_damaged(
    journal: Journal, tmp_path: Path
) -> None:
    kept, lost, torn = (keep(journal, tmp_path, entry(number)) for number in range(3))
    lost.unlink()
    torn.write_bytes(b"")
    before = kept.stat().st_ino

    assert replay(tmp_path / "journal", tmp_path) == 2

    assert [path.read_bytes()[4:] for path in (kept, lost, torn)] == [bytes([n]) * 1000 for n in range(3)]
    assert kept.stat().st_ino == before


def test_a_journal_that_was_replayed_is_empty(journal: Journal, tmp_path: Path) -> None:
    path = keep(journal, tmp_path, entry(1))
    replay(tmp_path / "journal", tmp_path)
    path.unlink()

    assert replay(tmp_path / "journal", tmp_path) == 0
    assert not path.exists()


def test_nothing_is_safe_before_the_sync_has_returned(tmp_path: Path) -> None:
    begun, go_on, order = threading.Event(), threading.Event(), []

    def slow_sync(descriptor: int) -> None:
        begun.set()
        assert go_on.wait(10)
        os.fdatasync(descriptor)
        order.append("synced")

    journal = Journal(tmp_path / "journal", tmp_path, **SMALL, sync=slow_sync)

    def store() -> None:
        with journal.keeping(entry(1)):
            order.append("named")

    thread = threading.Thread(target=store)
    thread.start()
    assert begun.wait(10)
    thread.join(0.2)
    early = list(order)
    go_on.set()
    thread.join(10)
    journal.close()

    assert early == []
    assert order[:2] == ["synced", "named"]


def test_those_that_wait_at_the_same_time_are_made_safe_by_one_sync(tmp_path: Path) -> None:
    first, go_on, syncs = threading.Event(), threading.Event(), []

    def sync(descriptor: int) -> None:
        syncs.append(descriptor)
        first.set()
        assert go_on.wait(10)

    journal = Journal(tmp_path / "journal", tmp_path, **SMALL, sync=sync)
    threads = [
        threading.Thread(target=keep, args=(journal, tmp_path, entry(number, 100))) for number in range(9)
    ]
    threads[0].start()
    assert first.wait(10)
    for thread in threads[1:]:
        thread.start()
    threads[1].join(0.3)
    go_on.set()
    for thread in threads:
        thread.join(10)
    count = len(syncs)
    found = [record.name for record in records_in(memoryview(segment(tmp_path).read_bytes()))]
    journal.close()

    assert count == 2
    assert sorted(found) == [f"files/{number}.dcm" for number in range(9)]


def test_a_write_that_fails_is_told_to_those_who_wait_and_the_next_one_succeeds(tmp_path: Path) -> None:
    faults = [OSError(5, "Input/output error")]

    def sync(_descriptor: int) -> None:
        if faults:
            raise faults.pop()

    journal = Journal(tmp_path / "journal", tmp_path, **SMALL, sync=sync)

    with pytest.raises(OSError, match="Input/output"), journal.keeping(entry(1)):
        pytest.fail("it is not safe")
    path = keep(journal, tmp_path, entry(2))
    path.unlink()
    journal_copy = segment(tmp_path).read_bytes()
    journal.close()
    segment(tmp_path).write_bytes(journal_copy)

    replay(tmp_path / "journal", tmp_path)
    assert path.exists()


def test_segments_are_used_again_once_the_files_are_safe_by_themselves(
    journal: Journal, tmp_path: Path
) -> None:
    for number in range(100):
        keep(journal, tmp_path, entry(number, 100_000))

    assert len(list((tmp_path / "journal").iterdir())) <= 2
    assert len(list((tmp_path / "files").iterdir())) == 100


def test_a_segment_is_not_used_again_while_a_file_has_no_name_yet(journal: Journal, tmp_path: Path) -> None:
    held, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with journal.keeping(entry(0, 600_000)):
            held.set()
            assert go_on.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(10)
    keep(journal, tmp_path, entry(1, 600_000))
    third = threading.Thread(target=keep, args=(journal, tmp_path, entry(2, 600_000)))
    third.start()
    third.join(0.3)
    waited = third.is_alive()
    go_on.set()
    third.join(10)
    holder.join(10)

    assert waited
    assert not third.is_alive()


def test_what_is_safe_by_itself_does_not_come_back(journal: Journal, tmp_path: Path) -> None:
    path = keep(journal, tmp_path, entry(1))
    journal.settle()
    path.unlink()

    replay(tmp_path / "journal", tmp_path)

    assert not path.exists()


@pytest.mark.parametrize(
    ("position", "restored"),
    [(0, []), (3 * BLOCK_BYTES + 300, [0, 2]), (2 * BLOCK_BYTES + 20, [0]), (4 * BLOCK_BYTES, [0, 1])],
    ids=["first header", "content", "header", "last header"],
)
def test_a_damaged_segment_costs_no_more_than_what_cannot_be_told(
    journal: Journal, tmp_path: Path, position: int, restored: list[int]
) -> None:
    paths = [keep(journal, tmp_path, entry(number)) for number in range(3)]
    for path in paths:
        path.unlink()
    with segment(tmp_path).open("r+b") as file:
        file.seek(position)
        file.write(b"\xff\xff")

    replay(tmp_path / "journal", tmp_path)

    assert [number for number, path in enumerate(paths) if path.exists()] == restored


def test_records_of_an_earlier_use_are_not_taken_for_those_of_this_one(
    journal: Journal, tmp_path: Path
) -> None:
    paths = [keep(journal, tmp_path, entry(number)) for number in range(3)]
    journal.settle()
    paths.append(keep(journal, tmp_path, entry(3)))
    for path in paths:
        path.unlink()

    replay(tmp_path / "journal", tmp_path)

    assert [path.exists() for path in paths] == [False, False, False, True]


def test_a_name_that_leads_out_of_the_spool_is_not_followed(journal: Journal, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    with journal.keeping(entry_of("../outside", b"x")):
        pass

    assert replay(tmp_path / "journal", root) == 0
    assert not (tmp_path / "outside").exists()


def test_a_segment_of_an_odd_size_is_one_of_whole_blocks(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal", tmp_path, segment_bytes=(1 << 20) + 1000)
    path = keep(journal, tmp_path, entry(1))
    size = segment(tmp_path).stat().st_size
    journal.close()

    assert path.exists()
    assert size == (1 << 20) + BLOCK_BYTES


def test_more_than_a_slab_holds_is_not_taken_in_part() -> None:
    slab = Slab()

    assert slab.add(bytes(MAX_REST_BYTES))
    assert not slab.add(b"x")
    assert slab.size == MAX_REST_BYTES


def test_one_sync_of_the_file_system_settles_all_that_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled: list[Path] = []
    monkeypatch.setattr("node.journal.sync_file_system", settled.append)
    journal = Journal(tmp_path / "journal", tmp_path, segment_bytes=1 << 20, max_segments=8)

    for number in range(6):
        keep(journal, tmp_path, entry(number, 900_000))
    before = len(settled)
    journal.settle()
    journal.close()

    assert (before, len(settled)) == (0, 1)


# --- under the spool


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Storage]:
    storage = Storage(tmp_path / "data", Watermark(used_percent=100, free_bytes=0))
    storage.open_journal("0", segment_bytes=1 << 20)
    yield storage
    storage.close_journal()


def store(storage: Storage, dataset: bytes, step: int = 1000) -> Stored:
    with storage.new_instance(FileMeta(CT, "1.2.3.4.5", EXPLICIT, called_ae_title="A")) as writer:
        for start in range(0, len(dataset), step):
            writer.write(dataset[start : start + step])
        return writer.commit()


@pytest.mark.parametrize("size", [10, 100_000, 9 << 20])
def test_an_instance_is_the_same_file_with_a_journal_and_without(
    storage: Storage, tmp_path: Path, size: int
) -> None:
    plain = Storage(tmp_path / "plain", Watermark(used_percent=100, free_bytes=0))
    dataset = encode_dataset(pixels=bytes(size))

    one, other = (store(each, dataset, 1 << 18).instance for each in (storage, plain))

    assert one.path.relative_to(storage.root) == other.path.relative_to(plain.root)
    assert one.path.read_bytes() == other.path.read_bytes()
    assert not store(storage, dataset, 1 << 18).is_new


def test_an_instance_whose_file_was_lost_with_the_power_is_there_after_the_start(storage: Storage) -> None:
    instance = store(storage, encode_dataset()).instance
    content = instance.path.read_bytes()
    instance.path.write_bytes(b"")

    again = Storage(storage.root)
    again.recover()

    assert instance.path.read_bytes() == content
    assert list(again.instances()) == [instance]


def test_an_instance_that_the_journal_could_not_take_leaves_nothing(tmp_path: Path) -> None:
    def fail(_descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    storage = Storage(tmp_path / "data", Watermark(used_percent=100, free_bytes=0))
    storage.journal = Journal(tmp_path / "data/journal/0", storage.root, **SMALL, sync=fail)

    with pytest.raises(OutOfResourcesError, match="Input/output"):
        store(storage, encode_dataset())

    assert not [path for path in storage.root.rglob("*.*") if path.suffix != ".segment"]
    storage.close_journal()


KILLED = """
import os, signal, sys
from pathlib import Path
from node.header import FileMeta
from node.journal import Journal
from node.storage import Storage, Watermark
from tests.instances import CT, EXPLICIT, encode_dataset

folder, stage = Path(sys.argv[1]), sys.argv[2]

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def sync(descriptor):
    if stage == "before the sync":
        die()
    os.fdatasync(descriptor)
    if stage == "before the name":
        die()

storage = Storage(folder, Watermark(used_percent=100, free_bytes=0))
storage.journal = Journal(folder / "journal" / "0", folder, segment_bytes=1 << 20, sync=sync)
with storage.new_instance(FileMeta(CT, "1.2.3.4.5", EXPLICIT)) as writer:
    writer.write(encode_dataset(pixels=bytes(50_000)))
    if stage == "before the commit":
        die()
    writer.commit()
    die()
"""


@pytest.mark.parametrize(
    ("stage", "is_kept"),
    [
        ("before the commit", False),
        ("before the sync", None),
        ("before the name", True),
        ("after the commit", True),
    ],
)
@pytest.mark.parametrize("loses_power", [False, True])
def test_killed_at_each_stage_an_instance_is_whole_or_not_there(
    tmp_path: Path, stage: str, is_kept: bool | None, loses_power: bool
) -> None:
    command = [sys.executable, "-c", KILLED, tmp_path, stage]
    assert subprocess.run(command, cwd=REPOSITORY, check=False).returncode == -signal.SIGKILL
    if loses_power:  # which takes what was written and not synced
        for path in tmp_path.rglob("*.*"):
            if path.suffix != ".segment" and path.is_file():
                path.write_bytes(b"")

    storage = Storage(tmp_path)
    storage.recover()

    found = list(storage.instances())
    assert not list(storage.incoming.iterdir())
    assert is_kept is None or bool(found) is is_kept
    assert all(one.path.read_bytes().endswith(encode_dataset(pixels=bytes(50_000))) for one in found)
    assert list(tmp_path.glob("instances/*/*/*")) == [one.path for one in found]
