"""Objects go out over DICOM associations: C-STORE as a user, C-ECHO to see who is there (PS3.4 A and B)."""

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import structlog
from pydicom import dcmread
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import build_context
from pynetdicom.association import Association

from node.deliver import find
from node.deliver.association import Peer, associate, echo
from node.deliver.commitment import ask_commitment
from node.deliver.find import find_instances
from node.deliver.summary import Answer, SendSummary, SentFile, answer_to
from node.domain.delivery import CommitmentReport, Receipt, Reception, Reference
from node.errors import DatasetError, DestinationUnreachableError
from node.header import (
    FileMeta,
    encode_file_meta,
    guess_transfer_syntax,
    read_file_meta,
    read_sop_uids,
)
from node.tls import ClientContext

log = structlog.get_logger()

MAX_CONTEXTS = 128
MAX_MESSAGE_ID = 65535
# These can be turned into Implicit VR Little Endian, which every peer must take, without touching a pixel.
CONVERTIBLE = frozenset({ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian})
# The time-out of an answer begins when all is queued, not when it is sent: allow for a slow line.
SLOWEST_BYTES_PER_S = 500_000
TRIES = 2
RECEPTIONS = {
    Answer.ACCEPTED: Reception.ACCEPTED,
    Answer.WARNING: Reception.ACCEPTED,
    Answer.REFUSED: Reception.REFUSED,
    Answer.BUSY: Reception.POSTPONED,
    Answer.UNANSWERED: Reception.POSTPONED,
    Answer.UNREADABLE: Reception.REFUSED,
}
# A peer that lets two files in a row go unanswered, twice each, will not answer the others.
MAX_UNANSWERED = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class DimseDestination:
    """A Destination that is sent to by C-STORE, one association for each batch."""

    name: str
    host: str
    port: int
    ae_title: str
    calling_ae_title: str = "SIGHTLINE"
    timeout_s: float = 30.0
    tls: Callable[[], ClientContext] | None = field(default=None, repr=False, compare=False)

    @property
    def peer(self) -> Peer:
        """Who is sent to."""
        return Peer(self.host, self.port, self.ae_title, self.calling_ae_title, self.timeout_s, self.tls)

    def check(self) -> None:
        """Raise DestinationUnreachableError unless the peer answers a C-ECHO."""
        try:
            echo(self.peer)
        except DestinationUnreachableError as fault:
            raise DestinationUnreachableError(self.name, str(fault)) from fault

    def deliver(self, paths: Sequence[Path]) -> list[Receipt]:
        """Return the answer to each file; see Destination for what it raises."""
        summary = send_files(paths, self.peer)
        for file in summary.files:
            if file.answer is Answer.WARNING:
                log.warning(
                    "delivery_warned",
                    destination=self.name,
                    sop_instance_uid=file.sop_instance_uid,
                    status=f"0x{file.status:04X}",
                )
        by_path = {file.path: file for file in summary.files}
        return [_receipt(by_path[path]) for path in paths]

    def confirm(self, objects: Sequence[Reference]) -> frozenset[str]:
        """Return which of the objects the archive finds; see Destination for what it raises."""
        found: set[str] = set()
        for study, series in {(one.study_instance_uid, one.series_instance_uid): None for one in objects}:
            found |= find_instances(self.peer, study, series)
        return frozenset(one.sop_instance_uid for one in objects if one.sop_instance_uid in found)

    def ask_commitment(
        self,
        objects: Sequence[Reference],
        transaction_uid: str,
        *,
        on_report: Callable[[CommitmentReport], bool],
        has_answered: Callable[[], bool],
    ) -> None:
        """Ask the archive to keep the objects; see CommittingDestination for what it raises."""
        ask_commitment(self.peer, objects, transaction_uid, on_report=on_report, has_answered=has_answered)

    def count_instances(self, study_instance_uid: str) -> int | None:
        """Return how many instances the archive says a study has; see `node.deliver.find`."""
        return find.count_instances(self.peer, study_instance_uid)

    def count_by_series(self, study_instance_uid: str) -> dict[str, int]:
        """Return how many instances the archive says each series has; see `node.deliver.find`."""
        return find.count_by_series(self.peer, study_instance_uid)


def _receipt(file: SentFile) -> Receipt:
    return Receipt(RECEPTIONS[file.answer], "" if file.is_accepted else file.reason)


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
            with associate(peer, contexts) as association:
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
