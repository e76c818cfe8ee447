"""What each kind of object must have: the modules of its definition, down to the items (PS3.3 A and C)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache

from highdicom._standard_utils import get_iod_module_map, get_module_attribute_map, get_sop_class_iod_map
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag

from node.conformance.kinds import KNOWN, everything, of
from node.conformance.rule import Rule
from node.conformance.subject import Subject

SHALLOW_ENTITIES = ("Patient", "Study")
"""The source's words: their items stand here as they came, and only their absence is our fault."""

SHALLOW_MODULES = ("specimen",)

OPTIONAL_MODULES: Mapping[str, str] = {
    "frame-of-reference": "FrameOfReferenceUID",
    "microscope-slide-layer-tile-organization": "TotalPixelMatrixRows",
    "image-pixel": "PixelData",
    "floating-point-image-pixel": "FloatPixelData",
    "graphic-annotation": "GraphicAnnotationSequence",
    "graphic-layer": "GraphicLayerSequence",
    "softcopy-voi-lut": "SoftcopyVOILUTSequence",
    "palette-color-lookup-table": "RedPaletteColorLookupTableDescriptor",
    "icc-profile": "ICCProfile",
    "specimen": "ContainerIdentifier",
    "common-instance-reference": "ReferencedSeriesSequence",
}
"""Modules that need not be there, after the attribute that shows that one is; they are whole or absent."""

UNJUDGED_MODULES = ("sr-document-content",)
"""Its attributes depend on the value type of each item: a rule of its own has them."""

FUNCTIONAL_GROUPS = frozenset(
    map(Tag, ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"))
)
"""Any group may stand in either, and many apply to other images: the rules of the frames judge them."""

ADDED: Mapping[str, str] = {
    "SeriesDescription": "viewers list series by it",
    "SeriesNumber": "archives sort by it",
    "InstanceNumber": "archives sort by it",
    "ManufacturerModelName": "who made it",
    "SoftwareVersions": "who made it",
}
"""What no result of ours goes without, though the standard lets it."""

TEXT_VRS = frozenset(
    ["AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"]
)
"""Values that may be nothing but blanks; zeros are a value of any other."""


@dataclass(slots=True)
class Node:
    """What must be in one item: `present` are types 1 and 2, `filled` type 1; and what in its items."""

    present: set[BaseTag] = field(default_factory=set)
    filled: set[BaseTag] = field(default_factory=set)
    items: dict[BaseTag, "Node"] = field(default_factory=dict)

    def child(self, tag: BaseTag) -> "Node":
        """Return what must be in the items of a sequence."""
        return self.items.setdefault(tag, Node())

    def require(self, tag: BaseTag, kind: str) -> None:
        """Add an attribute of that type; what is conditional or optional is not asked for."""
        if kind in ("1", "2"):
            self.present.add(tag)
        if kind == "1":
            self.filled.add(tag)


def _required_attributes(subject: Subject) -> Iterator[str]:
    dataset = subject.dataset
    modules = get_iod_module_map()[_definition(subject.sop_class_uid)]
    found: dict[str, None] = {}
    for module in modules:
        key, marker = module["key"], OPTIONAL_MODULES.get(module["key"])
        is_there = module["usage"] == "M" or (marker is not None and marker in dataset)
        if is_there and key not in UNJUDGED_MODULES:
            is_deep = module.get("ie") not in SHALLOW_ENTITIES and key not in SHALLOW_MODULES
            found |= dict.fromkeys(_lacking(dataset, _requirements(key), "", is_deep=is_deep))
    yield from found
    for keyword, reason in ADDED.items():
        if not _has_value(dataset, Tag(keyword)):
            yield f"{keyword} has no value ({reason})"


def _definition(sop_class_uid: str) -> str:
    return str(get_sop_class_iod_map()[sop_class_uid])


@cache
def _requirements(module: str) -> Node:
    root = Node()
    for attribute in get_module_attribute_map()[module]:
        node, path = root, [Tag(keyword) for keyword in attribute["path"]]
        for tag in path:
            node = node.child(tag)
        is_group = len(path) == 1 and path[0] in FUNCTIONAL_GROUPS
        if not is_group:
            node.require(Tag(attribute["keyword"]), attribute["type"])
    return root


def _lacking(dataset: Dataset, node: Node, path: str, *, is_deep: bool = True) -> Iterator[str]:
    for tag in sorted(node.present - dataset.keys()):
        yield f"{path}{keyword_for_tag(tag)} is missing"
    for tag in sorted(node.filled & dataset.keys()):
        if not _has_value(dataset, tag):
            yield f"{path}{keyword_for_tag(tag)} has no value"
    if not is_deep:
        return
    for tag in node.items.keys() & dataset.keys():
        for number, item in enumerate(dataset[tag].value or (), 1):
            yield from _lacking(item, node.items[tag], f"{path}{keyword_for_tag(tag)}[{number}].")


def _has_value(dataset: Dataset, tag: BaseTag) -> bool:
    """Return whether there is more than blanks, without decoding: that would change the object."""
    if tag not in dataset:
        return False
    element = dataset.get_item(tag)
    value = element.value
    if isinstance(value, bytes) and (element.VR or dictionary_VR(tag)) in TEXT_VRS:
        value = value.strip(b" \0")
    elif isinstance(value, str):
        value = value.strip()
    return value is not None and (not hasattr(value, "__len__") or len(value) > 0)


def _known_class(subject: Subject) -> Iterator[str]:
    if subject.sop_class_uid not in KNOWN:
        yield f"SOP class {subject.sop_class_uid} is none that results have"


CLASSES = (Rule("known_class", everything, _known_class),)
RULES = (Rule("required_attributes", of(KNOWN), _required_attributes),)
