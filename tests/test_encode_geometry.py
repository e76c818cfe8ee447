"""Masks and maps lie on what they were drawn on, whatever the source's arrangement."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from node.domain.location import Frame, Mask
from node.domain.profile import SegmentationType
from node.encode.segmentation import encode_segmentation
from tests.decoded import Decoded, result_of, write_objects
from tests.drawn import SEGMENTS, centroid_xyz_mm, findings_on, headers_of, mask_on, on_slide
from tests.located import frames_of
from tests.peers.validators import dciodvfy_errors
from tests.results import save
from tests.sources import (
    ARRANGEMENTS,
    Written,
    write_ct_series,
    write_enhanced_ct,
    write_radiograph,
    write_slide,
)

BINARY, FRACTIONAL, LABELMAP = SegmentationType
TOLERANCE_MM = 1e-4
"""Decimal strings hold a tenth of a micrometer."""

STACKS: dict[str, Callable[[Path], Written]] = {
    **{f"classic-{name}": partial(write_ct_series, arrangement=name) for name in ARRANGEMENTS},
    **{f"enhanced-{name}": partial(write_enhanced_ct, arrangement=name) for name in ARRANGEMENTS},
}


def segmentation_of(
    paths: list[Path], mask: np.ndarray, folder: Path, stride_px: int = 1, **profile: object
) -> Decoded:
    headers = headers_of(paths)
    result = result_of(findings_on(headers, mask_on(headers, mask, stride_px)), paths, **profile)
    (path,) = write_objects(encode_segmentation, result, folder)
    return Decoded(path)


# --- in the patient


@pytest.mark.parametrize("form", SegmentationType)
@pytest.mark.parametrize("name", STACKS)
def test_a_mask_lies_where_it_was_drawn(name: str, form: SegmentationType, tmp_path: Path) -> None:
    source = STACKS[name](tmp_path / "source")
    headers = headers_of(source.paths)

    decoded = segmentation_of(source.paths, source.mask, tmp_path, segmentation_type=form)

    if form is FRACTIONAL:
        decoded.pixels = decoded.pixels // 255
    center = decoded.centroid_xyz_mm(1)
    assert np.abs(center - centroid_xyz_mm(headers, source.mask)).max() <= TOLERANCE_MM
    half_mm = 0.5 * np.array([0.7, 0.8, 2.5])
    assert np.linalg.norm(center - source.centroid_xyz_mm) <= np.linalg.norm(half_mm)
    assert dciodvfy_errors([tmp_path / "1.dcm"]) == []


@pytest.mark.parametrize("write", [write_ct_series, write_enhanced_ct])
@pytest.mark.parametrize("form", SegmentationType)
def test_planes_may_come_in_any_order_and_not_all(
    write: Callable[[Path], Written], form: SegmentationType, tmp_path: Path
) -> None:
    source = write(tmp_path / "source")
    headers = headers_of(source.paths)
    order = [7, 4, 5, 9, 6]
    frames = tuple(frames_of(headers)[plane] for plane in order)
    labels = np.stack([source.mask[plane] for plane in order]).astype(np.uint8)
    labels[:, :3] = np.arange(1, 6)[:, None, None] % 2
    findings = findings_on(headers, Mask(frames, SEGMENTS, labels))

    (path,) = write_objects(
        encode_segmentation, result_of(findings, source.paths, segmentation_type=form), tmp_path
    )

    decoded = Decoded(path)
    (values,) = decoded.values(frames, labels.shape).values()
    assert np.array_equal(values > 0, labels > 0)
    assert dciodvfy_errors([path]) == []
    expected = np.zeros_like(source.mask)
    expected[order] = labels
    if form is FRACTIONAL:
        decoded.pixels = decoded.pixels // 255
    assert decoded.centroid_xyz_mm(1) == pytest.approx(centroid_xyz_mm(headers, expected), abs=TOLERANCE_MM)


def test_frames_may_say_for_themselves_what_they_share(tmp_path: Path) -> None:
    source = write_enhanced_ct(tmp_path / "source", arrangement="oblique")
    dataset = dcmread(source.paths[0])
    (shared,) = dataset.SharedFunctionalGroupsSequence
    for groups in dataset.PerFrameFunctionalGroupsSequence:
        groups.PlaneOrientationSequence = shared.PlaneOrientationSequence
        groups.PixelMeasuresSequence = shared.PixelMeasuresSequence
    del shared.PlaneOrientationSequence, shared.PixelMeasuresSequence
    path = save(dataset, tmp_path / "own.dcm")

    decoded = segmentation_of([path], source.mask, tmp_path)

    expected = centroid_xyz_mm(headers_of([path]), source.mask)
    assert decoded.centroid_xyz_mm(1) == pytest.approx(expected, abs=TOLERANCE_MM)


def test_several_sources_with_frames_of_their_own_give_an_object_each(tmp_path: Path) -> None:
    source = write_enhanced_ct(tmp_path / "source")
    other = dcmread(source.paths[0])
    other.SOPInstanceUID = other.file_meta.MediaStorageSOPInstanceUID = "2.25.77"
    paths = [*source.paths, save(other, tmp_path / "other.dcm")]
    headers = headers_of(paths)
    labels = np.concatenate([source.mask, source.mask[:, ::-1]])

    result = result_of(findings_on(headers, mask_on(headers, labels)), paths, max_frames=0)
    first, second = map(Decoded, write_objects(encode_segmentation, result, tmp_path))

    assert first.dataset.SourceImageSequence[0].ReferencedSOPInstanceUID == headers[0].SOPInstanceUID
    assert second.dataset.SourceImageSequence[0].ReferencedSOPInstanceUID == "2.25.77"
    assert second.centroid_xyz_mm(1) == pytest.approx(
        centroid_xyz_mm(headers[:1], source.mask[:, ::-1]), abs=TOLERANCE_MM
    )


def test_radiographs_of_one_series_give_an_object_each(tmp_path: Path) -> None:
    source = write_radiograph(tmp_path / "source")
    other = dcmread(source.paths[0])
    other.SOPInstanceUID = other.file_meta.MediaStorageSOPInstanceUID = "2.25.77"
    paths = [*source.paths, save(other, tmp_path / "other.dcm")]
    headers = headers_of(paths)
    mask = mask_on(headers, np.concatenate([source.mask, ~source.mask]))

    files = write_objects(encode_segmentation, result_of(findings_on(headers, mask), paths), tmp_path)

    for file, header, expected in zip(files, headers, (source.mask, ~source.mask), strict=True):
        decoded = Decoded(file)
        frame = Frame(str(header.SOPInstanceUID))
        assert np.array_equal(decoded.values((frame,), expected.shape)[1] > 0, expected)
    assert dciodvfy_errors(files) == []


# --- on the slide


@pytest.mark.parametrize("stride_px", [1, 3, 8])
@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize("organization", ["TILED_FULL", "TILED_SPARSE"])
def test_a_mask_lies_where_it_was_drawn_on_a_level(
    organization: str, level: int, stride_px: int, tmp_path: Path
) -> None:
    source = write_slide(tmp_path / "source", organization=organization)
    path = source.paths[level]
    coarse = coarsened(source.masks[level], stride_px)

    decoded = segmentation_of([path], coarse, tmp_path, stride_px)

    assert np.abs(decoded.centroid_xyz_mm(1) - on_slide(path, coarse, stride_px)).max() <= TOLERANCE_MM
    (spacing_mm, _) = decoded.shared.PixelMeasuresSequence[0].PixelSpacing
    assert np.abs(decoded.centroid_xyz_mm(1) - source.centroid_xyz_mm).max() <= spacing_mm / 2
    assert dciodvfy_errors([tmp_path / "1.dcm"]) == []


def coarsened(mask: np.ndarray, stride_px: int) -> np.ndarray:
    """Whether half of the pixels that an element covers are marked; those past the edge are not."""
    _, rows, columns = mask.shape
    padded = np.pad(mask, [(0, 0), (0, -rows % stride_px), (0, -columns % stride_px)])
    blocks = padded.reshape(1, padded.shape[1] // stride_px, stride_px, -1, stride_px)
    return np.asarray(blocks.mean(axis=(2, 4)) >= 0.5)


@pytest.mark.parametrize("stride_px", [100, 5])
def test_elements_may_leave_out_what_is_left_at_the_edge(stride_px: int, tmp_path: Path) -> None:
    source = write_slide(tmp_path / "source")
    covered = np.ones((1, 512 // stride_px, 768 // stride_px), bool)

    decoded = segmentation_of(source.paths[:1], covered, tmp_path, stride_px)

    assert (decoded.dataset.TotalPixelMatrixRows, decoded.dataset.TotalPixelMatrixColumns) == covered.shape[
        1:
    ]
    assert decoded.dataset.Rows == min(64, covered.shape[1])
    expected = on_slide(source.paths[0], covered, stride_px)
    assert np.abs(decoded.centroid_xyz_mm(1) - expected).max() <= TOLERANCE_MM


@pytest.mark.parametrize("form", SegmentationType)
def test_pixels_that_fill_no_whole_bytes_are_padded_with_zeros(
    form: SegmentationType, tmp_path: Path
) -> None:
    source = write_ct_series(tmp_path / "source", planes=3, rows=13, columns=7)
    mask = np.ones((3, 13, 7), bool)
    mask[1, 3:5] = False
    size = {BINARY: (3 * 13 * 7 + 7) // 8}.get(form, 3 * 13 * 7)

    decoded = segmentation_of(source.paths, mask, tmp_path, segmentation_type=form)

    pixels = decoded.dataset.PixelData
    (values,) = decoded.values(frames_of(headers_of(source.paths)), mask.shape).values()
    assert np.array_equal(values > 0, mask)
    assert len(pixels) == size + size % 2
    assert pixels[size:] == b"\0" * (size % 2)
    assert dciodvfy_errors([tmp_path / "1.dcm"]) == []
