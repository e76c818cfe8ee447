"""What a STOW-RS request is answered: the Store Instances Response Module (PS3.18 Annex I) as JSON or XML."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword

JSON, XML = "application/dicom+json", "application/dicom+xml"
# What a client may call the two, or accept without saying which; JSON is the default (PS3.18 10.5.4).
MEDIA_TYPES = {
    JSON: JSON,
    "application/json": JSON,
    XML: XML,
    "application/xml": XML,
    "text/xml": XML,
    "application/*": JSON,
    "*/*": JSON,
}
NATIVE_MODEL = "http://dicom.nema.org/PS3.19/models/NativeDICOM"

# PS3.18 Table I.2-2.
OUT_OF_RESOURCES = 0xA700
DATASET_MISMATCH = 0xA900
STUDY_MISMATCH = 0xA901
CANNOT_UNDERSTAND = 0xC000
SYNTAX_NOT_SUPPORTED = 0xC122
CLASS_NOT_SUPPORTED = 0x0122
PROCESSING_FAILURE = 0x0110

Element = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Answered:
    """One instance of a request; `failure` is its Failure Reason, None for one that is stored."""

    sop_class_uid: str
    sop_instance_uid: str
    failure: int | None = None


def status_of(answered: Sequence[Answered]) -> int:
    """Return the HTTP status (PS3.18 Table 10.5.3-1); 503 where all that is lacking is room."""
    failures = {one.failure for one in answered if one.failure is not None}
    if not failures:
        return 200
    if any(one.failure is None for one in answered):
        return 202
    return 503 if failures == {OUT_OF_RESOURCES} else 409


def negotiate(accept: str) -> str | None:
    """Return the form of the answer that suits an Accept header best; None where neither does."""
    weighted: list[tuple[float, str]] = []
    for entry in filter(None, map(str.strip, accept.lower().split(","))) if accept.strip() else ["*/*"]:
        name, *parameters = (one.strip() for one in entry.split(";"))
        quality = next((one[2:] for one in parameters if one.startswith("q=")), "1")
        try:
            weight = float(quality)
        except ValueError:
            weight = 0.0
        if name in MEDIA_TYPES and weight > 0:
            weighted.append((weight, MEDIA_TYPES[name]))
    return max(weighted, key=lambda one: one[0])[1] if weighted else None


def encode_answer(answered: Iterable[Answered], media_type: str) -> bytes:
    """Return the module in that form.

    Retrieve URL is of type 2, of the whole and of each instance (PS3.18 Table I.1-1): it is there, and empty,
    for nothing can be retrieved from the node.
    """
    stored: list[Element] = []
    failed: list[Element] = []
    nameless: list[Element] = []
    for one in answered:
        named = _element("ReferencedSOPClassUID", one.sop_class_uid)
        named |= _element("ReferencedSOPInstanceUID", one.sop_instance_uid)
        if one.failure is None:
            stored.append(named | _element("RetrieveURL"))
        elif one.sop_instance_uid:
            failed.append(named | _element("FailureReason", one.failure))
        else:
            nameless.append(_element("FailureReason", one.failure))
    content = _element("RetrieveURL")
    sequences = (
        ("FailedSOPSequence", failed),
        ("ReferencedSOPSequence", stored),
        ("OtherFailuresSequence", nameless),
    )
    for keyword, items in sequences:
        content |= _element(keyword, *items) if items else {}
    return json.dumps(content).encode() if media_type == JSON else _encode_xml(content)


def _element(keyword: str, *values: object) -> Element:
    """Return an attribute in the JSON model (PS3.18 F.2)."""
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(keyword)
    present = [value for value in values if value != ""]
    return {f"{tag:08X}": {"vr": dictionary_VR(tag)} | ({"Value": present} if present else {})}


def _encode_xml(content: Element) -> bytes:
    root = ElementTree.Element("NativeDicomModel", {"xmlns": NATIVE_MODEL})
    _add_attributes(root, content)
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))


def _add_attributes(parent: ElementTree.Element, content: Element) -> None:
    """Add attributes in the native model (PS3.19 A.1)."""
    for tag, attribute in content.items():
        named = {"tag": tag, "vr": attribute["vr"], "keyword": keyword_for_tag(int(tag, 16))}
        element = ElementTree.SubElement(parent, "DicomAttribute", named)
        for number, value in enumerate(attribute.get("Value", []), start=1):
            if isinstance(value, dict):
                _add_attributes(ElementTree.SubElement(element, "Item", number=str(number)), value)
            else:
                ElementTree.SubElement(element, "Value", number=str(number)).text = str(value)
