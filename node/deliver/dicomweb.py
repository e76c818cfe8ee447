"""Objects go out over HTTP: STOW-RS to store, QIDO-RS to ask what is there (PS3.18 10.5 and 10.6)."""

import json
import ssl
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import structlog
from pydicom.datadict import tag_for_keyword

from node.deliver.http import HttpAnswer, HttpPeer, ask
from node.deliver.summary import Answer, answer_to
from node.domain.delivery import Receipt, Reception, Reference
from node.errors import DatasetError, DestinationUnreachableError, UnconfirmableError
from node.header import guess_transfer_syntax, read_file_meta, read_sop_uids

log = structlog.get_logger()

JSON = "application/dicom+json"
CHUNK_BYTES = 1 << 20
# So much goes in one request: what is lost with an answer is sent again.
MAX_BATCH_BYTES, MAX_BATCH_FILES = 256 << 20, 200
# The answer is awaited longer for more: an archive may store it all before it says a word.
SLOWEST_BYTES_PER_S = 500_000
PAGE, MAX_PAGES = 1000, 100
# A question may take so many times as long as one answer, however many pages there are.
MAX_TIMEOUTS = 4
RECEPTIONS = {
    Answer.ACCEPTED: Reception.ACCEPTED,
    Answer.WARNING: Reception.ACCEPTED,
    Answer.BUSY: Reception.POSTPONED,
    Answer.REFUSED: Reception.REFUSED,
}
# What is wrong with the objects themselves; all else may be mended at the archive, or between here and there.
REFUSED_STATUSES = frozenset({400, 406, 411, 413, 415, 422})
REFUSED_QUESTIONS = frozenset({400, 401, 403, 404, 405, 406, 501})
ANSWERED_STATUSES = frozenset({200, 202, 409})
PROCESSING_FAILURE = 0x0110

Attributes = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class StowDestination:
    """A Destination that is sent to by STOW-RS, and asked by QIDO-RS; `url` is where its `/studies` are."""

    name: str
    url: str
    token: str = ""
    timeout_s: float = 30.0
    tls: Callable[[], ssl.SSLContext] | None = None

    @property
    def peer(self) -> HttpPeer:
        """Who is sent to."""
        return HttpPeer(self.url, self.token, self.timeout_s, self.tls)

    def check(self) -> None:
        """Raise DestinationUnreachableError unless the peer answers a question."""
        try:
            list(_find(self.peer, "/studies", {"limit": "1"}))
        except (DestinationUnreachableError, UnconfirmableError) as fault:
            raise DestinationUnreachableError(self.name, str(fault)) from fault

    def deliver(self, paths: Sequence[Path]) -> list[Receipt]:
        """Return the answer to each file; see Destination."""
        receipts: dict[Path, Receipt] = {}
        for batch in _batches(paths):
            receipts |= self._deliver_batch(batch)
        return [receipts[path] for path in paths]

    def confirm(self, objects: Sequence[Reference]) -> frozenset[str]:
        """Return which of the objects the archive holds; see Destination."""
        series = dict.fromkeys((one.study_instance_uid, one.series_instance_uid) for one in objects)
        held = {uid for study, one in series for uid in find_instances(self.peer, study, one)}
        return frozenset(one.sop_instance_uid for one in objects) & held

    def count_instances(self, study_instance_uid: str) -> int | None:
        """Return how many instances the archive says a study has; see the function of this name."""
        return count_instances(self.peer, study_instance_uid)

    def count_by_series(self, study_instance_uid: str) -> dict[str, int]:
        """Return how many instances the archive says each series has; see the function of this name."""
        return count_by_series(self.peer, study_instance_uid)

    def _deliver_batch(self, paths: Sequence[Path]) -> dict[Path, Receipt]:
        receipts: dict[Path, Receipt] = {}
        uid_by_path: dict[Path, str] = {}
        for path in paths:
            try:
                uid_by_path[path] = _sop_instance_uid(path)
            except (DatasetError, OSError) as fault:
                reason = fault.message if isinstance(fault, DatasetError) else str(fault.strerror)
                receipts[path] = Receipt(Reception.REFUSED, f"not a DICOM file: {reason}")
        if not uid_by_path:
            return receipts
        try:
            answer = _post(self.peer, list(uid_by_path))
        except DestinationUnreachableError as fault:
            return receipts | dict.fromkeys(uid_by_path, Receipt(Reception.POSTPONED, str(fault)))
        if answer.status in REFUSED_STATUSES and len(uid_by_path) > 1:
            # It may be one object, or their sum: the others shall not be refused with it.
            for path in uid_by_path:
                receipts |= self._deliver_batch([path])
            return receipts
        return receipts | {path: self._receipt(uid, answer) for path, uid in uid_by_path.items()}

    def _receipt(self, uid: str, answer: HttpAnswer) -> Receipt:
        """Return what an answer says of one object."""
        if answer.status in REFUSED_STATUSES:
            return Receipt(Reception.REFUSED, answer.reason)
        if answer.status not in ANSWERED_STATUSES:
            return Receipt(Reception.POSTPONED, answer.reason)
        said = _attributes(answer)
        failures = _codes(said, "FailedSOPSequence", "FailureReason")
        stored = _codes(said, "ReferencedSOPSequence", "WarningReason")
        if uid in stored:
            if warning := stored[uid]:
                fields = {"sop_instance_uid": uid, "status": f"0x{warning:04X}"}
                log.warning("delivery_warned", destination=self.name, **fields)
            return Receipt(Reception.ACCEPTED)
        if uid in failures:
            # Listed as failed is not stored, whatever is said of the reason.
            code = failures[uid] or PROCESSING_FAILURE
            return Receipt(RECEPTIONS[answer_to(code)], f"{answer_to(code)}, failure reason 0x{code:04X}")
        # 200 is "all stored"; otherwise it is not known what became of this one.
        if answer.status == 200:
            return Receipt(Reception.ACCEPTED)
        is_refused = answer.status == 409 and not failures
        return Receipt(Reception.REFUSED if is_refused else Reception.POSTPONED, answer.reason)


