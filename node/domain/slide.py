"""What the whole program knows of a whole slide: its magnifications."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SlideLevel:
    """One magnification of a slide: its columns and rows in pixels, and those of its tiles."""

    sop_instance_uid: str
    """Of the instance whose total pixel matrix it is (a concatenation's first part); "" of no DICOM file."""
    columns: int
    rows: int
    downsample: float
    """By how much it is coarser than the finest level, which has 1.0."""
    tile_columns: int
    tile_rows: int
