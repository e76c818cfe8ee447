"""What no honest peer sends, byte by byte: answered as the standard says, and nobody else is disturbed."""

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import A_ASSOCIATE
from structlog.testing import capture_logs

from node.deliver.dimse import send_files
from node.receive.command import encode_store_answer, read_elements, read_store_request
from node.receive.pdu import Fragment, Inbox, PduError
from node.receive.settings import ApplicationEntity
from tests.doors import SIGHTLINE, Door, OpenDoor, associated, opening, store_raw
from tests.instances import CT, EXPLICIT, encode_dataset, write_instance
from tests.peers import LOOPBACK, wait_until

ABORT, ACCEPT = 0x07, 0x02
UNRECOGNIZED, UNEXPECTED, INVALID = 1, 2, 6


@pytest.fixture
def open_door(tmp_path: Path) -> Iterator[OpenDoor]:
    with opening(tmp_path) as open_one:
        yield open_one


# --- by hand


def pdu(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBL", kind, 0, len(body)) + body


def item(data: bytes, *, control: int, context: int = 1) -> bytes:
    return struct.pack(">LBB", len(data) + 2, context, control) + data


def command(instance: str = "1.2.3.4.5", *, field: int = 1, data_set: int = 0, message: int = 7) -> bytes:
    values = [
        (0x0002, CT.encode() + b"\0"),
        (0x0100, struct.pack("<H", field)),
        (0x0110, struct.pack("<H", message)),
        (0x0700, struct.pack("<H", 0)),
        (0x0800, struct.pack("<H", data_set)),
        (0x1000, instance.encode() + b"\0" * (len(instance) % 2)),
    ]
    encoded = b"".join(struct.pack("<HHL", 0, tag, len(value)) + value for tag, value in values)
    return struct.pack("<HHLL", 0, 0, 4, len(encoded)) + encoded


def request() -> bytes:
    entity = AE("HOSTILE")
    entity.add_requested_context(CT, EXPLICIT)
    primitive = A_ASSOCIATE()
    primitive.application_context_name = "1.2.840.10008.3.1.1.1"
    primitive.calling_ae_title, primitive.called_ae_title = "HOSTILE", SIGHTLINE
    contexts = entity.requested_contexts
    contexts[0].context_id = 1
    primitive.presentation_context_definition_list = contexts
    primitive.user_information = _user_information()
    return A_ASSOCIATE_RQ(primitive).encode()


def _user_information() -> list[object]:
    from pynetdicom.pdu_primitives import ImplementationClassUIDNotification, MaximumLengthNotification

    length, implementation = MaximumLengthNotification(), ImplementationClassUIDNotification()
    length.maximum_length_received = 16384
    implementation.implementation_class_uid = "1.2.3"
    return [length, implementation]


class Hostile:
    """A connection that sends what it is told to."""

    def __init__(self, port: int, *, associates: bool = True) -> None:
        self.socket = socket.create_connection((LOOPBACK, port), timeout=10)
        if associates:
            self.socket.sendall(request())
            assert self.read()[0] == ACCEPT

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def read(self) -> tuple[int, bytes]:
        """The next PDU, or type 0 where the connection ended."""
        head = self._exactly(6)
        if len(head) < 6:
            return 0, b""
        kind, _, length = struct.unpack(">BBL", head)
        return kind, self._exactly(length)

    def status(self) -> int:
        """The status in the next answer."""
        kind, body = self.read()
        assert kind == 4
        return int(struct.unpack("<H", read_elements(body[6:])[0x0900])[0])

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size and (piece := self.socket.recv(size - len(data))):
            data += piece
        return data


Knock = Callable[..., Hostile]


@pytest.fixture
def knock() -> Iterator[Knock]:
    """Opens connections; all are closed at the end."""
    peers: list[Hostile] = []

    def open_one(port: int, *, associates: bool = True) -> Hostile:
        peers.append(Hostile(port, associates=associates))
        return peers[-1]

    yield open_one
    for peer in peers:
        peer.socket.close()


@pytest.fixture
def hostile(open_door: OpenDoor, knock: Knock) -> Hostile:
    return knock(open_door(max_pdu_bytes=16384, read_timeout_s=1).port)


def store(instance: str = "1.2.3.4.5", pixels: bytes = b"1234") -> bytes:
    data_set = encode_dataset(instance, pixels=pixels)
    return pdu(4, item(command(instance), control=3)) + pdu(4, item(data_set, control=2))


# --- taken as the standard allows it


def test_an_instance_in_pieces_of_any_size_is_the_same_instance(open_door: OpenDoor, knock: Knock) -> None:
    door = open_door()
    peer = knock(door.port)
    data_set = encode_dataset()
    encoded = pdu(4, item(command()[:9], control=1) + item(b"", control=1) + item(command()[9:], control=3))
    for start in range(0, len(data_set), 3):
        encoded += pdu(4, item(data_set[start : start + 3], control=0))
    encoded += pdu(4, item(b"", control=2))

    for start in range(0, len(encoded), 11):
        peer.send(encoded[start : start + 11])

    assert peer.status() == 0
    assert door.stored[0].instance.path.read_bytes().endswith(data_set)


def test_instances_that_do_not_wait_for_an_answer_are_all_answered_in_order(
    open_door: OpenDoor, knock: Knock
) -> None:
    door = open_door()
    peer = knock(door.port)

    peer.send(b"".join(store(f"1.2.{number}") for number in range(50)))

    assert [peer.status() for _ in range(50)] == [0] * 50
    assert [each.instance.sop_instance_uid for each in door.stored] == [f"1.2.{n}" for n in range(50)]


def test_an_instance_larger_than_the_buffer_is_kept_whole(open_door: OpenDoor, tmp_path: Path) -> None:
    door = open_door()
    pixels = bytes(range(256)) * (9 << 12) + b"end!"
    paths = [
        write_instance(
            tmp_path / f"{n}.dcm", encode_dataset(f"1.{n}", pixels=pixels), sop_instance_uid=f"1.{n}"
        )
        for n in range(2)
    ]

    send_files(paths, door.peer())

    assert [each.instance.path.read_bytes().endswith(pixels) for each in door.stored] == [True, True]
    assert not list(door.storage.incoming.iterdir())


# --- refused


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"\x09\0\0\0\0\4abcd", UNRECOGNIZED),
        (pdu(4, b""), INVALID),
        (pdu(4, b"\0\0\0\1\1"), INVALID),
        (b"\4\0\xff\xff\xff\xff", INVALID),
        (pdu(4, struct.pack(">LBB", 1, 1, 3) + b"x"), INVALID),
        (pdu(4, struct.pack(">LBB", 0xFFFFFFFF, 1, 3) + bytes(100)), INVALID),
        (pdu(4, item(b"ab", control=3) + b"\0\0"), INVALID),
        (pdu(4, item(command(), control=3, context=3)), INVALID),
        (pdu(4, item(b"data", control=2)), UNEXPECTED),
        (pdu(4, item(command(), control=3) + item(command(), control=3)), UNEXPECTED),
        (pdu(4, item(command(), control=3) + item(b"data", control=2, context=3)), UNEXPECTED),
        (pdu(4, item(b"\0\0\0\1\xff\xff\xff\xff", control=3)), INVALID),
        (pdu(4, item(b"\0\0\0", control=3)), INVALID),
        (pdu(4, item(command("1" * 70), control=3)), INVALID),
        (pdu(4, item(command(field=0x4242), control=3)), INVALID),
        (b"".join(pdu(4, item(bytes(10_000), control=1)) for _ in range(8)), INVALID),
        (pdu(1, bytes(100)), INVALID),
        (b"\1\0\x7f\xff\xff\xff", INVALID),
        (b"\5\0\0\0\1\0", INVALID),
    ],
)
def test_what_makes_no_sense_is_aborted_with_its_reason(hostile: Hostile, sent: bytes, reason: int) -> None:
    with capture_logs() as logs:
        hostile.send(sent)
        kind, body = hostile.read()
        wait_until(lambda: [one for one in logs if one["event"] == "association_ended"], "the end")

    assert (kind, body[2], body[3]) == (ABORT, 2, reason)
    assert logs[-1]["ended"] == "aborted"
    assert logs[-1]["reason"]


