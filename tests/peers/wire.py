"""A wire that lets so many bytes through, and then nothing: a network that fails at a known point."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.peers import LOOPBACK

PIECE_BYTES = 16384


class Wire:
    """One connection, forwarded both ways until the limit is reached."""

    def __init__(self, target_port: int, after_bytes: int) -> None:
        self._target_port = target_port
        self._left = after_bytes
        self._is_cut = threading.Event()
        self._listener = socket.create_server((LOOPBACK, 0))
        self._sockets: list[socket.socket] = [self._listener]
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._connect, daemon=True)]
        self._threads[0].start()

    def wait_until_cut(self) -> None:
        """Wait until all that may pass has passed."""
        assert self._is_cut.wait(30), "the limit was not reached"

    def close(self) -> None:
        """Close both ends."""
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads:
            thread.join(10)

    def _connect(self) -> None:
        with contextlib.suppress(OSError):
            sender, _ = self._listener.accept()
            receiver = socket.create_connection((LOOPBACK, self._target_port))
            self._sockets += [sender, receiver]
            back = threading.Thread(target=self._forward, args=(receiver, sender, None), daemon=True)
            self._threads.append(back)
            back.start()
            self._forward(sender, receiver, self._left)

    def _forward(self, source: socket.socket, sink: socket.socket, left: int | None) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(PIECE_BYTES if left is None else min(PIECE_BYTES, left)):
                sink.sendall(piece)
                left = None if left is None else left - len(piece)
                if left == 0:
                    self._is_cut.set()
                    return


@contextmanager
def cut_wire(target_port: int, *, after_bytes: int) -> Iterator[Wire]:
    """A port that leads to the target until so many bytes went there; what follows stays in the wire."""
    wire = Wire(target_port, after_bytes)
    try:
        yield wire
    finally:
        wire.close()
