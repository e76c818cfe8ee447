from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import ParametricMapStorage

from node.bench.plain_encode import plain_map
from node.domain.code import PREDICTIVE_ENTROPY, PRIVATE_SCHEME, Code
from node.domain.findings import Findings
from node.domain.location import ValueMap
from node.domain.profile import Kind
from node.encode.parametric_map import encode_parametric_map
from node.read.dataset import dataset_faults
from tests.decoded import Decoded, result_of, write_objects
from tests.located import BIT, located_findings
from tests.peers.validators import dciodvfy_errors
from tests.shapes import WRITERS
from tests.sources import Written

SALIENCY = Code("130404", "DCM", "Saliency map")
NO_UNITS = Code("1", "UCUM", "no units")
STRIDE_PX = 4
PLACED = ["series", "enhanced", "slide", "coarse"]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Written]:
    return {shape: write(tmp_path_factory.mktemp(shape)) for shape, write in WRITERS.items()}


def paths_of(shape: str, written: dict[str, Written]) -> list[Path]:
    return written["slide" if shape == "coarse" else shape].paths


@pytest.fixture(scope="module")
def located(written: dict[str, Written]) -> dict[str, Findings]:
    """The findings of each shape, and on the slide a map of coarser elements."""
    findings = {shape: located_findings(one) for shape, one in written.items()}
    (value_map,) = findings["slide"].maps
    coarse = replace(
        value_map, values=value_map.values[:, ::STRIDE_PX, ::STRIDE_PX].copy(), stride_px=STRIDE_PX
    )
    return {**findings, "coarse": replace(findings["slide"], maps=(coarse,))}


