"""A coded concept, and those that no dictionary has."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Code:
    """A coded concept: value, coding scheme designator, meaning."""

    value: str
    scheme: str
    meaning: str


PRIVATE_SCHEME = "99SIGHTLINE"
"""The designator of our own codes: for what DICOM, SNOMED CT, RadLex and UCUM do not have."""

PREDICTIVE_ENTROPY = Code("UQ-ENTROPY", PRIVATE_SCHEME, "Predictive entropy")
ATTENTION_WEIGHT = Code("XAI-ATTN", PRIVATE_SCHEME, "Normalized attention weight")