def count_instances(peer: HttpPeer, study_instance_uid: str) -> int | None:
    """Return how many instances the archive says a study has; None where it does not say.

    All three questions raise DestinationUnreachableError where no whole answer comes, and UnconfirmableError
    where the archive does not take the question.
    """
    keyword = "NumberOfStudyRelatedInstances"
    query = {"StudyInstanceUID": study_instance_uid, "includefield": keyword}
    counts = [
        _count(match, keyword)
        for match in _find(peer, "/studies", query)
        if _text(match, "StudyInstanceUID") == study_instance_uid
    ]
    return max((count for count in counts if count is not None), default=None)


def count_by_series(peer: HttpPeer, study_instance_uid: str) -> dict[str, int]:
    """Return how many instances each series has; nothing unless the archive says it of every series."""
    keyword = "NumberOfSeriesRelatedInstances"
    path = f"/studies/{quote(study_instance_uid)}/series"
    counts: dict[str, int] = {}
    for match in _find(peer, path, {"includefield": keyword}):
        uid, count = _text(match, "SeriesInstanceUID"), _count(match, keyword)
        if not uid or count is None:
            return {}
        counts[uid] = count
    return counts


def find_instances(peer: HttpPeer, study_instance_uid: str, series_instance_uid: str) -> set[str]:
    """Return the SOP Instance UIDs that the archive has in a series."""
    path = f"/studies/{quote(study_instance_uid)}/series/{quote(series_instance_uid)}/instances"
    return {uid for match in _find(peer, path, {}) if (uid := _text(match, "SOPInstanceUID"))}


# --- STOW-RS


def _batches(paths: Sequence[Path]) -> Iterator[list[Path]]:
    batch: list[Path] = []
    size = 0
    for path in paths:
        length = path.stat().st_size if path.exists() else 0
        if batch and (size + length > MAX_BATCH_BYTES or len(batch) == MAX_BATCH_FILES):
            yield batch
            batch, size = [], 0
        batch.append(path)
        size += length
    if batch:
        yield batch


def _sop_instance_uid(path: Path) -> str:
    """Return the UID by which an archive will speak of a file; raises DatasetError where it has none."""
    with path.open("rb") as file:
        meta = read_file_meta(file)
        syntax = meta.transfer_syntax_uid or guess_transfer_syntax(file)
        _, uid = read_sop_uids(file, syntax, path.name)
    if not uid:
        raise DatasetError(path.name, "no SOP Instance UID")
    return uid


