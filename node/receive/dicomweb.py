"""Instances come in over HTTP: STOW-RS (PS3.18 10.5), streamed part by part into the spool."""

import asyncio
import hmac
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address

import structlog
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from node.errors import MalformedRequestError, RequestTooLargeError
from node.receive.multipart import MultipartReader, parse_media_type
from node.receive.notes import Ended, Notes
from node.receive.settings import LOOPBACK, is_admitted
from node.receive.stow import DICOM, Admission, StowReception
from node.receive.stow_answer import encode_answer, negotiate, status_of
from node.storage import Storage

log = structlog.get_logger()

PATH = "/dicom-web/studies"
RETRY_AFTER_S, SOON_S = "60", "5"
# Slower for longer than the read time-out, and a client is not sending but holding a place.
MIN_BYTES = 1 << 14
# A client that still sends does not read its answer: so much is taken off its hands before.
DRAIN_BYTES, DRAIN_S = 1 << 24, 2.0


@dataclass(frozen=True, slots=True)
class StowSettings:
    """Whom STOW-RS lets in, and its limits; without a token none is asked for."""

    called_ae_title: str = "SIGHTLINE"
    allowed_hosts: tuple[str, ...] = LOOPBACK
    token: str = ""
    accept_private_classes: bool = False
    max_instance_bytes: int = 4 << 30
    max_parts: int = 10_000
    max_requests: int = 8
    read_timeout_s: float = 30.0
    drain_timeout_s: float = 10.0


class _SilentError(Exception):
    """The client sends nothing, or hardly anything."""


class _GoneError(Exception):
    """The client has gone."""


class _StoppedError(Exception):
    """The node stops, and waits no longer."""


class _Pace:
    """The body of a request, as long as it comes at a decent rate.

    Time in which nobody waits for it does not count.
    """

    def __init__(self, request: Request, timeout_s: float) -> None:
        self.request = request
        self._timeout_s = self._left_s = timeout_s
        self._since = 0
        self._has_more = True
        self.taken = 0

    async def next(self) -> bytes | None:
        """Return the next piece, None after the last; raises where the client is silent or gone."""
        if not self._has_more:
            return None
        loop = asyncio.get_running_loop()
        begun = loop.time()
        try:
            message = await asyncio.wait_for(self.request.receive(), self._left_s)
        except TimeoutError as fault:
            raise _SilentError from fault
        if message["type"] != "http.request":
            raise _GoneError
        piece = bytes(message.get("body", b""))
        self._has_more = bool(message.get("more_body", False))
        self._note(len(piece), loop.time() - begun)
        return piece

    def give_up(self) -> None:
        """Wait for nothing more."""
        self._has_more = False

    def _note(self, count: int, waited_s: float) -> None:
        self.taken += count
        self._since += count
        self._left_s -= waited_s
        if self._since >= MIN_BYTES:
            self._since, self._left_s = 0, self._timeout_s


