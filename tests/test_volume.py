"""A CT series becomes a volume: its planes in their order and place, or the reason why they are no stack."""

import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from node.errors import DatasetError, GeometryError
from node.read.volume import read_volume
from tests.sources import write_enhanced_ct
from tests.synthetic.stack import COLUMN_SPACING_MM, ROW_SPACING_MM, make_stack
from tests.volumes import (
    COLUMNS,
    PLANES,
    ROWS,
    SERIES_UID,
    change,
    change_all,
    copy_of,
    move,
    numbers_of,
    series_of,
    truth_hu,
    write_slices,
)

Paths = list[Path]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    return write_slices(tmp_path_factory.mktemp("axial"))


@pytest.fixture
def paths(written: Paths, tmp_path: Path) -> Paths:
    """A series of twelve slices 2.5 mm apart, to be changed."""
    shutil.copytree(written[0].parent, tmp_path / "series")
    return [tmp_path / "series" / path.name for path in written]


# --- order and place


@pytest.mark.parametrize("arrangement", ["axial", "reversed", "oblique", "sagittal", "tilted"])
def test_planes_follow_the_normal_whatever_the_instance_numbers(arrangement: str, tmp_path: Path) -> None:
    paths = write_slices(tmp_path, arrangement=arrangement)
    stack = make_stack(arrangement, PLANES, ROWS, COLUMNS)

    volume = read_volume(series_of(paths[::-1]))

    order = numbers_of(volume, paths)
    assert order == (list(range(PLANES))[::-1] if arrangement == "reversed" else list(range(PLANES)))
    np.testing.assert_array_equal(volume.hounsfield, truth_hu(arrangement)[order])
    np.testing.assert_allclose(volume.origins_xyz_mm, stack.positions_xyz_mm[order], atol=1e-9)
    assert (np.diff(volume.positions_mm) > 0).all()
    assert volume.spacing_yx_mm == (ROW_SPACING_MM, COLUMN_SPACING_MM)


def test_directions_that_were_rounded_are_made_exact(paths: Paths) -> None:
    change_all(paths, ImageOrientationPatient=[0.9997, 0.0003, 0, 0.0004, 0.9998, 0])

    volume = read_volume(series_of(paths))

    row, column = volume.row_direction_xyz, volume.column_direction_xyz
    np.testing.assert_allclose([row @ row, column @ column, row @ column], [1, 1, 0], atol=1e-12)
    np.testing.assert_allclose(row, [1, 0.0003, 0], atol=1e-6)


def test_instance_numbers_and_names_of_files_do_not_matter(paths: Paths) -> None:
    for number, path in enumerate(paths):
        change(path, InstanceNumber=(number * 7) % PLANES, SliceLocation=0)

    volume = read_volume(series_of(sorted(paths, key=lambda path: hash(path.name) % 97)))

    assert numbers_of(volume, paths) == list(range(PLANES))


@pytest.mark.parametrize("arrangement", ["axial", "tilted"])
def test_voxels_lie_where_the_lesion_is(arrangement: str, tmp_path: Path) -> None:
    paths = write_slices(tmp_path, arrangement=arrangement)
    stack = make_stack(arrangement, PLANES, ROWS, COLUMNS)

    volume = read_volume(series_of(paths))

    points = volume.to_patient(np.argwhere(volume.hounsfield > 220))
    # The voxels are 0.7 × 0.8 × 2.5 mm; their middle is far better known than one of them.
    np.testing.assert_allclose(points.mean(axis=0), stack.centroid_xyz_mm, atol=0.2)


@pytest.mark.parametrize("arrangement", ["axial", "tilted", "oblique"])
def test_enhanced_object_is_the_same_volume_as_its_slices(arrangement: str, tmp_path: Path) -> None:
    single = read_volume(series_of(write_slices(tmp_path / "classic", arrangement=arrangement)))
    written = write_enhanced_ct(tmp_path / "enhanced", arrangement=arrangement, planes=PLANES)

    volume = read_volume(series_of(written.paths))

    np.testing.assert_array_equal(volume.hounsfield, single.hounsfield)
    np.testing.assert_allclose(volume.origins_xyz_mm, single.origins_xyz_mm)
    assert [frame.frame_number for frame in volume.frames] == list(range(1, PLANES + 1))
    assert {frame.sop_instance_uid for frame in volume.frames} == {dcmread(written.paths[0]).SOPInstanceUID}


