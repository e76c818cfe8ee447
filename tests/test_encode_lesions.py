from dataclasses import replace
from pathlib import Path

import highdicom.sr
import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from node.domain.findings import Findings, Presence, Region, Score
from node.domain.location import Mask
from node.domain.profile import Kind
from node.encode import codes as used
from tests.located import LUNG, MEASURED, NODULE, located_findings
from tests.peers.validators import dciodvfy_errors, report_errors
from tests.results import ALGORITHM, FOREIGN, of, save, score
from tests.shapes import BOXES, IN_PATIENT, SEGMENTS, WRITERS, encoded, foreign, lesion_report
from tests.sources import Written
from tests.trees import code_of, evidence_of, named, number_of, references_of

OHIF_LINES = 5

ABSENT = score(NODULE, 0.12, (0.05, 0.2), Presence.ABSENT)
LONG = Code("103339001", "SCT", "Long Axis")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Written]:
    return {shape: write(tmp_path_factory.mktemp(shape)) for shape, write in WRITERS.items()}


@pytest.fixture(scope="module")
def reports(written: dict[str, Written], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The lesion reports of each shape, with references to segments and without, and the odd ones."""
    folder = tmp_path_factory.mktemp("reports")
    findings = {shape: located_findings(one) for shape, one in written.items()}
    series = written["series"].paths
    built = {
        f"{shape}-{form}": lesion_report(findings[shape], written[shape].paths, kinds=kinds)
        for shape in WRITERS
        for form, kinds in (("boxes", BOXES), ("segments", SEGMENTS))
    }
    built["mixed"] = lesion_report(half_segmented(findings["series"]), series, kinds=SEGMENTS)
    one = replace(findings["radiograph"], regions=findings["radiograph"].regions[:1])
    built["one"] = lesion_report(one, written["radiograph"].paths, kinds=BOXES)
    built["foreign"] = lesion_report(foreign(findings["series"]), series, kinds=BOXES)
    return {name: save(dataset, folder / f"{name}.dcm") for name, dataset in built.items()}


def half_segmented(findings: Findings) -> Findings:
    """Findings of which the second region has no segment."""
    (mask,) = findings.masks
    labels = np.where(mask.labels == 1, 1, 0).astype(np.uint8)
    return replace(findings, masks=(Mask(mask.frames, mask.segments[:1], labels),))


def groups_of(path: Path, region: Region) -> list[Dataset]:
    """The measurement groups of one region, in order."""
    groups = named(dcmread(path), used.MEASUREMENT_GROUP)
    return [one for one in groups if identifier_of(one) == region.identifier]


def identifier_of(group: Dataset) -> str:
    return str(named(group, codes.DCM.TrackingIdentifier)[0].TextValue)


def template_of(group: Dataset) -> str:
    return str(group.ContentTemplateSequence[0].TemplateIdentifier)


def tracking_uid_of(group: Dataset) -> str:
    return str(named(group, codes.DCM.TrackingUniqueIdentifier)[0].UID)


def with_interval(item: Dataset) -> tuple[float, float, float]:
    """A number, and the bounds that the distances below it give, which are in its unit."""
    value, unit = number_of(item)
    below = [
        number_of(named(item, name)[0])
        for name in (used.LOWER_UNCERTAINTY, used.UPPER_UNCERTAINTY, used.INTERVAL_LEVEL)
    ]
    assert [one[1] for one in below] == [unit, unit, "%"]
    assert below[2][0] == 95
    return value, value - below[0][0], value + below[1][0]


# --- what the validators say


def test_dciodvfy_finds_no_error(reports: dict[str, Path]) -> None:
    assert dciodvfy_errors(reports.values()) == []


def test_pixelmed_finds_no_error(reports: dict[str, Path]) -> None:
    assert report_errors([reports[form] for form in ("series-boxes", "slide-segments", "mixed", "one")]) == []


@pytest.mark.slow
@pytest.mark.parametrize("form", ["radiograph", "series", "enhanced", "slide", "foreign"])
def test_pixelmed_finds_no_error_in_any_form(form: str, reports: dict[str, Path]) -> None:
    assert report_errors([path for name, path in reports.items() if name.startswith(form)]) == []


@pytest.mark.parametrize("shape", WRITERS)
def test_encoding_twice_gives_the_same_bytes(
    shape: str, written: dict[str, Written], reports: dict[str, Path], tmp_path: Path
) -> None:
    again = lesion_report(located_findings(written[shape]), written[shape].paths, kinds=SEGMENTS)

    assert save(again, tmp_path / "again.dcm").read_bytes() == reports[f"{shape}-segments"].read_bytes()


def test_without_a_region_there_is_no_report(written: dict[str, Written]) -> None:
    findings = replace(located_findings(written["series"]), regions=())

    assert encoded(findings, written["series"].paths) == {}


# --- values


@pytest.mark.parametrize("form", ["boxes", "segments"])
@pytest.mark.parametrize("shape", IN_PATIENT)
def test_every_value_of_a_region_comes_back(
    shape: str, form: str, written: dict[str, Written], reports: dict[str, Path]
) -> None:
    for region in located_findings(written[shape]).regions:
        values = groups_of(reports[f"{shape}-{form}"], region)[0]

        assert region.score is not None
        uncertainty = region.score.uncertainty
        (certainty,) = named(values, used.CERTAINTY)
        expected = (region.score.probability, *uncertainty.interval)
        assert with_interval(certainty) == pytest.approx([100 * one for one in expected])
        assert number_of(named(certainty, used.STANDARD_DEVIATION)[0]) == (100 * uncertainty.spread, "%")
        for measured in region.measurements:
            (item,) = named(values, Code(measured.quantity.value, measured.quantity.scheme, ""))
            assert number_of(item) == (measured.value, measured.unit.value)
            if measured.interval:
                assert with_interval(item) == pytest.approx((measured.value, *measured.interval))
        assert number_of(named(values, used.ENTROPY)[0]) == (uncertainty.entropy, "bit")
        assert number_of(named(values, used.MUTUAL_INFORMATION)[0]) == (uncertainty.mutual_information, "bit")
        answers = uncertainty.prediction_set.answers if uncertainty.prediction_set else ()
        members = [code_of(one) for one in named(values, used.PREDICTION_SET_MEMBER)]
        assert members == [used.PRESENCE[one].value for one in answers]


@pytest.mark.parametrize("name", ["radiograph-boxes", "series-segments", "mixed"])
def test_the_numbers_that_a_viewer_has_lines_for_are_those_a_reader_needs(
    name: str, reports: dict[str, Path]
) -> None:
    for group in named(dcmread(reports[name]), used.MEASUREMENT_GROUP):
        numbers = [one for one in group.ContentSequence if one.ValueType == "NUM"]

        first = [one.ConceptNameCodeSequence[0].CodeValue for one in numbers[: OHIF_LINES - 1]]
        wanted = [used.CERTAINTY.value, *(one.quantity.value for one in MEASURED)]
        assert first == (wanted if numbers else [])


def test_a_number_keeps_the_digits_of_float32(written: dict[str, Written]) -> None:
    findings = located_findings(written["series"])
    measured = replace(MEASURED[1], value=float(np.float32(11.2)), interval=(float(np.float32(-10.3)), 1e9))
    region = replace(findings.regions[0], measurements=(measured,))

    report = lesion_report(replace(findings, regions=(region,)), written["series"].paths)

    (item,) = named(report, LONG)
    assert number_of(item)[0] == 11.2
    assert with_interval(item) == pytest.approx((11.2, -10.3, 1e9), rel=1e-6)


# --- what is found, and whether to show it


PRESENT, UNDETERMINED = (
    score(NODULE, 0.91, (0.85, 0.95), Presence.PRESENT),
    score(NODULE, 0.58, (0.42, 0.7), Presence.ABSENT, Presence.PRESENT),
)
REQUIRED, OPTIONAL = used.INTENT_BY_PRESENCE[Presence.PRESENT], used.INTENT_BY_PRESENCE[Presence.UNDETERMINED]


@pytest.mark.parametrize(
    ("own", "of_image", "is_named", "intent"),
    [
        (PRESENT, (), True, REQUIRED),
        (UNDETERMINED, (), True, OPTIONAL),
        (ABSENT, (PRESENT,), False, used.NOT_FOR_PRESENTATION),
        (None, (), True, REQUIRED),
        (None, (PRESENT,), True, REQUIRED),
        (None, (UNDETERMINED,), True, OPTIONAL),
        (None, (ABSENT,), False, used.NOT_FOR_PRESENTATION),
        (of(FOREIGN, PRESENT)[0], (), False, used.NOT_FOR_PRESENTATION),
        (None, of(FOREIGN, PRESENT), False, used.NOT_FOR_PRESENTATION),
    ],
)
def test_an_absent_or_foreign_region_is_no_finding_and_not_to_be_shown(
    own: Score | None,
    of_image: tuple[Score, ...],
    is_named: bool,
    intent: Code,
    written: dict[str, Written],
) -> None:
    findings = located_findings(written["series"])
    region = replace(findings.regions[0], score=own)

    report = lesion_report(replace(findings, regions=(region,), scores=of_image), written["series"].paths)

    groups = named(report, used.MEASUREMENT_GROUP)
    assert [len(named(one, used.FINDING)) for one in groups] == [int(is_named)] * 2
    assert [code_of(one) for one in named(report, used.RENDERING_INTENT)] == [intent.value]


def test_a_region_says_what_it_is_where_and_why_it_is_doubtful(reports: dict[str, Path]) -> None:
    report = dcmread(reports["series-boxes"])

    groups = named(report, used.MEASUREMENT_GROUP)
    assert {code_of(one) for one in named(report, used.FINDING)} == {NODULE.value}
    assert [code_of(one) for one in named(report, codes.SCT.FindingSite)] == [LUNG.value] * len(groups)
    assert [code_of(one) for one in named(report, codes.SCT.Laterality)] == ["24028007"] * len(groups)
    labels = [code_of(one) for one in named(report, Code(NODULE.value, "SCT", ""))]
    assert labels == [codes.SCT.Present.value, codes.SCT.Undetermined.value]
    (comment,) = named(report, used.COMMENT)
    assert comment in groups[2].ContentSequence
    assert comment.TextValue.startswith("UNCERTAIN - needs review (the threshold lies inside the interval;")
    for group in groups:
        assert [one.TextValue for one in named(group, codes.DCM.AlgorithmName)] == [ALGORITHM.name]
        parameters = [one.TextValue for one in named(group, codes.DCM.AlgorithmParameters)]
        assert parameters == ["decision_threshold=0.5", "interval=95%", *ALGORITHM.parameters]


def test_a_foreign_image_has_outlines_but_no_figure(reports: dict[str, Path]) -> None:
    report = dcmread(reports["foreign"])

    assert "NUM" not in {one.ValueType for one in named_items(report)}
    assert len(named(report, used.IMAGE_REGION)) == 2
    assert named(report, used.PREDICTION_SET_MEMBER) == []
    assert code_of(named(report, used.OUT_OF_DISTRIBUTION)[0]) == codes.SCT.Yes.value
    comments = [one.TextValue for one in named(report, used.COMMENT)]
    assert "The image is unlike those the model was made for: its scores must not be used." in comments


def named_items(dataset: Dataset) -> list[Dataset]:
    """Every item of a tree."""
    children = dataset.get("ContentSequence", ())
    return [*children, *(item for child in children for item in named_items(child))]


# --- where it is


@pytest.mark.parametrize("name", [f"{shape}-{form}" for shape in WRITERS for form in ("boxes", "segments")])
def test_everything_tracked_has_one_place(name: str, reports: dict[str, Path]) -> None:
    groups = named(dcmread(reports[name]), used.MEASUREMENT_GROUP)

    tracked = {tracking_uid_of(one) for one in groups}
    placed = [tracking_uid_of(one) for one in groups if named(one, used.IMAGE_REGION)]
    assert len(tracked) == 2
    assert sorted(placed) == sorted(tracked)


@pytest.mark.parametrize(
    ("name", "templates"),
    [
        *((f"{shape}-boxes", ["1501", "1410"] * 2) for shape in IN_PATIENT),
        *((f"{shape}-segments", ["1411", "1410"] * 2) for shape in IN_PATIENT),
        *((f"slide-{form}", ["1410"] * 2) for form in ("boxes", "segments")),
        ("mixed", ["1411", "1410", "1410"]),
        ("foreign", ["1501", "1410"] * 2),
    ],
)
def test_groups_are_those_that_validators_and_viewers_take(
    name: str, templates: list[str], reports: dict[str, Path]
) -> None:
    groups = named(dcmread(reports[name]), used.MEASUREMENT_GROUP)

    assert [template_of(one) for one in groups] == templates


@pytest.mark.parametrize("form", ["boxes", "segments"])
@pytest.mark.parametrize("shape", IN_PATIENT)
def test_an_outline_is_a_closed_line_on_its_picture(
    shape: str, form: str, written: dict[str, Written], reports: dict[str, Path]
) -> None:
    report = highdicom.sr.srread(reports[f"{shape}-{form}"])

    for region in located_findings(written[shape]).regions:
        uid = tracking_uid_of(groups_of(reports[f"{shape}-{form}"], region)[0])
        (group,) = report.content.get_planar_roi_measurement_groups(tracking_uid=uid)
        points = region.outline.points_xy
        assert group.roi.graphic_type is highdicom.sr.GraphicTypeValues.POLYLINE
        # Corners of pixels are whole numbers, which float32 holds exactly.
        np.testing.assert_array_equal(group.roi.value, [*points, points[0]])
        (source,) = references_of(group.roi)
        assert source.ReferencedSOPInstanceUID == region.outline.frame.sop_instance_uid
        assert source.get("ReferencedFrameNumber") == region.outline.frame.frame_number
        assert code_of(named(group[0], used.GEOMETRIC_PURPOSE)[0]) == used.BOUNDED_BY.value


@pytest.mark.parametrize("shape", IN_PATIENT)
def test_a_region_names_the_segment_that_delineates_it(shape: str, written: dict[str, Written]) -> None:
    findings = located_findings(written[shape])

    objects = encoded(findings, written[shape].paths, SEGMENTS)

    report, segmentation = objects[Kind.LESIONS_SR], objects[Kind.SEGMENTATION]
    segments = {one.TrackingID: one for one in segmentation.SegmentSequence}
    volumes = [one for one in named(report, used.MEASUREMENT_GROUP) if template_of(one) == "1411"]
    assert [identifier_of(one) for one in volumes] == [one.identifier for one in findings.regions]
    for group in volumes:
        (reference,) = references_of(group)
        segment = segments[identifier_of(group)]
        assert reference.ReferencedSOPInstanceUID == segmentation.SOPInstanceUID
        assert reference.ReferencedSOPClassUID == segmentation.SOPClassUID
        assert reference.ReferencedSegmentNumber == segment.SegmentNumber
        assert tracking_uid_of(group) == segment.TrackingUID
        (series,) = named(group, codes.DCM.SourceSeriesForSegmentation)
        assert findings.series_instance_uid == series.UID
    assert evidence_of(report)[segmentation.SOPInstanceUID] == segmentation.SeriesInstanceUID


@pytest.mark.parametrize("name", ["radiograph-segments", "series-segments", "mixed", "slide-segments"])
def test_whatever_is_referred_to_is_evidence(name: str, reports: dict[str, Path]) -> None:
    report = dcmread(reports[name])

    referred = {one.ReferencedSOPInstanceUID for one in references_of(report)}
    assert referred <= set(evidence_of(report))


def test_a_series_is_evidence_but_only_its_key_images_are_listed(
    written: dict[str, Written], reports: dict[str, Path]
) -> None:
    findings = located_findings(written["series"])
    report = dcmread(reports["series-boxes"])

    (library,) = named(report, used.IMAGE_LIBRARY)
    shown = {region.outline.frame.sop_instance_uid for region in findings.regions}
    assert {one.ReferencedSOPInstanceUID for one in references_of(library)} == shown
    assert set(evidence_of(report)) == set(findings.sop_instance_uids)
