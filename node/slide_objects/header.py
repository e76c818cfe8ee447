"""What an object of a slide says of its total pixel matrix, its frames and the light (PS3.3 C.8.12.4)."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import ImageCms
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.tag import Tag
from pydicom.uid import UID, VLWholeSlideMicroscopyImageStorage

from node.slide_objects.items import code_item, item

ORIENTATION = [0, -1, 0, -1, 0, 0]
"""Along a row y falls, down a column x does (PS3.3 C.8.12.2.1.1)."""
THICKNESS_MM = 0.004
"""What a section usually has: the IOD demands a depth, and scanners' files state none."""
INDEX_POINTERS = "RowPositionInTotalImagePixelMatrix", "ColumnPositionInTotalImagePixelMatrix"
TILED_FULL, TILED_SPARSE = "TILED_FULL", "TILED_SPARSE"
GRAY = "MONOCHROME2"


@dataclass(frozen=True, slots=True)
class Picture:
    """One total pixel matrix of a slide and its number in the series (from 0).

    `spacing_yx_mm` is the distance of rows and that of columns, None where nobody knows; `corner_xy_mm` the
    place on the glass of the first pixel's outer corner; `tile_size` columns and rows.
    """

    number: int
    image_type: tuple[str, str, str, str]
    columns: int
    rows: int
    tile_size: tuple[int, int]
    spacing_yx_mm: tuple[float, float] | None
    corner_xy_mm: tuple[float, float]
    photometric_interpretation: str
    is_lossy: bool

    @property
    def kind(self) -> str:
        """What it shows: VOLUME is a level, others are LABEL and OVERVIEW (PS3.3 C.8.12.4.1.1)."""
        return self.image_type[2]

    def position_xy_mm(self, row: int, column: int) -> tuple[float, float]:
        """Return where the center of a pixel lies on the glass, as the orientation says."""
        x, y = self.corner_xy_mm
        down, across = self.spacing_yx_mm or (0.0, 0.0)
        first_x, first_y = round(x - down / 2, 6), round(y - across / 2, 6)
        return round(first_x - row * down, 6), round(first_y - column * across, 6)


def new_object(sop_instance_uid: str) -> FileDataset:
    """Return an object of a slide that has only its class and its UID."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = VLWholeSlideMicroscopyImageStorage
    meta.MediaStorageSOPInstanceUID = UID(sop_instance_uid)
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    return dataset


def matrix_part(picture: Picture, ratio: float) -> Dataset:
    """Return what an object says of its matrix; `ratio` is that of the compression."""
    part = _extent(picture)
    part.update(_pixel_format(picture))
    if picture.is_lossy:
        part.LossyImageCompressionRatio = f"{ratio:.4g}"
        part.LossyImageCompressionMethod = "ISO_10918_1"
    if picture.kind == "LABEL":
        part.LabelText = part.BarcodeValue = ""
    return part


def light_part(profile: bytes, *, is_srgb: bool, objective_power: float | None) -> Dataset:
    """Return the one optical path of a slide in bright field, with the ICC profile of its colors."""
    path = _light(codes.DCM.BrightfieldIllumination, codes.SCT.FullSpectrum)
    path.OpticalPathDescription = "Brightfield"
    path.ICCProfile = profile
    if is_srgb:
        path.ColorSpace = "SRGB"
    if objective_power is not None:
        path.ObjectiveLensPower = objective_power
    return item(NumberOfOpticalPaths=1, OpticalPathSequence=[path])


def gray_light_part() -> Dataset:
    """Return the one optical path of a gray picture that does not say by which light it was taken."""
    return item(NumberOfOpticalPaths=1, OpticalPathSequence=[_light(codes.SCT.Unknown, codes.SCT.Unknown)])


def srgb_profile() -> bytes:
    """Return the profile of sRGB, the same bytes every time."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    # The date it was made would make every file another one.
    return profile[:24] + bytes(12) + profile[36:]


