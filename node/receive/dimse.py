"""Instances come in over DICOM associations: C-ECHO and C-STORE (PS3.4 A and B).

pynetdicom negotiates and speaks the protocol. The data set of a C-STORE goes piece by piece, as it came, into
the spool: stock pynetdicom would hold it whole in memory, or (STORE_RECV_CHUNKED_DATASET) put it into the
system's temporary folder, where an aborted association leaves it behind for ever.
"""

import logging
import socket
import socketserver
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, Protocol, cast

import structlog
from pydicom import Dataset
from pydicom.uid import UID, UID_dictionary  # type: ignore[attr-defined]    # not in its __all__
from pynetdicom import AE, AllStoragePresentationContexts, _config, build_context, evt
from pynetdicom import NonPatientObjectPresentationContexts as NonPatientContexts
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import C_STORE_RQ, DIMSEMessage
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu_primitives import A_ASSOCIATE, P_DATA, SOPClassCommonExtendedNegotiation
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]    # made while it is imported
from pynetdicom.transport import RequestHandler, ThreadedAssociationServer
from structlog.typing import FilteringBoundLogger

from node.commitment import PUSH_MODEL
from node.errors import ConfigurationError, DatasetError, OutOfResourcesError, SightlineError
from node.header import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, FileMeta, Identifiers
from node.receive.commitment import CommitmentDesk
from node.receive.settings import DimseListenerSettings
from node.receive.stream import DatasetStream
from node.storage import InstanceWriter, Storage, Stored

# pynetdicom's own handlers format every message, data sets' identifiers among them, and cost half the rate.
_config.LOG_HANDLER_LEVEL = "none"
logging.getLogger("pynetdicom").setLevel(logging.WARNING)
log = structlog.get_logger()

SUCCESS = 0x0000
PROCESSING_FAILURE = 0x0110
DATASET_MISMATCH = 0xA900
STATUS_BY_ERROR: dict[type[SightlineError], int] = {OutOfResourcesError: 0xA700, DatasetError: 0xC000}
COMMENT_LENGTH = 64
STOP_POLL_S = 0.1

REJECTED_PERMANENT, SERVICE_USER = 0x01, 0x01
NO_REASON, CALLING_UNKNOWN, CALLED_UNKNOWN = 0x01, 0x03, 0x07

STORAGE_SERVICE_CLASS = UID("1.2.840.10008.4.2")
TRANSFER_SYNTAXES = frozenset(uid for uid, row in UID_dictionary.items() if row[1] == "Transfer Syntax")
KNOWN_CLASSES = frozenset(str(context.abstract_syntax) for context in AllStoragePresentationContexts)
# Retired classes too: old devices are the ones that stay. Those without a patient have no study to read.
STORAGE_CLASSES = KNOWN_CLASSES | {
    uid
    for uid, row in UID_dictionary.items()
    if row[1] == "SOP Class" and "Storage" in row[0] and uid.startswith("1.2.840.10008.5.1.4.1.1.")
} - {str(context.abstract_syntax) for context in NonPatientContexts}

Ended = Literal["released", "aborted"]


