"""Masks and maps over real sources, and over sources that say too little of where they are."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread

from node.domain.code import PREDICTIVE_ENTROPY
from node.domain.location import Frame, ValueMap
from node.domain.profile import SegmentationType
from node.encode.parametric_map import encode_parametric_map
from node.encode.segmentation import encode_segmentation, locate_segments
from node.errors import DatasetError, GeometryError
from tests.decoded import Decoded, result_of, write_objects
from tests.drawn import centroid_xyz_mm, findings_on, headers_of, mask_on, on_slide
from tests.located import BIT, frames_of
from tests.peers.validators import dciodvfy_errors
from tests.results import save
from tests.sources import (
    real_ct_series,
    real_radiographs,
    real_slide,
    real_small_ct_series,
    write_ct_series,
    write_enhanced_ct,
    write_slide,
)

FORMS = list(SegmentationType)


def ellipsoid(shape: tuple[int, ...]) -> np.ndarray:
    """A lesion to one side of the middle, so that a flip or a swap of axes would move it."""
    centers = np.array([0.4, 0.3, 0.65]) * shape
    grid = np.ogrid[tuple(slice(size) for size in shape)]
    terms = [
        ((axis - center) / max(size * 0.08, 1.0)) ** 2
        for axis, center, size in zip(grid, centers, shape, strict=True)
    ]
    return np.asarray(sum(terms) <= 1)


INHERITED = ("Error - Value invalid for this VR", "Error - Dicom dataset contains invalid data values")
"""What patient and study bring with them, since they are copied as they are."""


def new_errors(objects: list[Path], sources: list[Path]) -> set[str]:
    """What dciodvfy finds wrong with the objects, but for values of the patient and study that were wrong."""
    errors = {text_of(line) for line in dciodvfy_errors({sources[0], sources[-1]})}
    inherited = {text for text in errors if text.startswith(INHERITED)}
    return {text_of(line) for line in dciodvfy_errors(objects)} - inherited


def text_of(line: str) -> str:
    return line.partition(": ")[2]


# --- real sources


REAL_SERIES = [(real_ct_series, SegmentationType.BINARY), *((real_small_ct_series, form) for form in FORMS)]


@pytest.mark.parametrize(("series", "form"), REAL_SERIES)
def test_masks_lie_on_a_real_series(
    series: Callable[[], list[Path]], form: SegmentationType, tmp_path: Path
) -> None:
    paths = series()
    headers = headers_of(paths)
    mask = ellipsoid((len(paths), headers[0].Rows, headers[0].Columns))
    findings = findings_on(headers, mask_on(headers, mask))

    (path,) = write_objects(encode_segmentation, result_of(findings, paths, segmentation_type=form), tmp_path)

    decoded = Decoded(path)
    (values,) = decoded.values(frames_of(headers), mask.shape).values()
    assert np.array_equal(values > 0, mask)
    decoded.pixels = (decoded.pixels > 0).astype(np.uint8)
    distance_mm = np.abs(decoded.centroid_xyz_mm(1) - centroid_xyz_mm(headers, mask)).max()
    # Half a voxel is asked for; decimal strings are all that is lost.
    assert distance_mm <= 1e-3
    assert new_errors([path], paths) == set()


def test_a_map_lies_on_a_real_series(tmp_path: Path) -> None:
    paths = real_small_ct_series()
    headers = headers_of(paths)
    shape = (len(paths), headers[0].Rows, headers[0].Columns)
    values = np.random.default_rng(3).uniform(0, 1, shape).astype(np.float32)
    value_map = ValueMap("Entropy", PREDICTIVE_ENTROPY, BIT, frames_of(headers), values)

    (path,) = write_objects(
        encode_parametric_map, result_of(findings_on(headers, maps=(value_map,)), paths), tmp_path
    )

    assert np.array_equal(Decoded(path).values(value_map.frames, shape)[0], values)
    assert new_errors([path], paths) == set()


@pytest.mark.parametrize("form", FORMS)
def test_masks_lie_on_real_radiographs(form: SegmentationType, tmp_path: Path) -> None:
    for source in real_radiographs():
        headers = headers_of([source])
        mask = ellipsoid((1, headers[0].Rows, headers[0].Columns))
        result = result_of(findings_on(headers, mask_on(headers, mask)), [source], segmentation_type=form)

        (path,) = write_objects(encode_segmentation, result, tmp_path)

        (values,) = Decoded(path).values(frames_of(headers), mask.shape).values()
        assert np.array_equal(values > 0, mask)
        assert new_errors([path], [source]) == set()


@pytest.fixture
def repaired_slide(tmp_path: Path) -> Path:
    """The real slide with what it lacks: UIDs of a legal length, a frame of reference and a pixel spacing.

    Its tiles still run column by column, without positions.
    """
    dataset = dcmread(real_slide())
    measures, groups = Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [0.0005, 0.0005], 0.001
    groups.PixelMeasuresSequence = [measures]
    dataset.SharedFunctionalGroupsSequence = [groups]
    dataset.FrameOfReferenceUID, dataset.SeriesInstanceUID = "2.25.11", "2.25.12"
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "2.25.13"
    return save(dataset, tmp_path / "slide.dcm")


@pytest.mark.filterwarnings("ignore:.*exceeds the maximum length of|Invalid value for VR")
@pytest.mark.parametrize("stride_px", [1, 16])
@pytest.mark.parametrize("form", FORMS)
def test_masks_lie_on_the_real_slide(
    form: SegmentationType, stride_px: int, repaired_slide: Path, tmp_path: Path
) -> None:
    headers = headers_of([repaired_slide])
    rows, columns = headers[0].TotalPixelMatrixRows, headers[0].TotalPixelMatrixColumns
    mask = ellipsoid((1, -(-rows // stride_px), -(-columns // stride_px)))
    findings = findings_on(headers, mask_on(headers, mask, stride_px))

    (path,) = write_objects(
        encode_segmentation, result_of(findings, [repaired_slide], segmentation_type=form), tmp_path
    )

    decoded = Decoded(path)
    (values,) = decoded.values(frames_of(headers), mask.shape).values()
    assert np.array_equal(values > 0, mask)
    decoded.pixels = (decoded.pixels > 0).astype(np.uint8)
    expected = on_slide(repaired_slide, mask, stride_px)
    assert np.abs(decoded.centroid_xyz_mm(1) - expected).max() <= 1e-6
    assert new_errors([path], [repaired_slide]) == set()


@pytest.mark.filterwarnings("ignore:.*exceeds the maximum length of|Invalid value for VR")
def test_the_real_slide_as_it_is_has_no_legal_uid_to_refer_to() -> None:
    headers = headers_of([real_slide()])
    mask = np.ones((1, headers[0].TotalPixelMatrixRows, headers[0].TotalPixelMatrixColumns), bool)

    with pytest.raises(DatasetError, match="SeriesInstanceUID is not a UID"):
        result_of(findings_on(headers, mask_on(headers, mask)), [real_slide()])


# --- sources that say too little


LOST = {
    "classic": (write_ct_series, ("FrameOfReferenceUID",)),
    "enhanced": (write_enhanced_ct, ("FrameOfReferenceUID",)),
    "slide": (write_slide, ("FrameOfReferenceUID",)),
    "slide without origin": (write_slide, ("TotalPixelMatrixOriginSequence",)),
    "slide without groups": (write_slide, ("SharedFunctionalGroupsSequence",)),
}


@pytest.mark.parametrize("case", LOST)
def test_what_is_in_no_frame_of_reference_gets_no_mask_and_no_map(case: str, tmp_path: Path) -> None:
    write, keywords = LOST[case]
    source = write(tmp_path / "source")
    paths = [without(path, keywords) for path in source.paths[: len(source.mask)]]
    headers = headers_of(paths)
    values = source.mask.astype(np.float32)
    value_map = ValueMap("Entropy", PREDICTIVE_ENTROPY, BIT, frames_of(headers), values)
    result = result_of(findings_on(headers, mask_on(headers, source.mask), maps=(value_map,)), paths)

    assert write_objects(encode_segmentation, result, tmp_path) == []
    assert write_objects(encode_parametric_map, result, tmp_path) == []
    assert locate_segments(result).get("Lesion 1") is None


def without(path: Path, keywords: tuple[str, ...]) -> Path:
    dataset = dcmread(path)
    for keyword in keywords:
        del dataset[keyword]
    return save(dataset, path)


def move(dataset: Dataset) -> None:
    dataset.ImagePositionPatient = [-6.3, -52.3, 126.25]


def tilt(dataset: Dataset) -> None:
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 0.999, 0.045]


def stretch(dataset: Dataset) -> None:
    dataset.PixelSpacing = [0.7, 0.9]


CONTRADICTIONS: dict[str, tuple[Callable[[Dataset], None], str]] = {
    "same place": (move, "two planes are at the same place"),
    "not parallel": (tilt, "the planes differ in ImageOrientationPatient"),
    "not alike": (stretch, "the planes differ in PixelSpacing"),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
@pytest.mark.parametrize("encoder", [encode_segmentation, encode_parametric_map])
def test_slices_that_make_no_stack_are_refused(
    case: str, encoder: Callable[..., object], tmp_path: Path
) -> None:
    change, words = CONTRADICTIONS[case]
    source = write_ct_series(tmp_path / "source")
    for path in source.paths[5:7] if case == "same place" else source.paths[5:6]:
        dataset = dcmread(path)
        change(dataset)
        save(dataset, path)
    headers = headers_of(source.paths)
    values = source.mask.astype(np.float32)
    value_map = ValueMap("Entropy", PREDICTIVE_ENTROPY, BIT, frames_of(headers), values)
    findings = findings_on(headers, mask_on(headers, source.mask), maps=(value_map,))

    with pytest.raises(GeometryError, match=words):
        write_objects(encoder, result_of(findings, source.paths), tmp_path)  # type: ignore[arg-type]


def test_cosines_that_differ_in_their_last_digits_are_parallel(tmp_path: Path) -> None:
    source = write_ct_series(tmp_path / "source")
    dataset = dcmread(source.paths[5])
    dataset.ImageOrientationPatient = [1, 0, 0.000001, 0, 1, 0]
    save(dataset, source.paths[5])
    headers = headers_of(source.paths)

    result = result_of(findings_on(headers, mask_on(headers, source.mask)), source.paths)
    (path,) = write_objects(encode_segmentation, result, tmp_path)

    assert np.array_equal(Decoded(path).values(frames_of(headers), source.mask.shape)[1] > 0, source.mask)


@pytest.mark.parametrize("write", [write_ct_series, write_enhanced_ct, write_slide])
def test_a_mask_of_another_size_is_refused(write: Callable[..., object], tmp_path: Path) -> None:
    source = write(tmp_path / "source")
    paths = source.paths[: len(source.mask)]
    headers = headers_of(paths)
    smaller = mask_on(headers, source.mask[:, :-1])

    with pytest.raises(GeometryError, match="expected"):
        write_objects(encode_segmentation, result_of(findings_on(headers, smaller), paths), tmp_path)


def test_a_frame_that_the_source_does_not_have_is_refused(tmp_path: Path) -> None:
    source = write_enhanced_ct(tmp_path / "source")
    headers = headers_of(source.paths)
    mask = mask_on(headers, source.mask)
    frames = (*mask.frames[:-1], Frame(mask.frames[0].sop_instance_uid, 13))
    beyond = findings_on(headers, type(mask)(frames, mask.segments, mask.labels))

    with pytest.raises(GeometryError, match="no frame 13 among 12"):
        write_objects(encode_segmentation, result_of(beyond, source.paths), tmp_path)


@pytest.mark.parametrize("thickness_mm", [None, ""])
def test_slices_need_not_know_how_thick_they_are(thickness_mm: str | None, tmp_path: Path) -> None:
    source = write_ct_series(tmp_path / "source")
    for path in source.paths:
        dataset = dcmread(path)
        dataset.pop("SliceThickness")
        if thickness_mm is not None:
            dataset.SliceThickness = None
        save(dataset, path)
    headers = headers_of(source.paths)

    result = result_of(findings_on(headers, mask_on(headers, source.mask)), source.paths)
    (path,) = write_objects(encode_segmentation, result, tmp_path)

    assert Decoded(path).centroid_xyz_mm(1) == pytest.approx(centroid_xyz_mm(headers, source.mask), abs=1e-4)