def test_frames_of_an_enhanced_object_are_ordered_by_place(tmp_path: Path) -> None:
    (path,) = write_enhanced_ct(tmp_path, planes=PLANES).paths

    def turn_round(dataset: Dataset) -> None:
        positions = [one.PlanePositionSequence for one in dataset.PerFrameFunctionalGroupsSequence]
        for groups, position in zip(dataset.PerFrameFunctionalGroupsSequence, positions[::-1], strict=True):
            groups.PlanePositionSequence = position

    volume = read_volume(series_of([change(path, turn_round)]))

    assert [frame.frame_number for frame in volume.frames] == list(range(PLANES, 0, -1))
    np.testing.assert_array_equal(volume.hounsfield, truth_hu()[::-1])


def test_memory_of_the_caller_is_filled(paths: Paths) -> None:
    given: list[np.ndarray] = []

    def allocate(shape: tuple[int, ...], dtype: object) -> np.ndarray:
        given.append(np.empty(shape, dtype))  # type: ignore[call-overload]
        return given[0]

    volume = read_volume(series_of(paths), allocate)

    assert np.shares_memory(volume.hounsfield, given[0])
    np.testing.assert_array_equal(given[0], truth_hu())


# --- irregular, and met


def notes_of(paths: Sequence[Path]) -> str:
    return " ".join(read_volume(series_of(paths)).notes)


def test_regular_series_has_no_notes(paths: Paths) -> None:
    assert notes_of(paths) == ""


def test_repeated_slice_is_left_out(paths: Paths) -> None:
    extra = [copy_of(paths[3]), copy_of(paths[3])]

    volume = read_volume(series_of([*extra, *paths]))

    assert volume.notes == ("2 slices repeated the pixels of another at the same place: left out.",)
    np.testing.assert_array_equal(volume.hounsfield, truth_hu())


def test_one_missing_slice_is_told_of(paths: Paths) -> None:
    volume = read_volume(series_of(paths[:5] + paths[6:]))

    assert volume.notes == (
        "1 slice missing, steps of up to 5.00 mm where 2.50 mm is usual: interpolated across.",
    )
    assert len(volume.frames) == PLANES - 1
    np.testing.assert_allclose(volume.voxel_volumes_mm3[4:6], 0.7 * 0.8 * 3.75)


def test_uneven_steps_are_told_of_and_kept(paths: Paths) -> None:
    change(paths[4], partial(move, offset_xyz_mm=(0, 0, 0.6)))

    volume = read_volume(series_of(paths))

    assert volume.notes == ("The slices are 1.90 to 3.10 mm apart: each was taken from its own place.",)
    assert volume.positions_mm[4] - volume.positions_mm[3] == pytest.approx(3.1)


def test_rounded_positions_are_even(paths: Paths) -> None:
    for number, path in enumerate(paths):
        change(path, partial(move, offset_xyz_mm=(0, 0, 0.01 * (-1) ** number)))

    assert notes_of(paths) == ""


def test_gantry_tilt_is_told_of(tmp_path: Path) -> None:
    paths = write_slices(tmp_path, arrangement="tilted")

    assert (
        notes_of(paths) == "The gantry was tilted by 14.9 degrees: each slice was taken from its own place."
    )


def test_slice_moved_aside_is_told_of_and_kept(paths: Paths) -> None:
    change(paths[6], partial(move, offset_xyz_mm=(4, 0, 0)))

    volume = read_volume(series_of(paths))

    assert volume.notes == ("Slices lie up to 4.0 mm aside: each was taken from its own place.",)
    first = volume.to_patient(np.array([[6.0, 0, 0], [6.5, 0, 0], [7, 0, 0]]))
    np.testing.assert_allclose(np.diff(first[:, 0]), -2)


@pytest.mark.parametrize("words", [["ORIGINAL", "PRIMARY", "LOCALIZER"], ["DERIVED", "PRIMARY", "Scout"]])
def test_localizers_are_left_out(words: list[str], paths: Paths) -> None:
    scout = copy_of(paths[0], ImageType=words, ImageOrientationPatient=[0, 1, 0, 0, 0, -1])

    assert notes_of([scout, *paths]) == "1 localizer left out."


