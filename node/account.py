"""The account of a study: what became of it, as plain JSON.

This is the public contract that `demo`, `process` and `studies` print with `--json`; README.md describes it.
"""

from typing import Any

from node.domain.findings import (
    Findings,
    Measurement,
    Outcome,
    OutOfDistribution,
    PredictionSet,
    Priority,
    Region,
    Score,
)
from node.index import (
    ANALYZED,
    CANCELLED,
    CONFIRMED,
    DELIVERED,
    PENDING,
    UNDELIVERABLE,
    WITHDRAWN,
    Index,
    Json,
)
from node.results import ResultObject

# The outcome of a study is the first of these that one of its runs ended with.
OUTCOMES_BY_WEIGHT = (Outcome.FINDINGS, Outcome.FAILED, Outcome.NO_FINDINGS, Outcome.NOT_ELIGIBLE)
PRIORITIES_BY_WEIGHT = (Priority.STAT, Priority.URGENT, Priority.ROUTINE)
# An archive accepted it; whether it also said that it has it is another matter.
ARRIVED = (DELIVERED, CONFIRMED)
OUT_OF_DISTRIBUTION = "out_of_distribution"


def describe_score(score: Score) -> Json:
    """Return a score as the index keeps it; probabilities are 0–1, entropy and mutual information in bit.

    It is the contract's, and `out_of_distribution`, which the contract has once for the run.
    """
    low, high = score.uncertainty.interval
    return {
        "name": score.code.meaning,
        "code": [score.code.value, score.code.scheme],
        "probability": round(score.probability, 4),
        "interval": [round(low, 4), round(high, 4)],
        "entropy": round(score.uncertainty.entropy, 4),
        "mutual_information": round(score.uncertainty.mutual_information, 4),
        "prediction_set": _describe_prediction_set(score.uncertainty.prediction_set),
        "is_uncertain": score.is_uncertain,
        "doubts": [doubt.value for doubt in score.doubts],
        "presence": score.presence.value,
        "measurements": [_describe_measurement(one) for one in score.measurements],
        OUT_OF_DISTRIBUTION: _describe_out_of_distribution(score.uncertainty.out_of_distribution),
    }


def describe_region(region: Region, findings: Findings) -> Json:
    """Return a region as the index keeps it; `box` is (left, top, right, bottom) in pixels of its image."""
    (left, top), (right, bottom) = region.outline.points_xy.min(axis=0), region.outline.points_xy.max(axis=0)
    frame = region.outline.frame
    return {
        "identifier": region.identifier,
        "name": region.code.meaning,
        "code": [region.code.value, region.code.scheme],
        "sop_instance_uid": frame.sop_instance_uid,
        "frame_number": frame.frame_number,
        "box": [round(float(one), 2) for one in (left, top, right, bottom)],
        "site": region.site.meaning if region.site else "",
        "laterality": region.laterality.meaning if region.laterality else "",
        "presence": findings.presence_of(region).value,
        "score": describe_score(region.score) if region.score else None,
        "measurements": [_describe_measurement(one) for one in region.measurements],
        "remark": region.remark,
    }


def _describe_measurement(measurement: Measurement) -> Json:
    interval = [float(f"{bound:.6g}") for bound in measurement.interval] if measurement.interval else None
    return {
        "name": measurement.quantity.meaning,
        "value": float(f"{measurement.value:.6g}"),
        "unit": measurement.unit.value,
        "interval": interval,
    }


def describe_object(item: ResultObject) -> Json:
    """Return an object as the index keeps it."""
    return {
        "sop_instance_uid": item.sop_instance_uid,
        "series_instance_uid": item.series_instance_uid,
        "kind": item.kind,
        "sop_class_uid": item.sop_class_uid,
        "path": str(item.path),
    }


def _describe_prediction_set(prediction_set: PredictionSet | None) -> list[str] | None:
    return None if prediction_set is None else [answer.value for answer in prediction_set.answers]


def _describe_out_of_distribution(value: OutOfDistribution | None) -> Json | None:
    if value is None:
        return None
    # Its scale is the model's own: digits are counted from the first that is not 0.
    return {"score": float(f"{value.score:.6g}"), "threshold": float(f"{value.threshold:.6g}")}


def describe_runs(index: Index, study_instance_uid: str, sample: str | None = None) -> Json:
    """Return one study of the contract: its UID, the name of the sample it is, and its runs."""
    study = index.study(study_instance_uid)
    runs = index.runs(study["job_id"]) if study and study["job_id"] else []
    return {
        "study_instance_uid": study_instance_uid,
        "sample": sample,
        "runs": [_describe_run(run) for run in runs],
    }


