"""Content trees of reports, read as plain data sets."""

from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.sr.coding import Code


def named(dataset: Dataset, name: Code) -> list[Dataset]:
    """The content items of that name, at any depth."""
    children = dataset.get("ContentSequence", ())
    found = [item for child in children for item in named(child, name)]
    concepts = dataset.get("ConceptNameCodeSequence")
    is_named = bool(concepts) and (concepts[0].CodeValue, concepts[0].CodingSchemeDesignator) == (
        name.value,
        name.scheme_designator,
    )
    return ([dataset] if is_named else []) + found


def code_of(item: Dataset) -> str:
    return str(item.ConceptCodeSequence[0].CodeValue)


def number_of(item: Dataset) -> tuple[float, str]:
    value = item.MeasuredValueSequence[0]
    return float(value.NumericValue), str(value.MeasurementUnitsCodeSequence[0].CodeValue)


def texts_of(path: Path, name: Code) -> list[str]:
    """The texts of that name, each on one line."""
    return [" ".join(str(item.TextValue).split()) for item in named(dcmread(path), name)]


def references_of(item: Dataset) -> list[Dataset]:
    """What the images of a tree refer to, at any depth, in order."""
    own = [item.ReferencedSOPSequence[0]] if item.get("ValueType") == "IMAGE" else []
    return own + [one for child in item.get("ContentSequence", ()) for one in references_of(child)]


def evidence_of(report: Dataset) -> dict[str, str]:
    """The series of each instance that a report lists as evidence."""
    return {
        instance.ReferencedSOPInstanceUID: series.SeriesInstanceUID
        for study in report.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for instance in series.ReferencedSOPSequence
    }
