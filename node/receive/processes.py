"""Receivers in processes of their own, so that the node's Python work does not slow them down.

All accept on one socket that the node opened: whoever is free takes the next connection, and one that dies
takes only its own with it. A receiver tells the node line by line what it stored, over a socket pair:

```
node → receiver     the plan, pickled, its length before it; the socket to accept on, once it is ready; then
                    one byte: stop in good order
receiver → node     lines of JSON: ready · listening · stored · refused · ended
```
A receiver that is not ready holds no socket: a node that died while it started finds the port free.
Where the pair breaks, the other side is dead: a receiver without a node ends at once, a node starts another.
"""

import json
import os
import pickle
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import structlog

from node.domain.study import Instance
from node.errors import ConfigurationError
from node.receive.notes import Notes
from node.storage import Storage, Stored

log = structlog.get_logger()

BACKLOG = 128
START_TIMEOUT_S = 60.0
RESTART_S = 0.2
NOTE_ATTEMPTS = 5
RETRY_S = 0.5
LENGTH = struct.Struct(">L")
READ_BYTES = 1 << 16
STOP, LISTENING = b"s", b"l"
GATHER_S = 0.05
MOST_UNTOLD = 1000
INSTANCE_FIELDS = tuple(name for name in Instance.__dataclass_fields__ if name != "path")

Json = dict[str, Any]


class ReceiverProcesses:
    """A Listener whose associations are served by other processes, started from a module's `main`.

    `on_stored` gets what was stored since the last time, within a moment of the answer: what a receiver
    stored is in the spool, and is found there at the next start if the node dies before it hears of it.
    """

    def __init__(
        self,
        module: str,
        plans: Sequence[object],
        address: tuple[str, int],
        storage: Storage,
        notes: Notes,
        *,
        stop_timeout_s: float,
    ) -> None:
        """Start one for each plan, which is given to it as it is."""
        self._module, self._plans, self._address = module, plans, address
        self._storage, self._notes, self._stop_timeout_s = storage, notes, stop_timeout_s
        self._listening: socket.socket | None = None
        self._receivers: list[_Receiver] = []

    @property
    def port(self) -> int:
        """The port on which they listen."""
        return int(self._listening.getsockname()[1]) if self._listening else self._address[1]

    @property
    def process_ids(self) -> list[int]:
        """The processes that serve now."""
        return [receiver.process.pid for receiver in self._receivers]

    def start(self) -> None:
        """Listen; raises ConfigurationError where the port cannot be had, or a receiver does not start."""
        host, port = self._address
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._listening = socket.create_server((host, port), family=family, backlog=BACKLOG)
        except OSError as fault:
            problem = f"receive: cannot listen on {host}:{port}: {fault.strerror}"
            raise ConfigurationError([problem]) from fault
        self._receivers = [
            _Receiver(self._module, plan, self._listening, self._storage, self._notes) for plan in self._plans
        ]
        for receiver in self._receivers:
            if not receiver.is_listening.wait(START_TIMEOUT_S):
                raise ConfigurationError(["receive: a receiver process did not start, see the log"])
        log.info("receivers_started", processes=len(self._receivers), port=self.port)

    def stop(self) -> None:
        """Take no new association, let the open ones finish for a while, and wait for all they told."""
        if self._listening:
            self._listening.close()
        for receiver in self._receivers:
            receiver.ask_to_stop()
        deadline = time.monotonic() + self._stop_timeout_s
        for receiver in self._receivers:
            receiver.end(max(0.0, deadline - time.monotonic()))


