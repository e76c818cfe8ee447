from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi, apply_windowing
from pydicom.uid import (
    ExplicitVRBigEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from node.domain.image import Image
from node.read.projection import read_projection
from tests.datasets import RAMP, instance, lut, radiograph, save

# float32 keeps 24 bits: one step of it, and one of the arithmetic before.
FLOAT32_STEP = 1e-6


@pytest.fixture
def read(tmp_path: Path) -> Callable[[Dataset], Image]:
    return lambda dataset: read_projection(save(dataset, tmp_path))


# --- values


@pytest.mark.parametrize(
    ("function", "center", "width", "value", "shown"),
    [
        # PS3.3 C.11.2.1.2.1: center 2048, width 4096 shows 0 … 4095 as the whole range.
        ("LINEAR", 2048, 4096, 0, 0.0),
        ("LINEAR", 2048, 4096, 4095, 1.0),
        ("LINEAR", 2048, 4096, 1024, 1024 / 4095),
        # Width 1 is a threshold: values up to 0.5 below the center are dark.
        ("LINEAR", 100, 1, 99, 0.0),
        ("LINEAR", 100, 1, 100, 1.0),
        ("LINEAR", 1000, 500, 749, 0.0),
        ("LINEAR", 1000, 500, 1250, 1.0),
        # C.11.2.1.3.2: exactly center ± width / 2.
        ("LINEAR_EXACT", 1000, 500, 750, 0.0),
        ("LINEAR_EXACT", 1000, 500, 1250, 1.0),
        ("LINEAR_EXACT", 1000, 500, 1000, 0.5),
        ("LINEAR_EXACT", 1000, 500, 875, 0.25),
        # C.11.2.1.3.1: 1 / (1 + exp(-4 (x - c) / w)).
        ("SIGMOID", 1000, 500, 1000, 0.5),
        ("SIGMOID", 1000, 500, 1250, 1 / (1 + np.exp(-2.0))),
        ("SIGMOID", 1000, 500, 750, 1 / (1 + np.exp(2.0))),
    ],
)
def test_window_shows_a_value_as_the_standard_says(
    read: Callable[[Dataset], Image], function: str, center: int, width: int, value: int, shown: float
) -> None:
    pixels = np.array([[value, 0], [4095, 2000]], dtype=np.uint16)

    image = read(
        radiograph(pixels, BitsStored=12, WindowCenter=center, WindowWidth=width, VOILUTFunction=function)
    )

    assert image.pixels[0, 0] == pytest.approx(shown, abs=FLOAT32_STEP)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16])
def test_windows_agree_with_pydicom_for_every_type(
    read: Callable[[Dataset], Image], function: str, dtype: type[np.integer]
) -> None:
    limits = np.iinfo(dtype)
    pixels = np.linspace(limits.min, limits.max, 64).astype(dtype).reshape(8, 8)
    middle, width = (limits.max + limits.min) // 2 + 3, (limits.max - limits.min) // 3
    dataset = radiograph(pixels, WindowCenter=[middle, 1], WindowWidth=[width, 2], VOILUTFunction=function)

    image = read(dataset)

    wanted = apply_windowing(pixels, dataset)
    # pydicom gives the range of the type; it is squeezed to 0–1 here.
    assert np.allclose(image.pixels, (wanted - limits.min) / (limits.max - limits.min), atol=FLOAT32_STEP)


def test_rescale_comes_before_the_window(read: Callable[[Dataset], Image]) -> None:
    dataset = radiograph(
        RAMP, BitsStored=12, RescaleSlope="0.5", RescaleIntercept="-100", WindowCenter=300, WindowWidth=800
    )

    image = read(dataset)

    rescaled = apply_modality_lut(RAMP, dataset)
    assert np.allclose(image.pixels, np.clip((rescaled - 299.5) / 799 + 0.5, 0, 1), atol=FLOAT32_STEP)


