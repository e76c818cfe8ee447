"""`sightline studies`: what happened to a study, step by step; read it again, or no more."""

from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from typing import Annotated

import typer

from node.account import describe_study
from node.cli.output import AsJson, ConfigurationFile, Progression, print_json, print_table, say
from node.config import load
from node.disk import locked
from node.domain.findings import Doubt, Presence
from node.errors import StoreError
from node.index import Index, Json, open_index
from node.parts import opened_index
from node.receiver import build_storage
from node.reindex import reindex
from node.retention import Leaver, Retention
from node.telemetry import configure_logging

app = typer.Typer(help="What happened to each study; read one again, or no more.", no_args_is_help=True)
StudyUid = Annotated[str, typer.Argument(metavar="UID", help="The Study Instance UID.")]


def _known(index: Index, uid: str) -> Json:
    study = describe_study(index, uid)
    if study is None:
        raise StoreError(uid, "no such study was received")
    return study


@app.command("list")
def list_studies(
    config: ConfigurationFile = None,
    as_json: AsJson = False,
    limit: Annotated[int, typer.Option(min=1, help="How many studies at most.")] = 1000,
) -> None:
    """List the studies, the most recent first: outcome, priority and where they stand."""
    with opened_index(load(config)) as index:
        studies = [_known(index, uid) for uid in index.study_uids(limit)]
    if as_json:
        print_json({"studies": studies})
        return
    columns = ("received", "study", "state", "outcome", "priority", "top finding", "reason")
    print_table(columns, [_row(study) for study in studies])


def _row(study: Json) -> list[str]:
    received = datetime.fromtimestamp(study["received_at"], UTC).strftime("%Y-%m-%d %H:%M:%S")
    top = top_finding([score for run in study["runs"] for score in run["scores"]])
    names = ("study_instance_uid", "state", "outcome", "priority")
    return [received, *(study[name] for name in names), top, study["reason"]]


def top_finding(scores: list[Json]) -> str:
    """Return the most probable score that is present, or else uncertain, or else absent.

    In words: what, how probable (%), and the interval. Of an image unlike the model's own the figures mean
    nothing, so that alone is said.
    """
    if not scores:
        return ""
    score = max(
        scores,
        key=lambda one: (one["presence"] != Presence.ABSENT, not one["is_uncertain"], one["probability"]),
    )
    if Doubt.FOREIGN_IMAGE in score["doubts"]:
        return f"uncertain: {Doubt.FOREIGN_IMAGE}"
    low, high = (100 * bound for bound in score["interval"])
    doubt = ", uncertain" if score["is_uncertain"] else ""
    return f"{score['name']} {100 * score['probability']:.0f} % ({low:.0f}–{high:.0f} %{doubt})"


@app.command("show")
def show_study(uid: StudyUid, config: ConfigurationFile = None, as_json: AsJson = False) -> None:
    """Show one study: evidence, runs, scores, objects, deliveries, and every step with its time."""
    with opened_index(load(config)) as index:
        study = _known(index, uid)
        events = index.events(uid)
    if as_json:
        print_json(study | {"events": events})
        return
    for name in ("study_instance_uid", "state", "outcome", "reason", "priority"):
        say(f"{name:20} {study[name]}")
    say(f"{'evidence':20} {study['evidence']} {study['evidence_figures']}".rstrip())
    for run in study["runs"]:
        say(f"\n{run['pipeline']}: {run['outcome']} {run['reason']}".rstrip())
        if run["out_of_distribution"]:
            say(
                "out-of-distribution score {score:g}, threshold {threshold:g}".format(
                    **run["out_of_distribution"]
                )
            )
        print_table(("finding", "says", "probability", "why"), [_score_row(score) for score in run["scores"]])
        if run["regions"]:
            print_table(
                ("region", "is", "says", "probability", "where"), list(map(_region_row, run["regions"]))
            )
        print_table(
            ("object", "delivered to", "confirmed by", "file"), [_object_row(item) for item in run["objects"]]
        )
        if said := [_feedback_row(item, one) for item in run["objects"] for one in item["feedback"]]:
            print_table(("feedback", "on", "finding", "author", "received"), said)
        for item in run["quarantined"]:
            say(f"quarantined {item['kind']} {item['path']}: {'; '.join(item['violations'])}")
        if run["supersedes"]:
            say(f"supersedes {', '.join(run['supersedes'])}")
    _say_deliveries(study)
    say("")
    print_table(("time", "event", "what"), [_event_row(event) for event in events])


def _say_deliveries(study: Json) -> None:
    for one in study["undelivered"]:
        say(f"{one['state']} to {one['destination']}: {one['detail']}")
    for one in study["unconfirmed"]:
        say(f"delivered to {one['destination']}, not confirmed: {one['detail']}")


