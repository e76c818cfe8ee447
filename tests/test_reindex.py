"""The index rebuilt from the spool, by command and at the start."""

import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from node.disk import locked
from node.errors import StoreError
from node.index import Index, sqlite_url
from node.reindex import add_unknown, reindex
from tests.finished import Archive, open_archive
from tests.peers import REPOSITORY
from tests.peers.node import run_sightline, to_toml

HOLDER = """
import sys, pathlib
from node.disk import FolderLock
lock = FolderLock(pathlib.Path(sys.argv[1]))
lock.take()
print("held", flush=True)
sys.stdin.read()
"""


def fill(folder: Path) -> Archive:
    archive = open_archive(folder)
    for study in ("1.2.3", "1.2.4"):
        for number in range(3):
            archive.store(study, number)
    return archive


def note(_done: int, _total: int) -> None:
    """Nothing."""


def test_a_lost_index_is_rebuilt_from_the_spool(tmp_path: Path) -> None:
    archive = fill(tmp_path / "data")
    with closing(archive.index):
        before = {study: archive.index.instances(study) for study in archive.index.study_uids()}
    told: list[tuple[int, int]] = []

    with closing(Index(sqlite_url(tmp_path / "new.sqlite"))) as index:
        found = reindex(index, archive.storage, lambda done, total: told.append((done, total)))
        after = {study: index.instances(study) for study in index.study_uids()}

    assert (found.instances, found.added, found.unreadable, found.missing) == (6, 6, 0, 0)
    assert {uid: set(rows) for uid, rows in after.items()} == {uid: set(rows) for uid, rows in before.items()}
    assert told[-1] == (6, 6)


def test_rows_without_a_file_are_told_at_the_start_and_dropped_by_command(tmp_path: Path) -> None:
    archive = fill(tmp_path / "data")
    with closing(archive.index), capture_logs() as logs:
        for path in archive.storage.instance_paths():
            if "1.2.4" in path.name:
                path.unlink()

        assert add_unknown(archive.index, archive.storage).missing == 3
        assert len(archive.index.paths()) == 6
        assert reindex(archive.index, archive.storage, note).missing == 3

        assert archive.index.paths() == archive.storage.instance_paths()
        study = archive.index.study("1.2.4")
        assert study is not None
        assert (study["state"], study["outcome"]) == ("analyzed", "failed")
        assert study["reason"] == "its files are gone from the spool"
        assert [one.study_instance_uid for one in archive.index.open_studies()] == ["1.2.3"]
    assert sum(one["event"] == "spool_files_missing" for one in logs) == 2


def test_a_spool_that_is_not_mounted_drops_nothing(tmp_path: Path) -> None:
    archive = fill(tmp_path / "data")
    archive.storage.instances_folder.rename(tmp_path / "elsewhere")
    archive.storage.instances_folder.mkdir()

    with closing(archive.index), pytest.raises(StoreError, match="mounted"):
        reindex(archive.index, archive.storage, note)

    assert len(archive.index.paths()) == 6


def test_a_file_that_is_no_instance_is_counted_and_left_alone(tmp_path: Path) -> None:
    archive = fill(tmp_path / "data")
    damaged = sorted(archive.storage.instance_paths())[0]
    damaged.write_bytes(b"damaged")

    with closing(archive.index), closing(Index(sqlite_url(tmp_path / "new.sqlite"))) as index:
        found = reindex(index, archive.storage, note)

    assert (found.instances, found.added, found.unreadable) == (6, 5, 1)
    assert damaged.exists()


def test_while_a_node_has_the_folder_nothing_else_takes_it_and_afterwards_it_is_rebuilt(
    tmp_path: Path,
) -> None:
    data = tmp_path / "data"
    fill(data).index.close()
    (data / "index.sqlite").unlink()
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(data)],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(StoreError, match="a node is running"), locked(data):
            pass
        holder.kill()

    rebuilt = run_sightline("studies", "reindex", "--json", "-c", configuration(tmp_path, data))

    assert rebuilt.returncode == 0, rebuilt.stderr
    assert json.loads(rebuilt.stdout)["added"] == 6


def test_a_trial_purge_tells_and_removes_nothing(tmp_path: Path) -> None:
    data = tmp_path / "data"
    archive = fill(data)
    archive.finish("1.2.5", days_ago=40)
    archive.finish("1.2.6", days_ago=41)
    archive.index.promise(["1.2.6.1.1"])
    archive.index.close()
    before = archive.files()

    trial = run_sightline("studies", "purge", "--dry-run", "--json", "-c", configuration(tmp_path, data))

    told = json.loads(trial.stdout)
    (due,) = told["due"]
    assert [one["study_instance_uid"] for one in told["kept"]] == ["1.2.6"]
    assert (due["study_instance_uid"], due["outcome"], due["reason"]) == ("1.2.5", "findings", "age")
    assert archive.files() == before


def configuration(folder: Path, data: Path) -> str:
    path = folder / "sightline.toml"
    path.write_text(to_toml({"data": str(data), "retention": {"days": 30}}))
    return str(path)
