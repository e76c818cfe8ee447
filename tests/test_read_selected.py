"""A few attributes of a header: what the scan finds is what pydicom finds."""

import warnings
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from node.encode.source import READ
from node.errors import SightlineError
from node.read.dataset import dataset_faults
from node.read.scan import scan, scan_head
from node.read.selected import read_selected
from tests.conftest import SHARED_DATA
from tests.volumes import change, write_slices

ZOO = SHARED_DATA / "zoo"


def require_same(path: Path) -> None:
    with dataset_faults(path.name):
        expected = dcmread(path, stop_before_pixels=True, force=True, specific_tags=list(READ))
    with dataset_faults(path.name):
        found = read_selected(path, READ)

    with warnings.catch_warnings():
        # To compare values is to decode them.
        warnings.simplefilter("ignore")
        assert raw(found) == raw(expected), path.name
        assert found.file_meta == expected.file_meta
    assert found.original_encoding == expected.original_encoding
    assert found.original_character_set == expected.original_character_set
    assert getattr(found, "preamble", None) == getattr(expected, "preamble", None)


def raw(dataset: Dataset) -> dict[int, object]:
    """The elements as they are held, not decoded."""
    tags = dataset.keys()
    return {int(tag): dataset.get_item(tag) for tag in tags}


def test_slice_of_a_scanner_is_found_by_the_scan(tmp_path: Path) -> None:
    (path,) = write_slices(tmp_path, arrangement="single")
    change(path, AccessionNumber="", PatientComments="x" * 70_000)

    assert scan_head(path, lambda head: list(head.elements()))
    require_same(path)


def test_implicit_vr_is_found_too(tmp_path: Path) -> None:
    (path,) = write_slices(tmp_path, arrangement="single")
    dataset = dcmread(path)
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    dataset.save_as(path, enforce_file_format=True)

    require_same(path)


def test_header_of_compressed_pixels_is_found_too(tmp_path: Path) -> None:
    (path,) = write_slices(tmp_path, arrangement="single")
    dataset = dcmread(path)
    dataset.compress(RLELossless)
    dataset.save_as(path, enforce_file_format=True)

    assert scan_head(path, lambda head: list(head.elements()))
    require_same(path)
    # Its pixels are not for the scan.
    assert scan(path) is None


def test_pixels_of_undefined_length_that_are_not_compressed_are_not_for_the_scan(tmp_path: Path) -> None:
    (path,) = write_slices(tmp_path, arrangement="single")
    head, length = b"\xe0\x7f\x10\x00OW\x00\x00", len(dcmread(path).PixelData).to_bytes(4, "little")
    content = path.read_bytes()
    assert content.count(head + length) == 1

    path.write_bytes(content.replace(head + length, head + b"\xff" * 4))

    assert scan(path) is None


@pytest.mark.parametrize("syntax", [ExplicitVRBigEndian, "1.2.3.4"])
def test_header_in_another_or_an_unknown_syntax_is_left_to_pydicom(syntax: str, tmp_path: Path) -> None:
    (path,) = write_slices(tmp_path, arrangement="single")
    told, other = dcmread(path).file_meta.TransferSyntaxUID.encode(), syntax.encode()
    content = path.read_bytes()
    # The meta information says another syntax; lengths stay as they are.
    path.write_bytes(content.replace(told, other.ljust(len(told), b"\0"), 1))

    assert scan_head(path, lambda head: list(head.elements())) is None


def test_header_without_pixels_is_found(tmp_path: Path) -> None:
    (path,) = write_slices(tmp_path, arrangement="single")
    change(path, PixelData=None)

    require_same(path)


@pytest.mark.parametrize("kept", [100, 200, 700, 1100, -1])
def test_header_that_ends_early_is_as_pydicom_reads_it(kept: int, tmp_path: Path) -> None:
    (path,) = write_slices(tmp_path, arrangement="single")
    change(path, PixelData=None)
    path.write_bytes(path.read_bytes()[:kept])

    try:
        require_same(path)
    except SightlineError:
        with pytest.raises(SightlineError), dataset_faults(path.name):
            read_selected(path, READ)


@pytest.mark.skipif(not ZOO.exists(), reason="needs ../shared/data/zoo")
def test_real_files_are_as_pydicom_reads_them() -> None:
    for path in sorted(ZOO.glob("*.dcm")):
        try:
            require_same(path)
        except SightlineError:
            with pytest.raises(SightlineError), dataset_faults(path.name):
                read_selected(path, READ)
