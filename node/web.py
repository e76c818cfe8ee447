"""What the node answers over HTTP: metrics and health."""

import ssl
import threading
from collections.abc import Callable

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from node.errors import ConfigurationError

START_TIMEOUT_S = 10.0


def application(exposition: Callable[[], bytes], unready: Callable[[], list[str]]) -> Starlette:
    """Return the web application; `unready` names what keeps the node from work, `exposition` its metrics."""

    def metrics(_request: Request) -> Response:
        return Response(exposition(), headers={"content-type": CONTENT_TYPE_LATEST})

    def healthz(_request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    def readyz(_request: Request) -> Response:
        problems = unready()
        status = "unavailable" if problems else "ok"
        return JSONResponse({"status": status, "problems": problems}, status_code=503 if problems else 200)

    return Starlette(
        routes=[Route("/metrics", metrics), Route("/healthz", healthz), Route("/readyz", readyz)]
    )


class WebServer:
    """Serves an application from a thread of this process."""

    def __init__(self, app: Starlette, host: str, port: int, tls: ssl.SSLContext | None = None) -> None:
        self._address = f"{host}:{port}"
        settings = uvicorn.Config(
            app,
            host=host,
            port=port,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            ssl_context_factory=(lambda *_: tls) if tls else None,
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
