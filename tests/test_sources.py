from collections.abc import Callable
from functools import partial
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from pydicom import Dataset, dcmread

from tests import sources
from tests.peers.validators import dciodvfy_errors
from tests.sources import (
    ARRANGEMENTS,
    Written,
    write_ct_series,
    write_enhanced_ct,
    write_radiograph,
    write_slide,
)
from tests.synthetic.headers import NAMES

WRITERS: dict[str, Callable[[Path], Written]] = {
    "dx": write_radiograph,
    "cr": partial(write_radiograph, modality="CR"),
    "healthy": partial(write_radiograph, finding=None),
    "full": write_slide,
    "sparse": partial(write_slide, organization="TILED_SPARSE"),
    **{f"classic-{name}": partial(write_ct_series, arrangement=name) for name in ARRANGEMENTS},
    **{f"enhanced-{name}": partial(write_enhanced_ct, arrangement=name) for name in ARRANGEMENTS},
}
STACKS = [name for name in WRITERS if name.startswith(("classic", "enhanced"))]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Written]:
    return {name: write(tmp_path_factory.mktemp(name)) for name, write in WRITERS.items()}


class Read:
    """The planes of a volume as a reader finds them in the files, in the order of these."""

    def __init__(self, paths: list[Path]) -> None:
        datasets = [dcmread(path) for path in paths]
        frames = [frame for one in datasets for frame in frames_of(one)]
        pixels = [one.pixel_array.reshape(-1, one.Rows, one.Columns) for one in datasets]
        row, column = np.reshape(frames[0].ImageOrientationPatient, (2, 3)).astype(float)
        self.positions = np.array([frame.ImagePositionPatient for frame in frames], float)
        self.axes = np.stack([np.cross(row, column), column, row])
        self.spacing = np.array([frames[0].SliceThickness, *frames[0].PixelSpacing], float)
        self.hu = np.concatenate(pixels) * frames[0].RescaleSlope + frames[0].RescaleIntercept

    def centroid_xyz_mm(self, mask: np.ndarray) -> np.ndarray:
        planes, rows, columns = np.nonzero(mask)
        _, down, across = self.spacing[:, None] * self.axes
        points = self.positions[planes] + rows[:, None] * down + columns[:, None] * across
        return np.asarray(points.mean(axis=0))


def frames_of(dataset: Dataset) -> list[Dataset]:
    """The attributes of each frame, those of its functional groups and the shared ones in one data set."""
    if "NumberOfFrames" not in dataset:
        return [dataset]
    frames = []
    for groups in dataset.PerFrameFunctionalGroupsSequence:
        frame = Dataset()
        for group in (*dataset.SharedFunctionalGroupsSequence[0], *groups):
            frame.update(group.value[0])
        frames.append(frame)
    return frames


def test_dciodvfy_finds_no_error(written: dict[str, Written]) -> None:
    # The stacks of one kind differ in numbers alone: their ends stand for all of their slices.
    paths = [path for one in written.values() for path in {one.paths[0], one.paths[-1]}]

    assert dciodvfy_errors(paths) == []


@pytest.mark.parametrize("name", STACKS)
def test_the_centroid_of_the_mask_is_the_true_one(name: str, written: dict[str, Written]) -> None:
    source = written[name]
    read = Read(source.paths)

    error = read.axes @ (read.centroid_xyz_mm(source.mask) - np.array(source.centroid_xyz_mm))

    assert np.all(np.abs(error) <= read.spacing / 2)


@pytest.mark.parametrize("name", STACKS)
def test_the_mask_is_what_is_bright(name: str, written: dict[str, Written]) -> None:
    source = written[name]

    is_bright = Read(source.paths).hu > 220

    assert source.mask.sum() > 100
    assert np.array_equal(is_bright, source.mask)


