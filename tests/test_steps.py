import dataclasses
import threading
from pathlib import Path

import pytest
from pydicom import dcmread

from node.account import describe_study
from node.domain.card import ModelCard, ModelClass, Requirement
from node.domain.code import Code
from node.domain.conditions import parse
from node.domain.findings import Doubt, Priority
from node.domain.profile import DEFAULT_PROFILE, Profile
from node.encode import encode
from node.errors import (
    EngineUnavailableError,
    ModelError,
    PixelError,
)
from node.index import Index, sqlite_url
from node.pipelines.chest_xray import ChestXray
from node.receive.folder import store_file
from node.routing import Rule
from node.samples.dicom import DxOptions, write_dx
from node.samples.thorax import thorax_radiograph
from node.settings import TriageRule
from node.steps import Parts, Route, Steps
from node.storage import Storage
from node.telemetry import Metrics
from tests.safety import safety_of
from tests.test_pipelines import FakeEngine

FINDINGS = (Code("233604007", "SCT", "Pneumonia"), Code("75570004", "SCT", "Viral pneumonia"))
CLASSIFIER = ChestXray(detector_model="")
FRONTAL_ONLY = Requirement("view", {"not": {"view": ["LATERAL"]}}, "is a lateral view")


@dataclasses.dataclass
class GatedEngine(FakeEngine):
    """A FakeEngine whose card has a requirement, and codes that every archive knows."""

    codes: tuple[Code, ...] = FINDINGS

    def card(self, model: str) -> ModelCard:
        classes = tuple(ModelClass(code, 0.5) for code in self.codes)
        return dataclasses.replace(super().card(model), classes=classes, requirements=(FRONTAL_ONLY,))


@dataclasses.dataclass
class ClassedEngine(GatedEngine):
    """Remembers in which class it was asked."""

    classes: list[Priority] = dataclasses.field(default_factory=list)

    def prioritized(self, priority: Priority) -> "ClassedEngine":
        self.classes.append(priority)
        return self


class AbsentEngine(GatedEngine):
    """Fails its check."""

    def __init__(self, fault: Exception) -> None:
        super().__init__()
        self._fault = fault

    def check(self, model: str) -> None:
        raise self._fault


class BrokenPipeline:
    """Raises what it was given."""

    model = "chest_xray"

    def __init__(self, fault: Exception) -> None:
        self._fault = fault

    def analyze(self, series, engine):
        raise self._fault


class Bench:
    """The steps over a real spool and index, with a fake engine."""

    def __init__(self, folder: Path, profile: Profile = DEFAULT_PROFILE) -> None:
        self.folder = folder
        self.storage = Storage(folder / "data")
        self.index = Index(sqlite_url(folder / "index.sqlite"))
        self.metrics = Metrics()
        self.finished = threading.Event()
        self.profile = profile
        self.use(CLASSIFIER)

    def use(self, pipeline, engine=None) -> None:
        self.pipeline = pipeline
        parts = Parts(
            index=self.index,
            run_folder=self.storage.run_folder,
            engine=engine or GatedEngine(),
            routes={"chest_xray": Route(pipeline, Rule("chest_xray", parse({"modality": ["CR", "DX"]})))},
            scopes={},
            triage_rules=(TriageRule(finding="Pneumonia", at_least=0.5, priority=Priority.URGENT),),
            profiles={"pacs": self.profile},
            metrics=self.metrics,
            on_finished=self.finished.set,
        )
        self.steps = Steps(parts)

    def receive(self, *views: str) -> str:
        """Store one study with a radiograph of each view, in one series; return its UID."""
        uid = "1.2.3"
        for number, view in enumerate(views):
            options = DxOptions(view_position=view, study_instance_uid=uid)
            path = write_dx(
                thorax_radiograph(number, size=256), self.folder / f"{number}.dcm", options=options
            )
            dataset = dcmread(path)
            dataset.SeriesInstanceUID = "1.2.3.1"
            dataset.save_as(path)
            self.index.record_instance(store_file(path, self.storage).instance)
        return uid

    def read(self, uid: str) -> list[dict]:
        """Take the study through plan, analyze, encode and finish; return its runs."""
        (study,) = self.index.open_studies()
        self.index.queue_study(study, "job", "files")
        runs = self.steps.take("plan", uid, "job")
        for run in runs:
            self.steps.take("encode", run, self.steps.take("analyze", run))
            self.steps.take("finish", run)
        self.last_run = runs[-1] if runs else None
        return runs

    def account(self, uid: str) -> dict:
        return describe_study(self.index, uid)


@pytest.fixture
def bench(tmp_path):
    bench = Bench(tmp_path)
    yield bench
    bench.index.close()


def test_a_radiograph_ends_with_findings_and_all_objects(bench):
    uid = bench.receive("PA")

    bench.read(uid)

    account = bench.account(uid)
    assert (account["outcome"], account["priority"], account["state"]) == ("findings", "urgent", "delivering")
    assert {item["kind"] for item in account["runs"][0]["objects"]} == {
        "findings_sr",
        "summary_sr",
        "secondary_capture",
    }
    assert set(account["runs"][0]["seconds"]) == {"analyze", "encode", "finish"}


