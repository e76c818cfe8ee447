"""Objects go out over DICOM associations: C-STORE as a user, C-ECHO to see who is there (PS3.4 A and B)."""

import logging
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import structlog
from pydicom import Dataset, dcmread
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, _config, build_context, evt
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]    # made while it is imported

from node.deliver.summary import Answer, SendSummary, SentFile, answer_to
from node.errors import DatasetError, DeliveryRefusedError, DestinationUnreachableError
from node.header import (
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    FileMeta,
    encode_file_meta,
    guess_transfer_syntax,
    read_file_meta,
    read_sop_uids,
)

_config.LOG_HANDLER_LEVEL = "none"
# Send the bytes of the file, not what decoding and encoding makes of them.
_config.STORE_SEND_CHUNKED_DATASET = True
logging.getLogger("pynetdicom").setLevel(logging.WARNING)
log = structlog.get_logger()

MAX_CONTEXTS = 128
MAX_MESSAGE_ID = 65535
# These can be turned into Implicit VR Little Endian, which every peer must take, without touching a pixel.
CONVERTIBLE = frozenset({ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian})
# The time-out of an answer begins when all is queued, not when it is sent: allow for a slow line.
SLOWEST_BYTES_PER_S = 500_000
TRIES = 2
# A peer that lets two files in a row go unanswered, twice each, will not answer the others.
MAX_UNANSWERED = 2


@dataclass(frozen=True, slots=True)
class Peer:
    """A DICOM application elsewhere; `timeout_s` is how long it may take to connect, or to answer."""

    host: str
    port: int
    ae_title: str
    calling_ae_title: str = "SIGHTLINE"
    timeout_s: float = 30.0

    def __str__(self) -> str:
        """Return the address as it is written on a command line."""
        return f"{self.ae_title}@{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DimseDestination:
    """A Destination that is sent to by C-STORE, one association for each batch."""

    name: str
    host: str
    port: int
    ae_title: str
    calling_ae_title: str = "SIGHTLINE"
    timeout_s: float = 30.0

    @property
    def peer(self) -> Peer:
        """Who is sent to."""
        return Peer(self.host, self.port, self.ae_title, self.calling_ae_title, self.timeout_s)

    def check(self) -> None:
        """Raise DestinationUnreachableError unless the peer answers a C-ECHO."""
        try:
            echo(self.peer)
        except DestinationUnreachableError as fault:
            raise DestinationUnreachableError(self.name, str(fault)) from fault

    def deliver(self, paths: Sequence[Path]) -> None:
        """Return once every object was accepted; see Destination for what it raises."""
        summary = send_files(paths, self.peer)
        for file in summary.files:
            if file.answer is Answer.WARNING:
                log.warning(
                    "delivery_warned",
                    destination=self.name,
                    sop_instance_uid=file.sop_instance_uid,
                    status=f"0x{file.status:04X}",
                )
        # What may pass later decides: after another try, what cannot is all that is left to report.
        for file in summary.failures:
            if file.answer in (Answer.BUSY, Answer.UNANSWERED):
                raise DestinationUnreachableError(self.name, f"{file.sop_instance_uid}: {file.reason}")
        for file in summary.failures:
            raise DeliveryRefusedError(file.sop_instance_uid, f"{self.name}: {file.reason}")
        log.info("objects_delivered", destination=self.name, objects=len(summary.files))


def echo(peer: Peer) -> None:
    """Return once the peer answered a C-ECHO; raises DestinationUnreachableError where it does not."""
    with _associate(peer, [build_context(Verification)]) as association:
        status = association.send_c_echo() if association.is_established else Dataset()
    if status.get("Status") != 0x0000:
        raise DestinationUnreachableError(str(peer), "no Success to a C-ECHO")


def send_files(
    paths: Iterable[Path], peer: Peer, progress: Callable[[SentFile], object] | None = None
) -> SendSummary:
    """Send DICOM files of any kind as they are, and return what became of each.

    File meta that is missing or wrong is put right on the way. `progress` is called after each file. A peer
    that cannot be reached raises nothing: its files are not answered.
    """
    files = []
    with tempfile.TemporaryDirectory(prefix="sightline-send-") as scratch:
        for sent in _send_all(paths, peer, Path(scratch)):
            files.append(sent)
            if progress:
                progress(sent)
    return SendSummary(tuple(files))


@dataclass(frozen=True, slots=True)
class _Outgoing:
    """A file to send: `part10` is `path`, or a copy with the file meta that `path` lacks."""

    path: Path
    part10: Path
    meta: FileMeta

    @property
    def uid(self) -> str:
        return self.meta.sop_instance_uid

    @property
    def contexts(self) -> tuple[tuple[str, str], ...]:
        """SOP class and transfer syntax of each presentation context that would do, the best first."""
        own = (self.meta.sop_class_uid, self.meta.transfer_syntax_uid)
        if self.meta.transfer_syntax_uid not in CONVERTIBLE:
            return (own,)
        return own, (self.meta.sop_class_uid, str(ImplicitVRLittleEndian))


def _send_all(paths: Iterable[Path], peer: Peer, scratch: Path) -> Iterator[SentFile]:
    batch: list[_Outgoing] = []
    contexts: set[tuple[str, str]] = set()
    for path in paths:
        try:
            outgoing = _prepare(path, scratch)
        except (DatasetError, OSError) as fault:
            reason = fault.message if isinstance(fault, DatasetError) else str(fault.strerror)
            yield SentFile(path, "", Answer.UNREADABLE, comment=reason)
            continue
        if len(contexts.union(outgoing.contexts)) > MAX_CONTEXTS:
            yield from _send_batch(batch, peer)
            batch, contexts = [], set()
        batch.append(outgoing)
        contexts.update(outgoing.contexts)
    if batch:
        yield from _send_batch(batch, peer)


