import subprocess
from dataclasses import replace
from pathlib import Path

import highdicom.sr
import pytest
from pydicom import dcmread
from pydicom.sr import _concepts_dict
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from node.domain.findings import Doubt, OutOfDistribution, Priority, Score
from node.domain.profile import Profile, ReportClass
from node.encode import codes as used
from node.encode import encode
from node.samples.dicom import write_dx
from node.samples.thorax import thorax_radiograph
from tests.peers import need_program
from tests.peers.validators import dciodvfy_errors, report_errors
from tests.results import (
    ABSENT,
    ALGORITHM,
    FAMILIAR,
    FOREIGN,
    PRESENT,
    REAL_RADIOGRAPHS,
    REASONS,
    SCORES,
    UNDETERMINED,
    encode_case,
    make_context,
    make_findings,
    save,
)
from tests.trees import code_of, named, number_of, texts_of

REFUSED = ["not_eligible", "failed"]
ANALYZED = [case for case in SCORES if case not in REFUSED]
FOREIGN_WORDS = "The image is unlike those the model was made for: its scores must not be used."


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dx(thorax_radiograph(5, size=256), tmp_path_factory.mktemp("source") / "dx.dcm")


@pytest.fixture(scope="module")
def results(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Path]]:
    """The files of each case, by kind."""
    folder = tmp_path_factory.mktemp("results")
    return {
        case: {
            kind: save(dataset, folder / f"{case}-{kind}.dcm")
            for kind, dataset in encode_case(case, source).items()
        }
        for case in SCORES
    }


# --- which objects, and what the validators say


@pytest.mark.parametrize("case", SCORES)
def test_only_an_analyzed_study_has_a_picture(case: str, results: dict[str, dict[str, Path]]) -> None:
    expected = {"findings_sr", "summary_sr"} | ({"secondary_capture"} if case in ANALYZED else set())

    assert set(results[case]) == expected


def test_dciodvfy_finds_no_error(results: dict[str, dict[str, Path]]) -> None:
    paths = [path for objects in results.values() for path in objects.values()]

    assert dciodvfy_errors(paths) == []


def test_pixelmed_finds_no_error_in_reports(results: dict[str, dict[str, Path]]) -> None:
    reports = [
        results[case][kind] for case in ("findings", "foreign") for kind in ("findings_sr", "summary_sr")
    ]

    assert report_errors([*reports, results["not_eligible"]["findings_sr"]]) == []


@pytest.mark.slow
def test_pixelmed_finds_no_error_in_any_report(
    source: Path, results: dict[str, dict[str, Path]], tmp_path: Path
) -> None:
    paths = [path for objects in results.values() for kind, path in objects.items() if kind.endswith("_sr")]
    for report_class in (ReportClass.COMPREHENSIVE, ReportClass.ENHANCED):
        report = encode_case("findings", source, profile=Profile(report_class=report_class))["findings_sr"]
        paths.append(save(report, tmp_path / f"{report_class}.dcm"))

    assert report_errors(paths) == []


@pytest.mark.parametrize("report_class", ReportClass)
def test_the_tree_is_valid_in_each_report_class(
    report_class: ReportClass, source: Path, tmp_path: Path
) -> None:
    report = encode_case("findings", source, profile=Profile(report_class=report_class))["findings_sr"]

    path = save(report, tmp_path / "report.dcm")

    assert dciodvfy_errors([path]) == []
    groups = highdicom.sr.srread(path).content.get_image_measurement_groups()
    assert len(groups) == len(SCORES["findings"]) + len(["the image's"])


def test_entities_agree_with_the_source(source: Path, results: dict[str, dict[str, Path]]) -> None:
    program = need_program("dcentvfy", "dicom3tools")

    done = subprocess.run(
        [program, source, *results["findings"].values()], capture_output=True, text=True, check=False
    )

    complaints = (done.stdout + done.stderr).splitlines()
    assert [line for line in complaints if "Different information entities" not in line] == []


@pytest.mark.parametrize("name", REAL_RADIOGRAPHS)
def test_results_of_real_radiographs_are_valid(name: str, zoo: list[Path], tmp_path: Path) -> None:
    real = next(path for path in zoo if path.stem == name)

    objects = encode_case("findings", real)

    paths = [save(dataset, tmp_path / f"{kind}.dcm") for kind, dataset in objects.items()]
    assert dciodvfy_errors(paths) == []


