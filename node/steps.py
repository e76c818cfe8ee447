"""The saved steps of a study: plan, analyze, encode, finish; from then on its results are the outbox's.

Each takes and returns plain JSON, so that a restart finds the same value as the first run, and no pixel and
no patient gets into a database. Each may run twice: what it writes is keyed by what it was made from.
"""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

import node
from node import eligibility, routing, triage
from node.account import describe_object, describe_region, describe_score
from node.domain.card import ModelCard
from node.domain.findings import Algorithm, Findings, Outcome, Priority, Refusal
from node.domain.profile import DEFAULT_PROFILE, Kind, Profile
from node.domain.study import PROJECTION_MODALITIES, Instance, Series
from node.encode import EncodingContext, Predecessor, warm_up
from node.errors import ConformanceError, DatasetError, SightlineError, TransientError
from node.index import CANCELLED, Index, Json
from node.interfaces import Engine, Pipeline, models_of
from node.objects import Quarantined, make_objects
from node.read.header import read_attributes
from node.read.picture import read_pictures
from node.results import ResultObject, load_findings, save_findings
from node.telemetry import Metrics

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Route:
    """What the configuration says of one pipeline: its implementation, and the rule that leads to it."""

    pipeline: Pipeline
    rule: routing.Rule


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything the steps work with; `app` puts it together.

    `profiles` are what each destination takes; `on_finished` is told that there is something to deliver.
    """

    index: Index
    run_folder: Callable[[str], Path]
    engine: Engine
    routes: Mapping[str, Route]
    scopes: Mapping[str, tuple[str, ...]]
    triage_rules: tuple[triage.TriageRule, ...]
    profiles: Mapping[str, Profile]
    metrics: Metrics
    on_finished: Callable[[], object] = lambda: None


def group_by_series(instances: Sequence[Instance]) -> dict[str, list[Instance]]:
    """Return the instances by series; of several revisions of an instance, the one that came last."""
    latest = {instance.sop_instance_uid: instance for instance in instances}
    members_by_uid: dict[str, list[Instance]] = {}
    for instance in latest.values():
        members_by_uid.setdefault(instance.series_instance_uid, []).append(instance)
    return members_by_uid


def read_series(members: Sequence[Instance], arrivals: Sequence[Instance]) -> Series:
    """Return a series with its attributes, and the AE titles by which any revision of its instances came.

    Raises DatasetError where a header cannot be read.
    """
    uid = members[0].series_instance_uid
    doors = sorted({one.called_ae_title for one in arrivals if one.series_instance_uid == uid})
    attributes = {**read_attributes(members), "called_ae_title": tuple(doors)}
    return Series(members[0].study_instance_uid, uid, tuple(members), attributes)


def readable_parts(series: Series) -> list[Series]:
    """Return what is read as one: each projection by itself, any other series whole."""
    if series.instances[0].modality not in PROJECTION_MODALITIES or len(series.instances) == 1:
        return [series]
    return [read_series([instance], [instance]) for instance in series.instances]


def subject_of(series: Series) -> str:
    """Return what a run is about, so that a later run over the same supersedes it: an image, or a series."""
    if series.instances[0].modality in PROJECTION_MODALITIES and len(series.instances) == 1:
        return series.instances[0].sop_instance_uid
    return series.series_instance_uid


def derived_id(*parts: object) -> str:
    """Return an identifier that is the same whenever the parts are."""
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:32]


class Steps:
    """The steps, over one set of parts."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._index = parts.index

    def take(self, name: str, subject: str | Json, *arguments: Any) -> Any:
        """Run the step of this name on a study (its UID) or a run; it is logged, noted and measured."""
        run = {} if isinstance(subject, str) else subject
        uid = subject if isinstance(subject, str) else subject["study_instance_uid"]
        context: Json = {key: run[key] for key in ("series_instance_uid", "pipeline") if key in run}
        with structlog.contextvars.bound_contextvars(study_instance_uid=uid, **context):
            log.info("step_started", step=name)
            started = time.perf_counter()
            result = getattr(self, name)(subject, *arguments)
            seconds = round(time.perf_counter() - started, 3)
            log.info("step_finished", step=name, seconds=seconds)
        self._parts.metrics.stage_seconds.labels(name).observe(seconds)
        # The step is not taken again once the workflow knows its result: what it told the index has to stay.
        with self._index.durable():
            self._index.record_event(uid, f"{name}_finished", {**context, "seconds": seconds})
            if run:
                self._index.record_seconds(run["run_id"], name, seconds)
        return result

    def warm_up(self) -> None:
        """Load what the first study would else wait for; raises ModelError for a bad model.

        An engine that cannot answer yet is no reason not to start: studies are safe here until it can.
        """
        warm_up()
        models = [model for route in self._parts.routes.values() for model in models_of(route.pipeline)]
        for model in dict.fromkeys(models):
            try:
                self._parts.engine.check(model)
            except TransientError as error:
                log.warning("engine_not_ready", model=model, reason=str(error))

    def close(self) -> None:
        """Break off what the engine still works on."""
        self._parts.engine.close()

    # --- plan: which pipelines read which series

    def plan(self, study_instance_uid: str, job_id: str) -> list[Json]:
        """Return the runs that the rules want; without any, the study ends here, with the reason."""
        if self._is_cancelled(study_instance_uid):
            return []
        planned_at = datetime.now(UTC).isoformat()
        runs: list[Json] = []
        reasons: list[str] = []
        outcome = Outcome.NOT_ELIGIBLE
        arrivals = self._index.instances(study_instance_uid)
        for members in group_by_series(arrivals).values():
            try:
                routed, reason = self._routed(read_series(members, arrivals))
            except DatasetError as error:
                outcome, routed, reason = Outcome.FAILED, [], str(error)
                log.warning("series_unreadable", reason=reason)
            runs += [{**run, "job_id": job_id, "planned_at": planned_at} for run in routed]
            reasons += [reason] if reason else []
        for run in runs:
            columns = ("run_id", "job_id", "study_instance_uid", "series_instance_uid", "pipeline", "subject")
            row = {name: run[name] for name in (*columns, "planned_at")}
            self._index.record_run(row | {"is_finished": False})
        if not runs:
            reason = "; ".join(dict.fromkeys(reasons))
            self._index.finish_study(study_instance_uid, job_id, outcome.value, reason)
        return runs

    def _routed(self, series: Series) -> tuple[list[Json], str]:
        """Return the runs of one series, and why there is none."""
        rules = [route.rule for route in self._parts.routes.values()]
        routed = routing.route(series, rules, self._parts.scopes)
        return [run for rule in routed.rules for run in self._runs(series, rule)], routed.reason

    def fail(self, study_instance_uid: str, job_id: str, reason: str) -> None:
        """End a study that could not be planned."""
        self._index.finish_study(study_instance_uid, job_id, Outcome.FAILED.value, reason)

    def _runs(self, series: Series, rule: routing.Rule) -> list[Json]:
        """Return a run for each part that the model may read; for none, one that says why."""
        card = self._parts.engine.card(self._parts.routes[rule.pipeline].pipeline.model)
        eligible = [
            part
            for part in readable_parts(series)
            if eligibility.check_eligibility(part, card.requirements).is_eligible
        ]
        if eligible:
            return [self._run(part, rule, card, "") for part in eligible]
        return [
            self._run(series, rule, card, eligibility.check_eligibility(series, card.requirements).reason)
        ]

    def _run(self, series: Series, rule: routing.Rule, card: ModelCard, not_eligible: str) -> Json:
        pipeline = self._parts.routes[rule.pipeline].pipeline
        digests = sorted((one.sop_instance_uid, one.digest) for one in series.instances)
        helpers = [self._parts.engine.card(one).version for one in models_of(pipeline)[1:]]
        made_from = (card.name, card.version, *helpers, pipeline, node.__version__, digests)
        return {
            "run_id": derived_id(rule.pipeline, *made_from),
            "subject": subject_of(series),
            "study_instance_uid": series.study_instance_uid,
            "series_instance_uid": series.series_instance_uid,
            "pipeline": rule.pipeline,
            "paths": [str(one.path) for one in series.instances],
            "not_eligible": not_eligible,
            "priority": rule.priority.value,
            "destinations": list(rule.deliver_to or self._parts.profiles),
        }

    # --- analyze: pixels to findings

    def analyze(self, run: Json) -> Json:
        """Return where the findings of a run are; raises only what another try may mend.

        A study that was cancelled meanwhile has none.
        """
        if self._is_cancelled(run["study_instance_uid"]):
            return {"findings_path": "", "outcome": CANCELLED}
        if run["not_eligible"]:
            findings = self._refused(run, Outcome.NOT_ELIGIBLE, run["not_eligible"])
        else:
            findings = self._analyzed(run)
        return self._concluded(run, findings)

    def give_up(self, run: Json, reason: str) -> Json:
        """Return findings that say the analysis failed for this reason."""
        return self._concluded(run, self._refused(run, Outcome.FAILED, reason))

    def _concluded(self, run: Json, findings: Findings) -> Json:
        path = save_findings(self._parts.run_folder(run["run_id"]), findings)
        self._record_outcome(run, findings)
        return {"findings_path": str(path), "outcome": findings.outcome.value}

    def _analyzed(self, run: Json) -> Findings:
        pipeline = self._parts.routes[run["pipeline"]].pipeline
        engine = self._parts.engine.prioritized(Priority(run["priority"]))
        try:
            findings = pipeline.analyze(self._run_series(run), engine)
            return replace(findings, pipeline=run["pipeline"])
        except TransientError:
            raise
        except SightlineError as error:
            log.warning("analysis_failed", reason=str(error))
            return self._refused(run, Outcome.FAILED, str(error))
        except Exception as error:  # the study is owed an explicit outcome, whatever broke
            log.exception("analysis_broke")
            return self._refused(run, Outcome.FAILED, f"unexpected {type(error).__name__} in the analysis")

    def _run_series(self, run: Json) -> Series:
        wanted = set(run["paths"])
        known = self._index.instances(run["study_instance_uid"])
        return read_series([one for one in known if str(one.path) in wanted], known)

    def _refused(self, run: Json, outcome: Outcome, reason: str) -> Findings:
        card = self._parts.engine.card(self._parts.routes[run["pipeline"]].pipeline.model)
        series = self._run_series(run)
        return Findings(
            pipeline=run["pipeline"],
            algorithm=Algorithm(card.name, card.version, card.parameters),
            study_instance_uid=run["study_instance_uid"],
            series_instance_uid=run["series_instance_uid"],
            sop_instance_uids=tuple(one.sop_instance_uid for one in series.instances),
            refusal=Refusal(outcome, reason),
        )

    def _record_outcome(self, run: Json, findings: Findings) -> None:
        row = {name: run[name] for name in ("run_id", "job_id", "study_instance_uid", "series_instance_uid")}
        row |= {
            "pipeline": run["pipeline"],
            "outcome": findings.outcome.value,
            "reason": findings.reason,
            "priority": triage.prioritize(findings, self._parts.triage_rules).value,
            "scores": [describe_score(score) for score in findings.scores],
            "regions": [describe_region(region, findings) for region in findings.regions],
        }
        self._index.record_run(row)

    # --- encode: findings to objects that passed the gate

    def encode(self, run: Json, analysis: Json) -> Json:
        """Return the outcome of a run and its objects; where one breaks a rule of the gate, none leaves."""
        if not analysis["findings_path"]:
            return {"outcome": analysis["outcome"], "sop_instance_uids": []}
        findings = load_findings(Path(analysis["findings_path"]))
        try:
            objects = self._objects(run, findings)
        except DatasetError as error:
            # A result cannot refer to these sources, which is no fault of the node's.
            log.warning("encoding_refused", reason=str(error))
            findings, objects = self._not_encoded(run, str(error))
        except Exception as error:  # the study is owed an explicit outcome, whatever broke
            log.exception("encoding_failed")
            text = str(error) if isinstance(error, SightlineError) else f"unexpected {type(error).__name__}"
            findings, objects = self._not_encoded(run, text)
        rows = [describe_object(one) | {"destinations": self._takers(run, one)} for one in objects]
        self._index.record_objects(run["run_id"], rows)
        self._parts.metrics.runs_finished.labels(run["pipeline"], findings.outcome.value).inc()
        return {
            "outcome": findings.outcome.value,
            "sop_instance_uids": [one.sop_instance_uid for one in objects],
        }

    def _takers(self, run: Json, item: ResultObject) -> list[str]:
        """Return the destinations that want an object: its kind, in this form."""
        profiles = {name: self._parts.profiles[name] for name in run["destinations"]}
        return [name for name, profile in profiles.items() if profile.takes(item.kind, item.form)]

    def _objects(self, run: Json, findings: Findings) -> Sequence[ResultObject]:
        """Return the objects of this result; raises ConformanceError where one broke a rule."""
        folder = self._parts.run_folder(run["run_id"]) / derived_id(findings.outcome.value, findings.reason)
        context = EncodingContext(
            run_key=f"{run['run_id']}/{folder.name}",
            made_at=datetime.fromisoformat(run["planned_at"]),
            priority=triage.prioritize(findings, self._parts.triage_rules),
            images=read_pictures(self._run_series(run).instances, findings.shown_frames, findings.window),
            predecessors=self._predecessors(run, folder),
        )
        sources = [Path(path) for path in run["paths"]]
        profiles = [self._parts.profiles[name] for name in run["destinations"]] or [DEFAULT_PROFILE]
        made = make_objects(folder, findings, sources, context=context, profiles=profiles)
        if made.quarantined:
            raise self._quarantine(run, made.quarantined)
        return made.objects

    def _predecessors(self, run: Json, folder: Path) -> tuple[Predecessor, ...]:
        """Return the objects of the last earlier reading of the same images, which these supersede."""
        columns = ("series_instance_uid", "sop_class_uid", "sop_instance_uid")
        return tuple(
            Predecessor(Kind(row["kind"]), run["study_instance_uid"], *(row[name] for name in columns))
            for row in self._index.superseded_objects(run["run_id"], folder)
        )

    def _quarantine(self, run: Json, quarantined: Sequence[Quarantined]) -> ConformanceError:
        """Note the objects that broke a rule, and return the error that names the first."""
        rows = [
            describe_object(one.object) | {"violations": [str(broken) for broken in one.violations]}
            for one in quarantined
        ]
        self._index.record_quarantine(run["run_id"], rows)
        for rule in {broken.rule for one in quarantined for broken in one.violations}:
            self._parts.metrics.objects_quarantined.labels(rule).inc()
        first = quarantined[0]
        return ConformanceError(first.object.sop_instance_uid, "; ".join(map(str, first.violations)))

    def _not_encoded(self, run: Json, reason: str) -> tuple[Findings, Sequence[ResultObject]]:
        """Return the failure in place of a result, recorded, and its report where one can be made."""
        findings = self._refused(run, Outcome.FAILED, f"the result could not be encoded: {reason}")
        self._record_outcome(run, findings)
        try:
            return findings, self._objects(run, findings)
        except DatasetError as error:
            log.warning("report_of_failure_refused", reason=str(error))
        except Exception:  # the outcome is recorded; only its report cannot be written
            log.exception("report_of_failure_failed")
        return findings, ()

    def finish(self, run: Json) -> None:
        """Note that a run has its outcome and its objects, which may now be delivered."""
        uid = run["study_instance_uid"]
        withdrawn = self._index.finish_run(run["run_id"], uid, run["job_id"])
        for reason, number in withdrawn.items():
            self._index.record_event(uid, "deliveries_withdrawn", {"reason": reason, "objects": number})
        self._parts.on_finished()

    def _is_cancelled(self, study_instance_uid: str) -> bool:
        study = self._index.study(study_instance_uid)
        return study is not None and study["state"] == CANCELLED
