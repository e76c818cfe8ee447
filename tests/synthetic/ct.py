"""CT objects of a stack of planes: one an object (classic), or all in one (enhanced)."""

from collections.abc import Iterator

from pydicom import Dataset
from pydicom.dataset import FileDataset
from pydicom.sr.codedict import codes
from pydicom.tag import Tag
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage

from tests.synthetic.headers import code_item, item, new_object, uid
from tests.synthetic.stack import COLUMN_SPACING_MM, INTERCEPT_HU, ROW_SPACING_MM, STEP_MM, Stack

Names = tuple[object, ...]

# --- classic


def ct_slices(stack: Stack, names: Names) -> Iterator[FileDataset]:
    """One CT Image Storage object a plane, in the order of the planes."""
    shared = new_object(names, "CT")
    shared.update(_gray(stack))
    shared.update(_ct_image(stack))
    return (_ct_slice(shared, stack, plane, names) for plane in range(stack.planes))


def _ct_slice(shared: FileDataset, stack: Stack, plane: int, names: Names) -> FileDataset:
    dataset = FileDataset("", {}, preamble=b"\0" * 128)
    dataset.update(shared)
    dataset.SOPInstanceUID = uid("instance", *names, plane)
    dataset.InstanceNumber = plane + 1
    dataset.ImagePositionPatient = stack.positions_xyz_mm[plane].tolist()
    dataset.PixelData = stack.stored(plane).tobytes()
    return dataset


def _gray(stack: Stack) -> Dataset:
    return item(
        SamplesPerPixel=1,
        PhotometricInterpretation="MONOCHROME2",
        Rows=stack.rows,
        Columns=stack.columns,
        BitsAllocated=16,
        BitsStored=16,
        HighBit=15,
        PixelRepresentation=1,
    )


def _ct_image(stack: Stack) -> Dataset:
    part = item(
        SOPClassUID=CTImageStorage,
        ImageType=["ORIGINAL", "PRIMARY", "AXIAL"],
        BodyPartExamined="CHEST",
        PatientPosition="HFS",
        AcquisitionNumber=1,
        AcquisitionDate="20250102",
        AcquisitionTime="091630",
        KVP=120,
        SliceThickness=STEP_MM,
        GantryDetectorTilt=stack.tilt_degrees,
    )
    for group in (_orientation(stack), _measures(), _rescale(), _window()):
        part.update(group)
    return part


# --- the attributes that a classic object has at its top, and an enhanced one in its functional groups


def _orientation(stack: Stack) -> Dataset:
    return item(ImageOrientationPatient=[*stack.row_xyz.tolist(), *stack.column_xyz.tolist()])


def _measures() -> Dataset:
    return item(SliceThickness=STEP_MM, PixelSpacing=[ROW_SPACING_MM, COLUMN_SPACING_MM])


def _rescale() -> Dataset:
    return item(RescaleIntercept=INTERCEPT_HU, RescaleSlope=1, RescaleType="HU")


def _window() -> Dataset:
    return item(WindowCenter=40, WindowWidth=400)


# --- enhanced


def enhanced_ct(stack: Stack, names: Names) -> FileDataset:
    """One Enhanced CT Image Storage object, a frame a plane."""
    dataset = new_object(names, "CT")
    organization = uid("dimensions", *names)
    for part in (_gray(stack), _enhanced_image(), _dimensions(organization)):
        dataset.update(part)
    dataset.SOPInstanceUID = uid("instance", *names)
    dataset.NumberOfFrames = stack.planes
    dataset.SharedFunctionalGroupsSequence = [_shared_groups(stack)]
    dataset.PerFrameFunctionalGroupsSequence = [_frame_groups(stack, plane) for plane in range(stack.planes)]
    dataset.PixelData = b"".join(stack.stored(plane).tobytes() for plane in range(stack.planes))
    return dataset


def _enhanced_image() -> Dataset:
    return item(
        SOPClassUID=EnhancedCTImageStorage,
        InstanceNumber=1,
        AcquisitionNumber=1,
        AcquisitionDateTime="20250102091630",
        AcquisitionDuration=6.0,
        ImageType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"],
        PixelPresentation="MONOCHROME",
        VolumetricProperties="VOLUME",
        VolumeBasedCalculationTechnique="NONE",
        ContentQualification="RESEARCH",
        PresentationLUTShape="IDENTITY",
        RecognizableVisualFeatures="NO",
        PatientPosition="HFS",
        AcquisitionContextSequence=[],
    )


