"""What highdicom is shown of a source: its identifiers and geometry, and no patient."""

from pydicom.dataset import Dataset
from pydicom.uid import UID

from node.encode.source import GEOMETRY, Source

EMPTY = """
    PatientID PatientName PatientBirthDate PatientSex AccessionNumber StudyID StudyDate StudyTime
    ReferringPhysicianName
"""

SLICE = "FrameOfReferenceUID ImageOrientationPatient ImagePositionPatient PixelSpacing"


class AnySource:
    """Leaves the copying of patient and study to `stamp`: highdicom's own refuses unknown SOP classes."""

    def copy_patient_and_study_information(self, dataset: Dataset) -> None:
        """Copy nothing."""

    def copy_specimen_information(self, dataset: Dataset) -> None:
        """Copy nothing."""


def evidence(source: Source) -> Dataset:
    """Return what highdicom needs to refer to a source; `image_evidence` is for what must lie on it."""
    return reference(
        source.study_instance_uid, source.series_instance_uid, source.sop_class_uid, source.sop_instance_uid
    )


def reference(study: str, series: str, sop_class: str, instance: str) -> Dataset:
    """Return what highdicom needs to refer to any object, by its UIDs."""
    known = Dataset()
    known.StudyInstanceUID = study
    known.SeriesInstanceUID = series
    known.SOPClassUID = UID(sop_class)
    known.SOPInstanceUID = UID(instance)
    for keyword in EMPTY.split():
        setattr(known, keyword, None)
    return known


def image_evidence(source: Source) -> Dataset:
    """Return a source with its geometry, decoded, for objects whose pixels lie over it.

    Raises DatasetError where an attribute cannot be decoded.
    """
    image = evidence(source)
    source.copy_decoded(image, GEOMETRY.split())
    return image


def slice_evidence(source: Source) -> Dataset:
    """Return what highdicom needs of a further slice, after the whole evidence of the first."""
    image = Dataset()
    image.StudyInstanceUID = source.study_instance_uid
    image.SeriesInstanceUID = source.series_instance_uid
    image.SOPClassUID = UID(source.sop_class_uid)
    image.SOPInstanceUID = UID(source.sop_instance_uid)
    source.copy_decoded(image, SLICE.split())
    return image