def test_data_before_an_association_is_not_listened_to(open_door: OpenDoor, knock: Knock) -> None:
    peer = knock(open_door().port, associates=False)

    peer.send(store())

    assert peer.read()[0] == ABORT
    assert peer.read()[0] == 0


def test_a_store_without_a_data_set_is_refused_and_the_association_goes_on(hostile: Hostile) -> None:
    hostile.send(pdu(4, item(command(data_set=0x0101), control=3)))
    assert hostile.status() == 0xC000

    hostile.send(store())
    assert hostile.status() == 0


def test_an_instance_beyond_the_limit_is_refused_and_leaves_nothing(
    open_door: OpenDoor, knock: Knock
) -> None:
    door = open_door(max_instance_bytes=1 << 20)
    peer = knock(door.port)

    peer.send(pdu(4, item(command(), control=3)))
    for _ in range(200):
        peer.send(pdu(4, item(bytes(10_000), control=0)))
    peer.send(pdu(4, item(b"", control=2)))

    assert peer.status() == 0xA700
    assert not list(door.storage.incoming.iterdir())
    peer.send(store())
    assert peer.status() == 0


# --- limits of time


def test_who_says_nothing_at_all_is_let_go(open_door: OpenDoor, knock: Knock) -> None:
    peer = knock(open_door(read_timeout_s=0.3).port, associates=False)

    assert peer.read()[0] == 0


