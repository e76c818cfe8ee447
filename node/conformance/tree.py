"""The content tree of a document, as it stands there: what rules ask of every item is read once."""

from collections.abc import Iterator
from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from node.conformance.content import code_of, first, sequence, text

GRAPHICS = frozenset({"SCOORD", "SCOORD3D"})


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """A content item with those below it; `name` is a code without its meaning, so that it compares."""

    dataset: Dataset
    value_type: str
    name: Code
    children: tuple["Item", ...]

    def walk(self) -> Iterator["Item"]:
        """Yield the item and those below it, in the order of the tree."""
        yield self
        for child in self.children:
            yield from child.walk()

    def named(self, name: Code) -> list["Item"]:
        """Return the items of that name."""
        return [item for item in self.walk() if item.name == name]

    def typed(self, *value_types: str) -> list["Item"]:
        """Return the items of these value types."""
        return [item for item in self.walk() if item.value_type in value_types]

    def texts(self, name: Code) -> set[str]:
        """Return what the items of that name say, as text or as a UID."""
        return {text(one.dataset, "TextValue") or text(one.dataset, "UID") for one in self.named(name)}

    def codes(self, name: Code) -> list[Code]:
        """Return what the items of that name say, as codes without their meanings."""
        return [code_of(one.dataset, "ConceptCodeSequence") for one in self.named(name)]

    @property
    def template(self) -> str:
        """The identifier of its template, empty where it names none."""
        return text(first(self.dataset, "ContentTemplateSequence"), "TemplateIdentifier")

    @property
    def has_graphics(self) -> bool:
        """Are there coordinates below it?"""
        return bool(self.typed(*GRAPHICS))


def read_tree(dataset: Dataset) -> Item:
    """Return the tree of a document, or what is below a content item."""
    return Item(
        dataset,
        text(dataset, "ValueType"),
        code_of(dataset, "ConceptNameCodeSequence"),
        tuple(read_tree(child) for child in sequence(dataset, "ContentSequence")),
    )