class StowListener:
    """A Listener whose routes another's web server serves; until `start` and after `stop` it answers 503.

    Each instance is safe on disk and announced before the next is read. A request that is broken off, or
    turns out to be malformed, keeps those that were whole by then: the client may send all of them again.
    """

    def __init__(self, settings: StowSettings, storage: Storage, notes: Notes) -> None:
        self._settings = settings
        self._storage = storage
        self._notes = notes
        self._is_open = False
        self._is_stopped = False
        self._requests = 0
        self._changed = threading.Condition()

    @property
    def routes(self) -> Sequence[Route]:
        """Where it is reached."""
        return [Route(path, self.store, methods=["POST"]) for path in (PATH, PATH + "/{study}")]

    def start(self) -> None:
        """Take requests from now on."""
        self._is_open = True

    def stop(self) -> None:
        """Take no new request, and let those under way finish for a while; then they are broken off."""
        self._is_open = False
        with self._changed:
            self._changed.wait_for(lambda: self._requests == 0, self._settings.drain_timeout_s)
        self._is_stopped = True

    async def store(self, request: Request) -> Response:
        """Answer one request."""
        pace = _Pace(request, self._settings.read_timeout_s)
        if refusal := self._objection(request):
            return await self._refuse(pace, refusal)
        with self._changed:
            self._requests += 1
        try:
            return await self._receive(request, pace)
        finally:
            with self._changed:
                self._requests -= 1
                self._changed.notify_all()

    def _objection(self, request: Request) -> Response | None:
        """Return why a request is not even read; None where there is no reason."""
        host = _host(request)
        if not host or not is_admitted(host, self._settings.allowed_hosts):
            return _told(403, "host not allowed")
        if not self._is_authorized(request.headers.get("authorization", "")):
            return _told(401, "a bearer token is needed", {"WWW-Authenticate": "Bearer"})
        if not self._is_open or self._requests >= self._settings.max_requests:
            return _told(503, "busy, starting or stopping", {"Retry-After": SOON_S})
        media_type, parameters = parse_media_type(request.headers.get("content-type", ""))
        if media_type != "multipart/related" or parameters.get("type", DICOM).lower() != DICOM:
            return _told(415, f'expected multipart/related; type="{DICOM}"')
        if request.headers.get("content-encoding", "identity") != "identity":
            return _told(415, "expected no content encoding")
        if negotiate(request.headers.get("accept", "")) is None:
            return _told(406, "the answer is application/dicom+json or application/dicom+xml")
        if not self._storage.has_room():
            return _told(503, "the disk is full to its watermark", {"Retry-After": RETRY_AFTER_S})
        return None

    def _is_authorized(self, header: str) -> bool:
        scheme, _, given = header.partition(" ")
        token = self._settings.token
        is_right = hmac.compare_digest(given.strip().encode(), token.encode())
        return not token or (scheme.lower() == "bearer" and is_right)

    async def _receive(self, request: Request, pace: _Pace) -> Response:
        settings = self._settings
        admission = Admission(
            settings.called_ae_title,
            settings.accept_private_classes,
            settings.max_instance_bytes,
            request.path_params.get("study", ""),
        )
        reception = StowReception(self._storage, admission, self._notes)
        try:
            await self._read(pace, reception)
            refusal = None
        except MalformedRequestError as fault:
            refusal = _told(400, str(fault))
        except RequestTooLargeError as fault:
            refusal = _told(413, str(fault))
        except (_SilentError, _GoneError):
            pace.give_up()
            refusal = _told(408, "nothing came for too long")
        except _StoppedError:
            refusal = _told(503, "the node stops", {"Retry-After": SOON_S})
        finally:
            await run_in_threadpool(reception.discard)
        await run_in_threadpool(self._end, request, reception, "aborted" if refusal else "released")
        return await self._refuse(pace, refusal) if refusal else self._answer(request, reception)

    async def _read(self, pace: _Pace, reception: StowReception) -> None:
        """Bring the body to the reader, piece by piece; the disk is waited for in a thread."""
        _, parameters = parse_media_type(pace.request.headers["content-type"])
        reader = MultipartReader(
            parameters.get("boundary", ""), reception, max_parts=self._settings.max_parts
        )
        while (piece := await pace.next()) is not None:
            if self._is_stopped:
                raise _StoppedError
            await run_in_threadpool(reader.feed, piece)
        reader.close()

    def _answer(self, request: Request, reception: StowReception) -> Response:
        if not reception.answered:
            return _told(400, "no part")
        media_type = negotiate(request.headers.get("accept", "")) or ""
        status = status_of(reception.answered)
        headers = {"Retry-After": RETRY_AFTER_S} if status == 503 else {}
        content = encode_answer(reception.answered, media_type)
        return Response(content, status, headers, media_type)

    def _end(self, request: Request, reception: StowReception, ended: Ended) -> None:
        stored = sum(one.failure is None for one in reception.answered)
        refused = len(reception.answered) - stored
        log.info("stow_ended", host=_host(request), ended=ended, stored=stored, refused=refused)
        try:
            if reception.study_instance_uids:
                self._notes.on_release(frozenset(reception.study_instance_uids), ended=ended)
        except Exception:  # the instances are safe, and that is what is answered
            log.exception("stow_release_failed")

    async def _refuse(self, pace: _Pace, refusal: Response) -> Response:
        """Return a refusal once the client can be expected to read it."""
        reason = bytes(refusal.body).decode()
        log.warning("stow_refused", host=_host(pace.request), status=refusal.status_code, reason=reason)
        before = pace.taken
        with suppress(TimeoutError, _SilentError, _GoneError):
            async with asyncio.timeout(DRAIN_S):
                while pace.taken - before < DRAIN_BYTES and await pace.next() is not None:
                    pass
        return refusal


def _host(request: Request) -> str:
    """Return the address of a client; nothing where a proxy on this machine names something else."""
    host = request.client.host if request.client else ""
    with suppress(ValueError):
        return str(ip_address(host.partition("%")[0]))
    return ""


def _told(status: int, reason: str, headers: dict[str, str] | None = None) -> Response:
    """Return an answer without a data set; the connection ends with it, for the rest may still be coming."""
    return PlainTextResponse(reason, status, {"Connection": "close"} | (headers or {}))
