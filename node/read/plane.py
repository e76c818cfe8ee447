"""One plane of a volume as its header describes it: where it lies, and what its words stand for."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage

from node.domain.location import Frame
from node.domain.study import Instance
from node.errors import DatasetError, GeometryError, PixelError
from node.read.display import Stored
from node.read.hounsfield import Scale, padding_range
from node.read.scan import TRAITS, Value, Values
from node.read.stored import GRAY

CT_CLASSES = frozenset({CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage})
MAX_SIDE = 4096
SPACING_MM = (0.02, 10.0)
"""Between the centers of neighboring pixels, at least and at most: finer is no body CT, coarser none."""

MAX_COORDINATE_MM = 10_000.0
MAX_DIRECTION_ERROR = 1e-3
"""By how much directions may miss unit length and the right angle: 0.4 mm at the far side of a chest."""

LOCALIZER_WORDS = frozenset({"LOCALIZER", "SCOUT"})

Point = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """Where one frame is: in what instance, and which of it (from 1) where that has several.

    Its words begin at `offset` in the file; where that is None they have to be decoded, as `dataset` says.
    """

    instance: Instance
    frame_number: int | None = None
    offset: int | None = None
    dataset: Dataset | None = None
    has_foreign_bits: bool = True

    @property
    def frame(self) -> Frame:
        """The picture of the source that it is."""
        return Frame(self.instance.sop_instance_uid, self.frame_number)

    @property
    def name(self) -> str:
        """What a reader of an error looks for."""
        number = "" if self.frame_number is None else f" frame {self.frame_number}"
        return f"{self.instance.sop_instance_uid}{number}"


@dataclass(frozen=True, slots=True, eq=False)
class Plane:
    """One frame, where it lies, and how its words become Hounsfield units."""

    source: Source
    rows: int
    columns: int
    origin_xyz_mm: Point
    row_direction_xyz: Point
    column_direction_xyz: Point
    spacing_yx_mm: tuple[float, float]
    frame_of_reference_uid: str
    scale: Scale
    traits: Mapping[str, Value]

    @property
    def name(self) -> str:
        """What a reader of an error looks for."""
        return self.source.name


def is_ct(values: Values) -> bool:
    """Return whether it is a CT image, and neither a picture of one nor a report kept beside it."""
    return _text(values, "SOPClassUID") in CT_CLASSES


def is_localizer(values: Values) -> bool:
    """Return whether Image Type or Frame Type calls it one (PS3.3 C.8.2.1.1.1)."""
    words = f"{_text(values, 'ImageType')}\\{_text(values, 'FrameType')}".upper().split("\\")
    return not LOCALIZER_WORDS.isdisjoint(word.strip() for word in words)


def require_identity(instance: Instance, values: Values) -> None:
    """Raise DatasetError for a file that does not say what it is: results could not refer to it."""
    name = instance.sop_instance_uid or instance.path.name
    for keyword in ("SOPClassUID", "SOPInstanceUID"):
        if not _text(values, keyword):
            raise DatasetError(name, f"{keyword} is missing or blank")
    if not instance.sop_instance_uid:
        raise DatasetError(name, "has no SOP Instance UID")


def make_plane(source: Source, values: Values) -> Plane:
    """Return the plane that a header describes.

    Raises GeometryError for a place that is missing or cannot be, PixelError for pixels that are no 16-bit or
    8-bit gray, or not known to be Hounsfield units, DatasetError for another modality.
    """
    uid = source.instance.sop_instance_uid
    modality = _text(values, "Modality")
    if modality != "CT":
        raise DatasetError(uid, f"Modality is {modality[:16] or 'absent'}, expected CT")
    rows, columns = _size(uid, values)
    row, column = _directions(uid, values)
    return Plane(
        source,
        rows,
        columns,
        _origin(uid, values),
        row,
        column,
        _spacing(uid, values),
        _text(values, "FrameOfReferenceUID"),
        _scale(uid, values, has_foreign_bits=source.has_foreign_bits),
        {keyword: values[keyword] for keyword in TRAITS if keyword in values},
    )


def _size(uid: str, values: Values) -> tuple[int, int]:
    rows, columns = (_integer(values, keyword, 0) for keyword in ("Rows", "Columns"))
    if not (1 < rows <= MAX_SIDE and 1 < columns <= MAX_SIDE):
        raise PixelError(uid, f"{rows} × {columns} pixels, expected 2 to {MAX_SIDE} on each side")
    return rows, columns


def _origin(uid: str, values: Values) -> Point:
    numbers = _numbers(values, "ImagePositionPatient", 3)
    if numbers is None:
        raise GeometryError(uid, "Image Position (Patient) is missing or not three numbers")
    if max(map(abs, numbers)) > MAX_COORDINATE_MM:
        raise GeometryError(uid, f"lies more than {MAX_COORDINATE_MM / 1000:g} m from the patient's origin")
    return np.array(numbers)


def _directions(uid: str, values: Values) -> tuple[Point, Point]:
    """Return the directions of a row and of a column, of unit length and at a right angle to the last bit."""
    numbers = _numbers(values, "ImageOrientationPatient", 6)
    if numbers is None:
        raise GeometryError(uid, "Image Orientation (Patient) is missing or not six numbers")
    row, column = np.array(numbers[:3]), np.array(numbers[3:])
    # Huge numbers must not overflow on their way to being refused.
    if max(map(abs, numbers)) > 2:
        raise GeometryError(uid, "Image Orientation (Patient) does not hold directions of unit length")
    errors = abs(row @ row - 1) / 2, abs(column @ column - 1) / 2, abs(row @ column)
    if max(errors) > MAX_DIRECTION_ERROR:
        raise GeometryError(
            uid,
            f"the directions of Image Orientation (Patient) miss unit length or the right angle by "
            f"{max(errors):.4f}, at most {MAX_DIRECTION_ERROR:g} is allowed",
        )
    row /= np.linalg.norm(row)
    column -= (column @ row) * row
    return row, column / np.linalg.norm(column)


def _spacing(uid: str, values: Values) -> tuple[float, float]:
    numbers = _numbers(values, "PixelSpacing", 2)
    low, high = SPACING_MM
    if numbers is None or not all(low <= one <= high for one in numbers):
        found = (
            "is missing or not two numbers" if numbers is None else f"is {numbers[0]:g} and {numbers[1]:g} mm"
        )
        raise GeometryError(uid, f"Pixel Spacing {found}, expected {low:g} to {high:g} mm")
    return numbers[0], numbers[1]


def _scale(uid: str, values: Values, *, has_foreign_bits: bool) -> Scale:
    photometric = _text(values, "PhotometricInterpretation")
    if _integer(values, "SamplesPerPixel", 1) != 1 or photometric not in GRAY:
        raise PixelError(uid, "is in color or of unknown photometric interpretation, expected grayscale")
    kind = _text(values, "RescaleType").upper()
    slope, intercept = (_numbers(values, keyword, 1) for keyword in ("RescaleSlope", "RescaleIntercept"))
    if slope is None or intercept is None or slope[0] == 0 or kind not in ("", "HU"):
        reason = (
            f"Rescale Type is {kind[:16]}"
            if kind not in ("", "HU")
            else "Rescale Slope or Intercept is missing"
        )
        raise PixelError(uid, f"{reason}: the values are not known to be Hounsfield units")
    stored = _stored(uid, values, has_foreign_bits=has_foreign_bits)
    pad, limit = (_numbers(values, one, 1) for one in ("PixelPaddingValue", "PixelPaddingRangeLimit"))
    padding = padding_range(stored, pad[0] if pad else None, limit[0] if limit else None)
    return Scale(stored, slope[0], intercept[0], padding)


def _stored(uid: str, values: Values, *, has_foreign_bits: bool) -> Stored:
    allocated, bits = _integer(values, "BitsAllocated", 0), _integer(values, "BitsStored", 0)
    high_bit = _integer(values, "HighBit", bits - 1)
    if allocated not in (8, 16) or not 0 < bits <= high_bit + 1 <= allocated:
        raise PixelError(
            uid,
            f"{bits} bits stored up to bit {high_bit} of {allocated}, expected at most 16 within 8 or 16",
        )
    return Stored(
        allocated, bits, high_bit, _integer(values, "PixelRepresentation", 0) == 1, has_foreign_bits
    )


def _text(values: Values, keyword: str) -> str:
    value = values.get(keyword, "")
    return value.strip() if isinstance(value, str) else ""


def _numbers(values: Values, keyword: str, count: int) -> tuple[float, ...] | None:
    """Return exactly `count` numbers; None where there are not."""
    value = values.get(keyword)
    return value if isinstance(value, tuple) and len(value) == count else None


def _integer(values: Values, keyword: str, default: int) -> int:
    value = _numbers(values, keyword, 1)
    return default if value is None else int(value[0])
