"""pynetdicom's association, driven by events in one thread (PS3.8 9.2).

Stock pynetdicom gives an association two threads that look for work every millisecond, and copy each PDU
several times. Here the connection's own thread reads, acts and answers; the state machine, negotiation, and
every message but C-STORE stay pynetdicom's. Of its events these no longer fire: for P-DATA that comes in
EVT_DATA_RECV, EVT_PDU_RECV and EVT_FSM_TRANSITION; for C-STORE also EVT_C_STORE, EVT_DIMSE_RECV,
EVT_DIMSE_SENT and EVT_PDU_SENT; and EVT_CONN_OPEN.
"""

import contextlib
import os
import queue
import select
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from typing import Any, Protocol, cast

import structlog
from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity as Entity
from pynetdicom.association import Association
from pynetdicom.dul import DULServiceProvider
from pynetdicom.fsm import TRANSITION_TABLE
from pynetdicom.transport import AssociationSocket

from node.receive.pdu import INVALID_VALUE, UNEXPECTED_PDU, Fragment, Inbox, PduError

log = structlog.get_logger()

# States and events of PS3.8 tables 9-1 to 9-5, as pynetdicom names them.
AWAITING_REQUEST, ESTABLISHED, AWAITING_CLOSE = "Sta2", "Sta6", "Sta13"
CLOSED, TIMED_OUT, INVALID = "Evt17", "Evt18", "Evt19"
EVENTS_OF_PRIMITIVES = frozenset({"Evt1", "Evt7", "Evt8", "Evt9", "Evt11", "Evt14", "Evt15"})
NOT_SPECIFIED = 0x00

INBOX_BYTES = 4 << 20
# What still comes on a line that has ended is dropped in pieces of this size.
DROPPED_BYTES = 1 << 17
# How long a peer may take to close what has ended.
LINGER_S = 1.0


@dataclass(frozen=True, slots=True)
class LineLimits:
    """How much time a peer has: for one answer or a piece of a message, and how much has to come in it."""

    max_pdu_bytes: int
    read_timeout_s: float
    min_bytes_per_s: float


class Messages(Protocol):
    """What takes the fragments of an association's messages."""

    def take(self, fragment: Fragment) -> None:
        """Take one, which is overwritten after it. Raises PduError where it fits no message."""

    @property
    def is_in_message(self) -> bool:
        """Has a message begun that is not complete?"""


class Line(AssociationSocket):
    """A connected socket that never blocks but where it is told to wait, and can be woken there."""

    def __init__(self, association: Association, connection: socket.socket, send_timeout_s: float) -> None:
        super().__init__(association, client_socket=connection)
        connection.setblocking(False)
        # Without it, each answer waits for the peer's delayed acknowledgement: 40 ms an instance.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection = connection
        self._send_timeout_s = send_timeout_s
        self.is_broken = False
        self._lock = threading.Lock()
        self._waker = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)
        self._poll.register(self._waker, select.POLLIN)

    def recv_into(self, buffer: memoryview) -> int | None:
        """Return how many bytes came, 0 at the end of the connection, None while nothing is there."""
        try:
            return self._connection.recv_into(buffer)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None
        except OSError:
            return 0

    def wait(self, timeout_s: float) -> bool:
        """Wait until something is there, or another thread woke this one; False where time ran out."""
        # A sender that lets Nagle hold back its last packet waits for our acknowledgement, 40 ms if delayed.
        with contextlib.suppress(OSError):
            self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        happened = self._poll.poll(max(0.0, timeout_s) * 1000)
        if any(descriptor == self._waker for descriptor, _ in happened):
            os.eventfd_read(self._waker)
        return bool(happened)

    def wake(self) -> None:
        """End the other thread's wait."""
        with self._lock:
            if self._waker >= 0:
                os.eventfd_write(self._waker, 1)

    def send(self, bytestream: bytes) -> None:
        """Send all of it; a peer that does not take it in time is taken for gone."""
        if self.is_broken:
            return
        left = memoryview(bytestream)
        deadline = time.monotonic() + self._send_timeout_s
        try:
            while left:
                try:
                    left = left[self._connection.send(left) :]
                except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError) as fault:
                    self._wait_to_send(deadline, fault)
            evt.trigger(self.assoc, evt.EVT_DATA_SENT, {"data": bytestream})
        except OSError:
            self.is_broken = True
            self.event_queue.put(CLOSED)

    def _wait_to_send(self, deadline: float, fault: OSError) -> None:
        wanted = select.POLLIN if isinstance(fault, ssl.SSLWantReadError) else select.POLLOUT
        poll = select.poll()
        poll.register(self._connection, wanted)
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise TimeoutError

    def release(self) -> None:
        """Close what is left of it."""
        self._connection.close()
        with self._lock:
            os.close(self._waker)
            self._waker = -1


