"""What the reports of findings and of lesions share: their head, and what a measurement group is made of."""

import re
from collections.abc import Iterable, Iterator
from typing import cast

from highdicom.sr import (
    AlgorithmIdentification,
    CodeContentItem,
    ContainerContentItem,
    ContentItem,
    RelationshipTypeValues,
    SubjectContext,
    SubjectContextSpecimen,
    TrackingIdentifier,
)
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from node.domain.findings import Findings, PredictionSet, Score
from node.encode import codes
from node.encode.document import CONTAINS, container, document_root, sentence
from node.encode.identity import LONG_STRING, Result, plain
from node.encode.measurements import INTERVAL_PERCENT
from node.encode.pictures import Picture, refer
from node.encode.source import Source
from node.encode.summary import FOREIGN_WARNING
from node.read.dataset import dataset_faults

Items = Iterable[Dataset]
"""Content items; highdicom's templates are sequences of any data sets to the type checker."""


def measurement_report(
    result: Result, pictures: Iterable[Picture], parts: Iterable[ContentItem]
) -> ContainerContentItem:
    """Return the root of a report (TID 1500): observer, subject, procedure, key images, then its parts."""
    head = [*_subject(result.source), _procedure(result), *_image_library(pictures)]
    return document_root(codes.MEASUREMENT_REPORT, "1500", result.device, [*head, *parts])


def measurement_group(template_id: str, items: Iterable[ContentItem]) -> ContainerContentItem:
    """Return one group of a report (TID 1410, 1411 or 1501)."""
    return container(codes.MEASUREMENT_GROUP, items, template_id=template_id)


def tracking(uid: str, identifier: str) -> TrackingIdentifier:
    """Return under which name a thing is known in every object and in later runs."""
    return TrackingIdentifier(uid=uid, identifier=plain(identifier, LONG_STRING))


def algorithm(result: Result, *parameters: str) -> AlgorithmIdentification:
    """Return what made the values, with its settings: those of the value first, then its own."""
    stated = (*parameters, *result.findings.algorithm.parameters)
    return AlgorithmIdentification(
        name=result.device.name,
        version=result.device.version,
        parameters=[plain(parameter, LONG_STRING) for parameter in stated],
        family=codes.ARTIFICIAL_INTELLIGENCE,
    )


def score_parameters(score: Score) -> tuple[str, ...]:
    """Return the settings that a probability cannot be read without."""
    return f"decision_threshold={score.threshold:.4g}", f"interval={INTERVAL_PERCENT}%"


def evaluation(name: Code, value: Code) -> CodeContentItem:
    """Return one coded answer."""
    return CodeContentItem(name=name, value=value, relationship_type=CONTAINS)


def finding(label: Code) -> CodeContentItem:
    """Return what viewers list as found; so whatever is absent must never have it."""
    return evaluation(codes.FINDING, label)


def members(prediction_set: PredictionSet | None) -> list[ContentItem]:
    """Return the answers that cannot be ruled out."""
    answers = prediction_set.answers if prediction_set else ()
    return [evaluation(codes.PREDICTION_SET_MEMBER, codes.PRESENCE[one]) for one in answers]


def image_flags(findings: Findings) -> Iterator[ContentItem]:
    """Yield, for the whole report, whether its scores may be used, where the model can tell."""
    if findings.out_of_distribution:
        yield evaluation(codes.OUT_OF_DISTRIBUTION, codes.YES_NO[findings.is_foreign])
    if findings.is_foreign:
        yield sentence(codes.COMMENT, FOREIGN_WARNING)


def flat(parts: Iterable[Items]) -> list[ContentItem]:
    """Return the items of several parts of a group, in order."""
    return [cast(ContentItem, item) for part in parts for item in part]


def sources_of_measurement(pictures: Iterable[Picture]) -> list[ContentItem]:
    """Return the pictures that the values of a group are about."""
    return [refer(codes.SOURCE_OF_MEASUREMENT, picture, CONTAINS) for picture in pictures]


def _procedure(result: Result) -> CodeContentItem:
    modality = result.source.text("Modality")
    return CodeContentItem(
        name=codes.PROCEDURE_REPORTED,
        value=codes.PROCEDURE_BY_MODALITY.get(modality, codes.IMAGING_PROCEDURE),
        relationship_type=RelationshipTypeValues.HAS_CONCEPT_MOD,
    )


def _image_library(pictures: Iterable[Picture]) -> Iterator[ContentItem]:
    """Yield the key images (TID 1600): all of a series would make a report of a megabyte."""
    entries = [refer(codes.SOURCE, Picture(picture.source), CONTAINS) for picture in pictures]
    if entries:
        yield container(codes.IMAGE_LIBRARY, [container(codes.IMAGE_LIBRARY_GROUP, entries)])


def _subject(source: Source) -> Iterator[ContentItem]:
    """Yield what was looked at where it is not the patient: the one specimen on a slide (TID 1006, 1009)."""
    with dataset_faults(source.sop_instance_uid):
        specimens = source.header.get("SpecimenDescriptionSequence") or []
        uid = str(specimens[0].get("SpecimenUID", "")) if len(specimens) == 1 else ""
        identifier = str(specimens[0].get("SpecimenIdentifier", "")) if uid else ""
    if re.fullmatch(r"[0-9.]{1,64}", uid):
        slide = _verbatim(source.text("ContainerIdentifier"))
        yield from SubjectContext(
            codes.SPECIMEN, SubjectContextSpecimen(uid, _verbatim(identifier), container_identifier=slide)
        )


def _verbatim(identifier: str) -> str | None:
    """Return an identifier that every character set holds as it is; a changed one would be another's."""
    return identifier if identifier and identifier == plain(identifier, LONG_STRING) else None
