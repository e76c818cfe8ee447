"""The names of what rules look at: DICOM keywords in snake case, and facts derived from several of them.

Rules see plain values only: no sequences, no bytes, and no free text or names, in which patients stand.
"""

import re
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

from pydicom.datadict import dictionary_VR, keyword_dict

DERIVED_FACTS: Mapping[str, str] = MappingProxyType(
    {
        "body_part": "the body part in one upper-case word, agreed from several attributes",
        "called_ae_title": "the application entities of this node that the series was sent to",
        "calling_ae_title": "the application entities that sent the series",
        "instance_count": "how many instances of the series arrived",
        "is_localizer": "true for a scout or localizer image",
        "number_of_frames": "as in the data set, and 1 where it does not say",
        "patient_age_years": "the age at the study in years, from Patient's Age or from the two dates",
        "plane": "axial, coronal, sagittal or oblique, from Image Orientation (Patient)",
        "slice_spacing_mm": "the distance between neighboring slices along the normal, in mm",
        "sop_class_uid": "every SOP class in the series",
        "transfer_syntax_uid": "every transfer syntax in which the series arrived",
        "view": "the projection in one upper-case word (AP, PA, LATERAL), from several attributes",
    }
)
"""Facts that stand in no single data element; where a keyword has the same name, the fact takes its place."""

_PLAIN_VRS = frozenset(
    (
        *("AE", "AS", "CS", "DA", "DT", "LO", "SH", "TM", "UC", "UI", "UR"),
        *("DS", "FD", "FL", "IS", "SL", "SS", "SV", "UL", "US", "US or SS", "UV"),
    )
)
_PLURAL_OR_DIMENSION = re.compile(r"(?<=[a-z0-9])([A-Z]{2,})s(?![a-z])|(?<![0-9])([1-4])D(?![a-z])")
_UNIT_AT_END = re.compile(r"In([mu][A-Z][a-z]?|ms)$")
_WORD_START = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_IRREGULAR = MappingProxyType({"CTDIvol": "ctdi_vol", "dBdt": "db_dt"})


def snake_case(keyword: str) -> str:
    """Return a DICOM keyword as a Python name: `SeriesInstanceUID` → `series_instance_uid`.

    Two keywords never share a name: plurals (`OtherPatientIDs`), dimensions (`XRay3D…`) and units
    (`ExposureInuAs`) are kept whole, so that the name is the one a reader would guess.
    """
    if keyword in _IRREGULAR:
        return _IRREGULAR[keyword]
    keyword = _UNIT_AT_END.sub(lambda match: f"_in_{match[1].lower()}", keyword)
    keyword = _PLURAL_OR_DIMENSION.sub(_as_word, keyword)
    return re.sub("_+", "_", _WORD_START.sub("_", keyword)).strip("_").lower()


@cache
def known_attributes() -> frozenset[str]:
    """Return every name that a condition may use."""
    plain = (keyword for keyword in keyword_dict if keyword and dictionary_VR(keyword) in _PLAIN_VRS)
    return frozenset(map(snake_case, plain)) | frozenset(DERIVED_FACTS)


@cache
def hidden_attributes() -> frozenset[str]:
    """Return the names of DICOM attributes that no condition may use, for they hold no plain value."""
    return frozenset(snake_case(keyword) for keyword in keyword_dict if keyword) - known_attributes()


def _as_word(match: re.Match[str]) -> str:
    acronym, digit = match.groups()
    return f"_{acronym.lower()}s_" if acronym else f"_{digit}d_"
