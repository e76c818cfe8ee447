"""Who made a result, when, and under which identifiers: all derived, nothing drawn by lot."""

import hashlib
import re
import unicodedata
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from highdicom.base_content import ContributingEquipment
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import UID

import node
from node.domain import code as domain
from node.domain.code import PRIVATE_SCHEME
from node.domain.findings import Findings, Priority
from node.domain.image import Image
from node.domain.profile import DEFAULT_PROFILE, Kind, Profile
from node.encode.codes import PROCESSING_EQUIPMENT
from node.encode.source import Source

LONG_STRING, SHORT_STRING = 64, 16
"""Limits of the value representations LO and SH, in characters (PS3.5 6.2)."""

PLAIN = str.maketrans({"–": "-", "—": "-", "−": "-", "≥": ">=", "≤": "<=", "µ": "u", "’": "'", "\\": "/"})

FIRST_SERIES_NUMBER = 1_000_000
"""Series made here sort behind everything a scanner made."""


TITLE_BY_KIND = {
    Kind.FINDINGS_SR: "findings",
    Kind.LESIONS_SR: "lesions",
    Kind.SUMMARY_SR: "summary",
    Kind.SEGMENTATION: "segmentation",
    Kind.PARAMETRIC_MAP: "map",
    Kind.PRESENTATION_STATE: "markings",
    Kind.KEY_OBJECTS: "key images",
    Kind.ANNOTATIONS: "marks",
    Kind.SECONDARY_CAPTURE: "overlay",
}


@dataclass(frozen=True, slots=True)
class Predecessor:
    """An object of an earlier run over the same images, which the one of the same kind now supersedes."""

    kind: Kind
    study_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True)