@pytest.fixture(scope="module")
def files(
    written: dict[str, Written], located: dict[str, Findings], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    files = {}
    for shape in PLACED:
        result = result_of(located[shape], paths_of(shape, written))
        (files[shape],) = write_objects(encode_parametric_map, result, tmp_path_factory.mktemp(shape))
    return files


@pytest.mark.parametrize("shape", PLACED)
def test_every_value_comes_back_bit_by_bit(
    shape: str, files: dict[str, Path], located: dict[str, Findings]
) -> None:
    (value_map,) = located[shape].maps

    decoded = Decoded(files[shape])
    (values,) = decoded.values(value_map.frames, value_map.values.shape).values()

    assert decoded.dataset.SOPClassUID == ParametricMapStorage
    assert values.dtype == np.float32
    assert values.tobytes() == value_map.values.tobytes()


@pytest.mark.parametrize("shape", ["series", "enhanced"])
def test_every_slice_has_its_frame(shape: str, files: dict[str, Path], written: dict[str, Written]) -> None:
    """OHIF opens no map that leaves out a slice."""
    decoded = Decoded(files[shape])

    places = {decoded.place(index)[:2] for index in range(len(decoded.frames))}

    assert len(places) == len(decoded.frames) == len(written[shape].mask)


def test_highdicom_reads_the_same(files: dict[str, Path], located: dict[str, Findings]) -> None:
    (value_map,) = located["series"].maps
    uids = [frame.sop_instance_uid for frame in value_map.frames]

    read = hd.pm.ParametricMap.from_file(files["series"])
    # Single frames of floats it can only take from the whole.
    assert read.pixel_array.dtype == np.float32

    assert read.number_of_frames == len(uids)
    for number, groups in enumerate(read.PerFrameFunctionalGroupsSequence, 1):
        uid = groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        assert np.array_equal(read.get_frame(number), value_map.values[uids.index(uid)])


def test_dciodvfy_finds_no_error(files: dict[str, Path]) -> None:
    assert dciodvfy_errors(files.values()) == []


def test_encoding_twice_gives_the_same_bytes(
    files: dict[str, Path], written: dict[str, Written], located: dict[str, Findings], tmp_path: Path
) -> None:
    for shape in PLACED:
        result = result_of(located[shape], paths_of(shape, written))

        (again,) = write_objects(encode_parametric_map, result, tmp_path)

        assert again.read_bytes() == files[shape].read_bytes()


def test_a_map_says_what_it_measures_and_in_what(
    files: dict[str, Path], located: dict[str, Findings]
) -> None:
    (value_map,) = located["series"].maps
    dataset = dcmread(files["series"])

    (mapping,) = dataset.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence
    (quantity,) = mapping.QuantityDefinitionSequence
    (scheme,) = dataset.CodingSchemeIdentificationSequence

    assert quantity.ConceptCodeSequence[0].CodeValue == PREDICTIVE_ENTROPY.value
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == BIT.value
    assert (mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept) == (1, 0)
    assert mapping.DoubleFloatRealWorldValueFirstValueMapped == value_map.values.min()
    assert mapping.DoubleFloatRealWorldValueLastValueMapped == value_map.values.max()
    assert scheme.CodingSchemeDesignator == PRIVATE_SCHEME
    assert dataset.ContentDescription == "Entropy"


def test_over_a_radiograph_there_is_no_map(
    written: dict[str, Written], located: dict[str, Findings], tmp_path: Path
) -> None:
    assert located["radiograph"].maps

    result = result_of(located["radiograph"], written["radiograph"].paths)

    assert write_objects(encode_parametric_map, result, tmp_path) == []


def test_without_maps_there_is_no_object(
    written: dict[str, Written], located: dict[str, Findings], tmp_path: Path
) -> None:
    result = result_of(replace(located["series"], maps=()), written["series"].paths)

    assert write_objects(encode_parametric_map, result, tmp_path) == []


def test_each_map_is_an_object_of_one_series(
    written: dict[str, Written], located: dict[str, Findings], tmp_path: Path
) -> None:
    (entropy,) = located["series"].maps
    flat = np.zeros_like(entropy.values)
    saliency = ValueMap("Saliency", SALIENCY, NO_UNITS, entropy.frames, flat)
    result = result_of(replace(located["series"], maps=(entropy, saliency)), written["series"].paths)

    files = write_objects(encode_parametric_map, result, tmp_path)

    first, second = map(dcmread, files)
    assert [one.InstanceNumber for one in (first, second)] == [1, 2]
    assert [one.SOPInstanceUID for one in (first, second)] == [
        result.instance_uid(Kind.PARAMETRIC_MAP, number) for number in (1, 2)
    ]
    assert first.SeriesInstanceUID == second.SeriesInstanceUID == result.series_uid(Kind.PARAMETRIC_MAP)
    assert "CodingSchemeIdentificationSequence" not in second
    assert second.SharedFunctionalGroupsSequence[0].FrameVOILUTSequence[0].WindowWidth == 1
    assert dciodvfy_errors(files) == []


SAME = (
    *("PerFrameFunctionalGroupsSequence", "DimensionIndexSequence", "DimensionOrganizationType"),
    *("NumberOfFrames", "Rows", "Columns", "TotalPixelMatrixRows", "TotalPixelMatrixColumns"),
)


@pytest.mark.parametrize("shape", ["series", "enhanced", "slide"])
def test_it_is_what_the_plain_call_of_highdicom_gives(
    shape: str, written: dict[str, Written], located: dict[str, Findings]
) -> None:
    (value_map,) = located[shape].maps
    uids = {frame.sop_instance_uid for frame in value_map.frames}
    images = [image for image in map(dcmread, written[shape].paths) if image.SOPInstanceUID in uids]

    with dataset_faults("the result"):
        (ours,) = encode_parametric_map(result_of(located[shape], written[shape].paths))
        plain = plain_map(images, value_map.values, tile_pixel_array=shape == "slide")
    if shape != "slide":
        turn(plain)

    assert ours.FloatPixelData == plain.FloatPixelData
    assert comparable(ours) == comparable(plain)


def turn(dataset: Dataset) -> None:
    """Let the frames run along the normal of their planes: OHIF shows them on the wrong slices otherwise."""
    frames = list(dataset.PerFrameFunctionalGroupsSequence)
    values = np.frombuffer(dataset.FloatPixelData, np.float32).reshape(len(frames), -1)
    dataset.PerFrameFunctionalGroupsSequence = frames[::-1]
    dataset.FloatPixelData = values[::-1].tobytes()
    row_xyz, column_xyz = np.reshape(
        dataset.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient, (2, 3)
    ).astype(float)
    positions = [frame.PlanePositionSequence[0].ImagePositionPatient for frame in frames[::-1]]
    assert (np.diff(np.array(positions, float) @ np.cross(row_xyz, column_xyz)) > 0).all()


def comparable(dataset: Dataset) -> dict[str, object]:
    """Where the frames are, without the identifiers that highdicom draws by lot."""
    part = Dataset()
    for keyword in SAME:
        if keyword in dataset:
            part[keyword] = dataset[keyword]
    for item in part.DimensionIndexSequence:
        item.DimensionOrganizationUID = "2.25.0"
    (shared,) = dataset.SharedFunctionalGroupsSequence
    for keyword in ("PlaneOrientationSequence", "PixelMeasuresSequence", "PixelValueTransformationSequence"):
        if keyword in shared:
            part[keyword] = shared[keyword]
    return part.to_json_dict()
