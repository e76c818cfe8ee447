"""The commands as a person types them, each a process of its own, and the JSON they promise."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
import pytest

import node
from node.domain.findings import Doubt
from node.samples.demo import SLIDES, demo_samples
from tests.peers import REPOSITORY
from tests.peers.node import run_sightline

Json = dict[str, Any]

OUTCOMES = {"findings", "no_findings", "not_eligible", "failed"}
PRIORITIES = {"stat", "urgent", "routine"}
KINDS_BY_PIPELINE = {
    "chest_xray": {"findings_sr", "summary_sr", "secondary_capture"},
    "slide_tumor": {"findings_sr", "summary_sr", "secondary_capture", "parametric_map"},
}
KINDS_BY_OUTCOME = {
    ("chest_xray", "findings"): {"lesions_sr"},
    ("slide_tumor", "findings"): {"lesions_sr", "annotations"},
}
WITHOUT_TORCH = """
import sys
sys.modules.update(dict.fromkeys(("torch", "torchvision", "models")))    # None: whoever imports one fails
from node.cli import main
main()
"""


@pytest.fixture(scope="module")
def demo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "out"


@pytest.fixture(scope="module")
def demo(demo_folder: Path) -> Json:
    """The demo, once, where PyTorch cannot be imported."""
    arguments = ["demo", "--json", "--out", str(demo_folder)]
    ended = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *arguments],
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert ended.stdout, ended.stderr
    return json.loads(ended.stdout)


def test_demo_keeps_the_contract(demo: Json, record_property: Callable[[str, object], None]) -> None:
    record_property("seconds", demo["seconds"])

    assert problems(demo, REPORT) == []


def test_scores_of_the_demo_are_uncertain_for_a_reason(demo: Json) -> None:
    scores = [score for study in demo["studies"] for run in study["runs"] for score in run["scores"]]

    assert scores
    for score in scores:
        assert score["is_uncertain"] is bool(score["doubts"])
        assert score["is_uncertain"] is (score["presence"] == "undetermined")


def test_demo_finds_what_is_there_and_nothing_else(demo: Json) -> None:
    expected = {sample.name: [(sample.pipeline, sample.expected_outcome)] for sample in demo_samples()}

    outcomes = {
        study["sample"]: [(run["pipeline"], run["outcome"]) for run in study["runs"]]
        for study in demo["studies"]
    }

    assert outcomes == expected


def test_demo_delivers_every_object_to_its_archive(demo: Json) -> None:
    for study in demo["studies"]:
        for run in study["runs"]:
            kinds = {item["kind"] for item in run["objects"]}
            assert kinds == KINDS_BY_PIPELINE[run["pipeline"]] | KINDS_BY_OUTCOME.get(
                (run["pipeline"], run["outcome"]), set()
            )
            for item in run["objects"]:
                assert item["delivered_to"], item


def test_demo_leaves_results_and_pictures_to_look_at(demo: Json, demo_folder: Path) -> None:
    for item in objects_of(demo):
        path = Path(item["path"])
        assert path.is_relative_to(demo_folder)
        assert pydicom.dcmread(path).SOPInstanceUID == item["sop_instance_uid"]
    assert list(demo_folder.rglob("*.png"))


def test_slide_of_the_demo_comes_as_several_instances_and_its_tumor_has_area_and_places(
    demo: Json, demo_folder: Path
) -> None:
    (study,) = [one for one in demo["studies"] if one["sample"] == "slide-positive"]
    (run,) = study["runs"]
    sent = [pydicom.dcmread(path, stop_before_pixels=True) for path in demo_folder.rglob("slide-*.dcm")]
    sent = [one for one in sent if one.StudyInstanceUID == study["study_instance_uid"]]

    truth = SLIDES[0].slide().tumor_area_mm2
    (score,) = run["scores"]
    (area,) = score["measurements"]
    finest = next(one for one in sent if one.get("TotalPixelMatrixColumns") == SLIDES[0].side)
    assert sorted(one.ImageType[2] for one in sent) == ["LABEL", "OVERVIEW", "VOLUME", "VOLUME", "VOLUME"]
    assert (area["name"], area["unit"]) == ("Area", "mm2")
    assert area["value"] == pytest.approx(truth, rel=0.3)
    assert {region["sop_instance_uid"] for region in run["regions"]} == {finest.SOPInstanceUID}


def test_demo_ranks_the_finding_before_the_rest(demo: Json) -> None:
    runs = [run for study in demo["studies"] for run in study["runs"]]

    assert {run["priority"] for run in runs if run["outcome"] == "findings"} <= {"stat", "urgent"}
    assert {run["priority"] for run in runs if run["outcome"] == "no_findings"} == {"routine"}


def test_process_keeps_the_same_contract(positive: Path, tmp_path: Path) -> None:
    ended = run_sightline("process", str(positive), "--out", str(tmp_path / "out"), "--json")

    assert ended.returncode == 0, ended.stderr
    report = json.loads(ended.stdout)
    assert problems(report, REPORT) == []
    ((run,),) = (study["runs"] for study in report["studies"])
    assert run["outcome"] != "failed"
    assert [item["delivered_to"] for item in run["objects"]] == [[], [], [], []]
    assert all(Path(item["path"]).is_relative_to(tmp_path / "out") for item in run["objects"])


def test_results_of_process_pass_the_gate_by_hand(positive: Path, tmp_path: Path) -> None:
    ended = run_sightline("process", str(positive), "--out", str(tmp_path), "--json")
    paths = [item["path"] for item in objects_of(json.loads(ended.stdout))]

    checked = run_sightline("result", "check", *paths)

    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_process_of_a_folder_without_studies_fails_in_words(tmp_path: Path) -> None:
    ended = run_sightline("process", str(tmp_path), "--out", str(tmp_path / "out"))

    assert ended.returncode in (1, 2)
    assert ended.stderr.strip()
    assert "Traceback" not in ended.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_first_command_of_the_readme_from_a_clean_clone(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", REPOSITORY, clone], check=True)

    ended = subprocess.run(
        ["bash", "deploy/demo.sh", "--json"],
        cwd=clone,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )

    assert ended.returncode == 0, ended.stderr.decode()
    assert problems(json.loads(ended.stdout), REPORT) == []
    assert not list((clone / ".venv-demo" / "lib").glob("python*/site-packages/torch"))


def objects_of(report: Json) -> list[Json]:
    return [item for study in report["studies"] for run in study["runs"] for item in run["objects"]]


# The contract, as a shape: a type, a set of allowed values, a list of one shape, a tuple of shapes, a mapping
# of exactly these keys, `Each` for a mapping with free keys, or `OrNull` for null or one shape.


class Each(dict[type, Any]):
    """A mapping from any key of the type to the shape."""


class OrNull(list[Any]):
    """Null, or the one shape in it."""


CODE = (str, str)
MEASUREMENT = {"name": str, "value": float, "unit": str, "interval": OrNull([(float, float)])}
SCORE = {
    "name": str,
    "code": CODE,
    "probability": float,
    "interval": (float, float),
    "entropy": float,
    "mutual_information": float,
    "prediction_set": OrNull([[{"absent", "present"}]]),
    "is_uncertain": bool,
    "doubts": [set(Doubt)],
    "presence": {"present", "absent", "undetermined"},
    "measurements": [MEASUREMENT],
}
REGION = {
    "identifier": str,
    "name": str,
    "code": CODE,
    "sop_instance_uid": str,
    "frame_number": int | None,
    "box": (float, float, float, float),
    "site": str,
    "laterality": str,
    "presence": {"present", "absent", "undetermined"},
    "score": OrNull([SCORE]),
    "measurements": [MEASUREMENT],
    "remark": str,
}
OBJECT = {
    "kind": str,
    "sop_class_uid": str,
    "sop_instance_uid": str,
    "path": str,
    "delivered_to": [str],
    "confirmed_by": [str],
}
RUN = {
    "pipeline": str,
    "series_instance_uid": str,
    "outcome": OUTCOMES,
    "reason": str,
    "priority": PRIORITIES,
    "scores": [SCORE],
    "out_of_distribution": OrNull([{"score": float, "threshold": float}]),
    "regions": [REGION],
    "seconds": Each({str: float}),
    "objects": [OBJECT],
}
STUDY = {"study_instance_uid": str, "sample": str | None, "runs": [RUN]}
REPORT = {"version": {node.__version__}, "seconds": float, "studies": [STUDY]}


def problems(value: Any, shape: Any, at: str = "report") -> list[str]:
    """Where the value is not of the shape, in words."""
    if isinstance(shape, OrNull):
        return [] if value is None else problems(value, shape[0], at)
    if isinstance(shape, Each):
        ((key_type, each),) = shape.items()
        wrong = [f"{at}: key {key!r}" for key in value if not isinstance(key, key_type)]
        return wrong + [line for key, one in value.items() for line in problems(one, each, f"{at}.{key}")]
    if isinstance(shape, dict):
        if not isinstance(value, dict) or value.keys() != shape.keys():
            return [f"{at}: {sorted(value)} instead of {sorted(shape)}"]
        return [line for key, one in shape.items() for line in problems(value[key], one, f"{at}.{key}")]
    if isinstance(shape, list):
        return [
            line for number, one in enumerate(value) for line in problems(one, shape[0], f"{at}[{number}]")
        ]
    if isinstance(shape, tuple):
        if len(value) != len(shape):
            return [f"{at}: {value!r} instead of {len(shape)} values"]
        return [
            line
            for number, one in enumerate(shape)
            for line in problems(value[number], one, f"{at}[{number}]")
        ]
    if isinstance(shape, set):
        return [] if value in shape else [f"{at}: {value!r} instead of one of {sorted(shape)}"]
    return (
        []
        if isinstance(value, (int, float) if shape is float else shape)
        else [f"{at}: {value!r} is no {shape}"]
    )