class UpperLayer(DULServiceProvider):
    """The upper layer of one association; everything happens in the thread that made it."""

    def __init__(self, association: "EventAssociation", limits: LineLimits) -> None:
        super().__init__(association)
        self._limits = limits
        self._inbox = Inbox(INBOX_BYTES, limits.max_pdu_bytes)
        self._owner = threading.get_ident()
        self._is_acting = False
        self._received = 0
        self._window: tuple[float, int] | None = None
        self._linger_until = 0.0

    @property
    def line(self) -> Line:
        """The connection."""
        return cast(Line, self.socket)

    @property
    def _messages(self) -> Messages:
        return cast(Messages, self.assoc.dimse)

    def release(self) -> None:
        """Give back what the connection holds of the system."""
        self.line.release()

    def start(self) -> None:
        """Be ready; no thread is started."""
        self._idle_timer.start()
        self.assoc._dul_ready.set()

    def is_alive(self) -> bool:
        """Is the connection still there?"""
        return not self._kill_thread

    def send_pdu(self, primitive: Any) -> None:
        """Send what stands for the primitive; from another thread, have this association's do it."""
        super().send_pdu(primitive)
        if threading.get_ident() == self._owner:
            self._act()
        else:
            self.line.wake()

    def receive_pdu(self, wait: bool = False, timeout: float | None = None) -> Any:
        """Return the next primitive for the association; None where there is none, or not in time."""
        deadline = time.monotonic() + (timeout or 0.0)
        while wait and not self.to_user_queue.queue and time.monotonic() < deadline:
            if self.assoc.is_aborted or not self.is_alive():
                break
            self.pump(deadline - time.monotonic())
        return super().receive_pdu(wait=False)

    def stop_dul(self) -> bool:
        """Have the connection ended, by the peer if it does so soon; True once it is."""
        if threading.get_ident() != self._owner:
            return not self.is_alive()
        self._act()
        while self.is_alive():
            if self.state_machine.current_state != AWAITING_CLOSE:
                self.event_queue.put(CLOSED)
            self.pump(LINGER_S)
        return True

    def pump(self, timeout_s: float) -> None:
        """Act on what is queued and what came; where that is nothing, wait for it."""
        self._act()
        if not self.is_alive():
            return
        if self.state_machine.current_state == AWAITING_CLOSE:
            self._linger()
        else:
            if not self._read():
                self.line.wait(min(timeout_s, self._patience_s()))
            self._watch_time()
        self._act()

    def _act(self) -> None:
        """Carry out what is queued; what the state does not allow is dropped."""
        if self._is_acting or not (self.event_queue.queue or self.to_provider_queue.queue):
            return
        self._is_acting = True
        try:
            while self.is_alive():
                try:
                    event = self.event_queue.get_nowait()
                except queue.Empty:
                    if not self._process_recv_primitive():
                        return
                    continue
                if (event, self.state_machine.current_state) in TRANSITION_TABLE:
                    self.state_machine.do_action(event)
                elif event in EVENTS_OF_PRIMITIVES:
                    self.to_provider_queue.get_nowait()
        finally:
            self._is_acting = False

    def _read(self) -> bool:
        """Take in what is there; False where that is nothing."""
        count = self.line.recv_into(self._inbox.free)
        if count is None:
            return False
        if count == 0:
            self.event_queue.put(CLOSED)
            return True
        self._idle_timer.restart()
        self._received += count
        self._inbox.add(count)
        try:
            self._take()
        except PduError as fault:
            self._refuse(fault)
        self._inbox.reclaim()
        return True

    def _take(self) -> None:
        for item in self._inbox.take():
            if not isinstance(item, Fragment):
                self._take_pdu(item[1])
            elif self.state_machine.current_state == ESTABLISHED:
                self._messages.take(item)
            else:
                raise PduError(UNEXPECTED_PDU, "P-DATA outside of an association")
            if (
                self.state_machine.current_state == AWAITING_CLOSE
                or self.line.is_broken
                or not self.is_alive()
            ):
                return

    def _take_pdu(self, encoded: bytes) -> None:
        try:
            pdu, event = self._decode_pdu(bytearray(encoded))
        except Exception as fault:  # pynetdicom raises whatever its parsing of hostile bytes ran into
            raise PduError(INVALID_VALUE, f"a PDU that cannot be read: {type(fault).__name__}") from fault
        self._recv_pdu.put(pdu)
        self.event_queue.put(event)
        self._act()

    def _refuse(self, fault: PduError) -> None:
        self.assoc.note_refusal(fault.message)
        if self.state_machine.current_state == AWAITING_REQUEST:
            self.event_queue.put(INVALID)
        else:
            self.assoc.acse.send_ap_abort(fault.reason)

    @property
    def assoc(self) -> "EventAssociation":
        """The association."""
        return cast(EventAssociation, self._assoc)

    def _linger(self) -> None:
        """Wait for the peer to close; what it still sends is dropped."""
        now = time.monotonic()
        self._linger_until = self._linger_until or now + LINGER_S
        self._inbox.reclaim()
        count = self.line.recv_into(self._inbox.free[:DROPPED_BYTES])
        if count == 0:
            self.event_queue.put(CLOSED)
        elif now >= self._linger_until:
            self.event_queue.put(TIMED_OUT)
        elif count is None:
            self.line.wait(self._linger_until - now)

    def _patience_s(self) -> float:
        """Return for how long nothing need come before it is time to look at the clock."""
        if self.state_machine.current_state == AWAITING_REQUEST:
            return self.artim_timer.remaining
        if self._window:
            return self._window[0] - time.monotonic()
        return self._idle_timer.remaining

    def _watch_time(self) -> None:
        """End what takes too long: no request, or too little of a message in the time it has."""
        if self.state_machine.current_state == AWAITING_REQUEST:
            if self.artim_timer.expired:
                self.event_queue.put(TIMED_OUT)
            return
        if self._inbox.is_between_pdus and not self._messages.is_in_message:
            self._window = None
            return
        now = time.monotonic()
        if self._window and now >= self._window[0]:
            least = max(1.0, self._limits.min_bytes_per_s * self._limits.read_timeout_s)
            if self._received - self._window[1] < least:
                self._refuse(PduError(NOT_SPECIFIED, "the peer stalled inside a message"))
                return
            self._window = None
        if self._window is None:
            self._window = (now + self._limits.read_timeout_s, self._received)


