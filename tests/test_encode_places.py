from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.sr.codedict import codes
from pydicom.uid import Comprehensive3DSRStorage, ComprehensiveSRStorage, EnhancedSRStorage

from node.domain.findings import Findings, Presence, Region
from node.domain.location import Frame, Outline
from node.domain.profile import Kind, ReportClass
from node.encode import codes as used
from node.errors import DatasetError
from tests.located import LUNG, NODULE, located_findings
from tests.peers.validators import dciodvfy_errors
from tests.results import ALGORITHM, save, score
from tests.shapes import encoded, lesion_report
from tests.sources import (
    Written,
    real_ct_series,
    real_radiographs,
    real_slide,
    write_ct_series,
    write_slide,
)
from tests.synthetic.slide import CENTROID_XYZ_MM, CORNER_XY_MM, LEVELS
from tests.trees import code_of, evidence_of, named, number_of, references_of

MICROMETER = 0.001


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Written]:
    writers = {"series": write_ct_series, "slide": write_slide}
    return {shape: write(tmp_path_factory.mktemp(shape)) for shape, write in writers.items()}


# --- on a slide


def area_mm2(points_xyz_mm: np.ndarray) -> float:
    x, y = points_xyz_mm[:-1, 0], points_xyz_mm[:-1, 1]
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


def polygons_of(report: Dataset) -> list[np.ndarray]:
    return [np.reshape(one.GraphicData, (-1, 3)) for one in named(report, used.IMAGE_REGION)]


@pytest.mark.parametrize("level", range(len(LEVELS)))
def test_a_box_on_a_slide_is_where_it_is_in_millimeters(level: int, written: dict[str, Written]) -> None:
    findings = located_findings(written["slide"])
    spacing_mm = LEVELS[level][2]
    box = Outline.box(Frame(findings.sop_instance_uids[level]), (40.0, 24.0), (72.0, 40.0))
    region = replace(findings.regions[0], outline=box)

    report = lesion_report(replace(findings, regions=(region,)), written["slide"].paths)

    # Along a row y falls, along a column x: (-1 for each), from the corner that all levels share.
    x, y = CORNER_XY_MM
    corners = [(40, 24), (72, 24), (72, 40), (40, 40), (40, 24)]
    expected = [(x - row * spacing_mm, y - column * spacing_mm, 0) for column, row in corners]
    (points,) = polygons_of(report)
    np.testing.assert_allclose(points, expected, rtol=0, atol=MICROMETER / 10)
    assert area_mm2(points) == pytest.approx(32 * 16 * spacing_mm**2, abs=MICROMETER**2)
    (item,) = named(report, used.IMAGE_REGION)
    source = dcmread(written["slide"].paths[level], stop_before_pixels=True)
    assert item.GraphicType == "POLYGON"
    assert item.ReferencedFrameOfReferenceUID == source.FrameOfReferenceUID


def test_the_box_around_the_disc_has_its_center(written: dict[str, Written]) -> None:
    report = lesion_report(located_findings(written["slide"]), written["slide"].paths)

    center = polygons_of(report)[0][:4].mean(axis=0)
    # The box ends at pixels of 1 µm.
    np.testing.assert_allclose(center, CENTROID_XYZ_MM, rtol=0, atol=MICROMETER)


def test_a_region_on_a_slide_has_its_weight_beside_its_place(written: dict[str, Written]) -> None:
    report = lesion_report(located_findings(written["slide"]), written["slide"].paths)

    for group in named(report, used.MEASUREMENT_GROUP):
        numbers = [number_of(one) for one in group.ContentSequence if one.ValueType == "NUM"]
        assert numbers == [(0.125, "1")]
        assert [one.ValueType for one in named(group, used.IMAGE_REGION)] == ["SCOORD3D"]


@pytest.mark.parametrize(
    ("shape", "wanted", "sop_class_uid"),
    [
        ("series", ReportClass.COMPREHENSIVE_3D, Comprehensive3DSRStorage),
        ("series", ReportClass.COMPREHENSIVE, ComprehensiveSRStorage),
        ("series", ReportClass.ENHANCED, EnhancedSRStorage),
        ("slide", ReportClass.COMPREHENSIVE, Comprehensive3DSRStorage),
        ("slide", ReportClass.ENHANCED, Comprehensive3DSRStorage),
    ],
)
def test_the_class_is_the_destinations_but_millimeters_need_three_dimensions(
    shape: str, wanted: ReportClass, sop_class_uid: str, written: dict[str, Written], tmp_path: Path
) -> None:
    report = lesion_report(located_findings(written[shape]), written[shape].paths, report_class=wanted)

    assert report.SOPClassUID == sop_class_uid
    assert dciodvfy_errors([save(report, tmp_path / "report.dcm")]) == []


def rewrite(paths: list[Path], folder: Path, change: Callable[[Dataset], object]) -> list[Path]:
    """The same files after a change to each."""
    changed = []
    for path in paths:
        dataset = dcmread(path)
        change(dataset)
        changed.append(save(dataset, folder / path.name))
    return changed


