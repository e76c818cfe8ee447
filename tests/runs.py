"""Whole results to hold against the gate: every kind of object of one run, over a source of every shape."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path

import numpy as np
from pydicom import Dataset, dcmread

from node import conformance
from node.conformance import Sources, Violation
from node.domain.findings import Findings
from node.domain.image import Image
from node.domain.location import Shape
from node.domain.profile import Kind, Profile
from node.encode import encode
from tests.located import located_findings
from tests.results import make_context
from tests.sources import Written, write_ct_series, write_enhanced_ct, write_radiograph, write_slide

FINDINGS, LESIONS, SUMMARY = "findings_sr 1", "lesions_sr 1", "summary_sr 1"
SEGMENTATION, MAP, STATE = "segmentation 1", "parametric_map 1", "presentation_state 1"
KEYS, MARKS, CAPTURE = "key_objects 1", "annotations 1", "secondary_capture 1"

WRITERS: dict[str, Callable[[Path], Written]] = {
    "dx": write_radiograph,
    "cr": lambda folder: write_radiograph(folder, modality="CR"),
    "ct": write_ct_series,
    "ct reversed": lambda folder: write_ct_series(folder, arrangement="reversed"),
    "ct tilted": lambda folder: write_ct_series(folder, arrangement="tilted"),
    "ct oblique": lambda folder: write_ct_series(folder, arrangement="oblique"),
    "ct single": lambda folder: write_ct_series(folder, arrangement="single"),
    "enhanced": write_enhanced_ct,
    "enhanced sagittal": lambda folder: write_enhanced_ct(folder, arrangement="sagittal"),
    "slide": write_slide,
    "slide sparse": lambda folder: write_slide(folder, organization="TILED_SPARSE"),
}


@dataclass(frozen=True)
class Run:
    """The objects of one run as files, by kind and number ("segmentation 1"), and its sources."""

    sources: Sources
    files: dict[str, bytes]
    _read: dict[str, Dataset] = field(default_factory=dict)

    def fresh(self, name: str) -> Dataset:
        """An object to spoil."""
        return dcmread(BytesIO(self.files[name]))

    def others(self, name: str) -> list[Dataset]:
        """The siblings of an object; they are read once, so they are not to be spoiled."""
        for one in self.files.keys() - self._read.keys():
            self._read[one] = self.fresh(one)
        return [self._read[one] for one in self.files if one != name]

    def other(self, name: str) -> Dataset:
        return next(one for one in self.others("") if one.SOPInstanceUID == self.fresh(name).SOPInstanceUID)

    def check(self, name: str, dataset: Dataset) -> list[Violation]:
        return conformance.check(dataset, self.sources, self.others(name))


def make_run(written: Written, findings: Findings | None = None, **profile: object) -> Run:
    """All kinds of objects of findings with places; `profile` are the forms of the objects."""
    findings = findings or located_findings(written)
    wanted = Profile(tuple(Kind), **profile)  # type: ignore[arg-type]
    context = make_context("run", *pictures_of(findings), profile=wanted)
    files: dict[str, bytes] = {}
    for one in encode(findings, written.paths, context):
        number = 1 + sum(name.startswith(f"{one.kind} ") for name in files)
        files[f"{one.kind} {number}"] = bytes_of(one.dataset)
    return Run(conformance.read_headers(written.paths), files)


def polygons(written: Written) -> Findings:
    """Findings on a slide whose marks are triangles."""
    findings = located_findings(written)
    triangles = [points[:3] for points in findings.marks[0].points_xy]
    return replace(findings, marks=(replace(findings.marks[0], shape=Shape.POLYGON, points_xy=triangles),))


def pictures_of(findings: Findings) -> Iterator[Image]:
    """Displayed pictures of the right frames; what they show does not matter here."""
    pixels = np.linspace(0.2, 0.6, 320 * 256, dtype=np.float32).reshape(320, 256)
    for frame in findings.shown_frames:
        yield Image(frame.sop_instance_uid, pixels, (0.4, 0.4), "PixelSpacing", frame.frame_number)


def bytes_of(dataset: Dataset) -> bytes:
    file = BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()
