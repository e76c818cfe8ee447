"""What makes a node quick: a model of one multiplication, a pipeline that asks it, two reports as results."""

from pathlib import Path
from typing import Any

from tests.models import arithmetic, card, config, write_model
from tests.peers.orthanc import Orthanc

MODEL = "quick"
MODALITIES = ["CR", "DX", "CT"]
FINDING = {"name": "Pneumonia", "code": ["233604007", "SCT", "Pneumonia"], "threshold": 0.25}


def write_repository(path: Path) -> Path:
    """Write a model repository that is loaded in no time."""
    weights = arithmetic("Mul", 1.0)
    need = {"name": "modality", "when": {"modality": MODALITIES}, "reason": "is no such image"}
    document = card(MODEL, {MODEL: weights}, classes=[FINDING], eligibility={"requirements": [need]})
    write_model(path, config(MODEL), weights=weights, document=document)
    return path


def quick_settings(repository: Path, archive: Orthanc | None = None, **assembly: object) -> dict[str, Any]:
    """The configuration of a node that reads anything with that model, and reports to an archive."""
    pipeline = {
        "use": "tests.peers.pipelines:Looking",
        "when": {"modality": MODALITIES},
        "options": {"model": MODEL, "seconds": 0.5},
    }
    settings: dict[str, Any] = {
        "assembly": assembly,
        "engine": {"repository": str(repository), "threads": 1},
        "pipelines": {MODEL: pipeline},
    }
    if archive:
        address = {"host": archive.host, "port": archive.port, "ae_title": archive.ae_title, "timeout_s": 5}
        settings["destinations"] = {"pacs": address | {"objects": ["findings_sr", "summary_sr"]}}
    return settings
