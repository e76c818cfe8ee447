import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels import apply_voi
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from node.domain.image import Image
from node.errors import DatasetError, PixelError, SightlineError, StoreError
from node.read import dataset as reading
from node.read.header import read_attributes
from node.read.isolation import DecoderProcess
from node.read.projection import read_projection
from tests.datasets import RAMP, instance, lut, radiograph, save

# float32 keeps 24 bits: one step of it, and one of the arithmetic before.
FLOAT32_STEP = 1e-6


@pytest.fixture
def read(tmp_path: Path) -> Callable[[Dataset], Image]:
    return lambda dataset: read_projection(save(dataset, tmp_path))


# --- refusals


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"PhotometricInterpretation": "RGB"}, "RGB"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "PALETTE COLOR"),
        ({"SamplesPerPixel": 3}, "3 samples"),
        ({"NumberOfFrames": 2}, "2 frames"),
        ({"Rows": 65535, "Columns": 65535}, "65535 × 65535"),
        ({"Rows": 0}, "0 × 8"),
        ({"Rows": 800}, "cannot be decoded"),
        ({"BitsAllocated": 32, "BitsStored": 32, "HighBit": 31}, "32 bits"),
        ({"BitsStored": 12, "HighBit": 3}, "12 bits"),
        ({"VOILUTFunction": "CUBIC", "WindowCenter": 1, "WindowWidth": 2}, "CUBIC"),
        ({"WindowCenter": 60000, "WindowWidth": 2}, "same value"),
    ],
)
def test_what_is_no_plain_radiograph_is_refused_with_the_reason(
    read: Callable[[Dataset], Image], attributes: dict[str, object], words: str
) -> None:
    with pytest.raises(PixelError, match=words):
        read(radiograph(RAMP, **attributes))


def test_image_without_pixels_is_refused(read: Callable[[Dataset], Image]) -> None:
    dataset = radiograph(RAMP)
    del dataset.PixelData

    with pytest.raises(PixelError, match="no Pixel Data"):
        read(dataset)


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless])
def test_compressed_frame_that_claims_another_size_is_not_decoded(
    read: Callable[[Dataset], Image], syntax: str
) -> None:
    dataset = radiograph(np.tile(RAMP, (10, 10)))
    dataset.compress(syntax)
    dataset.Rows = dataset.Columns = 8

    with pytest.raises(PixelError, match="compressed frame is 80 × 80"):
        read(dataset)


def test_lut_shorter_than_its_descriptor_is_refused(read: Callable[[Dataset], Image]) -> None:
    item = lut([1, 2, 3, 4], 0, 16)
    item.LUTDescriptor = [4096, 0, 16]

    with pytest.raises(PixelError, match="cannot be decoded"):
        read(radiograph(RAMP, ModalityLUTSequence=[item]))


def test_deflated_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_INFLATED_BYTES", 1 << 20)
    dataset = radiograph(np.zeros((1500, 1500), dtype=np.uint8))
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    bomb = save(dataset, tmp_path)
    assert bomb.path.stat().st_size < 1 << 14

    with pytest.raises(DatasetError, match="inflates"):
        read_attributes([bomb])


@pytest.mark.parametrize(
    "content", [b"", b"not a DICOM file at all", b"\0" * 4096, zlib.compress(b"x" * 9999)]
)
def test_rubbish_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "rubbish"
    path.write_bytes(content)

    with pytest.raises(DatasetError):
        read_attributes([instance(path)])
    with pytest.raises((DatasetError, PixelError)):
        read_projection(instance(path))


def test_missing_file_is_a_fault_of_the_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError):
        read_projection(instance(tmp_path / "gone.dcm"))


def test_same_fault_has_the_same_words(zoo: list[Path]) -> None:
    (path,) = (path for path in zoo if path.name == "odd_jpeg-baseline_undecodable.dcm")

    reasons = set()
    for _ in range(2):
        with pytest.raises(PixelError) as caught:
            read_projection(instance(path))
        reasons.add(str(caught.value))

    assert len(reasons) == 1


@pytest.fixture
def deadly(zoo: list[Path], tmp_path: Path) -> Path:
    """A JPEG lossless file that says 17 bits in place of 16: one changed byte, and GDCM calls abort()."""
    (source,) = (path for path in zoo if path.name == "ts_ct1_jpeg-lossless-sv1.dcm")
    path = tmp_path / "deadly.dcm"
    path.write_bytes(source.read_bytes().replace(b"\xff\xc3\x00\x0b\x10", b"\xff\xc3\x00\x0b\x11"))
    return path