def test_who_says_nothing_more_is_let_go(open_door: OpenDoor, knock: Knock) -> None:
    peer = knock(open_door(idle_timeout_s=0.3).port)

    assert peer.read()[0] == ABORT


@pytest.mark.parametrize("begun", [b"\4", b"\4\0\0\0\0\x50", pdu(4, item(command(), control=3))])
def test_who_stops_inside_a_message_is_let_go(open_door: OpenDoor, knock: Knock, begun: bytes) -> None:
    door = open_door(read_timeout_s=0.3)
    peer = knock(door.port)

    peer.send(begun)

    assert peer.read()[0] == ABORT
    assert not door.stored


def test_who_sends_a_byte_now_and_then_is_let_go(open_door: OpenDoor, knock: Knock) -> None:
    peer = knock(open_door(read_timeout_s=0.5, min_bytes_per_s=1000).port)
    encoded, started = store(), time.monotonic()

    with pytest.raises(OSError, match=r"reset|Broken pipe"):
        for index in range(len(encoded)):
            peer.send(encoded[index : index + 1])
            time.sleep(0.05)

    assert time.monotonic() - started < 5


def test_a_peer_that_does_not_read_its_answers_blocks_nobody_for_long(
    open_door: OpenDoor, knock: Knock
) -> None:
    door = open_door(read_timeout_s=0.5)
    peer = knock(door.port)
    peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    peer.socket.settimeout(1)

    with pytest.raises(OSError):
        for _ in range(200_000):
            peer.send(pdu(4, item(command(data_set=0x0101), control=3)) * 50)

    wait_until(lambda: door.listener.is_idle, "the end of the association")


# --- limits of number


@pytest.mark.parametrize(
    "limit",
    [
        {"max_associations_per_caller": 1},
        {"application_entities": (ApplicationEntity(SIGHTLINE, max_associations=1),)},
    ],
    ids=["caller", "called"],
)
def test_associations_are_counted_for_each_ae_title(open_door: OpenDoor, limit: dict[str, object]) -> None:
    door = open_door(**limit)

    with associated(door, [(CT, [EXPLICIT])]) as first, associated(door, [(CT, [EXPLICIT])]) as second:
        assert (first.is_established, second.is_rejected) == (True, True)
    wait_until(lambda: door.listener.is_idle, "the end of the associations")
    with associated(door, [(CT, [EXPLICIT])]) as third:
        assert third.is_established


def test_connections_that_say_nothing_leave_room_for_others(
    open_door: OpenDoor, knock: Knock, tmp_path: Path
) -> None:
    door = open_door(max_associations=2)
    silent = [knock(door.port, associates=False) for _ in range(20)]

    answer = store_raw(door, write_instance(tmp_path / "a.dcm", encode_dataset()))

    assert answer.Status == 0
    assert all(peer.socket.fileno() > 0 for peer in silent)


