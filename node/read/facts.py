"""Facts that several attributes of a header agree on: body part, view, plane, age."""

import re
import unicodedata
from collections.abc import Iterator, Mapping
from datetime import date
from types import MappingProxyType

from pydicom.dataset import Dataset

from node.domain.study import AttributeValue
from node.read.dataset import LIBRARY_ERRORS

CHEST = "CHEST"
LATERAL = "LATERAL"
DAYS_PER_YEAR = 365.2425
MAX_AGE_YEARS = 120
YEARS_PER_AGE_UNIT = MappingProxyType({"D": 1 / DAYS_PER_YEAR, "W": 7 / DAYS_PER_YEAR, "M": 1 / 12, "Y": 1.0})
# The same part of the body in the words of several languages; beginnings of words, without accents.
PART_BY_WORD: Mapping[str, str] = MappingProxyType(
    {
        word: CHEST
        for word in ("chest", "cxr", "lung", "poumon", "pulmon", "thorax", "toraks", "torax", "torace")
    }
    | {word: "ABDOMEN" for word in ("abd", "bauch")}
    | {word: "BREAST" for word in ("breast", "mamm")}
    | {
        word: "EXTREMITY"
        for word in ("ankle", "elbow", "extremity", "femur", "foot", "hand", "knee", "wrist")
    }
    | {word: "HEAD" for word in ("brain", "head", "kopf", "schadel", "skull")}
    | {word: "NECK" for word in ("cervical", "hals", "neck")}
    | {word: "PELVIS" for word in ("becken", "hip", "pelvi")}
    | {word: "RIB" for word in ("rib", "rippe")}
    | {word: "SHOULDER" for word in ("clavic", "scapul", "schulter", "shoulder")}
    | {word: "SPINE" for word in ("column", "lumbar", "spine", "thoracic", "wirbel")}
)
PART_BY_CODE: Mapping[tuple[str, str], str] = MappingProxyType(
    {
        ("816094009", "SCT"): CHEST,
        ("51185008", "SCT"): CHEST,
        ("39607008", "SCT"): CHEST,
        ("T-D3000", "SRT"): CHEST,
        ("T-D3000", "SNM3"): CHEST,
        ("T-28000", "SRT"): CHEST,
        ("T-28000", "SNM3"): CHEST,
    }
)
VIEW_BY_WORD: Mapping[str, str] = MappingProxyType(
    {"pa": "PA", "ap": "AP"}
    | {word: LATERAL for word in ("ll", "rl", "lat", "lateral", "lateralis", "perfil", "profil", "seitlich")}
)
# CID 4010 "DX View" with its predecessors in SNOMED-RT.
VIEW_BY_CODE: Mapping[str, str] = MappingProxyType(
    {
        "272479007": "PA",
        "R-10214": "PA",
        "399348003": "AP",
        "R-10206": "AP",
        "399067008": LATERAL,
        "399173006": LATERAL,
        "399198007": LATERAL,
        "R-10228": LATERAL,
        "R-10232": LATERAL,
        "R-10236": LATERAL,
    }
)
LOSSY_TRANSFER_SYNTAXES = frozenset(
    {"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.81"}
)
WAYFINDERS = frozenset({"LOCALIZER", "SCOUT", "LABEL", "OVERVIEW"})
PLANE_BY_NORMAL_AXIS = ("sagittal", "coronal", "axial")
# Within 25 degrees of an axis: head CTs are tilted and still called axial.
MIN_PLANE_COSINE = 0.9


def derive_facts(header: Dataset) -> dict[str, AttributeValue]:
    """Return every fact that the header supports; one that it does not has no entry."""
    facts: dict[str, AttributeValue] = {
        "body_part": derive_body_part(header),
        "is_localizer": is_localizer(header),
        "lossy_image_compression": _lossy_image_compression(header),
        "number_of_frames": _number_of_frames(header),
        "patient_age_years": derive_age_years(header),
        "plane": derive_plane(header),
        "view": derive_view(header),
    }
    return {name: value for name, value in facts.items() if value not in (None, "")}


def derive_body_part(header: Dataset) -> str:
    """Return the body part in one upper-case word, or an empty text.

    Body Part Examined decides, then the Anatomic Region code, then the words of the descriptions where they
    name one part only. A Body Part Examined that is not the chest alone is given as it stands.
    """
    examined = _text(header, "BodyPartExamined").upper()
    if examined:
        return CHEST if _parts(examined) == {CHEST} else examined
    for region in _items(header, "AnatomicRegionSequence"):
        code = (_text(region, "CodeValue"), _text(region, "CodingSchemeDesignator"))
        if part := PART_BY_CODE.get(code) or _single(_parts(_text(region, "CodeMeaning"))):
            return part
    descriptions = (
        _text(header, keyword) for keyword in ("SeriesDescription", "ProtocolName", "StudyDescription")
    )
    named = (_single(_parts(text)) for text in descriptions)
    return next((part for part in named if part), "")


