"""What comes in over DICOM: kept as it came, safe before it is acknowledged, or refused with a reason."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.uid import JPEGLosslessSV1, RLELossless
from structlog.testing import capture_logs

from node.deliver.dimse import send_files
from node.receive.negotiation import STORAGE_CLASSES, TRANSFER_SYNTAXES
from node.storage import Storage, Watermark
from tests.doors import ANY_DISK, SIGHTLINE, OpenDoor, associated, dataset_digest, opening, store_raw
from tests.instances import CT, EXPLICIT, IMPLICIT, MR, PATIENT, encode_dataset, write_instance
from tests.peers import dcmtk

RETIRED_CLASS = "1.2.840.10008.5.1.4.1.1.6"
PRIVATE_CLASS = "1.2.276.0.7230010.3.1.0.1"


@pytest.fixture
def open_door(tmp_path: Path) -> Iterator[OpenDoor]:
    with opening(tmp_path) as open_one:
        yield open_one


# --- kept as it came


def test_real_files_of_every_transfer_syntax_are_kept_byte_for_byte(
    open_door: OpenDoor, zoo: list[Path]
) -> None:
    door = open_door()
    files = [path for path in zoo if path.name.startswith(("ts_", "mf_", "sc_HTJ2K", "sm_"))]

    summary = send_files(files, door.peer())

    accepted = [file.path for file in summary.files if file.is_accepted]
    assert len({each.instance.transfer_syntax_uid for each in door.stored}) >= 12
    assert [dataset_digest(path) for path in accepted] == [each.instance.digest for each in door.stored]
    assert [dataset_digest(each.instance.path) for each in door.stored] == [
        each.instance.digest for each in door.stored
    ]


@pytest.mark.parametrize("sop_class", [RETIRED_CLASS, *sorted(STORAGE_CLASSES)[::40]])
def test_every_storage_class_is_taken_retired_ones_too(
    open_door: OpenDoor, tmp_path: Path, sop_class: str
) -> None:
    door = open_door()
    path = write_instance(
        tmp_path / "a.dcm", encode_dataset(sop_class_uid=sop_class), sop_class_uid=sop_class
    )

    assert store_raw(door, path, sop_class).Status == 0x0000

    assert door.stored[0].instance.sop_class_uid == sop_class


def test_every_transfer_syntax_is_accepted(open_door: OpenDoor) -> None:
    door = open_door()

    with associated(door, [(CT, [syntax]) for syntax in sorted(TRANSFER_SYNTAXES)]) as association:
        accepted = {context.transfer_syntax[0] for context in association.accepted_contexts}

    assert len(accepted) > 60
    assert accepted == TRANSFER_SYNTAXES


def test_the_transfer_syntax_that_the_sender_names_first_is_accepted(open_door: OpenDoor) -> None:
    door = open_door()
    offers = [[RLELossless, EXPLICIT, IMPLICIT], [IMPLICIT, JPEGLosslessSV1]]

    with associated(door, [(CT, offers[0]), (MR, offers[1])]) as association:
        accepted = [context.transfer_syntax[0] for context in association.accepted_contexts]

    assert accepted == [RLELossless, IMPLICIT]


@pytest.mark.parametrize(("accepts", "count"), [(False, 0), (True, 1)])
def test_private_classes_are_taken_where_the_settings_say_so(
    open_door: OpenDoor, tmp_path: Path, accepts: bool, count: int
) -> None:
    door = open_door(accept_private_classes=accepts)
    path = write_instance(
        tmp_path / "a.dcm", encode_dataset(sop_class_uid=PRIVATE_CLASS), sop_class_uid=PRIVATE_CLASS
    )

    send_files([path], door.peer())

    assert len(door.stored) == count


def test_what_dcmtk_sends_arrives(open_door: OpenDoor, tmp_path: Path) -> None:
    door = open_door()
    files = [
        write_instance(
            tmp_path / f"{number}.dcm", encode_dataset(f"1.2.{number}"), sop_instance_uid=f"1.2.{number}"
        )
        for number in range(10)
    ]

    assert dcmtk.echo(door.port, called=SIGHTLINE)
    sending = dcmtk.send(files, door.port, called=SIGHTLINE)

    assert sending.exit_status == 0, sending.output
    assert [each.instance.sop_instance_uid for each in door.stored] == [
        f"1.2.{number}" for number in range(10)
    ]
    assert door.stored[0].instance.calling_ae_title == dcmtk.CALLING
    assert door.ended() == "released"


# --- safe before it is acknowledged


def test_nothing_is_acknowledged_before_it_is_synced_and_known(open_door: OpenDoor, tmp_path: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow_disk(_descriptor: int) -> None:
        begun.set()
        assert go_on.wait(10)

    door = open_door(Storage(tmp_path / "data", ANY_DISK, sync=slow_disk))
    path = write_instance(tmp_path / "a.dcm", encode_dataset())
    answers: list[Dataset] = []
    sender = threading.Thread(target=lambda: answers.append(store_raw(door, path)))
    sender.start()

    assert begun.wait(10)
    sender.join(0.3)
    known, answered = len(door.stored), len(answers)
    go_on.set()
    sender.join(10)

    assert (known, answered) == (0, 0)
    assert answers[0].Status == 0x0000
    assert door.stored[0].is_new


def test_the_same_instance_again_is_acknowledged_and_is_not_new(open_door: OpenDoor, tmp_path: Path) -> None:
    door = open_door()
    path = write_instance(tmp_path / "a.dcm", encode_dataset())

    answers = [store_raw(door, path).Status for _ in range(2)]

    assert answers == [0x0000, 0x0000]
    assert [each.is_new for each in door.stored] == [True, False]
    assert len(list(door.storage.instances())) == 1


def test_an_instance_sent_again_with_other_bytes_is_a_revision(open_door: OpenDoor, tmp_path: Path) -> None:
    door = open_door()

    for number, pixels in enumerate((b"one", b"two")):
        store_raw(door, write_instance(tmp_path / f"{number}.dcm", encode_dataset(pixels=pixels)))

    assert [each.is_new for each in door.stored] == [True, True]
    assert len({each.instance.path for each in door.stored}) == 2


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_the_index_is_rebuilt_from_what_came_in(open_door: OpenDoor, zoo: list[Path]) -> None:
    door = open_door()

    send_files([path for path in zoo if path.name.startswith(("ct_", "sr_", "sm_", "cr_"))], door.peer())

    assert len(door.stored) > 15
    assert set(Storage(door.storage.root, ANY_DISK).instances()) == {each.instance for each in door.stored}


# --- refused with a reason


def refusal(answer: Dataset) -> tuple[int, str]:
    assert len(answer.ErrorComment) <= 64
    assert PATIENT not in answer.ErrorComment
    return answer.Status, answer.ErrorComment


@pytest.mark.parametrize(
    ("dataset", "status", "comment"),
    [
        (encode_dataset("1.2.3.4.6"), 0xA900, "SOP Instance UID of data set and command differ"),
        (encode_dataset(sop_class_uid=MR), 0xA900, "SOP Class UID of data set and command differ"),
        (encode_dataset(study_instance_uid=""), 0xC000, "Study Instance UID is blank"),
        (encode_dataset(series_instance_uid=None), 0xC000, "Series Instance UID is missing"),
        (b"this is no data set, not at all", 0xC000, "SOP Class UID is missing"),
    ],
)
def test_what_cannot_be_understood_is_refused_in_words(
    open_door: OpenDoor, tmp_path: Path, dataset: bytes, status: int, comment: str
) -> None:
    door = open_door()

    answer = store_raw(door, write_instance(tmp_path / "a.dcm", dataset))

    assert refusal(answer) == (status, comment)
    assert door.refused == [("SIGHTLINE", status)]
    assert not door.stored
    assert not [path for path in door.storage.root.rglob("*") if path.is_file()]


def test_a_full_disk_is_answered_out_of_resources(open_door: OpenDoor, tmp_path: Path) -> None:
    door = open_door(Storage(tmp_path / "data", Watermark(used_percent=0, free_bytes=0)))

    answer = store_raw(door, write_instance(tmp_path / "a.dcm", encode_dataset(pixels=bytes(1 << 20))))

    assert refusal(answer) == (0xA700, "the disk is full to its watermark")
    assert not list(door.storage.incoming.iterdir())


def test_an_instance_that_the_node_cannot_note_is_not_acknowledged(
    open_door: OpenDoor, tmp_path: Path
) -> None:
    door = open_door()
    path = write_instance(tmp_path / "a.dcm", encode_dataset())
    door.refuses_to_note = True

    with capture_logs() as logs:
        failed = store_raw(door, path)
    door.refuses_to_note = False
    again = store_raw(door, path)

    assert refusal(failed)[0] == 0x0110
    (entry,) = (entry for entry in logs if entry["event"] == "instance_failed")
    assert isinstance(entry["exc_info"], KeyError)
    assert again.Status == 0x0000
    assert len(door.stored) == 1


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
@pytest.mark.parametrize("uid", ["../../../../tmp/x", "/etc/passwd", ".."])
def test_a_uid_that_is_a_path_stays_in_the_spool(open_door: OpenDoor, tmp_path: Path, uid: str) -> None:
    door = open_door()
    dataset = encode_dataset(uid, study_instance_uid=uid, series_instance_uid=uid)

    store_raw(door, write_instance(tmp_path / "a.dcm", dataset, sop_instance_uid=uid))

    (stored,) = door.stored
    assert stored.instance.sop_instance_uid == uid
    assert stored.instance.path.resolve().is_relative_to(door.storage.instances_folder)