# --- the findings report


def test_probability_carries_its_uncertainty_below_it(results: dict[str, dict[str, Path]]) -> None:
    group = named(dcmread(results["findings"]["findings_sr"]), codes.DCM.MeasurementGroup)[0]

    (probability,) = named(group, used.PROBABILITY)

    assert number_of(probability) == (87.0, "%")
    below = {item.ConceptNameCodeSequence[0].CodeValue: item for item in probability.ContentSequence}
    assert code_of(below.pop("121401")) == used.MEAN.value
    assert {item.RelationshipType for item in below.values()} == {"HAS PROPERTIES"}
    assert {name: number_of(item) for name, item in below.items()} == {
        used.UPPER_UNCERTAINTY.value: (6.0, "%"),
        used.LOWER_UNCERTAINTY.value: (9.0, "%"),
        used.INTERVAL_LEVEL.value: (95.0, "%"),
        used.STANDARD_DEVIATION.value: (4.0, "%"),
    }
    assert number_of(named(group, used.ENTROPY)[0]) == (0.557438, "bit")
    assert number_of(named(group, used.MUTUAL_INFORMATION)[0]) == (0.0123, "bit")


@pytest.mark.parametrize(
    ("number", "score", "presence", "answers"),
    [
        (0, PRESENT, codes.SCT.Present, [codes.SCT.Present]),
        (1, UNDETERMINED, codes.SCT.Undetermined, [codes.SCT.Absent, codes.SCT.Present]),
        (2, ABSENT, codes.SCT.Absent, [codes.SCT.Absent]),
    ],
)
def test_only_an_absent_class_is_no_finding(
    number: int, score: Score, presence: Code, answers: list[Code], results: dict[str, dict[str, Path]]
) -> None:
    group = named(dcmread(results["findings"]["findings_sr"]), codes.DCM.MeasurementGroup)[number]

    label = score.code
    assert [code_of(item) for item in named(group, Code(label.value, "SCT", ""))] == [presence.value]
    assert [code_of(item) for item in named(group, used.FINDING)] == (
        [] if score is ABSENT else [label.value]
    )
    members = named(group, used.PREDICTION_SET_MEMBER)
    assert [code_of(item) for item in members] == [answer.value for answer in answers]
    assert [number_of(item) for item in named(group, used.CONFORMAL_COVERAGE)] == [(95.0, "%")]


def test_a_score_that_abstains_says_why(results: dict[str, dict[str, Path]]) -> None:
    groups = named(dcmread(results["findings"]["findings_sr"]), codes.DCM.MeasurementGroup)

    assert [[item.TextValue for item in named(group, used.COMMENT)] for group in groups] == [
        [],
        [f"UNCERTAIN - needs review ({Doubt.THRESHOLD_IN_INTERVAL}; {Doubt.BOTH_ANSWERS})"],
        [],
        [],
    ]


def test_an_empty_prediction_set_has_a_coverage_and_no_member(results: dict[str, dict[str, Path]]) -> None:
    group = named(dcmread(results["unpredicted"]["findings_sr"]), codes.DCM.MeasurementGroup)[0]

    assert named(group, used.PREDICTION_SET_MEMBER) == []
    assert [number_of(item) for item in named(group, used.CONFORMAL_COVERAGE)] == [(95.0, "%")]
    assert code_of(named(group, Code("53084003", "SCT", ""))[0]) == codes.SCT.Undetermined.value
    assert str(Doubt.NEITHER_ANSWER) in named(group, used.COMMENT)[0].TextValue


@pytest.mark.parametrize(
    ("case", "image", "flag"), [("findings", FAMILIAR, codes.SCT.No), ("foreign", FOREIGN, codes.SCT.Yes)]
)
def test_how_strange_the_image_is_stands_once_as_flag_and_number(
    case: str, image: OutOfDistribution, flag: Code, results: dict[str, dict[str, Path]]
) -> None:
    report = dcmread(results[case]["findings_sr"])

    assert [code_of(item) for item in named(report, used.OUT_OF_DISTRIBUTION)] == [flag.value]
    (number,) = named(report, used.OUT_OF_DISTRIBUTION_SCORE)
    assert number_of(number) == (pytest.approx(image.score, abs=1e-5), "1")
    group = named(report, codes.DCM.MeasurementGroup)[-1]
    assert number in named(group, used.OUT_OF_DISTRIBUTION_SCORE)
    assert "out_of_distribution_threshold=1.25" in [
        item.TextValue for item in named(group, codes.DCM.AlgorithmParameters)
    ]