class OnRelease(Protocol):
    """Told once per association that stored something, however it came to its end."""

    def __call__(self, study_instance_uids: frozenset[str], *, ended: Ended) -> None:
        """Take note of the studies that the association brought instances of."""


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
        commitment: CommitmentDesk | None = None,
    ) -> None:
        self._settings = settings
        self._storage = storage
        self._on_stored = on_stored
        self._on_refused = on_refused
        self._on_release = on_release
        self._commitment = commitment
        self._server: _Server | None = None
        self._open = 0
        self._changed = threading.Condition()

    def start(self) -> None:
        """Listen; raises ConfigurationError where the port cannot be had."""
        settings = self._settings
        entity = AE(settings.application_entities[0].ae_title)
        entity.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
        entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        entity.maximum_associations = settings.max_associations
        entity.maximum_pdu_size = settings.max_pdu_bytes
        entity.network_timeout = settings.idle_timeout_s
        entity.acse_timeout = settings.read_timeout_s
        handlers: list[Any] = [
            (evt.EVT_REQUESTED, self._negotiate),
            (evt.EVT_SOP_COMMON, _claim_for_storage),
            (evt.EVT_ACCEPTED, _log_accepted),
            (evt.EVT_REJECTED, _log_rejected),
            (evt.EVT_C_STORE, self._store),
        ]
        if self._commitment:
            handlers.append((evt.EVT_N_ACTION, self._commitment.take_request))
            handlers.append((evt.EVT_N_EVENT_REPORT, self._commitment.take_report))
        try:
            server = entity.make_server(
                (settings.host, settings.port),
                contexts=[build_context(Verification)],
                evt_handlers=handlers,
                server_class=_Server,
                request_handler=_RequestHandler,
                listener=self,
            )
        except OSError as fault:
            where = f"{settings.host}:{settings.port}"
            raise ConfigurationError([f"receive: cannot listen on {where}: {fault.strerror}"]) from fault
        self._server = cast(_Server, server)
        serve = partial(server.serve_forever, STOP_POLL_S)
        threading.Thread(target=serve, name="DimseListener", daemon=True).start()
        log.info("listener_started", host=settings.host, port=self.port)

    @property
    def port(self) -> int:
        """The port it listens on, which the system chose where the settings say 0."""
        return int(self._server.server_address[1]) if self._server else self._settings.port

    def stop(self) -> None:
        """Take no new association, let the open ones finish for a while, abort what is left."""
        if self._server is None:
            return
        self._server.shutdown()
        if not self._wait_until_closed(self._settings.drain_timeout_s):
            for association in self._server.active_associations:
                association.abort()
            self._wait_until_closed(self._settings.read_timeout_s)
        self._server = None
        log.info("listener_stopped")

    def _wait_until_closed(self, timeout_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._open == 0, timeout_s)

    # --- one association

    def serve(self, handler: "_RequestHandler") -> None:
        """Carry one association from its connection to its end, whatever that is."""
        association = handler.new_association(self._settings.read_timeout_s)
        reception = association.dimse = _Reception(association, self._storage)
        with self._changed:
            self._open += 1
        try:
            association.start()
            association.join()
            reception.discard()
            self._end(association, reception)
        finally:
            with self._changed:
                self._open -= 1
                self._changed.notify_all()

    def _end(self, association: Association, reception: "_Reception") -> None:
        ended: Ended = "released" if association.is_released else "aborted"
        if _request(association) and not association.is_rejected:
            stored, refused = reception.stored, reception.refused
            _log_of(association).info("association_ended", ended=ended, stored=stored, refused=refused)
        try:
            if reception.study_instance_uids:
                self._on_release(frozenset(reception.study_instance_uids), ended=ended)
        except Exception as fault:  # nobody is left who could be told
            _report("association_release_failed", association, fault)

    def _negotiate(self, event: evt.Event) -> None:
        """Reject the association, or say which of the contexts it proposes are supported."""
        association = event.assoc
        objection = self._objection(association)
        if objection:
            diagnostic, reason = objection
            _log_of(association).warning("association_rejected", reason=reason)
            association.acse.send_reject(REJECTED_PERMANENT, SERVICE_USER, diagnostic)
            association.kill()
            return
        association.acceptor.supported_contexts = self._supported(_request(association))

    def _objection(self, association: Association) -> tuple[int, str] | None:
        request = _request(association)
        entity = self._settings.entity(request.called_ae_title.strip())
        if not self._settings.admits(association.requestor.address):
            return NO_REASON, "host not allowed"
        if entity is None:
            return CALLED_UNKNOWN, "called AE title not recognized"
        if entity.allowed_callers and request.calling_ae_title.strip() not in entity.allowed_callers:
            return CALLING_UNKNOWN, "calling AE title not recognized"
        return None

    def _supported(self, request: A_ASSOCIATE) -> list[PresentationContext]:
        """Return the contexts that are proposed and supported, transfer syntaxes in the sender's order.

        Made of the proposal, and not of all that could be proposed: pynetdicom copies what a server supports
        for each association, and 200 classes with 60 syntaxes take it 50 ms.
        """
        syntaxes_by_class: dict[str, dict[str, None]] = {str(Verification): {}}
        for context in request.presentation_context_definition_list:
            sop_class = cast(UID, context.abstract_syntax)
            is_private = self._settings.accept_private_classes and sop_class.is_private
            is_commitment = sop_class == PUSH_MODEL and self._commitment is not None
            if sop_class == Verification or sop_class in STORAGE_CLASSES or is_private or is_commitment:
                offered = [str(uid) for uid in context.transfer_syntax if uid in TRANSFER_SYNTAXES]
                syntaxes_by_class.setdefault(str(sop_class), {}).update(dict.fromkeys(offered))
        supported = [build_context(uid, list(given)) for uid, given in syntaxes_by_class.items() if given]
        for context in supported:
            if context.abstract_syntax == PUSH_MODEL:
                # An archive that reports on an association of its own offers to be the provider there.
                context.scu_role = context.scp_role = True
        return supported

    # --- one instance

    def _store(self, event: evt.Event) -> Dataset:
        association, request = event.assoc, cast(C_STORE, event.request)
        reception = cast(_Reception, association.dimse)
        stream = cast(DatasetStream, request.DataSet)
        try:
            status, comment = self._store_stream(stream, request, reception)
        except Exception as fault:  # the peer must be answered
            _report("instance_failed", association, fault)
            status, comment = PROCESSING_FAILURE, "the node failed, see its log"
        finally:
            stream.discard()
        answer = Dataset()
        answer.Status = status
        if status != SUCCESS:
            answer.ErrorComment = comment[:COMMENT_LENGTH]
            reception.refused += 1
            self._on_refused(_request(association).called_ae_title.strip(), status)
            uid, code = str(request.AffectedSOPInstanceUID), f"0x{status:04X}"
            _log_of(association).warning(
                "instance_refused", sop_instance_uid=uid, status=code, reason=comment
            )
        return answer

    def _store_stream(
        self, stream: DatasetStream, request: C_STORE, reception: "_Reception"
    ) -> tuple[int, str]:
        """Return status and comment; on success the instance is on disk and announced."""
        try:
            writer = stream.complete()
            mismatch = _mismatch(writer.identifiers(), request)
            if mismatch:
                return DATASET_MISMATCH, mismatch
            stored = writer.commit()
        except (OutOfResourcesError, DatasetError) as fault:
            return STATUS_BY_ERROR[type(fault)], getattr(fault, "message", str(fault))
        reception.study_instance_uids.add(stored.instance.study_instance_uid)
        self._on_stored(stored)
        reception.stored += 1
        uids = ("study_instance_uid", "series_instance_uid", "sop_instance_uid")
        named = {uid: getattr(stored.instance, uid) for uid in uids}
        _log_of(reception.assoc).info("instance_stored", is_new=stored.is_new, **named)
        return SUCCESS, ""


