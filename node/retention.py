"""What has been finished with leaves: by age and outcome, and when the disk fills up.

The files go first, and then the rows of the index: cut off in the middle, the study is still known, and the
next round goes on.
"""

import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from node.account import OUTCOMES_BY_WEIGHT
from node.disk import disk_errors, sync_folder
from node.index import FinishedStudy, Index
from node.settings import RetentionSettings
from node.storage import Storage
from node.telemetry import Metrics

log = structlog.get_logger()

DAY_S = 86_400
AGE, DISK, RESUMED = "age", "disk", "resumed"
# What is still in the journal would come back with the next crash; there it is for minutes.
SETTLED_S = 3600
# Something may come in for a study that is being removed; what is left then goes with the next round.
TRIES = 3


@dataclass(frozen=True, slots=True)
class Leaver:
    """A study that is to leave, and why."""

    study: FinishedStudy
    outcome: str
    reason: str


class Retention:
    """Removes what the rules say; several processes may do it at once."""

    def __init__(
        self, index: Index, storage: Storage, rules: RetentionSettings, metrics: Metrics | None = None
    ) -> None:
        self._index = index
        self._storage = storage
        self._rules = rules
        self._metrics = metrics

    def due(self) -> list[Leaver]:
        """Return the studies whose time is over and that may leave, the longest finished first."""
        return [one for one in self._overdue() if self._may_leave(one.study)]

    def kept(self) -> list[Leaver]:
        """Return the studies whose time is over, and that stay: senders were told that they are kept."""
        return [one for one in self._overdue() if not self._may_leave(one.study)]

    def _overdue(self) -> list[Leaver]:
        days = [days for days in (self._rules.days, *self._rules.days_by_outcome.values()) if days]
        before = time.time() - min(days) * DAY_S if days else 0.0
        found = [_leaver(study) for study in self._index.finished_studies(before=before)]
        return [one for one in found if one.reason == RESUMED or self._is_over(one)]

    def purge(self) -> Iterator[Leaver]:
        """Remove what is due, and then what has to leave for the disk's sake; yield each that has left."""
        yield from filter(self._remove, self._leavers())

    def _leavers(self) -> Iterator[Leaver]:
        yield from self.due()
        if not self._rules.frees_disk or not self._storage.is_nearly_full():
            return
        for study in self._index.finished_studies():
            if not self._storage.is_nearly_full():
                return
            if study.has_left and _is_settled(study) and self._may_leave(study):
                leaver = _leaver(study)
                yield Leaver(study, leaver.outcome, DISK)

    def _may_leave(self, study: FinishedStudy) -> bool:
        """May it, for all that was promised (PS3.4 J.1: the provider says how long it keeps)?"""
        return study.is_being_purged or not (study.is_promised and self._rules.keeps_committed)

    def _is_over(self, leaver: Leaver) -> bool:
        # A study without an outcome, as it was cancelled, has the days of all.
        days = self._rules.days_by_outcome.get(leaver.outcome, self._rules.days)
        is_over = days > 0 and time.time() - leaver.study.finished_at > days * DAY_S
        return is_over and _is_settled(leaver.study)

    def _remove(self, leaver: Leaver) -> bool:
        uid = leaver.study.study_instance_uid
        if not self._index.begin_purge(leaver.study):
            return False
        count = 0
        for _ in range(TRIES):
            paths, run_ids = self._index.belongings(uid)
            count += len(paths)
            with disk_errors():
                self._remove_instances(paths)
                self._remove_runs(run_ids)
            if self._index.forget_study(uid):
                break
        else:
            return False
        if not count and self._index.study(uid):  # it was opened again before anything was removed
            return False
        log.info(
            "study_purged",
            study_instance_uid=uid,
            reason=leaver.reason,
            outcome=leaver.outcome,
            instances=count,
        )
        if self._metrics:
            self._metrics.studies_purged.labels(leaver.reason).inc()
        return True

    def _remove_instances(self, paths: Sequence[Path]) -> None:
        """Delete these files and no others, and then the folders that nothing is left in.

        A sender whose instance comes just when its folder goes is told "out of resources", and sends again.
        """
        inside = [path for path in paths if path.is_relative_to(self._storage.instances_folder)]
        for path in inside:
            path.unlink(missing_ok=True)
        for folder in {path.parent for path in inside}:
            self._remove_empty(folder)
        for folder in {path.parent.parent for path in inside}:
            self._remove_empty(folder)

    def _remove_empty(self, folder: Path) -> None:
        with suppress(FileNotFoundError):
            sync_folder(folder, sync=self._storage.sync)
            with suppress(OSError):  # something is left in it
                folder.rmdir()
            sync_folder(folder.parent, sync=self._storage.sync)

    def _remove_runs(self, run_ids: Sequence[str]) -> None:
        runs = self._storage.runs_folder
        for run_id in run_ids:
            folder = runs / run_id
            if folder.parent == runs and folder.is_dir() and not folder.is_symlink():
                shutil.rmtree(folder)
        sync_folder(runs, sync=self._storage.sync)


class Caretaker:
    """Has what is due removed every few minutes, from a thread of its own."""

    def __init__(self, retention: Retention, interval_s: float) -> None:
        self._retention = retention
        self._interval_s = interval_s
        self._is_stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="retention", daemon=True)

    def start(self) -> None:
        """Begin at once: something may have been cut off in the middle."""
        self._thread.start()

    def stop(self) -> None:
        """Finish the study under way, and no other."""
        self._is_stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        while not self._is_stopping.is_set():
            try:
                for _ in self._retention.purge():
                    if self._is_stopping.is_set():
                        return
            except Exception:  # the next round may do better
                log.exception("retention_round_failed")
            self._is_stopping.wait(self._interval_s)


def _is_settled(study: FinishedStudy) -> bool:
    return time.time() - study.finished_at > SETTLED_S


def _leaver(study: FinishedStudy) -> Leaver:
    outcome = next((str(one) for one in OUTCOMES_BY_WEIGHT if one in study.outcomes), "")
    return Leaver(study, outcome, RESUMED if study.is_being_purged else AGE)
