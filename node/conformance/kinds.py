"""Which kind of object it is: the classes that results have."""

from collections.abc import Callable

from pydicom.uid import (
    ColorSoftcopyPresentationStateStorage,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EnhancedSRStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    KeyObjectSelectionDocumentStorage,
    MicroscopyBulkSimpleAnnotationsStorage,
    ParametricMapStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from node.conformance.subject import Subject

LABEL_MAP_SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.7"
"""Label Map Segmentation Storage (PS3.4 B.5), which is newer than pydicom's dictionary."""

REPORTS = frozenset({Comprehensive3DSRStorage, ComprehensiveSRStorage, EnhancedSRStorage})
KEY_OBJECTS = frozenset({KeyObjectSelectionDocumentStorage})
SEGMENTATIONS = frozenset({SegmentationStorage, LABEL_MAP_SEGMENTATION})
MAPS = frozenset({ParametricMapStorage})
PRESENTATIONS = frozenset({GrayscaleSoftcopyPresentationStateStorage, ColorSoftcopyPresentationStateStorage})
ANNOTATIONS = frozenset({MicroscopyBulkSimpleAnnotationsStorage})
PICTURES = frozenset({SecondaryCaptureImageStorage})

DOCUMENTS = REPORTS | KEY_OBJECTS
OVERLAYS = SEGMENTATIONS | MAPS
"""Pixels that lie over those of a source."""

KNOWN = DOCUMENTS | OVERLAYS | PRESENTATIONS | ANNOTATIONS | PICTURES

MEASUREMENT_REPORT, PLANAR_GROUP, VOLUME_GROUP, PLAIN_GROUP = "1500", "1410", "1411", "1501"
"""Templates (PS3.16 A)."""

Applies = Callable[[Subject], bool]


def everything(_: Subject) -> bool:
    """Return that the rule holds for all objects."""
    return True


def of(classes: frozenset[str]) -> Applies:
    """Return what tells whether an object is of one of these classes."""
    return lambda subject: subject.sop_class_uid in classes


def is_measurement_report(subject: Subject) -> bool:
    """Return whether it is a report of TID 1500, of findings or of lesions."""
    return subject.sop_class_uid in REPORTS and subject.tree.template == MEASUREMENT_REPORT


def is_findings_report(subject: Subject) -> bool:
    """Return whether it is a measurement report without places."""
    return is_measurement_report(subject) and not is_lesions_report(subject)


def is_lesions_report(subject: Subject) -> bool:
    """Return whether it is a measurement report whose groups have places."""
    if not is_measurement_report(subject):
        return False
    has_places = any(group.template in (PLANAR_GROUP, VOLUME_GROUP) for group in subject.groups)
    return has_places or subject.tree.has_graphics
