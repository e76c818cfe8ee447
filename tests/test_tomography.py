"""The synthetic CT: plausible HU, nodules where it says, in any geometry, and as valid DICOM."""

from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import JPEGLSLossless

from node.samples.anatomy import thorax_body
from node.samples.ct_series import CtOptions, write_ct
from node.samples.stack import AXIAL
from node.samples.tomography import (
    CtBody,
    CtGeometry,
    CtSample,
    Nodule,
    Scan,
    axial,
    ct_body,
    draw_nodules,
    scan_box,
    thorax_ct,
)
from tests.peers.validators import dciodvfy_errors

TILT = np.deg2rad(18)
GEOMETRIES = {
    "axial": (AXIAL, (1.0, 0.8, 0.8)),
    "reversed": ([[0, 0, -1], [0, 1, 0], [1, 0, 0]], (1.0, 0.8, 0.8)),
    "fine and thin": (AXIAL, (0.6, 0.6, 0.6)),
    "thick": (AXIAL, (5.0, 0.8, 0.8)),
    "tilted": ([[0, 0, 1], [0, np.cos(TILT), np.sin(TILT)], [1, 0, 0]], (1.5, 0.8, 0.8)),
    "oblique": (None, (1.25, 0.8, 0.8)),
}


@pytest.fixture(scope="module")
def body() -> CtBody:
    return ct_body(3)


@pytest.fixture(scope="module")
def coarse() -> CtSample:
    return thorax_ct(3, spacing_zyx_mm=(6.0, 3.0, 3.0), nodules=4)


def stack_around(center_xyz_mm: tuple[float, float, float], name: str) -> CtGeometry:
    directions, spacing = GEOMETRIES[name]
    if directions is None:
        turned, _ = np.linalg.qr([[1, 0.2, -0.3], [-0.1, 1, 0.2], [0.3, -0.2, 1]])
        directions = turned[::-1]
    shape = tuple(int(36 / step) for step in spacing)
    middle = CtGeometry((0, 0, 0), spacing, shape, np.asarray(directions, float))
    offset = middle.to_patient((np.array([shape], float) - 1) / 2)[0]
    x, y, z = np.asarray(center_xyz_mm) - offset
    return CtGeometry((x, y, z), spacing, shape, middle.directions)


def whole_mask(sample: CtSample, index: int = 0) -> np.ndarray:
    mask = np.zeros(sample.hounsfield.shape, bool)
    mask[sample.nodules[index].box_zyx] = sample.nodules[index].mask
    return mask


def test_a_radiograph_of_a_seed_is_of_the_size_it_always_was() -> None:
    # The scale is drawn first: a given one must not shift what is drawn after it.
    assert thorax_body(2).scale_mm == pytest.approx(89.389, abs=1e-3)
    assert thorax_body(2, scale_mm=140).scale_mm == 140


def test_lungs_are_air_in_a_body(coarse: CtSample) -> None:
    hounsfield, lung = coarse.hounsfield, coarse.lung

    assert hounsfield.dtype == np.int16
    assert -920 < np.median(hounsfield[lung]) < -780
    assert 0.1 < lung.mean() < 0.5
    liver = coarse.geometry.to_voxels(np.array([[-50.0, -10.0, -35.0]])).round().astype(int)[0]
    assert 20 < np.median(hounsfield[tuple(slice(at - 2, at + 3) for at in liver)]) < 90
    assert (hounsfield > 300).sum() > 500
    assert np.median(hounsfield[:, 0]) < -950


def test_the_same_seed_gives_the_same_voxels(body: CtBody) -> None:
    box = axial(body, (2.0, 2.0, 2.0), (6, 20, 24), center_xyz_mm=(60.0, 0.0, 100.0))

    first, again = (scan_box(body, box, noise_seed=1).hounsfield for _ in range(2))
    other = scan_box(body, box, noise_seed=2).hounsfield

    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_box_is_what_the_whole_shows_there(body: CtBody) -> None:
    silent = Scan(dose=1e6)
    whole = scan_box(
        body, axial(body, (2.0, 2.0, 2.0), (30, 40, 50), center_xyz_mm=(60, 0, 100)), scan=silent
    )
    part = CtGeometry(
        tuple(whole.geometry.to_patient(np.array([[10, 12, 14]]))[0]), (2.0, 2.0, 2.0), (8, 9, 10)
    )

    box = scan_box(body, part, scan=silent)

    assert np.abs(box.hounsfield - whole.hounsfield[10:18, 12:21, 14:24]).max() <= 2


