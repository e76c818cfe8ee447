"""Who is let in, and which presentation contexts are accepted (PS3.7 D.3, PS3.8 7.1)."""

from collections.abc import Iterable
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