def derive_view(header: Dataset) -> str:
    """Return PA, AP, LATERAL or another View Position in upper case, or an empty text."""
    position = _text(header, "ViewPosition").upper()
    if position:
        return _single(_views(position)) or position
    for view in _items(header, "ViewCodeSequence"):
        if known := VIEW_BY_CODE.get(_text(view, "CodeValue")):
            return known
    if known := _single(_views(_text(header, "SeriesDescription"))):
        return known
    rows_run_to = _text(header, "PatientOrientation")[:1]
    is_projection = _text(header, "Modality") in ("CR", "DX", "RG")
    return LATERAL if is_projection and rows_run_to in ("A", "P") else ""


def is_localizer(header: Dataset) -> bool:
    """Return whether Image Type says that the image is there to find one's way by, not to be read.

    A localizer (PS3.3 C.8.2.1.1.1) or scout; of a slide the label or an overview (C.8.12.4.1.1).
    """
    image_type = header.get("ImageType") or ()
    values = [image_type] if isinstance(image_type, str) else list(image_type)
    return any(str(value).strip().upper() in WAYFINDERS for value in values)


def derive_age_years(header: Dataset) -> float | None:
    """Return the age at the study from Patient's Age (`005Y`, `012M`, `020D`) or from the two dates."""
    if match := re.fullmatch(r"(\d{1,3})([DWMY])", _text(header, "PatientAge")):
        return round(int(match[1]) * YEARS_PER_AGE_UNIT[match[2]], 2)
    born, studied = _date(header, "PatientBirthDate"), _date(header, "StudyDate")
    if born is None or studied is None:
        return None
    years = round((studied - born).days / DAYS_PER_YEAR, 2)
    # Anonymized dates give ages that nobody has.
    return years if 0 <= years <= MAX_AGE_YEARS else None


def derive_plane(header: Dataset) -> str:
    """Return axial, coronal, sagittal or oblique from Image Orientation (Patient), or an empty text."""
    try:
        x, y, z, u, v, w = (float(value) for value in header.ImageOrientationPatient)
    except LIBRARY_ERRORS:
        return ""
    normal = [abs(y * w - z * v), abs(z * u - x * w), abs(x * v - y * u)]
    steepest = max(range(3), key=normal.__getitem__)
    return PLANE_BY_NORMAL_AXIS[steepest] if normal[steepest] >= MIN_PLANE_COSINE else "oblique"


def _lossy_image_compression(header: Dataset) -> str:
    """Return 01 or 00 as in the attribute; 01 too where the transfer syntax can only be lossy."""
    is_lossy = str(header.file_meta.get("TransferSyntaxUID", "")) in LOSSY_TRANSFER_SYNTAXES
    return "01" if is_lossy else _text(header, "LossyImageCompression")


def _number_of_frames(header: Dataset) -> int | None:
    text = _text(header, "NumberOfFrames")
    if not text:
        return 1
    return int(text) if re.fullmatch(r"\d{1,9}", text) else None


def _text(header: Dataset, keyword: str) -> str:
    """Return the value as text, several values joined by spaces; an empty text where it is absent or odd."""
    try:
        value = header.get(keyword)
        values = [value] if isinstance(value, str | int | float) else list(value or ())
        return " ".join(str(one).strip(" \0") for one in values)
    except LIBRARY_ERRORS:
        return ""


def _items(header: Dataset, keyword: str) -> Iterator[Dataset]:
    try:
        items = header.get(keyword) or ()
    except LIBRARY_ERRORS:
        return
    yield from (item for item in items if isinstance(item, Dataset))


def _date(header: Dataset, keyword: str) -> date | None:
    try:
        return date.fromisoformat(_text(header, keyword))
    except ValueError:
        return None


def _words(text: str) -> list[str]:
    plain = unicodedata.normalize("NFKD", text.replace(".", "")).encode("ascii", "ignore").decode().lower()
    return re.findall(r"[a-z]+", plain)


def _parts(text: str) -> set[str]:
    return {part for word in _words(text) for start, part in PART_BY_WORD.items() if word.startswith(start)}


def _views(text: str) -> set[str]:
    return {VIEW_BY_WORD[word] for word in _words(text) if word in VIEW_BY_WORD}


def _single(found: set[str]) -> str:
    return found.pop() if len(found) == 1 else ""
