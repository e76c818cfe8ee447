"""The header of an object that was made of a slide in a scanner's file: what the file says, and no more."""

from dataclasses import dataclass
from datetime import datetime
from uuid import NAMESPACE_OID, uuid5

from pydicom.dataset import Dataset, FileDataset
from pydicom.sr.codedict import codes

import node
from node.slide_objects.frames import Frames
from node.slide_objects.header import Picture, dimensions_part, matrix_part, new_object
from node.slide_objects.items import code_item, item

UNKNOWN_DATE = datetime(1900, 1, 1)
"""The IOD demands when it was acquired: a day before all scanners says plainly that the file does not."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The scanner's file that a slide came in.

    `light` is the part of the header that says how its colors came about.
    """

    sha256: str
    vendor: str
    scanned_at: datetime | None
    light: Dataset

    def uid(self, role: str) -> str:
        """Return the UID of a role: the same file gives the same study, and the same version its objects."""
        made_from = [role, self.sha256, *([] if role == "study" else [node.__version__])]
        return f"2.25.{uuid5(NAMESPACE_OID, '/'.join(['sightline-slide-file', *made_from])).int}"


def converted_header(origin: Origin, picture: Picture, frames: Frames) -> FileDataset:
    """Return one object without its pixels."""
    dataset = new_object(origin.uid(f"instance-{picture.number}"))
    for part in (
        _patient_and_study(origin),
        _series(origin),
        matrix_part(picture, frames.ratio),
        _derivation(origin, picture, frames),
        _specimen(origin),
        origin.light,
        dimensions_part(picture, origin.uid("dimensions"), places=frames.places),
    ):
        dataset.update(part)
    return dataset


def _patient_and_study(origin: Origin) -> Dataset:
    """Return these as unknown: what a file says of a patient, if it does, stands in no agreed place."""
    return item(
        PatientName="",
        PatientID="",
        PatientBirthDate="",
        PatientSex="",
        StudyInstanceUID=origin.uid("study"),
        StudyDate="",
        StudyTime="",
        StudyID="",
        AccessionNumber="",
        ReferringPhysicianName="",
    )


def _series(origin: Origin) -> Dataset:
    scanned_at = origin.scanned_at or UNKNOWN_DATE
    return item(
        Modality="SM",
        SeriesInstanceUID=origin.uid("series"),
        SeriesNumber=1,
        SeriesDescription="Converted from a scanner's file",
        Manufacturer="Sightline",
        ManufacturerModelName="Sightline node",
        DeviceSerialNumber="0",
        SoftwareVersions=node.__version__,
        FrameOfReferenceUID=origin.uid("frame-of-reference"),
        PositionReferenceIndicator="SLIDE_CORNER",
        PyramidUID=origin.uid("pyramid"),
        AcquisitionDateTime=f"{scanned_at:%Y%m%d%H%M%S}",
        ContentDate=f"{scanned_at:%Y%m%d}",
        ContentTime=f"{scanned_at:%H%M%S}",
    )


def _derivation(origin: Origin, picture: Picture, frames: Frames) -> Dataset:
    is_resampled = picture.image_type[3] == "RESAMPLED"
    derivations = [codes.cid7203.LossyCompression]
    derivations += [codes.cid7203.SpatialResampling] if is_resampled else []
    vendor = f", {origin.vendor}" if origin.vendor else ""
    return item(
        DerivationDescription=(
            f"Converted by Sightline {node.__version__} from a scanner's file{vendor}: "
            f"tiles coded anew as JPEG of quality {frames.quality}"
        ),
        DerivationCodeSequence=[code_item(code) for code in derivations],
    )


def _specimen(origin: Origin) -> Dataset:
    """Return the slide by the only name that surely is no patient's: where its file's digest begins."""
    name = origin.sha256[:16]
    description = item(
        SpecimenIdentifier=name,
        SpecimenUID=origin.uid("specimen"),
        IssuerOfTheSpecimenIdentifierSequence=[],
        SpecimenPreparationSequence=[],
    )
    return item(
        ContainerIdentifier=name,
        IssuerOfTheContainerIdentifierSequence=[],
        ContainerTypeCodeSequence=[code_item(codes.SCT.MicroscopeSlide)],
        SpecimenDescriptionSequence=[description],
    )
