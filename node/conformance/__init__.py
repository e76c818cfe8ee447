"""The gate that every result passes before it leaves: rules over an object, its sources and its run."""

from collections.abc import Sequence
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset

from node.conformance.rule import Violation, judge
from node.conformance.rules import RULES
from node.conformance.subject import Sources, Subject, read_headers
from node.errors import ConformanceError
from node.read.dataset import dataset_faults

__all__ = ["RULES", "Sources", "Violation", "check", "check_file", "read_headers", "skipped_rules", "verify"]


def check(
    dataset: Dataset, sources: Sources | Sequence[Path] = (), siblings: Sequence[Dataset] = ()
) -> list[Violation]:
    """Return what is wrong with an object, whose it is and what it refers to first.

    `siblings` are the other objects of its run. Without sources, the rules of `skipped_rules` say nothing.
    """
    headers = sources if isinstance(sources, Sources) else read_headers(sources)
    subject = Subject(dataset, headers, siblings)
    skipped = skipped_rules(headers)
    return [found for rule in RULES if rule.name not in skipped for found in judge(rule, subject)]


def check_file(
    path: Path, sources: Sources | Sequence[Path] = (), siblings: Sequence[Dataset] = ()
) -> list[Violation]:
    """Return what is wrong with the object in a file; raises DatasetError where it cannot be read."""
    with dataset_faults(path.name):
        dataset = dcmread(path)
    return check(dataset, sources, siblings)


def verify(dataset: Dataset, sources: Sources | Sequence[Path], siblings: Sequence[Dataset] = ()) -> None:
    """Raise ConformanceError with the first broken rule in front, unless the object may leave."""
    violations = check(dataset, sources, siblings)
    if violations:
        raise ConformanceError(str(dataset.get("SOPInstanceUID", "")), "; ".join(map(str, violations)))


def skipped_rules(sources: Sources | Sequence[Path] = ()) -> list[str]:
    """Return the rules that cannot be judged without the sources, where there are none."""
    return [] if sources else [rule.name for rule in RULES if rule.needs_sources]
