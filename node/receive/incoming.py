"""What one association brings: instances go piece by piece into the spool, each answered once it is safe."""

from collections.abc import Callable
from typing import Any, Protocol, cast

import structlog
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import DIMSEMessage
from pynetdicom.pdu_primitives import A_ASSOCIATE, P_DATA
from structlog.typing import FilteringBoundLogger

from node.errors import DatasetError, OutOfResourcesError, SightlineError
from node.header import FileMeta, Identifiers
from node.receive.command import (
    C_STORE_RQ,
    MAX_COMMAND_BYTES,
    StoreRequest,
    command_field,
    encode_store_answer,
    has_data_set,
    read_elements,
    read_store_request,
)
from node.receive.pdu import (
    INVALID_VALUE,
    P_DATA_TF,
    PDU_HEADER,
    PDV_HEADER,
    UNEXPECTED_PDU,
    Fragment,
    PduError,
)
from node.receive.upper_layer import EventAssociation, Line
from node.storage import InstanceWriter, Storage, Stored

log = structlog.get_logger()

SUCCESS = 0x0000
PROCESSING_FAILURE = 0x0110
DATASET_MISMATCH = 0xA900
STATUS_BY_ERROR: dict[type[SightlineError], int] = {OutOfResourcesError: 0xA700, DatasetError: 0xC000}
COMMENT_LENGTH = 64

COMMAND, LAST = 0x01, 0x02
# What follows a command that is no C-STORE is a list of references, or a query: never large.
MAX_OTHER_BYTES = 4 << 20


class Desk(Protocol):
    """What the associations of a listener share."""

    @property
    def storage(self) -> Storage:
        """Where the instances go."""

    @property
    def max_instance_bytes(self) -> int:
        """No larger data set is taken."""

    @property
    def on_stored(self) -> Callable[[Stored], None]:
        """Told of each instance before its sender reads Success."""

    @property
    def on_refused(self) -> Callable[[str, int], None]:
        """Told called AE title and status of each that was not taken."""


class Reception(DIMSEServiceProvider):
    """The DIMSE provider of one association: serves C-STORE, gives pynetdicom any other message whole."""

    def __init__(self, association: EventAssociation, desk: Desk) -> None:
        super().__init__(association)
        self._desk = desk
        self._context_id = 0
        self._command = bytearray()
        self._other: bytearray | None = None
        self._store: _Store | None = None
        # Called and calling AE title, from the moment it was let in until its end was told.
        self.titles: tuple[str, str] | None = None
        self.study_instance_uids: set[str] = set()
        self._log: FilteringBoundLogger | None = None
        self.stored = 0
        self.refused = 0

    @property
    def is_in_message(self) -> bool:
        """Has a message begun that is not complete?"""
        return bool(self._command) or self._other is not None or self._store is not None

    def take(self, fragment: Fragment) -> None:
        """Take a piece of a message; raises PduError where it fits none."""
        if self.is_in_message and fragment.context_id != self._context_id:
            raise PduError(UNEXPECTED_PDU, "a message in two presentation contexts")
        self._context_id = fragment.context_id
        if fragment.is_command:
            self._take_command(fragment)
        elif self._store is not None:
            self._store.write(fragment.data)
            if fragment.is_last:
                self._finish(self._store)
        elif self._other is not None:
            self._take_other(self._other, fragment)
        else:
            raise PduError(UNEXPECTED_PDU, "a data set without a command")

    def discard(self) -> None:
        """Forget an instance that will not be finished."""
        if self._store is not None:
            self._store.discard()

    def _take_command(self, fragment: Fragment) -> None:
        if self._store is not None or self._other is not None:
            raise PduError(UNEXPECTED_PDU, "a command inside a data set")
        self._command += fragment.data
        if len(self._command) > MAX_COMMAND_BYTES:
            raise PduError(INVALID_VALUE, f"a command set of more than {MAX_COMMAND_BYTES} bytes")
        if not fragment.is_last:
            return
        command, self._command = bytes(self._command), bytearray()
        try:
            values = read_elements(command)
            if command_field(values) == C_STORE_RQ:
                self._begin(read_store_request(fragment.context_id, values))
            else:
                self._pass_on(command, COMMAND | LAST)
                self._other = bytearray() if has_data_set(values) else None
        except DatasetError as fault:
            raise PduError(INVALID_VALUE, fault.message) from fault

    def _take_other(self, gathered: bytearray, fragment: Fragment) -> None:
        gathered += fragment.data
        if len(gathered) > MAX_OTHER_BYTES:
            raise PduError(INVALID_VALUE, f"a data set of more than {MAX_OTHER_BYTES} bytes")
        if fragment.is_last:
            self._other = None
            self._pass_on(bytes(gathered), LAST)

    def _pass_on(self, data: bytes, control: int) -> None:
        """Give pynetdicom a part of a message that is not C-STORE."""
        primitive = P_DATA()
        # It wants lists, whatever it says of itself.
        item: Any = [self._context_id, bytes([control]) + data]
        primitive.presentation_data_value_list = [item]
        if self.message is None:
            self.message = DIMSEMessage()
        try:
            self.receive_primitive(primitive)
        except Exception as fault:  # it raises whatever its parsing of hostile bytes ran into
            raise PduError(INVALID_VALUE, f"a message that cannot be read: {type(fault).__name__}") from fault

    # --- C-STORE

    def _begin(self, request: StoreRequest) -> None:
        context = self.assoc._accepted_cx.get(request.context_id)
        if context is None:
            raise PduError(INVALID_VALUE, "a presentation context that was not accepted")
        association = request_of(self.assoc)
        meta = FileMeta(
            request.sop_class_uid,
            request.sop_instance_uid,
            str(context.transfer_syntax[0]),
            calling_ae_title=association.calling_ae_title.strip(),
            called_ae_title=association.called_ae_title.strip(),
        )
        self._store = _Store(request, meta, self._desk)
        if not request.has_data_set:
            self._finish(self._store)

    def _finish(self, store: "_Store") -> None:
        """Answer an instance that is there to its last byte."""
        self._store = None
        try:
            status, comment = self._keep(store)
        except Exception as fault:  # the peer must be answered
            report("instance_failed", self.assoc, fault)
            status, comment = PROCESSING_FAILURE, "the node failed, see its log"
        try:
            if status != SUCCESS:
                store.discard()
                self._note_refused(store.request, status, comment)
            answer = encode_store_answer(store.request, status, comment[:COMMENT_LENGTH])
            item = PDV_HEADER.pack(len(answer) + 2, store.request.context_id, COMMAND | LAST) + answer
            cast(Line, self.dul.socket).send(PDU_HEADER.pack(P_DATA_TF, len(item)) + item)
        finally:  # the peer waits for none of this
            store.discard()

    def _keep(self, store: "_Store") -> tuple[int, str]:
        """Return status and comment; on success the instance is on disk and announced."""
        try:
            writer = store.complete()
            identifiers = writer.identifiers()
            mismatch = _mismatch(identifiers, store.request)
            if mismatch:
                return DATASET_MISMATCH, mismatch
            stored = writer.commit(identifiers)
        except (OutOfResourcesError, DatasetError) as fault:
            return STATUS_BY_ERROR[type(fault)], getattr(fault, "message", str(fault))
        self.study_instance_uids.add(stored.instance.study_instance_uid)
        self._desk.on_stored(stored)
        self.stored += 1
        self._log = self._log or log_of(self.assoc)
        self._log.info(
            "instance_stored",
            is_new=stored.is_new,
            study_instance_uid=stored.instance.study_instance_uid,
            series_instance_uid=stored.instance.series_instance_uid,
            sop_instance_uid=stored.instance.sop_instance_uid,
        )
        return SUCCESS, ""

    def _note_refused(self, request: StoreRequest, status: int, comment: str) -> None:
        self.refused += 1
        self._desk.on_refused(request_of(self.assoc).called_ae_title.strip(), status)
        uid, code = request.sop_instance_uid, f"0x{status:04X}"
        log_of(self.assoc).warning("instance_refused", sop_instance_uid=uid, status=code, reason=comment)