UNPLACED: dict[str, Callable[[Dataset], object]] = {
    "no frame of reference": lambda ds: ds.__delattr__("FrameOfReferenceUID"),
    "blank frame of reference": lambda ds: ds.__setattr__("FrameOfReferenceUID", ""),
    "no origin": lambda ds: ds.__delattr__("TotalPixelMatrixOriginSequence"),
    "no orientation": lambda ds: ds.__delattr__("ImageOrientationSlide"),
    "no groups": lambda ds: ds.__delattr__("SharedFunctionalGroupsSequence"),
    "no measures": lambda ds: ds.SharedFunctionalGroupsSequence[0].__delattr__("PixelMeasuresSequence"),
}


@pytest.mark.parametrize("case", UNPLACED)
def test_a_slide_without_a_place_is_outlined_in_pixels(
    case: str, written: dict[str, Written], tmp_path: Path
) -> None:
    paths = rewrite(written["slide"].paths, tmp_path, UNPLACED[case])
    findings = located_findings(written["slide"])

    report = lesion_report(findings, paths)

    items = named(dcmread(save(report, tmp_path / "report.dcm")), used.IMAGE_REGION)
    for item, region in zip(items, findings.regions, strict=True):
        points = region.outline.points_xy
        assert (item.ValueType, item.PixelOriginInterpretation) == ("SCOORD", "VOLUME")
        np.testing.assert_array_equal(np.reshape(item.GraphicData, (-1, 2)), [*points, points[0]])
        assert references_of(item)[0].ReferencedSOPInstanceUID == findings.sop_instance_uids[0]
    assert dciodvfy_errors([tmp_path / "report.dcm"]) == []


def measures(dataset: Dataset) -> Dataset:
    return dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]


