"""One HTTP request to an archive: bounded in time and in what it may answer."""

import http.client
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import urlsplit

from node.errors import DestinationUnreachableError
from node.tls import explain

MAX_ANSWER_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class HttpPeer:
    """A DICOMweb server; `timeout_s` is how long it may take to connect, and to take or give a piece.

    `tls` gives the context of each connection; it must be there for an address that begins with https.
    """

    url: str
    token: str = ""
    timeout_s: float = 30.0
    tls: Callable[[], ssl.SSLContext] | None = None


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """What a server answered."""

    status: int
    body: bytes

    @property
    def reason(self) -> str:
        """The status in words; what a server says beyond it is not repeated."""
        with suppress(ValueError):
            return f"HTTP {self.status} {HTTPStatus(self.status).phrase}"
        return f"HTTP {self.status}"


def ask(
    peer: HttpPeer,
    method: str,
    path: str,
    headers: Mapping[str, str],
    body: Iterable[bytes] | None = None,
    patience_s: float | None = None,
) -> HttpAnswer:
    """Return the answer to one request, whatever its status; redirects are not followed.

    `patience_s` bounds connecting, sending and the answer, each. Raises DestinationUnreachableError where no
    whole answer comes.
    """
    parts = urlsplit(peer.url)
    own = {"Authorization": f"Bearer {peer.token}"} if peer.token else {}
    with closing(_connection(peer)) as connection:
        limit = _Limit(connection, patience_s or 4 * peer.timeout_s)
        try:
            with limit:
                connection.connect()
            with limit, suppress(BrokenPipeError, ConnectionResetError):
                # A server that has seen enough answers, and closes: its answer is still to be had.
                connection.request(
                    method, parts.path.rstrip("/") + path, body, {**headers, **own, "Connection": "close"}
                )
            with limit:
                response = connection.getresponse()
                content = response.read(MAX_ANSWER_BYTES + 1)
        except (OSError, http.client.HTTPException) as fault:
            raise DestinationUnreachableError(peer.url, _why(fault, limit)) from fault
    if limit.is_over:
        raise DestinationUnreachableError(peer.url, "no whole answer in time")
    if len(content) > MAX_ANSWER_BYTES:
        raise DestinationUnreachableError(peer.url, f"an answer of more than {MAX_ANSWER_BYTES >> 20} MiB")
    return HttpAnswer(response.status, content)


class _Limit:
    """Ends a connection when its time is over: a time-out of the socket is for each piece alone."""

    def __init__(self, connection: http.client.HTTPConnection, patience_s: float) -> None:
        self._connection = connection
        self._patience_s = patience_s
        self._timer: threading.Timer | None = None
        self.is_over = False

    def __enter__(self) -> None:
        """Begin to count, anew at each entry."""
        self._timer = threading.Timer(self._patience_s, self._end)
        self._timer.daemon = True
        self._timer.start()

    def __exit__(self, *_fault: object) -> None:
        """Count no longer."""
        if self._timer:
            self._timer.cancel()

    def _end(self) -> None:
        self.is_over = True
        with suppress(OSError, TypeError):  # there is no socket yet
            # Not a secure socket's own: that ends TLS first, and what is still being sent goes out plain.
            socket.socket.shutdown(self._connection.sock, socket.SHUT_RDWR)


def _connection(peer: HttpPeer) -> http.client.HTTPConnection:
    parts = urlsplit(peer.url)
    host, timeout_s = parts.hostname or "", peer.timeout_s
    if parts.scheme == "https":
        return http.client.HTTPSConnection(
            host, parts.port, timeout=timeout_s, context=peer.tls() if peer.tls else None
        )
    return http.client.HTTPConnection(host, parts.port, timeout=timeout_s)


def _why(fault: Exception, limit: _Limit) -> str:
    if limit.is_over or isinstance(fault, TimeoutError):
        return "no whole answer in time"
    return explain(fault) if isinstance(fault, OSError) else f"no answer ({type(fault).__name__})"
