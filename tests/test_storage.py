"""The spool: what is in it is whole, and it can tell what it holds without an index."""

import errno
import io
import os
import stat
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom import dcmread
from xxhash import xxh3_128

from node.errors import DatasetError, OutOfResourcesError
from node.header import FileMeta, read_file_meta, read_identifiers
from node.storage import Storage, Stored, Watermark
from tests.instances import CT, DEFLATED, EXPLICIT, encode_dataset

ANY_DISK = Watermark(used_percent=100, free_bytes=0)
HOSTILE_UIDS = [
    "../../../etc/passwd",
    "/etc/passwd",
    "..",
    ".",
    "1..2",
    ".1",
    "1/2",
    "a" * 64,
    "1.2\\3",
    "~root",
]


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(tmp_path / "data", ANY_DISK)


def store(storage: Storage, dataset: bytes, *, called: str = "SIGHTLINE", syntax: str = EXPLICIT) -> Stored:
    meta = FileMeta(CT, "1.2.3.4.5", syntax, calling_ae_title="MODALITY", called_ae_title=called)
    with storage.new_instance(meta) as writer:
        for start in range(0, len(dataset), 7):
            writer.write(dataset[start : start + 7])
        return writer.commit()


def files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_data_set_is_kept_as_it_came_behind_a_file_meta_that_tells_its_way(storage: Storage) -> None:
    dataset = encode_dataset()

    stored = store(storage, dataset)

    path = stored.instance.path
    assert stored.is_new
    assert path.read_bytes().endswith(dataset)
    assert stored.instance.digest == xxh3_128(dataset).hexdigest()
    meta = dcmread(path).file_meta
    assert (meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID) == (CT, "1.2.3.4.5")
    assert meta.TransferSyntaxUID == EXPLICIT
    assert meta.SourceApplicationEntityTitle == meta.SendingApplicationEntityTitle == "MODALITY"
    assert meta.ReceivingApplicationEntityTitle == "SIGHTLINE"
    assert meta.ImplementationVersionName.startswith("SIGHTLINE")


def test_nobody_but_the_owner_can_read_what_is_stored(storage: Storage) -> None:
    store(storage, encode_dataset())
    storage.run_folder("run-1")

    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in [storage.root, *storage.root.rglob("*")]}

    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}


def test_same_bytes_again_are_not_stored_again(storage: Storage) -> None:
    first, second = store(storage, encode_dataset()), store(storage, encode_dataset())

    assert not second.is_new
    assert second.instance == first.instance
    assert files_below(storage.root) == [first.instance.path]


def test_other_bytes_of_one_instance_are_kept_beside_the_first(storage: Storage) -> None:
    first, second = store(storage, encode_dataset()), store(storage, encode_dataset(pixels=b"other"))

    assert second.is_new
    assert first.instance.sop_instance_uid == second.instance.sop_instance_uid
    assert first.instance.path.parent == second.instance.path.parent
    assert len(files_below(storage.root)) == 2


class Constant:
    """A digest that all bytes have in common."""

    def update(self, _data: object) -> None:
        pass

    def digest(self) -> bytes:
        return bytes(16)

    def hexdigest(self) -> str:
        return self.digest().hex()


