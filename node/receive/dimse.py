"""Instances come in over DICOM associations: C-ECHO, C-STORE and storage commitment (PS3.4 A, B and J).

pynetdicom negotiates and speaks the protocol; `upper_layer` drives it by events, and `incoming` takes the
data set of a C-STORE as it came into the spool: stock pynetdicom would hold it whole in memory.
"""

import logging
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast

import structlog
from pydicom import Dataset
from pydicom.uid import UID
from pynetdicom import AE, _config, build_context, evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]    # made while it is imported
from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

from node.commitment import PUSH_MODEL
from node.errors import ConfigurationError, TlsError
from node.header import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from node.receive.incoming import Reception, log_of, report, request_of
from node.receive.negotiation import (
    TOO_MANY,
    Rejection,
    objection,
    supported,
)
from node.receive.notes import Ended, OnRelease
from node.receive.occupancy import Occupancy
from node.receive.settings import DimseListenerSettings
from node.receive.upper_layer import EventAssociation, LineLimits
from node.storage import Storage, Stored
from node.tls import accept

# pynetdicom's own handlers format every message, data sets' identifiers among them, and cost half the rate.
_config.LOG_HANDLER_LEVEL = "none"
logging.getLogger("pynetdicom").setLevel(logging.WARNING)
log = structlog.get_logger()

STOP_POLL_S = 0.1
# Connections that are being negotiated or turned away, beyond the associations that may be open.
SPARE_CONNECTIONS = 32


class Commitment(Protocol):
    """Answers the messages of storage commitment, in the association's thread (PS3.4 J.3)."""

    def take_request(self, event: Any) -> tuple[Dataset | int, Dataset | None]:
        """Return the answer to a request (N-ACTION)."""

    def take_report(self, event: Any) -> tuple[Dataset | int, Dataset | None]:
        """Return the answer to an archive's report (N-EVENT-REPORT)."""


@dataclass(frozen=True, slots=True)
class Extras:
    """What a listener may have besides.

    `tls` is asked for the context of each connection, whose handshake is made in its own thread. `bound` is a
    socket that listens already, in place of the address of the settings. Without `commitment`, storage
    commitment is not offered. Listeners with the same `associations`, a file, have their limits in common.
    """

    commitment: Commitment | None = None
    tls: Callable[[], ssl.SSLContext] | None = None
    bound: socket.socket | None = None
    associations: Path | None = None