def test_modality_lut_comes_before_the_window(read: Callable[[Dataset], Image]) -> None:
    entries = [int(value) for value in np.linspace(0, 65535, 64) ** 2 / 65535]
    dataset = radiograph(
        RAMP // 64, ModalityLUTSequence=[lut(entries, 0, 16)], WindowCenter=30000, WindowWidth=20000
    )

    image = read(dataset)

    mapped = apply_modality_lut(RAMP // 64, dataset).astype(float)
    assert np.allclose(image.pixels, np.clip((mapped - 29999.5) / 19999 + 0.5, 0, 1), atol=FLOAT32_STEP)


@pytest.mark.parametrize("vr", ["OW", "US"])
@pytest.mark.parametrize(("dtype", "first"), [(np.uint16, 10), (np.int16, -20)])
def test_voi_lut_agrees_with_pydicom_and_outranks_the_window(
    read: Callable[[Dataset], Image], vr: str, dtype: type[np.integer], first: int
) -> None:
    pixels = np.arange(-32 if first < 0 else 0, 64 - 32 if first < 0 else 64).astype(dtype).reshape(8, 8)
    dataset = radiograph(pixels, WindowCenter=5, WindowWidth=2)
    dataset.VOILUTSequence = [lut([value * 80 for value in range(40)], first, 12, vr=vr)]

    image = read(dataset)

    assert np.allclose(image.pixels, apply_voi(pixels, dataset) / 4095, atol=FLOAT32_STEP)


def test_lut_of_single_bytes_is_read(read: Callable[[Dataset], Image]) -> None:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [64, 0, 8])
    item.add_new("LUTData", "OW", bytes(range(0, 256, 4)))
    dataset = radiograph(RAMP // 64, VOILUTSequence=[item])

    image = read(dataset)

    assert image.pixels[7, 7] == pytest.approx(252 / 255, abs=FLOAT32_STEP)


def test_without_window_the_percentiles_leave_out_padding_and_outliers(
    read: Callable[[Dataset], Image],
) -> None:
    pixels = np.tile(np.arange(1000, 2000, dtype=np.uint16), (20, 1))
    pixels[:2] = 65535
    pixels[2, 0] = 40000

    image = read(radiograph(pixels, PixelPaddingValue=65535))

    assert (image.pixels[:2] == 0).all()
    assert image.pixels[10, 500] == pytest.approx(0.5, abs=0.01)
    assert image.pixels[2, 0] == 1


@pytest.mark.parametrize(
    "attributes", [{"WindowCenter": 2000, "WindowWidth": 0}, {"WindowCenter": None, "WindowWidth": None}]
)
def test_window_without_width_counts_as_none(
    read: Callable[[Dataset], Image], attributes: dict[str, object]
) -> None:
    image = read(radiograph(RAMP, BitsStored=12, **attributes))

    assert np.allclose(image.pixels, RAMP / RAMP.max(), atol=0.02)


# --- polarity and padding


@pytest.mark.parametrize(
    ("photometric", "shape", "is_inverted"),
    [
        ("MONOCHROME2", None, False),
        ("MONOCHROME2", "IDENTITY", False),
        ("MONOCHROME2", "INVERSE", True),
        ("MONOCHROME1", None, True),
        ("MONOCHROME1", "INVERSE", True),
        ("MONOCHROME1", "IDENTITY", True),
    ],
)
def test_image_is_inverted_exactly_once(
    read: Callable[[Dataset], Image], photometric: str, shape: str | None, is_inverted: bool
) -> None:
    dataset = radiograph(
        RAMP, BitsStored=12, PhotometricInterpretation=photometric, WindowCenter=2048, WindowWidth=4096
    )
    if shape:
        dataset.PresentationLUTShape = shape

    image = read(dataset)

    assert np.allclose(image.pixels, 1 - RAMP / 4095 if is_inverted else RAMP / 4095, atol=FLOAT32_STEP)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_background_in_either_polarity(read: Callable[[Dataset], Image], photometric: str) -> None:
    dataset = radiograph(
        RAMP,
        BitsStored=12,
        PhotometricInterpretation=photometric,
        WindowCenter=2048,
        WindowWidth=4096,
        PixelPaddingValue=0,
        PixelPaddingRangeLimit=128,
    )

    image = read(dataset)

    assert (image.pixels[RAMP <= 128] == 0).all()
    assert image.pixels[RAMP == 2048] == pytest.approx(0.5, abs=0.001)


def test_padding_written_with_the_wrong_sign_is_found(read: Callable[[Dataset], Image]) -> None:
    pixels = np.array([[-2000, 100], [200, 300]], dtype=np.int16)
    dataset = radiograph(pixels, WindowCenter=-800, WindowWidth=4000)
    dataset.add_new("PixelPaddingValue", "US", 65536 - 2000)

    image = read(dataset)

    assert image.pixels[0, 0] == 0
    assert image.pixels[0, 1] > 0.5


# --- bits and transfer syntaxes


@pytest.mark.parametrize(
    ("stored", "high_bit", "is_signed"), [(12, 11, False), (12, 11, True), (10, 15, False), (12, 13, True)]
)
def test_foreign_bits_do_not_show(
    read: Callable[[Dataset], Image], stored: int, high_bit: int, is_signed: bool
) -> None:
    low = -(1 << (stored - 1)) if is_signed else 0
    values = np.linspace(low, low + (1 << stored) - 1, 64).astype(np.int32).reshape(8, 8)
    shift = high_bit + 1 - stored
    words = (values & ((1 << stored) - 1)) << shift
    foreign = np.random.default_rng(1).integers(0, 1 << 16, words.shape) & ~(((1 << stored) - 1) << shift)
    dataset = radiograph((words | foreign).astype(np.uint16), BitsStored=stored, HighBit=high_bit)
    dataset.PixelRepresentation = int(is_signed)
    dataset.WindowCenter, dataset.WindowWidth = low + (1 << (stored - 1)), 1 << stored

    image = read(dataset)

    assert np.allclose(image.pixels, (values - low) / ((1 << stored) - 1), atol=FLOAT32_STEP)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16])
