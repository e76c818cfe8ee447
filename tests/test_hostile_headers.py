"""Headers made to do harm: each costs one instance a reason, and the node little memory and time."""

import resource
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom.datadict import DicomDictionary
from pydicom.encaps import encapsulate
from pydicom.uid import RLELossless, VLWholeSlideMicroscopyImageStorage

from node.conformance import read_headers
from node.domain.study import Instance
from node.errors import DatasetError, PermanentError
from node.header import FileMeta, encode_file_meta, read_identifiers
from node.read import dataset, header_size
from node.read.header import read_attributes
from node.read.header_size import check_elements, check_header_size
from node.read.picture import read_picture
from node.read.projection import read_projection
from node.read.scan import scan
from node.read.slide import open_slide
from node.read.volume import read_volume
from node.storage import Storage
from tests.doors import ANY_DISK
from tests.instances import CT, DEFLATED, EXPLICIT, IMPLICIT, element, encode_dataset
from tests.slides import made_of

MIB = 1 << 20
UIDS = encode_dataset(pixels=b"")[:-12]
PIXELS = element(0x7FE00010, "OW", bytes(MIB))
SLIDE = VLWholeSlideMicroscopyImageStorage
UNDEFINED = b"\xff\xff\xff\xff"
ITEM, ITEM_END = b"\xfe\xff\x00\xe0" + UNDEFINED, b"\xfe\xff\x0d\xe0\0\0\0\0"
SEQUENCE_END = b"\xfe\xff\xdd\xe0\0\0\0\0"
CODE_SEQUENCE = 0x00081032


@contextmanager
def scaled_down(factor: int) -> Iterator[None]:
    """With limits that many times lower: full size takes a machine seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(header_size, "MAX_ELEMENTS", header_size.MAX_ELEMENTS // factor)
        for module in (header_size, dataset):
            patch.setattr(module, "SMALL_BYTES", header_size.SMALL_BYTES // factor)
        yield


@contextmanager
def limited(*, memory_bytes: int, seconds: float) -> Iterator[None]:
    """No more memory than so much beyond what is used, no more time of a processor than so many seconds."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    old = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + memory_bytes, old[1]))
    began = time.process_time()
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, old)
    assert time.process_time() - began < seconds


def instance(folder: Path, data: bytes, syntax: str = EXPLICIT) -> Instance:
    path = folder / "hostile.dcm"
    path.write_bytes(encode_file_meta(FileMeta(CT, "1.2.3.4.5", syntax)) + data)
    return Instance("1.2.3", "1.2.3.4", "1.2.3.4.5", CT, syntax, "CT", path, "")


def elements(count: int) -> bytes:
    """Empty elements, each with a tag of its own: pydicom would make an object of each."""
    table = np.zeros(count, [("group", "<u2"), ("number", "<u2"), ("vr", "S2"), ("length", "<u2")])
    numbers = np.arange(count)
    table["group"], table["number"], table["vr"] = 0x29 + 2 * (numbers >> 16), numbers & 0xFFFF, b"SH"
    return table.tobytes()


def implicit(tag: int, value: bytes, length: bytes | None = None) -> bytes:
    return struct.pack("<HH", tag >> 16, tag & 0xFFFF) + (length or struct.pack("<L", len(value))) + value


def sequence(tag: int, inside: bytes) -> bytes:
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, b"SQ", 0) + UNDEFINED + inside


def deflated(data: bytes) -> bytes:
    engine = zlib.compressobj(1, wbits=-zlib.MAX_WBITS)
    return engine.compress(data) + engine.flush()


def identifiers_in_implicit() -> bytes:
    texts = {0x00080016: CT, 0x00080018: "1.2.3.4.5", 0x0020000D: "1.2.3", 0x0020000E: "1.2.3.4"}
    return b"".join(implicit(tag, text.encode() + b"\0" * (len(text) % 2)) for tag, text in texts.items())