def _prepare(path: Path, scratch: Path) -> _Outgoing:
    """Return what is sent for a file; raises DatasetError where nothing can be."""
    with path.open("rb") as file:
        found = read_file_meta(file)
        start = file.tell()
        syntax = found.transfer_syntax_uid or guess_transfer_syntax(file)
        sop_class, sop_instance = read_sop_uids(file, syntax, path.name)
        # Tools that give a data set new UIDs often forget the file meta: the data set is right.
        meta = FileMeta(sop_class or found.sop_class_uid, sop_instance or found.sop_instance_uid, syntax)
        if not meta.sop_class_uid or not meta.sop_instance_uid:
            raise DatasetError(path.name, "no SOP Class UID or no SOP Instance UID")
        if replace(found, calling_ae_title="", called_ae_title="") == meta:
            return _Outgoing(path, path, meta)
        file.seek(start)
        with tempfile.NamedTemporaryFile(dir=scratch, suffix=".dcm", delete=False) as copy:
            copy.write(encode_file_meta(meta))
            shutil.copyfileobj(file, copy)
        return _Outgoing(path, Path(copy.name), meta)


def _send_batch(batch: Sequence[_Outgoing], peer: Peer) -> Iterator[SentFile]:
    """Yield what became of each file, over one association unless an answer is lost."""
    waiting, tries, unanswered = list(batch), 0, 0
    contexts = [build_context(*pair) for pair in dict.fromkeys(p for item in batch for p in item.contexts)]
    while waiting:
        try:
            with _associate(peer, contexts) as association:
                while waiting and (sent := _send(association, waiting[0], peer.timeout_s)):
                    del waiting[0]
                    tries = unanswered = 0
                    yield sent
        except DestinationUnreachableError as fault:
            yield from (SentFile(one.path, one.uid, Answer.UNANSWERED, comment=str(fault)) for one in waiting)
            return
        if not waiting:
            return
        # The answer was lost: the peer may have stored the file, or not.
        tries += 1
        if tries == TRIES:
            lost = SentFile(waiting[0].path, waiting[0].uid, Answer.UNANSWERED, comment="association lost")
            del waiting[0]
            tries, unanswered = 0, unanswered + 1
            yield lost
        if unanswered == MAX_UNANSWERED:
            yield from (replace(lost, path=one.path, sop_instance_uid=one.uid) for one in waiting)
            return


def _send(association: Association, outgoing: _Outgoing, timeout_s: float) -> SentFile | None:
    """Return what became of a file, None where the answer was lost."""
    accepted = {
        (str(each.abstract_syntax), str(each.transfer_syntax[0])) for each in association.accepted_contexts
    }
    usable = [pair for pair in outgoing.contexts if pair in accepted]
    if not usable:
        sop_class, syntax = (UID(uid).name for uid in outgoing.contexts[0])
        comment = f"no presentation context for {sop_class} in {syntax}"
        return SentFile(outgoing.path, outgoing.uid, Answer.REFUSED, comment=comment)
    if not association.is_established:
        return None
    association.dimse_timeout = timeout_s + outgoing.part10.stat().st_size / SLOWEST_BYTES_PER_S
    is_own = usable[0] == outgoing.contexts[0]
    try:
        response = association.send_c_store(outgoing.part10 if is_own else dcmread(outgoing.part10))
    except RuntimeError:  # the association ended in between
        return None
    except (AttributeError, EOFError, KeyError, NotImplementedError, OSError, TypeError, ValueError) as fault:
        return SentFile(outgoing.path, outgoing.uid, Answer.UNREADABLE, comment=type(fault).__name__)
    if "Status" not in response:
        return None
    status, comment = int(response.Status), str(response.get("ErrorComment") or "")
    return SentFile(outgoing.path, outgoing.uid, answer_to(status), status, comment)


@contextmanager
def _associate(peer: Peer, contexts: list[PresentationContext]) -> Iterator[Association]:
    """Open an association and release it; it is not established where the peer takes none of the contexts.

    Raises DestinationUnreachableError where there is none at all.
    """
    entity = AE(peer.calling_ae_title)
    entity.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
    entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    entity.acse_timeout = entity.dimse_timeout = entity.connection_timeout = peer.timeout_s
    entity.network_timeout = None
    opened: list[socket.socket] = []
    try:
        association = entity.associate(
            peer.host,
            peer.port,
            contexts,
            peer.ae_title,
            evt_handlers=[(evt.EVT_CONN_OPEN, _prepare_association, [peer.timeout_s, opened])],
        )
    except OSError as fault:  # a name that cannot be resolved
        raise DestinationUnreachableError(str(peer), str(fault.strerror)) from fault
    try:
        if not association.is_established and not association.rejected_contexts:
            raise DestinationUnreachableError(str(peer), _why(association, bool(opened)))
        yield association
    finally:
        if association.is_established:
            association.release()
        # pynetdicom drops the socket of an association that its peer ended, and leaves it open.
        for connection in opened:
            connection.close()


class _Answers(DIMSEServiceProvider):
    """The DIMSE provider of an association that asks: each message that comes is an answer to who waits."""

    def get_msg(self, block: bool = False) -> Any:
        """Return the next message; nothing to who does not wait for it.

        That is pynetdicom's reactor, which looks for requests. It is halted before a message is sent, but on
        a busy machine may look once more, take the answer for an unexpected request, and drop it.
        """
        return super().get_msg(block) if block else (None, None)


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
