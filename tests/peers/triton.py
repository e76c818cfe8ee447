"""NVIDIA Triton, the server of the nvidia-pytriton wheel, as the engine that a site with a GPU has."""

import http.client
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.peers import LOOPBACK, REPOSITORY, end_process, free_ports, wait_until

TRITON_REPO = REPOSITORY / "triton_repo"
INSTALLED = REPOSITORY / ".venv-triton" / "installed"
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where Linux keeps it
EXPLICIT = ("--model-control-mode", "explicit")
START_TIMEOUT_S = 110
NEED = "needs a Triton server: bash deploy/triton.sh --install"


class Triton:
    """One server on ports of its own; it can be killed and started again on the same ports."""

    def __init__(self, folder: Path, *, repository: Path = TRITON_REPO, options: Sequence[str] = ()) -> None:
        """Choose ports; `folder` is for its log, `options` are tritonserver's own."""
        self.host = LOOPBACK
        self.http_port, self.grpc_port, self.metrics_port = free_ports(3)
        self.repository = repository
        self.log_path = folder / f"triton-{self.grpc_port}.log"
        # Tells the memory that this server shares with its Python processes from that of others.
        self._prefix = f"triton_{os.getpid()}_{self.grpc_port}_"
        self._options = tuple(options)
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def url(self) -> str:
        """What a gRPC client wants: host and port."""
        return f"{self.host}:{self.grpc_port}"

    @property
    def pid(self) -> int:
        """The process that was started last."""
        assert self._process, "never started"
        return self._process.pid

    def start(self, *, waits: bool = True) -> None:
        """Start the server, and wait until every model that it loads by itself is ready."""
        ports = {"http": self.http_port, "grpc": self.grpc_port, "metrics": self.metrics_port}
        command = ["bash", "deploy/triton.sh", "--repository", str(self.repository)]
        for name, port in ports.items():
            command += [f"--{name}-port", str(port)]
        command += ["--backend-config", f"python,shm-region-prefix-name={self._prefix}", *self._options]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=REPOSITORY,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if waits:
            wait_until(lambda: self.is_ready() or not self.is_alive(), "Triton is ready", START_TIMEOUT_S)
            assert self.is_alive(), f"Triton ended at once:\n{self.log_text()[-4000:]}"

    def kill(self) -> None:
        """SIGKILL the server; its Python processes notice within a second, and end."""
        if self._process and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
            with suppress(AssertionError):
                wait_until(lambda: not self.regions(), "the server's Python processes end", 5)
            # Those whose lock it held wait for ever.
            self.end()

    def stop(self) -> int:
        """Stop the server as a service manager does, and return its exit status."""
        assert self._process, "never started"
        end_process(self._process, patience_s=40)
        return self._process.returncode

    def end(self) -> None:
        """SIGKILL the server and its Python processes at once, and remove the memory that they shared."""
        if self._process:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        for path in self.regions():
            path.unlink(missing_ok=True)

    def restart(self) -> None:
        """Kill the server and start it again on the same ports."""
        self.kill()
        self.start()

    def is_alive(self) -> bool:
        """Does the process run?"""
        return self._process is not None and self._process.poll() is None

    def is_ready(self) -> bool:
        """Do the server and all the models it loads by itself say that they are ready?"""
        with suppress(OSError, http.client.HTTPException):
            # The port of the metrics opens last.
            return self.get("/v2/health/ready")[0] == 200 and bool(self.metrics())
        return False

    def get(self, path: str, *, port: int | None = None) -> tuple[int, str]:
        """Status and text of a page of the server."""
        connection = http.client.HTTPConnection(self.host, port or self.http_port, timeout=10)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def metrics(self) -> dict[str, float]:
        """The server's own figures, by name and labels as Prometheus reads them."""
        _, text = self.get("/metrics", port=self.metrics_port)
        lines = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in lines}

    def waiting(self, model: str) -> int:
        """How many requests are in the queue of a model."""
        return int(self.metrics()[f'nv_inference_pending_request_count{{model="{model}",version="1"}}'])

    def log_text(self) -> str:
        """All the server wrote since it was made, restarts included."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def regions(self) -> list[Path]:
        """The memory that the server shares with its Python processes."""
        return list(SHARED_MEMORY.glob(f"{self._prefix}*"))


def need_triton() -> None:
    """Skip the test where the server is not set up, and say what sets it up."""
    if not INSTALLED.exists():
        pytest.skip(NEED)


@contextmanager
def make_triton(
    folder: Path, *, repository: Path = TRITON_REPO, options: Sequence[str] = ()
) -> Iterator[Triton]:
    """A server that is not started yet, and is killed in any case."""
    need_triton()
    triton = Triton(folder, repository=repository, options=options)
    try:
        yield triton
    finally:
        triton.end()
