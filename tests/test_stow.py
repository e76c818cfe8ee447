"""What comes in over STOW-RS: kept as it came, answered one by one, and nothing half-written."""

import socket
from pathlib import Path
from xml.etree import ElementTree

import pytest
from pydicom import Dataset
from structlog.testing import capture_logs
from xxhash import xxh3_128

from node.header import FileMeta, encode_file_meta
from node.receive.multipart import MAX_HEAD_BYTES
from node.storage import Storage, Watermark
from tests.doors import ANY_DISK, dataset_digest
from tests.instances import CT, EXPLICIT, PATIENT
from tests.peers import LOOPBACK
from tests.web_doors import BOUNDARY, OpenWebDoor, file, multipart, post, read_answer, request_head

PRIVATE_CLASS = "1.2.276.0.7230010.3.1.0.1"


# --- stored


def test_instances_of_a_request_are_kept_byte_for_byte_and_announced(open_door: OpenWebDoor) -> None:
    door = open_door()
    files = [file(f"1.2.3.4.{number}", pixels=bytes([number]) * 300_000) for number in range(3)]

    answer = post(door, multipart(files))

    assert (answer.status, answer.headers["content-type"]) == (200, "application/dicom+json")
    assert answer.stored_uids() == ["1.2.3.4.0", "1.2.3.4.1", "1.2.3.4.2"]
    for each, content in zip(door.stored, files, strict=True):
        dataset = content[len(encode_file_meta(FileMeta(CT, "1.2.3.4.0", EXPLICIT))) :]
        assert dataset_digest(each.instance.path) == xxh3_128(dataset).hexdigest()
        assert each.instance.called_ae_title == "SIGHTLINE"
    assert door.released == [(frozenset({"1.2.3"}), "released")]
    assert door.leftovers() == []


def test_real_files_of_every_transfer_syntax_are_kept_byte_for_byte(
    open_door: OpenWebDoor, zoo: list[Path]
) -> None:
    door = open_door()
    paths = [path for path in zoo if path.name.startswith(("ts_", "sc_HTJ2K"))]

    answer = post(door, multipart([path.read_bytes() for path in paths]))

    kept = {each.instance.digest for each in door.stored}
    assert len({each.instance.transfer_syntax_uid for each in door.stored}) >= 10
    assert kept <= {dataset_digest(path) for path in paths}
    assert len(answer.stored_uids()) + len(answer.failure_reasons()) == len(paths)


@pytest.mark.parametrize("size", [1, 7, 100, 1000])
def test_a_boundary_may_be_split_over_reads(open_door: OpenWebDoor, size: int) -> None:
    door = open_door()
    near_boundary = f"\r\n--{BOUNDARY[:-1]}".encode() * 3 + b"\r\n-"
    body = multipart([file(pixels=near_boundary), file("1.2.3.4.6")])

    with socket.create_connection((LOOPBACK, door.port), timeout=10) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(request_head(len(body)))
        for start in range(0, len(body), size):
            connection.sendall(body[start : start + size])
        answer = read_answer(connection)

    assert answer.status == 200
    assert near_boundary in door.stored[0].instance.path.read_bytes()


def test_a_body_in_chunks_of_unknown_length_is_taken(open_door: OpenWebDoor) -> None:
    door = open_door()
    body = multipart([file(pixels=b"\7" * 5000)])
    head = request_head(0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")

    with socket.create_connection((LOOPBACK, door.port), timeout=10) as connection:
        connection.sendall(head)
        for start in range(0, len(body), 999):
            piece = body[start : start + 999]
            connection.sendall(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        connection.sendall(b"0\r\n\r\n")
        answer = read_answer(connection)

    assert answer.stored_uids() == ["1.2.3.4.5"]


def test_the_same_bytes_again_are_accepted_and_are_not_new(open_door: OpenWebDoor) -> None:
    door = open_door()
    post(door, multipart([file()]))

    assert post(door, multipart([file()])).status == 200

    assert [each.is_new for each in door.stored] == [True, False]


def test_xml_is_answered_to_who_asks_for_it(open_door: OpenWebDoor) -> None:
    door = open_door()

    answer = post(door, multipart([file(), b"no file"]), Accept="text/html, application/dicom+xml;q=0.9")

    assert (answer.status, answer.headers["content-type"]) == (202, "application/dicom+xml")
    namespace = {"n": "http://dicom.nema.org/PS3.19/models/NativeDICOM"}
    root = ElementTree.fromstring(answer.body)  # noqa: S314    # our own
    (uid,) = root.findall(".//n:DicomAttribute[@keyword='ReferencedSOPInstanceUID']/n:Value", namespace)
    (reason,) = root.findall(".//n:DicomAttribute[@keyword='FailureReason']/n:Value", namespace)
    assert (uid.text, reason.text) == ("1.2.3.4.5", str(0xC000))


def test_json_answer_is_a_data_set_pydicom_reads(open_door: OpenWebDoor) -> None:
    answer = post(open_door(), multipart([file(), file("1.2.3.4.6", meta_uid="1.2.3.4.7")]))

    dataset = Dataset.from_json(answer.json())
    assert dataset.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == "1.2.3.4.5"
    assert dataset.FailedSOPSequence[0].ReferencedSOPInstanceUID == "1.2.3.4.7"
    assert dataset.FailedSOPSequence[0].FailureReason == 0xA900


# --- refused, one by one


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (file(meta_uid="1.2.3.4.99"), 0xA900),
        (file(study_instance_uid="1.2.9"), 0xA901),
        (file(study_instance_uid=None), 0xC000),
        (file(syntax="1.2.3.99"), 0xC122),
        (file(sop_class_uid=PRIVATE_CLASS), 0x0122),
        (file()[132:], 0xC000),
        (file()[:200], 0xC000),
        (b"", 0xC000),
    ],
)
def test_an_instance_that_cannot_be_stored_says_why_and_the_next_is_stored(
    open_door: OpenWebDoor, content: bytes, reason: int
) -> None:
    door = open_door()

    answer = post(door, multipart([content, file("1.2.3.4.6")]), "/dicom-web/studies/1.2.3")

    assert (answer.status, answer.failure_reasons()) == (202, [reason])
    assert answer.stored_uids() == ["1.2.3.4.6"]
    assert door.refused == [("SIGHTLINE", reason)]
    assert PATIENT.encode() not in answer.body
    assert door.leftovers() == []