SCALE = 20
MANY = 2_100_000 // SCALE
DECIMALS = [tag for tag, row in DicomDictionary.items() if row[0] == "DS" and 0x00180000 < tag < 0x00280000]
BOMBS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "elements": (EXPLICIT, lambda: UIDS + elements(MANY) + PIXELS),
    "deflated elements": (DEFLATED, lambda: deflated(UIDS + elements(MANY) + PIXELS)),
    "elements in a sequence": (
        EXPLICIT,
        lambda: UIDS + sequence(CODE_SEQUENCE, ITEM + elements(MANY) + ITEM_END + SEQUENCE_END) + PIXELS,
    ),
    "elements in a sequence without an end": (
        EXPLICIT,
        lambda: UIDS + sequence(CODE_SEQUENCE, ITEM + elements(MANY)),
    ),
    "elements behind a false end": (
        EXPLICIT,
        lambda: UIDS + ITEM_END + SEQUENCE_END + elements(MANY) + PIXELS,
    ),
    "elements behind pixels that are inside": (
        EXPLICIT,
        lambda: UIDS + sequence(CODE_SEQUENCE, ITEM + element(0x7FE00010, "OW", b"") + elements(MANY)),
    ),
    "decimals": (
        IMPLICIT,
        lambda: identifiers_in_implicit() + implicit(0x00281050, b"1\\" * MIB),
    ),
    "many decimals": (
        IMPLICIT,
        lambda: (
            identifiers_in_implicit()
            + b"".join(implicit(0x00280030 + 2 * n, b"1\\" * 32_000) for n in range(150))
        ),
    ),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_header_that_would_fill_the_memory_is_refused_before_it_does(bomb: str, tmp_path: Path) -> None:
    syntax, make = BOMBS[bomb]
    hostile = instance(tmp_path, make(), syntax)

    refusal = pytest.raises(DatasetError, match="elements or values before its pixels")
    with scaled_down(SCALE), limited(memory_bytes=60 * MIB, seconds=4), refusal:
        read_attributes([hostile])


@pytest.mark.slow
def test_the_limit_holds_at_its_full_size(tmp_path: Path) -> None:
    hostile = instance(tmp_path, UIDS + elements(MANY * SCALE) + PIXELS)

    with limited(memory_bytes=100 * MIB, seconds=25), pytest.raises(DatasetError, match="more than 2000000"):
        read_attributes([hostile])


def test_a_few_kilobytes_do_not_unfold_into_gigabytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = instance(tmp_path, deflated(UIDS + element(0x7FE00010, "OW", b"") + bytes(100 * MIB)), DEFLATED)
    assert hostile.path.stat().st_size < MIB

    monkeypatch.setattr(dataset, "MAX_INFLATED_BYTES", 50 * MIB)

    with (
        limited(memory_bytes=120 * MIB, seconds=4),
        pytest.raises(DatasetError, match="inflates to more than"),
    ):
        read_attributes([hostile])


