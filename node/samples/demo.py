"""The synthetic studies of the demo: what is in them is known, and so what should come out."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from node.samples.dicom import DxOptions, write_dx
from node.samples.slide import SlideSample, slide_sample
from node.samples.slide_series import SlideOptions, write_slide
from node.samples.thorax import Radiograph, Truth, thorax_radiograph


class Sample(Protocol):
    """One study: the pipeline that should read it, and the outcome that it should end with."""

    @property
    def name(self) -> str:
        """Its name in tables and folders."""

    @property
    def pipeline(self) -> str:
        """The name of the pipeline."""

    @property
    def expected_outcome(self) -> str:
        """The outcome."""

    def write(self, folder: Path, *, study_instance_uid: str | None = None) -> list[Path]:
        """Write the study's files into the folder; without a UID it is the same study every time."""


@dataclass(frozen=True, slots=True)
class RadiographStudy:
    """A chest radiograph."""

    name: str
    seed: int
    finding: str | None
    expected_outcome: str
    size: int = 1024
    pipeline: str = "chest_xray"

    @property
    def truth(self) -> Truth:
        """What is in the picture; its box counts the pixels of the written file."""
        return self.radiograph().truth

    def radiograph(self) -> Radiograph:
        """Return the picture, drawn anew at each call."""
        return thorax_radiograph(self.seed, finding=self.finding, size=self.size)

    def write(self, folder: Path, *, study_instance_uid: str | None = None) -> list[Path]:
        """Write the one file of the study."""
        options = DxOptions(study_instance_uid=study_instance_uid)
        folder.mkdir(parents=True, exist_ok=True)
        return [write_dx(self.radiograph(), folder / f"{self.name}.dcm", options=options)]


@dataclass(frozen=True, slots=True)
class SlideStudy:
    """A whole slide: three levels, the label, and an overview of the glass."""

    name: str
    seed: int
    is_tumor: bool
    expected_outcome: str
    side: int = 10_000
    pipeline: str = "slide_tumor"

    def slide(self) -> SlideSample:
        """Return the slide, which is drawn where it is looked at."""
        return slide_sample(self.seed, columns=self.side, rows=self.side, is_tumor=self.is_tumor)

    def write(self, folder: Path, *, study_instance_uid: str | None = None) -> list[Path]:
        """Write a file for each level, the label and the overview."""
        options = SlideOptions(study_instance_uid=study_instance_uid)
        return write_slide(self.slide(), folder, options=options)


RADIOGRAPHS = (
    RadiographStudy("chest-xray-positive", 2, "consolidation", "findings"),
    RadiographStudy("chest-xray-negative", 14, None, "no_findings"),
)
SLIDES = (
    SlideStudy("slide-positive", 1, True, "findings"),
    SlideStudy("slide-negative", 2, False, "no_findings", side=6_000),
)


def demo_samples() -> tuple[Sample, ...]:
    """Return the studies of the demo: of each kind one with a finding, and one without."""
    return (*RADIOGRAPHS, *SLIDES)