class _Server(ThreadedAssociationServer):
    """pynetdicom's server, with a backlog that lets a department's devices call at once."""

    request_queue_size = 128
    daemon_threads = True

    def __init__(self, *args: Any, listener: DimseListener, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.listener = listener

    def service_actions(self) -> None:
        """Do nothing; the stock method halts every thread to collect garbage that goes by itself."""

    def shutdown(self) -> None:
        """Close the port; associations go on. The stock method wants to be known to its AE for that."""
        socketserver.BaseServer.shutdown(self)
        self.server_close()


class _RequestHandler(RequestHandler):
    """One connection; the thread it runs in is the server's, and waits for the association's."""

    server: _Server

    def handle(self) -> None:
        """Serve the association."""
        self.server.listener.serve(self)

    def new_association(self, read_timeout_s: float) -> Association:
        """Return the association, bound to its socket and not yet started."""
        connection = cast(socket.socket, self.request)
        # Without it, each answer waits for the peer's delayed acknowledgement: 40 ms an instance.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Without it, a peer that stops inside a PDU blocks its thread for ever.
        connection.settimeout(read_timeout_s)
        return self._create_association()


class _Reception(DIMSEServiceProvider):
    """The DIMSE provider of one association: data sets go to the spool, and it knows what came."""

    def __init__(self, association: Association, storage: Storage) -> None:
        super().__init__(association)
        self.storage = storage
        self.study_instance_uids: set[str] = set()
        self.stored = 0
        self.refused = 0

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Take in a piece of a message; one that makes no sense ends the association."""
        if self.message is None:
            self.message = DIMSEMessage()
            self.message.data_set = DatasetStream(partial(self.new_instance, self.message))
        try:
            super().receive_primitive(primitive)
        except Exception as fault:  # it would end the reactor's thread, and the association hang
            _report("message_refused", self.assoc, fault)
            self.dul.event_queue.put("Evt19")

    def new_instance(self, message: DIMSEMessage) -> InstanceWriter | None:
        """Return the writer for the instance whose C-STORE command set has come, None for another message."""
        if not isinstance(message, C_STORE_RQ):
            return None
        command, request = message.command_set, _request(self.assoc)
        syntax_by_id = {each.context_id: each.transfer_syntax[0] for each in self.assoc.accepted_contexts}
        if message.context_id not in syntax_by_id:
            raise DatasetError("C-STORE", "the presentation context was not accepted")
        return self.storage.new_instance(
            FileMeta(
                str(command.AffectedSOPClassUID),
                str(command.AffectedSOPInstanceUID),
                str(syntax_by_id[message.context_id]),
                calling_ae_title=request.calling_ae_title.strip(),
                called_ae_title=request.called_ae_title.strip(),
            )
        )

    def discard(self) -> None:
        """Forget a message that will not be finished."""
        stream = self.message.data_set if self.message else None
        if isinstance(stream, DatasetStream):
            stream.discard()


def _request(association: Association) -> A_ASSOCIATE:
    return cast(A_ASSOCIATE, association.requestor.primitive)


def _claim_for_storage(event: evt.Event) -> dict[UID, SOPClassCommonExtendedNegotiation]:
    """Say of the accepted classes that pynetdicom does not know that they are for storage (PS3.7 D.3.3.6)."""
    items = {}
    for context in event.assoc.acceptor.supported_contexts:
        sop_class = cast(UID, context.abstract_syntax)
        if sop_class not in KNOWN_CLASSES and sop_class not in (Verification, PUSH_MODEL):
            item = SOPClassCommonExtendedNegotiation()
            item.sop_class_uid = sop_class
            item.service_class_uid = STORAGE_SERVICE_CLASS
            items[sop_class] = item
    return items


def _mismatch(identifiers: Identifiers, request: C_STORE) -> str:
    """Return in what the data set contradicts the command; empty where it does not."""
    if identifiers.sop_class_uid != request.AffectedSOPClassUID:
        return "SOP Class UID of data set and command differ"
    if identifiers.sop_instance_uid != request.AffectedSOPInstanceUID:
        return "SOP Instance UID of data set and command differ"
    return ""


def _log_of(association: Association) -> FilteringBoundLogger:
    """Return a logger that names the association."""
    request, host = _request(association), association.requestor.address
    bound: FilteringBoundLogger = log.bind(
        called_ae_title=request.called_ae_title, calling_ae_title=request.calling_ae_title, host=host
    )
    return bound


def _log_accepted(event: evt.Event) -> None:
    association = event.assoc
    accepted, rejected = len(association.accepted_contexts), len(association.rejected_contexts)
    _log_of(association).info("association_accepted", accepted_contexts=accepted, rejected_contexts=rejected)


def _log_rejected(event: evt.Event) -> None:
    _log_of(event.assoc).warning("association_rejected", reason="too many associations")


def _report(happened: str, association: Association, fault: Exception) -> None:
    """Log a fault; the log keeps the text of foreign exceptions to itself, which may quote a data set."""
    _log_of(association).error(happened, exc_info=fault)
