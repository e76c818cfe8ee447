"""A multipart body taken apart, however the network cut it into pieces."""

from collections.abc import Mapping

import pytest

from node.errors import MalformedRequestError, RequestTooLargeError
from node.receive.multipart import MAX_PREAMBLE_BYTES, MultipartReader, parse_media_type

BODY = (
    b"preamble\r\n--b\r\nContent-Type: x\r\n\r\none\r\n-\r\n--\r\n--a\r\n--b \t\r\n\r\n\r\n\r\n--b\r\n"
    b"A: 1\r\nB:2\r\n\r\n--b\r\n--b--\r\nepilogue --b\r\n"
)
PARTS = [
    ({"content-type": "x"}, b"one\r\n-\r\n--\r\n--a"),
    ({}, b"\r\n"),
    ({"a": "1", "b": "2"}, b"--b"),
]


class Collected:
    """All parts of a body."""

    def __init__(self) -> None:
        self.parts: list[tuple[dict[str, str], bytes]] = []
        self._headers: dict[str, str] = {}
        self._content = b""

    def begin(self, headers: Mapping[str, str]) -> None:
        self._headers, self._content = dict(headers), b""

    def write(self, data: bytes) -> None:
        self._content += data

    def end(self) -> None:
        self.parts.append((self._headers, self._content))


def read(body: bytes, size: int = 1000, boundary: str = "b") -> list[tuple[dict[str, str], bytes]]:
    collected = Collected()
    reader = MultipartReader(boundary, collected, max_parts=10)
    for start in range(0, len(body), size):
        reader.feed(body[start : start + size])
    reader.close()
    return collected.parts


@pytest.mark.parametrize("size", range(1, len(BODY) + 1))
def test_parts_are_the_same_however_the_body_is_cut(size: int) -> None:
    assert read(BODY, size) == PARTS


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--b",
        b"--b\r\n\r\none",
        b"--b\r\n\r\none\r\n--b\r\n",
        b"--bc\r\n\r\none\r\n--bc--",
        b"x" * (MAX_PREAMBLE_BYTES + 100) + b"\r\n--b--",
        b"--b" + b" " * 1000 + b"\r\n\r\n\r\n--b--",
    ],
)
@pytest.mark.parametrize("size", [1, 1000])
def test_a_body_that_breaks_the_rules_is_malformed(body: bytes, size: int) -> None:
    with pytest.raises(MalformedRequestError):
        read(body, size)


@pytest.mark.parametrize("boundary", ["", "x" * 201, "ä"])
def test_a_boundary_that_is_none_is_malformed(boundary: str) -> None:
    with pytest.raises(MalformedRequestError):
        read(BODY, boundary=boundary)


@pytest.mark.parametrize("body", [b"--b\r\nA: " + b"x" * 9000, b"--b\r\n\r\n\r\n" * 11 + b"--b--"])
@pytest.mark.parametrize("size", [1, 100_000])
def test_endless_heads_and_parts_are_too_large(body: bytes, size: int) -> None:
    with pytest.raises(RequestTooLargeError):
        read(body, size)


@pytest.mark.parametrize(
    ("text", "media_type", "parameters"),
    [
        (
            'Multipart/Related; type="application/dicom"; Boundary="a;b"',
            "multipart/related",
            {"type": "application/dicom", "boundary": "a;b"},
        ),
        ("application/dicom", "application/dicom", {}),
        ("", "", {}),
        ("x/y; boundary*=utf-8''z", "x/y", {}),
        ("x/y;\r\nInjected: 1; boundary=z", "x/y", {"injected: 1": "", "boundary": "z"}),
        # Read, it would take 2.6 s.
        ('x/y; boundary="' + ";" * 60_000, "", {}),
    ],
)
def test_a_media_type_is_read_with_its_parameters(
    text: str, media_type: str, parameters: dict[str, str]
) -> None:
    assert parse_media_type(text) == (media_type, parameters)
