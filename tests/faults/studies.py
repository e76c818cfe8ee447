"""The files of the studies that a plan names: small radiographs and stacks of a few slices."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.uid import JPEG2000Lossless

from tests.faults.plan import Plan, StudyPlan
from tests.sources import write_radiograph
from tests.synthetic.ct import ct_slices
from tests.synthetic.headers import save, uid
from tests.synthetic.stack import make_stack

SIDE_PX = 32


@dataclass(frozen=True, slots=True)
class Study:
    """A study as its sender has it: `batches` go one after the other, each on associations of its own."""

    plan: StudyPlan
    uid: str
    batches: tuple[tuple[Path, ...], ...]

    @property
    def paths(self) -> tuple[Path, ...]:
        """All its files."""
        return tuple(path for batch in self.batches for path in batch)


def write_studies(plan: Plan, folder: Path) -> list[Study]:
    """Write the studies of a plan."""
    folder.mkdir(parents=True)
    radiograph = dcmread(write_radiograph(folder).paths[0])
    if plan.is_compressed:
        radiograph.compress(JPEG2000Lossless, generate_instance_uid=False)
    return [_write(plan.seed, one, radiograph, folder / f"{one.number:02d}") for one in plan.studies]


def _write(seed: int, study: StudyPlan, radiograph: Dataset, folder: Path) -> Study:
    folder.mkdir()
    names = ("faults", seed, study.number)
    datasets = _slices(study, names) if study.is_stack else _radiographs(study, names, radiograph)
    paths = tuple(save(one, folder, f"{number}.dcm") for number, one in enumerate(datasets, 1))
    early = study.images - study.late
    batches = tuple(batch for batch in (paths[:early], paths[early:]) if batch)
    return Study(study, uid("study", *names), batches)


def _slices(study: StudyPlan, names: tuple[object, ...]) -> Iterator[Dataset]:
    return ct_slices(make_stack("axial", study.images, SIDE_PX, SIDE_PX), names)


def _radiographs(study: StudyPlan, names: tuple[object, ...], radiograph: Dataset) -> Iterator[Dataset]:
    for number in range(study.images):
        radiograph.StudyInstanceUID = uid("study", *names)
        radiograph.SeriesInstanceUID = uid("series", *names)
        radiograph.SOPInstanceUID = uid("instance", *names, number)
        radiograph.file_meta.MediaStorageSOPInstanceUID = radiograph.SOPInstanceUID
        radiograph.InstanceNumber = number + 1
        yield radiograph