def dimensions_part(
    picture: Picture,
    dimension_organization_uid: str,
    *,
    organization: str = TILED_FULL,
    places: Sequence[tuple[int, int]],
) -> Dataset:
    """Return how the frames lie in the matrix; a sparse one says it of each (PS3.3 C.7.6.17.3).

    `places` are rows and columns of the tiles that have a frame, counted in tiles.
    """
    part = item(
        NumberOfFrames=len(places),
        DimensionOrganizationType=organization,
        DimensionOrganizationSequence=[item(DimensionOrganizationUID=dimension_organization_uid)],
        SharedFunctionalGroupsSequence=[_shared_groups(picture)],
    )
    if organization == TILED_SPARSE:
        part.DimensionIndexSequence = [
            item(
                DimensionOrganizationUID=dimension_organization_uid,
                DimensionIndexPointer=Tag(name),
                FunctionalGroupPointer=Tag("PlanePositionSlideSequence"),
                DimensionDescriptionLabel=name,
            )
            for name in INDEX_POINTERS
        ]
        part.PerFrameFunctionalGroupsSequence = [_frame_groups(picture, *place) for place in places]
    return part


def _extent(picture: Picture) -> Dataset:
    """Return what the matrix shows, its size and its place on the glass."""
    x, y = picture.position_xy_mm(0, 0)
    part = item(
        InstanceNumber=picture.number + 1,
        ImageType=list(picture.image_type),
        VolumetricProperties="VOLUME",
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
    if picture.spacing_yx_mm:
        down, across = picture.spacing_yx_mm
        part.ImagedVolumeWidth = round(picture.columns * across, 6)
        part.ImagedVolumeHeight = round(picture.rows * down, 6)
    return part


def _pixel_format(picture: Picture) -> Dataset:
    part = item(
        SamplesPerPixel=3,
        PhotometricInterpretation=picture.photometric_interpretation,
        PlanarConfiguration=0,
        Rows=picture.tile_size[1],
        Columns=picture.tile_size[0],
        BitsAllocated=8,
        BitsStored=8,
        HighBit=7,
        PixelRepresentation=0,
        LossyImageCompression="01" if picture.is_lossy else "00",
    )
    if picture.photometric_interpretation == GRAY:
        part.SamplesPerPixel = 1
        del part.PlanarConfiguration
        part.update(item(RescaleIntercept=0, RescaleSlope=1, PresentationLUTShape="IDENTITY"))
    return part


def _light(illumination: Code, color: Code) -> Dataset:
    return item(
        OpticalPathIdentifier="1",
        IlluminationTypeCodeSequence=[code_item(illumination)],
        IlluminationColorCodeSequence=[code_item(color)],
    )


def _shared_groups(picture: Picture) -> Dataset:
    measures = item(SliceThickness=THICKNESS_MM)
    if picture.spacing_yx_mm:
        measures.PixelSpacing = list(picture.spacing_yx_mm)
    return item(
        PixelMeasuresSequence=[measures],
        WholeSlideMicroscopyImageFrameTypeSequence=[item(FrameType=list(picture.image_type))],
        OpticalPathIdentificationSequence=[item(OpticalPathIdentifier="1")],
    )


def _frame_groups(picture: Picture, tile_row: int, tile_column: int) -> Dataset:
    column, row = tile_column * picture.tile_size[0], tile_row * picture.tile_size[1]
    x, y = picture.position_xy_mm(row, column)
    position = item(
        ColumnPositionInTotalImagePixelMatrix=column + 1,
        RowPositionInTotalImagePixelMatrix=row + 1,
        XOffsetInSlideCoordinateSystem=x,
        YOffsetInSlideCoordinateSystem=y,
        ZOffsetInSlideCoordinateSystem=0.0,
    )
    content = item(DimensionIndexValues=[tile_row + 1, tile_column + 1])
    return item(PlanePositionSlideSequence=[position], FrameContentSequence=[content])
