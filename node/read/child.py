"""Programs of ours that decode in processes of their own: bytes from anywhere must not end the node."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any


class ChildProcess:
    """A program that answers over a socket, started by the first request and again after it ended.

    Not safe in threads: one request at a time.
    """

    def __init__(self, program: Path, timeout_s: float, *, on_start: Callable[[], list[int]] = list) -> None:
        """Give each request `timeout_s` seconds; `on_start` gives further files to hand over and to close.

        Their numbers are the program's arguments, that of the socket first.
        """
        self._program, self._timeout_s, self._on_start = program, timeout_s, on_start
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None

    def request(self, job: object, extra_s: float = 0.0) -> tuple[Any, str]:
        """Return the answer, or why there is none; a large job may get some seconds more.

        A process that ended is asked once more, anew: something else than the job may have killed it.
        """
        timeout_s = self._timeout_s + extra_s
        for _ in range(2):
            try:
                connection = self._connection or self._start()
                connection.send(job)
                if connection.poll(timeout_s):
                    return connection.recv(), ""
            except (EOFError, OSError):
                self.close()
            except BaseException:
                # Broken off between question and answer: the next question must not get this answer.
                self.close()
                raise
            else:
                self.close()
                return None, f"the decoder took longer than {timeout_s:.3g} s"
        return None, "the decoder broke down"

    def close(self) -> None:
        """End the process; the next request starts another."""
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._connection = self._process = None

    def _start(self) -> Connection:
        files = self._on_start()
        try:
            ours, theirs = socket.socketpair()
            with theirs:
                numbers = [theirs.fileno(), *files]
                # -P: a module of the standard library must not be taken from the program's folder.
                self._process = subprocess.Popen(  # noqa: S603 - this interpreter, a program of ours
                    [sys.executable, "-P", str(self._program), *map(str, numbers)],
                    pass_fds=numbers,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    # Decoders complain there in their own words; the reason comes back over the socket.
                    stderr=subprocess.DEVNULL,
                )
        finally:
            for file in files:
                os.close(file)
        self._connection = Connection(ours.detach())
        return self._connection
