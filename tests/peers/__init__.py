"""The other ends of the node's wires, as real programs on loopback: started by a test and ended by it."""

import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
LOOPBACK = "127.0.0.1"

T = TypeVar("T")

_given_ports: set[int] = set()


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on now, each given once: whoever has one may not listen on it yet."""
    ports: list[int] = []
    while len(ports) < count:
        with socket.socket() as one:
            one.bind((LOOPBACK, 0))
            port = one.getsockname()[1]
        if port not in _given_ports:
            _given_ports.add(port)
            ports.append(port)
    return ports


def need_program(name: str, package: str) -> str:
    """The program's path; skips the test where the machine has none, and says which package brings it."""
    # The system's folders first: pynetdicom puts a storescu of its own beside Python's interpreter.
    path = shutil.which(name, path="/usr/bin:/usr/sbin:/usr/local/bin") or shutil.which(name)
    if not path:
        pytest.skip(f"needs {name} (Debian package {package})")
    return path


def wait_until(probe: Callable[[], T], what: str, timeout_s: float = 60, pause_s: float = 0.05) -> T:
    """Call the probe until it answers something true, and return that."""
    deadline = time.monotonic() + timeout_s
    while not (answer := probe()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {timeout_s:g} s")
        time.sleep(pause_s)
    return answer


def end_process(process: subprocess.Popen[bytes], patience_s: float = 15) -> None:
    """Ask the process to end; kill it where it does not listen."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
