"""One total pixel matrix of a synthetic slide, and how it is written."""

from collections.abc import Collection
from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit

from node.samples.slide_macro import CORNER_XY_MM, GLASS_MM

ORIENTATION = [0, -1, 0, -1, 0, 0]
"""Along a row y falls, down a column x does (PS3.3 C.8.12.2.1.1)."""
THICKNESS_MM = 0.004
ORGANIZATIONS = "TILED_FULL", "TILED_SPARSE"


@dataclass(frozen=True, slots=True)
class SlideOptions:
    """How a slide is written.

    TILED_SPARSE leaves out tiles of bare glass; `transfer_syntax_uid` is baseline JPEG or uncompressed, and
    `quality` that of the JPEG. Without `study_instance_uid` all UIDs follow from sample and options.
    """

    organization: str = "TILED_FULL"
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


@dataclass(frozen=True, slots=True)
class Picture:
    """One total pixel matrix of a slide: a level (VOLUME), LABEL or OVERVIEW; its number in the series."""

    kind: str
    number: int
    columns: int
    rows: int
    spacing_um: float
    tile_size: tuple[int, int]

    @property
    def spacing_mm(self) -> float:
        """The distance between pixels."""
        return self.spacing_um / 1000

    @property
    def image_type(self) -> list[str]:
        """Whether it is as scanned, and what it shows (PS3.3 C.8.12.4.1.1)."""
        if self.kind == "VOLUME" and self.number:
            return ["DERIVED", "PRIMARY", "VOLUME", "RESAMPLED"]
        return ["ORIGINAL", "PRIMARY", self.kind, "NONE"]

    @property
    def origin_xy_mm(self) -> tuple[float, float]:
        """The center of the first pixel on the glass: half a pixel inside the outer corner of the matrix."""
        corner = CORNER_XY_MM if self.kind == "VOLUME" else (GLASS_MM[1], GLASS_MM[0])
        return round(corner[0] - self.spacing_mm / 2, 6), round(corner[1] - self.spacing_mm / 2, 6)


def matrix_part(picture: Picture, options: SlideOptions, ratio: float) -> Dataset:
    """Return what an object says of its matrix (PS3.3 C.8.12.4); `ratio` is that of the compression."""
    part = _extent(picture)
    part.update(_pixel_format(picture, options))
    if options.is_lossy:
        part.LossyImageCompressionRatio = f"{ratio:.4g}"
        part.LossyImageCompressionMethod = "ISO_10918_1"
    if picture.kind == "LABEL":
        part.LabelText = part.BarcodeValue = ""
    return part


def _extent(picture: Picture) -> Dataset:
    """Return what the matrix shows, its size and its place on the glass."""
    x, y = picture.origin_xy_mm
    return item(
        InstanceNumber=picture.number + 1,
        ImageType=picture.image_type,
        VolumetricProperties="VOLUME",
        ImagedVolumeWidth=round(picture.columns * picture.spacing_mm, 6),
        ImagedVolumeHeight=round(picture.rows * picture.spacing_mm, 6),
        ImagedVolumeDepth=THICKNESS_MM * 1000,
        TotalPixelMatrixColumns=picture.columns,
        TotalPixelMatrixRows=picture.rows,
        TotalPixelMatrixFocalPlanes=1,
        TotalPixelMatrixOriginSequence=[
            item(XOffsetInSlideCoordinateSystem=x, YOffsetInSlideCoordinateSystem=y)
        ],
        ImageOrientationSlide=ORIENTATION,
        FocusMethod="AUTO",
        ExtendedDepthOfField="NO",
        SpecimenLabelInImage="NO" if picture.kind == "VOLUME" else "YES",
        BurnedInAnnotation="NO",
        AcquisitionContextSequence=[],
    )


def _pixel_format(picture: Picture, options: SlideOptions) -> Dataset:
    return item(
        SamplesPerPixel=3,
        PhotometricInterpretation="YBR_FULL_422" if options.is_lossy else "RGB",
        PlanarConfiguration=0,
        Rows=picture.tile_size[1],
        Columns=picture.tile_size[0],
        BitsAllocated=8,
        BitsStored=8,
        HighBit=7,
        PixelRepresentation=0,
        LossyImageCompression="01" if options.is_lossy else "00",
    )


def item(**attributes: object) -> Dataset:
    """Return a data set of these attributes, by keyword."""
    dataset = Dataset()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset
