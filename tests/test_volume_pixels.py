"""Stored words become Hounsfield units, whatever their layout and coding; what is damaged is refused."""

import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from node.domain.image import PADDING_HU
from node.errors import DatasetError, PermanentError, PixelError, StoreError
from node.read.dataset import dataset_faults
from node.read.scan import scan, values_of
from node.read.volume import read_volume
from tests.conftest import SHARED_DATA
from tests.sources import write_enhanced_ct
from tests.synthetic.stack import INTERCEPT_HU
from tests.volumes import PLANES, change, change_all, give, series_of, truth_hu, write_slices

Paths = list[Path]
Words = NDArray[np.generic]
SLICE = 1
"""The one that is changed."""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    return write_slices(tmp_path_factory.mktemp("three"), planes=3)


@pytest.fixture
def paths(written: Paths, tmp_path: Path) -> Paths:
    """Three slices, to be changed."""
    shutil.copytree(written[0].parent, tmp_path / "series")
    return [tmp_path / "series" / path.name for path in written]


def store(words: Words, **attributes: object) -> Callable[[Dataset], None]:
    """Return what puts these words, row after row from the first, over those of a slice."""

    def change_words(dataset: Dataset) -> None:
        stored = dataset.pixel_array.astype(words.dtype)
        stored.reshape(-1)[: words.size] = words.reshape(-1)
        dataset.BitsAllocated = dataset.BitsStored = 8 * words.dtype.itemsize
        dataset.HighBit = dataset.BitsStored - 1
        dataset.PixelRepresentation = int(words.dtype.kind == "i")
        give(dataset, **attributes)
        dataset.PixelData = stored.tobytes()
        dataset["PixelData"].VR = "OW"

    return change_words


def read_words(paths: Paths, words: Words, **attributes: object) -> list[int]:
    """The Hounsfield units that these words become in the changed slice."""
    change(paths[SLICE], store(words, **attributes))
    volume = read_volume(series_of(paths))
    return [int(value) for value in volume.hounsfield[SLICE].reshape(-1)[: words.size]]


def i2(*values: int) -> Words:
    return np.array(values, np.int16)


def u2(*values: int) -> Words:
    return np.array(values, np.uint16)