@pytest.mark.parametrize("name", GEOMETRIES)
def test_a_nodule_lies_where_it_was_planted(body: CtBody, name: str) -> None:
    spot = draw_nodules(body, 1, diameters_mm=[12])[0].center_xyz_mm
    planted = Nodule(spot, 12.0)

    sample = scan_box(body, stack_around(spot, name), nodules=[planted])

    truth, mask = sample.nodules[0], whole_mask(sample)
    geometry = sample.geometry
    volume = mask.sum() * geometry.slice_mm * np.prod(geometry.spacing_zyx_mm[1:])
    center = geometry.to_patient(np.argwhere(mask)).mean(axis=0)
    # A ball of 12 mm; on voxels of 5 mm its volume is uncertain by a tenth.
    assert truth.volume_mm3 == pytest.approx(np.pi / 6 * 12**3, rel=0.02)
    assert volume == pytest.approx(truth.volume_mm3, rel=0.12)
    assert np.linalg.norm(center - np.array(spot)) < 0.5
    everywhere = tuple(slice(0, size) for size in mask.shape)
    # What is dense is where the mask is: in the middle of the nodule, not only in its truth.
    inner = mask & (np.linalg.norm(geometry.points(everywhere) - spot, axis=-1) < 3)
    assert sample.hounsfield[inner].mean() == pytest.approx(40, abs=25 if name != "thick" else 150)


def test_drawn_nodules_stand_apart_in_the_lungs(body: CtBody) -> None:
    nodules = draw_nodules(body, 0, diameters_mm=[5, 8, 12, 20, 28])

    assert len(nodules) == 5
    centers = np.array([one.center_xyz_mm for one in nodules])
    gaps = np.linalg.norm(centers[:, None] - centers, axis=-1) + 100 * np.eye(5)
    assert gaps.min() > 8
    assert all(body.is_lung(np.array(one.center_xyz_mm)) for one in nodules if one.attachment is None)


def test_of_a_nodule_on_the_wall_only_what_is_in_the_lung_counts(body: CtBody) -> None:
    drawn = [one for stream in range(12) for one in draw_nodules(body, 3, stream=stream)]
    on_wall = next(one for one in drawn if one.attachment == "wall" and one.diameter_mm > 8)

    sample = scan_box(
        body,
        axial(body, (1.0, 1.0, 1.0), (40, 40, 40), center_xyz_mm=on_wall.center_xyz_mm),
        nodules=[on_wall],
    )

    assert sample.nodules[0].volume_mm3 < 0.98 * np.pi / 6 * on_wall.diameter_mm**3 * 1.2
    assert sample.lung[whole_mask(sample)].mean() > 0.9


def test_noise_follows_dose_and_kernel(body: CtBody) -> None:
    box = axial(body, (1.25, 0.8, 0.8), (8, 40, 40), center_xyz_mm=(-50.0, -10.0, -70.0))

    spreads = [
        float(scan_box(body, box, scan=scan).hounsfield.std())
        for scan in (Scan(), Scan(dose=0.25), Scan("sharp"))
    ]

    assert spreads[0] == pytest.approx(14, rel=0.15)
    assert spreads[1] == pytest.approx(28, rel=0.15)
    assert spreads[2] == pytest.approx(34, rel=0.15)


def test_what_lies_outside_the_field_of_view_is_padded(body: CtBody) -> None:
    box = axial(body, (2.0, 2.0, 2.0), (3, 30, 30), center_xyz_mm=(60.0, 0.0, 100.0))

    hounsfield = scan_box(body, box, scan=Scan(padding_hu=-2000)).hounsfield

    assert hounsfield[0, 0, 0] == -2000
    assert hounsfield[:, 15, 15].min() > -1025


@pytest.fixture(scope="module")
def small(body: CtBody) -> CtSample:
    spot = draw_nodules(body, 1, diameters_mm=[10])[0]
    return scan_box(
        body,
        axial(body, (2.0, 1.5, 1.5), (12, 64, 48), center_xyz_mm=spot.center_xyz_mm),
        nodules=[spot],
        scan=Scan(padding_hu=-2000),
    )


def test_a_series_has_the_voxels_and_places_of_its_sample(small: CtSample, tmp_path: Path) -> None:
    files = write_ct(small, tmp_path, options=CtOptions(left_out=(4,), is_from_top=True))

    slices = [dcmread(file) for file in files]
    assert len(slices) == 11
    for number, dataset in enumerate(slices, start=1):
        plane = (11 - np.array([*range(7), *range(8, 12)]))[number - 1]
        assert dataset.InstanceNumber == number
        assert np.array_equal(dataset.pixel_array + int(dataset.RescaleIntercept), small.hounsfield[plane])
        place = small.geometry.to_patient(np.array([[plane, 0, 0]]))[0]
        assert np.allclose(np.array(dataset.ImagePositionPatient, float), place, atol=1e-6)
    assert len({dataset.SeriesInstanceUID for dataset in slices}) == 1
    assert len({dataset.SOPInstanceUID for dataset in slices}) == 11


def test_a_compressed_series_keeps_its_voxels(small: CtSample, tmp_path: Path) -> None:
    options = CtOptions(is_multiframe=True, transfer_syntax_uid=JPEGLSLossless)

    (file,) = write_ct(small, tmp_path, options=options)

    dataset = dcmread(file)
    assert dataset.file_meta.TransferSyntaxUID == JPEGLSLossless
    assert np.array_equal(dataset.pixel_array - 1024, small.hounsfield)


@pytest.mark.parametrize("is_multiframe", [False, True])
def test_the_files_are_valid(small: CtSample, tmp_path: Path, is_multiframe: bool) -> None:
    files = write_ct(small, tmp_path, options=CtOptions(is_multiframe=is_multiframe))

    assert dciodvfy_errors(files[:1]) == []
