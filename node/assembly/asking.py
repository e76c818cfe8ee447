"""Asks an archive how many instances studies have: in a thread of its own, seldom, and patiently."""

import threading
import time
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from typing import Protocol

import structlog

from node.assembly.evidence import Answer
from node.errors import SightlineError
from node.index import Index

AGAIN_S = 0.5
"""So long after a question the same one is not asked again, …"""
LONGEST_AGAIN_S = 5.0
"""… and twice as long each time that nothing was new, up to this."""
PAUSE_S = 0.05
"""Between any two questions: at most 20 in a second, however many studies are open."""
FIRST_BACK_OFF_S, LONGEST_BACK_OFF_S = 2.0, 60.0
STOP_S = 1.0

log = structlog.get_logger()


class Archive(Protocol):
    """Who can be asked; both questions may take their time, and raise SightlineError."""

    @property
    def name(self) -> str:
        """The name in the configuration."""

    def count_by_series(self, study_instance_uid: str) -> Mapping[str, int]:
        """Return how many instances each series has; nothing where the archive does not say."""

    def count_instances(self, study_instance_uid: str) -> int | None:
        """Return how many instances the study has; None where the archive does not say."""


@dataclass(slots=True)
class _Question:
    """One study that is waited for."""

    next_at: float = 0.0
    again_s: float = AGAIN_S
    answer: Answer | None = None


@dataclass(slots=True)
class _Silence:
    """How long an archive that failed is left in peace."""

    until: float = 0.0
    next_s: float = FIRST_BACK_OFF_S
    reason: str = ""


class Asker:
    """Keeps the last answer for each study that is asked after.

    Our own results, which the archive counts as well, are taken off by what the index knows of them.
    `on_answer` is called from the thread that asks.
    """

    def __init__(self, archive: Archive, index: Index, on_answer: Callable[[], None]) -> None:
        self._archive = archive
        self._index = index
        self._on_answer = on_answer
        self._questions: dict[str, _Question] = {}
        self._silence = _Silence()
        self._not_before = 0.0
        self._changed = threading.Condition()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._work, name="asker", daemon=True)

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def stop(self) -> None:
        """Ask no more; a question under way is left alone."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(STOP_S)

    def ask(self, study_instance_uid: str, since: float) -> Answer | None:
        """Return the last answer, and see to it that there will be one later than `since`; None before any.

        Of an archive that failed when it was asked last, it is the answer that says nothing.
        """
        with self._changed:
            question = self._questions.setdefault(study_instance_uid, _Question())
            if question.answer is None or question.answer.asked_at < since:
                question.next_at = min(question.next_at, time.time() + AGAIN_S)
                question.again_s = AGAIN_S
            self._changed.notify()
            if self._silence.reason:
                return Answer(self._archive.name, None, time.time(), is_steady=False)
            return question.answer

    def forget(self, study_instance_uids: Set[str]) -> None:
        """Ask no more after all studies but these."""
        with self._changed:
            for uid in self._questions.keys() - study_instance_uids:
                del self._questions[uid]

    def _work(self) -> None:
        while (uid := self._next()) is not None:
            asked_at = time.time()
            try:
                self._note(uid, self._count(uid), asked_at)
            except SightlineError as fault:
                self._fall_silent(str(fault))
            except Exception:  # the thread must outlive what an archive sends, which may break a library
                log.exception("asking_failed")
                self._fall_silent("asking failed")

    def _next(self) -> str | None:
        """Return the study to ask after, once its time has come; None at the end."""
        with self._changed:
            while not self._is_stopping:
                due = min(((one.next_at, uid) for uid, one in self._questions.items()), default=None)
                if due is None:
                    self._changed.wait()
                    continue
                wait_s = max(due[0], self._silence.until, self._not_before) - time.time()
                if wait_s <= 0:
                    self._not_before = time.time() + PAUSE_S
                    return due[1]
                self._changed.wait(wait_s)
        return None

    def _count(self, study_instance_uid: str) -> int | None:
        """Return how many instances that are no results of ours the archive says there are."""
        if counts := self._archive.count_by_series(study_instance_uid):
            results = self._index.result_series(counts.keys())
            return sum(count for uid, count in counts.items() if uid not in results)
        # One number for all would count our results too, nobody knows how many of them.
        if self._index.has_results(study_instance_uid):
            return None
        return self._archive.count_instances(study_instance_uid)

    def _note(self, study_instance_uid: str, count: int | None, asked_at: float) -> None:
        with self._changed:
            if self._silence.reason:
                log.info("archive_answered", archive=self._archive.name)
            self._silence = _Silence()
            question = self._questions.get(study_instance_uid)
            if question is None:
                return
            before = question.answer
            is_steady = before is not None and before.count == count
            question.answer = Answer(self._archive.name, count, asked_at, is_steady)
            question.next_at = time.time() + question.again_s
            question.again_s = min(LONGEST_AGAIN_S, 2 * question.again_s) if is_steady else AGAIN_S
        if not is_steady:
            fields = {"count": count, "archive": self._archive.name}
            log.info("count_answered", study_instance_uid=study_instance_uid, **fields)
            self._index.record_event(study_instance_uid, "count_answered", fields)
        self._on_answer()

    def _fall_silent(self, reason: str) -> None:
        """Leave an archive in peace that did not answer; what is told of it stays out of the studies."""
        with self._changed:
            seconds = self._silence.next_s
            self._silence = _Silence(time.time() + seconds, min(LONGEST_BACK_OFF_S, 2 * seconds), reason)
        log.warning("archive_silent", archive=self._archive.name, reason=reason, retry_in_s=seconds)
