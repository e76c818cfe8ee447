"""A multipart body taken apart as it comes (RFC 2046 5.1): no more than a piece and a head are held."""

from collections.abc import Mapping
from email.message import Message
from enum import Enum, auto
from typing import Protocol

from node.errors import MalformedRequestError, RequestTooLargeError

MAX_HEAD_BYTES = 8192
# What may stand before the first boundary, and between a boundary and the end of its line.
MAX_PREAMBLE_BYTES = 8192
MAX_PADDING_BYTES = 256
# RFC 2046 5.1.1 allows 70; Orthanc makes one of two UUIDs, and comes to 73.
MAX_BOUNDARY_LENGTH = 200
# The time that the library takes for a media type grows with the square of its length.
MAX_MEDIA_TYPE_LENGTH = 1024
LINE_END = b"\r\n"


class Parts(Protocol):
    """Takes the parts of a body, one after another."""

    def begin(self, headers: Mapping[str, str]) -> None:
        """A part begins; the names of its headers are in lower case."""

    def write(self, data: bytes) -> None:
        """A piece of the part that began last."""

    def end(self) -> None:
        """That part is whole."""


class _State(Enum):
    PREAMBLE = auto()
    BOUNDARY = auto()
    HEAD = auto()
    CONTENT = auto()
    EPILOGUE = auto()


class MultipartReader:
    """Takes a body in pieces of any size and tells of its parts.

    Raises MalformedRequestError where it breaks the rules, RequestTooLargeError for a head or a number of
    parts beyond the limits.
    """

    def __init__(self, boundary: str, parts: Parts, *, max_parts: int) -> None:
        if not 0 < len(boundary) <= MAX_BOUNDARY_LENGTH or not boundary.isascii():
            raise MalformedRequestError(f"no boundary of 1–{MAX_BOUNDARY_LENGTH} characters")
        self._delimiter = LINE_END + b"--" + boundary.encode()
        self._parts = parts
        self._max_parts = max_parts
        self._count = 0
        self._state = _State.PREAMBLE
        self._passed = 0
        # A delimiter begins with the end of a line, which the first one may lack.
        self._buffer = bytearray(LINE_END)

    def feed(self, data: bytes) -> None:
        """Take the next piece."""
        if self._state is _State.EPILOGUE:
            return
        self._buffer += data
        steps = {
            _State.PREAMBLE: self._skip_preamble,
            _State.BOUNDARY: self._read_boundary,
            _State.HEAD: self._read_head,
            _State.CONTENT: self._read_content,
            _State.EPILOGUE: self._skip_epilogue,
        }
        while steps[self._state]():
            pass

    def close(self) -> None:
        """Raise MalformedRequestError unless the body is whole."""
        if self._state is not _State.EPILOGUE:
            raise MalformedRequestError("the final boundary is missing")

    # Each step returns whether another one can follow with what is there.

    def _skip_preamble(self) -> bool:
        self._passed += len(self._until_delimiter())
        if self._passed > MAX_PREAMBLE_BYTES:
            raise MalformedRequestError("the boundary of the header does not begin the body")
        return self._state is not _State.PREAMBLE

    def _read_content(self) -> bool:
        if piece := self._until_delimiter():
            self._parts.write(piece)
        if self._state is _State.CONTENT:
            return False
        self._parts.end()
        return True

    def _until_delimiter(self) -> bytes:
        """Return what is sure to stand before the next delimiter, and go past it where it is there."""
        found = self._buffer.find(self._delimiter)
        length = found if found >= 0 else max(0, len(self._buffer) - len(self._delimiter) + 1)
        piece = bytes(self._buffer[:length])
        if found >= 0:
            length += len(self._delimiter)
            self._state = _State.BOUNDARY
        del self._buffer[:length]
        return piece

    def _read_boundary(self) -> bool:
        """Go past the rest of the line; two hyphens make it the last."""
        if len(self._buffer) < 2:
            return False
        if self._buffer.startswith(b"--"):
            self._state = _State.EPILOGUE
            return True
        end = self._buffer.find(LINE_END)
        padding = self._buffer[: end if end >= 0 else None].rstrip(b"\r")
        if padding.strip(b" \t") or len(padding) > MAX_PADDING_BYTES:
            raise MalformedRequestError("a boundary is followed by something else")
        if end < 0:
            return False
        del self._buffer[: end + len(LINE_END)]
        self._state = _State.HEAD
        return True

    def _read_head(self) -> bool:
        is_empty = self._buffer.startswith(LINE_END)
        end = 0 if is_empty else self._buffer.find(2 * LINE_END)
        if end > MAX_HEAD_BYTES or (end < 0 and len(self._buffer) > MAX_HEAD_BYTES):
            raise RequestTooLargeError(f"the head of a part is longer than {MAX_HEAD_BYTES} bytes")
        if end < 0:
            return False
        self._count += 1
        if self._count > self._max_parts:
            raise RequestTooLargeError(f"more than {self._max_parts} parts")
        headers = _headers(bytes(self._buffer[:end]))
        del self._buffer[: end + (len(LINE_END) if is_empty else 2 * len(LINE_END))]
        self._state = _State.CONTENT
        self._parts.begin(headers)
        return True

    def _skip_epilogue(self) -> bool:
        self._buffer.clear()
        return False


def _headers(head: bytes) -> dict[str, str]:
    lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines if line)
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def parse_media_type(text: str) -> tuple[str, dict[str, str]]:
    """Return a media type in lower case and its parameters; empty where there is none, or no end to it."""
    if len(text) > MAX_MEDIA_TYPE_LENGTH:
        return "", {}
    message = Message()
    message["content-type"] = text.replace("\r", "").replace("\n", "")
    found = message.get_params(failobj=[])
    if not found:
        return "", {}
    (media_type, _), *rest = found
    return media_type.strip().lower(), {name.lower(): value for name, value in rest if isinstance(value, str)}