class EncodingContext:
    """What the objects of one run need beside its findings.

    Every UID derives from `run_key`, so it must differ wherever the content may. `made_at` is written in the
    source's time zone where the source names one, else in this machine's. `images` are the pictures to show.
    """

    run_key: str
    made_at: datetime
    priority: Priority
    images: tuple[Image, ...] = ()
    profile: Profile = DEFAULT_PROFILE
    predecessors: tuple[Predecessor, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a key that tells no run from another, and a time that could be any hour of the day."""
        if not self.run_key or self.made_at.tzinfo is None:
            raise ValueError("a run key and a time with its zone are needed")


@dataclass(frozen=True, slots=True)
class Device:
    """The algorithm as the equipment that made the result (IHE AIR: the same words everywhere)."""

    name: str
    version: str
    manufacturer: str = "Sightline"

    @property
    def uid(self) -> str:
        """A UID that changes with the name and version, so with every retraining."""
        return derived_uid("device", self.manufacturer, self.name, self.version)


@dataclass(frozen=True, slots=True)
class Result:
    """One run's findings with their sources and context: what every encoder takes.

    The first source is the one whose patient, study and time zone are copied.
    """

    findings: Findings
    sources: tuple[Source, ...]
    context: EncodingContext

    @property
    def source(self) -> Source:
        """The instance that the result inherits its patient and study from."""
        return self.sources[0]

    @property
    def pictures(self) -> tuple[Source, ...]:
        """The images that the findings are about; none where a source has no pixels."""
        named = self.findings.sop_instance_uids
        return tuple(one for one in self.sources if one.is_picture and one.sop_instance_uid in named)

    @property
    def device(self) -> Device:
        """The algorithm as a device."""
        algorithm = self.findings.algorithm
        return Device(plain(algorithm.name, LONG_STRING), plain(algorithm.version, LONG_STRING))

    @property
    def made_at(self) -> datetime:
        """The moment of creation, on the clock of the source."""
        offset = self.source.text("TimezoneOffsetFromUTC")
        if not re.fullmatch(r"[+-](0\d|1[0-4])[0-5]\d", offset):
            return self.context.made_at.astimezone()
        minutes = int(offset[1:3]) * 60 + int(offset[3:])
        zone = timezone(timedelta(minutes=-minutes if offset[0] == "-" else minutes))
        return self.context.made_at.astimezone(zone)

    def uid(self, *parts: str) -> str:
        """Return the UID of one part of this run, the same at each encoding."""
        return derived_uid(self.context.run_key, *parts)

    def series_uid(self, kind: Kind) -> str:
        """Return the UID of the series that holds the objects of a kind."""
        return self.uid(kind, self.context.profile.form_of(kind), "series")

    def instance_uid(self, kind: Kind, number: int = 1) -> str:
        """Return the UID of the n-th object of a kind."""
        return self.uid(kind, self.context.profile.form_of(kind), "instance", str(number))

    def tracking_uid(self, identifier: str) -> str:
        """Return the UID under which a region is the same in every object."""
        return self.uid("tracking", identifier)

    def series_number(self, kind: Kind) -> int:
        """Return a number that no other series of the study should have."""
        runs = int(self._fingerprint(kind)[:8], 16) % 100_000
        return FIRST_SERIES_NUMBER + 10 * runs + list(Kind).index(kind) + 1

    def series_description(self, kind: Kind) -> str:
        """Return words that tell this series from every other of the study."""
        number = self.source.text("SeriesNumber")
        origin = f"series {number}, " if re.fullmatch(r"\d{1,9}", number) else ""
        tail = f" {TITLE_BY_KIND[kind]} ({origin}run {self._fingerprint(kind)[:4]})"
        return plain(f"Sightline {self.findings.pipeline}", LONG_STRING - len(tail)) + tail

    def _fingerprint(self, kind: Kind) -> str:
        """Return what tells the series of one kind from those of other runs and of other forms."""
        return digest(self.context.run_key, self.context.profile.form_of(kind))

    def predecessors(self, kind: Kind) -> tuple[Predecessor, ...]:
        """Return the earlier objects that those of a kind supersede."""
        return tuple(one for one in self.context.predecessors if one.kind is kind)


def digest(*parts: str) -> str:
    """Return a fingerprint of the parts, in order."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def derived_uid(*parts: str) -> str:
    """Return a UUID-based UID (PS3.5 B.2) that is the same whenever the parts are."""
    return f"2.25.{uuid.UUID(hex=digest(*parts)[:32], version=5).int}"


def plain(text: str, limit: int) -> str:
    """Return the text on one line in ASCII, which every source's character set can hold, cut to the limit."""
    decomposed = unicodedata.normalize("NFKD", text.translate(PLAIN))
    ascii_text = decomposed.encode("ascii", "ignore").decode()
    line = " ".join("".join(one if one.isprintable() else " " for one in ascii_text).split())
    return line if len(line) <= limit else line[: limit - 3] + "..."


def private_scheme() -> CodingSchemeIdentificationItem:
    """Return the declaration of the private coding scheme, for each object that uses it (PS3.3 C.12.1)."""
    item = CodingSchemeIdentificationItem(
        designator=PRIVATE_SCHEME,
        name="Sightline result codes",
        version="1",
        responsible_organization="Sightline",
    )
    item.CodingSchemeUID = derived_uid("coding scheme", PRIVATE_SCHEME)
    return item


def coded(code: domain.Code) -> Code:
    """Return a finding's code as the library wants it."""
    return Code(code.value, code.scheme, plain(code.meaning, LONG_STRING))


def concept(code: Code) -> Dataset:
    """Return a code as an item of a code sequence outside a report's tree."""
    return CodedConcept.from_code(code)


def contributing_equipment(device: Device) -> ContributingEquipment:
    """Return the algorithm as an item of the Contributing Equipment Sequence, Device UID included."""
    item = ContributingEquipment(
        manufacturer=device.manufacturer,
        purpose_of_reference=PROCESSING_EQUIPMENT,
        manufacturer_model_name=device.name,
        software_versions=device.version,
    )
    item.DeviceUID = device.uid
    return item


def stamp(dataset: Dataset, result: Result, kind: Kind) -> None:
    """Give a fresh object what all kinds share: the source's patient and study, our equipment, one time.

    highdicom writes the clock of the machine in several places; two encodings of one result would differ.
    """
    result.source.copy_identity(dataset)
    made_at = result.made_at
    date, time = made_at.strftime("%Y%m%d"), made_at.strftime("%H%M%S")
    for event in ("InstanceCreation", "Series", "Content"):
        setattr(dataset, f"{event}Date", date)
        setattr(dataset, f"{event}Time", time)
    dataset.SeriesDescription = result.series_description(kind)
    dataset.ManufacturerModelName = "Sightline node"
    dataset.SoftwareVersions = node.__version__
    for item in dataset.ContributingEquipmentSequence:
        if item.get("ManufacturerModelName") == "highdicom":
            item.ContributionDateTime = f"{date}{time}"
    dataset.file_meta.ImplementationClassUID = UID(derived_uid("implementation", "Sightline"))
    dataset.file_meta.ImplementationVersionName = plain(f"SIGHTLINE_{node.__version__}", SHORT_STRING)
