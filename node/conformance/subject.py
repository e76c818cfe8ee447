"""What the gate looks at: an object, the sources it is about, and the other objects of its run."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.tag import Tag

from node.conformance.content import reference_of, sequence, text, walk
from node.conformance.layout import FrameFacts, read_layout
from node.conformance.tree import Item, read_tree
from node.errors import DatasetError
from node.read.dataset import dataset_faults
from node.read.selected import read_selected

IDENTIFIERS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
IDENTITY = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex")
STUDY = ("StudyDate", "StudyTime", "AccessionNumber", "StudyID", "ReferringPhysicianName")
"""Type 2: present, empty where the source says nothing."""

FURTHER = ("IssuerOfPatientID", "StudyDescription", "PatientAge", "TimezoneOffsetFromUTC")
"""Of patient, study and place, too: absent where the source has none."""

GEOMETRY = """
    Rows Columns NumberOfFrames FrameOfReferenceUID ImageOrientationPatient ImagePositionPatient
    PixelSpacing SliceThickness SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence
    TotalPixelMatrixColumns TotalPixelMatrixRows TotalPixelMatrixOriginSequence ImageOrientationSlide
"""
READ = ("SpecificCharacterSet", *IDENTIFIERS, *IDENTITY, *STUDY, *FURTHER, *GEOMETRY.split())

COPIED = """
    ReferencedStudySequence ReferencedPatientSequence ProcedureCodeSequence
    IssuerOfPatientIDQualifiersSequence IssuerOfAccessionNumberSequence OtherPatientIDsSequence
    DeidentificationMethodCodeSequence SpecimenDescriptionSequence ContainerTypeCodeSequence
    IssuerOfTheContainerIdentifierSequence
"""
"""The source's words of patient, study and specimen: as they came, and not ours to judge."""

EVIDENCE = """
    CurrentRequestedProcedureEvidenceSequence PertinentOtherEvidenceSequence
    StudiesContainingOtherReferencedInstancesSequence
"""
PREDECESSORS = "PredecessorDocumentsSequence"
REFERENCE = Tag("ReferencedSOPInstanceUID")
LEFT_OUT = frozenset(map(Tag, [*COPIED.split(), *EVIDENCE.split(), "ReferencedSeriesSequence", PREDECESSORS]))


@dataclass(frozen=True, slots=True, eq=False)
class Sources:
    """The headers of the analyzed instances, read once for all objects of a run; it may be empty."""

    header_by_uid: Mapping[str, Dataset]

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.header_by_uid)

    def __iter__(self) -> Iterator[Dataset]:
        """Yield the headers, in order."""
        return iter(self.header_by_uid.values())


def read_headers(paths: Sequence[Path]) -> Sources:
    """Return what the rules need of the sources; raises DatasetError where one cannot be read."""
    headers = [_read(path) for path in paths]
    return Sources({text(header, "SOPInstanceUID"): header for header in headers})


def _read(path: Path) -> Dataset:
    with dataset_faults(path.name):
        header = read_selected(path, READ)
        if not text(header, "SOPInstanceUID"):
            raise DatasetError(path.name, "has no SOP Instance UID")
    return header


@dataclass(frozen=True, slots=True)
class Listed:
    """One instance in a list of all that an object refers to."""

    study_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str


class Subject:
    """One object to judge, with what it may refer to; what several rules ask for is found once."""

    def __init__(self, dataset: Dataset, sources: Sources, siblings: Sequence[Dataset]) -> None:
        self.dataset = dataset
        self.sources = sources
        self.siblings = tuple(siblings)

    @cached_property
    def sop_class_uid(self) -> str:
        """The class of the object."""
        return text(self.dataset, "SOPClassUID")

    @cached_property
    def items(self) -> tuple[tuple[str, Dataset], ...]:
        """The object and every item in it, each after the keyword of its sequence.

        Left out are the lists of evidence and predecessors, and what stands there in the source's words.
        """
        return tuple(walk(self.dataset, LEFT_OUT))

    @cached_property
    def references(self) -> tuple[tuple[str, Dataset], ...]:
        """The items of the content that refer to an instance, each after the keyword of its sequence."""
        return tuple((keyword, item) for keyword, item in self.items if REFERENCE in item)

    @cached_property
    def evidence(self) -> frozenset[Listed]:
        """The instances that the object lists as those it refers to."""
        return frozenset(_listed(self.dataset, EVIDENCE.split()))

    @cached_property
    def predecessors(self) -> frozenset[Listed]:
        """The documents that this one supersedes."""
        return frozenset(_listed(self.dataset, [PREDECESSORS]))

    @cached_property
    def tree(self) -> Item:
        """The content tree; a single item without name or type where the object is no document."""
        return read_tree(self.dataset)

    @cached_property
    def groups(self) -> list[Item]:
        """The measurement groups of the tree."""
        return self.tree.named(codes.DCM.MeasurementGroup)

    @cached_property
    def frames(self) -> tuple[FrameFacts, ...]:
        """What the object says of each of its frames."""
        return read_layout(self.dataset)

    @cached_property
    def known(self) -> Mapping[str, Dataset]:
        """The sources and siblings, by instance."""
        return {**self.sources.header_by_uid, **{text(one, "SOPInstanceUID"): one for one in self.siblings}}

    def target(self, item: Dataset) -> Dataset:
        """Return what an item refers to, an empty data set where that is not known."""
        return self.known.get(text(item, "ReferencedSOPInstanceUID"), Dataset())


def _listed(dataset: Dataset, keywords: Sequence[str]) -> Iterator[Listed]:
    studies = [
        (study, text(study, "StudyInstanceUID")) for one in keywords for study in sequence(dataset, one)
    ]
    if PREDECESSORS not in keywords:
        studies.append((dataset, text(dataset, "StudyInstanceUID")))
    for study, study_uid in studies:
        for series in sequence(study, "ReferencedSeriesSequence"):
            for keyword in ("ReferencedSOPSequence", "ReferencedInstanceSequence", "ReferencedImageSequence"):
                for item in sequence(series, keyword):
                    yield Listed(study_uid, text(series, "SeriesInstanceUID"), *reference_of(item))
