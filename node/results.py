"""What a run leaves on disk: findings between two steps, and objects; each whole and synced, or not there."""

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from pydicom.dataset import Dataset

from node.disk import Sync, new_file, new_folder, synced_file
from node.domain.findings import (
    Algorithm,
    Code,
    Findings,
    Outcome,
    OutOfDistribution,
    PredictionSet,
    Presence,
    Refusal,
    Score,
    Uncertainty,
)
from node.errors import StoreError

FINDINGS, MANIFEST = "findings.npz", "manifest.json"


@dataclass(frozen=True, slots=True)
class ResultObject:
    """One DICOM object of a result, on disk."""

    kind: str
    sop_class_uid: str
    sop_instance_uid: str
    path: Path


def save_findings(folder: Path, findings: Findings, *, sync: Sync = os.fsync) -> Path:
    """Write the findings, activation maps included, and return the file.

    Raises OutOfResourcesError where the disk cannot be written to.
    """
    fields = asdict(findings)
    arrays = {}
    for number, score in enumerate(fields["scores"]):
        activation = score.pop("activation")
        if activation is not None:
            arrays[f"activation_{number}"] = activation
    with new_file(folder / FINDINGS, sync=sync) as file:
        np.savez_compressed(file, fields=np.array(json.dumps(fields)), **arrays)
    return folder / FINDINGS


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
    return Score(
        code=Code(**fields["code"]),
        probability=fields["probability"],
        threshold=fields["threshold"],
        uncertainty=_uncertainty(dict(fields["uncertainty"])),
        activation=activation,
    )


def _uncertainty(fields: dict[str, Any]) -> Uncertainty:
    low, high = fields.pop("interval")
    stated = fields.pop("prediction_set")
    strangeness = fields.pop("out_of_distribution")
    answers = tuple(map(Presence, stated["answers"])) if stated else ()
    return Uncertainty(
        interval=(low, high),
        prediction_set=PredictionSet(answers, stated["coverage"]) if stated else None,
        out_of_distribution=OutOfDistribution(**strangeness) if strangeness else None,
        **fields,
    )


def save_objects(
    folder: Path, objects: Iterable[tuple[str, Dataset]], *, sync: Sync = os.fsync
) -> tuple[ResultObject, ...]:
    """Write the (kind, data set) pairs of one result into a folder that appears only when all are there.

    Raises OutOfResourcesError where the disk cannot be written to.
    """
    manifest = []
    with new_folder(folder, sync=sync) as part:
        for kind, dataset in objects:
            name = f"{kind}.dcm"
            with synced_file(part / name, sync=sync) as file:
                dataset.save_as(file, enforce_file_format=True)
            manifest.append([kind, str(dataset.SOPClassUID), str(dataset.SOPInstanceUID), name])
        with synced_file(part / MANIFEST, sync=sync) as file:
            file.write(json.dumps(manifest).encode())
    return load_objects(folder)


def load_objects(folder: Path) -> tuple[ResultObject, ...]:
    """Return the objects of a folder that `save_objects` finished; empty where it did not."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except FileNotFoundError:
        return ()
    return tuple(ResultObject(kind, cls, uid, folder / name) for kind, cls, uid, name in manifest)