class _Receiver:
    """One receiver process and the thread that listens to it; the process is started again when it dies."""

    def __init__(
        self, module: str, plan: object, listening: socket.socket, storage: Storage, notes: Notes
    ) -> None:
        self._module, self._plan = module, pickle.dumps(plan)
        self._listening, self._storage, self._notes = listening, storage, notes
        self.is_listening = threading.Event()
        self._stopping = threading.Event()
        self._start()
        self._thread = threading.Thread(target=self._listen, name="receiver-notes", daemon=True)
        self._thread.start()

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(  # noqa: S603 - this interpreter, a module of ours
                [sys.executable, "-m", self._module, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
            )
        self._pair = ours
        ours.sendall(LENGTH.pack(len(self._plan)) + self._plan)

    def ask_to_stop(self) -> None:
        """Have it take no more, and end."""
        self._stopping.set()
        try:
            self._pair.sendall(STOP)
        except OSError:
            return  # it is dead already

    def end(self, timeout_s: float) -> None:
        """Wait for its end, and for all it told to be noted; where it takes too long, make it end."""
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._thread.join()

    def _listen(self) -> None:
        while True:
            for told in lines_of(self._pair):
                self._note(told)
            self._pair.close()
            status = self.process.wait()
            self._sweep()
            if self._stopping.is_set():
                return
            log.error("receiver_died", status=status)
            if self._stopping.wait(RESTART_S):
                return
            try:
                self._start()
            except OSError as fault:
                log.error("receiver_not_started", reason=fault.strerror)  # noqa: TRY400 - the reason says it all

    def _sweep(self) -> None:
        """Delete what the dead process left half-received."""
        for path in self._storage.incoming.glob(f"{self.process.pid}-*.part"):
            path.unlink(missing_ok=True)

    def _note(self, told: Sequence[Json]) -> None:
        """Pass on what was told, in its order; what was stored in a row, together."""
        stored: list[Stored] = []
        for line in told:
            if line["event"] == "stored":
                stored.append(decode_stored(line, self._storage.root))
                continue
            self._note_stored(stored)
            stored = []
            self._note_other(line)
        self._note_stored(stored)

    def _note_stored(self, stored: list[Stored]) -> None:
        """Try for a while: what cannot be noted now is noted at the next start."""
        for attempt in range(NOTE_ATTEMPTS if stored else 0):
            try:
                self._notes.on_stored(stored)
            except Exception:  # the others that wait must be heard
                log.exception("instances_not_noted", instances=len(stored), attempt=attempt + 1)
                time.sleep(RETRY_S)
            else:
                return

    def _note_other(self, line: Json) -> None:
        try:
            if line["event"] == "refused":
                self._notes.on_refused(line["called_ae_title"], line["status"])
            elif line["event"] == "ended":
                self._notes.on_release(frozenset(line["study_instance_uids"]), ended=line["ended"])
            elif line["event"] == "ready" and not self._stopping.is_set():
                socket.send_fds(self._pair, [LISTENING], [self._listening.fileno()])
            elif line["event"] == "listening":
                self.is_listening.set()
        except Exception:  # the others that wait must be heard
            log.exception("receiver_note_failed", told=line["event"])


class Teller:
    """The receiver's end of the pair: what it tells, and the plan and the stop that it is told.

    What is told within some milliseconds goes together: the node is woken once for it.
    """

    def __init__(self, pair: socket.socket) -> None:
        self._pair = pair
        self._lines: list[Json] = []
        self._changed = threading.Condition()
        self._is_done = False
        self._thread = threading.Thread(target=self._send_for_ever, name="teller", daemon=True)
        self._thread.start()

    def receive_plan(self) -> Any:
        """Return the plan."""
        (size,) = LENGTH.unpack(self._pair.recv(LENGTH.size, socket.MSG_WAITALL))
        return pickle.loads(self._pair.recv(size, socket.MSG_WAITALL))  # noqa: S301 - of our own node

    def receive_listening(self) -> socket.socket | None:
        """Say that all is ready, and return the socket to accept on; None where nothing is left to do."""
        self.tell(event="ready")
        data, descriptors, *_ = socket.recv_fds(self._pair, len(LISTENING), 1)
        return socket.socket(fileno=descriptors[0]) if data == LISTENING else None

    def wait_for_stop(self) -> bool:
        """Wait; False where the node is dead."""
        return self._pair.recv(1) == STOP

    def tell(self, **line: object) -> None:
        """Tell one thing, soon; where the node falls behind, wait for it."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._lines) < MOST_UNTOLD)
            self._lines.append(line)
            # The thread that sends is woken for the first, and for what is urgent: to wake it for each costs
            # the one that receives its turn.
            if len(self._lines) in (1, MOST_UNTOLD) or self._is_urgent():
                self._changed.notify_all()

    def finish(self) -> None:
        """Return once everything was told."""
        with self._changed:
            self._is_done = True
            self._changed.notify_all()
        self._thread.join()

    def _send_for_ever(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines or self._is_done)
                if not self._lines:
                    return
                if self._lines[-1]["event"] == "stored":
                    # An association's end, or that there is one more thing to do, cannot wait.
                    self._changed.wait_for(self._is_urgent, GATHER_S)
                lines, self._lines = self._lines, []
                self._changed.notify_all()
            try:
                self._pair.sendall(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
            except OSError:  # the node is dead: see wait_for_stop
                return

    def _is_urgent(self) -> bool:
        is_full = len(self._lines) >= MOST_UNTOLD
        return self._is_done or is_full or self._lines[-1]["event"] != "stored"

    def tell_stored(self, stored: Stored) -> None:
        """Tell of an instance."""
        values = {name: getattr(stored.instance, name) for name in INSTANCE_FIELDS}
        self.tell(event="stored", is_new=stored.is_new, path=str(stored.instance.path), **values)

    def tell_refused(self, called_ae_title: str, status: int) -> None:
        """Tell that one was not taken."""
        self.tell(event="refused", called_ae_title=called_ae_title, status=status)

    def tell_ended(self, study_instance_uids: frozenset[str], *, ended: str) -> None:
        """Tell how an association ended that brought something."""
        self.tell(event="ended", study_instance_uids=sorted(study_instance_uids), ended=ended)


def decode_stored(line: Json, root: Path) -> Stored:
    """Return what a receiver told of an instance."""
    values = {name: line[name] for name in INSTANCE_FIELDS}
    return Stored(Instance(path=root / line["path"], **values), is_new=line["is_new"])


def lines_of(pair: socket.socket) -> Iterator[list[Json]]:
    """Yield what is told, as much as is there each time, until the other side is dead."""
    rest = b""
    while True:
        try:
            data = pair.recv(READ_BYTES)
        except OSError:
            return
        if not data:
            return
        *lines, rest = (rest + data).split(b"\n")
        if lines:
            yield [json.loads(line) for line in lines]


def end_now() -> None:
    """End this process without another word."""
    os._exit(1)
