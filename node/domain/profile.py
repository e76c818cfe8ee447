"""What a destination takes: which objects, and in which of the forms that the standard allows."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class Kind(StrEnum):
    """The objects a result can have; the values are names of files and a public contract."""

    FINDINGS_SR = "findings_sr"
    LESIONS_SR = "lesions_sr"
    SUMMARY_SR = "summary_sr"
    SEGMENTATION = "segmentation"
    PARAMETRIC_MAP = "parametric_map"
    PRESENTATION_STATE = "presentation_state"
    KEY_OBJECTS = "key_objects"
    ANNOTATIONS = "annotations"
    SECONDARY_CAPTURE = "secondary_capture"


class ReportClass(StrEnum):
    """The SOP class that carries findings and lesions; the tree is the same in each."""

    COMPREHENSIVE_3D = "comprehensive_3d"
    COMPREHENSIVE = "comprehensive"
    ENHANCED = "enhanced"


class SegmentationType(StrEnum):
    """How a mask is stored (PS3.3 C.8.20.2.3); fractional keeps the probability, which few viewers show."""

    BINARY = "binary"
    FRACTIONAL = "fractional"
    LABELMAP = "labelmap"


PRESETS: Mapping[str, tuple[Kind, ...]] = MappingProxyType(
    {
        "air": (
            Kind.FINDINGS_SR,
            Kind.LESIONS_SR,
            Kind.SEGMENTATION,
            Kind.PARAMETRIC_MAP,
            Kind.KEY_OBJECTS,
        ),
        "viewer": (
            Kind.LESIONS_SR,
            Kind.SUMMARY_SR,
            Kind.SEGMENTATION,
            Kind.PARAMETRIC_MAP,
            Kind.SECONDARY_CAPTURE,
        ),
        "classic": (
            Kind.FINDINGS_SR,
            Kind.LESIONS_SR,
            Kind.SUMMARY_SR,
            Kind.SEGMENTATION,
            Kind.PARAMETRIC_MAP,
            Kind.KEY_OBJECTS,
            Kind.PRESENTATION_STATE,
            Kind.SECONDARY_CAPTURE,
        ),
    }
)
"""Names for sets of objects: IHE AI Results; what viewers of today show; a PACS of the old school."""

STANDARD_KINDS = (
    Kind.FINDINGS_SR,
    Kind.LESIONS_SR,
    Kind.SUMMARY_SR,
    Kind.SEGMENTATION,
    Kind.PARAMETRIC_MAP,
    Kind.ANNOTATIONS,
    Kind.SECONDARY_CAPTURE,
)
"""What a destination gets that asks for nothing else: all that is data or shown, nothing twice."""


@dataclass(frozen=True, slots=True)
class Profile:
    """The objects that one destination gets, and their forms.

    A segmentation of more than `max_frames` frames is divided into several objects; 0 sets no limit.
    """

    kinds: tuple[Kind, ...] = STANDARD_KINDS
    report_class: ReportClass = ReportClass.COMPREHENSIVE_3D
    segmentation_type: SegmentationType = SegmentationType.BINARY
    omit_empty_frames: bool = True
    max_frames: int = 0

    def takes(self, kind: str, form: str) -> bool:
        """Return whether objects of this kind and form are wanted."""
        return kind in self.kinds and form == self.form_of(Kind(kind))

    def form_of(self, kind: Kind) -> str:
        """Return in which form the objects of a kind are: the same text where they are the same objects.

        A report of lesions refers to the segmentation, so it changes with it.
        """
        masks = (self.segmentation_type, self.omit_empty_frames, self.max_frames)
        parts: Mapping[Kind, tuple[object, ...]] = {
            Kind.FINDINGS_SR: (self.report_class,),
            Kind.LESIONS_SR: (self.report_class, *(masks if Kind.SEGMENTATION in self.kinds else ())),
            Kind.SEGMENTATION: masks,
        }
        return "/".join(map(str, parts.get(kind, ())))


DEFAULT_PROFILE = Profile()
