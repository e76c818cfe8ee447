"""What the node and its decoders say to each other: a head in JSON, then bytes as they are.

Nothing of it can run, as a pickle could: a decoder that hostile pixels took over may answer anything.
"""

import json
import socket
import struct
import sys
import time
from typing import Any

import numpy as np
import numpy.typing as npt

LENGTHS = struct.Struct("<LQ")
MAX_HEAD_BYTES = 1 << 16

Bytes = npt.NDArray[np.uint8]
Buffer = bytes | memoryview


class MessageError(Exception):
    """What came is no message, or is longer than any that was expected."""


def send(
    connection: socket.socket, head: object, payload: Buffer = b"", *, until: float | None = None
) -> None:
    """Send a message; TimeoutError where it is not gone at that time of the monotonic clock."""
    encoded = json.dumps(head).encode()
    connection.settimeout(_left_s(until))
    connection.sendall(LENGTHS.pack(len(encoded), memoryview(payload).nbytes) + encoded)
    connection.settimeout(_left_s(until))
    connection.sendall(payload)


def receive(
    connection: socket.socket, *, max_bytes: int = sys.maxsize, until: float | None = None
) -> tuple[Any, Bytes]:
    """Return the next message.

    Raises EOFError where the connection ends, MessageError for what is none, TimeoutError where it is not
    there in whole at that time of the monotonic clock.
    """
    head_bytes, payload_bytes = LENGTHS.unpack(_receive_bytes(connection, LENGTHS.size, until).data)
    if head_bytes > MAX_HEAD_BYTES or payload_bytes > max_bytes:
        raise MessageError(f"{head_bytes} and {payload_bytes} bytes, expected at most {max_bytes}")
    encoded = _receive_bytes(connection, head_bytes, until)
    try:
        head = json.loads(bytes(encoded))
    except (ValueError, RecursionError) as error:
        raise MessageError("its head is no JSON") from error
    return head, _receive_bytes(connection, payload_bytes, until)


def _receive_bytes(connection: socket.socket, size: int, until: float | None) -> Bytes:
    data = np.empty(size, np.uint8)
    rest = data.data
    while rest:
        connection.settimeout(_left_s(until))
        count = connection.recv_into(rest)
        if not count:
            raise EOFError
        rest = rest[count:]
    return data


def _left_s(until: float | None) -> float | None:
    if until is None:
        return None
    left_s = until - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s
