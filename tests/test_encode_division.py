"""Which objects the masks of a result become: none for what is empty, several where they are too large."""

import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from node.domain.findings import Findings
from node.domain.location import Mask, Segment
from node.domain.profile import Kind, SegmentationType
from node.encode.identity import Result
from node.encode.parametric_map import encode_parametric_map
from node.encode.segmentation import encode_segmentation, locate_segments
from tests.decoded import Decoded, result_of, write_objects
from tests.located import NODULE, box_around, located_findings
from tests.peers.validators import dciodvfy_errors
from tests.shapes import WRITERS
from tests.sources import Written, write_ct_series

BINARY, FRACTIONAL, LABELMAP = SegmentationType
FORMS = list(SegmentationType)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Written]:
    return {shape: write(tmp_path_factory.mktemp(shape)) for shape, write in WRITERS.items()}


@pytest.fixture(scope="module")
def series(written: dict[str, Written]) -> Findings:
    """Two segments: the first on planes 4 to 7, so does the second."""
    return located_findings(written["series"])


def with_masks(findings: Findings, *masks: Mask) -> Findings:
    return replace(findings, masks=masks)


def written_objects(result: Result, folder: Path) -> list[Decoded]:
    return [Decoded(path) for path in write_objects(encode_segmentation, result, folder)]


def labels_of(decoded: Decoded) -> list[str]:
    return [one.SegmentLabel for one in decoded.dataset.SegmentSequence]


# --- nothing to say


def test_without_masks_there_is_no_object(series: Findings, written: dict[str, Written]) -> None:
    result = result_of(with_masks(series), written["series"].paths)

    assert list(encode_segmentation(result)) == []
    assert locate_segments(result).get("Lesion 1") is None


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("omits", [True, False])
def test_an_empty_mask_gives_no_object(
    form: SegmentationType, omits: bool, series: Findings, written: dict[str, Written]
) -> None:
    (mask,) = series.masks
    empty = replace(mask, labels=np.zeros_like(mask.labels))
    findings = with_masks(series, empty)
    result = result_of(findings, written["series"].paths, segmentation_type=form, omit_empty_frames=omits)

    assert list(encode_segmentation(result)) == []
    assert locate_segments(result).get("Lesion 1") is None


@pytest.mark.parametrize("form", FORMS)
def test_an_empty_segment_is_left_out_and_the_others_are_numbered_anew(
    form: SegmentationType, series: Findings, written: dict[str, Written], tmp_path: Path
) -> None:
    (mask,) = series.masks
    second = replace(mask, labels=np.where(mask.labels == 2, mask.labels, 0))
    result = result_of(with_masks(series, second), written["series"].paths, segmentation_type=form)

    (decoded,) = written_objects(result, tmp_path)
    place = locate_segments(result).get("Lesion 2")

    assert labels_of(decoded) == ["Lesion 2"]
    assert place is not None
    assert (place.sop_instance_uid, place.number) == (decoded.dataset.SOPInstanceUID, 1)
    assert locate_segments(result).get("Lesion 1") is None
    values = decoded.values(mask.frames, mask.labels.shape)
    assert list(values) == [0 if form is LABELMAP else 1]
    if form is not FRACTIONAL:
        assert np.array_equal(next(iter(values.values())), mask.labels == 2)


def test_a_probability_that_rounds_to_nothing_makes_no_segment(
    series: Findings, written: dict[str, Written]
) -> None:
    (mask,) = series.masks
    faint = replace(mask, probability=np.full_like(mask.probability, 0.001))
    result = result_of(with_masks(series, faint), written["series"].paths, segmentation_type=FRACTIONAL)

    assert list(encode_segmentation(result)) == []
    assert locate_segments(result).get("Lesion 1") is None


@pytest.mark.parametrize("wrong", [-0.01, 1.01, np.nan])
def test_a_mask_whose_probability_is_none_is_refused(wrong: float, series: Findings) -> None:
    (mask,) = series.masks
    probability = mask.probability.copy()
    probability[1, 2, 3, 4] = wrong

    with pytest.raises(ValueError, match="a probability outside 0-1"):
        replace(mask, probability=probability)


def test_a_profile_without_segmentations_has_no_place_for_segments(
    series: Findings, written: dict[str, Written]
) -> None:
    result = result_of(series, written["series"].paths, kinds=(Kind.LESIONS_SR,))

    assert locate_segments(result).get("Lesion 1") is None


# --- several objects


