"""Receivers in processes of their own: nothing acknowledged is lost, whoever of them or of the node dies."""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from pynetdicom import build_context
from pynetdicom.sop_class import Verification

from node.deliver.association import associate
from node.deliver.dimse import Peer, echo, send_files
from node.errors import ConfigurationError, DestinationUnreachableError
from node.index import open_index
from node.receive import processes
from node.receive.notes import Notes
from node.receive.processes import ReceiverProcesses
from node.receiver import build_receiver, build_storage
from node.settings import Configuration, LogSettings, ReceiveSettings
from node.storage import Storage, Stored
from tests.instances import encode_dataset, write_instance
from tests.peers import LOOPBACK, free_ports, wait_until
from tests.peers.wire import cut_wire

SIGHTLINE = "SIGHTLINE"


class Site:
    """Receiver processes over a spool, and all that they told."""

    def __init__(self, folder: Path, processes: int, max_associations: int = 16) -> None:
        (port,) = free_ports(1)
        receive = ReceiveSettings(
            port=port,
            processes=processes,
            max_associations=max_associations,
            max_used_percent=100,
            min_free_gib=0,
            journal_mib=32,
        )
        log = LogSettings(path=str(folder / "log"))
        configuration = Configuration(data=folder / "data", receive=receive, log=log)
        self.storage: Storage = build_storage(configuration.data, receive)
        self.stored: list[Stored] = []
        self.released: list[tuple[frozenset[str], str]] = []
        self.faults: list[Exception] = []
        notes = Notes(self._note, lambda *_: None, lambda uids, *, ended: self.released.append((uids, ended)))
        # The receivers have an index of their own in the same file; what is told here is not noted in any.
        self.index = open_index(configuration.data)
        receiver = build_receiver(configuration, self.storage, self.index, notes)
        assert isinstance(receiver, ReceiverProcesses)
        self.receiver = receiver

    @property
    def peer(self) -> Peer:
        return Peer(LOOPBACK, self.receiver.port, SIGHTLINE, "MODALITY", timeout_s=10)

    def stop(self) -> None:
        self.receiver.stop()
        self.index.close()

    def _note(self, stored: list[Stored]) -> None:
        if self.faults:
            raise self.faults.pop()
        self.stored += stored


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path, processes=1)
    site.receiver.start()
    yield site
    site.stop()


def files(folder: Path, count: int, pixels: int = 1000) -> list[Path]:
    return [
        write_instance(
            folder / f"{number}.dcm",
            encode_dataset(f"1.2.{number}", pixels=bytes(pixels)),
            sop_instance_uid=f"1.2.{number}",
        )
        for number in range(count)
    ]


def test_what_a_receiver_stored_the_node_is_told_of_before_the_release(site: Site, tmp_path: Path) -> None:
    told_before: list[int] = []
    site.released = _Noting(lambda: told_before.append(len(site.stored)))

    send_files(files(tmp_path, 20), site.peer)

    assert wait_until(lambda: list(site.released), "release") == [(frozenset({"1.2.3"}), "released")]
    assert told_before == [20]
    assert set(Storage(site.storage.root).instances()) == {each.instance for each in site.stored}


def test_a_receiver_that_is_killed_is_started_again_and_loses_nothing(site: Site, tmp_path: Path) -> None:
    sent = files(tmp_path, 3)
    assert all(file.is_accepted for file in send_files(sent[:2], site.peer).files)
    (first,) = site.receiver.process_ids

    os.kill(first, signal.SIGKILL)
    wait_until(lambda: site.receiver.process_ids != [first], "another receiver")
    wait_until(lambda: _answers(site), "it answers")
    assert all(file.is_accepted for file in send_files(sent, site.peer).files)

    wait_until(lambda: len(site.stored) == 5, "all are told")
    assert [each.is_new for each in site.stored] == [True, True, False, False, True]