class DimseListener:
    """A Listener on one port, for one or more AE titles.

    `on_stored` is called once the file is safe, and before the peer reads Success: nothing acknowledged
    is unknown. An instance sent again is announced again, `is_new` False. If it raises, the peer reads a
    failure and will send again. `on_refused` gets called AE title and status. All from association threads.

    Of the transfer syntaxes that a context offers, the first in the sender's order is accepted: senders put
    first the encoding in which they hold the pixels, and each one of the standard is stored.
    """

    def __init__(
        self,
        settings: DimseListenerSettings,
        storage: Storage,
        *,
        on_stored: Callable[[Stored], None],
        on_refused: Callable[[str, int], None],
        on_release: OnRelease,
        extras: Extras | None = None,
    ) -> None:
        self.storage = storage
        self.on_stored = on_stored
        self.on_refused = on_refused
        self._on_release = on_release
        self._extras = extras or Extras()
        self._settings = settings
        self._limits = LineLimits(settings.max_pdu_bytes, settings.read_timeout_s, settings.min_bytes_per_s)
        self._occupancy = Occupancy(settings, self._extras.associations)
        self._server: _Server | None = None
        self._open: set[EventAssociation] = set()
        self._connections = 0
        self._changed = threading.Condition()

    @property
    def max_instance_bytes(self) -> int:
        """No larger data set is taken."""
        return self._settings.max_instance_bytes

    def start(self) -> None:
        """Listen; raises ConfigurationError where the port cannot be had."""
        settings = self._settings
        handlers: list[Any] = [(evt.EVT_REQUESTED, self._negotiate), (evt.EVT_ACCEPTED, _log_accepted)]
        handlers.append((evt.EVT_RELEASED, lambda event: self._end(event.assoc)))
        if commitment := self._extras.commitment:
            handlers.append((evt.EVT_N_ACTION, commitment.take_request))
            handlers.append((evt.EVT_N_EVENT_REPORT, commitment.take_report))
        try:
            server = self._entity().make_server(
                (settings.host, settings.port),
                contexts=[build_context(Verification)],
                evt_handlers=handlers,
                server_class=_Server,
                request_handler=_RequestHandler,
                listener=self,
                bound=self._extras.bound,
            )
        except OSError as fault:
            where = f"{settings.host}:{settings.port}"
            raise ConfigurationError([f"receive: cannot listen on {where}: {fault.strerror}"]) from fault
        self._server = cast(_Server, server)
        serve = partial(server.serve_forever, STOP_POLL_S)
        threading.Thread(target=serve, name="DimseListener", daemon=True).start()
        log.info("listener_started", host=settings.host, port=self.port)

    def _entity(self) -> AE:
        settings = self._settings
        entity = AE(settings.application_entities[0].ae_title)
        entity.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
        entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        entity.maximum_associations = settings.max_associations
        entity.maximum_pdu_size = settings.max_pdu_bytes
        entity.network_timeout = settings.idle_timeout_s
        entity.acse_timeout = settings.read_timeout_s
        return entity

    @property
    def port(self) -> int:
        """The port it listens on, which the system chose where the settings say 0."""
        return int(self._server.server_address[1]) if self._server else self._settings.port

    @property
    def is_idle(self) -> bool:
        """Is no connection open?"""
        return not self._connections

    def stop(self) -> None:
        """Take no new association, let the open ones finish for a while, abort what is left."""
        if self._server is None:
            return
        self._server.shutdown()
        if not self._wait_until_closed(self._settings.drain_timeout_s):
            with self._changed:
                left = list(self._open)
            for association in left:
                association.abort(block=False)
            self._wait_until_closed(self._settings.read_timeout_s)
        self._server = None
        log.info("listener_stopped")

    def _wait_until_closed(self, timeout_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._connections == 0, timeout_s)

    # --- one association, in its own thread

    def serve(self, handler: "_RequestHandler") -> None:
        """Carry one connection to its end, whatever that is."""
        with self._changed:
            if self._connections >= self._settings.max_associations + SPARE_CONNECTIONS:
                log.warning("connection_refused", host=handler.client_address[0], reason="too many")
                return
            self._connections += 1
        try:
            self._serve(handler)
        except (TlsError, OSError) as fault:
            reason = getattr(fault, "strerror", None) or str(fault) or type(fault).__name__
            log.warning("connection_refused", host=handler.client_address[0], reason=reason)
        finally:
            with self._changed:
                self._connections -= 1
                self._changed.notify_all()

    def _serve(self, handler: "_RequestHandler") -> None:
        if self._extras.tls and not self._settings.admits(str(handler.client_address[0])):
            raise TlsError("host not allowed")  # no handshake for who would be turned away after it
        handler.secure(self._extras.tls, self._settings.read_timeout_s)
        association = handler.new_association(self._limits)
        reception = association.dimse = Reception(association, self)
        with self._changed:
            self._open.add(association)
        try:
            association.run_reactor()
        except Exception as fault:  # the threads of other associations go on
            report("association_failed", association, fault)
        finally:
            reception.discard()
            self._end(association)
            with self._changed:
                self._open.discard(association)
            cast(Any, association.dul).release()

    def _end(self, association: EventAssociation) -> None:
        """Tell of its end, once: on its release, or when the connection is gone."""
        reception = cast(Reception, association.dimse)
        if not reception.titles:
            return
        self._occupancy.leave(*reception.titles)
        reception.titles = None
        ended: Ended = "released" if association.is_released else "aborted"
        said = {"reason": association.refusal} if association.refusal else {}
        log_of(association).info(
            "association_ended", ended=ended, stored=reception.stored, refused=reception.refused, **said
        )
        try:
            if reception.study_instance_uids:
                self._on_release(frozenset(reception.study_instance_uids), ended=ended)
        except Exception as fault:  # nobody is left who could be told
            report("association_release_failed", association, fault)

    def _negotiate(self, event: evt.Event) -> None:
        """Reject the association, or say which of the contexts it proposes are supported."""
        association, settings = cast(EventAssociation, event.assoc), self._settings
        request = request_of(association)
        rejection = objection(settings, association.requestor.address, request)
        titles = (request.called_ae_title.strip(), request.calling_ae_title.strip())
        if not rejection and not self._occupancy.enter(*titles):
            rejection = TOO_MANY
        if rejection:
            _reject(association, rejection)
            return
        cast(Reception, association.dimse).titles = titles
        services = [PUSH_MODEL] if self._extras.commitment else []
        association.acceptor.supported_contexts = supported(
            request, services, accepts_private=settings.accept_private_classes
        )