class EventAssociation(Association):
    """An association that is served by the thread which makes it."""

    def __init__(self, entity: Entity, connection: socket.socket, limits: LineLimits) -> None:
        super().__init__(entity, "acceptor")
        self.dul = UpperLayer(self, limits)
        # They belong to the upper layer, which is another one now.
        self.acse_timeout, self.network_timeout = entity.acse_timeout, entity.network_timeout
        self.set_socket(Line(self, connection, limits.read_timeout_s))
        self.refusal = ""

    def note_refusal(self, reason: str) -> None:
        """Keep the reason for which the association is about to be aborted."""
        self.refusal = self.refusal or reason

    def _run_reactor(self) -> None:
        """Serve the established association to its end."""
        layer = cast(UpperLayer, self.dul)
        while not self._kill:
            # Another thread may send a request here, and then takes the answer off the queue itself.
            self._is_paused = True
            if not self._is_busy():
                layer.pump(layer._idle_timer.remaining)
            if self._is_busy():
                self._is_paused = False
                context_id, message = self.dimse.get_msg(block=False)
                if message:
                    self._serve_request(message, cast(int, context_id))
            if self._has_ended():
                self.kill()
                return

    def _is_busy(self) -> bool:
        """Is there something to serve, so that nothing is to be waited for?"""
        return bool(self.dimse.msg_queue.queue) and self._reactor_checkpoint.is_set()

    def _has_ended(self) -> bool:
        """Did the peer or this side end it? An association that said nothing for too long is aborted."""
        has_come = bool(self.dul.to_user_queue.queue)
        if has_come and self.is_established and self.acse.is_release_requested():
            self.acse.send_release(is_response=True)
            self.is_released, self.is_established = True, False
            evt.trigger(self, evt.EVT_RELEASED, {})
            return True
        if (has_come and self.acse.is_aborted()) or self.is_aborted:
            self.dul.receive_pdu(wait=False)
            self.is_aborted, self.is_established = True, False
            evt.trigger(self, evt.EVT_ABORTED, {})
            return True
        if self.dul.idle_timer_expired():
            self.abort(block=False)
        return not self.is_established or not self.dul.is_alive()