def test_lossless_compression_changes_nothing(
    read: Callable[[Dataset], Image], syntax: str, dtype: type[np.integer]
) -> None:
    pixels = (
        np.random.default_rng(2).integers(np.iinfo(dtype).min, np.iinfo(dtype).max, (80, 70)).astype(dtype)
    )
    dataset = radiograph(pixels)
    plain = read(dataset)

    dataset.compress(syntax, pixels, encoding_plugin="pydicom" if syntax == RLELossless else "")

    assert np.array_equal(read(dataset).pixels, plain.pixels)


def test_big_endian_is_read(tmp_path: Path) -> None:
    dataset = radiograph(RAMP, BitsStored=12, WindowCenter=2048, WindowWidth=4096)
    dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    dataset.PixelData = RAMP.astype(">u2").tobytes()

    image = read_projection(save(dataset, tmp_path))

    assert np.allclose(image.pixels, RAMP / 4095, atol=FLOAT32_STEP)


def test_file_without_meta_information_is_read(tmp_path: Path) -> None:
    dataset = radiograph(RAMP, BitsStored=12, WindowCenter=2048, WindowWidth=4096)
    del dataset.file_meta
    dataset.save_as(tmp_path / "bare.dcm", implicit_vr=True, little_endian=True)

    image = read_projection(instance(tmp_path / "bare.dcm"))

    assert np.allclose(image.pixels, RAMP / 4095, atol=FLOAT32_STEP)


# --- spacing


@pytest.mark.parametrize(
    ("attributes", "spacing", "keyword"),
    [
        ({}, None, ""),
        ({"PixelSpacing": [0.2, 0.1]}, (0.2, 0.1), "PixelSpacing"),
        ({"PixelSpacing": [0, 0]}, None, ""),
        ({"PixelSpacing": [0.2, 0.1], "ImagerPixelSpacing": [0.3, 0.3]}, (0.2, 0.1), "PixelSpacing"),
        ({"PixelSpacing": [0.3, 0.3], "ImagerPixelSpacing": [0.3, 0.3]}, (0.3, 0.3), "ImagerPixelSpacing"),
        (
            {
                "PixelSpacing": [0.3, 0.3],
                "ImagerPixelSpacing": [0.3, 0.3],
                "PixelSpacingCalibrationType": "GEOMETRY",
            },
            (0.3, 0.3),
            "PixelSpacing",
        ),
        (
            {"ImagerPixelSpacing": [0.3, 0.15], "EstimatedRadiographicMagnificationFactor": "1.5"},
            (0.2, 0.1),
            "ImagerPixelSpacing/EstimatedRadiographicMagnificationFactor",
        ),
        (
            {"ImagerPixelSpacing": [0.3, 0.15], "EstimatedRadiographicMagnificationFactor": "0"},
            (0.3, 0.15),
            "ImagerPixelSpacing",
        ),
        ({"NominalScannedPixelSpacing": [0.4, 0.4]}, (0.4, 0.4), "NominalScannedPixelSpacing"),
    ],
)
def test_spacing_says_where_it_is_from(
    read: Callable[[Dataset], Image],
    attributes: dict[str, object],
    spacing: tuple[float, float] | None,
    keyword: str,
) -> None:
    image = read(radiograph(RAMP, **attributes))

    assert image.spacing_yx_mm == (pytest.approx(spacing) if spacing else None)
    assert image.spacing_attribute == keyword
