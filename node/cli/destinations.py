"""`sightline destinations`: what waits for each archive; pause it, let it go on, try again."""

import time
from datetime import UTC, datetime
from typing import Annotated

import typer

from node.cli.output import AsJson, ConfigurationFile, print_json, print_table, say
from node.config import load
from node.domain.problems import did_you_mean
from node.errors import StoreError
from node.index import DELIVERY_STATES, PENDING, Index, Json
from node.parts import opened_index
from node.settings import Configuration, DestinationSettings

app = typer.Typer(
    help="What waits for each archive; pause it, let it go on, try again.", no_args_is_help=True
)
Name = Annotated[str, typer.Argument(metavar="NAME", help="The destination's name in the configuration.")]
Uids = Annotated[
    list[str] | None,
    typer.Argument(metavar="[UID]...", help="SOP or Study Instance UIDs; without any, all given up."),
]


def describe_destination(index: Index, name: str, settings: DestinationSettings) -> Json:
    """Return one destination of the contract: its address, whether it takes anything, and what waits."""
    line = index.line(name)
    counts = index.delivery_counts().get(name, {})
    oldest = index.oldest_unconfirmed().get(name)
    waits_s = max(0.0, round(line["blocked_until"] - time.time(), 1))
    return {
        "name": name,
        "address": settings.url or f"{settings.ae_title}@{settings.host}:{settings.port}",
        "confirm": settings.confirm,
        "state": "paused" if line["is_paused"] else "waiting" if waits_s and counts.get(PENDING) else "open",
        "deliveries": {state: counts.get(state, 0) for state in DELIVERY_STATES},
        "oldest_unconfirmed_s": None if oldest is None else max(0.0, round(time.time() - oldest, 1)),
        "failures": line["failures"],
        "retry_in_s": waits_s,
        "last_error": line["last_error"],
        "last_success_at": line["last_success_at"],
    }


def _settings(configuration: Configuration, name: str) -> DestinationSettings:
    if name not in configuration.destinations:
        names = tuple(configuration.destinations)
        raise StoreError(name, "the configuration has no such destination" + did_you_mean(name, names))
    return configuration.destinations[name]


@app.command("list")
def list_destinations(config: ConfigurationFile = None, as_json: AsJson = False) -> None:
    """List the destinations: how many objects are in which state, and what keeps them."""
    configuration = load(config)
    with opened_index(configuration) as index:
        entries = configuration.destinations.items()
        described = [describe_destination(index, name, entry) for name, entry in entries]
    if as_json:
        print_json({"destinations": described})
        return
    columns = ("destination", "address", "state", *DELIVERY_STATES, "oldest", "last error")
    print_table(columns, [_row(one) for one in described])


def _row(one: Json) -> list[str]:
    oldest = one["oldest_unconfirmed_s"]
    numbers = [str(one["deliveries"][state]) for state in DELIVERY_STATES]
    age = "" if oldest is None else f"{oldest:.0f} s"
    return [one["name"], one["address"], one["state"], *numbers, age, one["last_error"]]


@app.command("show")
def show_destination(name: Name, config: ConfigurationFile = None, as_json: AsJson = False) -> None:
    """Show one destination: how it stands, and each object that it has not got, or not confirmed."""
    configuration = load(config)
    with opened_index(configuration) as index:
        described = describe_destination(index, name, _settings(configuration, name))
        objects = [_describe_object(row) for row in index.unfinished_deliveries(name)]
    if as_json:
        print_json(described | {"objects": objects})
        return
    for key in ("name", "address", "confirm", "state", "failures", "retry_in_s", "last_error"):
        say(f"{key:12} {described[key]}")
    for state, number in described["deliveries"].items():
        say(f"{state:12} {number}")
    columns = ("queued", "state", "attempts", "priority", "kind", "object", "study", "why")
    keys = ("state", "attempts", "priority", "kind", "sop_instance_uid", "study_instance_uid", "detail")
    rows = [[_time(one["queued_at"]), *(str(one[key]) for key in keys)] for one in objects]
    print_table(columns, rows)


def _describe_object(row: Json) -> Json:
    keys = ("sop_instance_uid", "study_instance_uid", "kind", "priority", "state", "attempts", "detail")
    return {key: row[key] for key in (*keys, "queued_at", "due_at")}


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")


@app.command("pause")
def pause_destination(name: Name, config: ConfigurationFile = None) -> None:
    """Send nothing to a destination until `resume`; what is under way is finished, and all else waits."""
    _set_paused(name, config, is_paused=True)
    say(f"{name} is paused")


@app.command("resume")
def resume_destination(name: Name, config: ConfigurationFile = None) -> None:
    """Send to a destination again, at once."""
    _set_paused(name, config, is_paused=False)
    say(f"{name} is sent to again")


def _set_paused(name: str, config: ConfigurationFile, *, is_paused: bool) -> None:
    configuration = load(config)
    _settings(configuration, name)
    with opened_index(configuration) as index:
        index.record_line(name, is_paused=is_paused, blocked_until=0.0)


@app.command("retry")
def retry_destination(name: Name, uids: Uids = None, config: ConfigurationFile = None) -> None:
    """Try again now what was given up, and what waits for its next try.

    With UIDs only these; of what arrived and is not confirmed, the archive is then asked again.
    """
    configuration = load(config)
    _settings(configuration, name)
    with opened_index(configuration) as index:
        count = index.retry_deliveries(name, uids or ())
    say(f"{name}: {count} objects are tried again")
