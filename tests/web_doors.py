"""A STOW-RS listener behind a web server on a free port, and a client that sends what it is told to."""

import json
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from node.header import FileMeta, encode_file_meta
from node.receive.dicomweb import StowListener, StowSettings
from node.receive.notes import Notes
from node.storage import Storage, Stored
from node.web import WebServer, application
from tests.doors import ANY_DISK
from tests.instances import CT, EXPLICIT, encode_dataset
from tests.peers import LOOPBACK, free_ports

BOUNDARY = "a-boundary"
STOW_TYPE = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'


class WebDoor:
    """A listener on a free port, and all that it told."""

    def __init__(self, storage: Storage, settings: Mapping[str, Any]) -> None:
        self.storage = storage
        self.stored: list[Stored] = []
        self.refused: list[tuple[str, int]] = []
        self.released: list[tuple[frozenset[str], str]] = []
        (self.port,) = free_ports(1)
        self.listener = StowListener(
            StowSettings(**{"read_timeout_s": 5, "drain_timeout_s": 1} | dict(settings)),
            storage,
            Notes(
                on_stored=self.stored.extend,
                on_refused=lambda called, status: self.refused.append((called, status)),
                on_release=lambda studies, *, ended: self.released.append((studies, ended)),
            ),
        )
        self.web = WebServer(application(bytes, list, self.listener.routes), LOOPBACK, self.port)
        self.web.start()
        self.listener.start()

    def leftovers(self) -> list[Path]:
        return list(self.storage.incoming.iterdir())


OpenWebDoor = Callable[..., WebDoor]


@contextmanager
def opening_web(folder: Path) -> Iterator[OpenWebDoor]:
    """Opens doors over a spool in this folder; all are closed at the end of the block."""
    with ExitStack() as stack:

        def open_one(storage: Storage | None = None, **settings: Any) -> WebDoor:
            door = WebDoor(storage or Storage(folder / "data", ANY_DISK), settings)
            stack.callback(door.web.stop)
            stack.callback(door.listener.stop)
            return door

        yield open_one


@dataclass(frozen=True)
class HttpAnswer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> dict[str, Any]:
        return json.loads(self.body)

    def failure_reasons(self) -> list[int]:
        """The Failure Reason of every instance that was not stored."""
        items = [
            item for tag in ("00081198", "0008119A") for item in self.json().get(tag, {}).get("Value", [])
        ]
        return [item["00081197"]["Value"][0] for item in items]

    def stored_uids(self) -> list[str]:
        items = self.json().get("00081199", {}).get("Value", [])
        return [item["00081155"]["Value"][0] for item in items]


def file(uid: str = "1.2.3.4.5", *, meta_uid: str = "", syntax: str = EXPLICIT, **values: object) -> bytes:
    """A DICOM file, whose file meta may say something else than its data set."""
    sop_class = str(values.get("sop_class_uid", CT))
    return encode_file_meta(FileMeta(sop_class, meta_uid or uid, syntax)) + encode_dataset(uid, **values)


def multipart(files: Sequence[bytes], *, part_type: str = "application/dicom", end: str = "--") -> bytes:
    """A body with a part for each file."""
    parts = [f"--{BOUNDARY}\r\nContent-Type: {part_type}\r\n\r\n".encode() + file + b"\r\n" for file in files]
    return b"".join(parts) + f"--{BOUNDARY}{end}\r\n".encode()


def request_head(length: int, path: str = "/dicom-web/studies", **headers: str) -> bytes:
    """The head of a request; the names of headers have underscores for hyphens."""
    named = {"Host": "node", "Content-Type": STOW_TYPE, "Content-Length": str(length)}
    named |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in named.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def read_answer(connection: socket.socket) -> HttpAnswer:
    """The next answer on a connection."""
    with connection.makefile("rb") as file:
        status = int(file.readline().split()[1])
        headers: dict[str, str] = {}
        while line := file.readline().strip():
            name, _, value = line.decode().partition(": ")
            headers[name.lower()] = value
        return HttpAnswer(status, headers, file.read(int(headers.get("content-length", "0"))))


def post(door: WebDoor, body: bytes, path: str = "/dicom-web/studies", **headers: str) -> HttpAnswer:
    """Send a request in one piece and return its answer."""
    with socket.create_connection((LOOPBACK, door.port), timeout=10) as connection:
        connection.sendall(request_head(len(body), path, **headers) + body)
        return read_answer(connection)
