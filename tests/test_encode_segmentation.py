from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from pydicom import Dataset, dcmread

from node.bench.plain_encode import plain_segmentation
from node.domain.findings import Findings
from node.domain.location import Mask
from node.domain.profile import SegmentationType
from node.encode.segmentation import encode_segmentation
from node.read.dataset import dataset_faults
from tests.decoded import Decoded, result_of, write_objects
from tests.located import NODULE, located_findings
from tests.peers.validators import dciodvfy_errors
from tests.results import save
from tests.shapes import WRITERS
from tests.sources import Written

BINARY, FRACTIONAL, LABELMAP = SegmentationType
FORMS = list(SegmentationType)
STRIDE_PX = 4


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Written]:
    return {shape: write(tmp_path_factory.mktemp(shape)) for shape, write in WRITERS.items()}


@pytest.fixture(scope="module")
def located(written: dict[str, Written]) -> dict[str, Findings]:
    """The findings of each shape, and on the slide a grid of coarser elements."""
    findings = {shape: located_findings(one) for shape, one in written.items()}
    (mask,) = findings["slide"].masks
    coarse = replace(
        mask,
        labels=mask.labels[:, ::STRIDE_PX, ::STRIDE_PX],
        probability=mask.probability[:, :, ::STRIDE_PX, ::STRIDE_PX],
        stride_px=STRIDE_PX,
    )
    return {**findings, "coarse": replace(findings["slide"], masks=(coarse,))}


Files = dict[tuple[str, SegmentationType], Path]

SHAPES = [*WRITERS, "coarse"]


def paths_of(shape: str, written: dict[str, Written]) -> list[Path]:
    return written["slide" if shape == "coarse" else shape].paths


@pytest.fixture(scope="module")
def files(
    written: dict[str, Written], located: dict[str, Findings], tmp_path_factory: pytest.TempPathFactory
) -> Files:
    """The segmentation of each shape in each form."""
    files = {}
    for shape in SHAPES:
        for form in FORMS:
            result = result_of(located[shape], paths_of(shape, written), segmentation_type=form)
            folder = tmp_path_factory.mktemp(f"{shape}-{form}")
            (files[shape, form],) = write_objects(encode_segmentation, result, folder)
    return files


# --- what is written


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_value_comes_back(
    shape: str,
    form: SegmentationType,
    files: Files,
    located: dict[str, Findings],
) -> None:
    (mask,) = located[shape].masks

    values = Decoded(files[shape, form]).values(mask.frames, mask.labels.shape)

    if form is LABELMAP:
        assert np.array_equal(values[0], mask.labels)
    elif form is BINARY:
        assert all(np.array_equal(values[label], mask.labels == label) for label in (1, 2))
    else:
        stored = np.stack([values[1], values[2]]).astype(np.float32)
        assert np.abs(stored / 255 - mask.probability).max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize("form", FORMS)
def test_of_a_probability_for_all_a_segment_has_what_lies_under_its_label(
    form: SegmentationType, written: dict[str, Written], located: dict[str, Findings], tmp_path: Path
) -> None:
    (mask,) = located["series"].masks
    shared = replace(mask, probability=mask.probability.max(axis=0, keepdims=True))
    findings = replace(located["series"], masks=(shared,))
    result = result_of(findings, written["series"].paths, segmentation_type=form)

    (path,) = write_objects(encode_segmentation, result, tmp_path)

    values = Decoded(path).values(mask.frames, mask.labels.shape)
    if form is LABELMAP:
        assert np.array_equal(values[0], mask.labels)
        return
    scale = 255 if form is FRACTIONAL else 1
    for label in (1, 2):
        inside = mask.labels == label
        expected = np.where(inside, shared.probability[0] if form is FRACTIONAL else 1, 0)
        assert np.abs(values[label] / scale - expected).max() <= 0.5 / 255 + 1e-6
    assert dcmread(path).get("SegmentsOverlap", "NO") == "NO"


@pytest.mark.parametrize("form", FORMS)
def test_highdicom_reads_the_same(
    form: SegmentationType,
    files: Files,
    located: dict[str, Findings],
) -> None:
    (mask,) = located["series"].masks
    uids = [frame.sop_instance_uid for frame in mask.frames]

    read = hd.seg.segread(files["series", form])
    pixels = read.get_pixels_by_source_instance(uids, assert_missing_frames_are_empty=True)

    assert read.segment_numbers == [1, 2]
    for label in (1, 2):
        is_inside = pixels[..., label - 1] > (0.5 if form is FRACTIONAL else 0)
        assert np.array_equal(is_inside, mask.labels == label)


def test_highdicom_puts_the_tiles_of_a_slide_together(files: Files, located: dict[str, Findings]) -> None:
    (mask,) = located["slide"].masks

    for form in FORMS:
        pixels = hd.seg.segread(files["slide", form]).get_total_pixel_matrix()

        for label in (1, 2):
            is_inside = pixels[..., label - 1] > (0.5 if form is FRACTIONAL else 0)
            assert np.array_equal(is_inside, mask.labels[0] == label)


def test_dciodvfy_finds_no_error(files: Files) -> None:
    assert dciodvfy_errors(files.values()) == []


def test_a_label_map_is_a_segmentation_but_for_its_type(files: Files, tmp_path: Path) -> None:
    """dciodvfy does not know the class of label maps, but it knows all the rest of them."""
    for shape in SHAPES:
        dataset = dcmread(files[shape, LABELMAP])
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.66.4"
        errors = set(dciodvfy_errors([save(dataset, tmp_path / "map.dcm")]))

        assert errors == {
            "map.dcm: Error - Unrecognized enumerated value <LABELMAP> for value 1 of attribute "
            "<Segmentation Type>",
            "map.dcm: Error - Missing attribute Type 1 Required Element=<SegmentIdentificationSequence> "
            "Module=<SegmentationMacro>",
        }


