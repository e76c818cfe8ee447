"""Data sets and items of sequences, built by keyword."""

from pydicom.dataset import Dataset
from pydicom.sr.coding import Code


def item(**attributes: object) -> Dataset:
    """Return a data set of these attributes, by keyword."""
    dataset = Dataset()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def code_item(code: Code) -> Dataset:
    """Return a code as an item of a code sequence (PS3.3 8.8)."""
    return item(CodeValue=code.value, CodingSchemeDesignator=code.scheme_designator, CodeMeaning=code.meaning)