CASES: dict[str, tuple[Words, Mapping[str, object], list[int]]] = {
    "signed": (i2(-100, 0, 1024), {}, [-1024, -1024, 0]),
    "signed without intercept": (i2(-2000, -5, 32767), {"RescaleIntercept": 0}, [-1024, -5, 32767]),
    "unsigned": (u2(0, 1024, 4095, 65535), {}, [-1024, 0, 3071, 32767]),
    "positive intercept": (i2(-32768, 0, 32000), {"RescaleIntercept": 1000}, [-1024, 1000, 32767]),
    "far intercept": (u2(50000, 65535), {"RescaleIntercept": -50000}, [0, 15535]),
    "fraction": (i2(0, 1, 2, 3), {"RescaleSlope": 0.5, "RescaleIntercept": 0.1}, [0, 1, 1, 2]),
    "falling": (i2(0, 100), {"RescaleSlope": -1, "RescaleIntercept": 50}, [50, -50]),
    "beyond 16 bits": (i2(20000, -20000), {"RescaleSlope": 3, "RescaleIntercept": 0}, [32767, -1024]),
    "12 bits and rubbish": (
        u2(0xF400, 0x1FFF, 0x0000),
        {"BitsStored": 12, "HighBit": 11},
        [0, 3071, -1024],
    ),
    "12 signed bits and rubbish": (
        u2(0xF7FF, 0x0FFF, 0xA001),
        {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": 1, "RescaleIntercept": 0},
        [2047, -1, 1],
    ),
    "high bits": (u2(0x400F, 0xFFFF), {"BitsStored": 12, "HighBit": 15}, [0, 3071]),
    "high bits by table": (
        u2(0x400F, 0xFFFF),
        {"BitsStored": 12, "HighBit": 15, "RescaleSlope": 2},
        [1024, 7166],
    ),
    "padding": (i2(-2000, 0, 5), {"PixelPaddingValue": -2000}, [-1024, -1024, -1019]),
    "padding among the values": (
        i2(2000, 1999, 2001),
        {"PixelPaddingValue": 2000},
        [PADDING_HU, 975, 977],
    ),
    "padding stated unsigned": (
        i2(-2000, 5),
        {"PixelPaddingValue": 63536, "RescaleIntercept": 0},
        [-1024, 5],
    ),
    "padding range": (
        u2(3000, 3050, 3100, 3101),
        {"PixelPaddingValue": 3100, "PixelPaddingRangeLimit": 3000},
        [PADDING_HU] * 3 + [2077],
    ),
    "padding beyond the bits stored": (
        u2(63536, 0x0400),
        {"BitsStored": 12, "HighBit": 11, "PixelPaddingValue": 63536},
        [PADDING_HU, 0],
    ),
    "8 bits": (np.array([0, 7, 255], np.uint8), {"RescaleIntercept": -100}, [-100, -93, 155]),
}


@pytest.mark.parametrize("name", CASES)
def test_words_become_hounsfield_units(name: str, paths: Paths) -> None:
    words, attributes, expected = CASES[name]

    assert read_words(paths, words, **attributes) == expected


def test_each_slice_has_its_own_scale(paths: Paths) -> None:
    change(paths[0], RescaleIntercept=0)
    change(paths[2], RescaleSlope=2)

    volume = read_volume(series_of(paths))

    stored = truth_hu(planes=3).astype(int) - INTERCEPT_HU
    np.testing.assert_array_equal(volume.hounsfield[0], stored[0])
    np.testing.assert_array_equal(volume.hounsfield[1], stored[1] - 1024)
    np.testing.assert_array_equal(volume.hounsfield[2], 2 * stored[2] - 1024)


# --- codings


def encode_as(syntax: str, dataset: FileDataset) -> None:
    dataset.file_meta.TransferSyntaxUID = syntax


def big_endian(dataset: FileDataset) -> None:
    words = dataset.pixel_array.astype(">i2")
    encode_as(ExplicitVRBigEndian, dataset)
    dataset.PixelData = words.tobytes()
    # What was not decoded is written as it came, in the other order.
    list(dataset.iterall())
    dataset.set_original_encoding(False, False, "iso8859")


def compress(syntax: str, dataset: FileDataset) -> None:
    dataset.compress(syntax, generate_instance_uid=False)


CODINGS: dict[str, Callable[[FileDataset], None]] = {
    "implicit VR": partial(encode_as, ImplicitVRLittleEndian),
    "deflated": partial(encode_as, DeflatedExplicitVRLittleEndian),
    "big endian": big_endian,
    "RLE": partial(compress, RLELossless),
    "JPEG-LS": partial(compress, JPEGLSLossless),
    "JPEG 2000": partial(compress, JPEG2000Lossless),
}


@pytest.mark.parametrize("name", CODINGS)
def test_every_coding_gives_the_same_voxels(name: str, paths: Paths) -> None:
    recode(paths, CODINGS[name])

    volume = read_volume(series_of(paths))

    np.testing.assert_array_equal(volume.hounsfield, truth_hu(planes=3))


@pytest.mark.parametrize("name", ["RLE", "JPEG-LS"])
def test_frames_of_a_compressed_enhanced_object_are_read(name: str, tmp_path: Path) -> None:
    (path,) = write_enhanced_ct(tmp_path, planes=PLANES).paths
    recode([path], CODINGS[name])

    volume = read_volume(series_of([path]))

    np.testing.assert_array_equal(volume.hounsfield, truth_hu())


def test_slices_of_several_codings_make_one_volume(paths: Paths) -> None:
    recode(paths[:1], CODINGS["RLE"])
    recode(paths[1:2], CODINGS["implicit VR"])

    volume = read_volume(series_of(paths))

    np.testing.assert_array_equal(volume.hounsfield, truth_hu(planes=3))


def recode(paths: Paths, coding: Callable[[FileDataset], None]) -> None:
    for path in paths:
        dataset = dcmread(path)
        coding(dataset)
        dataset.save_as(path, enforce_file_format=True)


# --- refused


def darken_color(dataset: Dataset) -> None:
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 3, "RGB"


def widen_pixels(dataset: Dataset) -> None:
    dataset.BitsAllocated, dataset.PixelData = 32, 2 * dataset.PixelData


def cut_pixels(dataset: Dataset) -> None:
    dataset.PixelData = dataset.PixelData[:-2]


REFUSED: dict[str, tuple[Callable[[Dataset], None], str]] = {
    "color": (darken_color, "is in color"),
    "palette": (partial(give, PhotometricInterpretation="PALETTE COLOR"), "unknown photometric"),
    "no slope": (partial(give, RescaleSlope=None), "not known to be Hounsfield units"),
    "no intercept": (partial(give, RescaleIntercept=None), "not known to be Hounsfield units"),
    "zero slope": (partial(give, RescaleSlope=0), "not known to be Hounsfield units"),
    "other units": (partial(give, RescaleType="MGML"), "Rescale Type is MGML: the values are not known"),
    "too few pixels": (cut_pixels, "Pixel Data has 6142 bytes, expected 6144"),
    "no pixels": (partial(give, PixelData=None), "there is no Pixel Data"),
    "32 bits": (widen_pixels, "16 bits stored up to bit 15 of 32"),
    "bits beyond the word": (partial(give, BitsStored=12, HighBit=16), "12 bits stored up to bit 16 of 16"),
    "no rows": (partial(give, Rows=0), "0 × 48 pixels, expected 2 to 4096 on each side"),
    "enormous": (partial(give, Rows=65535, Columns=65535), r"Pixel Data has 6144 bytes, expected 85\d{8}"),
    "long": (partial(give, Rows=32768, Columns=0), "32768 × 0 pixels"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("is_scanned", [True, False], ids=["scanned", "by pydicom"])
def test_pixels_that_are_no_hounsfield_units_are_refused(name: str, is_scanned: bool, paths: Paths) -> None:
    changing, reason = REFUSED[name]
    change(paths[SLICE], changing)
    if not is_scanned:
        recode(paths[SLICE : SLICE + 1], partial(encode_as, DeflatedExplicitVRLittleEndian))
        # Compressed in a way, the length in the file says nothing of that of the words.
        reason = f"{reason}|expected .* bytes|The number of bytes|pixels"

    with pytest.raises(PixelError, match=reason):
        read_volume(series_of(paths))


def test_file_that_ends_early_is_refused(paths: Paths) -> None:
    data = paths[SLICE].read_bytes()
    paths[SLICE].write_bytes(data[:-100])

    with pytest.raises(PixelError, match="the file ends after 6044 of 6144 bytes of the frame"):
        read_volume(series_of(paths))


def test_file_that_is_gone_is_a_fault_of_the_store(paths: Paths) -> None:
    series = series_of(paths)
    paths[SLICE].unlink()

    with pytest.raises(StoreError, match="is not in the store"):
        read_volume(series)


def test_damaged_compressed_frame_is_refused(paths: Paths) -> None:
    recode(paths, CODINGS["JPEG-LS"])
    data = bytearray(paths[SLICE].read_bytes())
    data[-1500:-400] = bytes(1100)
    paths[SLICE].write_bytes(bytes(data))

    with pytest.raises(PixelError, match="cannot be decoded"):
        read_volume(series_of(paths))


def test_claimed_frames_take_no_memory(tmp_path: Path) -> None:
    (path,) = write_enhanced_ct(tmp_path, planes=PLANES).paths

    with pytest.raises(DatasetError, match="1000000000 frames of which 12 are described"):
        read_volume(series_of([change(path, NumberOfFrames=1_000_000_000)]))


def test_frames_of_a_classic_object_are_nowhere(paths: Paths) -> None:
    change(paths[SLICE], NumberOfFrames=2)

    with pytest.raises(DatasetError, match="2 frames of which 1 are described"):
        read_volume(series_of(paths))


def test_enhanced_object_with_too_few_pixels_is_refused(tmp_path: Path) -> None:
    (path,) = write_enhanced_ct(tmp_path, planes=PLANES).paths

    with pytest.raises(PixelError, match=r"Pixel Data has \d+ bytes, expected 73728"):
        read_volume(series_of([change(path, cut_pixels)]))


@pytest.mark.parametrize("seed", range(60))
def test_damaged_header_is_read_or_refused(seed: int, paths: Paths) -> None:
    random = np.random.default_rng(seed)
    data = bytearray(paths[SLICE].read_bytes())
    series = series_of(paths)
    for place in random.integers(128, len(data) - 6144, random.integers(1, 12)):
        data[place] = random.integers(256)
    if seed % 3 == 0:
        del data[random.integers(128, len(data)) :]
    paths[SLICE].write_bytes(bytes(data))

    try:
        volume = read_volume(series)
    except PermanentError as error:
        assert str(error).isprintable()
    else:
        assert len(volume.frames) in (2, 3)


# --- the scan beside pydicom


def test_scan_says_what_pydicom_says(paths: Paths) -> None:
    def add_sequences(dataset: Dataset) -> None:
        item = Dataset()
        item.ReferencedSOPInstanceUID, item.Rows = "2.25.7", 9
        item.is_undefined_length_sequence_item = True
        nested = Dataset()
        nested.ReferencedImageSequence = [item, item]
        nested["ReferencedImageSequence"].is_undefined_length = True
        dataset.SourceImageSequence = [nested, item]
        dataset["SourceImageSequence"].is_undefined_length = True
        dataset.private_block(0x0009, "MAKER", create=True).add_new(1, "OB", bytes(40_000))

    change_all(paths, add_sequences, PixelPaddingValue=-2000, ConvolutionKernel=["B", "f"])
    recode(paths[1:2], CODINGS["implicit VR"])

    for path in paths:
        found = scan(path)

        assert found is not None
        assert dict(found.values) == dict(values_of(dcmread(path)))
        assert found.values["Rows"] == (64.0,)
        assert path.read_bytes()[found.pixel_offset :] == dcmread(path).PixelData


ZOO = SHARED_DATA / "zoo"


@pytest.mark.skipif(not ZOO.exists(), reason="needs ../shared/data/zoo")
def test_scan_of_real_files_says_what_pydicom_says() -> None:
    scanned = 0
    for path in sorted(ZOO.glob("*.dcm")):
        if (found := scan(path)) is None:
            continue
        with dataset_faults(path.name):
            dataset = dcmread(path, force=True)
            expected, pixels = dict(values_of(dataset)), bytes(dataset.PixelData)

        assert dict(found.values) == expected, path.name
        assert path.read_bytes()[found.pixel_offset : found.pixel_offset + found.pixel_bytes] == pixels
        scanned += 1

    # Of 160 files, so many have one uncompressed frame in little endian.
    assert scanned >= 30