@pytest.mark.slow
def test_idle_and_slow_associations_leave_the_others_their_rate(open_door: OpenDoor, knock: Knock) -> None:
    door = open_door(max_associations=120, idle_timeout_s=60, read_timeout_s=30)
    send_together(door, knock, "0")  # what is made once is made
    ratios = []
    for turn in range(3):
        alone = send_together(door, knock, f"1.{turn}")
        with crowded(door, knock):
            ratios.append(send_together(door, knock, f"2.{turn}") / alone)

    assert len(door.stored) == 7 * ACTIVE * STORES
    assert median(ratios) >= 0.8, ratios


IDLE, ACTIVE, STORES = 50, 19, 100
"""Associations that say nothing, those that send as fast as they can, and how much each of them sends."""


@contextmanager
def crowded(door: Door, knock: Knock) -> Iterator[None]:
    """With those that say nothing, and one that sends a byte a second; all are there to the end."""
    crowd, slow, stopping = [knock(door.port) for _ in range(IDLE)], knock(door.port), threading.Event()
    sent: list[int] = []
    trickling = threading.Thread(target=trickle, args=(slow, stopping, sent))
    trickling.start()
    try:
        yield
        assert len(sent) > 1, "the round was too short for a slow one"
        for peer in (slow, *crowd):
            peer.socket.setblocking(False)
            with pytest.raises(BlockingIOError):  # no abort, no end
                peer.socket.recv(1)
    finally:
        stopping.set()
        trickling.join()
        for peer in (slow, *crowd):
            peer.socket.close()


def send_together(door: Door, knock: Knock, root: str) -> float:
    """How many instances a second those have that send as fast as they can."""
    peers = [knock(door.port) for _ in range(ACTIVE)]
    senders = [
        threading.Thread(target=send_some, args=(peer, f"{root}.{number}"))
        for number, peer in enumerate(peers)
    ]
    started = time.monotonic()
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    took_s = time.monotonic() - started
    for peer in peers:
        peer.socket.close()
    return ACTIVE * STORES / took_s


def send_some(peer: Hostile, root: str) -> None:
    for index in range(STORES):
        peer.send(store(f"1.{root}.{index}", pixels=bytes(10_000)))
        assert peer.status() == 0


def trickle(peer: Hostile, stopping: threading.Event, sent: list[int]) -> None:
    for byte in store("9.9", pixels=bytes(100)):
        peer.send(bytes([byte]))
        sent.append(byte)
        if stopping.wait(1):
            return


# --- the parser alone


def test_fragments_are_the_same_however_the_bytes_arrive() -> None:
    encoded = pdu(4, item(b"command", control=3) + item(b"first", control=0)) + pdu(
        4, item(b"last", control=2)
    )
    for step in range(1, len(encoded)):
        inbox, found = Inbox(1 << 16, 1000), []
        for start in range(0, len(encoded), step):
            piece = encoded[start : start + step]
            inbox.free[: len(piece)] = piece
            inbox.add(len(piece))
            found += [
                (each.is_command, each.is_last, bytes(each.data))
                for each in inbox.take()
                if isinstance(each, Fragment)
            ]
            inbox.reclaim()

        assert b"".join(data for is_command, _, data in found if is_command) == b"command"
        assert b"".join(data for is_command, _, data in found if not is_command) == b"firstlast"
        assert [(is_command, is_last) for is_command, is_last, _ in found if is_last] == [
            (True, True),
            (False, True),
        ]
        assert inbox.is_between_pdus


def test_a_pdu_is_measured_before_it_is_believed() -> None:
    inbox = Inbox(1 << 16, 1000)
    inbox.free[:6] = struct.pack(">BBL", 4, 0, 1001)
    inbox.add(6)

    with pytest.raises(PduError, match="1001 bytes"):
        list(inbox.take())


def test_an_answer_by_hand_is_one_that_pynetdicom_reads() -> None:
    from io import BytesIO

    from pynetdicom.dsutils import decode

    asked = read_store_request(5, read_elements(command("1.2.3")))

    answer: Dataset = decode(BytesIO(encode_store_answer(asked, 0xA700, "the disk is full")), True, True)

    assert (answer.CommandField, answer.Status, answer.MessageIDBeingRespondedTo) == (0x8001, 0xA700, 7)
    assert (answer.AffectedSOPClassUID, answer.AffectedSOPInstanceUID) == (CT, "1.2.3")
    assert answer.ErrorComment == "the disk is full"
    assert answer.CommandGroupLength == len(encode_store_answer(asked, 0xA700, "the disk is full")) - 12
