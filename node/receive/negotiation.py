"""Who is let in, and which presentation contexts are accepted (PS3.7 D.3, PS3.8 7.1)."""

from collections import Counter
from collections.abc import Iterable
from threading import Lock
from typing import NamedTuple, cast

from pydicom.uid import UID, UID_dictionary  # type: ignore[attr-defined]    # not in its __all__
from pynetdicom import AllStoragePresentationContexts, build_context
from pynetdicom import NonPatientObjectPresentationContexts as NonPatientContexts
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]    # made while it is imported

from node.commitment import PUSH_MODEL
from node.receive.settings import DimseListenerSettings

TRANSFER_SYNTAXES = frozenset(uid for uid, row in UID_dictionary.items() if row[1] == "Transfer Syntax")
KNOWN_CLASSES = frozenset(str(context.abstract_syntax) for context in AllStoragePresentationContexts)
# Retired classes too: old devices are the ones that stay. Those without a patient have no study to read.
STORAGE_CLASSES = KNOWN_CLASSES | {
    uid
    for uid, row in UID_dictionary.items()
    if row[1] == "SOP Class" and "Storage" in row[0] and uid.startswith("1.2.840.10008.5.1.4.1.1.")
} - {str(context.abstract_syntax) for context in NonPatientContexts}


class Rejection(NamedTuple):
    """What an association is rejected with (PS3.8 9.3.4): its three numbers, and the words for the log."""

    result: int
    source: int
    diagnostic: int
    reason: str


NOT_ALLOWED = Rejection(1, 1, 1, "host not allowed")
CALLED_UNKNOWN = Rejection(1, 1, 7, "called AE title not recognized")
CALLING_UNKNOWN = Rejection(1, 1, 3, "calling AE title not recognized")
TOO_MANY = Rejection(2, 3, 2, "too many associations")


def objection(settings: DimseListenerSettings, host: str, request: A_ASSOCIATE) -> Rejection | None:
    """Return why the peer is not let in, or None."""
    entity = settings.entity(request.called_ae_title.strip())
    if not settings.admits(host):
        return NOT_ALLOWED
    if entity is None:
        return CALLED_UNKNOWN
    if entity.allowed_callers and request.calling_ae_title.strip() not in entity.allowed_callers:
        return CALLING_UNKNOWN
    return None


class Occupancy:
    """How many associations are open, in all and for each AE title on either side."""

    def __init__(self, settings: DimseListenerSettings) -> None:
        self._settings = settings
        self._lock = Lock()
        self._in_all = 0
        self._by_called: Counter[str] = Counter()
        self._by_calling: Counter[str] = Counter()

    def enter(self, called: str, calling: str) -> bool:
        """Count one more; False where that is more than may be."""
        entity = self._settings.entity(called)
        with self._lock:
            limits = (
                (self._in_all, self._settings.max_associations),
                (self._by_called[called], entity.max_associations if entity else 0),
                (self._by_calling[calling], self._settings.max_associations_per_caller),
            )
            if any(limit and count >= limit for count, limit in limits):
                return False
            self._in_all += 1
            self._by_called[called] += 1
            self._by_calling[calling] += 1
        return True

    def leave(self, called: str, calling: str) -> None:
        """Count one less."""
        with self._lock:
            self._in_all -= 1
            for counter, title in ((self._by_called, called), (self._by_calling, calling)):
                counter[title] -= 1
                if not counter[title]:
                    del counter[title]


def supported(
    request: A_ASSOCIATE, services: Iterable[str], *, accepts_private: bool
) -> list[PresentationContext]:
    """Return the contexts that are proposed and supported, transfer syntaxes in the sender's order.

    Made of the proposal, and not of all that could be proposed: pynetdicom copies what a server supports for
    each association, and 200 classes with 60 syntaxes take it 50 ms.
    """
    taken = STORAGE_CLASSES | {str(Verification), *services}
    syntaxes_by_class: dict[str, dict[str, None]] = {str(Verification): {}}
    for context in request.presentation_context_definition_list:
        sop_class = cast(UID, context.abstract_syntax)
        if sop_class in taken or (accepts_private and sop_class.is_private):
            offered = [str(uid) for uid in context.transfer_syntax if uid in TRANSFER_SYNTAXES]
            syntaxes_by_class.setdefault(str(sop_class), {}).update(dict.fromkeys(offered))
    contexts = [build_context(uid, list(given)) for uid, given in syntaxes_by_class.items() if given]
    for context in contexts:
        if context.abstract_syntax == PUSH_MODEL:
            # An archive that reports on an association of its own offers to be the provider there.
            context.scu_role = context.scp_role = True
    return contexts
