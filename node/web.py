"""What the node answers over HTTP: metrics and health, and the routes that other parts bring."""

import asyncio
import ssl
import threading
from collections.abc import Callable, Sequence
from typing import Any

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from node.errors import ConfigurationError

START_TIMEOUT_S = 10.0
HEAD_TIMEOUT_S = 30.0


def application(
    exposition: Callable[[], bytes], unready: Callable[[], list[str]], routes: Sequence[Route] = ()
) -> Starlette:
    """Return the web application; `unready` names what keeps the node from work, `exposition` its metrics."""

    def metrics(_request: Request) -> Response:
        return Response(exposition(), headers={"content-type": CONTENT_TYPE_LATEST})

    def healthz(_request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    def readyz(_request: Request) -> Response:
        problems = unready()
        status = "unavailable" if problems else "ok"
        return JSONResponse({"status": status, "problems": problems}, status_code=503 if problems else 200)

    own = [Route("/metrics", metrics), Route("/healthz", healthz), Route("/readyz", readyz)]
    return Starlette(routes=[*own, *routes])


class _Protocol(H11Protocol):
    """uvicorn's, which waits for ever for the head of a request; this one closes the connection."""

    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for the first request."""
        super().connection_made(transport)  # type: ignore[arg-type]    # uvicorn narrows what asyncio gives
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        """Take a piece: once the head is whole, what serves the request has its own patience."""
        super().data_received(data)
        is_between = self.cycle is None or self.cycle.response_complete
        if not is_between and self._patience:
            self._patience.cancel()
            self._patience = None
        elif is_between and not self._patience:
            self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        if self._patience:
            self._patience.cancel()
        super().connection_lost(exc)

    def _wait_for_head(self) -> None:
        self._patience = self.loop.call_later(HEAD_TIMEOUT_S, self.transport.close)


class WebServer:
    """Serves an application from a thread of this process."""

    def __init__(self, app: Starlette, host: str, port: int, tls: ssl.SSLContext | None = None) -> None:
        self._address = f"{host}:{port}"
        fixed: dict[str, Any] = {"log_config": None, "access_log": False, "lifespan": "off", "ws": "none"}
        settings = uvicorn.Config(
            app,
            host=host,
            port=port,
            http=_Protocol,
            ssl_context_factory=(lambda *_: tls) if tls else None,
            **fixed,
        )
        self._server = uvicorn.Server(settings)
        self._thread = threading.Thread(target=self._serve, name="web", daemon=True)
        self._has_ended = threading.Event()

    def start(self) -> None:
        """Open the port; returns once it answers. Raises ConfigurationError where it cannot be opened."""
        self._thread.start()
        waited = threading.Event()
        for _ in range(int(START_TIMEOUT_S / 0.02)):
            if self._server.started:
                return
            if self._has_ended.is_set():
                break
            waited.wait(0.02)
        raise ConfigurationError(
            [f"web.port: cannot listen on {self._address}: the port is in use or forbidden"]
        )

    def stop(self) -> None:
        """Finish the requests under way, and close."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(timeout=START_TIMEOUT_S)

    def _serve(self) -> None:
        try:
            self._server.run()
        except SystemExit:  # uvicorn's way to say that it could not bind
            pass
        finally:
            self._has_ended.set()