def test_what_a_step_told_the_index_outlives_the_power_once_the_step_is_not_taken_again(bench):
    uid = bench.receive("PA")
    (study,) = bench.index.open_studies()
    bench.index.queue_study(study, "job", "files")
    runs = []

    assert safety_of(bench.index, lambda: runs.extend(bench.steps.take("plan", uid, "job"))) == 2

    analysis = bench.steps.take("analyze", runs[0])
    assert safety_of(bench.index, lambda: bench.steps.take("encode", runs[0], analysis)) == 2
    assert safety_of(bench.index, lambda: bench.steps.take("finish", runs[0])) == 2


def test_a_run_asks_the_engine_in_its_class(bench):
    engine = ClassedEngine()
    bench.use(CLASSIFIER, engine)
    uid = bench.receive("PA")
    (study,) = bench.index.open_studies()
    bench.index.queue_study(study, "job", "files")
    (run,) = bench.steps.take("plan", uid, "job")

    bench.steps.take("analyze", run | {"priority": "stat"})

    assert engine.classes == [Priority.STAT]


def test_an_engine_that_cannot_answer_yet_does_not_stop_the_node_from_starting(bench):
    bench.use(CLASSIFIER, AbsentEngine(EngineUnavailableError("triton:8001", "no connection")))
    bench.steps.warm_up()

    bench.use(CLASSIFIER, AbsentEngine(ModelError("chest_xray", "is damaged")))
    with pytest.raises(ModelError):
        bench.steps.warm_up()


def test_a_foreign_image_is_told_as_uncertain_and_waits_in_the_ordinary_order(bench):
    engine = GatedEngine(
        prediction_set=((0, 1), (1, 1)), coverage=0.95, out_of_distribution=(2.25,), strangest=1.5
    )
    bench.use(CLASSIFIER, engine)
    uid = bench.receive("PA")

    bench.read(uid)

    account = bench.account(uid)
    (run,) = account["runs"]
    assert (account["outcome"], account["priority"]) == ("findings", "routine")
    assert run["out_of_distribution"] == {"score": 2.25, "threshold": 1.5}
    assert [score["presence"] for score in run["scores"]] == ["undetermined", "undetermined"]
    assert [score["prediction_set"] for score in run["scores"]] == [["present"], ["absent", "present"]]
    assert [score["doubts"] for score in run["scores"]] == [
        [Doubt.FOREIGN_IMAGE],
        [Doubt.FOREIGN_IMAGE, Doubt.BOTH_ANSWERS],
    ]
    assert "out_of_distribution" not in run["scores"][0]


def test_a_model_that_states_no_more_leaves_null_in_the_account(bench):
    uid = bench.receive("PA")

    bench.read(uid)

    (run,) = bench.account(uid)["runs"]
    assert run["out_of_distribution"] is None
    assert [(score["prediction_set"], score["doubts"]) for score in run["scores"]] == [(None, [])] * 2


def test_reading_twice_makes_the_same_objects_and_no_second_copy(bench):
    uid = bench.receive("PA")
    (run,) = bench.read(uid)
    before = {
        item["sop_instance_uid"]: Path(item["path"]).read_bytes()
        for item in bench.index.objects(run["run_id"])
    }

    bench.index.reopen_study(uid)
    (again,) = bench.read(uid)

    after = {
        item["sop_instance_uid"]: Path(item["path"]).read_bytes()
        for item in bench.index.objects(run["run_id"])
    }
    assert again["run_id"] == run["run_id"]
    assert after == before


def test_a_lateral_view_is_not_eligible_and_says_why(bench):
    uid = bench.receive("LL")

    bench.read(uid)

    account = bench.account(uid)
    assert account["outcome"] == "not_eligible"
    assert "lateral" in account["reason"]
    assert {item["kind"] for item in account["runs"][0]["objects"]} == {"findings_sr", "summary_sr"}


def test_of_a_frontal_and_a_lateral_view_the_frontal_one_is_read(bench):
    uid = bench.receive("LL", "PA")

    runs = bench.read(uid)

    assert len(runs) == 1
    assert dcmread(runs[0]["paths"][0]).ViewPosition == "PA"
    assert bench.account(uid)["outcome"] == "findings"


def test_each_of_two_frontal_views_is_read(bench):
    uid = bench.receive("PA", "AP")

    runs = bench.read(uid)

    assert len({run["run_id"] for run in runs}) == 2


def test_a_study_that_no_rule_wants_ends_with_the_reason(bench, tmp_path):
    uid = bench.receive("PA")
    bench.index.close()
    bench.index = Index(sqlite_url(tmp_path / "other.sqlite"))
    bench.use(CLASSIFIER)
    instance = next(iter(bench.storage.instances()))
    bench.index.record_instance(dataclasses.replace(instance, called_ae_title="OTHER"))

    assert bench.read(uid) == []

    account = bench.account(uid)
    assert (account["state"], account["outcome"]) == ("done", "not_eligible")
    assert "OTHER" in account["reason"]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (PixelError("1.2.3.4", "no pixel data"), "1.2.3.4: no pixel data"),
        (ZeroDivisionError("patient DOE"), "unexpected ZeroDivisionError in the analysis"),
    ],
)
def test_an_analysis_that_breaks_ends_failed_with_a_report(bench, fault, reason):
    uid = bench.receive("PA")
    bench.use(BrokenPipeline(fault))

    bench.read(uid)

    account = bench.account(uid)
    assert (account["outcome"], account["reason"]) == ("failed", reason)
    assert {item["kind"] for item in account["runs"][0]["objects"]} == {"findings_sr", "summary_sr"}


