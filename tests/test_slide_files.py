"""Slides in scanners' files become DICOM slides on their way in: the same picture, nothing invented."""

import json
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openslide import OpenSlide
from PIL import Image, ImageCms
from pydicom import dcmread
from pydicom.dataset import FileDataset
from pydicom.uid import JPEGBaseline8Bit, VLWholeSlideMicroscopyImageStorage

from node.domain.study import Instance
from node.errors import DatasetError, PixelError
from node.read import slide_file
from node.read.slide import open_slide, open_slide_file
from node.receive.folder import find_files
from node.receive.slide_files import is_slide_file, store_slide
from node.receive.slide_levels import step_factors
from node.samples.slide import SlideSample, slide_sample
from node.samples.slide_tiff import write_slide_tiff
from node.slide_objects import frames
from node.storage import Storage, Watermark
from tests.conftest import SHARED_DATA
from tests.peers.node import run_sightline
from tests.peers.validators import dciodvfy_errors
from tests.slides import made_of

COLUMNS, ROWS = 1300, 1100
NEVER_FULL = Watermark(used_percent=100, free_bytes=0)
CENTIMETER, NO_UNIT = (struct.pack("<HHIHH", 296, 3, 1, unit, 0) for unit in (3, 1))
"""The entry of a TIFF that says in what its resolution counts."""

LACKING_WITHOUT_SCALE = ("PixelSpacing", "ImagedVolumeWidth", "ImagedVolumeHeight")
Json = dict[str, Any]
Store = Callable[[Path], list[Instance]]


@pytest.fixture(scope="module")
def sample() -> SlideSample:
    return slide_sample(8, columns=COLUMNS, rows=ROWS, is_tumor=True, micrometers_per_pixel=0.46)