def _describe_run(run: Json) -> Json:
    return {
        "pipeline": run["pipeline"],
        "series_instance_uid": run["series_instance_uid"],
        "outcome": run["outcome"],
        "reason": run["reason"],
        "priority": run["priority"],
        "scores": [_without_image(score) for score in run["scores"]],
        # All scores of a run state the same: they are of one image.
        OUT_OF_DISTRIBUTION: next((score[OUT_OF_DISTRIBUTION] for score in _scores(run)), None),
        "regions": [one | {"score": _without_image(one["score"])} for one in run["regions"]],
        "seconds": run["seconds"],
        "objects": [_describe_object(item) for item in run["objects"]],
    }


def _scores(run: Json) -> list[Json]:
    return [*run["scores"], *(one["score"] for one in run["regions"] if one["score"])]


def _without_image(score: Json | None) -> Json | None:
    """Return what the contract says of one score; what holds for the whole image stands in the run."""
    return score and {key: value for key, value in score.items() if key != OUT_OF_DISTRIBUTION}


def _describe_object(item: Json) -> Json:
    states = {one["destination"]: one["state"] for one in item["deliveries"]}
    return {
        "kind": item["kind"],
        "sop_class_uid": item["sop_class_uid"],
        "sop_instance_uid": item["sop_instance_uid"],
        "path": item["path"],
        "delivered_to": [name for name, state in states.items() if state in ARRIVED],
        "confirmed_by": [name for name, state in states.items() if state == CONFIRMED],
    }


def describe_study(index: Index, study_instance_uid: str) -> Json | None:
    """Return what `studies list` and `studies show` tell of a study; None where it is not known."""
    study = index.study(study_instance_uid)
    if study is None:
        return None
    runs = index.runs(study["job_id"]) if study["job_id"] else []
    deliveries = [one for run in runs for item in run["objects"] for one in item["deliveries"]]
    evidence, _, figures = study["evidence"].partition(" ")
    outcome = _heaviest(OUTCOMES_BY_WEIGHT, [run["outcome"] for run in runs])
    return {
        "study_instance_uid": study_instance_uid,
        "state": _state(study["state"], deliveries),
        "outcome": (outcome or study["outcome"]) if study["state"] == ANALYZED else "",
        "reason": study["reason"] or "; ".join(run["reason"] for run in runs if run["reason"]),
        "priority": _heaviest(PRIORITIES_BY_WEIGHT, [run["priority"] for run in runs]),
        "evidence": evidence,
        "evidence_figures": figures,
        "received_at": study["first_received_at"],
        "undelivered": [
            {"destination": one["destination"], "state": one["state"], "detail": one["detail"]}
            for one in deliveries
            if one["state"] not in ARRIVED
        ],
        "unconfirmed": [
            {"destination": one["destination"], "detail": one["detail"] or "no word of it yet"}
            for one in deliveries
            if one["state"] == DELIVERED and (one["due_at"] is not None or one["detail"])
        ],
        "runs": [_describe_whole_run(index, run) for run in runs],
    }


def _describe_whole_run(index: Index, run: Json) -> Json:
    """Return a run of the contract, what is in quarantine, and what was said of each object, newest last."""
    objects = []
    for item in run["objects"]:
        said = index.feedback(item["sop_instance_uid"])
        objects.append(_describe_object(item) | {"feedback": [_without_result(one) for one in said]})
    columns = ("kind", "sop_instance_uid", "path", "violations")
    return _describe_run(run) | {
        "objects": objects,
        "quarantined": [{name: item[name] for name in columns} for item in run["quarantined"]],
        "supersedes": run["supersedes"],
    }


def _without_result(said: Json) -> Json:
    return {name: value for name, value in said.items() if name != "result_sop_instance_uid"}


def _state(state: str, deliveries: list[dict[str, Any]]) -> str:
    """Return the state of a study that is not analyzed as it is; else how far its results got.

    That is `delivering`, `confirming` (all arrived, and an archive is still to say that it has them),
    `undeliverable`, `cancelled` (what was not sent is taken back), or `done`.
    """
    if state != ANALYZED:
        return state
    states = {one["state"] for one in deliveries}
    if PENDING in states:
        return "delivering"
    if any(one["state"] == DELIVERED and one["due_at"] is not None for one in deliveries):
        return "confirming"
    if UNDELIVERABLE in states:
        return "undeliverable"
    is_cancelled = any(one["state"] == WITHDRAWN and one["detail"] == CANCELLED for one in deliveries)
    return CANCELLED if is_cancelled else "done"


def _heaviest(by_weight: tuple[Outcome | Priority, ...], values: list[str]) -> str:
    return next((str(value) for value in by_weight if str(value) in values), "")
