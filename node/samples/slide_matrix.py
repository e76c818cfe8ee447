"""The total pixel matrices of a synthetic slide, and how they are written."""

from collections.abc import Collection
from dataclasses import dataclass

from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit

from node.samples.slide import SlideSample
from node.samples.slide_macro import CORNER_XY_MM, GLASS_MM, LABEL_SIZE, MACRO_SPACING_UM, OVERVIEW_SIZE
from node.slide_objects.header import TILED_FULL, TILED_SPARSE, Picture

ORGANIZATIONS = TILED_FULL, TILED_SPARSE
SIZE_BY_KIND = {"LABEL": LABEL_SIZE, "OVERVIEW": OVERVIEW_SIZE}


@dataclass(frozen=True, slots=True)
class SlideOptions:
    """How a slide is written.

    TILED_SPARSE leaves out tiles of bare glass; `transfer_syntax_uid` is baseline JPEG or uncompressed, and
    `quality` that of the JPEG. Without `study_instance_uid` all UIDs follow from sample and options.
    """

    organization: str = TILED_FULL
    transfer_syntax_uid: str = JPEGBaseline8Bit
    tile_px: int = 256
    quality: int = 85
    patient_id: str | None = None
    study_instance_uid: str | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for what is never written."""
        allowed: dict[str, Collection[str]] = {
            "organization": ORGANIZATIONS,
            "transfer_syntax_uid": (JPEGBaseline8Bit, ExplicitVRLittleEndian),
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name} {getattr(self, name)!r}, expected one of {list(values)}")

    @property
    def is_lossy(self) -> bool:
        """Whether the tiles are JPEG."""
        return self.transfer_syntax_uid == JPEGBaseline8Bit


def level_picture(sample: SlideSample, level: int, options: SlideOptions) -> Picture:
    """Return a level: the finest as scanned, the others resampled from it."""
    columns, rows = sample.size(level)
    spacing_mm = sample.micrometers_per_pixel * sample.levels[level] / 1000
    return Picture(
        level,
        ("DERIVED", "PRIMARY", "VOLUME", "RESAMPLED") if level else ("ORIGINAL", "PRIMARY", "VOLUME", "NONE"),
        columns,
        rows,
        tile_size=(options.tile_px, options.tile_px),
        spacing_yx_mm=(spacing_mm, spacing_mm),
        corner_xy_mm=CORNER_XY_MM,
        photometric_interpretation=_photometric(options),
        is_lossy=options.is_lossy,
    )


def macro_picture(kind: str, number: int, options: SlideOptions) -> Picture:
    """Return the LABEL or the OVERVIEW, which is one tile."""
    columns, rows = SIZE_BY_KIND[kind]
    return Picture(
        number,
        ("ORIGINAL", "PRIMARY", kind, "NONE"),
        columns,
        rows,
        tile_size=(columns, rows),
        spacing_yx_mm=(MACRO_SPACING_UM / 1000, MACRO_SPACING_UM / 1000),
        corner_xy_mm=(GLASS_MM[1], GLASS_MM[0]),
        photometric_interpretation=_photometric(options),
        is_lossy=options.is_lossy,
    )


def _photometric(options: SlideOptions) -> str:
    return "YBR_FULL_422" if options.is_lossy else "RGB"
