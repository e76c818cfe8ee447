"""Programs of ours that decode in processes of their own: bytes from anywhere must not end the node."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from node.read.messages import Buffer, Bytes, MessageError, receive, send

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_s(process: int) -> float:
    """Return the processor time that a process had; raises OSError where there is no such process."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


class ChildError(ValueError):
    """A request that got no answer; the text says why."""


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
        self._connection: socket.socket | None = None

    def request(
        self, head: object, payload: Buffer = b"", *, max_bytes: int = 0, extra_s: float = 0.0
    ) -> tuple[Any, Bytes]:
        """Return the answer, its payload of at most so many bytes; a large job may get some seconds more.

        A process that ended is asked once more, anew, as is one that was too late and had hardly worked:
        something else than the job may have killed it, or kept it from the processor. Raises ChildError where
        no answer came. What is in an answer is the caller's to doubt.
        """
        timeout_s = self._timeout_s + extra_s
        for is_last in (False, True):
            worked_s = 0.0
            try:
                connection = self._connection or self._start()
                worked_s = self._worked_s()
                until = time.monotonic() + timeout_s
                send(connection, head, payload, until=until)
                return receive(connection, max_bytes=max_bytes, until=until)
            except TimeoutError as error:
                worked_s = self._worked_s() - worked_s
                self.close()
                if is_last or worked_s > timeout_s / 2:
                    raise ChildError(f"the decoder took longer than {timeout_s:.3g} s") from error
            except (EOFError, OSError, MessageError):
                self.close()
            except BaseException:
                # Broken off between question and answer: the next question must not get this answer.
                self.close()
                raise
        raise ChildError("the decoder broke down")

    def _worked_s(self) -> float:
        """Return the processor time that the process had; 0 where there is none."""
        with suppress(OSError):
            return cpu_s(self._process.pid) if self._process else 0.0
        return 0.0

    def close(self) -> None:
        """End the process; the next request starts another."""
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._connection = self._process = None

    def _start(self) -> socket.socket:
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
        self._connection = ours
        return ours
