"""What a run leaves on disk: findings between two steps, and objects; each whole and synced, or not there."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from itertools import repeat
from pathlib import Path
from types import UnionType
from typing import Any, Union, cast, get_args, get_origin, get_type_hints
from zipfile import BadZipFile

import numpy as np
from pydicom.dataset import Dataset

from node.disk import Sync, new_file, new_folder, synced_file
from node.domain.findings import Findings
from node.errors import StoreError

FINDINGS, MANIFEST = "findings.npz", "manifest.json"


@dataclass(frozen=True, slots=True)
class ResultObject:
    """One DICOM object of a result, on disk."""

    kind: str
    form: str
    sop_class_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    path: Path


def save_findings(folder: Path, findings: Findings, *, sync: Sync = os.fsync) -> Path:
    """Write the findings, masks and maps included, and return the file.

    Raises OutOfResourcesError where the disk cannot be written to.
    """
    arrays: dict[str, Any] = {}
    fields = _pack(findings, arrays)
    with new_file(folder / FINDINGS, sync=sync) as file:
        # Not compressed: a volume would take seconds, and the folder is ours.
        np.savez(file, fields=np.array(json.dumps(fields)), **arrays)
    return folder / FINDINGS


def load_findings(path: Path) -> Findings:
    """Read findings that `save_findings` wrote; raises StoreError where they are missing or damaged."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            findings = _unpack(Findings, json.loads(str(stored["fields"])), stored)
    except (OSError, EOFError, TypeError, ValueError, KeyError, BadZipFile) as error:
        raise StoreError(path.parent.name, f"{path.name} cannot be read ({type(error).__name__})") from error
    return cast(Findings, findings)


def _pack(value: Any, arrays: dict[str, Any]) -> Any:
    """Return a value as plain JSON: data classes as tables, arrays as names under which they are added."""
    if isinstance(value, np.ndarray):
        arrays[name := f"array_{len(arrays)}"] = value
        return name
    if is_dataclass(value):
        return {one.name: _pack(getattr(value, one.name), arrays) for one in fields(value)}
    if isinstance(value, list | tuple):
        return [_pack(one, arrays) for one in value]
    return value


def _unpack(kind: Any, value: Any, arrays: Mapping[str, Any]) -> Any:
    """Return the value of that type which `_pack` made plain."""
    if value is None:
        return None
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (UnionType, Union):
        return _unpack(inner[0], value, arrays)
    if origin is np.ndarray:
        return arrays[value]
    if origin in (tuple, Sequence):
        kinds = inner if Ellipsis not in inner and origin is tuple else repeat(inner[0])
        return tuple(_unpack(one, each, arrays) for one, each in zip(kinds, value, strict=False))
    if is_dataclass(kind) and isinstance(kind, type):
        return kind(**{name: _unpack(one, value[name], arrays) for name, one in get_type_hints(kind).items()})
    return kind(value)


def save_objects(
    folder: Path, objects: Iterable[tuple[str, str, Dataset]], *, sync: Sync = os.fsync
) -> tuple[ResultObject, ...]:
    """Write the objects (kind, form, data set) of one result into a folder that appears when all are there.

    Raises OutOfResourcesError where the disk cannot be written to.
    """
    manifest: list[list[str]] = []
    with new_folder(folder, sync=sync) as part:
        for kind, form, dataset in objects:
            earlier = sum(one[0] == kind for one in manifest)
            name = f"{kind}-{earlier + 1}.dcm" if earlier else f"{kind}.dcm"
            with synced_file(part / name, sync=sync) as file:
                dataset.save_as(file, enforce_file_format=True)
            uids = [dataset.SOPClassUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID]
            manifest.append([kind, form, *map(str, uids), name])
        with synced_file(part / MANIFEST, sync=sync) as file:
            file.write(json.dumps(manifest).encode())
    return load_objects(folder)


def load_objects(folder: Path) -> tuple[ResultObject, ...]:
    """Return the objects of a folder that `save_objects` finished; empty where it did not."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except FileNotFoundError:
        return ()
    return tuple(
        ResultObject(kind, form, sop_class, series, instance, folder / name)
        for kind, form, sop_class, series, instance, name in manifest
    )
