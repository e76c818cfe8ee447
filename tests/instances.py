"""DICOM instances made byte by byte, so that they can be wrong in ways no library would write."""

import struct
from pathlib import Path

from node.header import FileMeta, encode_file_meta

CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
EXPLICIT = "1.2.840.10008.1.2.1"
IMPLICIT = "1.2.840.10008.1.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
PATIENT = "Nobody^Must^Read^This"


def element(tag: int, vr: str, value: bytes | str) -> bytes:
    """One element in Explicit VR Little Endian, of a VR with a short length or OW."""
    data = value.encode() if isinstance(value, str) else value
    data += (b"\0" if vr in ("UI", "OW") else b" ") * (len(data) % 2)
    size = struct.pack("<HL", 0, len(data)) if vr == "OW" else struct.pack("<H", len(data))
    return struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr.encode() + size + data


def encode_dataset(
    sop_instance_uid: str | None = "1.2.3.4.5",
    *,
    sop_class_uid: str | None = CT,
    study_instance_uid: str | None = "1.2.3",
    series_instance_uid: str | None = "1.2.3.4",
    pixels: bytes = b"\1\2\3\4",
) -> bytes:
    """A data set in Explicit VR Little Endian; None leaves an attribute out."""
    values = (
        (0x00080016, "UI", sop_class_uid),
        (0x00080018, "UI", sop_instance_uid),
        (0x00080060, "CS", "CT"),
        (0x00100010, "PN", PATIENT),
        (0x0020000D, "UI", study_instance_uid),
        (0x0020000E, "UI", series_instance_uid),
        (0x7FE00010, "OW", pixels),
    )
    return b"".join(element(tag, vr, value) for tag, vr, value in values if value is not None)


def write_instance(
    path: Path,
    dataset: bytes,
    *,
    sop_instance_uid: str = "1.2.3.4.5",
    sop_class_uid: str = CT,
    transfer_syntax_uid: str = EXPLICIT,
) -> Path:
    """A file of this data set, whose file meta may say something else."""
    meta = FileMeta(sop_class_uid, sop_instance_uid, transfer_syntax_uid)
    path.write_bytes(encode_file_meta(meta) + dataset)
    return path
