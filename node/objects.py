"""Findings to objects on disk: encoded once for all destinations, each through the gate, or quarantined."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydicom.dataset import Dataset

from node import conformance
from node.conformance import Violation
from node.domain.findings import Findings
from node.domain.profile import Kind, Profile
from node.encode import EncodedObject, EncodingContext, encode
from node.results import ResultObject, load_objects, save_objects

QUARANTINE = "quarantine"


@dataclass(frozen=True, slots=True)
class Quarantined:
    """An object that broke rules: it is kept to be looked at, and never leaves."""

    object: ResultObject
    violations: tuple[Violation, ...]


@dataclass(frozen=True, slots=True)
class Made:
    """What became of one result: its objects, or those that broke a rule, for then none leaves."""

    objects: tuple[ResultObject, ...] = ()
    quarantined: tuple[Quarantined, ...] = ()


def make_objects(
    folder: Path,
    findings: Findings,
    sources: Sequence[Path],
    *,
    context: EncodingContext,
    profiles: Sequence[Profile],
) -> Made:
    """Return the objects of a result in every form that a profile wants: those on disk, where it was made.

    Raises DatasetError where a source cannot be read, OutOfResourcesError where the disk cannot be written.
    """
    if earlier := load_objects(folder):
        return Made(earlier)
    encoded = list(_encoded(findings, sources, context, profiles))
    broken = _violations([one.dataset for one in encoded], sources)
    if broken:
        found = save_objects(folder.parent / QUARANTINE / folder.name, [_item(encoded[n]) for n in broken])
        return Made(quarantined=tuple(map(Quarantined, found, broken.values())))
    return Made(save_objects(folder, map(_item, encoded)))


def _encoded(
    findings: Findings, sources: Sequence[Path], context: EncodingContext, profiles: Sequence[Profile]
) -> Iterator[EncodedObject]:
    """Yield each object once, however many profiles want it in that form."""
    done: set[tuple[Kind, str]] = set()
    for profile in profiles:
        forms = {kind: (kind, profile.form_of(kind)) for kind in profile.kinds}
        kinds = [kind for kind, form in forms.items() if form not in done]
        yield from encode(findings, sources, replace(context, profile=profile), kinds=kinds)
        done |= set(forms.values())


def _violations(datasets: Sequence[Dataset], sources: Sequence[Path]) -> dict[int, tuple[Violation, ...]]:
    """Return what is wrong with each object that may not leave, by its place in the row."""
    headers = conformance.read_headers(sources)
    found = {
        number: tuple(conformance.check(one, headers, [other for other in datasets if other is not one]))
        for number, one in enumerate(datasets)
    }
    return {number: violations for number, violations in found.items() if violations}


def _item(encoded: EncodedObject) -> tuple[str, str, Dataset]:
    return encoded.kind.value, encoded.form, encoded.dataset