def test_frame_that_ends_the_decoder_costs_one_image(zoo: list[Path], deadly: Path) -> None:
    (healthy,) = (path for path in zoo if path.name == "ts_ct1_jpeg-lossless-sv1.dcm")

    with pytest.raises(PixelError, match="the decoder broke down"):
        read_projection(instance(deadly))

    assert read_projection(instance(healthy)).pixels.any()


def test_frame_that_takes_too_long_is_given_up() -> None:
    decoder = DecoderProcess(timeout_s=0)

    with pytest.raises(ValueError, match="took longer than 0 s"):
        decoder.decode(RLELossless, b"", {})


# --- real files


def test_every_file_gives_an_image_or_says_why_not(zoo: list[Path]) -> None:
    images = 0
    for path in zoo:
        try:
            image = read_projection(instance(path))
        except SightlineError:
            continue
        images += 1
        assert image.pixels.dtype == np.float32
        assert image.pixels.ndim == 2
        assert 0 <= image.pixels.min() < image.pixels.max() <= 1

    assert images >= 50


def mean(image: Image, top: float, bottom: float, left: float, right: float) -> float:
    rows, columns = image.pixels.shape
    return float(
        image.pixels[int(top * rows) : int(bottom * rows), int(left * columns) : int(right * columns)].mean()
    )


CHESTS = (
    "cr_chest_fuji_440px_no-meta.dcm",
    "cr_chest_philips-thoravision_j2k-lossy.dcm",
    "cr_chest_philips-thoravision_jpegls-near.dcm",
)


@pytest.mark.parametrize("name", CHESTS)
def test_real_chest_is_upright_and_bright_where_dense(zoo: list[Path], name: str) -> None:
    (path,) = (path for path in zoo if path.name == name)

    image = read_projection(instance(path))

    # Seen in the pictures: lungs dark on both sides of a bright spine, heart at the right.
    right_lung, spine, left_lung = (mean(image, 0.25, 0.4, x, x + 0.1) for x in (0.18, 0.45, 0.72))
    assert spine > right_lung + 0.05
    assert spine > left_lung + 0.05
    assert mean(image, 0.9, 0.97, 0.2, 0.4) > right_lung + 0.1  # liver below, lung above
    assert mean(image, 0.7, 0.78, 0.6, 0.65) > mean(image, 0.7, 0.78, 0.3, 0.35) - 0.05


def test_two_encodings_of_one_chest_look_the_same(zoo: list[Path]) -> None:
    first, second = (read_projection(instance(path)) for path in zoo if "thoravision" in path.name)

    # Both are lossy: a visible difference would be several gray levels of 256.
    assert float(np.abs(first.pixels - second.pixels).mean()) < 2 / 256


def test_inverse_shape_beside_monochrome1_leaves_air_dark(zoo: list[Path]) -> None:
    (path,) = (path for path in zoo if path.name.startswith("dx_dog"))

    image = read_projection(instance(path))

    assert mean(image, 0.0, 0.1, 0.2, 0.8) < 0.2


def test_modality_lut_of_real_teeth_leaves_the_border_dark(zoo: list[Path]) -> None:
    (path,) = (path for path in zoo if path.name.startswith("cr_teeth"))

    image = read_projection(instance(path))

    assert mean(image, 0.0, 0.3, 0.0, 1.0) < 0.02
    assert mean(image, 0.5, 0.9, 0.2, 0.8) > 0.4


@pytest.mark.parametrize(
    "kind", ["jpeg-lossless-sv1", "jpegls-lossless", "j2k-lossless", "rle", "rle-many-fragments"]
)
def test_real_lossless_encodings_of_one_picture_are_equal(zoo: list[Path], kind: str) -> None:
    by_name = {path.name: path for path in zoo}

    plain = read_projection(instance(by_name["ts_ct1_uncompressed_reference.dcm"]))
    packed = read_projection(instance(by_name[f"ts_ct1_{kind}.dcm"]))

    assert np.array_equal(plain.pixels, packed.pixels)


def test_padded_breast_is_dark_outside_and_its_lut_is_used(zoo: list[Path]) -> None:
    (path,) = (path for path in zoo if path.name.startswith("mg_ge"))
    dataset = dcmread(path)
    stored = dataset.pixel_array

    image = read_projection(instance(path))

    is_padding = stored <= 30
    wanted = apply_voi(stored, dataset) / ((1 << dataset.VOILUTSequence[0].LUTDescriptor[2]) - 1)
    assert (image.pixels[is_padding] == 0).all()
    assert np.allclose(image.pixels[~is_padding], wanted[~is_padding], atol=FLOAT32_STEP)