@pytest.mark.parametrize("lie", ["a long element before the transfer syntax", "a wrong group length"])
def test_a_bomb_is_found_wherever_the_file_meta_says_it_is(
    lie: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = deflated(UIDS + element(0x7FE00010, "OW", b"") + bytes(100 * MIB))
    hostile = instance(tmp_path, bomb, DEFLATED)
    data, meta = hostile.path.read_bytes(), b"\2\0\2\0UI"
    if lie == "a wrong group length":
        data = data[:140] + struct.pack("<L", 2 * MIB) + data[144:] + deflated(UIDS)
    else:
        private = struct.pack("<HH2sHL", 2, 1, b"OB", 0, 9000) + bytes(9000)
        data = data.replace(meta, private + meta, 1)
    hostile.path.write_bytes(data)
    monkeypatch.setattr(dataset, "MAX_INFLATED_BYTES", 50 * MIB)

    with limited(memory_bytes=120 * MIB, seconds=4), pytest.raises(DatasetError, match="inflates to more"):
        read_attributes([hostile])


READERS: dict[str, Callable[[Instance], object]] = {
    "attributes": lambda one: read_attributes([one]),
    "headers": lambda one: read_headers([one.path]),
    "radiograph": read_projection,
    "picture": read_picture,
    "volume": lambda one: read_volume(made_of(one)),
    "slide": lambda one: open_slide(made_of(replace(one, sop_class_uid=SLIDE))),
}


@pytest.mark.parametrize("reader", READERS)
def test_no_reader_unfolds_a_bomb(reader: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hostile = instance(tmp_path, deflated(UIDS + element(0x7FE00010, "OW", b"") + bytes(100 * MIB)), DEFLATED)
    monkeypatch.setattr(dataset, "MAX_INFLATED_BYTES", 50 * MIB)

    with limited(memory_bytes=120 * MIB, seconds=4), pytest.raises(DatasetError, match="inflates to more"):
        READERS[reader](hostile)


def test_a_depth_that_nobody_can_read_costs_nothing() -> None:
    deepest = UIDS + sequence(CODE_SEQUENCE, ITEM) * 600_000

    with limited(memory_bytes=20 * MIB, seconds=2), pytest.raises(DatasetError, match="within each other"):
        check_elements("1.2", deepest)


def test_a_large_real_header_passes() -> None:
    frame = element(0x00200032, "DS", "-123.456\\-123.456\\1.5") + element(
        0x00200037, "DS", "1\\0\\0\\0\\1\\0"
    )
    groups = sequence(0x52009230, (ITEM + frame * 6 + ITEM_END) * 10_000 + SEQUENCE_END)

    with scaled_down(10):
        check_elements("1.2", UIDS + groups + PIXELS)


def test_outlines_may_be_longer_than_other_values() -> None:
    check_elements("1.2", identifiers_in_implicit() + implicit(0x30060050, b"1\\" * MIB))


@pytest.mark.parametrize("order", ["<", ">"])
def test_pixels_are_not_counted(order: str, tmp_path: Path) -> None:
    rows = struct.pack(f"{order}HH2sHH", 0x0028, 0x0010, b"US", 2, 512)
    pixels = struct.pack(f"{order}HH2sHL", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF)
    (path := tmp_path / "a.dcm").write_bytes(rows + pixels + bytes(20 * MIB))

    check_header_size("1.2", path)


# --- one fault each, small


def deep(levels: int, *, is_ended: bool) -> bytes:
    begun = sequence(CODE_SEQUENCE, ITEM)
    return begun * levels + (ITEM_END + SEQUENCE_END) * (levels if is_ended else 0)


US = {"Rows": 0x00280010, "Columns": 0x00280011, "BitsAllocated": 0x00280100}
IMAGE = (
    element(0x00280002, "US", b"\1\0")
    + element(0x00280004, "CS", "MONOCHROME2")
    + element(0x00280010, "US", b"\2\0")
    + element(0x00280011, "US", b"\2\0")
    + element(0x00280100, "US", b"\x10\0")
    + element(0x00280101, "US", b"\x10\0")
    + element(0x00280102, "US", b"\x0f\0")
    + element(0x00280103, "US", b"\0\0")
)
PICTURE = element(0x7FE00010, "OW", b"\1\0\2\0\3\0\4\0")
LARGE = IMAGE.replace(b"\x28\0\x10\0US\2\0\2\0", b"\x28\0\x10\0US\2\0\xff\xff").replace(
    b"\x28\0\x11\0US\2\0\2\0", b"\x28\0\x11\0US\2\0\xff\xff"
)
FAULTS: dict[str, bytes] = {
    "sequences thousands deep": UIDS + deep(5000, is_ended=True) + IMAGE + PICTURE,
    "sequences thousands deep without an end": UIDS + deep(5000, is_ended=False),
    "a sequence that never ends": UIDS + sequence(CODE_SEQUENCE, b"") + IMAGE + PICTURE,
    "a length far beyond the file": UIDS + IMAGE + PICTURE[:8] + b"\xfe\xff\xff\xff" + bytes(8),
    "four billion pixels": UIDS + LARGE + PICTURE,
    "two billion frames": UIDS + element(0x00280008, "IS", "2147483647") + IMAGE + PICTURE,
    "a number of frames that is none": UIDS + element(0x00280008, "IS", "1e999") + IMAGE + PICTURE,
    "a number of a thousand digits": UIDS + element(0x00280008, "IS", "9" * 5000) + IMAGE + PICTURE,
    "a character set of nonsense": element(0x00080005, "CS", b"\\\xff\xfeISO 2022 IR 9999")
    + UIDS
    + IMAGE
    + PICTURE,
    "nothing": b"",
    "one byte": b"\x08",
    "zeros": bytes(4096),
    "ones": b"\xff" * 4096,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_hostile_file_is_a_permanent_fault_of_one_instance(fault: str, tmp_path: Path) -> None:
    hostile = instance(tmp_path, FAULTS[fault])
    reasons = []

    with limited(memory_bytes=300 * MIB, seconds=10):
        for read in (
            lambda: read_attributes([hostile]),
            lambda: read_projection(hostile),
            lambda: read_picture(hostile),
            lambda: read_volume(made_of(hostile)),
            lambda: open_slide(made_of(hostile)).close(),
        ):
            try:
                read()
            except PermanentError as error:
                reasons.append(str(error))

    assert reasons
    assert all(reason.isprintable() for reason in reasons)


def test_what_is_long_is_not_kept_for_the_next_slice(tmp_path: Path) -> None:
    with limited(memory_bytes=20 * MIB, seconds=4):
        for number in range(60):
            words = identifiers_in_implicit() + implicit(0x00080008, b"%06d" % number * 160_000)
            scan(instance(tmp_path, words + implicit(0x7FE00010, b"\1\2"), IMPLICIT).path)


def test_a_transfer_syntax_of_nonsense_is_not_warned_of(tmp_path: Path) -> None:
    # What Python warns of goes to the log in its own words, with what the file says.
    assert scan(instance(tmp_path, UIDS + IMAGE + PICTURE, "1.2.840.10008.1.2.4.50\2\0\x12").path) is None


def test_compressed_frames_that_are_not_there_cost_nothing(tmp_path: Path) -> None:
    frames = element(0x00280008, "IS", "1000000")
    pixels = b"\xe0\x7f\x10\0OB\0\0" + UNDEFINED + encapsulate([bytes(64)], has_bot=False) + SEQUENCE_END
    hostile = instance(tmp_path, UIDS + frames + IMAGE + pixels, RLELossless)

    with limited(memory_bytes=300 * MIB, seconds=10):
        for read in (lambda: read_picture(hostile, 999_999), lambda: read_volume(made_of(hostile))):
            with pytest.raises(PermanentError):
                read()


@pytest.mark.parametrize(
    "uid",
    [
        "../../../../etc/passwd",
        "/etc/passwd",
        "1.2.3/../4",
        "1.2\0.3",
        "1.2.3\n{}",
        "..",
        ".",
        "CON",
        "1" * 64,
        "ü",
        "-1",
    ],
)
def test_a_uid_never_leads_out_of_the_spool(uid: str, tmp_path: Path) -> None:
    storage = Storage(tmp_path / "data", ANY_DISK)
    data = encode_dataset(uid, study_instance_uid=uid, series_instance_uid=uid)

    try:
        with storage.new_instance(FileMeta(CT, uid, EXPLICIT)) as writer:
            writer.write(data)
            stored = writer.commit()
    except PermanentError as error:
        assert str(error).isprintable(), "what is logged of it is one line"
    else:
        assert stored.instance.path.resolve().is_relative_to((tmp_path / "data" / "instances").resolve())

    outside = [one for one in tmp_path.rglob("*") if one.is_file() and "instances" not in one.parts]
    assert outside == []


def test_what_names_an_instance_is_printable_or_refused() -> None:
    for odd in ("1.2\n3", "1.2\0003", "1.2\x1b[2J", "1.2\x7f"):
        data = encode_dataset(odd)
        with pytest.raises(DatasetError, match="no UID"):
            read_identifiers(BytesIO(data), EXPLICIT, "name")
