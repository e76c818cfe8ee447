"""Associations that the node opens: to send, to ask who is there and what it holds, to have results kept."""

import logging
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pydicom import Dataset
from pydicom.uid import UID
from pynetdicom import AE, _config, build_context, build_role, evt
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_primitives import N_EVENT_REPORT
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]    # made while it is imported

from node.errors import DestinationUnreachableError, UnconfirmableError
from node.header import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from node.tls import ClientContext

_config.LOG_HANDLER_LEVEL = "none"
# Send the bytes of the file, not what decoding and encoding makes of them.
_config.STORE_SEND_CHUNKED_DATASET = True
logging.getLogger("pynetdicom").setLevel(logging.WARNING)

# Pending is more to come (C-FIND).
SUCCESS, PENDING = 0x0000, (0xFF00, 0xFF01)

OnReport = Callable[[evt.Event], tuple[int | Dataset, Dataset | None]]


@dataclass(frozen=True, slots=True)
class Peer:
    """A DICOM application elsewhere; `timeout_s` is how long it may take to connect, or to answer.

    With `tls`, which gives the context of each connection, nothing is sent before its certificate was found
    good for `host`.
    """

    host: str
    port: int
    ae_title: str
    calling_ae_title: str = "SIGHTLINE"
    timeout_s: float = 30.0
    tls: Callable[[], ClientContext] | None = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        """Return the address as it is written on a command line."""
        return f"{self.ae_title}@{self.host}:{self.port}"


def echo(peer: Peer) -> None:
    """Return once the peer answered a C-ECHO; raises DestinationUnreachableError where it does not."""
    with associate(peer, [build_context(Verification)]) as association:
        status = association.send_c_echo() if association.is_established else Dataset()
    if status.get("Status") != SUCCESS:
        raise DestinationUnreachableError(str(peer), "no Success to a C-ECHO")


@contextmanager
def associate(
    peer: Peer,
    contexts: Sequence[PresentationContext],
    *,
    on_report: OnReport | None = None,
    as_provider_of: Sequence[str] = (),
) -> Iterator[Association]:
    """Open an association and release it; it is not established where the peer takes none of the contexts.

    `on_report` answers an N-EVENT-REPORT of the peer. Of the SOP classes in `as_provider_of` the node offers
    to be the provider, though it is who calls (role selection, PS3.7 D.3.3.4). Raises
    DestinationUnreachableError where there is no association at all.
    """
    entity = AE(peer.calling_ae_title)
    entity.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
    entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    entity.acse_timeout = entity.dimse_timeout = entity.connection_timeout = peer.timeout_s
    entity.network_timeout = None
    opened: list[socket.socket] = []
    handlers: list[Any] = [(evt.EVT_CONN_OPEN, _prepare_association, [peer.timeout_s, opened])]
    if on_report:
        handlers.append((evt.EVT_N_EVENT_REPORT, _answer_report, [on_report]))
    context = peer.tls() if peer.tls else None
    try:
        association = entity.associate(
            peer.host,
            peer.port,
            list(contexts),
            peer.ae_title,
            ext_neg=[build_role(UID(uid), scp_role=True) for uid in as_provider_of],
            evt_handlers=handlers,
            tls_args=(context, peer.host) if context else None,
        )
    except OSError as fault:  # a name that cannot be resolved
        raise DestinationUnreachableError(str(peer), str(fault.strerror)) from fault
    try:
        if not association.is_established and not association.rejected_contexts:
            refusal = context.refusal if context else ""
            raise DestinationUnreachableError(str(peer), refusal or _why(association, bool(opened)))
        yield association
    finally:
        if isinstance(association.dimse, _Answers):
            association.dimse.is_quiet.wait(peer.timeout_s)
        if association.is_established:
            association.release()
        # pynetdicom drops the socket of an association that its peer ended, and leaves it open.
        for connection in opened:
            connection.close()


def require_success(peer: Peer, response: Dataset, question: str, *, busy: int) -> None:
    """Raise an error unless a question was answered with Success.

    DestinationUnreachableError where no answer came, or the one that says `busy`: it may do so later.
    UnconfirmableError for every other one.
    """
    if response.get("Status") in (None, *PENDING):
        raise DestinationUnreachableError(str(peer), f"no answer to {question}")
    words = f"0x{response.Status:04X} to {question}"
    if response.Status == busy:
        raise DestinationUnreachableError(str(peer), words)
    if response.Status != SUCCESS:
        raise UnconfirmableError(str(peer), words)


class _Answers(DIMSEServiceProvider):
    """The DIMSE provider of an association that asks: each message that comes is an answer to who waits.

    All but N-EVENT-REPORT, which pynetdicom serves in a thread of its own.
    """

    def __init__(self, association: Association) -> None:
        super().__init__(association)
        # Cleared while a report is being answered: to release then would leave it unanswered.
        self.is_quiet = threading.Event()
        self.is_quiet.set()

    def send_msg(self, primitive: Any, context_id: int) -> None:
        """Queue a message; the answer to a report ends what was to be answered."""
        super().send_msg(primitive, context_id)
        if isinstance(primitive, N_EVENT_REPORT):
            self.is_quiet.set()

    def get_msg(self, block: bool = False) -> Any:
        """Return the next message; nothing to who does not wait for it.

        That is pynetdicom's reactor, which looks for requests. It is halted before a message is sent, but on
        a busy machine may look once more, take the answer for an unexpected request, and drop it.
        """
        return super().get_msg(block) if block else (None, None)


def _answer_report(event: evt.Event, on_report: OnReport) -> tuple[int | Dataset, Dataset | None]:
    if isinstance(event.assoc.dimse, _Answers):
        event.assoc.dimse.is_quiet.clear()
    return on_report(event)


def _prepare_association(event: evt.Event, timeout_s: float, opened: list[socket.socket]) -> None:
    """Send small messages at once, lose no answer, and never wait for ever for a peer that does not read."""
    event.assoc.dimse = _Answers(event.assoc)
    connection: Any = event.assoc.dul.socket
    connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.socket.settimeout(timeout_s)
    opened.append(connection.socket)


def _why(association: Association, is_open: bool) -> str:
    if not is_open:
        return "cannot connect"
    if association.is_rejected and association.acceptor.primitive is not None:
        return f"association rejected: {association.acceptor.primitive.reason_str}"
    return "connected, but no association"
