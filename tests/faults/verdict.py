"""What must hold at the end of a run: every promise that was made to a sender, and each result once."""

import hashlib
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from node.account import describe_study
from node.header import read_file_meta
from node.index import Index
from node.storage import Storage, Watermark
from tests.faults.scene import Scene, opened

OUTCOMES = frozenset({"findings", "no_findings", "not_eligible", "failed"})
KINDS = ("findings_sr", "summary_sr")
ORPHANS_S = 10.0


def find_problems(scene: Scene) -> list[str]:
    """Return what does not hold, in words."""
    problems = [*scene.problems, *_lost(scene)]
    with opened(scene.node) as index:
        for study in scene.studies:
            told = describe_study(index, study.uid)
            if told is None:
                problems.append(f"{study.uid} is unknown")
                continue
            images = len(study.paths)
            found = [*_unexplained(index, told, images), *_misdelivered(scene, index, told)]
            problems += [f"{study.uid}: {one}" for one in found]
    return [*problems, *_leftovers(scene)]


def _lost(scene: Scene) -> Iterator[str]:
    """Yield what was answered 0x0000 and is not in the spool byte by byte."""
    storage = Storage(scene.node.folder / "data", Watermark(100, 0))
    kept = Counter(_dataset_sha256(one.path) for one in storage.instances())
    for path in sorted(set().union(*(sender.acknowledged for sender in scene.senders))):
        if not kept[_dataset_sha256(path)]:
            yield f"{path.parent.name}/{path.name} was acknowledged and is lost"
    yield from (f"{count} copies of one data set in the spool" for count in kept.values() if count > 1)


def _dataset_sha256(path: Path) -> str:
    with path.open("rb") as file:
        read_file_meta(file)
        return hashlib.sha256(file.read()).hexdigest()


def _unexplained(index: Index, told: dict[str, Any], images: int) -> Iterator[str]:
    """Yield where a study has not exactly one outcome, of all its images."""
    if told["state"] != "done":
        yield f"is {told['state']}: {told['undelivered']}"
    if told["unconfirmed"]:
        yield f"unconfirmed: {told['unconfirmed']}"
    if told["outcome"] not in OUTCOMES or not told["evidence"]:
        yield f"ended as {told['outcome']!r} on the evidence {told['evidence']!r}"
    if told["outcome"] == "failed":
        yield f"failed: {told['reason']}"
    known = len(index.instances(told["study_instance_uid"]))
    assembled = [one["fields"] for one in index.events(told["study_instance_uid"]) if _is_assembly(one)]
    if known != images or not assembled or assembled[-1]["instances"] != images:
        yield f"{images} images, of which {known} are known; assembled {assembled}"


def _is_assembly(event: dict[str, Any]) -> bool:
    return bool(event["event"] == "study_assembled")


def _misdelivered(scene: Scene, index: Index, told: dict[str, Any]) -> Iterator[str]:
    """Yield results that the archive lacks, and what is there without being a result."""
    there = set(scene.archive.instances(told["study_instance_uid"]))
    expected: set[str] = set()
    for run in told["runs"]:
        kinds = sorted(item["kind"] for item in run["objects"])
        if kinds != sorted(KINDS):
            yield f"a run has {kinds}"
        expected |= {item["sop_instance_uid"] for item in run["objects"]}
    yield from (f"the archive lacks {uid}" for uid in sorted(expected - there))
    # What an earlier reading gave, of fewer images, is there rightly: it is known as a result.
    strangers = there - expected - index.result_paths(there).keys()
    yield from (f"the archive has {uid}, which is no result" for uid in sorted(strangers))


def _leftovers(scene: Scene) -> Iterator[str]:
    """Yield processes of dead nodes, and files that nobody finished."""
    deadline = time.monotonic() + ORPHANS_S
    while (orphans := scene.node.orphans()) and time.monotonic() < deadline:
        time.sleep(0.1)
    if orphans:
        yield f"{len(orphans)} processes of a dead node live on"
