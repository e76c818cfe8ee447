"""Who is let in, what an association's end tells, and that one peer's trouble is not another's."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pynetdicom.association import Association
from structlog.testing import capture_logs

from node.deliver.association import Peer, echo
from node.deliver.dimse import send_files
from node.errors import ConfigurationError
from node.receive.dimse import DimseListener
from node.receive.settings import ApplicationEntity, DimseListenerSettings
from node.storage import Storage
from tests.doors import SIGHTLINE, OpenDoor, associated, opening, store_raw
from tests.instances import CT, EXPLICIT, PATIENT, encode_dataset, write_instance
from tests.peers import LOOPBACK, wait_until
from tests.peers.wire import cut_wire


@pytest.fixture
def open_door(tmp_path: Path) -> Iterator[OpenDoor]:
    with opening(tmp_path) as open_one:
        yield open_one


# --- who is let in


def diagnostic(association: Association) -> tuple[int, int, int]:
    answer = association.acceptor.primitive
    assert association.is_rejected
    assert answer is not None
    return answer.result, answer.result_source, answer.diagnostic


@pytest.mark.parametrize(
    ("settings", "called", "expected"),
    [
        ({}, "NOBODY", (1, 1, 7)),
        (
            {"application_entities": (ApplicationEntity(SIGHTLINE, frozenset({"PACS"})),)},
            SIGHTLINE,
            (1, 1, 3),
        ),
        ({"allowed_hosts": ("10.1.0.0/16",)}, SIGHTLINE, (1, 1, 1)),
    ],
    ids=["called", "calling", "host"],
)
def test_who_is_not_expected_is_rejected_with_the_reason_of_the_standard(
    open_door: OpenDoor, settings: dict[str, Any], called: str, expected: tuple[int, int, int]
) -> None:
    door = open_door(**settings)

    with capture_logs() as logs, associated(door, [(CT, [EXPLICIT])], called) as association:
        found = diagnostic(association)

    assert found == expected
    assert [entry["event"] for entry in logs] == ["association_rejected"]


@pytest.mark.parametrize(
    ("address", "is_admitted"),
    [
        ("10.1.200.3", True),
        ("::ffff:10.1.200.3", True),
        ("fe80::1%eth0", True),
        ("10.2.0.1", False),
        ("127.0.0.1", False),
        ("::1", False),
    ],
)
def test_hosts_are_admitted_by_address_and_network(address: str, is_admitted: bool) -> None:
    settings = DimseListenerSettings(allowed_hosts=("10.1.0.0/16", "fe80::1"))

    assert settings.admits(address) is is_admitted


def test_two_ae_titles_on_one_port_are_told_apart(open_door: OpenDoor, tmp_path: Path) -> None:
    entities = (ApplicationEntity("CHEST"), ApplicationEntity("SLIDES", frozenset({"MODALITY"})))
    door = open_door(application_entities=entities)
    path = write_instance(tmp_path / "a.dcm", encode_dataset())

    for title in ("CHEST", "SLIDES"):
        assert store_raw(door, path, called=title).Status == 0x0000

    assert [each.instance.called_ae_title for each in door.stored] == ["CHEST", "SLIDES"]
    assert all(each.is_new for each in door.stored)


def test_more_associations_than_allowed_are_rejected_for_now(open_door: OpenDoor) -> None:
    door = open_door(max_associations=1)

    with associated(door, [(CT, [EXPLICIT])]) as first, associated(door, [(CT, [EXPLICIT])]) as second:
        assert first.is_established
        found = diagnostic(second)

    assert found == (2, 3, 2)


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server((LOOPBACK, 0)) as taken, pytest.raises(ConfigurationError) as failure:
        settings = DimseListenerSettings(port=taken.getsockname()[1])
        DimseListener(
            settings, Storage(tmp_path), on_stored=print, on_refused=print, on_release=print
        ).start()

    (problem,) = failure.value.problems
    assert str(taken_port := settings.port) in problem, taken_port
    assert "in use" in problem


# --- how it ends


def test_the_end_of_an_association_names_its_studies(open_door: OpenDoor, tmp_path: Path) -> None:
    door = open_door()
    paths = [
        write_instance(
            tmp_path / f"{number}.dcm",
            encode_dataset(f"1.2.{number}", study_instance_uid=f"1.{number % 2}"),
            sop_instance_uid=f"1.2.{number}",
        )
        for number in range(4)
    ]

    send_files(paths, door.peer())
    echo(door.peer())

    assert wait_until(lambda: door.released, "release") == [(frozenset({"1.0", "1.1"}), "released")]


@pytest.mark.parametrize("with_abort", [True, False])
def test_an_association_that_breaks_off_says_so_and_leaves_nothing_half(
    open_door: OpenDoor, tmp_path: Path, with_abort: bool
) -> None:
    door = open_door()
    whole = write_instance(tmp_path / "a.dcm", encode_dataset())

    with associated(door, [(CT, [EXPLICIT])]) as association:
        assert association.send_c_store(whole).Status == 0x0000
        if with_abort:
            association.abort()
        else:
            association.dul.socket.close()

    assert door.ended() == "aborted"
    assert door.released[0][0] == {"1.2.3"}


# The sender's second try fails, and pynetdicom drops a socket that could not connect without closing it.
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
def test_a_line_that_is_cut_inside_an_instance_leaves_nothing_of_it(
    open_door: OpenDoor, tmp_path: Path
) -> None:
    door = open_door(read_timeout_s=0.5)
    dataset = encode_dataset(pixels=bytes(12 << 20))
    path = write_instance(tmp_path / "a.dcm", dataset)
    with cut_wire(door.port, after_bytes=8 << 20) as wire:
        sender = threading.Thread(target=send_files, args=[[path], Peer(LOOPBACK, wire.port, SIGHTLINE)])
        sender.start()
        wire.wait_until_cut()
        part = wait_until(lambda: list(door.storage.incoming.iterdir()), "first bytes in the spool")

        wait_until(lambda: not part[0].exists(), "end of a stalled association", timeout_s=10)
    sender.join(30)

    assert not door.stored
    assert not [each for each in door.storage.root.rglob("*") if each.is_file()]


def test_stopping_lets_an_open_association_finish_and_takes_no_other(
    open_door: OpenDoor, tmp_path: Path
) -> None:
    door = open_door()
    path = write_instance(tmp_path / "a.dcm", encode_dataset())

    with associated(door, [(CT, [EXPLICIT])]) as association:
        stopping = threading.Thread(target=door.listener.stop)
        port = door.port
        stopping.start()
        wait_until(lambda: not is_listening(port), "closed port")
        answer = association.send_c_store(path)
    stopping.join(10)

    assert answer.Status == 0x0000
    assert not stopping.is_alive()
    assert door.released == [(frozenset({"1.2.3"}), "released")]


def test_stopping_ends_what_does_not_end_by_itself(open_door: OpenDoor) -> None:
    door = open_door(drain_timeout_s=0.2)

    with associated(door, [(CT, [EXPLICIT])]) as association:
        door.listener.stop()
        wait_until(lambda: association.is_aborted, "abort")

    assert not [each for each in threading.enumerate() if "AcceptorThread" in each.name]


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((LOOPBACK, port)) == 0


def test_no_log_line_tells_of_the_patient(open_door: OpenDoor, tmp_path: Path) -> None:
    door = open_door()
    good = write_instance(tmp_path / "a.dcm", encode_dataset())
    bad = write_instance(tmp_path / "b.dcm", encode_dataset(study_instance_uid=""))

    with capture_logs() as logs:
        store_raw(door, good)
        store_raw(door, bad)
        wait_until(lambda: len([e for e in logs if e["event"] == "association_ended"]) == 2, "log")

    events = [entry["event"] for entry in logs]
    assert events.count("association_accepted") == 2
    assert "instance_stored" in events
    assert "instance_refused" in events
    assert PATIENT.split("^")[0] not in str(logs)


def test_a_message_that_makes_no_sense_ends_its_association_and_no_other(
    open_door: OpenDoor, tmp_path: Path
) -> None:
    door = open_door()
    path = write_instance(tmp_path / "a.dcm", encode_dataset())

    with associated(door, [(CT, [EXPLICIT])]) as bystander:
        with associated(door, [(CT, [EXPLICIT])]) as association:
            association.dul.socket.send(bytes.fromhex("04000000000e0000000a0103ffffffffffffffff"))
            wait_until(lambda: not association.is_established, "abort")
        answer = bystander.send_c_store(path)

    assert answer.Status == 0x0000
