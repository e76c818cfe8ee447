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

# What is measured of nodules and tumors; a test holds them against pydicom's dictionaries.
VOLUME = Code("118565006", "SCT", "Volume")
LONG_AXIS = Code("103339001", "SCT", "Long axis")
SHORT_AXIS = Code("103340004", "SCT", "Short axis")
MEAN_ATTENUATION = Code("112181", "DCM", "Mean Attenuation Coefficient")
PROBABILITY_OF_CANCER = Code("111047", "DCM", "Probability of cancer")
AREA = Code("42798000", "SCT", "Area")
LUNG = Code("39607008", "SCT", "Lung")
SQUARE_MILLIMETER = Code("mm2", "UCUM", "square millimeter")
CUBIC_MILLIMETER = Code("mm3", "UCUM", "cubic millimeter")
MILLIMETER = Code("mm", "UCUM", "mm")
HOUNSFIELD_UNIT = Code("[hnsf'U]", "UCUM", "Hounsfield unit")
PERCENT = Code("%", "UCUM", "Percent")
BIT = Code("bit", "UCUM", "bit")

NO_UNITS = Code("1", "UCUM", "no units")

PREDICTIVE_ENTROPY = Code("UQ-ENTROPY", PRIVATE_SCHEME, "Predictive entropy")
ATTENTION_WEIGHT = Code("XAI-ATTN", PRIVATE_SCHEME, "Normalized attention weight")
