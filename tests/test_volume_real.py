"""Real CT series and slices, beside SimpleITK's own reader."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread

from node.domain.image import PADDING_HU, Volume
from node.errors import DatasetError, GeometryError
from node.read.dataset import dataset_faults
from node.read.volume import read_volume
from tests.conftest import SHARED_DATA
from tests.sources import real_ct_series, real_small_ct_series
from tests.volumes import give, series_of

SimpleITK = pytest.importorskip("SimpleITK", reason="needs SimpleITK (extra: train)")
SOME = slice(100, 112)
"""Of the long series, which takes a decoder 5 s."""

ZOO = SHARED_DATA / "zoo"
DEVIANT = {
    "odd_ct1_implicit-big-endian-undefined-length": "breaks off in a sequence",
    "odd_ct_philips_elscint-private-rle": "a private coding that nobody decodes",
    "odd_ct_stray-byte-no-meta": "says nothing of itself",
}


def by_simpleitk(volume: Volume, paths: Sequence[Path]) -> object:
    """The same planes in the same order."""
    path_by_uid = {str(dcmread(path, stop_before_pixels=True).SOPInstanceUID): path for path in paths}
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames([str(path_by_uid[frame.sop_instance_uid]) for frame in volume.frames])
    return reader.Execute()


def units(image: object) -> NDArray[np.int16]:
    return np.asarray(np.maximum(SimpleITK.GetArrayFromImage(image), PADDING_HU), np.int16)


@pytest.mark.parametrize("name", ["ricord", "ibsi"])
def test_real_series_is_the_volume_that_simpleitk_reads(name: str) -> None:
    paths = real_ct_series()[SOME] if name == "ricord" else real_small_ct_series()

    volume = read_volume(series_of(paths[::-1]))

    image = by_simpleitk(volume, paths)
    np.testing.assert_array_equal(volume.hounsfield, units(image))
    x, y, z = image.GetSpacing()  # type: ignore[attr-defined]
    np.testing.assert_allclose((*volume.spacing_yx_mm, np.diff(volume.positions_mm).mean()), (y, x, z))
    corners = np.array([[0, 0, 0], [len(paths) - 1, 0, 0], [3, 20, 10], [0, 5, 100]])
    expected = [image.TransformIndexToPhysicalPoint([int(i) for i in one[::-1]]) for one in corners]  # type: ignore[attr-defined]
    # Positions are written with a few digits.
    np.testing.assert_allclose(volume.to_patient(corners.astype(float)), expected, atol=1e-3)
    assert volume.notes == ()


@pytest.mark.slow
def test_complete_chest_ct_is_read() -> None:
    volume = read_volume(series_of(real_ct_series()))

    assert volume.hounsfield.shape == (248, 512, 512)
    assert (volume.hounsfield.min(), volume.notes) == (PADDING_HU, ())
    np.testing.assert_allclose(np.diff(volume.positions_mm), 1.25)


def test_series_with_emptied_uids_is_refused() -> None:
    folder = SHARED_DATA / "ct" / "totalseg_abdomen_emptied-uids"
    paths = sorted(folder.rglob("*.dcm"))
    if not paths:
        pytest.skip("needs ../shared/data/ct")

    with pytest.raises(DatasetError, match="SOPClassUID is missing or blank"):
        read_volume(series_of(paths))


def ct_files() -> list[str]:
    names = [*ZOO.glob("ct_*.dcm"), *ZOO.glob("ts_ct1_*.dcm"), *ZOO.glob("odd_ct*.dcm")]
    return sorted(path.stem for path in names if path.stem not in DEVIANT)


@pytest.mark.parametrize("name", ct_files() or [pytest.param("", marks=pytest.mark.skip("needs zoo"))])
def test_real_slice_has_the_values_that_simpleitk_reads(name: str, tmp_path: Path) -> None:
    paths = three_of(ZOO / f"{name}.dcm", tmp_path)

    try:
        volume = read_volume(series_of(paths))
    except GeometryError as error:
        pytest.skip(f"has no place: {error}")

    expected = units(SimpleITK.ReadImage(str(paths[0])))
    is_padding = volume.hounsfield[0] == PADDING_HU
    assert np.array_equal(volume.hounsfield[0][~is_padding], expected[0][~is_padding])
    assert (~is_padding).mean() > 0.2


def three_of(path: Path, folder: Path) -> list[Path]:
    """Three copies of a slice above each other."""
    paths = []
    for number in range(3):
        with dataset_faults(path.name):
            dataset = dcmread(path, force=True)
            normal = np.cross(dataset.ImageOrientationPatient[:3], dataset.ImageOrientationPatient[3:])
            place = np.array(dataset.ImagePositionPatient, float) + 2 * number * normal
            give(dataset, SOPInstanceUID=f"2.25.{number + 1}", ImagePositionPatient=place.round(5).tolist())
            paths.append(folder / f"{number}.dcm")
            dataset.save_as(paths[-1])
    return paths