def test_object_of_another_kind_is_left_out(paths: Paths) -> None:
    picture = copy_of(paths[0], SOPClassUID=SecondaryCaptureImageStorage)

    assert notes_of([picture, *paths]) == "1 object of another kind left out."


def test_kernels_one_after_the_other_are_told_of(paths: Paths) -> None:
    change_all(paths[:6], ConvolutionKernel="B30f")
    change_all(paths[6:], ConvolutionKernel="B60f")

    assert notes_of(paths) == "The slices are of 2 convolution kernels, one after the other."


def test_series_without_frame_of_reference_is_told_of(paths: Paths) -> None:
    change_all(paths, FrameOfReferenceUID=None)

    assert "No slice names a frame of reference" in notes_of(paths)


# --- refused


def second_stack(paths: Paths, **attributes: object) -> Paths:
    """The series again, of other pixels, with these attributes."""

    def darken(dataset: Dataset) -> None:
        dataset.PixelData = (dataset.pixel_array // 2).tobytes()

    return [copy_of(path, darken, **attributes) for path in paths]


def kernels(paths: Paths) -> Paths:
    change_all(paths, ConvolutionKernel="B30f")
    return [*paths, *second_stack(paths, ConvolutionKernel="B60f")]


def phases(paths: Paths) -> Paths:
    return [*paths, *second_stack(paths, AcquisitionNumber=2, AcquisitionTime="091700")]


def unknown_stacks(paths: Paths) -> Paths:
    return [*paths, *second_stack(paths[:1])]


def interleaved_kernels(paths: Paths) -> Paths:
    change_all(paths[::2], ConvolutionKernel="B30f")
    change_all(paths[1::2], ConvolutionKernel="B60f")
    return paths


def turned(paths: Paths) -> Paths:
    change(paths[3], ImageOrientationPatient=[0, 1, 0, 0, 0, -1])
    return paths


def slightly_turned(paths: Paths) -> Paths:
    change(paths[3], ImageOrientationPatient=[1, 0, 0, 0, float(np.cos(0.02)), float(np.sin(0.02))])
    return paths


def other_size(paths: Paths) -> Paths:
    def crop(dataset: Dataset) -> None:
        dataset.PixelData = dataset.pixel_array[:-2].tobytes()
        dataset.Rows -= 2

    change(paths[3], crop)
    return paths


def changed(paths: Paths, **attributes: object) -> Paths:
    change(paths[3], **attributes)
    return paths


def aside_in_one_plane(paths: Paths) -> Paths:
    return [*paths, copy_of(paths[3], partial(move, offset_xyz_mm=(5, 0, 0)))]


def moved_on(paths: Paths, offset_mm: float) -> Paths:
    """The second half farther along."""
    change_all(paths[6:], partial(move, offset_xyz_mm=(0, 0, offset_mm)))
    return paths


def far_apart(paths: Paths) -> Paths:
    for number, path in enumerate(paths):
        change(path, partial(move, offset_xyz_mm=(0, 0, 8 * number)))
    return paths


def leaning(paths: Paths) -> Paths:
    for number, path in enumerate(paths):
        change(path, partial(move, offset_xyz_mm=(0, 3 * number, 0)))
    return paths


def twice(paths: Paths) -> Paths:
    return [*paths, paths[3]]


REFUSED: dict[str, tuple[Callable[[Paths], Paths], str]] = {
    "two kernels": (kernels, r"different pixels.*differ in ConvolutionKernel; send each stack"),
    "two phases": (phases, r"different pixels.*differ in AcquisitionNumber, AcquisitionTime"),
    "two stacks alike": (unknown_stacks, r"different pixels.*headers do not tell them apart"),
    "interleaved kernels": (interleaved_kernels, r"slices of 2 convolution kernels interleave"),
    "mixed orientation": (turned, r"different orientation in one series, .* degrees apart"),
    "slightly turned": (slightly_turned, r"different orientation in one series, 1\.1 degrees apart"),
    "mixed size": (other_size, r"slices of 64 × 48 and of 62 × 48 pixels in one series"),
    "mixed spacing": (partial(changed, PixelSpacing=[0.7, 0.9]), "different pixel spacing"),
    "other frame of reference": (partial(changed, FrameOfReferenceUID="2.25.9"), "different frames of ref"),
    "two in one plane": (aside_in_one_plane, r"two slices in one plane, 5\.00 mm aside"),
    "two missing": (lambda paths: paths[:5] + paths[7:], r"a gap of 7\.50 mm where 2\.50 mm is usual"),
    "wide hole": (partial(moved_on, offset_mm=3.7), r"a gap of 6\.20 mm .* 6 mm are interpolated across"),
    "many missing": (lambda paths: paths[:4] + paths[5:8:2] + paths[8:], r"2 of 9 steps .* lack a slice"),
    "far apart": (far_apart, r"slices are 10\.50 mm apart, expected at most 10 mm"),
    "leaning": (leaning, r"tilt of 50\.2 degrees, at most 45 is allowed"),
    "two slices": (lambda paths: paths[:2], "2 slices at different places, expected at least 3"),
    "one place": (
        lambda paths: [paths[0], copy_of(paths[0])],
        "1 slice at different places, expected at least 3",
    ),
    "none": (lambda _: [], "holds no CT slices"),
    "instance twice": (twice, "an instance of this series was given twice"),
    "no position": (partial(changed, ImagePositionPatient=None), r"Image Position \(Patient\) is missing"),
    "two coordinates": (partial(changed, ImagePositionPatient=[1, 2]), "is missing or not three numbers"),
    "far away": (partial(changed, ImagePositionPatient=[0, 0, 1e9]), "more than 10 m from"),
    "no orientation": (partial(changed, ImageOrientationPatient=None), "is missing or not six numbers"),
    "no direction": (partial(changed, ImageOrientationPatient=[0] * 6), r"miss unit length .* by 0\.5000"),
    "huge direction": (partial(changed, ImageOrientationPatient=[1e300] * 6), "directions of unit length"),
    "skew": (partial(changed, ImageOrientationPatient=[1, 0, 0, 0.6, 0.8, 0]), r"by 0\.6000, at most 0\.001"),
    "no spacing": (partial(changed, PixelSpacing=None), "Pixel Spacing is missing"),
    "zero spacing": (partial(changed, PixelSpacing=[0, 0.7]), "Pixel Spacing is 0 and 0.7 mm, expected 0.02"),
    "negative spacing": (partial(changed, PixelSpacing=[0.7, -0.7]), "Pixel Spacing is 0.7 and -0.7 mm"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_stack_is_refused_with_the_reason(name: str, paths: Paths) -> None:
    prepare, reason = REFUSED[name]

    with pytest.raises(GeometryError, match=reason) as refusal:
        read_volume(series_of(prepare(paths)))

    assert refusal.value.uid == SERIES_UID or refusal.value.uid.startswith("2.25.")


def test_reasons_name_the_slices(paths: Paths) -> None:
    uids = [str(dcmread(path).SOPInstanceUID) for path in paths]

    with pytest.raises(GeometryError, match=rf"\({uids[0]} and {uids[3]}\)"):
        read_volume(series_of(turned(paths)))


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"SOPInstanceUID": ""}, "SOPInstanceUID is missing or blank"),
        ({"SOPClassUID": ""}, "SOPClassUID is missing or blank"),
        ({"Modality": "MR"}, "Modality is MR, expected CT"),
        ({"Modality": None}, "Modality is absent, expected CT"),
    ],
)
def test_what_does_not_say_that_it_is_a_ct_slice_is_refused(
    attributes: dict[str, object], reason: str, paths: Paths
) -> None:
    def take(dataset: Dataset) -> None:
        for keyword, value in attributes.items():
            setattr(dataset, keyword, value or "")

    change(paths[3], take)

    with pytest.raises(DatasetError, match=reason):
        read_volume(series_of(paths))


def test_enhanced_object_whose_frames_are_not_all_described_is_refused(tmp_path: Path) -> None:
    (path,) = write_enhanced_ct(tmp_path, planes=PLANES).paths

    def forget_one(dataset: Dataset) -> None:
        del dataset.PerFrameFunctionalGroupsSequence[-1]

    with pytest.raises(DatasetError, match="12 frames of which 11 are described"):
        read_volume(series_of([change(path, forget_one)]))
