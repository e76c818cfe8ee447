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

Names = tuple[object, ...]


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
    write = _write_stack if study.is_stack else _write_radiographs
    paths = tuple(write(study, ("faults", seed, study.number), radiograph, folder))
    early = study.images - study.late
    batches = tuple(batch for batch in (paths[:early], paths[early:]) if batch)
    return Study(study, uid("study", "faults", seed, study.number), batches)


def _write_stack(study: StudyPlan, names: Names, _radiograph: Dataset, folder: Path) -> Iterator[Path]:
    slices = ct_slices(make_stack("axial", study.images, SIDE_PX, SIDE_PX), names)
    for number, dataset in enumerate(slices, 1):
        yield save(dataset, folder, f"{number}.dcm")


def _write_radiographs(study: StudyPlan, names: Names, radiograph: Dataset, folder: Path) -> Iterator[Path]:
    for number in range(1, study.images + 1):
        radiograph.StudyInstanceUID = uid("study", *names)
        radiograph.SeriesInstanceUID = uid("series", *names)
        radiograph.SOPInstanceUID = uid("instance", *names, number)
        radiograph.file_meta.MediaStorageSOPInstanceUID = radiograph.SOPInstanceUID
        radiograph.InstanceNumber = number
        radiograph.save_as(folder / f"{number}.dcm")
        yield folder / f"{number}.dcm"