def test_nothing_stored_is_a_conflict(open_door: OpenWebDoor) -> None:
    answer = post(open_door(), multipart([file()]), "/dicom-web/studies/1.2.4")

    assert (answer.status, answer.failure_reasons()) == (409, [0xA901])


def test_a_part_of_another_type_is_refused(open_door: OpenWebDoor) -> None:
    answer = post(open_door(), multipart([file()], part_type="application/octet-stream"))

    assert (answer.status, answer.failure_reasons()) == (409, [0xC000])


def test_private_classes_are_stored_where_that_is_allowed(open_door: OpenWebDoor) -> None:
    door = open_door(accept_private_classes=True)

    assert post(door, multipart([file(sop_class_uid=PRIVATE_CLASS)])).status == 200


# --- refused as a whole


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content_Type": "application/dicom"}, 415),
        ({"Content_Type": f'multipart/related; type="application/dicom+json"; boundary={BOUNDARY}'}, 415),
        ({"Content_Encoding": "gzip"}, 415),
        ({"Content_Type": 'multipart/related; type="application/dicom"'}, 400),
        ({"Content_Type": 'multipart/related; type="application/dicom"; boundary=another'}, 400),
        ({"Accept": "text/html"}, 406),
        ({"Accept": "application/dicom+json;q=0"}, 406),
    ],
)
def test_a_request_of_a_wrong_kind_is_refused(
    open_door: OpenWebDoor, headers: dict[str, str], status: int
) -> None:
    door = open_door()

    assert post(door, multipart([file(pixels=b"\1" * 20_000)]), **headers).status == status
    assert door.stored == []


def test_a_missing_final_boundary_is_malformed_and_what_was_whole_stays(open_door: OpenWebDoor) -> None:
    door = open_door()

    answer = post(door, multipart([file(), file("1.2.3.4.6")], end=""))

    assert answer.status == 400
    assert [each.instance.sop_instance_uid for each in door.stored] == ["1.2.3.4.5", "1.2.3.4.6"]
    assert door.released == [(frozenset({"1.2.3"}), "aborted")]


def test_a_body_without_any_part_is_malformed(open_door: OpenWebDoor) -> None:
    assert post(open_door(), f"--{BOUNDARY}--\r\n".encode()).status == 400


@pytest.mark.parametrize(
    "body",
    [
        multipart([file()], part_type="application/dicom; x=" + "y" * MAX_HEAD_BYTES),
        f"--{BOUNDARY}\r\n".encode() + b"X: y\r\n" * 200_000,
        multipart([b""] * 11),
        multipart([file(pixels=bytes(3 << 20))]),
    ],
    ids=["long header", "endless headers", "many parts", "large instance"],
)
def test_what_is_beyond_the_limits_is_too_large_and_leaves_nothing(
    open_door: OpenWebDoor, body: bytes
) -> None:
    door = open_door(max_parts=10, max_instance_bytes=1 << 20)

    assert post(door, body).status == 413
    assert door.stored == []
    assert door.leftovers() == []


def test_a_full_disk_asks_to_come_again(open_door: OpenWebDoor, tmp_path: Path) -> None:
    door = open_door(Storage(tmp_path / "full", Watermark(used_percent=0, free_bytes=1 << 60)))

    answer = post(door, multipart([file()]))

    assert (answer.status, answer.headers["retry-after"]) == (503, "60")


def test_a_disk_that_fills_up_in_between_asks_to_come_again(open_door: OpenWebDoor, tmp_path: Path) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    door = open_door(Storage(tmp_path / "filling", ANY_DISK, sync=full))

    answer = post(door, multipart([file()]))

    assert (answer.status, answer.headers["retry-after"]) == (503, "60")
    assert answer.failure_reasons() == [0xA700]
    assert door.leftovers() == []


def test_a_host_that_is_not_listed_is_refused(open_door: OpenWebDoor) -> None:
    door = open_door(allowed_hosts=("10.1.0.0/16",))

    assert post(door, multipart([file()])).status == 403
    assert door.stored == []


@pytest.mark.parametrize(("forwarded", "status"), [(PATIENT, 403), ("10.1.2.3", 403), (LOOPBACK, 200)])
def test_a_proxy_on_this_machine_says_for_whom_it_sends_and_only_an_address_counts(
    open_door: OpenWebDoor, forwarded: str, status: int
) -> None:
    door = open_door()

    with capture_logs() as logs:
        assert post(door, multipart([file()]), X_Forwarded_For=forwarded).status == status

    assert PATIENT not in str(logs)


def test_a_token_is_asked_for_where_there_is_one(open_door: OpenWebDoor) -> None:
    door = open_door(**{"token": "correct horse"})

    without = post(door, multipart([file()]))
    wrong = post(door, multipart([file()]), Authorization="Bearer wrong")
    right = post(door, multipart([file()]), Authorization="Bearer correct horse")

    assert [without.status, wrong.status, right.status] == [401, 401, 200]
    assert without.headers["www-authenticate"] == "Bearer"