class _Server(ThreadedAssociationServer):
    """pynetdicom's server, with a backlog that lets a department's devices call at once."""

    request_queue_size = 128
    daemon_threads = True

    def __init__(
        self, *args: Any, listener: DimseListener, bound: socket.socket | None, **kwargs: Any
    ) -> None:
        self._bound = bound
        super().__init__(*args, **kwargs)
        self.listener = listener

    def server_bind(self) -> None:
        """Take the socket that was given, or have one bound."""
        if self._bound is None:
            super().server_bind()
        else:
            cast(socket.socket, self.socket).close()
            self.socket = self._bound
            self.server_address = self._bound.getsockname()
        # Another process may listen on it too, and be faster.
        cast(socket.socket, self.socket).setblocking(False)

    def service_actions(self) -> None:
        """Do nothing; the stock method halts every thread to collect garbage that goes by itself."""

    def shutdown(self) -> None:
        """Close the port; associations go on. The stock method wants to be known to its AE for that."""
        socketserver.BaseServer.shutdown(self)
        if self._bound is None:
            self.server_close()
        else:  # a shutdown would end it for the other processes too
            self._bound.close()


class _RequestHandler(RequestHandler):
    """One connection, and the thread in which all of its association happens."""

    server: _Server

    def handle(self) -> None:
        """Serve the association."""
        try:
            self.server.listener.serve(self)
        finally:
            self.server.shutdown_request(self.request)

    def secure(self, tls: Callable[[], ssl.SSLContext] | None, timeout_s: float) -> None:
        """Make the TLS handshake where there is to be one; raises TlsError where it fails."""
        if tls:
            self.request.settimeout(timeout_s)
            self.request = accept(self.request, tls())

    def new_association(self, limits: LineLimits) -> EventAssociation:
        """Return the association over the connection, set up as the stock handler does."""
        entity = self.server.ae
        association = EventAssociation(entity, self.request, limits)
        association._server = self.server
        acceptor = association.acceptor
        acceptor.maximum_length = entity.maximum_pdu_size
        acceptor.ae_title = self.server.ae_title
        acceptor.address_info = self.local
        acceptor.implementation_class_uid = entity.implementation_class_uid
        acceptor.implementation_version_name = entity.implementation_version_name
        association.requestor.address_info = self.remote
        for event in self.server.get_events():
            found = cast(Any, self.server.get_handlers(event))
            for handler, arguments in [found] if event.is_intervention else found:
                association.bind(event, handler, arguments)
        return association


def _reject(association: EventAssociation, rejection: Rejection) -> None:
    log_of(association).warning("association_rejected", reason=rejection.reason)
    association.acse.send_reject(rejection.result, rejection.source, rejection.diagnostic)
    association.kill()


def _log_accepted(event: evt.Event) -> None:
    association = event.assoc
    accepted, rejected = len(association.accepted_contexts), len(association.rejected_contexts)
    log_of(association).info("association_accepted", accepted_contexts=accepted, rejected_contexts=rejected)
