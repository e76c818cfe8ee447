"""What a run leaves on disk: its findings between two steps, and its objects; each written whole or not."""

import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from pydicom.dataset import Dataset

from node.domain.findings import Algorithm, Code, Findings, Outcome, Refusal, Score, Uncertainty
from node.errors import StoreError

FINDINGS, MANIFEST = "findings.npz", "manifest.json"


@dataclass(frozen=True, slots=True)
class ResultObject:
    """One DICOM object of a result, on disk."""

    kind: str
    sop_class_uid: str
    sop_instance_uid: str
    path: Path


def save_findings(folder: Path, findings: Findings) -> Path:
    """Write the findings, activation maps included, and return the file."""
    fields = asdict(findings)
    arrays = {}
    for number, score in enumerate(fields["scores"]):
        activation = score.pop("activation")
        if activation is not None:
            arrays[f"activation_{number}"] = activation
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path, temporary = folder / FINDINGS, folder / f".{FINDINGS}"
    with temporary.open("wb") as file:
        np.savez_compressed(file, fields=np.array(json.dumps(fields)), **arrays)
        os.fsync(file.fileno())
    temporary.rename(path)
    return path


def load_findings(path: Path) -> Findings:
    """Read findings that `save_findings` wrote; raises StoreError where they are missing or damaged."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            fields = json.loads(str(stored["fields"]))
            maps = {name: stored[name] for name in stored.files if name != "fields"}
    except (OSError, EOFError, ValueError, KeyError, BadZipFile) as error:
        raise StoreError(path.parent.name, f"{path.name} cannot be read ({type(error).__name__})") from error
    scores = tuple(
        _score(score, maps.get(f"activation_{number}")) for number, score in enumerate(fields.pop("scores"))
    )
    refusal = fields.pop("refusal")
    algorithm = fields.pop("algorithm")
    return Findings(
        algorithm=Algorithm(algorithm["name"], algorithm["version"], tuple(algorithm["parameters"])),
        sop_instance_uids=tuple(fields.pop("sop_instance_uids")),
        scores=scores,
        refusal=Refusal(Outcome(refusal["outcome"]), refusal["reason"]) if refusal else None,
        **fields,
    )


def _score(fields: dict[str, Any], activation: Any) -> Score:
    uncertainty = dict(fields["uncertainty"])
    low, high = uncertainty.pop("interval")
    return Score(
        code=Code(**fields["code"]),
        probability=fields["probability"],
        threshold=fields["threshold"],
        uncertainty=Uncertainty(interval=(low, high), **uncertainty),
        activation=activation,
    )


def save_objects(folder: Path, objects: Iterable[tuple[str, Dataset]]) -> tuple[ResultObject, ...]:
    """Write the (kind, data set) pairs of one result into a folder that appears only when all are there."""
    temporary = folder.with_name(f".{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True, mode=0o700)
    manifest = []
    for kind, dataset in objects:
        name = f"{kind}.dcm"
        with (temporary / name).open("wb") as file:
            dataset.save_as(file, enforce_file_format=True)
            os.fsync(file.fileno())
        (temporary / name).chmod(0o600)
        manifest.append([kind, str(dataset.SOPClassUID), str(dataset.SOPInstanceUID), name])
    with (temporary / MANIFEST).open("w") as text:
        json.dump(manifest, text)
        os.fsync(text.fileno())
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
    return load_objects(folder)


def load_objects(folder: Path) -> tuple[ResultObject, ...]:
    """Return the objects of a folder that `save_objects` finished; empty where it did not."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except FileNotFoundError:
        return ()
    return tuple(ResultObject(kind, cls, uid, folder / name) for kind, cls, uid, name in manifest)