class _Store:
    """One C-STORE request while its data set comes in; a failure waits until all of it is there.

    Before, nobody could be told.
    """

    def __init__(self, request: StoreRequest, meta: FileMeta, desk: Desk) -> None:
        self.request = request
        self._meta = meta
        self._desk = desk
        self._size = 0
        self._writer: InstanceWriter | None = None
        self._fault: SightlineError | None = None

    def write(self, data: memoryview) -> None:
        """Append a piece; after a failure it is dropped."""
        if self._fault is not None:
            return
        self._size += len(data)
        try:
            if self._size > self._desk.max_instance_bytes:
                raise OutOfResourcesError(f"larger than {self._desk.max_instance_bytes >> 20} MiB")
            if self._writer is None:
                self._writer = self._desk.storage.new_instance(self._meta)
            self._writer.write(data)
        except SightlineError as fault:
            self._fail(fault)

    def _fail(self, fault: SightlineError) -> None:
        self._fault = fault
        self.discard()

    def complete(self) -> InstanceWriter:
        """Return the writer that has the whole data set; raises what came in between."""
        if self._fault is not None:
            raise self._fault
        if self._writer is None:
            raise DatasetError("C-STORE", "the data set is empty")
        return self._writer

    def discard(self) -> None:
        """Delete what was written, unless it was committed."""
        if self._writer is not None:
            self._writer.abort()


def _mismatch(identifiers: Identifiers, request: StoreRequest) -> str:
    """Return in what the data set contradicts the command; empty where it does not."""
    if identifiers.sop_class_uid != request.sop_class_uid:
        return "SOP Class UID of data set and command differ"
    if identifiers.sop_instance_uid != request.sop_instance_uid:
        return "SOP Instance UID of data set and command differ"
    return ""


def request_of(association: Association) -> A_ASSOCIATE:
    """Return what the peer asked for when it opened the association; before it did, nothing has a title."""
    return association.requestor.primitive or A_ASSOCIATE()


def log_of(association: Association) -> FilteringBoundLogger:
    """Return a logger that names the association."""
    bound: FilteringBoundLogger = log.bind(host=association.requestor.address)
    if association.requestor.primitive:
        request = request_of(association)
        titles = {"called_ae_title": request.called_ae_title, "calling_ae_title": request.calling_ae_title}
        bound = bound.bind(**titles)
    return bound


def report(happened: str, association: Association, fault: Exception) -> None:
    """Log a fault; the log keeps the text of foreign exceptions to itself, which may quote a data set."""
    log_of(association).error(happened, exc_info=fault)
