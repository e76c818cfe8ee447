"""Codes: those of standard dictionaries exist and mean what is said, and private ones are declared."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import cache, lru_cache
from typing import cast

from pydicom.dataset import Dataset
from pydicom.sr import _concepts_dict
from pydicom.tag import Tag

from node.conformance.content import sequence, text
from node.conformance.kinds import everything
from node.conformance.rule import Rule
from node.conformance.subject import Subject

PRIVATE_SCHEME_PREFIX = "99"
CODE_VALUES = ("CodeValue", "LongCodeValue", "URNCodeValue")
CODE_TAGS = frozenset(map(Tag, ("CodingSchemeDesignator", *CODE_VALUES)))

DIHEDRAL = [
    "0123456789",
    "1234067895",
    "2340178956",
    "3401289567",
    "4012395678",
    "5987604321",
    "6598710432",
    "7659821043",
    "8765932104",
    "9876543210",
]
PERMUTATION = [
    "0123456789",
    "1576283094",
    "5803796142",
    "8916043527",
    "9453126870",
    "4286573901",
    "2793806415",
    "7046913258",
]
"""The tables of Verhoeff's check digit, which SNOMED CT identifiers end with."""


def _is_snomed(value: str) -> bool:
    """Return whether it is an identifier with its check digit (SNOMED CT, Release File Specification 6)."""
    if not re.fullmatch(r"[1-9]\d{5,17}", value):
        return False
    check = 0
    for place, digit in enumerate(reversed(value)):
        check = int(DIHEDRAL[check][int(PERMUTATION[place % 8][int(digit)])])
    return check == 0


def _is_loinc(value: str) -> bool:
    """Return whether it is a LOINC number with its check digit (Luhn's, over the digits before the dash)."""
    found = re.fullmatch(r"(\d{1,7})-(\d)", value)
    if not found:
        return False
    doubled = "".join(str(int(one) * (2 - place % 2)) for place, one in enumerate(reversed(found[1])))
    return (sum(map(int, doubled)) + int(found[2])) % 10 == 0


def _matches(pattern: str) -> Callable[[str], bool]:
    return lambda value: re.fullmatch(pattern, value) is not None


CONCEPTS = cast(Mapping[str, Mapping[str, Mapping[str, tuple[str, list[int]]]]], _concepts_dict.concepts)
"""What pydicom knows: scheme, keyword and code to meaning and context groups."""

FORMS: Mapping[str, Callable[[str], bool]] = {
    "SCT": _is_snomed,
    "LN": _is_loinc,
    "RADLEX": _matches(r"RID\d{1,6}"),
    "UMLS": _matches(r"C\d{7}"),
    "NCIt": _matches(r"C\d{2,7}"),
    "FMA": _matches(r"\d{2,6}"),
    "UCUM": _matches(r"[!-~]+"),
    "RFC5646": _matches(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{1,8})*"),
}
"""Schemes of which pydicom knows a part, what DICOM itself uses: the form of the code must do for the rest.

DCM is not among them: that dictionary is whole.
"""

FREE_MEANINGS = frozenset({"UCUM", "RFC5646"})
"""Schemes whose codes may be worded in any way: the code is a formula."""


@cache
def _meanings(scheme: str) -> Mapping[str, list[str]]:
    """Return the meanings of each code that pydicom knows of a scheme, SNOMED's also without its category."""
    found: dict[str, list[str]] = defaultdict(list)
    for codes in CONCEPTS.get(scheme, {}).values():
        for value, (meaning, *_) in codes.items():
            found[value] += [meaning, re.sub(r" \([^()]*\)", "", meaning)]
    return found


def _words(meaning: str) -> str:
    """Return the letters and digits of a meaning: case, accents and punctuation tell no two apart."""
    decomposed = unicodedata.normalize("NFKD", meaning.replace("µ", "u")).casefold()
    return "".join(one for one in decomposed if one.isalnum())


def _coded(subject: Subject) -> Iterator[tuple[str, Dataset]]:
    for keyword, item in subject.items:
        if CODE_TAGS & item.keys():
            yield keyword, item


def _known_codes(subject: Subject) -> Iterator[str]:
    declared = _declared(subject.dataset)
    for keyword, item in _coded(subject):
        scheme = text(item, "CodingSchemeDesignator")
        value = next((text(item, one) for one in CODE_VALUES if text(item, one)), "")
        if keyword == "CodingSchemeIdentificationSequence" or scheme.startswith(PRIVATE_SCHEME_PREFIX):
            continue
        if not value or not scheme:
            yield f"an item of {keyword} lacks the code or its scheme"
        elif scheme not in CONCEPTS and scheme not in FORMS:
            if scheme not in declared:
                yield f"{keyword} is of {scheme}, which is neither a standard scheme nor declared"
        elif (fault := _fault(scheme, value, text(item, "CodeMeaning"))) is not None:
            yield f"{keyword} ({value}, {scheme}) {fault}"


@lru_cache(maxsize=4096)
def _fault(scheme: str, value: str, meaning: str) -> str | None:
    """Return what is wrong with a code of a standard scheme; None where nothing is."""
    known = _meanings(scheme).get(value)
    if known is None:
        has_form = scheme in FORMS and FORMS[scheme](value)
        return None if has_form else "is no code of that scheme"
    said, meant = _words(meaning), [_words(one) for one in known]
    is_cut = meaning.endswith("...") and any(one.startswith(said) for one in meant)
    if scheme in FREE_MEANINGS or said in meant or (said and is_cut):
        return None
    return f"means {known[0]!r}, which is not what it says"


def _declared(dataset: Dataset) -> set[str]:
    return {
        text(item, "CodingSchemeDesignator")
        for item in sequence(dataset, "CodingSchemeIdentificationSequence")
        if text(item, "CodingSchemeUID")
    }


def _schemes_declared(subject: Subject) -> Iterator[str]:
    used = {text(item, "CodingSchemeDesignator") for _, item in _coded(subject)}
    for scheme in sorted(used - _declared(subject.dataset)):
        if scheme.startswith(PRIVATE_SCHEME_PREFIX):
            yield f"coding scheme {scheme} is used, but not declared with a UID"


RULES = (
    Rule("known_codes", everything, _known_codes),
    Rule("schemes_declared", everything, _schemes_declared),
)