@pytest.fixture(scope="module")
def tiff(sample: SlideSample, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide of three levels, the coarsest no larger than a tile."""
    return write_slide_tiff(sample, tmp_path_factory.mktemp("tiff") / "slide.tif")


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide of one level, larger than an overview."""
    sample = slide_sample(3, columns=2500, rows=700, is_tumor=False, levels=(1,))
    return write_slide_tiff(sample, tmp_path_factory.mktemp("wide") / "wide.tiff", tile_px=240)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Puts a slide into a spool of its own."""
    return lambda path: store_slide(path, Storage(tmp_path_factory.mktemp("spool"), NEVER_FULL))


@pytest.fixture(scope="module")
def converted(tiff: Path, store: Store) -> list[Instance]:
    return store(tiff)


@pytest.fixture
def scaleless(tiff: Path, tmp_path: Path) -> Path:
    """The slide of three levels, its resolution in no unit."""
    path = tmp_path / "scaleless.tif"
    assert CENTIMETER in tiff.read_bytes()
    path.write_bytes(tiff.read_bytes().replace(CENTIMETER, NO_UNIT))
    return path


@pytest.fixture
def gray(tmp_path: Path) -> Path:
    """Two channels of a fluorescence scanner, one small, and a picture of the label in color."""
    pages = [
        Image.fromarray(np.arange(width * 520, dtype=np.uint16).reshape(520, width)) for width in (900, 600)
    ]
    label = Image.new("RGB", (700, 600), (200, 30, 30))
    path = tmp_path / "channels.tif"
    pages[0].save(
        path, save_all=True, append_images=[pages[1], label], resolution=20_000, resolution_unit="cm"
    )
    return path


def shared(name: str) -> Path:
    path = SHARED_DATA / "wsi" / name
    if not path.exists():
        pytest.skip(f"needs ../shared/data/wsi/{name}")
    return path


def headers(instances: list[Instance]) -> list[FileDataset]:
    return [dcmread(one.path, stop_before_pixels=True) for one in instances]


def spacing_mm(header: FileDataset) -> list[float]:
    spacing = header.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing
    return [float(one) for one in spacing]


def difference(instances: list[Instance], path: Path, level: int) -> np.ndarray:
    with open_slide(made_of(*instances)) as one, open_slide_file(path) as other:
        size = one.levels[level].columns, one.levels[level].rows
        return one.region(level, 0, 0, *size).astype(int) - other.region(level, 0, 0, *size)


# --- the same slide


def test_a_converted_slide_has_the_levels_and_the_scale_of_its_file(
    sample: SlideSample, tiff: Path, converted: list[Instance]
) -> None:
    with open_slide(made_of(*converted)) as slide, open_slide_file(tiff) as file:
        # The third is 81 × 68 pixels, which is less than a tile.
        assert [(one.columns, one.rows) for one in slide.levels] == [sample.size(0), sample.size(1)]
        assert [one.downsample for one in slide.levels] == [one.downsample for one in file.levels[:2]]
        assert slide.micrometers_per_pixel == pytest.approx(0.46)
        assert slide.notes == ()


@pytest.mark.parametrize("level", [0, 1])
def test_a_converted_slide_shows_what_its_file_shows(
    tiff: Path, converted: list[Instance], level: int
) -> None:
    found = difference(converted, tiff, level)

    # JPEG of quality 90 over JPEG of 85, in the same blocks.
    assert np.abs(found).mean() < 1.5
    assert np.abs(found.mean(axis=(0, 1))).max() < 0.5


def test_another_program_reads_the_converted_slide(converted: list[Instance]) -> None:
    with OpenSlide(str(converted[0].path)) as slide:
        assert slide.level_dimensions == ((COLUMNS, ROWS), (COLUMNS // 4, ROWS // 4))
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.46)
        assert not slide.associated_images


@pytest.mark.parametrize(
    ("long_side", "factors"),
    [(900, []), (2048, []), (2049, [2]), (4095, [2]), (4096, [4]), (10_000, [4, 2]), (100_000, [4, 4, 4])],
)
def test_a_pyramid_goes_on_until_one_can_look_over_it(long_side: int, factors: list[int]) -> None:
    found = step_factors(long_side)

    assert found == factors
    assert long_side // np.prod([1, *found], dtype=int) <= 2048


def test_a_level_that_the_file_lacks_is_averaged(wide: Path, store: Store) -> None:
    instances = store(wide)

    with open_slide(made_of(*instances)) as slide, open_slide_file(wide) as file:
        sizes = [(one.columns, one.rows, one.downsample) for one in slide.levels]
        coarse = slide.region(1, 0, 0, 1250, 350).astype(int)
        fine = file.region(0, 0, 0, 2500, 700).reshape(350, 2, 1250, 2, 3).mean(axis=(1, 3))

    assert sizes == [(2500, 700, 1.0), (1250, 350, 2.0)]
    assert [spacing_mm(one) for one in headers(instances)] == [[0.0005, 0.0005], [0.001, 0.001]]
    assert np.abs(coarse - fine).mean() < 2
    assert np.abs((coarse - fine).mean(axis=(0, 1))).max() < 0.5


def test_tiles_keep_their_size_so_that_coding_anew_loses_least(wide: Path, store: Store) -> None:
    assert {(one.Rows, one.Columns) for one in headers(store(wide))} == {(240, 240)}


def test_the_real_slide_shows_what_its_file_shows(store: Store) -> None:
    path = shared("CMU-1-Small-Region.svs")

    instances = store(path)

    with open_slide(made_of(*instances)) as slide:
        assert [(one.columns, one.rows) for one in slide.levels] == [(2220, 2967), (1110, 1483)]
        assert slide.micrometers_per_pixel == pytest.approx(0.499)
        assert slide.objective_power == 20
    # Its own tiles have all colors, these have them at half the width (2.5 of it is that).
    assert np.abs(difference(instances, path, 0)).mean() < 3
    assert dciodvfy_errors([one.path for one in instances]) == []


# --- what its objects say


def test_the_objects_are_valid_and_say_what_was_done(tiff: Path, converted: list[Instance]) -> None:
    found = headers(converted)

    assert dciodvfy_errors([one.path for one in converted]) == []
    for one in found:
        assert one.SOPClassUID == VLWholeSlideMicroscopyImageStorage
        assert one.file_meta.TransferSyntaxUID == JPEGBaseline8Bit
        assert one.DimensionOrganizationType == "TILED_FULL"
        assert (one.LossyImageCompression, one.LossyImageCompressionMethod) == ("01", "ISO_10918_1")
        assert float(one.LossyImageCompressionRatio) > 3
        assert "Converted by Sightline" in one.DerivationDescription
        assert "quality 90" in one.DerivationDescription
    assert [list(one.ImageType) for one in found] == [
        ["DERIVED", "PRIMARY", "VOLUME", "NONE"],
        ["DERIVED", "PRIMARY", "VOLUME", "RESAMPLED"],
    ]


def test_nobody_is_invented(converted: list[Instance]) -> None:
    for one in headers(converted):
        for name in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyID"):
            assert one[name].value == ""
        assert one.AcquisitionDateTime == "19000101000000"
        assert not one.SpecimenDescriptionSequence[0].SpecimenPreparationSequence


def test_the_label_and_what_may_name_somebody_stay_in_the_file(store: Store) -> None:
    found = headers(store(shared("CMU-1-Small-Region.svs")))

    assert [one.ImageType[2] for one in found] == ["VOLUME", "VOLUME"]
    for one in found:
        assert one.AcquisitionDateTime == "20091229095915"
        # Who sat at the scanner, and the name that the file was given.
        assert "b414003d" not in str(one)
        assert "CMU" not in str(one)


def test_all_levels_lie_at_one_place_of_the_glass_in_their_scale(converted: list[Instance]) -> None:
    corners, spacings = [], []
    for one in headers(converted):
        origin = one.TotalPixelMatrixOriginSequence[0]
        down, across = spacing_mm(one)
        spacings += [down, across]
        corners.append(
            (
                float(origin.XOffsetInSlideCoordinateSystem) + down / 2,
                float(origin.YOffsetInSlideCoordinateSystem) + across / 2,
            )
        )

    assert spacings == pytest.approx([0.00046, 0.00046, 0.00184, 0.00184])
    assert corners[0] == pytest.approx((ROWS * 0.00046, COLUMNS * 0.00046), abs=2e-6)
    assert corners[1] == pytest.approx(corners[0], abs=2e-6)


def test_the_same_file_gives_the_same_study(
    tiff: Path, wide: Path, converted: list[Instance], store: Store, tmp_path: Path
) -> None:
    renamed = tmp_path / "other.tif"
    renamed.write_bytes(tiff.read_bytes())

    again, other = store(renamed), store(wide)

    assert [one.digest for one in again] == [one.digest for one in converted]
    assert again[0].study_instance_uid == converted[0].study_instance_uid
    assert {one.study_instance_uid for one in other}.isdisjoint({converted[0].study_instance_uid})


def test_a_slide_without_scale_gets_none(scaleless: Path, store: Store) -> None:
    instances = store(scaleless)

    with open_slide(made_of(*instances)) as slide:
        assert slide.micrometers_per_pixel is None
        assert "Neither the size of a pixel nor the power of the objective is known." in slide.notes
    # The IOD wants them; whoever needs them must not find an invented one.
    errors = dciodvfy_errors([one.path for one in instances])
    assert len(errors) == len(LACKING_WITHOUT_SCALE) * len(instances)
    assert all(any(f"Element=<{name}>" in line for name in LACKING_WITHOUT_SCALE) for line in errors)


def test_the_profile_of_the_file_is_kept(tiff: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    # None of the files at hand has one.
    monkeypatch.setattr(slide_file.openslide.OpenSlide, "color_profile", property(lambda _: profile))

    (path, *_) = headers(store(tiff))[0].OpticalPathSequence

    assert bytes(path.ICCProfile).rstrip(b"\0") == profile.tobytes().rstrip(b"\0")
    assert "ColorSpace" not in path


def test_more_than_basic_offsets_can_say_is_in_the_extended_table(
    tiff: Path, converted: list[Instance], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames, "LARGEST_OFFSET", 5000)

    instances = store(tiff)

    whole = dcmread(instances[0].path)
    lengths = np.frombuffer(whole.ExtendedOffsetTableLengths, "<u8")
    starts = np.frombuffer(whole.ExtendedOffsetTable, "<u8")
    # Of the basic table, which is there all the same, only its head.
    assert whole.PixelData[:8] == b"\xfe\xff\x00\xe0" + bytes(4)
    assert len(lengths) == whole.NumberOfFrames == 30
    assert starts.tolist() == [0, *np.cumsum(lengths + 8)[:-1].tolist()]
    with open_slide(made_of(*instances)) as one, open_slide(made_of(*converted)) as other:
        assert np.array_equal(one.region(0, 0, 0, COLUMNS, ROWS), other.region(0, 0, 0, COLUMNS, ROWS))
    assert dciodvfy_errors([instances[0].path]) == []


# --- what is no slide in color


def test_gray_pages_become_one_gray_instance(gray: Path, store: Store) -> None:
    instances = store(gray)

    (header,) = headers(instances)
    assert header.PhotometricInterpretation == "MONOCHROME2"
    assert (header.TotalPixelMatrixColumns, header.TotalPixelMatrixRows) == (600, 520)
    assert spacing_mm(header) == pytest.approx([0.0005, 0.0005])
    assert dciodvfy_errors([one.path for one in instances]) == []
    tiles = dcmread(instances[0].path).pixel_array
    assert tiles.shape == (9, 256, 256)
    # 16 bits of a slope that ends at 600 × 520 - 1, cut off at 65,535: the first tile begins at black.
    assert tiles[0, 0, :8].max() < 8
    assert tiles[8, 8:, 88:].max() == 0
    with pytest.raises(PixelError, match="MONOCHROME2: no colors"):
        open_slide(made_of(*instances))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("notes.svs", b"not a slide"),
        ("empty.tiff", b""),
        ("cut.bin", b"II*\0\x10\0\0\0"),
        ("a.mrxs", b"\xff\xd8"),
    ],
)
def test_what_is_no_slide_is_refused(name: str, content: bytes, store: Store, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)

    assert is_slide_file(path)
    with pytest.raises(DatasetError, match="slide"):
        store(path)


def test_a_photograph_is_no_slide(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "photograph.tif"
    Image.new("RGB", (900, 700), (200, 150, 180)).save(path)

    with pytest.raises(DatasetError, match="no slide in a format that OpenSlide reads"):
        store(path)


def test_a_slide_that_is_damaged_leaves_nothing(tiff: Path, tmp_path: Path) -> None:
    content = bytearray(tiff.read_bytes())
    with open_slide_file(tiff) as slide:
        assert slide.levels[0].tile_columns == 256
    # In the middle of the tiles of the finest level, which come first.
    content[len(content) // 2 : len(content) // 2 + 20_000] = bytes(20_000)
    path = tmp_path / "damaged.tif"
    path.write_bytes(content)
    storage = Storage(tmp_path / "spool", NEVER_FULL)

    with pytest.raises(PixelError, match=r"damaged\.tif: the part at column \d+ and row \d+ of level 0"):
        store_slide(path, storage)

    assert list(storage.instances()) == []
    assert list(storage.incoming.iterdir()) == []


def test_what_belongs_to_a_slide_in_several_files_is_not_taken_by_itself(tmp_path: Path) -> None:
    for name in ("a.mrxs", "a/Slidedat.ini", "a/Data0000.dat", "b/one.dcm", "two.dcm"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")

    found = {path.relative_to(tmp_path).as_posix() for path in find_files([tmp_path])}

    assert found == {"a.mrxs", "b/one.dcm", "two.dcm"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("CMU-1-Small-Region.svs", True),
        ("vectra-polaris_small.qptiff", True),
        ("tcga-xk-aaju_prostate_dicom-wsi.dcm", False),
    ],
)
def test_dicom_is_no_scanner_file(name: str, expected: bool) -> None:
    assert is_slide_file(shared(name)) == expected


# --- the command


def process(paths: Iterable[Path], folder: Path) -> tuple[int, str, dict[str, Json]]:
    """The exit status, what was complained of, and each slide's study by the name of its file."""
    ended = run_sightline("process", *map(str, paths), "--out", str(folder / "out"), "--json")
    studies = json.loads(ended.stdout)["studies"]
    return ended.returncode, ended.stderr, {Path(one["file"]).name: one for one in studies}


def test_process_takes_slides_and_gives_results_that_refer_to_what_they_became(
    tiff: Path, scaleless: Path, gray: Path, tmp_path: Path
) -> None:
    notes = tmp_path / "notes.svs"
    notes.write_bytes(b"not a slide")

    status, complaints, studies = process([tiff, scaleless, gray, notes], tmp_path)

    assert status == 1
    assert "notes.svs: is no slide in a format that OpenSlide reads" in complaints
    assert "convert 1/4: 17/34 tiles" in complaints
    assert set(studies) == {"slide.tif", "scaleless.tif", "channels.tif"}
    outcomes = {name: (run["outcome"], run["reason"]) for name, one in studies.items() for run in one["runs"]}
    assert outcomes["slide.tif"][0] in ("findings", "no_findings")
    assert outcomes["scaleless.tif"][0] == "not_eligible"
    assert "the size of a pixel" in outcomes["scaleless.tif"][1]
    assert outcomes["channels.tif"][0] == "not_eligible"
    assert "the series is not in color" in outcomes["channels.tif"][1]
    for study in studies.values():
        assert_refers_to_source(study)


def test_real_slides_of_scanners_end_in_explicit_outcomes(tmp_path: Path) -> None:
    paths = [shared("CMU-1-Small-Region.svs"), shared("vectra-polaris_small.qptiff")]

    status, _, studies = process(paths, tmp_path)

    assert status == 0
    ((skin,), (cells,)) = (studies[path.name]["runs"] for path in paths)
    assert skin["outcome"] in ("findings", "no_findings")
    assert cells["outcome"] == "not_eligible"
    assert "(photometric_interpretation MONOCHROME2)" in cells["reason"]
    for study in studies.values():
        assert_refers_to_source(study)


def assert_refers_to_source(study: Json) -> None:
    """What the report of a study refers to lies beside it."""
    (run,) = study["runs"]
    made = [dcmread(path, stop_before_pixels=True) for path in study["source"]]
    (report,) = [Path(one["path"]) for one in run["objects"] if one["kind"] == "findings_sr"]
    evidence = dcmread(report).CurrentRequestedProcedureEvidenceSequence[0]
    assert {str(one.StudyInstanceUID) for one in made} == {study["study_instance_uid"]}
    assert {one.SOPInstanceUID for one in made} == {
        one.ReferencedSOPInstanceUID
        for series in evidence.ReferencedSeriesSequence
        for one in series.ReferencedSOPSequence
    }
    assert {Path(path).parent for path in study["source"]} == {report.parent / "source"}