# The sender's second try fails, and pynetdicom drops a socket that could not connect without closing it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_a_killed_receiver_had_half_received_is_deleted(site: Site, tmp_path: Path) -> None:
    (large,) = files(tmp_path, 1, pixels=16 << 20)
    (first,) = site.receiver.process_ids
    with cut_wire(site.receiver.port, after_bytes=8 << 20) as wire:
        sender = threading.Thread(target=send_files, args=[[large], Peer(LOOPBACK, wire.port, SIGHTLINE)])
        sender.start()
        wire.wait_until_cut()
        wait_until(lambda: list(site.storage.incoming.iterdir()), "a part")
        os.kill(first, signal.SIGKILL)

        wait_until(lambda: not list(site.storage.incoming.iterdir()), "an empty folder")
    sender.join(30)


def test_what_could_not_be_noted_is_noted_later(site: Site, tmp_path: Path) -> None:
    site.faults = [KeyError("locked")]

    send_files(files(tmp_path, 2), site.peer)

    wait_until(lambda: len(site.stored) == 2, "both are told")


def test_receivers_without_a_node_end_at_once(tmp_path: Path) -> None:
    site = Site(tmp_path, processes=1)
    site.receiver.start()
    (receiver,) = site.receiver._receivers
    receiver._stopping.set()

    receiver._pair.shutdown(socket.SHUT_RDWR)

    assert receiver.process.wait(10) == 1
    site.stop()


def test_several_receivers_share_a_port(tmp_path: Path) -> None:
    site = Site(tmp_path, processes=2)
    site.receiver.start()
    try:
        send_files(files(tmp_path, 2), site.peer)
        os.kill(site.receiver.process_ids[0], signal.SIGSTOP)

        assert all(_answers(site) for _ in range(3))
    finally:
        os.kill(site.receiver.process_ids[0], signal.SIGCONT)
        site.stop()


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    site = Site(tmp_path, processes=1)
    with (
        socket.create_server((LOOPBACK, site.receiver.port)),
        pytest.raises(ConfigurationError, match="in use"),
    ):
        site.receiver.start()
    site.stop()


def _answers(site: Site) -> bool:
    try:
        echo(site.peer)
    except Exception:  # noqa: BLE001 - whatever it says, it does not answer
        return False
    return True


class _Noting(list[tuple[frozenset[str], str]]):
    def __init__(self, note: object) -> None:
        super().__init__()
        self._note = note

    def append(self, item: tuple[frozenset[str], str]) -> None:
        self._note()  # type: ignore[operator]
        super().append(item)


def test_several_receivers_have_one_limit_and_the_dead_do_not_count(tmp_path: Path) -> None:
    site = Site(tmp_path, processes=2, max_associations=3)
    site.receiver.start()
    with ExitStack() as stack:
        for _ in range(3):
            association = stack.enter_context(associate(site.peer, [build_context(Verification)]))
            assert association.is_established
        with pytest.raises(DestinationUnreachableError, match="rejected"):
            echo(site.peer)
        for process in site.receiver.process_ids:
            os.kill(process, signal.SIGKILL)

        wait_until(lambda: answers(site.peer), "another receiver takes associations")
    site.stop()


def answers(peer: Peer) -> bool:
    try:
        echo(peer)
    except DestinationUnreachableError:
        return False
    return True


def test_a_receiver_that_still_starts_does_not_hold_the_port(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slow_receiver.py").write_text("import time; time.sleep(60)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(processes, "START_TIMEOUT_S", 0.5)
    (port,) = free_ports(1)
    notes = Notes(lambda _: None, lambda *_: None, lambda *_, **__: None)
    storage = Storage(tmp_path)
    receiver = ReceiverProcesses(
        "slow_receiver", [None], (LOOPBACK, port), storage, notes, stop_timeout_s=0.1
    )
    with pytest.raises(ConfigurationError, match="did not start"):
        receiver.start()
    (pid,) = receiver.process_ids

    # As the system does for a node that is killed.
    receiver._listening.close()

    os.kill(pid, 0)
    with socket.create_server((LOOPBACK, port)):
        pass
    receiver.stop()