HOSTILE: dict[str, Callable[[Dataset], object]] = {
    "spacing of nothing": lambda ds: setattr(measures(ds), "PixelSpacing", [0, 0]),
    "negative spacing": lambda ds: setattr(measures(ds), "PixelSpacing", [-1, 1]),
    "one spacing": lambda ds: setattr(measures(ds), "PixelSpacing", 0.001),
    "no spacing": lambda ds: measures(ds).__delattr__("PixelSpacing"),
    "endless spacing": lambda ds: setattr(measures(ds), "PixelSpacing", ["1e400", "1e400"]),
    "rows without direction": lambda ds: setattr(ds, "ImageOrientationSlide", [0] * 6),
    "rows along columns": lambda ds: setattr(ds, "ImageOrientationSlide", [1, 0, 0, 1, 0, 0]),
    "five cosines": lambda ds: setattr(ds, "ImageOrientationSlide", [1, 0, 0, 0, 1]),
    "empty origin": lambda ds: setattr(
        ds.TotalPixelMatrixOriginSequence[0], "XOffsetInSlideCoordinateSystem", None
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_source_that_contradicts_itself_is_refused(
    case: str, written: dict[str, Written], tmp_path: Path
) -> None:
    paths = rewrite(written["slide"].paths, tmp_path, HOSTILE[case])

    with pytest.raises(DatasetError):
        lesion_report(located_findings(written["slide"]), paths)


def test_nothing_is_outlined_on_what_has_no_pixels(written: dict[str, Written], tmp_path: Path) -> None:
    def strip(dataset: Dataset) -> None:
        for keyword in ("Rows", "Columns", "PixelData"):
            delattr(dataset, keyword)

    paths = rewrite(written["series"].paths, tmp_path, strip)

    with pytest.raises(DatasetError, match="has no pixels to outline anything on"):
        lesion_report(located_findings(written["series"]), paths)


@pytest.mark.parametrize(
    "value", [b"0.00x\\0.001", b"\xff\xff\xff\xff\xff\\0.001"], ids=["letters", "bytes of no character"]
)
def test_a_number_that_is_none_is_refused(value: bytes, written: dict[str, Written], tmp_path: Path) -> None:
    data = written["slide"].paths[0].read_bytes()
    assert data.count(b"0.001\\0.001") == 1
    path = tmp_path / "slide.dcm"
    path.write_bytes(data.replace(b"0.001\\0.001", value))

    with pytest.raises(DatasetError):
        lesion_report(located_findings(written["slide"]), [path, *written["slide"].paths[1:]])


# --- what was looked at


def subject_of(report: Dataset) -> list[str]:
    items = [item for item in report.ContentSequence if item.RelationshipType == "HAS OBS CONTEXT"]
    start = [one.ConceptNameCodeSequence[0].CodeValue for one in items].index("121024")
    return [str(one.get("UID") or one.get("TextValue") or code_of(one)) for one in items[start:]]


@pytest.mark.parametrize("kind", [Kind.FINDINGS_SR, Kind.LESIONS_SR])
def test_the_subject_of_a_slide_is_its_specimen(kind: Kind, written: dict[str, Written]) -> None:
    source = dcmread(written["slide"].paths[0], stop_before_pixels=True)

    report = encoded(located_findings(written["slide"]), written["slide"].paths, (kind,))[kind]

    uid = source.SpecimenDescriptionSequence[0].SpecimenUID
    assert subject_of(report) == [codes.DCM.Specimen.value, uid, "S-0401", "S-0401"]


def several(dataset: Dataset) -> None:
    dataset.SpecimenDescriptionSequence = [dataset.SpecimenDescriptionSequence[0]] * 2


def unnamed(dataset: Dataset) -> None:
    dataset.SpecimenDescriptionSequence[0].SpecimenUID = ""


@pytest.mark.parametrize(
    "change", [several, unnamed, lambda ds: ds.__delattr__("SpecimenDescriptionSequence")]
)
def test_where_it_is_not_clear_which_specimen_none_is_named(
    change: Callable[[Dataset], object], written: dict[str, Written], tmp_path: Path
) -> None:
    paths = rewrite(written["slide"].paths, tmp_path, change)

    report = lesion_report(located_findings(written["slide"]), paths)

    assert named(report, codes.DCM.SubjectClass) == []


def test_an_identifier_beyond_ascii_is_left_out_rather_than_changed(
    written: dict[str, Written], tmp_path: Path
) -> None:
    paths = rewrite(
        written["slide"].paths, tmp_path, lambda ds: setattr(ds, "ContainerIdentifier", "Größe–1")
    )

    report = lesion_report(located_findings(written["slide"]), paths)

    assert len(subject_of(report)) == 3
    assert named(report, codes.DCM.SpecimenContainerIdentifier) == []


# --- real sources


def boxed(paths: list[Path], indices: list[int]) -> Findings:
    """Findings with a box on some of the images of a real series."""
    headers = [dcmread(path, stop_before_pixels=True, force=True) for path in paths]
    boxes = (
        Outline.box(Frame(str(headers[index].SOPInstanceUID)), (20.5, 30.25), (120.0, 90.0))
        for index in indices
    )
    certain = score(NODULE, 0.91, (0.85, 0.95), Presence.PRESENT)
    return Findings(
        pipeline="real",
        algorithm=ALGORITHM,
        study_instance_uid=str(headers[0].StudyInstanceUID),
        series_instance_uid=str(headers[0].SeriesInstanceUID),
        sop_instance_uids=tuple(str(header.SOPInstanceUID) for header in headers),
        regions=tuple(
            Region(f"Lesion {number}", NODULE, box, certain, LUNG) for number, box in enumerate(boxes, 1)
        ),
    )


def test_lesions_of_a_real_ct_series_are_valid(tmp_path: Path) -> None:
    paths = real_ct_series()

    report = lesion_report(boxed(paths, [40, 41, 200]), paths)

    path = save(report, tmp_path / "report.dcm")
    assert dciodvfy_errors([path]) == []
    assert len(evidence_of(report)) == len(paths)
    assert len(named(dcmread(path), used.IMAGE_REGION)) == 3
    assert path.stat().st_size < 100_000


def test_lesions_of_real_radiographs_are_valid(tmp_path: Path) -> None:
    for path in real_radiographs():
        report = lesion_report(boxed([path], [0]), [path])

        assert dciodvfy_errors([save(report, tmp_path / f"{path.stem}-report.dcm")]) == []


@pytest.mark.filterwarnings("ignore:The value length", "ignore:The PN component")
def test_lesions_of_a_real_slide_are_outlined_in_its_pixels(tmp_path: Path) -> None:
    slide = dcmread(real_slide())
    # Its identifiers are longer than the standard allows, which the reader of sources refuses; what else is
    # malformed would be copied as it is.
    slide.SOPInstanceUID, slide.SeriesInstanceUID = slide.SOPInstanceUID[:60], slide.SeriesInstanceUID[:60]
    slide.StudyDate, slide.StudyID, slide.PatientID, slide.PatientName = "20210107", "1", "1", "Slide"
    path = save(slide, tmp_path / "slide.dcm")

    report = lesion_report(boxed([path], [0]), [path])

    (item,) = named(report, used.IMAGE_REGION)
    assert (item.ValueType, item.PixelOriginInterpretation) == ("SCOORD", "VOLUME")
    assert dciodvfy_errors([save(report, tmp_path / "report.dcm")]) == []


def test_a_line_of_more_points_than_an_element_holds_is_thinned(
    written: dict[str, Written], tmp_path: Path
) -> None:
    findings = located_findings(written["slide"])
    angles = np.linspace(0, 2 * np.pi, 20_000, endpoint=False)
    circle = (200 + 100 * np.stack([np.cos(angles), np.sin(angles)], axis=1)).astype(np.float32)
    region = replace(findings.regions[0], outline=Outline(findings.regions[0].outline.frame, circle))

    report = lesion_report(replace(findings, regions=(region,)), written["slide"].paths)

    path = save(report, tmp_path / "circle.dcm")
    (item,) = named(dcmread(path), used.IMAGE_REGION)
    assert item["GraphicData"].VR == "FL"
    points = np.reshape(item.GraphicData, (-1, 3))
    assert 3000 < len(points) <= 5000
    assert area_mm2(points) == pytest.approx(np.pi * 0.1**2, rel=1e-4)
    assert dciodvfy_errors([path]) == []
