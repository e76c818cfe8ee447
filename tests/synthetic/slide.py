"""A slide as VL Whole Slide Microscopy objects: a pyramid of two levels with a dark disc at a known place."""

from collections.abc import Iterator
from dataclasses import dataclass

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from PIL import ImageCms
from pydicom import Dataset
from pydicom.dataset import FileDataset
from pydicom.sr.codedict import codes
from pydicom.tag import Tag
from pydicom.uid import VLWholeSlideMicroscopyImageStorage

from tests.synthetic.headers import code_item, item, new_object, uid
from tests.synthetic.stack import Floats, Mask, Point

Names = tuple[object, ...]
Colors = NDArray[np.uint8]

TILE = 64
CORNER_XY_MM = (20.0, 40.0)
"""The outer corner of the total pixel matrix, the same one for all levels."""
ORIENTATION = [0, -1, 0, -1, 0, 0]
LEVELS = ((512, 768, 0.001), (128, 192, 0.004))
"""Rows, columns and pixel spacing in mm of each level."""
THICKNESS_MM = 0.004
CENTROID_XYZ_MM: Point = (19.83, 39.45, 0.0)
RADIUS_MM = 0.08
TISSUE_CENTER_XY_MM, TISSUE_RADII_XY_MM = (19.74, 39.6), (0.2, 0.3)
GLASS, TISSUE, DISC = (243, 242, 244), (226, 160, 200), (70, 40, 110)


@dataclass(frozen=True, slots=True)
class Level:
    """One level of the pyramid: its place, its pixels, its tiles."""

    number: int
    rows: int
    columns: int
    spacing_mm: float

    @property
    def origin_xy_mm(self) -> tuple[float, float]:
        """The center of the first pixel: half a pixel inside the corner, along x and y alike."""
        x, y = CORNER_XY_MM
        return round(x - self.spacing_mm / 2, 6), round(y - self.spacing_mm / 2, 6)

    def points(self) -> Floats:
        """The centers of the pixels in the slide, (rows, columns, 2); row by row x falls, then y."""
        x, y = self.origin_xy_mm
        down = x - np.arange(self.rows)[:, None] * self.spacing_mm
        across = y - np.arange(self.columns)[None, :] * self.spacing_mm
        return np.stack(np.broadcast_arrays(down, across), axis=-1)

    def mask(self) -> Mask:
        """Where the disc is, (1, rows, columns)."""
        offsets = self.points() - CENTROID_XYZ_MM[:2]
        return np.asarray((offsets**2).sum(axis=-1) <= RADIUS_MM**2)[None]

    def picture(self) -> Colors:
        """Pale glass, pink tissue, the dark disc, and noise; (rows, columns, 3)."""
        offsets = (self.points() - TISSUE_CENTER_XY_MM) / TISSUE_RADII_XY_MM
        is_tissue = (offsets**2).sum(axis=-1) <= 1
        picture = np.where(is_tissue[..., None], TISSUE, GLASS)
        picture = np.where(self.mask()[0][..., None], DISC, picture)
        noise = np.random.default_rng(self.number).integers(-4, 5, picture.shape) * is_tissue[..., None]
        return np.asarray(picture + noise, np.uint8)

    def corners(self) -> Iterator[tuple[int, int]]:
        """The first row and column of each tile, row by row."""
        return ((r, c) for r in range(0, self.rows, TILE) for c in range(0, self.columns, TILE))


def slide_objects(organization: str, names: Names) -> list[FileDataset]:
    """One object a level, the finest first; tiles run row by row, but column by column in TILED_SPARSE."""
    levels = [Level(number, *values) for number, values in enumerate(LEVELS)]
    return [_object(level, organization, names) for level in levels]


def slide_masks() -> tuple[Mask, ...]:
    """The disc in each level, (1, rows, columns)."""
    return tuple(Level(number, *values).mask() for number, values in enumerate(LEVELS))


def _object(level: Level, organization: str, names: Names) -> FileDataset:
    is_sparse = organization == "TILED_SPARSE"
    picture = level.picture()
    corners = list(level.corners())
    if is_sparse:
        # Column by column: whoever goes by the order of the frames scrambles the picture.
        corners.sort(key=lambda corner: corner[::-1])
    dataset = new_object(names, "SM", charset="ISO_IR 192")
    for part in (_slide_image(level), _specimen(names), _light(), _dimensions(organization, names)):
        dataset.update(part)
    dataset.SOPInstanceUID = uid("instance", *names, level.number)
    dataset.InstanceNumber = level.number + 1
    dataset.PyramidUID = uid("pyramid", *names)
    dataset.NumberOfFrames = len(corners)
    dataset.SharedFunctionalGroupsSequence = [_shared_groups(level)]
    if is_sparse:
        dataset.PerFrameFunctionalGroupsSequence = [_frame_groups(level, *corner) for corner in corners]
    dataset.PixelData = b"".join(_tile(picture, corner).tobytes() for corner in corners)
    return dataset