def test_a_result_that_breaks_a_rule_never_leaves(bench, monkeypatch):
    uid = bench.receive("PA")
    monkeypatch.setattr("node.objects.encode", _encode_for_somebody_else)

    bench.read(uid)

    account = bench.account(uid)
    assert account["outcome"] == "failed"
    assert "could not be encoded" in account["reason"]
    assert account["runs"][0]["objects"] == [], "the report of the failure was tampered with too"
    assert "sightline_objects_quarantined_total" in bench.metrics.exposition().decode()


def _encode_for_somebody_else(findings, sources, context, **options):
    for item in encode(findings, sources, context, **options):
        item.dataset.PatientID = "somebody else"
        yield item


def test_an_object_that_breaks_a_rule_is_kept_in_quarantine_and_the_study_says_why(bench):
    unknown = Code("1", "SCT", "No such concept"), Code("2", "SCT", "Nor this")
    bench.use(CLASSIFIER, GatedEngine(codes=unknown))
    uid = bench.receive("PA")

    bench.read(uid)

    account = bench.account(uid)
    (run,) = account["runs"]
    assert account["outcome"] == "failed"
    assert "known_codes" in account["reason"]
    assert {item["kind"] for item in run["quarantined"]} == {"findings_sr"}
    for item in run["quarantined"]:
        assert str(dcmread(item["path"]).SOPInstanceUID) == item["sop_instance_uid"]
        assert item["violations"][0].startswith("known_codes: ")
    assert {item["kind"] for item in run["objects"]} == {"findings_sr", "summary_sr"}, (
        "the report of the failure"
    )
    assert (
        'sightline_objects_quarantined_total{rule="known_codes"} 1.0' in bench.metrics.exposition().decode()
    )
    waiting = {one.uid for one in bench.index.waiting("pacs", limit=10)}
    assert waiting == {item["sop_instance_uid"] for item in run["objects"]}, "the quarantined would leave too"


def test_nothing_is_to_be_sent_before_the_run_is_finished(bench):
    uid = bench.receive("PA")
    (study,) = bench.index.open_studies()
    bench.index.queue_study(study, "job", "files")
    (run,) = bench.steps.take("plan", uid, "job")
    bench.steps.take("encode", run, bench.steps.take("analyze", run))
    before = bench.index.waiting("pacs", limit=10)

    bench.steps.take("finish", run)

    assert before == []
    assert bench.finished.is_set(), "the outbox was not told"
    assert len(bench.index.waiting("pacs", limit=10)) == 3


def test_a_study_that_is_cancelled_while_it_is_read_leaves_nothing_to_send(bench):
    uid = bench.receive("PA")
    (study,) = bench.index.open_studies()
    bench.index.queue_study(study, "job", "files")
    (run,) = bench.steps.take("plan", uid, "job")
    analysis = bench.steps.take("analyze", run)
    bench.steps.take("encode", run, analysis)

    bench.index.cancel_study(uid)
    bench.steps.take("finish", run)

    account = bench.account(uid)
    assert (account["state"], account["outcome"]) == ("cancelled", "")
    assert {one["state"] for one in account["undelivered"]} == {"withdrawn"}
    assert "study_cancelled" in [event["event"] for event in bench.index.events(uid)]
    assert bench.index.waiting("pacs", limit=10) == []


def test_a_cancelled_study_is_neither_planned_nor_analyzed(bench):
    uid = bench.receive("PA")
    (study,) = bench.index.open_studies()
    bench.index.queue_study(study, "job", "files")
    (run,) = bench.steps.take("plan", uid, "job")
    bench.index.cancel_study(uid)

    analysis = bench.steps.take("analyze", run)
    encoded = bench.steps.take("encode", run, analysis)

    assert bench.steps.take("plan", uid, "other job") == []
    assert analysis == {"findings_path": "", "outcome": "cancelled"}
    assert encoded["sop_instance_uids"] == []
    bench.index.record_instance(bench.index.instances(uid)[0])
    assert bench.index.open_studies() == [], "one more instance had it read after all"


def test_a_cancelled_study_that_is_asked_for_again_is_read_and_sent(bench):
    uid = bench.receive("PA")
    bench.read(uid)
    bench.index.cancel_study(uid)
    before = bench.index.waiting("pacs", limit=10)
    account = bench.account(uid)

    bench.index.reopen_study(uid)
    bench.read(uid)

    assert (account["state"], account["outcome"]) == ("cancelled", "findings"), "it was read already"
    assert before == []
    assert len(bench.index.waiting("pacs", limit=10)) == 3