def test_each_mask_is_an_object_since_masks_may_overlap(
    series: Findings, written: dict[str, Written], tmp_path: Path
) -> None:
    (mask,) = series.masks
    other = Mask(mask.frames, (Segment("Lung", NODULE),), np.ones_like(mask.labels))
    result = result_of(with_masks(series, other, mask), written["series"].paths)

    lung, lesions = written_objects(result, tmp_path)

    assert labels_of(lung) == ["Lung"]
    assert labels_of(lesions) == ["Lesion 1", "Lesion 2"]
    assert lung.dataset.SeriesInstanceUID == lesions.dataset.SeriesInstanceUID
    assert [one.dataset.InstanceNumber for one in (lung, lesions)] == [1, 2]
    assert [one.dataset.SOPInstanceUID for one in (lung, lesions)] == [
        result.instance_uid(Kind.SEGMENTATION, number) for number in (1, 2)
    ]
    place = locate_segments(result).get("Lesion 2")
    assert place is not None
    assert (place.sop_instance_uid, place.number) == (lesions.dataset.SOPInstanceUID, 2)


LIMITS = [
    # The slices hold 4 + 4 frames in binary form, 12 + 12 as probabilities, 4 as a label map.
    (BINARY, 8, [["Lesion 1", "Lesion 2"]]),
    (BINARY, 7, [["Lesion 1"], ["Lesion 2"]]),
    (BINARY, 4, [["Lesion 1"], ["Lesion 2"]]),
    (BINARY, 3, [["Lesion 1"], ["Lesion 1"], ["Lesion 2"], ["Lesion 2"]]),
    (FRACTIONAL, 24, [["Lesion 1", "Lesion 2"]]),
    (FRACTIONAL, 12, [["Lesion 1"], ["Lesion 2"]]),
    (FRACTIONAL, 7, [["Lesion 1"], ["Lesion 1"], ["Lesion 2"], ["Lesion 2"]]),
    (LABELMAP, 4, [["Lesion 1", "Lesion 2"]]),
    (LABELMAP, 3, [["Lesion 1", "Lesion 2"], ["Lesion 1", "Lesion 2"]]),
]


@pytest.mark.parametrize(("form", "limit", "expected"), LIMITS)
def test_too_many_frames_are_divided_by_segments_and_then_by_slices(
    form: SegmentationType,
    limit: int,
    expected: list[list[str]],
    series: Findings,
    written: dict[str, Written],
    tmp_path: Path,
) -> None:
    (mask,) = series.masks
    paths = written["series"].paths
    result = result_of(series, paths, segmentation_type=form, max_frames=limit)
    (whole,) = written_objects(result_of(series, paths, segmentation_type=form), tmp_path)

    parts = written_objects(result, tmp_path)

    assert [labels_of(part) for part in parts] == expected
    assert max(len(part.frames) for part in parts) <= limit
    assert sum(len(part.frames) for part in parts) == len(whole.frames)
    assert [part.dataset.InstanceNumber for part in parts] == list(range(1, len(parts) + 1))
    assert {part.dataset.SeriesInstanceUID for part in parts} == {result.series_uid(Kind.SEGMENTATION)}
    assert dciodvfy_errors(tmp_path.glob("*.dcm")) == []
    together = sum_by_label(parts, mask)
    assert all(np.array_equal(together[label], one) for label, one in sum_by_label([whole], mask).items())


@pytest.mark.parametrize("form", FORMS)
def test_one_segment_alone_is_divided_by_slices(
    form: SegmentationType, series: Findings, written: dict[str, Written], tmp_path: Path
) -> None:
    (mask,) = series.masks
    alone = Mask(mask.frames, mask.segments[:1], (mask.labels == 1).astype(np.uint8))
    result = result_of(
        with_masks(series, alone), written["series"].paths, segmentation_type=form, max_frames=3
    )

    parts = written_objects(result, tmp_path)

    assert [len(part.frames) for part in parts] == [3, 1]
    (marked,) = (array > 0 for array in sum_by_label(parts, alone).values())
    assert np.array_equal(marked, mask.labels == 1)


def sum_by_label(parts: list[Decoded], mask: Mask) -> dict[str, np.ndarray]:
    """What the objects hold of each segment together: no frame is in two of them."""
    sums = {one.identifier: np.zeros(mask.labels.shape, int) for one in mask.segments}
    for part in parts:
        values = part.values(mask.frames, mask.labels.shape)
        for number, label in enumerate(labels_of(part), 1):
            sums[label] += values[number] if number in values else values[0] == number
    return sums