@pytest.mark.parametrize("form", FORMS)
def test_encoding_twice_gives_the_same_bytes(
    form: SegmentationType,
    files: Files,
    written: dict[str, Written],
    located: dict[str, Findings],
    tmp_path: Path,
) -> None:
    for shape in SHAPES:
        result = result_of(located[shape], paths_of(shape, written), segmentation_type=form)

        (again,) = write_objects(encode_segmentation, result, tmp_path)

        assert again.read_bytes() == files[shape, form].read_bytes()


@pytest.mark.parametrize("form", FORMS)
def test_a_segment_says_what_it_is_and_who_made_it(
    form: SegmentationType,
    files: Files,
    written: dict[str, Written],
    located: dict[str, Findings],
) -> None:
    dataset = dcmread(files["series", form])
    result = result_of(located["series"], written["series"].paths)

    segments = dataset.SegmentSequence
    (algorithm,) = segments[0].SegmentationAlgorithmIdentificationSequence
    (equipment,) = [one for one in dataset.ContributingEquipmentSequence if "DeviceUID" in one]

    assert [one.SegmentNumber for one in segments] == [1, 2]
    assert [one.SegmentLabel for one in segments] == ["Lesion 1", "Lesion 2"]
    assert [one.TrackingID for one in segments] == ["Lesion 1", "Lesion 2"]
    assert [one.TrackingUID for one in segments] == [
        result.tracking_uid("Lesion 1"),
        result.tracking_uid("Lesion 2"),
    ]
    assert {one.SegmentedPropertyTypeCodeSequence[0].CodeValue for one in segments} == {NODULE.value}
    assert {one.SegmentedPropertyCategoryCodeSequence[0].CodeValue for one in segments} == {"49755003"}
    assert algorithm.AlgorithmName == equipment.ManufacturerModelName == segments[0].SegmentAlgorithmName
    assert algorithm.AlgorithmVersion == equipment.SoftwareVersions
    assert algorithm.AlgorithmSource == equipment.Manufacturer
    assert segments[0].RecommendedDisplayCIELabValue != segments[1].RecommendedDisplayCIELabValue


def test_a_segment_has_the_same_color_in_every_form(
    files: Files,
) -> None:
    colors = {
        tuple(
            tuple(one.RecommendedDisplayCIELabValue) for one in dcmread(files["series", form]).SegmentSequence
        )
        for form in FORMS
    }

    assert len(colors) == 1


# --- as highdicom writes it


PLAIN = [
    *((shape, form, True) for shape in WRITERS for form in FORMS),
    *((shape, FRACTIONAL, False) for shape in WRITERS),
]


@pytest.mark.parametrize("omits", [True, False])
@pytest.mark.parametrize(("shape", "form", "has_probability"), PLAIN)
def test_it_is_what_the_plain_call_of_highdicom_gives(
    shape: str,
    form: SegmentationType,
    has_probability: bool,
    omits: bool,
    written: dict[str, Written],
    located: dict[str, Findings],
) -> None:
    (mask,) = located[shape].masks
    mask = mask if has_probability else replace(mask, probability=None)
    paths = [path for path in written[shape].paths if uid_of(path) in uids_of(mask)]
    is_fractional = form is FRACTIONAL and has_probability
    profile = {"segmentation_type": form, "omit_empty_frames": omits}

    with dataset_faults("the result"):
        (ours,) = encode_segmentation(
            result_of(replace(located[shape], masks=(mask,)), written[shape].paths, **profile)
        )
        plain = plain_segmentation(
            form.upper(),
            [dcmread(path) for path in paths],
            np.moveaxis(mask.probability, 0, -1) if is_fractional else mask.labels,
            len(mask.segments),
            tile_pixel_array=shape == "slide",
            omit_empty_frames=omits,
        )

    assert ours.PixelData == plain.PixelData
    assert comparable(ours) == comparable(plain)


SAME = (
    *("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence", "DimensionIndexSequence"),
    *("DimensionOrganizationSequence", "DimensionOrganizationType", "SegmentsOverlap", "NumberOfFrames"),
    *(
        "Rows",
        "Columns",
        "BitsAllocated",
        "BitsStored",
        "HighBit",
        "PixelPaddingValue",
        "FrameOfReferenceUID",
    ),
    *("FrameOfReferenceUID", "TotalPixelMatrixRows", "TotalPixelMatrixColumns", "ImageOrientationSlide"),
    *("MaximumFractionalValue", "SegmentationFractionalType", "SourceImageSequence", "ImageType"),
    *("ReferencedSeriesSequence", "LossyImageCompression"),
)
"""What a reader needs to put the pixels where they belong."""


def comparable(dataset: Dataset) -> dict[str, object]:
    """Those attributes, without the identifiers that highdicom draws by lot."""
    part = Dataset()
    for keyword in SAME:
        if keyword in dataset:
            part[keyword] = dataset[keyword]
    if "PixelPaddingValue" in part:
        part["PixelPaddingValue"].VR = "US"
    for item in (*part.DimensionOrganizationSequence, *part.get("DimensionIndexSequence", ())):
        item.DimensionOrganizationUID = "2.25.0"
    return part.to_json_dict()


def uid_of(path: Path) -> str:
    return str(dcmread(path, specific_tags=["SOPInstanceUID"]).SOPInstanceUID)


def uids_of(mask: Mask) -> set[str]:
    return {frame.sop_instance_uid for frame in mask.frames}
