"""What an archive says it holds of a study: counts to wait for, names to read back (C-FIND, PS3.4 C.4.1).

Asked by the Study Root model. Counts are optional keys that many archives leave out, or fill with what is no
number: that is no answer, and no fault.
"""

import time
from collections.abc import Iterator

from pydicom import Dataset
from pynetdicom import build_context
from pynetdicom.association import Association
from pynetdicom.sop_class import (  # type: ignore[attr-defined]    # made while it is imported
    StudyRootQueryRetrieveInformationModelFind as StudyRootFind,
)

from node.deliver.association import Peer, associate, require_success
from node.errors import DestinationUnreachableError, UnconfirmableError
from node.read.dataset import LIBRARY_ERRORS

REFUSED_FOR_NOW = 0xA700
MAX_MATCHES = 100_000
"""More is no study; an archive that ignores the keys answers with all that it has."""
MAX_DIGITS = 12
"""What an integer string has at most (PS3.5 6.2)."""
MAX_TIMEOUTS = 4
"""A question may take so many times as long as one answer: an archive that trickles holds nobody for ever."""


def count_instances(peer: Peer, study_instance_uid: str) -> int | None:
    """Return how many instances the archive says a study has; None where it does not say.

    All three questions raise DestinationUnreachableError where no whole answer comes, and UnconfirmableError
    where the archive does not take the question.
    """
    key = "NumberOfStudyRelatedInstances"
    counts = [_count(match, key) for match in _find(peer, "STUDY", study_instance_uid, **{key: None})]
    return max((count for count in counts if count is not None), default=None)


def count_by_series(peer: Peer, study_instance_uid: str) -> dict[str, int]:
    """Return how many instances each series has; nothing unless the archive says it of every series."""
    key = "NumberOfSeriesRelatedInstances"
    counts: dict[str, int] = {}
    for match in _find(peer, "SERIES", study_instance_uid, SeriesInstanceUID="", **{key: None}):
        uid, count = _text(match, "SeriesInstanceUID"), _count(match, key)
        if not uid or count is None:
            return {}
        counts[uid] = count
    return counts


def find_instances(peer: Peer, study_instance_uid: str, series_instance_uid: str) -> set[str]:
    """Return the SOP Instance UIDs that the archive has in a series."""
    keys = {"SeriesInstanceUID": series_instance_uid, "SOPInstanceUID": ""}
    matches = [
        match
        for match in _find(peer, "IMAGE", study_instance_uid, **keys)
        if _text(match, "SeriesInstanceUID") in ("", series_instance_uid)
    ]
    return {uid for match in matches if (uid := _text(match, "SOPInstanceUID"))}


def _find(peer: Peer, level: str, study_instance_uid: str, **keys: str | None) -> list[Dataset]:
    """Return the matches of one question: those that are of the study, or do not say of which."""
    question = Dataset()
    question.QueryRetrieveLevel = level
    question.StudyInstanceUID = study_instance_uid
    for keyword, value in keys.items():
        setattr(question, keyword, value)
    matches = list(_answers(peer, question))
    return [one for one in matches if _text(one, "StudyInstanceUID") in ("", study_instance_uid)]


def _answers(peer: Peer, question: Dataset) -> Iterator[Dataset]:
    """Yield the identifiers that come, whole to the last; raises as `count_instances` says."""
    deadline = time.monotonic() + MAX_TIMEOUTS * peer.timeout_s
    with associate(peer, [build_context(StudyRootFind)]) as association:
        if not association.is_established:
            raise UnconfirmableError(str(peer), "takes no C-FIND")
        status, matches = Dataset(), 0
        for status, identifier in _responses(association, question):  # noqa: B007 - the last one counts
            matches += identifier is not None
            if matches > MAX_MATCHES or time.monotonic() > deadline:
                association.abort()
                raise DestinationUnreachableError(str(peer), f"no end to a C-FIND after {matches} matches")
            if identifier is not None:
                yield identifier
    require_success(peer, status, "a C-FIND", busy=REFUSED_FOR_NOW)


def _responses(association: Association, question: Dataset) -> Iterator[tuple[Dataset, Dataset | None]]:
    try:
        yield from association.send_c_find(question, StudyRootFind)
    except RuntimeError as fault:  # the association ended in between
        raise DestinationUnreachableError(str(association.acceptor.ae_title), "association lost") from fault


def _count(match: Dataset, keyword: str) -> int | None:
    """Return a count that is one; what an archive puts there is checked by nobody before."""
    text = _text(match, keyword)
    return int(text) if text.isdecimal() and len(text) <= MAX_DIGITS else None


def _text(match: Dataset, keyword: str) -> str:
    """Return a value as it came, where pydicom has not converted it: it warns of one that is not in order."""
    try:
        value = match.get_item(keyword).value
    except LIBRARY_ERRORS:  # KeyError where the archive left it out, and whatever a broken match brings
        return ""
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else str(value or "")
    return text.strip(" \0")