def _dimensions(organization_uid: str) -> Dataset:
    names = ("StackID", "InStackPositionNumber")
    return item(
        DimensionOrganizationType="3D",
        DimensionOrganizationSequence=[item(DimensionOrganizationUID=organization_uid)],
        DimensionIndexSequence=[
            item(
                DimensionOrganizationUID=organization_uid,
                DimensionIndexPointer=Tag(name),
                FunctionalGroupPointer=Tag("FrameContentSequence"),
                DimensionDescriptionLabel=name,
            )
            for name in names
        ],
    )


def _frame_groups(stack: Stack, plane: int) -> Dataset:
    content = item(
        FrameAcquisitionNumber=1,
        FrameReferenceDateTime="20250102091630",
        FrameAcquisitionDateTime="20250102091630",
        FrameAcquisitionDuration=500.0,
        StackID="1",
        InStackPositionNumber=plane + 1,
        DimensionIndexValues=[1, plane + 1],
    )
    position = item(ImagePositionPatient=stack.positions_xyz_mm[plane].tolist())
    return item(FrameContentSequence=[content], PlanePositionSequence=[position])


def _shared_groups(stack: Stack) -> Dataset:
    frame_type = item(
        FrameType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"],
        PixelPresentation="MONOCHROME",
        VolumetricProperties="VOLUME",
        VolumeBasedCalculationTechnique="NONE",
    )
    region = item(AnatomicRegionSequence=[code_item(codes.cid4031.Chest)], FrameLaterality="U")
    groups = item(
        PixelMeasuresSequence=[_measures()],
        PlaneOrientationSequence=[_orientation(stack)],
        PixelValueTransformationSequence=[_rescale()],
        FrameVOILUTSequence=[_window()],
        FrameAnatomySequence=[region],
        CTImageFrameTypeSequence=[frame_type],
        IrradiationEventIdentificationSequence=[item(IrradiationEventUID=uid("irradiation event"))],
    )
    groups.update(_acquisition_groups(stack))
    return groups


def _acquisition_groups(stack: Stack) -> Dataset:
    """How the frames were acquired: all of it is required of an ORIGINAL object (PS3.3 A.38.1.4)."""
    return item(
        CTAcquisitionTypeSequence=[
            item(AcquisitionType="SEQUENCED", ConstantVolumeFlag="NO", FluoroscopyFlag="NO")
        ],
        CTAcquisitionDetailsSequence=[
            item(
                RotationDirection="CW",
                RevolutionTime=0.5,
                SingleCollimationWidth=STEP_MM,
                TotalCollimationWidth=STEP_MM,
                TableHeight=150.0,
                GantryDetectorTilt=stack.tilt_degrees,
                DataCollectionDiameter=500.0,
            )
        ],
        CTTableDynamicsSequence=[item()],
        CTPositionSequence=[
            item(
                TablePosition=0.0,
                DataCollectionCenterPatient=[0.0, 0.0, 0.0],
                ReconstructionTargetCenterPatient=[0.0, 0.0, 0.0],
            )
        ],
        CTGeometrySequence=[item(DistanceSourceToDetector=950.0, DistanceSourceToDataCollectionCenter=540.0)],
        CTReconstructionSequence=[
            item(
                ReconstructionAlgorithm="FILTER_BACK_PROJ",
                ConvolutionKernel="STANDARD",
                ConvolutionKernelGroup="SOFT_TISSUE",
                ReconstructionDiameter=max(stack.rows * ROW_SPACING_MM, stack.columns * COLUMN_SPACING_MM),
                ReconstructionPixelSpacing=[ROW_SPACING_MM, COLUMN_SPACING_MM],
                ReconstructionAngle=360.0,
                ImageFilter="NONE",
            )
        ],
        CTExposureSequence=[
            item(
                ExposureModulationType="NONE",
                ExposureTimeInms=500.0,
                XRayTubeCurrentInmA=200.0,
                ExposureInmAs=100.0,
                CTDIvol=5.0,
                CTDIPhantomTypeCodeSequence=[code_item(codes.cid4052.IECBodyDosimetryPhantom)],
            )
        ],
        CTXRayDetailsSequence=[
            item(
                KVP=120,
                FocalSpots=[1.0],
                FilterType="NONE",
                FilterMaterial="ALUMINUM",
                CalciumScoringMassFactorPatient=1.0,
            )
        ],
    )
