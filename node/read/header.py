"""What the headers of a series say, as plain values for routing and eligibility: no pixels, no patient."""

import math
import re
from collections.abc import Iterable, Sequence

from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag

from node.domain.attributes import snake_case
from node.domain.study import AttributeValue, Instance
from node.errors import DatasetError
from node.read.dataset import LIBRARY_ERRORS, dataset_faults, read_header
from node.read.facts import derive_facts, derive_view, is_localizer

INTEGER_VRS = frozenset({"IS", "SL", "SS", "SV", "UL", "US", "US or SS", "UV"})
REAL_VRS = frozenset({"DS", "FD", "FL"})
# Free text (LT, ST, UT) is left out with the person names: anybody may be named in it.
TEXT_VRS = frozenset({"AE", "AS", "CS", "DA", "DT", "LO", "SH", "TM", "UC", "UI", "UR"})
PATIENT_GROUP = 0x0010
VISIT_GROUP = 0x0038
# Curves and overlays repeat their keywords from group to group.
REPEATING_GROUPS = frozenset({0x5000, 0x6000})
IMPERSONAL_PATIENT_KEYWORDS = frozenset(
    {
        "PatientAge",
        "PatientSex",
        "PatientSexNeutered",
        "PatientSize",
        "PatientSpeciesDescription",
        "PatientWeight",
        "PregnancyStatus",
    }
)
PERSONAL_KEYWORD = re.compile(
    r"Patient|Physician|Operator|Person|Address|Telephone|Telecom|Birth|Insurance|Responsible|Reviewer|Author"
    r"|Observer|AccessionNumber|AdmissionID|StudyID|FillerOrder|PlacerOrder|RequestedProcedureID"
    r"|ScheduledProcedureStepID|PerformedProcedureStepID|History|Comment"
)
# A position says something of a person's body in the machine, not who the person is.
IMPERSONAL_KEYWORD = re.compile(r"^(Patient(Orientation|Position)|Image(Position|Orientation)Patient)$")
MAX_CHARACTERS = 1024
MAX_VALUES = 64


def read_attributes(instances: Sequence[Instance]) -> dict[str, AttributeValue]:
    """Return the attributes of the instance that speaks for the series, and the facts derived from them.

    That instance is the first that is neither a localizer nor a lateral view, else the first. An attribute
    that identifies the patient, is empty, or has a value its type does not allow is left out. Raises
    DatasetError for an instance that cannot be read.
    """
    if not instances:
        raise DatasetError("series", "has no instances")
    instance, header = _speaker(instances)
    with dataset_faults(instance.sop_instance_uid):
        attributes = dict(_plain_attributes(header))
        attributes |= derive_facts(header)
    if instance.modality:
        attributes.setdefault("modality", instance.modality)
    return attributes | _series_facts(instances)


def _speaker(instances: Sequence[Instance]) -> tuple[Instance, Dataset]:
    first: tuple[Instance, Dataset] | None = None
    for instance in instances:
        header = read_header(instance)
        first = first or (instance, header)
        with dataset_faults(instance.sop_instance_uid):
            if not is_localizer(header) and derive_view(header) != "LATERAL":
                return instance, header
    if first is None:
        raise DatasetError("series", "has no instances")
    return first


def _series_facts(instances: Sequence[Instance]) -> dict[str, AttributeValue]:
    facts: dict[str, AttributeValue] = {
        "instance_count": len(instances),
        "called_ae_title": _distinct(one.called_ae_title for one in instances),
        "calling_ae_title": _distinct(one.calling_ae_title for one in instances),
        "sop_class_uid": _distinct(one.sop_class_uid for one in instances),
        "transfer_syntax_uid": _distinct(one.transfer_syntax_uid for one in instances),
    }
    return {name: value for name, value in facts.items() if value != ()}


def _distinct(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({value for value in values if value}))


def _plain_attributes(header: Dataset) -> Iterable[tuple[str, AttributeValue]]:
    # Iterating the header itself would convert every element, and stop at the first odd one.
    tags = header.keys()
    for tag in tags:
        keyword = _wanted_keyword(tag)
        if not keyword:
            continue
        try:
            value = _plain(dictionary_VR(tag), header[tag].value)
        except LIBRARY_ERRORS:
            # One odd value must not cost the series its other attributes.
            continue
        if value is not None:
            yield snake_case(keyword), value


def _wanted_keyword(tag: BaseTag) -> str:
    """Return the keyword of a standard attribute that is plain and identifies nobody, else an empty text."""
    if tag.is_private or tag.group & 0xFF00 in REPEATING_GROUPS or tag.element == 0:
        return ""
    keyword = keyword_for_tag(tag)
    # By the dictionary, not the data set: a deferred value would be fetched only to be thrown away.
    if not keyword or not _is_plain_vr(dictionary_VR(tag)):
        return ""
    is_impersonal = keyword in IMPERSONAL_PATIENT_KEYWORDS or IMPERSONAL_KEYWORD.search(keyword)
    is_personal = tag.group in (PATIENT_GROUP, VISIT_GROUP) or PERSONAL_KEYWORD.search(keyword)
    return keyword if is_impersonal or not is_personal else ""


def _is_plain_vr(vr: str) -> bool:
    return vr in INTEGER_VRS | REAL_VRS | TEXT_VRS


def _plain(vr: str, value: object) -> AttributeValue:
    """Return a scalar, a tuple for several values, or None where there is nothing usable."""
    values = list(value) if isinstance(value, MultiValue | list | tuple) else [value]
    if len(values) > MAX_VALUES or any(isinstance(one, bytes) for one in values):
        return None
    if vr in INTEGER_VRS or vr in REAL_VRS:
        numbers = [_number(vr, one) for one in values if one not in (None, "")]
        return _joined(numbers) if all(map(math.isfinite, numbers)) else None
    texts = [str(one).strip(" \0") if one is not None else "" for one in values]
    if not any(texts) or not all(len(text) <= MAX_CHARACTERS and text.isprintable() for text in texts):
        return None
    return texts[0] if len(texts) == 1 else tuple(texts)


def _number(vr: str, value: object) -> float:
    number = float(str(value))
    return int(number) if vr in INTEGER_VRS else number


def _joined(numbers: list[float]) -> AttributeValue:
    if not numbers:
        return None
    return numbers[0] if len(numbers) == 1 else tuple(numbers)