def _tile(picture: Colors, corner: tuple[int, int]) -> Colors:
    row, column = corner
    return picture[row : row + TILE, column : column + TILE]


def _image_type(level: Level) -> list[str]:
    return (
        ["DERIVED", "PRIMARY", "VOLUME", "RESAMPLED"]
        if level.number
        else ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    )


def _slide_image(level: Level) -> Dataset:
    x, y = level.origin_xy_mm
    return item(
        SOPClassUID=VLWholeSlideMicroscopyImageStorage,
        ImageType=_image_type(level),
        AcquisitionDateTime="20250102091630",
        PositionReferenceIndicator="SLIDE_CORNER",
        VolumetricProperties="VOLUME",
        ImagedVolumeWidth=round(level.columns * level.spacing_mm, 6),
        ImagedVolumeHeight=round(level.rows * level.spacing_mm, 6),
        ImagedVolumeDepth=THICKNESS_MM * 1000,
        TotalPixelMatrixColumns=level.columns,
        TotalPixelMatrixRows=level.rows,
        TotalPixelMatrixFocalPlanes=1,
        TotalPixelMatrixOriginSequence=[
            item(XOffsetInSlideCoordinateSystem=x, YOffsetInSlideCoordinateSystem=y)
        ],
        ImageOrientationSlide=ORIENTATION,
        FocusMethod="AUTO",
        ExtendedDepthOfField="NO",
        SpecimenLabelInImage="NO",
        AcquisitionContextSequence=[],
        SamplesPerPixel=3,
        PhotometricInterpretation="RGB",
        PlanarConfiguration=0,
        Rows=TILE,
        Columns=TILE,
        BitsAllocated=8,
        BitsStored=8,
        HighBit=7,
        PixelRepresentation=0,
    )


def _specimen(names: Names) -> Dataset:
    stain = hd.SpecimenPreparationStep(
        "S-0401",
        processing_procedure=hd.SpecimenStaining(
            [codes.SCT.HematoxylinStain, codes.SCT.WaterSolubleEosinStain]
        ),
    )
    description = hd.SpecimenDescription(
        "S-0401",
        uid("specimen", *names),
        specimen_preparation_steps=[stain],
        specimen_type=codes.SCT.TissueSection,
        primary_anatomic_structures=[codes.SCT.Prostate],
    )
    return item(
        ContainerIdentifier="S-0401",
        IssuerOfTheContainerIdentifierSequence=[],
        ContainerTypeCodeSequence=[code_item(codes.SCT.MicroscopeSlide)],
        SpecimenDescriptionSequence=[description],
    )


def _light() -> Dataset:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = item(
        OpticalPathIdentifier="1",
        OpticalPathDescription="Brightfield",
        IlluminationTypeCodeSequence=[code_item(codes.DCM.BrightfieldIllumination)],
        IlluminationColorCodeSequence=[code_item(codes.SCT.FullSpectrum)],
        # The date it was made would make every file another one.
        ICCProfile=profile[:24] + bytes(12) + profile[36:],
        ColorSpace="SRGB",
        ObjectiveLensPower=10.0,
    )
    return item(NumberOfOpticalPaths=1, OpticalPathSequence=[path])


def _dimensions(organization: str, names: Names) -> Dataset:
    organization_uid = uid("dimensions", *names)
    part = item(
        DimensionOrganizationType=organization,
        DimensionOrganizationSequence=[item(DimensionOrganizationUID=organization_uid)],
    )
    if organization == "TILED_SPARSE":
        part.DimensionIndexSequence = [
            item(
                DimensionOrganizationUID=organization_uid,
                DimensionIndexPointer=Tag(name),
                FunctionalGroupPointer=Tag("PlanePositionSlideSequence"),
                DimensionDescriptionLabel=name,
            )
            for name in ("RowPositionInTotalImagePixelMatrix", "ColumnPositionInTotalImagePixelMatrix")
        ]
    return part


def _shared_groups(level: Level) -> Dataset:
    spacing = [level.spacing_mm, level.spacing_mm]
    return item(
        PixelMeasuresSequence=[item(PixelSpacing=spacing, SliceThickness=THICKNESS_MM)],
        WholeSlideMicroscopyImageFrameTypeSequence=[item(FrameType=_image_type(level))],
        OpticalPathIdentificationSequence=[item(OpticalPathIdentifier="1")],
    )


def _frame_groups(level: Level, row: int, column: int) -> Dataset:
    x, y = np.round(level.points()[row, column], 6).tolist()
    position = item(
        ColumnPositionInTotalImagePixelMatrix=column + 1,
        RowPositionInTotalImagePixelMatrix=row + 1,
        XOffsetInSlideCoordinateSystem=x,
        YOffsetInSlideCoordinateSystem=y,
        ZOffsetInSlideCoordinateSystem=0.0,
    )
    content = item(DimensionIndexValues=[row // TILE + 1, column // TILE + 1])
    return item(PlanePositionSlideSequence=[position], FrameContentSequence=[content])
