"""The commands over what waits for each archive, while a node works in the same data folder."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from node.account import describe_study
from node.checks import Check, check_reports
from node.cli import app
from node.config import check_configuration
from node.deliver.outbox import Outlet
from node.domain.delivery import Receipt, Reception
from node.errors import StoreError
from node.index import CONFIRMED, DELIVERED, PENDING, UNDELIVERABLE, WITHDRAWN
from tests.destinations import FakeDestination
from tests.posts import STUDY, Post

REFUSED = Receipt(Reception.REFUSED, "no such class")


@pytest.fixture
def post(tmp_path: Path) -> Iterator[Post]:
    folder = tmp_path / "data"
    folder.mkdir()
    (tmp_path / "sightline.toml").write_text(
        f"""
        data = "{folder}"
        [destinations.pacs]
        host = "10.1.0.9"
        port = 104
        ae_title = "PACS"
        """
    )
    post = Post(folder)
    yield post
    post.close()
    post.index.close()


def sightline(post: Post, *words: str) -> str:
    """Run a command in this process; return what it prints."""
    configuration = str(post.folder.parent / "sightline.toml")
    return CliRunner().invoke(app, [*words, "-c", configuration], catch_exceptions=False).stdout


def shown(post: Post) -> dict[str, Any]:
    return json.loads(sightline(post, "destinations", "show", "pacs", "--json"))


def test_a_destination_is_shown_with_what_it_has_not_got(post: Post) -> None:
    post.add("r1", "1.1", "1.2", "1.3")
    post.index.record_delivery(["1.1"], "pacs", CONFIRMED, "committed")
    post.index.record_delivery(["1.2"], "pacs", UNDELIVERABLE, "no such class")

    (listed,) = json.loads(sightline(post, "destinations", "list", "--json"))["destinations"]
    text = sightline(post, "destinations", "list") + sightline(post, "destinations", "show", "pacs")

    assert listed["address"] == "PACS@10.1.0.9:104"
    states = {CONFIRMED: 1, UNDELIVERABLE: 1, PENDING: 1, DELIVERED: 0, WITHDRAWN: 0}
    assert listed["deliveries"] == states
    assert {one["sop_instance_uid"]: one["detail"] for one in shown(post)["objects"]} == {
        "1.2": "no such class",
        "1.3": "",
    }
    assert "PACS@10.1.0.9:104" in text
    assert "no such class" in text


def test_a_destination_can_be_paused_and_let_go_on(post: Post) -> None:
    destination = FakeDestination()
    post.open({"pacs": Outlet(destination, 3)})

    sightline(post, "destinations", "pause", "pacs")
    post.add("r1", "1.1")
    post.outbox.wake()
    before = shown(post)
    sightline(post, "destinations", "resume", "pacs")

    post.wait_for({"1.1": DELIVERED})
    assert (before["state"], before["deliveries"][PENDING]) == ("paused", 1)
    assert shown(post)["state"] == "open"


def test_what_was_given_up_is_tried_again_on_command(post: Post) -> None:
    post.add("r1", "1.1", "1.2")
    post.open({"pacs": Outlet(FakeDestination(receipts=[REFUSED]), 3)})
    post.wait_for({"1.1": UNDELIVERABLE, "1.2": UNDELIVERABLE})

    told = sightline(post, "destinations", "retry", "pacs", "1.2")

    assert told == "pacs: 1 objects are tried again\n"
    post.wait_for({"1.1": UNDELIVERABLE, "1.2": DELIVERED})


def test_a_cancelled_study_is_not_delivered(post: Post) -> None:
    post.receive()
    post.add("r1", "1.1", "1.2")
    post.index.record_delivery(["1.1"], "pacs", DELIVERED)

    told = sightline(post, "studies", "cancel", STUDY)

    assert told == f"{STUDY} is cancelled; deliveries taken back: 1\n"
    assert post.states() == {"1.1": DELIVERED, "1.2": WITHDRAWN}
    study = describe_study(post.index, STUDY)
    assert study["state"] == "cancelled"
    assert post.index.events(STUDY)[-1] | {"at": 0} == {
        "at": 0,
        "event": "study_cancelled",
        "fields": {"withdrawn": 1},
    }


@pytest.mark.parametrize(
    "words",
    [("destinations", "pause", "pcas"), ("destinations", "show", "pcas"), ("studies", "cancel", "9.9")],
)
def test_what_is_not_there_is_said_in_words(post: Post, words: tuple[str, ...]) -> None:
    with pytest.raises(StoreError, match=r"pcas: .*did you mean .*pacs|9\.9: no such study"):
        sightline(post, *words)


@pytest.mark.parametrize(
    ("receive", "destination", "problem"),
    [
        ({}, {}, "receive.allow_hosts keeps the archive's reports out: add 10.1.0.9"),
        ({"allow_hosts": ["10.1.0.0/16"]}, {}, ""),
        ({"allow_hosts": ["10.1.0.0/16"]}, {"calling_ae_title": "OTHER"}, "the archive reports to OTHER"),
        ({}, {"confirm": "query"}, None),
    ],
)
def test_reports_that_would_be_kept_out_are_told_by_check(
    receive: dict[str, Any], destination: dict[str, Any], problem: str | None
) -> None:
    address = {"host": "10.1.0.9", "port": 104, "ae_title": "PACS"}
    configuration = check_configuration({"receive": receive, "destinations": {"pacs": address | destination}})

    (found,) = [
        *check_reports("pacs", configuration),
        *([Check("none", "")] if problem is None else []),
    ]

    assert found.problem.startswith(problem or "")
    assert bool(found.problem) is bool(problem)
