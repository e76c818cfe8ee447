"""Studies with their results in an archive, for a viewer to show."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom import Dataset

from node.domain.findings import Findings
from node.domain.profile import PRESETS, Kind, Profile
from node.encode import encode
from node.read.picture import read_pictures
from node.receive.folder import store_file
from node.storage import Storage
from tests.peers.orthanc import Orthanc
from tests.results import make_context, save
from tests.sources import Written


@dataclass(frozen=True, slots=True)
class Study:
    """A study in the archive: its images, and the objects made of what was found in them."""

    uid: str
    written: Written
    objects: dict[Kind, Dataset]

    def description(self, kind: Kind) -> str:
        return str(self.objects[kind].SeriesDescription)


def add_results(archive: Orthanc, written: Written, findings: Findings, folder: Path) -> Study:
    """Encode as the node does, and upload the images with their results."""
    storage = Storage(folder / "data")
    instances = [store_file(path, storage).instance for path in written.paths]
    pictures = read_pictures(instances, findings.shown_frames)
    context = make_context(written.paths[0].stem, *pictures, profile=Profile(PRESETS["viewer"]))
    objects = {one.kind: one.dataset for one in encode(findings, written.paths, context)}
    results = [save(dataset, folder / f"{kind}.dcm") for kind, dataset in objects.items()]
    for path in (*written.paths, *results):
        archive.upload(path)
    return Study(findings.study_instance_uid, written, objects)


def likeness(one: np.ndarray, other: np.ndarray) -> float:
    """The correlation of all values."""
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])