@pytest.mark.parametrize("form", FORMS)
def test_a_place_is_where_the_outline_of_the_region_is(
    form: SegmentationType, series: Findings, written: dict[str, Written], tmp_path: Path
) -> None:
    (mask,) = series.masks
    result = result_of(series, written["series"].paths, segmentation_type=form, max_frames=1)
    parts = {str(part.dataset.SOPInstanceUID): part for part in written_objects(result, tmp_path)}
    planes = np.flatnonzero((mask.labels == 2).any(axis=(1, 2)))
    assert len(planes) > 2

    for plane in planes:
        box = box_around(mask.frames, (mask.labels == 2) & (np.arange(12) == plane)[:, None, None])
        region = replace(series.regions[1], outline=box)
        at_plane = replace(result, findings=replace(series, regions=(series.regions[0], region)))

        place = locate_segments(at_plane).get("Lesion 2")

        assert place is not None
        part = parts[place.sop_instance_uid]
        assert labels_of(part)[place.number - 1] == "Lesion 2"
        assert part.place(0)[0] == mask.frames[plane].sop_instance_uid
        assert place.sop_class_uid == part.dataset.SOPClassUID
        assert place.series_instance_uid == part.dataset.SeriesInstanceUID


def test_a_slide_is_divided_by_tiles(written: dict[str, Written], tmp_path: Path) -> None:
    findings = located_findings(written["slide"])
    (mask,) = findings.masks
    result = result_of(findings, written["slide"].paths, max_frames=2)

    parts = written_objects(result, tmp_path)

    assert len(parts) > 4
    assert {len(part.frames) for part in parts} <= {1, 2}
    sums = sum_by_label(parts, mask)
    assert np.array_equal(sums["Lesion 1"], mask.labels == 1)
    assert np.array_equal(sums["Lesion 2"], mask.labels == 2)
    assert (
        len({(part.dataset.TotalPixelMatrixRows, part.dataset.TotalPixelMatrixColumns) for part in parts})
        == 1
    )
    place = locate_segments(result).get("Lesion 1")
    assert place is not None
    (part,) = [one for one in parts if one.dataset.SOPInstanceUID == place.sop_instance_uid]
    box = findings.regions[0].outline.points_xy.mean(axis=0)
    assert any(
        0 <= box[1] - row < 64 and 0 <= box[0] - column < 64
        for _, _, row, column in map(part.place, range(len(part.frames)))
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", WRITERS)
def test_empty_frames_are_written_where_they_are_wanted(
    shape: str, form: SegmentationType, written: dict[str, Written], tmp_path: Path
) -> None:
    findings = located_findings(written[shape])
    (mask,) = findings.masks
    result = result_of(findings, written[shape].paths, segmentation_type=form, omit_empty_frames=False)

    (decoded,) = written_objects(result, tmp_path)

    frames = 8 * 12 if shape == "slide" else len(mask.labels)
    assert len(decoded.frames) == frames * (1 if form is LABELMAP else 2)
    assert dciodvfy_errors([tmp_path / "1.dcm"]) == []


# --- memory


@pytest.mark.parametrize("form", [*FORMS, None])
def test_encoding_takes_less_than_three_times_the_mask(form: SegmentationType | None, tmp_path: Path) -> None:
    source = write_ct_series(tmp_path, planes=24, rows=256, columns=256)
    result, size = large_result(source, form)
    encoder = encode_segmentation if form else encode_parametric_map
    list(encoder(result))

    tracemalloc.start()
    try:
        datasets = list(encoder(result))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert len(datasets) == 1
    assert size / 16 < peak < 3 * size


def large_result(source: Written, form: SegmentationType | None) -> tuple[Result, int]:
    """Five segments over all slices, and how many bytes they have; without a form, a map."""
    findings = located_findings(source)
    shape = source.mask.shape
    labels = np.zeros(shape, np.uint8)
    for label in range(1, 6):
        labels[:, 40 * label : 40 * label + 30, 20:200] = label
    segments = tuple(Segment(f"Segment {label}", NODULE) for label in range(1, 6))
    probability = np.stack([(labels == label) * np.float32(0.75) for label in range(1, 6)])
    frames = findings.masks[0].frames
    mask = Mask(frames, segments, labels, probability if form is FRACTIONAL else None)
    value_map = replace(findings.maps[0], values=probability.sum(axis=0))
    result = result_of(
        replace(findings, regions=(), masks=(mask,), maps=(value_map,)),
        source.paths,
        segmentation_type=form or BINARY,
    )
    if form is None:
        return result, value_map.values.nbytes
    return result, labels.nbytes + (probability.nbytes if form is FRACTIONAL else 0)
