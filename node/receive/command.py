"""The command sets of C-STORE (PS3.7 9.3.1): read and answered by hand, which takes a tenth of the time."""

import struct
from dataclasses import dataclass

from pydicom.datadict import tag_for_keyword

from node.errors import DatasetError

MAX_COMMAND_BYTES = 1 << 16
C_STORE_RQ, C_STORE_RSP = 0x0001, 0x8001
NO_DATA_SET = 0x0101
MAX_TEXT_BYTES = 64
ELEMENT_HEADER = struct.Struct("<HHL")
GROUP_LENGTH_BYTES = 4


def _tag(keyword: str) -> int:
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(keyword)
    return tag


GROUP_LENGTH = _tag("CommandGroupLength")
AFFECTED_SOP_CLASS_UID = _tag("AffectedSOPClassUID")
COMMAND_FIELD = _tag("CommandField")
MESSAGE_ID = _tag("MessageID")
MESSAGE_ID_BEING_RESPONDED_TO = _tag("MessageIDBeingRespondedTo")
COMMAND_DATA_SET_TYPE = _tag("CommandDataSetType")
STATUS = _tag("Status")
ERROR_COMMENT = _tag("ErrorComment")
AFFECTED_SOP_INSTANCE_UID = _tag("AffectedSOPInstanceUID")


@dataclass(frozen=True, slots=True)
class StoreRequest:
    """What a C-STORE request says of the data set that follows it."""

    context_id: int
    message_id: int
    sop_class_uid: str
    sop_instance_uid: str
    has_data_set: bool


def read_elements(encoded: bytes) -> dict[int, bytes]:
    """Return the values of a command set by their tags; DatasetError where its lengths make no sense.

    It is Implicit VR Little Endian whatever was negotiated (PS3.7 6.3.1).
    """
    values: dict[int, bytes] = {}
    start = 0
    while start < len(encoded):
        stop = start + ELEMENT_HEADER.size
        if stop > len(encoded):
            raise DatasetError("command set", "ends inside an element")
        group, element, length = ELEMENT_HEADER.unpack_from(encoded, start)
        if group or length > len(encoded) - stop:
            raise DatasetError("command set", f"an element ({group:04X},{element:04X}) of {length} bytes")
        values[element] = encoded[stop : stop + length]
        start = stop + length
    return values


def command_field(values: dict[int, bytes]) -> int:
    """Return which message it is; raises DatasetError where it does not say."""
    return _number(values, COMMAND_FIELD)


def has_data_set(values: dict[int, bytes]) -> bool:
    """Does a data set follow? Raises DatasetError where it does not say."""
    return _number(values, COMMAND_DATA_SET_TYPE) != NO_DATA_SET


def read_store_request(context_id: int, values: dict[int, bytes]) -> StoreRequest:
    """Return the request; raises DatasetError where it lacks what it must have (PS3.7 table 9.3-1)."""
    return StoreRequest(
        context_id,
        _number(values, MESSAGE_ID),
        _uid(values, AFFECTED_SOP_CLASS_UID),
        _uid(values, AFFECTED_SOP_INSTANCE_UID),
        has_data_set(values),
    )


def encode_store_answer(request: StoreRequest, status: int, comment: str) -> bytes:
    """Return the encoded command set of the answer (PS3.7 table 9.3-2)."""
    elements = [
        (AFFECTED_SOP_CLASS_UID, _padded(request.sop_class_uid, b"\0")),
        (COMMAND_FIELD, struct.pack("<H", C_STORE_RSP)),
        (MESSAGE_ID_BEING_RESPONDED_TO, struct.pack("<H", request.message_id)),
        (COMMAND_DATA_SET_TYPE, struct.pack("<H", NO_DATA_SET)),
        (STATUS, struct.pack("<H", status)),
        (ERROR_COMMENT, _padded(comment[:MAX_TEXT_BYTES], b" ")),
        (AFFECTED_SOP_INSTANCE_UID, _padded(request.sop_instance_uid, b"\0")),
    ]
    encoded = b"".join(ELEMENT_HEADER.pack(0, tag, len(value)) + value for tag, value in elements if value)
    length = ELEMENT_HEADER.pack(0, GROUP_LENGTH, GROUP_LENGTH_BYTES) + struct.pack("<L", len(encoded))
    return length + encoded


def _number(values: dict[int, bytes], tag: int) -> int:
    value = values.get(tag, b"")
    if len(value) != 2:
        raise DatasetError("command set", f"(0000,{tag:04X}) is no 16-bit number")
    return int(struct.unpack("<H", value)[0])


def _uid(values: dict[int, bytes], tag: int) -> str:
    text = values.get(tag, b"").decode("ascii", "replace").strip("\0 ")
    if not text or len(text) > MAX_TEXT_BYTES or not text.isascii() or not text.isprintable():
        raise DatasetError(
            "command set", f"(0000,{tag:04X}) is no UID of at most {MAX_TEXT_BYTES} characters"
        )
    return text


def _padded(text: str, pad: bytes) -> bytes:
    value = text.encode("ascii", "replace")
    return value + pad * (len(value) % 2)
