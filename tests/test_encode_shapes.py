"""The findings report and the summary, for sources of every shape."""

from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread

from node.domain.findings import Findings, Measurement, Outcome, Presence, Refusal, Region
from node.domain.profile import Kind, Profile
from node.encode import Predecessor, encode
from node.encode import codes as used
from tests.located import ATTENUATION, HOUNSFIELD, MEASURED, MM, NODULE, VOLUME, located_findings
from tests.peers.validators import dciodvfy_errors, report_errors
from tests.results import make_context, save, score
from tests.shapes import WRITERS, encoded, foreign
from tests.sources import Written
from tests.trees import evidence_of, named, number_of, references_of, texts_of

KINDS = (Kind.FINDINGS_SR, Kind.SUMMARY_SR)
VERDICT = (
    "UNCERTAIN - needs review (the threshold lies inside the interval; the prediction set holds both answers)"
)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Written]:
    return {shape: write(tmp_path_factory.mktemp(shape)) for shape, write in WRITERS.items()}


@pytest.fixture(scope="module")
def results(
    written: dict[str, Written], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[Kind, Path]]:
    folder = tmp_path_factory.mktemp("results")
    return {
        shape: {
            kind: save(dataset, folder / f"{shape}-{kind}.dcm")
            for kind, dataset in encoded(located_findings(one), one.paths, KINDS).items()
        }
        for shape, one in written.items()
    }


def refused(findings: Findings) -> Findings:
    refusal = Refusal(Outcome.FAILED, "the pixel data cannot be decoded")
    return replace(findings, scores=(), regions=(), masks=(), maps=(), marks=(), refusal=refusal)


def listed(report: Dataset) -> list[str]:
    """The images of the library."""
    (library,) = named(report, used.IMAGE_LIBRARY)
    return [str(one.ReferencedSOPInstanceUID) for one in references_of(library)]


def summary_lines(findings: Findings, paths: list[Path]) -> list[str]:
    summary = encoded(findings, paths, (Kind.SUMMARY_SR,))[Kind.SUMMARY_SR]
    return [str(one.TextValue) for one in named(summary, used.FINDING)]


# --- the findings report


def test_validators_find_no_error(results: dict[str, dict[Kind, Path]]) -> None:
    paths = [path for objects in results.values() for path in objects.values()]

    assert dciodvfy_errors(paths) == []


@pytest.mark.slow
def test_pixelmed_finds_no_error(results: dict[str, dict[Kind, Path]]) -> None:
    assert report_errors([path for objects in results.values() for path in objects.values()]) == []


@pytest.mark.parametrize("shape", WRITERS)
def test_the_report_has_the_classes_alone(shape: str, results: dict[str, dict[Kind, Path]]) -> None:
    report = dcmread(results[shape][Kind.FINDINGS_SR])

    classes, image = named(report, used.MEASUREMENT_GROUP)
    assert number_of(named(classes, used.PROBABILITY)[0]) == (87.0, "%")
    assert named(image, used.OUT_OF_DISTRIBUTION_SCORE)
    assert named(report, used.IMAGE_REGION) == []


@pytest.mark.parametrize("shape", WRITERS)
def test_the_report_names_the_key_image_and_lists_all_as_evidence(
    shape: str, written: dict[str, Written], results: dict[str, dict[Kind, Path]]
) -> None:
    findings = located_findings(written[shape])
    report = dcmread(results[shape][Kind.FINDINGS_SR])

    frame = findings.regions[0].outline.frame
    assert listed(report) == [frame.sop_instance_uid]
    for group in named(report, used.MEASUREMENT_GROUP):
        (source,) = references_of(group)
        assert source.ReferencedSOPInstanceUID == frame.sop_instance_uid
        assert source.get("ReferencedFrameNumber") == frame.frame_number
    assert list(evidence_of(report)) == list(findings.sop_instance_uids)