def _post(peer: HttpPeer, paths: Sequence[Path]) -> HttpAnswer:
    """Send files in one request; raises DestinationUnreachableError where no answer comes."""
    boundary = uuid.uuid4().hex
    head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    end = f"--{boundary}--\r\n".encode()
    length = sum(len(head) + path.stat().st_size + 2 for path in paths) + len(end)
    headers = {
        "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
        "Content-Length": str(length),
        "Accept": JSON,
    }
    patience_s = peer.timeout_s + length / SLOWEST_BYTES_PER_S
    return ask(peer, "POST", "/studies", headers, _body(paths, head, end), patience_s)


def _body(paths: Iterable[Path], head: bytes, end: bytes) -> Iterator[bytes]:
    for path in paths:
        yield head
        with path.open("rb") as file:
            yield from iter(partial(file.read, CHUNK_BYTES), b"")
        yield b"\r\n"
    yield end


# --- QIDO-RS


def _find(peer: HttpPeer, path: str, query: dict[str, str]) -> Iterator[Attributes]:
    """Yield the matches of one question, page by page; raises as `count_instances` says."""
    offset, pages = 0, 0
    before: list[Attributes] = []
    deadline = time.monotonic() + MAX_TIMEOUTS * peer.timeout_s
    while pages < MAX_PAGES and time.monotonic() < deadline:
        paged = {"limit": str(PAGE), "offset": str(offset)} | query
        answer = ask(peer, "GET", f"{path}?{urlencode(paged)}", {"Accept": JSON})
        if answer.status == 404 and path != "/studies":
            return
        if answer.status in REFUSED_QUESTIONS:
            raise UnconfirmableError(peer.url, f"{answer.reason} to a QIDO-RS request")
        if answer.status not in (200, 204):
            raise DestinationUnreachableError(peer.url, f"{answer.reason} to a QIDO-RS request")
        matches = _matches(peer, answer) if answer.status == 200 else []
        # A page may be shorter than asked for, and some archives give the first one again and again.
        if not matches or matches == before:
            return
        yield from matches
        if "limit" in query:
            return
        offset, before, pages = offset + len(matches), matches, pages + 1
    raise DestinationUnreachableError(peer.url, f"no end to a QIDO-RS request after {pages} pages")


def _matches(peer: HttpPeer, answer: HttpAnswer) -> list[Attributes]:
    try:
        found = json.loads(answer.body or b"[]")
    except (ValueError, RecursionError) as fault:
        raise UnconfirmableError(peer.url, "answers a QIDO-RS request with no JSON") from fault
    if not isinstance(found, list):
        raise UnconfirmableError(peer.url, "answers a QIDO-RS request with no list")
    return [match for match in found if isinstance(match, dict)]


# --- what archives answer is hostile, too


def _attributes(answer: HttpAnswer) -> Attributes:
    """Return the data set of an answer in the JSON model (PS3.18 F.2), empty where it has none."""
    try:
        said = json.loads(answer.body)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _values(attributes: Attributes, keyword: str) -> list[Any]:
    attribute = attributes.get(f"{tag_for_keyword(keyword):08X}")
    values = attribute.get("Value") if isinstance(attribute, dict) else None
    return values if isinstance(values, list) else []


def _codes(attributes: Attributes, sequence: str, keyword: str) -> dict[str, int]:
    """Return the code in each item of a sequence of references, by SOP Instance UID; 0 where it has none."""
    codes: dict[str, int] = {}
    for item in _values(attributes, sequence):
        if isinstance(item, dict) and (uid := _text(item, "ReferencedSOPInstanceUID")):
            codes[uid] = _count(item, keyword) or 0
    return codes


def _text(attributes: Attributes, keyword: str) -> str:
    values = _values(attributes, keyword)
    return values[0].strip(" \0") if values and isinstance(values[0], str) else ""


def _count(attributes: Attributes, keyword: str) -> int | None:
    """Return a number that is one, or is written as one; None for everything else."""
    values = _values(attributes, keyword)
    value = values[0] if values else None
    if isinstance(value, str) and value.strip().isdecimal() and len(value) <= 12:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