def test_a_foreign_image_has_no_finding_and_says_that_its_scores_must_not_be_used(
    results: dict[str, dict[str, Path]],
) -> None:
    report = dcmread(results["foreign"]["findings_sr"])

    assert named(report, used.FINDING) == []
    assert named(report, codes.SCT.Area) == []
    assert FOREIGN_WORDS in [item.TextValue for item in named(report, used.COMMENT)]
    for score in SCORES["foreign"]:
        (presence,) = named(report, Code(score.code.value, "SCT", ""))
        assert code_of(presence) == codes.SCT.Undetermined.value


def test_what_was_measured_of_a_class_stands_in_its_group(results: dict[str, dict[str, Path]]) -> None:
    report = dcmread(results["findings"]["findings_sr"])

    present, *others = named(report, codes.DCM.MeasurementGroup)
    assert [number_of(item) for item in named(present, codes.SCT.Area)] == [(12.5, "mm2")]
    assert not any(named(group, codes.SCT.Area) for group in others)


def test_what_the_model_does_not_state_is_not_in_the_report(results: dict[str, dict[str, Path]]) -> None:
    report = dcmread(results["bare"]["findings_sr"])

    for name in (
        used.PREDICTION_SET_MEMBER,
        used.CONFORMAL_COVERAGE,
        used.OUT_OF_DISTRIBUTION,
        used.OUT_OF_DISTRIBUTION_SCORE,
    ):
        assert named(report, name) == []
    assert len(named(report, codes.DCM.MeasurementGroup)) == len(SCORES["bare"])


def test_each_group_names_algorithm_threshold_and_source(
    source: Path, results: dict[str, dict[str, Path]]
) -> None:
    report = highdicom.sr.srread(results["findings"]["findings_sr"])
    groups = report.content.get_image_measurement_groups()

    assert len({group.tracking_uid for group in groups}) == len(groups) == 4
    own = [["decision_threshold=0.5", "interval=95%"]] * 3 + [["out_of_distribution_threshold=1.25"]]
    for group, parameters in zip(groups, own, strict=True):
        item = group[0]
        assert [one.TextValue for one in named(item, codes.DCM.AlgorithmParameters)] == [
            *parameters,
            *ALGORITHM.parameters,
        ]
        assert [one.referenced_sop_instance_uid for one in group.source_images] == [
            dcmread(source, stop_before_pixels=True).SOPInstanceUID
        ]


