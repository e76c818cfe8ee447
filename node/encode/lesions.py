"""The lesion report: TID 1500 in which everything tracked has a place.

OHIF opens such a report only where each tracking identifier has coordinates, and takes a box over as a
measurement of its own only where they stand in a group by themselves. So a region has two groups of one
identifier: its values (TID 1501, or 1411 where a segment delineates it) and its outline (TID 1410). A region
on a slide has one for both, as viewers of slides want it. Of an image unlike the model's own the outlines are
there, but no finding and no figure: a viewer draws them side by side, and shows no warning.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from highdicom.sr import (
    ContentItem,
    FindingSite,
    Measurement,
    ReferencedSegment,
    Scoord3DContentItem,
    ScoordContentItem,
    SourceSeriesForSegmentation,
)
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from node.domain.findings import Presence, Region
from node.domain.profile import Kind, ReportClass
from node.encode import codes
from node.encode.coordinates import coordinates, is_tiled, source_of
from node.encode.document import build_document, container, sentence
from node.encode.evidence import reference
from node.encode.groups import (
    Items,
    algorithm,
    evaluation,
    finding,
    flat,
    image_flags,
    measurement_group,
    measurement_report,
    members,
    score_parameters,
    sources_of_measurement,
    tracking,
)
from node.encode.identity import Result, coded, private_scheme
from node.encode.measurements import doubts, probability, quantity
from node.encode.pictures import pictures_of
from node.encode.segmentation import SegmentPlace, locate_segments
from node.encode.summary import describe_verdict


@dataclass(frozen=True, slots=True, eq=False)
class Lesion:
    """A region with all that its groups say of it; `segment` is what delineates it, where there is one."""

    region: Region
    result: Result
    coordinates: ScoordContentItem | Scoord3DContentItem
    segment: SegmentPlace | None

    @property
    def presence(self) -> Presence:
        """What is said of it in this image."""
        return self.result.findings.presence_of(self.region)


def encode_lesions(result: Result) -> Iterator[Dataset]:
    """Yield the report of the regions; nothing where there are none.

    With places on a slide it is always a Comprehensive 3D SR: the other classes hold no millimeters.
    """
    lesions = list(_lesions(result))
    if not lesions:
        return
    pictures = pictures_of(result, (one.region.outline.frame for one in lesions))
    root = measurement_report(result, pictures, _content(lesions, result))
    is_spatial = any(isinstance(one.coordinates, Scoord3DContentItem) for one in lesions)
    wanted = result.context.profile.report_class
    document = build_document(
        root,
        result,
        Kind.LESIONS_SR,
        report_class=ReportClass.COMPREHENSIVE_3D if is_spatial else wanted,
        siblings=_siblings(lesions, result),
    )
    document.CodingSchemeIdentificationSequence = [private_scheme()]
    yield document


def _lesions(result: Result) -> Iterator[Lesion]:
    segments = locate_segments(result)
    for region in result.findings.regions:
        # The one group of a region on a slide has its outline, so no room for a segment.
        is_on_slide = is_tiled(source_of(region.outline, result))
        segment = None if is_on_slide else segments.get(region.identifier)
        yield Lesion(region, result, coordinates(region.outline, result), segment)


def _siblings(lesions: Iterable[Lesion], result: Result) -> list[Dataset]:
    """Return the segmentations that the report refers to, each once."""
    study = result.source.study_instance_uid
    segments = {one.segment.sop_instance_uid: one.segment for one in lesions if one.segment}
    return [
        reference(study, one.series_instance_uid, one.sop_class_uid, one.sop_instance_uid)
        for one in segments.values()
    ]


def _content(lesions: list[Lesion], result: Result) -> Iterator[ContentItem]:
    has_segments = any(one.segment for one in lesions)
    groups = (group for one in lesions for group in _groups(one, has_segments=has_segments))
    yield container(codes.IMAGING_MEASUREMENTS, groups)
    if flags := list(image_flags(result.findings)):
        yield container(codes.QUALITATIVE_EVALUATIONS, flags)


def _groups(lesion: Lesion, *, has_segments: bool) -> Iterator[ContentItem]:
    """Yield the groups of one region.

    Beside TID 1411 no TID 1501 may stand, for validators take it for one without its region; so where only
    others have segments, the outline and the values share a group.
    """
    is_on_slide = is_tiled(source_of(lesion.region.outline, lesion.result))
    if is_on_slide or (has_segments and not lesion.segment):
        yield _group("1410", lesion, _values(lesion), _geometry(lesion))
        return
    if lesion.segment:
        yield _group("1411", lesion, _values(lesion), _extent(lesion.segment, lesion.result))
    else:
        yield _group("1501", lesion, _values(lesion), _sources(lesion))
    yield _group("1410", lesion, _geometry(lesion))


def _group(template_id: str, lesion: Lesion, *parts: Items) -> ContentItem:
    return measurement_group(template_id, flat([_head(lesion), *parts]))


def _head(lesion: Lesion) -> Iterator[ContentItem]:
    """Yield which region it is, what and where it is, and what says so: the same in all of its groups.

    Viewers list findings whatever their presence: an absent one is none, nor is any of a foreign image.
    """
    region, result = lesion.region, lesion.result
    yield from tracking(result.tracking_uid(region.identifier), region.identifier)
    if lesion.presence is not Presence.ABSENT and not result.findings.is_foreign:
        yield finding(coded(region.code))
    if region.site:
        yield FindingSite(coded(region.site), coded(region.laterality) if region.laterality else None)
    yield from algorithm(result, *(score_parameters(region.score) if region.score else ()))


def _values(lesion: Lesion) -> Iterator[ContentItem]:
    """Yield what is known of the region; viewers print the first few numbers, so those of use come first."""
    region, findings = lesion.region, lesion.result.findings
    judgment = findings.judgment_of(region)
    if not findings.is_foreign:
        yield from flat(_numbers(region))
    if judgment:
        yield evaluation(coded(region.code), codes.PRESENCE[lesion.presence])
    if region.score and not findings.is_foreign:
        yield from members(region.score.uncertainty.prediction_set)
    yield evaluation(codes.RENDERING_INTENT, _intent(lesion))
    if judgment and judgment.doubts:
        yield sentence(codes.COMMENT, describe_verdict(judgment))
    if region.remark and not findings.is_foreign:
        yield sentence(codes.COMMENT, region.remark)


def _numbers(region: Region) -> Iterator[Measurement]:
    if region.score:
        yield probability(codes.CERTAINTY, region.score)
    yield from map(quantity, region.measurements)
    if region.score:
        yield from doubts(region.score.uncertainty)


def _intent(lesion: Lesion) -> Code:
    """Return whether a viewer shall show the region."""
    is_foreign = lesion.result.findings.is_foreign
    return codes.NOT_FOR_PRESENTATION if is_foreign else codes.INTENT_BY_PRESENCE[lesion.presence]


def _geometry(lesion: Lesion) -> Iterator[ContentItem]:
    yield evaluation(codes.GEOMETRIC_PURPOSE, codes.BOUNDED_BY)
    yield lesion.coordinates


def _extent(segment: SegmentPlace, result: Result) -> Items:
    """Return the reference to a segment, and to the series that it was drawn on."""
    return ReferencedSegment(
        segment.sop_class_uid,
        segment.sop_instance_uid,
        segment.number,
        source_series=SourceSeriesForSegmentation(result.source.series_instance_uid),
    )


def _sources(lesion: Lesion) -> list[ContentItem]:
    return sources_of_measurement(pictures_of(lesion.result, [lesion.region.outline.frame]))
