"""The index made to agree with the spool, which is the truth."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

import structlog

from node.account import describe_object
from node.domain.study import Instance
from node.errors import StoreError
from node.feedback import read_feedback
from node.index import Index
from node.results import MANIFEST, ResultObject, load_objects
from node.storage import Storage

log = structlog.get_logger()

Progress = Callable[[int, int], object]


@dataclass(frozen=True, slots=True)
class Reindexed:
    """What was found: in the spool, of that unknown to the index or no instance, and rows without file."""

    instances: int
    added: int
    unreadable: int
    runs_added: int
    missing: int


def record_instances(
    index: Index, instances: Sequence[Instance], received_at: float | None = None
) -> Counter[str]:
    """Note what instances say of our results, then the instances: a crash loses neither.

    Returns the verdicts that are new.
    """
    verdicts: Counter[str] = Counter()
    for instance in instances:
        feedback = read_feedback(instance, index.result_paths)
        if feedback and index.record_feedback(instance, feedback, received_at):
            verdicts.update(one.verdict.value for one in feedback)
            uid = instance.sop_instance_uid
            log.info("feedback_received", sop_instance_uid=uid, verdicts=len(feedback))
    index.record_instances(instances, received_at)
    return verdicts


def add_unknown(index: Index, storage: Storage, progress: Progress = lambda _done, _total: None) -> Reindexed:
    """Give the index what the spool has and it has not, in the order of arrival; rows stay as they are."""
    runs_added = _add_objects(index, storage)
    known, there = index.paths(), storage.instance_paths()
    unknown = there - known
    arrivals = list(_arrivals(storage, unknown, progress))
    # In the order of their arrival: a revision takes the place of what came before it.
    for received_at, instance in sorted(arrivals, key=itemgetter(0)):
        record_instances(index, [instance], received_at)
        log.info("instance_reindexed", sop_instance_uid=instance.sop_instance_uid)
    missing = len(known - there)
    if missing:
        log.warning("spool_files_missing", files=missing)
    return Reindexed(len(there), len(arrivals), len(unknown) - len(arrivals), runs_added, missing)


def reindex(index: Index, storage: Storage, progress: Progress) -> Reindexed:
    """Make the index agree with the spool: what it lacks is added, rows without a file are dropped.

    Raises StoreError where the spool is empty and the index is not: so looks a disk that is not mounted.
    """
    storage.recover()
    known, there = index.paths(), storage.instance_paths()
    if known and not there:
        folder = str(storage.instances_folder)
        raise StoreError(folder, f"empty, expected {len(known)} files: is the disk mounted?")
    found = add_unknown(index, storage, progress)
    index.drop_instances(known - there)
    return found


def _arrivals(
    storage: Storage, paths: Iterable[Path], progress: Progress
) -> Iterator[tuple[float, Instance]]:
    ordered = sorted(paths)
    for done, path in enumerate(ordered, start=1):
        instance = storage.read_whole(path)
        if instance:
            yield path.stat().st_mtime, instance
        progress(done, len(ordered))


def _add_objects(index: Index, storage: Storage) -> int:
    """Have the index know our results again, before any of them comes back or is spoken of."""
    known, added = index.run_ids_with_objects(), 0
    for folder in (one for one in storage.runs_folder.iterdir() if one.name not in known):
        if rows := [describe_object(item) | {"destinations": []} for item in _objects_in(folder)]:
            index.record_objects(folder.name, rows)
            added += 1
    return added


def _objects_in(run_folder: Path) -> list[ResultObject]:
    """Return every object that a run made; none where their list is damaged, which costs this run alone."""
    try:
        folders = [manifest.parent for manifest in run_folder.glob(f"*/{MANIFEST}")]
        return [item for folder in folders for item in load_objects(folder)]
    except (OSError, TypeError, ValueError) as fault:
        log.warning("run_folder_skipped", run_id=run_folder.name, error=type(fault).__name__)
        return []