@pytest.mark.parametrize(
    ("case", "summary"),
    [
        ("findings", codes.DCM.AllAlgorithmsSucceededWithFindings),
        ("uncertain", codes.DCM.AllAlgorithmsSucceededWithFindings),
        ("unpredicted", codes.DCM.AllAlgorithmsSucceededWithFindings),
        ("foreign", codes.DCM.AllAlgorithmsSucceededWithFindings),
        ("no_findings", codes.DCM.AllAlgorithmsSucceededWithoutFindings),
        ("not_eligible", codes.DCM.NoAlgorithmsSucceededWithoutFindings),
        ("failed", codes.DCM.NoAlgorithmsSucceededWithoutFindings),
    ],
)
def test_report_says_how_the_analysis_ended(
    case: str, summary: Code, results: dict[str, dict[str, Path]]
) -> None:
    report = dcmread(results[case]["findings_sr"])

    assert [code_of(item) for item in named(report, used.SUMMARY_OF_ANALYSES)] == [summary.value]
    assert bool(named(report, used.PRIORITY)) is (case in ANALYZED and case not in ("no_findings", "foreign"))
    assert bool(named(report, codes.DCM.ImagingMeasurements)) is (case in ANALYZED)
    assert report.CompletionFlag == ("COMPLETE" if case in ANALYZED else "PARTIAL")
    assert (report.VerificationFlag, report.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_gives_its_reason_and_no_number(case: str, results: dict[str, dict[str, Path]]) -> None:
    assert texts_of(results[case]["findings_sr"], used.REASON) == [REASONS[case]]
    assert f"Not analysed: {REASONS[case]}" in texts_of(results[case]["summary_sr"], used.FINDING)
    assert b"MeasuredValueSequence" not in dcmread(results[case]["findings_sr"]).to_json().encode()


@pytest.mark.parametrize(("priority", "category"), list(used.PRIORITY_CATEGORY.items()))
def test_priority_is_an_actionable_finding(priority: Priority, category: Code, source: Path) -> None:
    report = encode_case("findings", source, priority=priority)["findings_sr"]

    assert [code_of(item) for item in named(report, used.PRIORITY)] == [category.value]


def test_foreign_words_are_spelled_so_that_every_character_set_holds_them(
    source: Path, tmp_path: Path
) -> None:
    french = replace(PRESENT, code=replace(PRESENT.code, meaning="Épanchement pleural – côté gauche " * 3))
    findings = replace(make_findings("findings", source), scores=(french,))

    objects = {item.kind: item.dataset for item in encode(findings, [source], make_context("french"))}

    paths = [save(dataset, tmp_path / f"{kind}.dcm") for kind, dataset in objects.items()]
    assert dciodvfy_errors(paths) == []
    (finding,) = named(dcmread(paths[0]), used.FINDING)
    assert finding.ConceptCodeSequence[0].CodeMeaning.startswith("Epanchement pleural - cote gauche Epan")


# --- the summary


def test_summary_speaks_in_sentences(results: dict[str, dict[str, Path]]) -> None:
    path = results["findings"]["summary_sr"]

    assert texts_of(path, used.FINDING) == [
        "Pneumonia: PRESENT, probability 87 % (95 % interval 78-93 %), "
        "Area 12.5 mm2 (95 % interval 11 to 14)",
        "Bacterial pneumonia: UNCERTAIN - needs review (the threshold lies inside the interval; "
        "the prediction set holds both answers), probability 64 % (95 % interval 45-80 %)",
        "Viral pneumonia: absent, probability 12 % (95 % interval 5-20 %)",
    ]
    assert texts_of(path, used.CONCLUSION) == [
        "Investigational. Not verified by a physician. Not for primary diagnosis.",
        "Outcome: findings",
        "Suggested reading priority: urgent",
        "Algorithm: chest_xray_densenet121, version 1.0.0",
    ]


def test_summary_of_a_foreign_image_gives_no_figure(results: dict[str, dict[str, Path]]) -> None:
    path = results["foreign"]["summary_sr"]

    warning, *lines = texts_of(path, used.FINDING)
    assert warning == FOREIGN_WORDS
    assert lines[0] == (
        "Pneumonia: UNCERTAIN - needs review (the image is unlike those the model was made for)"
    )
    assert len(lines) == len(SCORES["foreign"])
    assert not any("%" in line for line in lines)


@pytest.mark.parametrize("case", ["uncertain", "unpredicted", "foreign"])
def test_summary_claims_no_finding_where_nothing_is_certain(
    case: str, results: dict[str, dict[str, Path]]
) -> None:
    assert "Outcome: nothing certain - needs review" in texts_of(results[case]["summary_sr"], used.CONCLUSION)
    assert not any("absent" in line for line in texts_of(results["foreign"]["summary_sr"], used.FINDING))


# --- codes


def all_codes() -> list[Code]:
    constants = [value for name, value in vars(used).items() if name.isupper()]
    tables = [table for table in constants if isinstance(table, dict)]
    return [
        one
        for one in [*constants, *(code for table in tables for code in table.values())]
        if isinstance(one, Code)
    ]


@pytest.mark.parametrize("code", all_codes(), ids=lambda code: code.value)
def test_meanings_are_those_of_the_dictionary(code: Code) -> None:
    scheme = _concepts_dict.concepts.get(code.scheme_designator, {})

    meanings = {
        entry[code.value][0].removesuffix(" (attribute)") for entry in scheme.values() if code.value in entry
    }

    unlisted = {used.QUALITATIVE_EVALUATIONS, used.BIT}
    is_private = code.scheme_designator == used.PRIVATE_SCHEME
    assert code.meaning in meanings or ((code in unlisted or is_private) and not meanings)