def _score_row(score: Json) -> list[str]:
    return [score["name"], score["presence"], _probability(score), "; ".join(score["doubts"])]


def _probability(score: Json | None) -> str:
    if score is None:
        return ""
    low, high = (100 * bound for bound in score["interval"])
    return f"{100 * score['probability']:.0f} % ({low:.0f}–{high:.0f} %)"


def _region_row(region: Json) -> list[str]:
    frame = f" frame {region['frame_number']}" if region["frame_number"] else ""
    where = f"{region['site']} {region['laterality']}".strip()
    place = f"{where} {region['sop_instance_uid']}{frame}".strip()
    return [region["identifier"], region["name"], region["presence"], _probability(region["score"]), place]


def _object_row(item: Json) -> list[str]:
    return [item["kind"], ", ".join(item["delivered_to"]), ", ".join(item["confirmed_by"]), item["path"]]


def _feedback_row(item: Json, said: Json) -> list[str]:
    received = datetime.fromtimestamp(said["received_at"], UTC).strftime("%Y-%m-%d %H:%M:%S")
    return [said["verdict"], item["kind"], said["finding"], said["author"], received]


def _event_row(event: Json) -> list[str]:
    at = datetime.fromtimestamp(event["at"], UTC).strftime("%H:%M:%S.%f")[:-3]
    return [at, event["event"], ", ".join(f"{name} {value}" for name, value in event["fields"].items())]


@app.command("purge")
def purge_studies(
    config: ConfigurationFile = None,
    is_trial: Annotated[
        bool, typer.Option("--dry-run", help="Only say what [retention] would remove for its age.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Remove finished studies and their results as [retention] says; a running node does so by itself."""
    configuration = load(config)
    configure_logging("warning")
    with opened_index(configuration) as index:
        retention = Retention(
            index, build_storage(configuration.data, configuration.receive), configuration.retention
        )
        found = [_leaver_row(one) for one in (retention.due() if is_trial else retention.purge())]
        kept = [_leaver_row(one) for one in retention.kept()]
    if as_json:
        print_json({"purged": [] if is_trial else found, "due": found if is_trial else [], "kept": kept})
        return
    print_table(("finished", "study", "outcome", "why"), [list(row.values()) for row in found])
    say(f"{len(found)} {'would be ' if is_trial else ''}removed")
    if kept:
        say(f"{len(kept)} as old stay: their senders were told that the node keeps them (keeps_committed)")


def _leaver_row(leaver: Leaver) -> dict[str, str]:
    finished = datetime.fromtimestamp(leaver.study.finished_at, UTC).strftime("%Y-%m-%d %H:%M:%S")
    return {
        "finished_at": finished,
        "study_instance_uid": leaver.study.study_instance_uid,
        "outcome": leaver.outcome,
        "reason": leaver.reason,
    }


@app.command("reindex")
def reindex_studies(config: ConfigurationFile = None, as_json: AsJson = False) -> None:
    """Rebuild the index from the spool: add what it lacks, drop what is gone. The node must not run."""
    configuration = load(config)
    configure_logging("warning")
    if not configuration.data.is_dir():
        raise StoreError(str(configuration.data), "no node has worked in this data folder")
    with (
        locked(configuration.data),
        closing(open_index(configuration.data)) as index,
        Progression("Reading the spool", 1) as bar,
    ):
        found = reindex(
            index, build_storage(configuration.data, configuration.receive), partial(bar.within, what="files")
        )
    if as_json:
        print_json(asdict(found))
        return
    say(f"{found.instances} instances in the spool, {found.added} of them were not in the index")
    say(f"{found.runs_added} runs were not in the index")
    say(f"{found.missing} instances of the index had no file, and are dropped")
    if found.unreadable:
        say(f"{found.unreadable} files are no instances, see the log")


@app.command("cancel")
def cancel_study(uid: StudyUid, config: ConfigurationFile = None) -> None:
    """Have no more done about a study: what waits is not read, what was not sent is not delivered.

    Instances that still come are stored and change nothing; `retry` has the study read after all.
    """
    with opened_index(load(config)) as index:
        withdrawn = index.cancel_study(uid)
        if withdrawn is None:
            raise StoreError(uid, "no such study was received")
    say(f"{uid} is cancelled; deliveries taken back: {withdrawn}")


@app.command("retry")
def retry_study(uid: StudyUid, config: ConfigurationFile = None) -> None:
    """Have a study planned, read and delivered again; the running node, or the next one, takes it up."""
    with opened_index(load(config)) as index:
        if not index.reopen_study(uid):
            raise StoreError(uid, "no such study was received")
    say(f"{uid} will be read again")