def test_other_bytes_with_a_digest_that_was_forged_are_refused(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.storage.xxh3_128", Constant)
    first = store(storage, encode_dataset()).instance

    with pytest.raises(DatasetError, match="other bytes"):
        store(storage, encode_dataset(pixels=b"forged"))

    assert files_below(storage.root) == [first.path]
    assert not store(storage, encode_dataset()).is_new


@pytest.mark.parametrize("is_short", [True, False])
def test_a_file_with_damaged_pixels_is_replaced_when_it_comes_again(storage: Storage, is_short: bool) -> None:
    instance = store(storage, encode_dataset()).instance
    whole = instance.path.read_bytes()
    instance.path.write_bytes(whole[:-1] if is_short else whole[:-1] + bytes([whole[-1] ^ 1]))

    assert store(storage, encode_dataset()).is_new
    assert instance.path.read_bytes() == whole


@pytest.mark.parametrize("titles", [("A", "B"), ("A", "A_"), ("A", ""), ("A/B", "A B")])
def test_each_called_ae_title_has_its_own_copy(storage: Storage, titles: tuple[str, str]) -> None:
    stored = [store(storage, encode_dataset(), called=title) for title in titles]

    assert all(each.is_new for each in stored)
    assert [each.instance.called_ae_title for each in stored] == list(titles)
    assert {each.called_ae_title for each in storage.instances()} == set(titles)


def test_index_can_be_rebuilt_from_the_spool_alone(storage: Storage) -> None:
    expected = {
        store(storage, encode_dataset(f"1.2.3.4.{number}", study_instance_uid=f"1.{number}")).instance
        for number in range(5)
    }

    again = Storage(storage.root, ANY_DISK)

    assert set(again.instances()) == expected
    known = next(iter(expected))
    assert set(again.instances({known.path})) == expected - {known}


def test_a_damaged_file_in_the_spool_is_left_out_and_replaced_when_it_comes_again(storage: Storage) -> None:
    instance = store(storage, encode_dataset()).instance
    instance.path.write_bytes(b"nothing")

    assert list(storage.instances()) == []

    assert store(storage, encode_dataset()).is_new
    assert list(storage.instances()) == [instance]


def test_a_file_that_was_moved_is_not_taken_for_what_its_place_says(storage: Storage) -> None:
    path = store(storage, encode_dataset()).instance.path
    path.rename(path.with_name(path.name.replace("1.2.3.4.5", "1.2.3.4.6")))

    assert list(storage.instances()) == []


def test_file_is_synced_before_it_has_its_name_and_its_folder_after(tmp_path: Path) -> None:
    syncs: list[tuple[bool, int]] = []

    def spy(descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        syncs.append((is_folder, len(files_below(tmp_path / "data" / "instances"))))

    storage = Storage(tmp_path / "data", ANY_DISK, sync=spy)

    store(storage, encode_dataset())

    assert syncs[0] == (False, 0)
    assert syncs[-1] == (True, 1)
    # The study's and the series' folder are new, and names of their own.
    assert syncs[1:-1] == [(True, 0), (True, 0)]


def test_a_disk_that_is_full_at_the_first_byte_leaves_nothing_and_no_file_open(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_descriptor: int, _data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("node.storage.write_all", fail)
    before = len(list(Path("/proc/self/fd").iterdir()))

    for _ in range(3):
        with pytest.raises(OutOfResourcesError, match="No space"):
            storage.new_instance(FileMeta(CT, "1.2", EXPLICIT))

    assert files_below(storage.root) == []
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_an_instance_that_is_not_committed_leaves_nothing(storage: Storage) -> None:
    with storage.new_instance(FileMeta(CT, "1.2", EXPLICIT)) as writer:
        writer.write(encode_dataset()[:-2])

    assert files_below(storage.root) == []


def test_what_a_killed_process_left_is_swept(storage: Storage) -> None:
    kept = store(storage, encode_dataset()).instance.path
    (storage.incoming / "0123.part").write_bytes(b"half")

    assert storage.sweep() == 1

    assert files_below(storage.root) == [kept]


@pytest.mark.parametrize("uid", HOSTILE_UIDS)
def test_a_uid_that_is_a_path_stays_in_the_spool(storage: Storage, uid: str) -> None:
    dataset = encode_dataset(uid, study_instance_uid=uid, series_instance_uid=uid)

    instance = store(storage, dataset, called="..").instance

    assert instance.path.is_relative_to(storage.instances_folder)
    assert len(instance.path.relative_to(storage.instances_folder).parts) == 3
    assert instance.path.resolve() == instance.path
    assert (instance.sop_instance_uid, instance.study_instance_uid) == (uid, uid)
    assert list(storage.instances()) == [instance]


def test_a_run_that_is_a_path_stays_in_its_folder(storage: Storage) -> None:
    assert storage.run_folder("../../x").parent == storage.runs_folder
    assert storage.run_folder("run-1").name == "run-1"


@pytest.mark.parametrize(
    "watermark", [Watermark(used_percent=0, free_bytes=0), Watermark(used_percent=100, free_bytes=1 << 60)]
)
def test_a_disk_at_its_watermark_takes_nothing(tmp_path: Path, watermark: Watermark) -> None:
    storage = Storage(tmp_path / "data", watermark)

    assert not storage.has_room()
    with pytest.raises(OutOfResourcesError, match="watermark"):
        storage.new_instance(FileMeta(CT, "1.2", EXPLICIT))


def test_a_disk_that_fills_up_while_syncing_leaves_nothing(tmp_path: Path) -> None:
    def fail(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    storage = Storage(tmp_path / "data", ANY_DISK, sync=fail)

    with pytest.raises(OutOfResourcesError, match="No space left"):
        store(storage, encode_dataset())

    assert files_below(storage.root) == []


@pytest.mark.parametrize(
    ("dataset", "reason"),
    [
        (encode_dataset(None), "SOP Instance UID is missing"),
        (encode_dataset("  "), "SOP Instance UID is blank"),
        (encode_dataset(sop_class_uid=None), "SOP Class UID is missing"),
        (encode_dataset(study_instance_uid=None), "Study Instance UID is missing"),
        (encode_dataset(study_instance_uid=""), "Study Instance UID is blank"),
        (encode_dataset(series_instance_uid=None), "Series Instance UID is missing"),
        (encode_dataset(series_instance_uid="1" * 65), "Series Instance UID is no UID"),
        (encode_dataset(study_instance_uid="1.2\n3"), "Study Instance UID is no UID"),
        (encode_dataset(study_instance_uid="1" * 5000), "an identifier of 5000 bytes"),
        (b"", "SOP Class UID is missing"),
        (b"\xff" * 5000, "nested deeper"),
        (b"0123456789abcdef" * 99, "SOP Class UID is missing"),
        (encode_dataset()[:40], "SOP Instance UID is missing"),
    ],
)
def test_a_data_set_that_does_not_say_what_it_is_is_refused(
    storage: Storage, dataset: bytes, reason: str
) -> None:
    with pytest.raises(DatasetError, match=reason):
        store(storage, dataset)

    assert files_below(storage.root) == []


def deflate(data: bytes) -> bytes:
    engine = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return engine.compress(data) + engine.flush()


def test_a_deflated_data_set_is_read_and_kept_deflated(storage: Storage) -> None:
    dataset = deflate(encode_dataset(pixels=bytes(100_000)))

    instance = store(storage, dataset, syntax=DEFLATED).instance

    assert instance.series_instance_uid == "1.2.3.4"
    assert instance.path.read_bytes().endswith(dataset)


ITEM, UNDEFINED = struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF), struct.pack("<L", 0xFFFFFFFF)
SEQUENCE = struct.pack("<HH", 0x0008, 0x1110) + b"SQ\0\0" + UNDEFINED


@pytest.mark.parametrize(
    ("make", "syntax", "reason"),
    [
        (lambda: (SEQUENCE + ITEM) * 10_000, EXPLICIT, "nested deeper"),
        (
            lambda: struct.pack("<HH2sH", 0x0008, 0x0001, b"CS", 0) * 200_000,
            EXPLICIT,
            "no identifiers within",
        ),
        (lambda: deflate(bytes(64 << 20)), DEFLATED, "no identifiers within|is missing"),
        (lambda: b"\xff" * 100, DEFLATED, "cannot be inflated"),
    ],
    ids=["deep", "endless", "bomb", "not deflated"],
)
def test_a_hostile_header_costs_its_sender_an_error_and_the_node_little(
    make: Callable[[], bytes], syntax: str, reason: str
) -> None:
    with pytest.raises(DatasetError, match=reason):
        read_identifiers(io.BytesIO(make()), syntax, "hostile")


def test_sequences_before_the_identifiers_are_skipped_whatever_their_length_is() -> None:
    inner = struct.pack("<HH2sH", 0x0008, 0x1155, b"UI", 4) + b"9.9\0"
    item_end, sequence_end = (struct.pack("<HHL", 0xFFFE, number, 0) for number in (0xE00D, 0xE0DD))
    nested = (
        SEQUENCE + ITEM + SEQUENCE + ITEM + inner + item_end + sequence_end + inner + item_end + sequence_end
    )
    unknown = struct.pack("<HH", 0x0009, 0x1001) + b"UN\0\0" + UNDEFINED + ITEM
    unknown += struct.pack("<HHL", 0x0008, 0x1155, 4) + b"9.9\0" + item_end + sequence_end

    found = read_identifiers(io.BytesIO(nested + unknown + encode_dataset()), EXPLICIT, "x")

    assert (found.sop_instance_uid, found.series_instance_uid) == ("1.2.3.4.5", "1.2.3.4")


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_identifiers_are_those_that_pydicom_reads(zoo: list[Path]) -> None:
    agreed = 0
    for path in zoo:
        with path.open("rb") as file:
            try:
                meta = read_file_meta(file)
                found = read_identifiers(file, meta.transfer_syntax_uid, path.name)
            except DatasetError:
                continue
        try:
            dataset = dcmread(path, force=True, stop_before_pixels=True)
        except OSError:  # pydicom stumbles over odd_ct1_implicit-big-endian-undefined-length.dcm
            continue
        agreed += 1
        assert found.sop_class_uid == dataset.SOPClassUID, path.name
        assert found.sop_instance_uid == dataset.SOPInstanceUID, path.name
        assert found.study_instance_uid == dataset.StudyInstanceUID, path.name
        assert found.series_instance_uid == dataset.SeriesInstanceUID, path.name
        assert found.modality == (dataset.get("Modality") or ""), path.name
    assert agreed > 130
