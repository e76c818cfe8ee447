"""Key object selections (TID 2010): a title of the list, and pictures without a name."""

from collections.abc import Iterator

from pydicom.sr.codedict import codes

from node.conformance.kinds import KEY_OBJECTS, of
from node.conformance.rule import Rule
from node.conformance.subject import Subject

TEMPLATE = "2010"
TITLES = frozenset((code.value, code.scheme_designator) for code in codes.cid7010.concepts.values())
"""Document titles that the template allows (CID 7010)."""


def _key_object_selection(subject: Subject) -> Iterator[str]:
    title = subject.tree.name
    if (title.value, title.scheme_designator) not in TITLES:
        yield f"the title {title.value} is none of CID 7010"
    if subject.tree.template != TEMPLATE:
        yield "is not of TID 2010"
    images = subject.tree.typed("IMAGE")
    if not images:
        yield "selects no image"
    if any("ConceptNameCodeSequence" in image.dataset for image in images):
        yield "an image has a name, which TID 2010 forbids"


RULES = (Rule("key_object_selection", of(KEY_OBJECTS), _key_object_selection),)
