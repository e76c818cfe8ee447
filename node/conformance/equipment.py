"""Which algorithm made it: in the same words everywhere (IHE AIR), Device UID included."""

from collections.abc import Iterator, Mapping

from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from node.conformance.content import code_of, sequence, text
from node.conformance.kinds import (
    ANNOTATIONS,
    DOCUMENTS,
    SEGMENTATIONS,
    everything,
    is_measurement_report,
    of,
)
from node.conformance.rule import Rule
from node.conformance.subject import Subject

NAMED = ("Manufacturer", "ManufacturerModelName", "SoftwareVersions")

OBSERVER: Mapping[Code, str] = {
    codes.DCM.DeviceObserverUID: "DeviceUID",
    codes.DCM.DeviceObserverName: "ManufacturerModelName",
    codes.DCM.DeviceObserverManufacturer: "Manufacturer",
    codes.DCM.DeviceObserverModelName: "ManufacturerModelName",
}
"""What the tree repeats of the equipment, after the name of its content item."""

ALGORITHM: Mapping[str, str] = {
    "AlgorithmName": "ManufacturerModelName",
    "AlgorithmVersion": "SoftwareVersions",
    "AlgorithmSource": "Manufacturer",
}
"""What the algorithm identification macro repeats of it (PS3.3 10.16); the source may be left out."""


def algorithm_equipment(dataset: Dataset) -> list[Dataset]:
    """Return the processing equipment that identifies a device."""
    items = [item for item in sequence(dataset, "ContributingEquipmentSequence") if item.get("DeviceUID")]
    purpose = "PurposeOfReferenceCodeSequence"
    return [item for item in items if code_of(item, purpose) == codes.DCM.ProcessingEquipment]


def _described(dataset: Dataset) -> set[tuple[str, ...]]:
    keywords = (*NAMED, "DeviceUID")
    return {tuple(text(item, one) for one in keywords) for item in algorithm_equipment(dataset)}


def _device_identified(subject: Subject) -> Iterator[str]:
    equipment = algorithm_equipment(subject.dataset)
    if not equipment:
        yield "no contributing equipment has a Device UID"
    for item in equipment:
        if not all(text(item, keyword) for keyword in NAMED):
            yield "the contributing equipment lacks manufacturer, model or version"


def _observer_identified(subject: Subject) -> Iterator[str]:
    for name, keyword in OBSERVER.items():
        if subject.tree.texts(name) != {text(item, keyword) for item in algorithm_equipment(subject.dataset)}:
            yield f"{name.meaning} is not the {keyword} of the contributing equipment"


def _same_device_in_run(subject: Subject) -> Iterator[str]:
    for sibling in subject.siblings:
        if _described(sibling) != _described(subject.dataset):
            yield f"{text(sibling, 'SOPInstanceUID')} of the same run was made by another device"


def _algorithm_identified(subject: Subject) -> Iterator[str]:
    """Yield the measurement groups that name no algorithm, or another than the equipment is."""
    known = {
        (text(item, "ManufacturerModelName"), text(item, "SoftwareVersions"))
        for item in algorithm_equipment(subject.dataset)
    }
    for number, group in enumerate(subject.groups, 1):
        names, versions = group.texts(codes.DCM.AlgorithmName), group.texts(codes.DCM.AlgorithmVersion)
        if {(name, version) for name in names for version in versions} - known or not (names and versions):
            yield f"group {number} does not name the algorithm of the contributing equipment"


def _algorithms_of_parts(subject: Subject) -> Iterator[str]:
    """Yield the segments and annotation groups that name no algorithm, or another than the equipment is."""
    parts = [
        (f"{container} {place}", sequence(item, f"{prefix}AlgorithmIdentificationSequence"))
        for container, prefix in (("Segment", "Segmentation"), ("AnnotationGroup", "AnnotationGroup"))
        for place, item in enumerate(sequence(subject.dataset, f"{container}Sequence"), 1)
    ]
    for part, algorithms in parts:
        if not algorithms:
            yield f"{part} does not say which algorithm made it"
        for algorithm in algorithms:
            yield from (f"{part}: {fault}" for fault in _differing(algorithm, subject.dataset))


def _differing(algorithm: Dataset, dataset: Dataset) -> Iterator[str]:
    for keyword, of_equipment in ALGORITHM.items():
        expected = {text(item, of_equipment) for item in algorithm_equipment(dataset)}
        is_needed = keyword != "AlgorithmSource" or keyword in algorithm
        if is_needed and text(algorithm, keyword) not in expected:
            yield f"{keyword} is not the {of_equipment} of the contributing equipment"


RULES = (
    Rule("device_identified", everything, _device_identified),
    Rule("observer_identified", of(DOCUMENTS), _observer_identified),
    Rule("algorithm_identified", is_measurement_report, _algorithm_identified),
    Rule("algorithm_of_parts", of(SEGMENTATIONS | ANNOTATIONS), _algorithms_of_parts),
    Rule("same_device_in_run", everything, _same_device_in_run),
)
