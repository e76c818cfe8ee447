"""How the stored values of a source become gray or color, as a presentation state repeats it."""

import io
import math

import numpy as np
from PIL import ImageCms
from pydicom.dataset import Dataset

from node.domain.image import Window
from node.encode.source import SHADES, Source
from node.read.dataset import LIBRARY_ERRORS
from node.read.display import is_inverse, lookup, show_in
from node.read.functional_groups import frame_header

KEYWORDS = (*SHADES.split(), "PhotometricInterpretation", "PixelSpacing", "Modality")

CLASS, MADE_AT = slice(12, 16), slice(24, 36)
"""Where an ICC profile states its device class and its date of creation (ISO 15076-1 7.2)."""

SCANNER, DISPLAY = b"scnr", b"mntr"


def shades_of(source: Source, frame_number: int | None, window: Window | None = None) -> Dataset:
    """Return the attributes of SHADES that hold for one frame of a source, with its pixel spacing.

    A `window` stands in place of what the source states.
    """
    header = frame_header(source.header, frame_number, KEYWORDS)
    header.file_meta = source.header.file_meta
    if window:
        show_in(header, window)
    return header


def modality_transform(header: Dataset) -> Dataset:
    """Return the attributes of the Modality LUT module (PS3.3 C.11.1); none where the values stay."""
    transform = Dataset()
    if items := _tables(header, "ModalityLUTSequence"):
        items[0].ModalityLUTType = str(header.ModalityLUTSequence[0].get("ModalityLUTType") or "US")
        transform.ModalityLUTSequence = items
        return transform
    slope, intercept = _number(header, "RescaleSlope"), _number(header, "RescaleIntercept")
    if slope and intercept is not None:
        transform.RescaleIntercept, transform.RescaleSlope = f"{intercept:.10g}", f"{slope:.10g}"
        unit = "HU" if header.get("Modality") == "CT" else "US"
        transform.RescaleType = str(header.get("RescaleType") or unit)
    return transform


def voi_transform(header: Dataset) -> Dataset:
    """Return the first VOI LUT, else the first window (PS3.3 C.11.8); nothing where there is none."""
    transform = Dataset()
    if items := _tables(header, "VOILUTSequence"):
        transform.VOILUTSequence = items
        return transform
    center, width = _number(header, "WindowCenter"), _number(header, "WindowWidth")
    if center is not None and width and width >= 1:
        transform.WindowCenter, transform.WindowWidth = f"{center:.10g}", f"{width:.10g}"
        if header.get("VOILUTFunction"):
            transform.VOILUTFunction = str(header.VOILUTFunction)
    return transform


def polarity(header: Dataset) -> str:
    """Return the Presentation LUT Shape; a presentation state overrides MONOCHROME1 (PS3.4 N.2.1.4)."""
    return "INVERSE" if is_inverse(header) else "IDENTITY"


def pixel_shape(header: Dataset) -> Dataset:
    """Return the spacing of the pixels at the patient, else their proportions (PS3.3 C.10.4)."""
    shape = Dataset()
    sides = _pair(header, "PixelSpacing")
    if sides:
        shape.PresentationPixelSpacing = [f"{side:.10g}" for side in sides]
        return shape
    ratio = [round(side) for side in _pair(header, "PixelAspectRatio") or (1.0, 1.0)]
    shape.PresentationPixelAspectRatio = ratio if min(ratio) > 0 else [1, 1]
    return shape


def color_profile(header: Dataset) -> bytes:
    """Return the ICC profile of a color source, as that of an input device (PS3.3 C.11.15), else sRGB.

    Writers often copy the profile of a display; it says the same of the colors, under a class that is not
    allowed here.
    """
    paths = list(header.get("OpticalPathSequence") or ())
    stated = header.get("ICCProfile") or (paths[0].get("ICCProfile") if len(paths) == 1 else None)
    profile = stated if isinstance(stated, bytes) and _is_usable(stated) else _standard_profile()
    return _with(profile, CLASS, SCANNER) if profile[CLASS] == DISPLAY else profile


def _is_usable(profile: bytes) -> bool:
    try:
        found = ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile
        space, connection = found.xcolor_space.strip(), found.connection_space.strip()
    except (*LIBRARY_ERRORS, ImageCms.PyCMSError):
        return False
    is_allowed = profile[CLASS] in (SCANNER, DISPLAY, b"spac")
    return is_allowed and space == "RGB" and connection in ("XYZ", "Lab")


def _standard_profile() -> bytes:
    """Return sRGB without the time at which it was made here."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return _with(profile, MADE_AT, bytes(12))


def _with(profile: bytes, place: slice, value: bytes) -> bytes:
    return profile[: place.start] + value + profile[place.stop :]


def _tables(header: Dataset, keyword: str) -> list[Dataset]:
    """Return the first table of a sequence, its entries in words of 16 bits; none where it is damaged."""
    try:
        item = header[keyword].value[0]
        length, first, _ = (int(one) for one in item.LUTDescriptor)
        length = length & 0xFFFF or 1 << 16
        entries, bits = lookup(header, item, np.arange(first, first + length, dtype=np.float64))
    except LIBRARY_ERRORS:
        return []
    table = Dataset()
    # The descriptor is signed where the values before the table are.
    vr, below = ("SS", 1 << 15) if first < 0 else ("US", 0)
    table.add_new("LUTDescriptor", vr, [(length + below) % (1 << 16) - below, first, bits])
    table.add_new("LUTData", "OW", entries.astype("<u2").tobytes())
    return [table]


def _pair(header: Dataset, keyword: str) -> tuple[float, float] | None:
    try:
        down, across = (float(one) for one in header[keyword].value)
    except LIBRARY_ERRORS:
        return None
    is_usable = all(math.isfinite(side) and side > 0 for side in (down, across))
    return (down, across) if is_usable else None


def _number(header: Dataset, keyword: str) -> float | None:
    """Return the first value of an attribute; None where it is absent or no number."""
    try:
        value = header[keyword].value
        number = float(value if isinstance(value, str | float | int) else value[0])
    except LIBRARY_ERRORS:
        return None
    return number if math.isfinite(number) else None
