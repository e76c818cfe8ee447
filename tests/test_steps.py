import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest
from pydicom import dcmread

from node.account import describe_study
from node.domain.card import ModelCard, ModelClass, Requirement
from node.domain.code import Code
from node.domain.conditions import parse
from node.domain.delivery import Receipt, Reception
from node.domain.findings import Doubt, Priority
from node.domain.profile import DEFAULT_PROFILE, Profile
from node.encode import encode
from node.errors import (
    EngineUnavailableError,
    ModelError,
    PixelError,
)
from node.index import DELIVERED, PENDING, UNDELIVERABLE, Index, sqlite_url
from node.pipelines.chest_xray import ChestXray
from node.receive.folder import store_file
from node.routing import Rule
from node.samples.dicom import DxOptions, write_dx
from node.samples.thorax import thorax_radiograph
from node.settings import TriageRule
from node.steps import FIRST_RETRY_S, LONGEST_RETRY_S, Outlet, Parts, Route, Steps, retry_delay_s
from node.storage import Storage
from node.telemetry import Metrics
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


@dataclasses.dataclass
class FakeDestination:
    """Takes everything, or gives the receipts it was told to, one a call."""

    name: str = "pacs"
    receipts: list[Receipt] = dataclasses.field(default_factory=list)
    taken: list[Path] = dataclasses.field(default_factory=list)

    def deliver(self, paths: Sequence[Path]) -> list[Receipt]:
        if self.receipts:
            return [self.receipts.pop(0)] * len(paths)
        self.taken += paths
        return [Receipt(Reception.ACCEPTED)] * len(paths)

    def check(self) -> None:
        """It is always there."""


class BrokenPipeline:
    """Raises what it was given."""

    model = "chest_xray"

    def __init__(self, fault: Exception) -> None:
        self._fault = fault

    def analyze(self, series, engine):
        raise self._fault


class Bench:
    """The steps over a real spool and index, with a fake engine and destination."""

    def __init__(self, folder: Path, profile: Profile = DEFAULT_PROFILE) -> None:
        self.folder = folder
        self.storage = Storage(folder / "data")
        self.index = Index(sqlite_url(folder / "index.sqlite"))
        self.destination = FakeDestination()
        self.metrics = Metrics()
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
            outlets={"pacs": Outlet(self.destination, self.profile, max_attempts=3)},
            metrics=self.metrics,
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
    bench.steps.take("deliver", run, "pacs", 1)
    before = {
        item["sop_instance_uid"]: Path(item["path"]).read_bytes()
        for item in bench.index.objects(run["run_id"])
    }

    bench.index.reopen_study(uid)
    (again,) = bench.read(uid)
    bench.steps.take("deliver", again, "pacs", 1)

    after = {
        item["sop_instance_uid"]: Path(item["path"]).read_bytes()
        for item in bench.index.objects(run["run_id"])
    }
    assert again["run_id"] == run["run_id"]
    assert after == before
    assert len(bench.destination.taken) == len(before)


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
    taken = [item["sop_instance_uid"] for item in run["quarantined"]]
    bench.steps.take("deliver", bench.last_run, "pacs", 1)
    assert not {str(dcmread(path).SOPInstanceUID) for path in bench.destination.taken} & set(taken)


def test_delivery_is_tried_again_until_it_succeeds(bench):
    (run,) = bench.read(bench.receive("PA"))
    bench.destination.receipts = [Receipt(Reception.POSTPONED, "cannot connect")]

    first = bench.steps.take("deliver", run, "pacs", 1)
    second = bench.steps.take("deliver", run, "pacs", 2)

    assert (first["state"], second["state"]) == (PENDING, DELIVERED)
    assert first["retry_in_s"] > 0
    assert second["retry_in_s"] is None
    assert len(bench.destination.taken) == 3


def test_delivery_gives_up_after_the_last_attempt_and_says_so(bench):
    uid = bench.receive("PA")
    (run,) = bench.read(uid)
    bench.destination.receipts = [Receipt(Reception.POSTPONED, "cannot connect")]

    answer = bench.steps.take("deliver", run, "pacs", 3)

    assert (answer["state"], answer["retry_in_s"]) == (UNDELIVERABLE, None)
    assert bench.account(uid)["state"] == "undeliverable"
    assert "gave up after 3 attempts" in bench.account(uid)["undelivered"][0]["detail"]


def test_a_refused_object_is_not_tried_again(bench):
    (run,) = bench.read(bench.receive("PA"))
    bench.destination.receipts = [Receipt(Reception.REFUSED, "SOP class not supported")]

    answer = bench.steps.take("deliver", run, "pacs", 1)

    assert (answer["state"], answer["retry_in_s"]) == (UNDELIVERABLE, None)


def test_waits_grow_are_bounded_and_differ():
    waits = [[retry_delay_s(attempt) for _ in range(50)] for attempt in (1, 4, 300)]

    for attempt, drawn in zip((1, 4, 300), waits, strict=True):
        longest = min(LONGEST_RETRY_S, FIRST_RETRY_S * 2.0 ** (attempt - 1))
        assert longest / 2 <= min(drawn) < max(drawn) <= longest