def test_without_a_key_image_the_middle_stands_for_the_series_and_of_a_refusal_the_first(
    written: dict[str, Written],
) -> None:
    findings, paths = located_findings(written["series"]), written["series"].paths

    whole = encoded(replace(findings, regions=()), paths, KINDS)[Kind.FINDINGS_SR]
    failed = encoded(refused(findings), paths, KINDS)[Kind.FINDINGS_SR]

    assert listed(whole) == [findings.sop_instance_uids[len(paths) // 2]]
    assert listed(failed) == [findings.sop_instance_uids[0]]
    assert list(evidence_of(failed)) == list(findings.sop_instance_uids)


# --- what a run supersedes


def test_reports_name_the_ones_that_they_supersede(written: dict[str, Written], tmp_path: Path) -> None:
    findings, paths = located_findings(written["series"]), written["series"].paths
    kinds = (Kind.FINDINGS_SR, Kind.LESIONS_SR, Kind.SUMMARY_SR, Kind.KEY_OBJECTS)
    earlier = encoded(findings, paths, kinds)
    predecessors = tuple(
        Predecessor(kind, one.StudyInstanceUID, one.SeriesInstanceUID, one.SOPClassUID, one.SOPInstanceUID)
        for kind, one in earlier.items()
    )
    context = replace(
        make_context("again", profile=Profile(kinds)), run_key="again", predecessors=predecessors
    )

    later = {one.kind: one.dataset for one in encode(findings, paths, context)}

    # The standard has no predecessors of key objects (PS3.3 C.17.6.2).
    assert "PredecessorDocumentsSequence" not in later.pop(Kind.KEY_OBJECTS)
    for kind, report in later.items():
        (study,) = report.PredecessorDocumentsSequence
        (series,) = study.ReferencedSeriesSequence
        (instance,) = series.ReferencedSOPSequence
        before = earlier[kind]
        assert study.StudyInstanceUID == before.StudyInstanceUID
        assert series.SeriesInstanceUID == before.SeriesInstanceUID != report.SeriesInstanceUID
        assert instance.ReferencedSOPClassUID == before.SOPClassUID
        assert instance.ReferencedSOPInstanceUID == before.SOPInstanceUID != report.SOPInstanceUID
        assert "PredecessorDocumentsSequence" not in before
    assert dciodvfy_errors([save(one, tmp_path / f"{kind}.dcm") for kind, one in later.items()]) == []


# --- the summary


@pytest.mark.parametrize(
    ("shape", "place"),
    [("radiograph", ""), ("series", ", image {number}"), ("enhanced", ", frame {number}")],
)
def test_summary_has_a_line_for_each_region(
    shape: str, place: str, written: dict[str, Written], results: dict[str, dict[Kind, Path]]
) -> None:
    number = 1 + int(written[shape].mask.sum(axis=(1, 2)).argmax())
    measured = (
        "Volume 512.5 mm3 (95 % interval 470 to 560.25), Long Axis 11.25 mm, "
        "Attenuation Coefficient 35.5 HU (95 % interval 30 to 41), right lung"
    )

    first, second, third = texts_of(results[shape][Kind.SUMMARY_SR], used.FINDING)

    ending = measured + place.format(number=number)
    assert first == "Nodule: PRESENT, probability 87 % (95 % interval 78-93 %)"
    assert second == f"Lesion 1: Nodule PRESENT, probability 91 % (95 % interval 85-95 %), {ending}"
    assert third.startswith(f"Lesion 2: Nodule {VERDICT}, probability 58 % (95 % interval 42-70 %), ")


def test_summary_of_a_slide_gives_the_weights(results: dict[str, dict[Kind, Path]]) -> None:
    lines = texts_of(results["slide"][Kind.SUMMARY_SR], used.FINDING)

    assert lines[1:] == [
        f"Lesion {number}: Nodule PRESENT, Normalized attention weight 0.125, lung, image 1"
        for number in (1, 2)
    ]


def test_summary_of_a_foreign_image_gives_no_figure_of_a_region(written: dict[str, Written]) -> None:
    findings = foreign(located_findings(written["series"]))
    bare = replace(findings.regions[0], identifier="Bare", code=MEASURED[0].quantity, score=None)

    lines = summary_lines(replace(findings, regions=(*findings.regions, bare)), written["series"].paths)

    assert len(lines) == 5
    assert lines[2].startswith("Lesion 1: Nodule UNCERTAIN - needs review (the image is unlike those")
    assert lines[4] == "Bare: Volume UNCERTAIN - needs review, right lung, image 8"
    assert not any("%" in line or "mm" in line for line in lines)


@pytest.mark.parametrize(
    ("measurement", "words"),
    [
        (Measurement(VOLUME, 1_234_567.0, MM), "Volume 1234600 mm"),
        (Measurement(VOLUME, 0.0001234567, MM), "Volume 0.00012346 mm"),
        (
            Measurement(ATTENUATION, -812.0, HOUNSFIELD, (-850.0, -790.5)),
            "-812 HU (95 % interval -850 to -790.5)",
        ),
    ],
)
def test_measurements_are_written_as_they_are_read(
    measurement: Measurement, words: str, written: dict[str, Written]
) -> None:
    findings = located_findings(written["series"])
    region = replace(findings.regions[0], measurements=(measurement,))

    line = summary_lines(replace(findings, regions=(region,)), written["series"].paths)[1]

    assert words in line


def test_summary_of_many_regions_says_how_many_it_leaves_out(written: dict[str, Written]) -> None:
    findings = located_findings(written["series"])
    many = tuple(replace(findings.regions[0], identifier=f"Lesion {number}") for number in range(1, 31))

    lines = summary_lines(replace(findings, regions=many), written["series"].paths)

    assert lines[20].startswith("Lesion 20: ")
    assert lines[21:] == ["... and 10 more regions"]


def test_outcome_counts_regions_that_are_certain(written: dict[str, Written]) -> None:
    findings = located_findings(written["series"])
    absent = (score(NODULE, 0.1, (0.05, 0.2), Presence.ABSENT),)
    doubtful: tuple[Region, ...] = findings.regions[1:]

    for regions, words in ((findings.regions, "findings"), (doubtful, "nothing certain - needs review")):
        summary = encoded(replace(findings, scores=absent, regions=regions), written["series"].paths, KINDS)
        lines = [one.TextValue for one in named(summary[Kind.SUMMARY_SR], used.CONCLUSION)]
        assert f"Outcome: {words}" in lines


def test_an_image_without_a_number_is_named_by_none(written: dict[str, Written], tmp_path: Path) -> None:
    findings = located_findings(written["series"])
    paths = []
    for path in written["series"].paths:
        dataset = dcmread(path)
        dataset.InstanceNumber = None
        paths.append(save(dataset, tmp_path / path.name))

    lines = summary_lines(findings, paths)

    assert lines[1].endswith("right lung")


def test_no_line_of_the_summary_is_wider_than_a_screen(written: dict[str, Written]) -> None:
    findings = located_findings(written["series"])

    texts = summary_lines(findings, written["series"].paths)

    lines = [line for text in texts for line in text.split("\r\n")]
    assert len(lines) > len(texts)
    assert max(map(len, lines)) <= 96
    assert not any(
        line.endswith(("%", "mm3", "interval")) for text in texts for line in text.split("\r\n")[:-1]
    )
