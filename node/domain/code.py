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
RIGHT = Code("24028007", "SCT", "Right")
LEFT = Code("7771000", "SCT", "Left")
SQUARE_MILLIMETER = Code("mm2", "UCUM", "square millimeter")
CUBIC_MILLIMETER = Code("mm3", "UCUM", "cubic millimeter")
MILLIMETER = Code("mm", "UCUM", "mm")
HOUNSFIELD_UNIT = Code("[hnsf'U]", "UCUM", "Hounsfield unit")
PERCENT = Code("%", "UCUM", "Percent")
BIT = Code("bit", "UCUM", "bit")

# SNOMED CT's own: DICOM's context groups have a lung with its laterality, and no consolidation.
RIGHT_LUNG = Code("3341006", "SCT", "Right lung")
LEFT_LUNG = Code("44029006", "SCT", "Left lung")
CONSOLIDATION = Code("95436008", "SCT", "Lung consolidation")
PNEUMONIA = Code("233604007", "SCT", "Pneumonia")
BACTERIAL_PNEUMONIA = Code("53084003", "SCT", "Bacterial pneumonia")
VIRAL_PNEUMONIA = Code("75570004", "SCT", "Viral pneumonia")

NO_UNITS = Code("1", "UCUM", "no units")

PREDICTIVE_ENTROPY = Code("UQ-ENTROPY", PRIVATE_SCHEME, "Predictive entropy")
ATTENTION_WEIGHT = Code("XAI-ATTN", PRIVATE_SCHEME, "Normalized attention weight")
