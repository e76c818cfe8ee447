"""STOW-RS clients that go wrong: they break off, fall silent, drip, or send damage."""

import random
import socket
import struct
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from pydicom import dcmread

from node.errors import MalformedRequestError, RequestTooLargeError
from node.journal_record import MAX_REST_BYTES
from node.receive.multipart import MultipartReader
from node.receive.notes import Notes
from node.receive.stow import Admission, StowReception
from node.receive.stow_answer import encode_answer
from node.storage import Storage, Stored
from tests.doors import ANY_DISK
from tests.peers import LOOPBACK, wait_until
from tests.web_doors import BOUNDARY, OpenWebDoor, file, multipart, post, read_answer, request_head


def test_a_client_that_goes_in_the_middle_leaves_nothing(open_door: OpenWebDoor) -> None:
    door = open_door()
    body = multipart([file(), file("1.2.3.4.6", pixels=bytes(3 * MAX_REST_BYTES))])

    with socket.create_connection((LOOPBACK, door.port)) as connection:
        connection.sendall(request_head(len(body)) + body[: len(body) // 2])
        wait_until(lambda: door.leftovers(), "the second instance begins")

    wait_until(lambda: door.released, "the end of the request")
    assert door.leftovers() == []
    assert [each.instance.sop_instance_uid for each in door.stored] == ["1.2.3.4.5"]
    assert door.released == [(frozenset({"1.2.3"}), "aborted")]


def test_a_silent_client_is_not_waited_for(open_door: OpenWebDoor) -> None:
    door = open_door(read_timeout_s=0.3)
    body = multipart([file(pixels=bytes(100_000))])

    with socket.create_connection((LOOPBACK, door.port), timeout=10) as connection:
        connection.sendall(request_head(len(body)) + body[:90_000])
        answer = read_answer(connection)

    assert answer.status == 408
    assert door.leftovers() == []


def test_a_client_that_drips_is_not_waited_for_and_others_are_served(open_door: OpenWebDoor) -> None:
    door = open_door(read_timeout_s=0.5, max_requests=2)
    body = multipart([file(pixels=bytes(100_000))])
    dripping = socket.create_connection((LOOPBACK, door.port), timeout=10)
    dripping.sendall(request_head(len(body)))

    def drip() -> None:
        for byte in body[:200]:
            try:
                dripping.sendall(bytes([byte]))
            except OSError:
                return
            time.sleep(0.02)

    thread = threading.Thread(target=drip)
    thread.start()
    assert post(door, multipart([file()])).status == 200
    assert read_answer(dripping).status == 408
    assert thread.is_alive()
    dripping.close()
    thread.join()


def test_more_requests_than_places_are_asked_to_come_again(open_door: OpenWebDoor) -> None:
    door = open_door(max_requests=1)
    body = multipart([file(pixels=bytes(100_000))])

    with socket.create_connection((LOOPBACK, door.port), timeout=10) as connection:
        connection.sendall(request_head(len(body)) + body[:50_000])
        wait_until(lambda: door.listener._requests, "the first request is under way")
        refused = post(door, multipart([file("1.2.3.4.6")]))
        connection.sendall(body[50_000:])
        answer = read_answer(connection)

    assert (refused.status, answer.status) == (503, 200)


def test_a_listener_that_stops_refuses_and_lets_finish_what_is_under_way(open_door: OpenWebDoor) -> None:
    door = open_door()
    body = multipart([file(pixels=bytes(100_000))])

    with socket.create_connection((LOOPBACK, door.port), timeout=10) as connection:
        connection.sendall(request_head(len(body)) + body[:50_000])
        wait_until(lambda: door.listener._requests, "the request is under way")
        stopping = threading.Thread(target=door.listener.stop)
        stopping.start()
        wait_until(lambda: post(door, multipart([file("1.2.3.4.6")])).status == 503, "it refuses")
        connection.sendall(body[50_000:])
        answer = read_answer(connection)
        stopping.join()

    assert answer.status == 200
    assert len(door.stored) == 1


def test_a_large_instance_is_never_whole_in_memory(open_door: OpenWebDoor) -> None:
    door = open_door()
    length = 96 << 20
    start, end = file(pixels=b"")[:-12], multipart([b""]).partition(b"\r\n\r\n")[2]
    start += struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OW", 0, length)
    head = multipart([b""]).partition(b"\r\n\r\n")[0] + b"\r\n\r\n" + start
    before = _resident_bytes()
    highest = 0

    with socket.create_connection((LOOPBACK, door.port), timeout=30) as connection:
        connection.sendall(request_head(len(head) + length + len(end)) + head)
        for _ in range(length >> 20):
            connection.sendall(bytes(1 << 20))
            highest = max(highest, _resident_bytes())
        connection.sendall(end)
        assert read_answer(connection).status == 200

    assert highest - before < 32 << 20
    assert len(dcmread(door.stored[0].instance.path).PixelData) == length


def _resident_bytes() -> int:
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * 4096


@pytest.mark.parametrize("seed", range(5))
def test_a_damaged_body_costs_its_sender_an_error_and_leaves_nothing(tmp_path: Path, seed: int) -> None:
    storage = Storage(tmp_path / "data", ANY_DISK)
    whole = multipart([file(f"1.2.3.4.{number}", pixels=bytes(200)) for number in range(3)])
    chance = random.Random(seed)  # noqa: S311    # the same damage every time
    stored: list[Stored] = []
    for _ in range(100):
        body = bytearray(whole)
        for _ in range(chance.randrange(1, 12)):
            start = chance.randrange(len(body))
            body[start : start + chance.randrange(3)] = chance.randbytes(chance.randrange(4))
        reception = StowReception(
            storage,
            Admission("SIGHTLINE", accept_private_classes=True, max_instance_bytes=1 << 20),
            Notes(stored.extend, lambda *_: None, lambda *_, **__: None),
        )
        reader = MultipartReader(BOUNDARY, reception, max_parts=10)
        size = chance.randrange(1, len(body))
        with suppress(MalformedRequestError, RequestTooLargeError):
            for start in range(0, len(body), size):
                reader.feed(bytes(body[start : start + size]))
            reader.close()
        reception.discard()
        encode_answer(reception.answered, "application/dicom+xml")

    assert list(storage.incoming.iterdir()) == []
    assert {each.instance.path for each in stored} == storage.instance_paths()
    assert all(path.is_relative_to(storage.instances_folder) for path in storage.instance_paths())