@pytest.mark.parametrize("kind", ["classic", "enhanced"])
def test_each_arrangement_is_what_it_is_called(kind: str, written: dict[str, Written]) -> None:
    read = {name: Read(written[f"{kind}-{name}"].paths) for name in ARRANGEMENTS}
    steps = {
        name: np.diff(one.positions, axis=0).mean(axis=0) for name, one in read.items() if name != "single"
    }

    along_normal = {name: read[name].axes[0] @ step for name, step in steps.items()}

    assert along_normal == pytest.approx(
        {"axial": 2.5, "reversed": -2.5, "oblique": 2.5, "sagittal": 2.5, "tilted": 2.5 * np.cos(0.26)}
    )
    assert all(np.linalg.norm(step) == pytest.approx(2.5) for step in steps.values())
    assert np.count_nonzero(np.abs(read["oblique"].axes) > 0.05) >= 8
    assert abs(read["sagittal"].axes[0]).tolist() == [1, 0, 0]
    assert len(read["single"].positions) == 1


@pytest.mark.parametrize("name", ["full", "sparse"])
def test_the_disc_lies_where_the_slide_says(name: str, written: dict[str, Written]) -> None:
    source = written[name]

    for path, mask in zip(source.paths, source.masks, strict=True):
        image = hd.imread(path)
        pixels = image.get_total_pixel_matrix(apply_icc_profile=False)
        transformer = hd.spatial.ImageToReferenceTransformer.for_image(image, for_total_pixel_matrix=True)
        rows, columns = np.nonzero(mask[0])
        center = transformer(np.array([[columns.mean() + 0.5, rows.mean() + 0.5]]))[0]

        spacing_mm = image.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing[0]
        assert np.array_equal(pixels.sum(axis=-1) < 300, mask[0])
        assert np.abs(center - source.centroid_xyz_mm).max() <= spacing_mm / 2


def test_a_finding_has_a_box_in_the_radiograph(written: dict[str, Written]) -> None:
    masks = {name: written[name].mask for name in ("dx", "cr", "healthy")}

    assert all(
        mask.shape == (1, *dcmread(written[name].paths[0]).pixel_array.shape) for name, mask in masks.items()
    )
    assert np.array_equal(masks["dx"], masks["cr"])
    assert masks["dx"].any()
    assert not masks["healthy"].any()


@pytest.mark.parametrize("name", WRITERS)
def test_the_same_call_writes_the_same_bytes(name: str, written: dict[str, Written], tmp_path: Path) -> None:
    again = WRITERS[name](tmp_path)

    assert [path.read_bytes() for path in again.paths] == [path.read_bytes() for path in written[name].paths]


def test_a_source_is_one_study_of_its_own(written: dict[str, Written]) -> None:
    headers = {
        name: [dcmread(path, stop_before_pixels=True) for path in one.paths] for name, one in written.items()
    }

    studies = {name: {one.StudyInstanceUID for one in objects} for name, objects in headers.items()}
    instances = [one.SOPInstanceUID for objects in headers.values() for one in objects]

    assert all(len(study) == 1 for study in studies.values())
    assert len(set.union(*studies.values())) == len(WRITERS)
    assert len(set(instances)) == len(instances)


@pytest.mark.parametrize("name", ["dx", "classic-axial", "enhanced-axial", "full"])
def test_the_patient_has_a_name_beyond_ascii(name: str, written: dict[str, Written]) -> None:
    header = dcmread(written[name].paths[0], stop_before_pixels=True)

    assert header.PatientName == NAMES[header.SpecificCharacterSet]
    assert not str(header.PatientName).isascii()
    assert all(header[keyword].value for keyword in ("PatientID", "AccessionNumber", "TimezoneOffsetFromUTC"))


def test_real_sources_are_whole() -> None:
    for paths, number in (
        (sources.real_ct_series(), 248),
        (sources.real_small_ct_series(), 60),
        (sources.real_radiographs(), 3),
    ):
        assert len(paths) == number

    assert dcmread(sources.real_slide(), stop_before_pixels=True).Modality == "SM"
